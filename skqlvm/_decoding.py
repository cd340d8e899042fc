"""From latent points to rows, under the conditions that a decoder is told."""

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted, check_random_state

from . import _checks, _conditions
from ._rows import random_seed


class Decoding:
    """Mixin of the estimators: draws, decoded points, and what conditions do to them."""

    def sample(self, n_samples=1, random_state=None, *, noise=True, condition=None):
        """Draw from the model: z from the prior, then x from p(x | z).

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
        noise : bool, default=True
            Draw from p(x | z); False gives its mean, a sample without the noise of observation.
        condition : array-like of shape (n_conditions,) or (n_samples, n_conditions), optional
            Of models with `condition_columns`: values of these, of all draws or of each, in the
            order of the columns of X; or a data frame with them. By default groups of conditions
            are drawn as often as they came in the fit.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        _checks.check_integer("n_samples", n_samples)
        _checks.check_flag("noise", noise)
        model, n_samples = self._model, int(n_samples)
        generator = torch.Generator().manual_seed(random_seed(random_state))
        u = torch.rand((n_samples, model.n_components), dtype=torch.float64, generator=generator)
        if condition is None and model.conditions is not None:
            shares = model.conditions.shares.to(generator.device)
            group = torch.multinomial(shares, n_samples, replacement=True, generator=generator)
            beside = (group.numpy(),)
        else:
            beside = self._groups_for(condition, n_samples)

        def drawn(u, group=None):
            return model.sample(u, generator, noise=bool(noise), group=group)

        return self._over_rows(u.numpy(), drawn, beside=beside).astype(self._fit_dtype)

    def condition_effect(self, X, random_state=None, n_permutations=5):
        """Return the nats that a row loses, on average, when conditions are permuted among rows.

        It is 0 of a decoder that ignores them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        random_state : int, RandomState or None, default=None
        n_permutations : int, default=5
            Over which the loss is averaged.

        Returns
        -------
        float
            In nats.
        """
        told = self._conditions().columns
        _checks.check_integer("n_permutations", n_permutations)
        generator, rows = check_random_state(random_state), self._queried(X)

        def score(rows):
            return self.score(rows if self._columns.names is None else self.to_frame(rows))

        before, permuted, lost = score(rows), np.array(rows), []
        for _ in range(int(n_permutations)):
            permuted[:, told] = rows[generator.permutation(len(rows))][:, told]
            lost.append(before - score(permuted))
        return float(np.mean(lost))

    def _decoded(self, Z, z, condition):
        """Means of p(x | z) at points z under a condition, which a user gave as Z."""
        return self._over_rows(
            z, self._model.mean, beside=self._groups_for(condition, len(Z)), name="Z"
        )

    def _conditions(self):
        check_is_fitted(self)
        if self._model.conditions is None:
            raise ValueError(
                "The model expects to be told conditions, but it was fitted with "
                "condition_columns=None. Name some, and fit anew."
            )
        return self._model.conditions

    def _groups_for(self, condition, n_rows):
        """Return a tuple of the groups of so many rows by the conditions that a user asks for.

        It is empty without conditions.
        """
        if self._model.conditions is None and condition is None:
            return ()
        group = _conditions.asked(self._conditions(), self._columns, condition, n_rows)
        return (group.cpu().numpy(),)

    def _with_conditions(self, values, X):
        """Rows with the conditions of the rows of X."""
        if self._model.conditions is not None:
            columns = self._model.conditions.columns
            values[:, columns] = X[:, columns]
        return values

    def _points(self, Z, n_columns, what="inverse_transform"):
        """Return latent points that a user gives as an array of floats."""
        try:
            Z = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        except (TypeError, ValueError) as error:
            message = f"Z expects numbers of shape (n_samples, {n_columns}), but: {error}"
            raise type(error)(message) from error
        if Z.shape[1] != n_columns:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but {what} expects {n_columns}. Give what transform "
                "returns."
            )
        return Z
