"""A fit, from rows to a trained model: what is held out, how long, what an interrupt keeps."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import isfinite
from statistics import fmean

import numpy as np
import torch

from . import _data, _parts
from ._progress import Progress
from ._rows import Rows, random_seed, resolve_device
from .engine import optimizers, training
from .engine.randomness import Stream

_RECORDS = 24
_LARGEST_VALIDATION = 2_000
_FEWEST_FOR_PATIENCE = 100
"""Held-out rows from which on their loss is steady enough to stop a training by."""

_JOINED = 0.75
"""Fraction of a training from which on held-out rows are trained on, if all went well till then."""

_NOISE = 2**31
"""What the seed of shifts and noise has more than that of the order of rows."""

_FEWEST_STEPS = 100
_FEWEST_HELD_OUT = 5
"""Rows under which holding out tells nothing: then all of them are trained on."""

_PRIOR_ROWS = 20
"""Rows that the prior of a likelihood's own parameters counts as if no rows are held out. With h
rows, which tell what noise there is, they are fewer by a factor of (1 + h)^2."""


@dataclass(frozen=True)
class Fit:
    """The data of a fit, and where its random numbers come from.

    Attributes
    ----------
    rows : Rows
    trained, held_out : Tensor of int64
        Numbers of the rows that are trained on, and that choose the best weights.
    n_prior_rows : float
        Rows that the prior of the likelihood's own parameters counts as.
    batch_size : int
    learning_rate : float
    order : torch.Generator
        Draws which rows a batch has.
    noise : torch.Generator
        Draws shifts and noise, by a stream of its own: what it gives does not depend on how many
        rows there are.
    randomness : _parts.Randomness
        Draws what parts start from.
    counted : ndarray of shape (n_rows,) or None
        Numbers of the rows in the X that a user gave, where some of these do not count.
    """

    rows: Rows
    trained: torch.Tensor
    held_out: torch.Tensor
    n_prior_rows: float
    batch_size: int
    learning_rate: float
    order: torch.Generator
    noise: torch.Generator
    randomness: _parts.Randomness
    counted: np.ndarray | None = None

    @classmethod
    def of(cls, estimator, X, validation_fraction, weight=None):
        """Hold rows out, and seed what draws, as an estimator's parameters say."""
        device, seed = resolve_device(estimator.device), random_seed(estimator.random_state)
        generator, n_rows = torch.Generator().manual_seed(seed), X.shape[0]
        order = torch.randperm(n_rows, generator=generator)
        n_wanted = min(round(validation_fraction * n_rows), _LARGEST_VALIDATION, n_rows - 1)
        n_held_out = n_wanted if n_wanted >= _FEWEST_HELD_OUT else 0
        weights, stream = torch.Generator().manual_seed(seed), Stream(seed, device)
        batch_size = _batch_size(estimator, n_rows - n_held_out)
        return cls(
            rows=Rows(X, device, weight),
            trained=order[n_held_out:],
            held_out=order[:n_held_out],
            n_prior_rows=_PRIOR_ROWS / (1 + n_held_out) ** 2,
            batch_size=batch_size,
            learning_rate=_learning_rate(estimator, batch_size),
            order=generator,
            noise=torch.Generator().manual_seed(seed + _NOISE),
            randomness=_parts.Randomness(weights, stream),
        )

    @property
    def n_batches(self):
        """Steps of a pass."""
        return -(-len(self.trained) // self.batch_size)

    @property
    def trained_weight(self):
        """How often the rows that are trained on count, or None."""
        return None if self.rows.weight is None else self.rows.weight[self.trained]

    @property
    def n_trained(self):
        """How many rows are trained on, each as often as it counts."""
        return len(self.trained) if self.rows.weight is None else float(self.trained_weight.sum())

    def some(self, n_rows):
        """Return so many rows, held-out ones first."""
        return self.rows.batch(torch.cat([self.held_out, self.trained])[:n_rows])

    def start(self, likelihood, n_rows):
        """Start a likelihood at so many trained rows, and more if these lack a feature."""
        numbers = _data.rows_to_start(self.rows.X, self.trained[:n_rows].numpy())
        batch = self.rows.batch(torch.from_numpy(numbers))
        weight = [] if batch.weight is None else [batch.weight.cpu()]
        likelihood.start(batch.x.cpu(), *weight)

    def joined(self):
        """Return the fit with the held-out rows among those that are trained on."""
        nothing = self.held_out[:0]
        return replace(self, trained=torch.cat([self.trained, self.held_out]), held_out=nothing)

    def validation(self, objective, n_rows):
        """Return the function of nats of held-out rows, some at a time; None without any."""
        if not len(self.held_out):
            return None
        batches = [self.rows.batch(part) for part in self.held_out.split(n_rows)]
        if self.rows.weight is None:
            return lambda: torch.cat([objective(batch, None) for batch in batches])
        mean = self.rows.weight[self.held_out].mean()
        return lambda: torch.cat([objective(b, None) * (b.weight / mean) for b in batches])


def _batch_size(estimator, n_rows):
    """Rows a step; "auto" is the largest of which a pass has ten, or the smallest there is."""
    if not isinstance(estimator.batch_size, str):
        return int(estimator.batch_size)
    smallest, *larger = estimator._auto_batch_sizes
    return max((size for size in larger if 10 * size <= n_rows), default=smallest)


def _learning_rate(estimator, batch_size):
    """Largest step size; "auto" grows with the batch, up to a limit."""
    if not isinstance(estimator.learning_rate, str):
        return float(estimator.learning_rate)
    return estimator._auto_learning_rate * min(max(batch_size / 128, 1.0), 2.5)


def annealed(estimator, fit, n_steps):
    """Return how to train from start to end."""
    patience = estimator.n_iter_no_change
    if len(fit.held_out) < _FEWEST_FOR_PATIENCE:
        patience = None
    budgeted = isinstance(estimator.max_iter, str) and isinstance(estimator.batch_size, str)
    halves = budgeted and fit.batch_size > estimator._auto_batch_sizes[0]
    return training.Settings(
        n_steps=n_steps,
        schedule=optimizers.one_cycle(fit.learning_rate, n_steps),
        optimizer=estimator._optimizer,
        batch_size=fit.batch_size,
        halved_until=round(estimator._halved_until * n_steps) if halves else 0,
        steps_per_record=max(1, round(n_steps / _RECORDS)),
        patience=None if patience is None else int(patience),
    )


def one_pass(estimator, fit, state):
    """Return how to train for one more pass."""
    return training.Settings(
        n_steps=state.step + fit.n_batches,
        schedule=optimizers.constant(fit.learning_rate / 4),
        optimizer=estimator._optimizer,
        batch_size=fit.batch_size,
        steps_per_record=max(1, round(fit.n_batches / _RECORDS)),
    )


def train(estimator, model, fit, settings, state, *, worth_keeping, before_step=()):
    """Train a model in place; return None, or the interrupt that left something worth keeping.

    Parameters
    ----------
    estimator : TrainedEstimator
        Whose objective is trained.
    model : torch.nn.Module
    fit : Fit
    settings : training.Settings
    state : training.State
        Updated in place.
    worth_keeping : callable
        Whether what was reached at an interrupt, by the state, should become the fitted model.
    before_step : sequence of callable
    """
    model.to(fit.rows.device).train()
    model.allow_bfloat16(estimator.matmul_precision == "medium")
    stream = fit.randomness.stream if _parts.draws_globally(model) else None
    with nullcontext() if stream is None else stream.lent():
        objective = estimator._objective(model, fit)
    name, unit = type(estimator).__name__, estimator._loss_unit
    with Progress(settings.n_steps, estimator.verbose, name, unit) as progress:

        def run(fit, stop_at=None):
            training.train(
                model,
                partial(_nats, model, fit, objective),
                len(fit.trained),
                settings,
                fit.order,
                noise=fit.noise,
                weights=fit.trained_weight,
                validation=fit.validation(objective, estimator._validation_rows),
                before_step=before_step,
                after_record=[progress],
                stream=stream,
                state=state,
                stop_at=stop_at,
            )

        try:
            # a fit that goes on may be validated by the same rows
            joins = estimator._joins_held_out and not estimator.warm_start
            if len(fit.held_out) >= _FEWEST_FOR_PATIENCE and joins:
                run(fit, stop_at=round(_JOINED * settings.n_steps))
                if state.records_since_best <= 1 and not state.exhausted(settings.patience):
                    fit = fit.joined()
                    state.leave_rows()
            run(fit)
        except KeyboardInterrupt as interrupt:
            if not worth_keeping(state):
                raise
            kept = "weights so far" if state.best_weights is None else "best weights so far"
            reached = f"step {state.step} of {settings.n_steps}"
            interrupt.args = (f"Training was interrupted at {reached}; the {kept} are kept.",)
            return interrupt
        finally:
            model.allow_bfloat16(False)
    return None


def _nats(model, fit, objective, index):
    """The bound of trained rows by their numbers, and their shares of the likelihood's prior."""
    prior = model.likelihood.log_prior() * (fit.n_prior_rows / fit.n_trained)
    nats = objective(fit.rows.batch(fit.trained[index]), fit.noise)
    return nats + prior.to(fit.rows.device)


def falls_still(history):
    """Whether a training was too short for its loss to come to rest.

    It was if it had fewer than 100 steps, or if its later half brought more than a twentieth of
    what the held-out loss gained. Where no rows are held out it is 15 % of what the training loss
    gained, smoothed: that falls also while rows are learned by heart. A schedule that anneals the
    step size makes any loss flat at its end, so that the end alone says nothing.
    """
    if history["step"][-1] < _FEWEST_STEPS:
        return True
    losses, share = history["validation_loss"], 0.05
    if not isfinite(losses[0]):
        losses, share = _smoothed(history["loss"]), 0.15
    # not a number, from where on held-out rows are trained on, is never the least
    reached = list(accumulate(losses, min))
    gained, lately = reached[0] - reached[-1], reached[len(reached) // 2] - reached[-1]
    return lately > share * gained


def _smoothed(losses):
    """Average each loss with its neighbours; the first, from which it falls, stays."""
    return losses[:1] + [fmean(losses[i - 1 : i + 2]) for i in range(1, len(losses))]
