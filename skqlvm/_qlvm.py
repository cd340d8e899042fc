"""QLVMEmbedding: a decoder on a torus, trained by randomly shifted lattice rules."""

from math import ceil

import torch

from . import _checks, _conditions, _parts, _readouts, _transformations
from ._estimator import LatentEstimator
from ._lattice_queries import LatticeQueries
from .engine import lattices, marginal, models, optimizers, posteriors, quadrature
from .engine.rows import chosen, mean_of_rows, split

_TRAINING_BYTES = 2**30
_SPARED = {"highest": 2**-24, "medium": 1e-2}
"""Share of all responsibility that the points without a part in the gradient have together."""

_FINISHED_ROWS = 500
"""Copies of rows whose posteriors are looked at together, at the end of a fit."""

_ERROR_ROWS = 32
"""Rows of which the median standard error is taken, at most: each is scored over 8 lattices."""

_SETTLED = 0.1
"""Standard error of a typical score, in nats, up to which a lattice is fine enough all the same."""

_FEWEST_EFFECTIVE = 1.2
"""Effective points under which a posterior is narrower than the lattice that should resolve it."""

_AVERAGED_BYTES = 2**27
"""Memory up to which the averaged atlas is kept beside the atlas; else each query makes it."""


class QLVMEmbedding(LatticeQueries, LatentEstimator):
    """Map data to a torus of one to three dimensions by a quasi-Monte Carlo latent variable model.

    A decoder maps a latent point z, uniform on the torus, to the parameters of p(x | z). It is
    trained on the marginal likelihood itself, ``log p(x) = log int p(x | z) dz``, whose integral is
    a randomly shifted lattice rule: no encoder, no variational bound. The posterior of a row is its
    likelihood over the lattice, normalised.

    Parameters
    ----------
    n_components : {1, 2, 3}, default=2
        Dimension of the torus.
    n_points : int or "auto", default="auto"
        Size of the training lattice. More points tighten the bound and cost time in proportion.
        "auto" is 233 or 2039 points in one or three dimensions; in two 610, and 1597 from 0.4 of
        the training on.
    likelihood : str, dict or callable, default="gaussian"
        The observation model.

        - "gaussian", of real numbers;
        - "continuous_bernoulli", a density on [0, 1], and "bernoulli", of flags; on grey levels the
          latter is a cross-entropy;
        - "poisson" and "negative_binomial", of counts, the latter with a dispersion for each
          column, and "multinomial", of counts given their total;
        - "categorical", of codes 0, 1, ..., with as many levels as a column shows in `fit`;
        - "auto", by what a column holds. Categories, texts and other objects of a data frame are
          categorical. Flags, and whole numbers 0 and 1, are "bernoulli". Other whole numbers, of
          integer type (with gaps, pandas' Int64) and not negative, are counts: "negative_binomial"
          if their variance is above 1.5 of their mean, "gaussian" if it is below 0.5 of it, else
          "poisson". All else is "gaussian", with noise of its own for each column;
        - a dict from columns to these: a key is a name or number, a tuple of these, a range or a
          slice, or "remainder" for all columns that no other key has;
        - a callable, from n_features to a `skqlvm.engine.likelihoods.ExponentialFamily`.

        ``print(model.likelihood_)`` says which column has which.
    noise_variance : {"spherical", "diagonal"} or float, default="spherical"
        Noise of the Gaussian; other likelihoods ignore it. Learned, one for all features or one
        each, or fixed, in squared units of X.
    exposure : "total", str or int, optional
        How long or how much of a row was counted, for "poisson" and "negative_binomial", whose
        rates are in proportion to it: a column of X by its name or number, which is positive, told
        and not modelled; or "total", the sum of a row's counts. Decoded rows and samples are those
        of the median exposure; `reconstruct` and `impute` give those of the row's own.
    condition_columns : str, int or list of these, optional
        Columns of X, by name or number, that the decoder is told and does not model: p(x | z, c),
        so that the map leaves out what they explain. Categories, flags, and columns of at most 16
        different numbers have levels; others are standardised. Rows of equal conditions share a
        decoded lattice, whose cost a batch grows with the number of groups; where there are more
        than 64 different ones, near ones are grouped, see `condition_groups_` and
        `condition_error_`, and all of a group are told its mean.
    decoder : {"mlp", "conv"} or callable, default="mlp"
        A callable maps (n_components, n_features) to a torch module from torus coordinates in
        turns, of shape (m, n_components), to outputs of shape (m, n_features), where 0 is the mean
        of the data and 1 their scale (logits for the Bernoulli).
    hidden_layer_sizes : tuple of int, default=(256, 256)
        Widths of built-in decoders; ignored by those of one's own.
    harmonic_order : int or "auto", default="auto"
        Highest total order of the harmonics of the torus that the built-in decoders start from,
        coarse ones first, and that ``output="moments"`` returns. Order 1 is the paper's basis; low
        orders give smooth maps. "auto" has a harmonic for every 25 rows, and goes to order 14 at
        most (6 in three dimensions).
    image_shape : tuple of int, optional
        (channels, height, width) of a row, for ``decoder="conv"`` and for `transformations` of
        images; ignored by others.
    transformations : dict or ndarray of shape (n_transformations, n_features), optional
        Maps of a row that do not matter: the model is of rows that one of them has been applied to,
        and which one is summed over, in `score_samples`, on the map and in training. A dict has a
        grid of values for each name, and stands for all products, applied in its order; the grid of
        the last name runs fastest. Of images by `image_shape`, cyclic and in whole pixels:

        - "shift": pairs (down, right);
        - "shear": slants; a row of the image moves right by the slant times its distance below the
          centre, rounded;
        - "rotation": degrees, counterclockwise, by three shears.

        Of rows: "roll", whole numbers of features to the right, along the columns of the image if
        there is an `image_shape`; and for Gaussians "amplitude", factors, and "offset", numbers to
        be added. An array has permutations: ``X[:, transformations[s]]`` are the rows moved.
        Memory and time of a query grow with the number of maps; training takes those of most
        evidence for a row.
    transformation_prior : {"uniform", "learned"}, default="uniform"
        Probabilities of the maps.
    max_iter : int or "auto", default="auto"
        Passes over the data. "auto" is 500 steps of the optimiser: the cost of a fit does not grow
        with the number of rows once there are many.
    batch_size : int or "auto", default="auto"
        Rows a step. "auto" is 128, 256 or 512: the largest of which a pass has ten or more; but
        with max_iter="auto" half of 256 or 512 in the first 125 steps.
    learning_rate : float or "auto", default="auto"
        Largest step size of the one-cycle schedule. "auto" is 4e-3 for batches of 128 rows, and
        in proportion to larger ones up to 1e-2.
    validation_fraction : float, default=0.1
        Part of the rows (2000 at most) held out to choose the best weights by; 100 or more of them
        are trained on in the last quarter of a fit that goes well. 0 trains on everything, keeps
        the last weights, and draws learned noise towards the data's variance as 20 rows would.
    n_iter_no_change : int or None, default=12
        Validations without improvement, of which a fit makes about 24, after which training stops,
        if 100 rows or more are held out.
    n_points_eval : int or "auto", default="auto"
        Size of the lattice for everything after the fit; the same for all training lattices, so
        that their scores compare. "auto" is 2584, 6765 or 8191 points in one, two or three
        dimensions.
    embedding : {"local", "mean", "mode"}, default="local"
        What `transform` reads off the posterior: the mean of its dominant mode, within a smooth
        window; its circular mean; or its most probable lattice point. For "local", the log
        likelihood of a point is first averaged over a normal around it, of 0.003, 0.009 or 0.027
        turns in one, two or three dimensions: of two peaks, a row belongs to the one around which
        points explain it, too.
    output : {"turns", "cartesian", "moments"}, default="turns"
        What `transform` returns: coordinates in turns, [0, 1); their cosines and then their sines,
        for Euclidean methods; or posterior means of all harmonics up to `harmonic_order`, which
        keep what a point cannot.
    matmul_precision : {"medium", "highest"}, default="medium"
        While training. At "medium" the layers of built-in decoders, and tables of Bernoulli rows,
        are of numbers rounded to bfloat16 where the device multiplies these; everything else, and
        all inference, is in float32 or better.
    device : str or torch.device, default="auto"
        "auto" is a GPU if there is one.
    warm_start : bool, default=False
        Start `fit` from the weights of the last one, with all harmonics open.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    lattice_ : ndarray of shape (n_points_eval, n_components)
        The evaluation lattice, in turns: the points that the columns of `posterior` stand for.
    aggregate_posterior_ : ndarray of shape (n_points_eval,)
        Mean of the posteriors of up to 500 rows of the last fit, by their weights, over `lattice_`;
        sums to one.
    decoder_ : torch.nn.Module
    likelihood_ : skqlvm.engine.likelihoods.ExponentialFamily
    condition_groups_ : ndarray of shape (n_groups, n_conditions)
        Conditions that share a decoded lattice, where there are `condition_columns`; codes of
        categories.
    condition_error_ : float
        Root mean square distance of a row's conditions from those of its group, in standard
        deviations; 0 where each condition is a group.
    noise_variance_ : float or ndarray of shape (n_features,)
        Noise of a Gaussian, in squared units of X; of mixed columns not a number for the others.
    dispersion_ : ndarray
        Of a negative binomial, whose variance is ``mean + dispersion mean^2``, one a column.
    levels_ : dict
        Categories of the columns of a data frame that have some, in the order of their codes.
    harmonic_order_ : int
    transformations_ : ndarray of shape (n_transformations, n_features)
        The permutations of `transformations`, where there are any, in the order of the columns of
        `transformation_posterior`; without amplitudes and offsets.
    transformation_prior_ : ndarray of shape (n_transformations,)
        Their probabilities.
    history_ : dict of list
        "step", "loss" (minus the training bound in nats), "validation_loss" (NaN while no rows
        are held out), "seconds" and "validation_seconds" (of them) at each of some 24 records of
        the last `fit`, or of all calls of `partial_fit` since the last `fit`.
    n_iter_ : int
        Passes over the data, begun ones included, of the last `fit`; and those of `partial_fit`
        since.
    embedding_ : ndarray of shape (n_samples, n_columns)
        What `fit_transform` returned, where that was called.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if X had string column names.

    References
    ----------
    Martinez and Williams, Quasi Monte Carlo methods enable extremely low-dimensional deep
    generative models, arXiv 2601.18676.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skqlvm import QLVMEmbedding
    >>> X = load_digits().data / 16
    >>> model = QLVMEmbedding(n_points=89, max_iter=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (1797, 2)
    """

    def __init__(
        self,
        n_components=2,
        *,
        n_points="auto",
        likelihood="gaussian",
        noise_variance="spherical",
        exposure=None,
        condition_columns=None,
        decoder="mlp",
        hidden_layer_sizes=(256, 256),
        harmonic_order="auto",
        image_shape=None,
        transformations=None,
        transformation_prior="uniform",
        max_iter="auto",
        batch_size="auto",
        learning_rate="auto",
        validation_fraction=0.1,
        n_iter_no_change=12,
        n_points_eval="auto",
        embedding="local",
        output="turns",
        matmul_precision="medium",
        device="auto",
        warm_start=False,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            n_components,
            likelihood=likelihood,
            noise_variance=noise_variance,
            exposure=exposure,
            condition_columns=condition_columns,
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            matmul_precision=matmul_precision,
            device=device,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.n_points = n_points
        self.decoder = decoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.harmonic_order = harmonic_order
        self.image_shape = image_shape
        self.transformations = transformations
        self.transformation_prior = transformation_prior
        self.n_points_eval = n_points_eval
        self.embedding = embedding
        self.output = output

    _shaping = (*LatentEstimator._shaping, *_parts.SHAPING, *_transformations.SHAPING)
    _auto_steps, _auto_batch_sizes, _halved_until = (500, 500), (128, 256, 512), 0.25
    _optimizer = staticmethod(optimizers.adam_with_decay)

    _coarse = None
    """Points of the lattice that was called too coarse for the model, so as to say it once."""

    def _check_parameters(self):
        _parts.check_shared(self)
        if self.n_components > lattices.MOST_COMPONENTS:
            raise ValueError(
                f"n_components expects 1, 2 or 3, but got {self.n_components}: the points that a "
                "lattice needs grow exponentially with its dimension. Use VAEEmbedding for more "
                "components."
            )
        _checks.check_integer("n_points", self.n_points, alternative="auto")
        _checks.check_integer("n_points_eval", self.n_points_eval, alternative="auto")
        _checks.check_hidden_layer_sizes(self.hidden_layer_sizes)
        _parts.check_choice("decoder", self.decoder, _parts.DECODERS)
        _readouts.check(self)
        _transformations.check(self)

    def _build(self, likelihood, n_rows, randomness):
        self._coarse = None
        n_components = int(self.n_components)
        order = _parts.harmonic_order(self.harmonic_order, n_components, n_rows)
        maps, told = _transformations.build(self, likelihood), self._told
        decoder = _parts.build_decoder(
            self, likelihood.n_outputs, order, randomness, _conditions.n_numbers(told)
        )
        prior = _parts.PRIORS["torus"]
        return models.Model(n_components, prior, decoder, likelihood, order, maps, told)

    def _objective(self, model, fit):
        # the evaluation lattice, too: one that does not fit is refused before training
        sizes, _ = (_parts.build_lattices(self, name, model) for name in _parts.N_POINTS)
        spared = _SPARED[self.matmul_precision] if _parts.is_pointwise(model.decoder) else None
        bound = marginal.TrainingBound(
            model,
            sizes,
            fit.some(fit.batch_size).x,
            n_bytes=_TRAINING_BYTES // min(model.n_groups, fit.batch_size),
            spared=spared,
            n_copies=_transformations.n_trained(model.n_copies),
        )
        model.n_decoded = min(models.Model.n_decoded, bound.n_at_once)
        return lambda batch, generator: bound(batch.x, generator, batch.weight)

    def _finish(self, model, x, weight=None):
        """Decode the evaluation lattice; warn once if the posteriors of some rows are finer."""
        [points] = _parts.build_lattices(self, "n_points_eval", model)
        [atlas] = quadrature.charts(model, points, factored=True)
        size = max(1, _FINISHED_ROWS // model.n_copies)
        rows = split(x, size)
        ragged = quadrature.ragged(rows)
        chart = atlas if ragged is None else atlas.with_normalizers(model.likelihood, ragged)
        tables = (quadrature.relative(model, chart, part) for part in rows)
        weights = torch.cat([posteriors.responsibilities(table) for table in tables])
        effective = float(posteriors.effective_points(weights).median())
        coarse = len(points) if effective < _FEWEST_EFFECTIVE < len(points) else None
        if coarse and coarse != self._coarse:
            some = torch.arange(0, len(x), ceil(len(x) / _ERROR_ROWS), device=x.device)
            scored = split(chosen(x, some), size)
            error = float(quadrature.standard_error(model, points, scored, refined=True).median())
            if error > _SETTLED:
                _checks.warn_if_coarse(effective, len(points), error)
        found = {
            "lattice_": points.numpy(),
            "aggregate_posterior_": mean_of_rows(weights, weight).cpu().numpy(),
            "harmonic_order_": model.harmonic_order,
            "_atlas": atlas,
            "_averaged": _readouts.averaged(atlas) if atlas.n_bytes <= _AVERAGED_BYTES else None,
            "_coarse": coarse or self._coarse,
        }
        return found | _transformations.learned(model.transformations)
