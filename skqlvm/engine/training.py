"""The one training loop. It knows parameters, a loss of row numbers and numbers; nothing of
models."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite, nan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from .precision import matmul_precision

Loss = Callable[[Tensor], Tensor]
History = dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    n_steps : int
        Optimiser steps of the whole schedule.
    batch_size : int
        Rows a step.
    learning_rate : float
        Highest step size of the one-cycle schedule, or the constant one.
    weight_decay : float
        Decoupled decay of weight matrices (not of biases).
    max_grad_norm : float
        Gradients longer than this are shortened to it.
    one_cycle : bool
        Warm up and anneal (True), or keep the step size constant (False).
    steps_per_record : int
        Steps between two records of the history, each with a validation.
    patience : int or None
        Validations without a better loss after which training stops; without validations it does
        not.
    precision : {"highest", "high", "medium"}
        Of the inputs of float32 matrix products; see `matmul_precision`.
    """

    n_steps: int
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 100.0
    one_cycle: bool = True
    steps_per_record: int = 50
    patience: int | None = None
    precision: str = "highest"


@dataclass
class State:
    """Where a training stands; pass it to `train` again and it goes on as if it had not stopped."""

    step: int = 0
    optimizer: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    generator: Tensor | None = None
    pending: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    best_loss: float = float("inf")
    best_step: int = 0
    best_weights: dict[str, Tensor] | None = None
    records_since_best: int = 0
    history: History = field(
        default_factory=lambda: {"step": [], "loss": [], "validation_loss": [], "seconds": []}
    )

    def cpu(self) -> State:
        """Return the state with all tensors on the processor."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        buffer.seek(0)
        return State(**torch.load(buffer, map_location="cpu", weights_only=False))

    def exhausted(self, patience: int | None) -> bool:
        """Whether as many records as `patience` have passed without a better validation loss."""
        return patience is not None and self.records_since_best >= patience


def train(
    module: nn.Module,
    loss: Loss,
    n_rows: int,
    settings: Settings,
    generator: torch.Generator,
    *,
    validation_loss: Callable[[], Tensor] | None = None,
    before_step: Callable[[float], None] | None = None,
    report: Callable[[State], None] | None = None,
    state: State | None = None,
    stop_at: int | None = None,
) -> State:
    """Minimise a loss over shuffled batches of rows, and leave the best weights in the module.

    Parameters
    ----------
    module : Module
        Holds the parameters.
    loss : callable
        Maps row numbers, int64 of shape (batch,), to the scalar loss.
    n_rows : int
        Rows to draw from; each pass is a fresh permutation of them, in batches of nearly equal
        size.
    settings : Settings
    generator : Generator
        Shuffles the rows; on the processor, so that every device sees the same batches.
    validation_loss : callable, optional
        Scalar to choose the best weights by; without it the last weights stay.
    before_step : callable, optional
        Called with the fraction of the schedule that is done.
    report : callable, optional
        Called with the state after each record.
    state : State, optional
        Of a training to be continued in place, whose module still has its last weights.
    stop_at : int, optional
        Step to pause at, with the last weights left in the module.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.

    Warns
    -----
    UserWarning
        If interrupted from the keyboard; the best weights so far are kept.
    """
    state = State() if state is None else state
    run = _Run(module, loss, n_rows, settings, generator, state)
    last = settings.n_steps if stop_at is None else min(stop_at, settings.n_steps)
    try:
        with matmul_precision(settings.precision):
            while state.step < last and not state.exhausted(settings.patience):
                if before_step is not None:
                    before_step(state.step / settings.n_steps)
                run.step()
                if state.step % settings.steps_per_record == 0 or state.step == settings.n_steps:
                    run.record(validation_loss)
                    if report is not None:
                        report(state)
    except KeyboardInterrupt:
        if state.step == 0:
            raise
        message = (
            f"Training was interrupted at step {state.step} of {settings.n_steps}; the best "
            "weights so far are kept."
        )
        warnings.warn(message, UserWarning, stacklevel=2)
        last = settings.n_steps
    run.suspend()
    if last == settings.n_steps and state.best_weights is not None:
        module.load_state_dict(state.best_weights)
    return state


class _Run:
    """Optimiser, step sizes and batches of one call of `train`; what must outlive it is in the
    state."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        n_rows: int,
        settings: Settings,
        generator: torch.Generator,
        state: State,
    ) -> None:
        self.module, self.loss, self.n_rows = module, loss, n_rows
        self.settings, self.generator, self.state = settings, generator, state
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.parameters, settings)
        self.schedule = _schedule(self.optimizer, settings)
        if (
            state.optimizer is not None
            and state.schedule is not None
            and state.generator is not None
        ):
            self.optimizer.load_state_dict(state.optimizer)
            self.schedule.load_state_dict(state.schedule)
            generator.set_state(state.generator)
        self.since = time.perf_counter()

    def step(self) -> None:
        state, settings = self.state, self.settings
        if not state.pending:
            order = torch.randperm(self.n_rows, generator=self.generator)
            state.pending = list(order.tensor_split(-(-self.n_rows // settings.batch_size)))
        value = self.loss(state.pending.pop(0))
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, settings.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        state.losses.append(value.detach())
        state.step += 1

    def record(self, validation_loss: Callable[[], Tensor] | None) -> None:
        """Close a stretch of steps: check it, validate, remember the best weights."""
        state, mean_loss = self.state, fmean(map(float, self.state.losses))
        state.losses = []
        if not isfinite(mean_loss):
            raise FloatingPointError(
                f"the loss became {mean_loss} within the {self.settings.steps_per_record} steps "
                f"before step {state.step}"
            )
        validation = nan if validation_loss is None else self.validate(validation_loss)
        now = time.perf_counter()
        elapsed = (
            now - self.since + (state.history["seconds"][-1] if state.history["seconds"] else 0.0)
        )
        self.since = now
        for name, value in zip(
            state.history, (state.step, mean_loss, validation, elapsed), strict=True
        ):
            state.history[name].append(value)
        if validation_loss is None:
            return
        state.records_since_best += 1
        if validation < state.best_loss:
            state.best_loss, state.best_step, state.records_since_best = validation, state.step, 0
            state.best_weights = {
                name: value.detach().clone() for name, value in self.module.state_dict().items()
            }

    def validate(self, validation_loss: Callable[[], Tensor]) -> float:
        """Return the validation loss in full precision, with the module as it is when it is
        used."""
        self.module.eval()
        with torch.no_grad(), matmul_precision("highest"):
            validation = float(validation_loss())
        self.module.train()
        return validation

    def suspend(self) -> None:
        """Put into the state what a later call needs to go on."""
        self.state.optimizer = deepcopy(self.optimizer.state_dict())
        self.state.schedule = self.schedule.state_dict()
        self.state.generator = self.generator.get_state()


def _optimizer(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only."""
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.learning_rate, fused=True
    )


def _schedule(
    optimizer: torch.optim.Optimizer, settings: Settings
) -> torch.optim.lr_scheduler.LRScheduler:
    """One-cycle or constant step size."""
    if settings.one_cycle:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.n_steps + 1
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
