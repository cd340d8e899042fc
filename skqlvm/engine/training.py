"""The one training loop. It knows parameters and nats of row numbers, and nothing of models."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite, nan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from .randomness import Stream

Nats = Callable[[Tensor], Tensor]
History = dict[str, list[float]]
Schedule = Callable[[int], dict[str, Any]]
Optimizer = Callable[[dict[str, nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    n_steps : int
        Optimiser steps of the whole schedule.
    schedule : callable
        Maps the number of steps done to what the optimiser's groups are set to, {"lr": ...}: a pure
        function, so that a training can be resumed at any step.
    optimizer : callable
        Makes an optimiser of parameters by their names in the module, so that it may put them into
        groups.
    batch_size : int
        Rows a step.
    halved_until : int
        Steps of half as many rows at the start, where gradients are large beside their noise.
    max_grad_norm : float
        Gradients longer than this are shortened to it.
    steps_per_record : int
        Steps between two records of the history, each with a validation.
    patience : int or None
        Validations without a better loss after which training stops; without validations it does
        not.
    averaging : float or None
        What a running mean of the weights keeps of itself at a step, once there are steps enough:
        these are validated, and left in the module. Without it, the weights themselves are.
    """

    n_steps: int
    schedule: Schedule
    optimizer: Optimizer
    batch_size: int = 128
    halved_until: int = 0
    max_grad_norm: float = 100.0
    steps_per_record: int = 50
    patience: int | None = None
    averaging: float | None = None


@dataclass
class State:
    """Where a training stands; pass it to `train` again and it goes on as if it had not stopped.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    order : Tensor or None
        Permutation of the rows that the current pass goes through, of which it has done `position`.
    n_passes : float
        Passes over the rows, in parts.
    generators : dict of Tensor
        States of all generators that the training draws from.
    losses : list of Tensor
        Losses of the steps since the last record.
    best_loss, best_weights
        Loss and weights of the best validation.
    average, weights : list of Tensor, or None
        Running mean of the weights, and the weights that steps go on from where the module has the
        mean.
    unrecorded_seconds : float
        Since the last record, of earlier calls.
    """

    step: int = 0
    order: Tensor | None = None
    position: int = 0
    n_passes: float = 0.0
    optimizer: dict[str, Any] | None = None
    generators: dict[str, Any] = field(default_factory=dict)
    losses: list[Tensor] = field(default_factory=list)
    best_loss: float = float("inf")
    best_weights: dict[str, Tensor] | None = None
    records_since_best: int = 0
    average: list[Tensor] | None = None
    weights: list[Tensor] | None = None
    unrecorded_seconds: float = 0.0
    history: History = field(
        default_factory=lambda: {
            "step": [],
            "loss": [],
            "validation_loss": [],
            "seconds": [],
            "validation_seconds": [],
        }
    )

    def cpu(self) -> State:
        """Return the state with all tensors on the processor."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        buffer.seek(0)
        return State(**torch.load(buffer, map_location="cpu", weights_only=False))

    def exhausted(self, patience: int | None) -> bool:
        """Whether as many records as `patience` have passed without a better validation."""
        return patience is not None and self.records_since_best >= patience

    def leave_rows(self) -> State:
        """Forget the rows, and what was best by some of them: others follow. Return the state."""
        self.order, self.position, self.losses = None, 0, []
        self.best_loss, self.best_weights, self.records_since_best = float("inf"), None, 0
        return self


def train(
    module: nn.Module,
    nats: Nats,
    n_rows: int,
    settings: Settings,
    generator: torch.Generator,
    *,
    noise: torch.Generator | None = None,
    weights: Tensor | None = None,
    validation: Callable[[], Tensor] | None = None,
    before_step: Sequence[Callable[[float], None]] = (),
    after_record: Sequence[Callable[[State], None]] = (),
    stream: Stream | None = None,
    state: State | None = None,
    stop_at: int | None = None,
) -> State:
    """Maximise the mean nats of shuffled batches of rows, and leave the best weights in the module.

    Parameters
    ----------
    module : Module
        Holds the parameters.
    nats : callable
        Maps row numbers, int64 of shape (batch,), to nats of shape (batch,).
    n_rows : int
        Rows to draw from; each pass is a fresh permutation of them, in batches of nearly equal
        size.
    settings : Settings
    generator : Generator
        Shuffles the rows; on the processor, so that every device sees the same batches.
    noise : Generator, optional
        What the nats draw from, whose state goes into that of the training.
    weights : Tensor of shape (n_rows,), optional
        How often each row counts, beside the mean of all rows: the mean over a batch is that of all
        rows in expectation.
    validation : callable, optional
        Nats of rows, of which the mean chooses the best weights; without it the last ones stay.
    before_step : sequence of callable, optional
        Called with the fraction of the schedule that is done.
    after_record : sequence of callable, optional
        Called with the state after each record.
    stream : Stream, optional
        Lent to torch's global generators for each step, for modules that draw from them.
    state : State, optional
        State of a training to be continued in place, whose module still has its last weights, or
        their mean.
    stop_at : int, optional
        Step to pause at, with the last weights left in the module, or their mean.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    KeyboardInterrupt
        If interrupted; the best weights so far, or before a validation the last ones, are left.
    """
    state = State() if state is None else state
    run = _Run(module, nats, n_rows, settings, generator, noise, weights, stream, state)
    last = settings.n_steps if stop_at is None else min(stop_at, settings.n_steps)
    finished = last == settings.n_steps
    try:
        while state.step < last and not state.exhausted(settings.patience):
            for call in before_step:
                call(state.step / settings.n_steps)
            run.step()
            if state.step % settings.steps_per_record == 0 or state.step == settings.n_steps:
                run.record(validation)
                for report in after_record:
                    report(state)
    except KeyboardInterrupt:
        finished = True
        raise
    finally:
        run.suspend()
        if finished and state.best_weights is not None:
            module.load_state_dict(state.best_weights)
    return state


class _Run:
    """Optimiser and batches of one call of `train`; what must outlive it is in the state."""

    def __init__(
        self,
        module: nn.Module,
        nats: Nats,
        n_rows: int,
        settings: Settings,
        generator: torch.Generator,
        noise: torch.Generator | None,
        weights: Tensor | None,
        stream: Stream | None,
        state: State,
    ) -> None:
        self.module, self.nats, self.n_rows, self.state = module, nats, n_rows, state
        self.weights = None if weights is None else weights / weights.double().mean()
        self.settings, self.stream = settings, stream
        self.generators = {"shuffle": generator}
        if noise is not None:
            self.generators["noise"] = noise
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters: list[Tensor] = list(trained.values())
        self.optimizer = settings.optimizer(trained)
        self.resume()
        self.since = time.perf_counter()

    def resume(self) -> None:
        """Take up what an earlier call has left in the state."""
        state = self.state
        if state.optimizer is not None:
            self.optimizer.load_state_dict(state.optimizer)
        if state.weights is not None:
            self.put(state.weights)
            state.weights = None
        for name, generator in self.generators.items():
            if name in state.generators:
                generator.set_state(state.generators[name])
        if self.stream is not None and "global" in state.generators:
            self.stream.states = state.generators["global"]

    def suspend(self) -> None:
        """Put into the state what a later call needs to go on."""
        self.state.unrecorded_seconds += time.perf_counter() - self.since
        self.state.optimizer = deepcopy(self.optimizer.state_dict())
        for name, generator in self.generators.items():
            self.state.generators[name] = generator.get_state()
        if self.stream is not None:
            self.state.generators["global"] = self.stream.states
        if self.state.average is not None:
            self.state.weights = self.copies()
            self.put(self.state.average)

    def step(self) -> None:
        index = self.next_batch()
        for group in self.optimizer.param_groups:
            group.update(self.settings.schedule(self.state.step))
        with self.lent():
            loss = -self.mean(self.nats(index), index)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        if self.settings.averaging is not None:
            self.average(self.settings.averaging)
        self.state.losses.append(loss.detach())
        self.state.step += 1
        self.state.n_passes += len(index) / self.n_rows

    def average(self, decay: float) -> None:
        """Move the running mean towards the weights; it keeps less of itself at first."""
        state = self.state
        if state.average is None:
            state.average = self.copies()
        kept = min(decay, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            torch._foreach_lerp_(state.average, self.parameters, 1 - kept)

    def copies(self) -> list[Tensor]:
        """Return the weights as they are."""
        return [parameter.detach().clone() for parameter in self.parameters]

    def put(self, weights: Sequence[Tensor]) -> None:
        """Give weights to the module."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, weights, strict=True):
                parameter.copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the running mean of its weights to the module, if there is one, for a while."""
        if self.state.average is None:
            yield
            return
        weights = self.copies()
        self.put(self.state.average)
        try:
            yield
        finally:
            self.put(weights)

    def next_batch(self) -> Tensor:
        """Return the numbers of the next rows."""
        state, size = self.state, self.settings.batch_size
        if state.step < self.settings.halved_until:
            size = max(1, size // 2)
        if state.order is None or state.position == self.n_rows:
            state.order = torch.randperm(self.n_rows, generator=self.generators["shuffle"])
            state.position = 0
        start, n_left = state.position, self.n_rows - state.position
        n_rows = -(-n_left // -(-n_left // size))
        state.position += n_rows
        return state.order[start : start + n_rows]

    def lent(self) -> AbstractContextManager[None]:
        return nullcontext() if self.stream is None else self.stream.lent()

    def mean(self, nats: Tensor, index: Tensor) -> Tensor:
        if self.weights is None:
            return nats.mean()
        return (self.weights[index].to(nats) * nats).mean()

    def record(self, validation: Callable[[], Tensor] | None) -> None:
        """Close a stretch of steps: check it, validate, remember the best weights."""
        state, mean_loss = self.state, fmean(map(float, self.state.losses))
        state.losses = []
        if not isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss became {mean_loss} within the {self.settings.steps_per_record} steps "
                f"before step {state.step}"
            )
        start, before = time.perf_counter(), state.history
        held_out = nan
        if validation is not None:
            with self.averaged():
                held_out = -self.validated(validation)
                self.remember(held_out)
        now = time.perf_counter()
        since_record = now - self.since + state.unrecorded_seconds
        seconds = since_record + (before["seconds"] or [0.0])[-1]
        validating = now - start + (before["validation_seconds"] or [0.0])[-1]
        self.since, state.unrecorded_seconds = now, 0.0
        values = (state.step, mean_loss, held_out, seconds, validating)
        for name, value in zip(state.history, values, strict=True):
            state.history[name].append(value)

    def validated(self, validation: Callable[[], Tensor]) -> float:
        """Return the mean validation nats, with the module as it is when it is used."""
        self.module.eval()
        with torch.no_grad():
            nats = float(validation().mean())
        self.module.train()
        return nats

    def remember(self, held_out: float) -> None:
        """Keep the weights if they are the best so far."""
        state = self.state
        state.records_since_best += 1
        if held_out < state.best_loss:
            state.best_loss, state.records_since_best = held_out, 0
            weights = self.module.state_dict()
            state.best_weights = {name: value.detach().clone() for name, value in weights.items()}
