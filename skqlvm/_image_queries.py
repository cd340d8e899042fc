"""What can be asked of a hierarchical model of images."""

import copy

import numpy as np
import torch
from sklearn.utils.validation import check_array, check_is_fitted

from . import _checks
from ._rows import random_seed
from ._trained import checked_finite
from .engine.hierarchy.model import elbo, importance
from .engine.hierarchy.noise import Shared

METHODS = {"elbo": elbo, "importance": importance}

_MAPS_HELD = 3
"""Maps of all channels at full resolution that a pass holds at a time."""


class ImageQueries:
    """Mixin of `DVPVAE`."""

    def transform(self, X):
        """Return the latent images of rows, or their contexts, as `output` says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_columns)
            The context, if there is one; and with ``output="means"`` behind it the posterior means
            of the latent images, flattened, in the order of `latent_shapes_`. Each is the mean
            given those of all coarser ones.
        """
        X = self._queried(X)
        if self.output == "context":
            self._check_has_context("output='context'")
            return self._over_images(X, lambda model, x: model.context(x).flatten(1))
        return self._over_images(X, _latents_of)

    def inverse_transform(self, Z):
        """Return the mean of p(x | z) for what `transform` returns.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_columns)
            Contexts and latent images, or with ``output="context"`` contexts alone: then latent
            images are the means of the prior, each given those of all coarser ones.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        Z = self._codes(Z)
        decode = _decoded_context if self.output == "context" else _decoded_latents
        return self._over_images(Z, decode, name="Z")

    def reconstruct(self, X):
        """Return the mean of p(x | z) at the posterior means of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        return self._over_images(self._queried(X), lambda model, x: model.reconstruct(x).flatten(1))

    def sample(self, n_samples=1, random_state=None, *, noise=True, temperature=1.0):
        """Draw from the model: contexts, latent images given them, then rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
        noise : bool, default=True
            Draw from p(x | z); False gives its mean, a sample without the noise of observation.
        temperature : float, default=1.0
            Factor of the standard deviations of contexts and latent images; below 1, samples are
            more typical and less varied.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        _checks.check_flag("noise", noise)

        def draw(n, generator):
            images = self._model.generate(n, generator, float(temperature), noise=bool(noise))
            return images.flatten(1)

        return self._drawn(draw, n_samples, random_state, temperature)

    def sample_context(self, n_samples=1, random_state=None, *, temperature=1.0):
        """Draw contexts from their diffusion prior.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState or None, default=None
        temperature : float, default=1.0
            Factor of all noise.

        Returns
        -------
        ndarray of shape (n_samples, n_context)
            As `transform` gives them with ``output="context"``.

        Raises
        ------
        ValueError
            If the model has no context.
        """
        check_is_fitted(self)
        self._check_has_context("sample_context")

        def draw(n, generator):
            return self._model.generate_context(n, generator, float(temperature)).flatten(1)

        return self._drawn(draw, n_samples, random_state, temperature)

    def score_samples(self, X, method="elbo", n_draws=16, return_std=False):
        """Return a lower bound of the log likelihood of every row, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            With ``binarize=True`` one binary draw of each row is scored, the same in all calls;
            rows of zeros and ones are what they are.
        method : {"elbo", "importance"}, default="elbo"
            "elbo" is the evidence lower bound, in which the diffusion prior counts by its own bound
            in continuous time. "importance" is the log mean of importance weights of whole paths
            from noise to an image, which takes the diffusion model to have `n_diffusion_steps`
            steps: a lower bound in expectation, which rises with the number of draws.
        n_draws : int, default=16
            Draws a row, of the same noise for all rows.
        return_std : bool, default=False
            Also return standard errors over the draws; NaN for one draw.

        Returns
        -------
        nats : ndarray of shape (n_samples,)
        std : ndarray of shape (n_samples,)
            Only if `return_std`.
        """
        X = self._queried(X)
        _checks.check_option("method", method, METHODS)
        _checks.check_integer("n_draws", n_draws)
        estimate = METHODS[method]

        def of_rows(model, x):
            source = Shared(torch.Generator().manual_seed(0))
            x = self._observed(x, source)
            return torch.stack(estimate(model, x, source, int(n_draws)), 1).to(x)

        result = self._over_images(X, of_rows, finite=False)
        checked_finite(result[:, 0])
        return (result[:, 0], result[:, 1]) if return_std else result[:, 0]

    def active_units(self, X, threshold=0.01):
        """Return which numbers of the latent images say something about the rows of X.

        One is active where the variance of its posterior mean over the rows exceeds the threshold
        (Burda et al., arXiv 1509.00519). Contexts are left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        threshold : float, default=0.01

        Returns
        -------
        ndarray of bool of shape (n_units,)
            In the order of `latent_shapes_`, each flattened.
        """
        _checks.check_number("threshold", threshold)
        latents = self._over_images(self._queried(X), _latents_of)[:, self._n_context :]
        return latents.astype(np.float64).var(0) > threshold

    @property
    def _n_context(self):
        context = self._model.context
        return 0 if context is None else int(np.prod(context.context_shape))

    @property
    def _n_features_out(self):
        if self.output == "context":
            return self._n_context
        return self._n_context + sum(map(int, map(np.prod, self.latent_shapes_)))

    def _check_has_context(self, what):
        if self._model.context is None:
            raise ValueError(
                f"{what} expects a model with a context, but it was fitted with context=None. Use "
                "context='dct', and fit anew."
            )

    def _codes(self, Z):
        """Return what a user gives for columns of `transform` as an array of floats."""
        if self.output == "context":
            self._check_has_context("output='context'")
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        if Z.shape[1] != self._n_features_out:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but inverse_transform expects {self._n_features_out}."
                " Give what transform returns."
            )
        return Z

    def _over_images(self, X, function, *, finite=True, name="X"):
        """Apply a function of the model and rows, in the precision of X, some rows at a time.

        Rows of X that are as long as an image come as images.
        """
        model = self._model
        if X.dtype == np.float64:
            model = copy.deepcopy(model).double()
        shape = model.image_shape

        def of_rows(rows):
            return function(model, rows.unflatten(1, shape) if name == "X" else rows)

        return self._over_rows(X, of_rows, self._row_bytes(X.dtype), finite=finite, name=name)

    def _row_bytes(self, dtype):
        _, height, width = self._model.image_shape
        channels = self._model.ladder.start.shape[0]
        return _MAPS_HELD * channels * height * width * dtype.itemsize

    def _drawn(self, draw, n_samples, random_state, temperature):
        """Rows that a function of a number and a generator draws, some at a time."""
        check_is_fitted(self)
        _checks.check_integer("n_samples", n_samples)
        _checks.check_number("temperature", temperature)
        generator = torch.Generator().manual_seed(random_seed(random_state))
        empty = np.empty((int(n_samples), 0), self._fit_dtype)

        def of_rows(rows):
            return draw(len(rows), generator)

        row_bytes = self._row_bytes(empty.dtype)
        return self._over_rows(empty, of_rows, row_bytes).astype(self._fit_dtype)


def _latents_of(model, x):
    """Contexts and posterior means of images, flattened side by side."""
    u = model.draw_context(x, None)
    means = model.ladder(x, model.condition(u), None).means
    parts = means if u is None else [u, *means]
    return torch.cat([part.flatten(1) for part in parts], 1)


def _decoded_latents(model, rows):
    """Rows for contexts and latent images."""
    shapes = list(model.ladder.latent_shapes)
    if model.context is not None:
        shapes.insert(0, model.context.context_shape)
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = [
        part.unflatten(1, shape) for part, shape in zip(rows.split(sizes, 1), shapes, strict=True)
    ]
    u = parts.pop(0) if model.context is not None else None
    return model.images(model.ladder.decode(parts, model.condition(u))).flatten(1)


def _decoded_context(model, rows):
    """Rows for contexts, at the means of the priors."""
    condition = model.condition(rows.unflatten(1, model.context.context_shape))
    return model.images(model.ladder.generate(len(rows), condition, None)).flatten(1)
