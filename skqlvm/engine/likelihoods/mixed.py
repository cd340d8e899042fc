"""Rows whose columns have likelihoods of different families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .categories import Categorical
from .contract import ExponentialFamily
from .counts import Counts

_SHOWN = 6
"""Columns of a block that are named before the rest are counted."""


class Block(NamedTuple):
    """Columns of x, by their numbers, and the likelihood of them.

    Counts with an exposure have its column among theirs.
    """

    columns: Sequence[int]
    family: ExponentialFamily


class Told(ExponentialFamily):
    """Columns that are told and not modelled: they say nothing of z, and nothing is said of them.

    What stands for them in means and draws is 0; who knows the condition fills it in.
    """

    @property
    def n_outputs(self) -> int:
        return 0

    @property
    def n_normalizers(self) -> int:
        return 0

    @property
    def n_inputs(self) -> int:
        return 0

    def statistics(self, x: Tensor) -> Tensor:
        return x[:, :0]

    def spread(self, mask: Tensor) -> Tensor:
        return mask[:, :0]

    def weight(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        return None

    def inputs(self, x: Tensor) -> Tensor:
        return x[:, :0]

    def natural(self, outputs: Tensor) -> Tensor:
        return outputs

    def log_normalizer(self, eta: Tensor) -> Tensor:
        return eta

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.new_zeros(*outputs.shape[:-1], self.n_features)

    def variance(self, outputs: Tensor) -> Tensor:
        return self.mean(outputs)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean(outputs)


class Mixed(ExponentialFamily):
    """Blocks of columns, each with a family of its own, which z makes independent.

    Outputs, statistics and log-normalisers are those of one block after the other; means and draws
    are in the order of the columns.

    Parameters
    ----------
    blocks : sequence of Block
        Each column is in one; the column of an exposure in all whose exposure it is.
    names : sequence of str, optional
        What columns are called where they are shown; their numbers otherwise.
    """

    integral = True  # some columns may be: rows are no vectors of real numbers
    place: Tensor

    def __init__(self, blocks: Sequence[Block], names: Sequence[str] | None = None) -> None:
        columns = [list(map(int, block.columns)) for block in blocks]
        numbers = [number for each in columns for number in each]
        super().__init__(1 + max(numbers))
        self.columns, self.families = columns, nn.ModuleList(block.family for block in blocks)
        self.names = [f"column {i}" for i in range(self.n_features)] if names is None else names
        self.allows_missing = all(block.family.allows_missing for block in blocks)
        self.averages = all(block.family.averages for block in blocks)
        self.rescales = any(block.family.rescales for block in blocks)
        places = {number: place for place, number in enumerate(numbers)}
        place = torch.tensor([places[number] for number in range(self.n_features)])
        self.register_buffer("place", place, persistent=False)
        for block in blocks:
            if isinstance(block.family, Categorical):
                block.family.labels = [self.names[number] for number in block.columns]

    @property
    def n_outputs(self) -> int:
        return sum(family.n_outputs for family in self._all())

    @property
    def n_normalizers(self) -> int:
        return sum(family.n_normalizers for family in self._all())

    @property
    def n_inputs(self) -> int:
        return sum(family.n_inputs for family in self._all())

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        for family, part in self._of_columns(x):
            family.start(part, weight)

    def check(self, x: Tensor) -> None:
        for i, (family, part) in enumerate(self._of_columns(x)):
            try:
                family.check(part)
            except ValueError as error:
                raise ValueError(f"of {self._named(i)} {error}") from error

    def statistics(self, x: Tensor) -> Tensor:
        return torch.cat([family.statistics(part) for family, part in self._of_columns(x)], 1)

    def spread(self, mask: Tensor) -> Tensor:
        return torch.cat([family.spread(part) for family, part in self._of_columns(mask)], 1)

    def weight(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        weights = []
        for (family, part), columns in zip(self._of_columns(x), self.columns, strict=True):
            weight = family.weight(part, None if mask is None else mask[:, columns])
            weights.append((family.n_normalizers, weight))
        if all(weight is None for _, weight in weights):
            return None
        ones = x.new_ones(len(x), 1)
        parts = [(ones if weight is None else weight).expand(-1, n) for n, weight in weights]
        return torch.cat(parts, 1)

    def log_base(self, x: Tensor) -> Tensor:
        return self._in_place([family.log_base(part) for family, part in self._of_columns(x)])

    def inputs(self, x: Tensor) -> Tensor:
        return torch.cat([family.inputs(part) for family, part in self._of_columns(x)], 1)

    def natural(self, outputs: Tensor) -> Tensor:
        return torch.cat([family.natural(part) for family, part in self._of_outputs(outputs)], -1)

    def log_normalizer(self, eta: Tensor) -> Tensor:
        parts = [family.log_normalizer(part) for family, part in self._of_outputs(eta)]
        return torch.cat(parts, -1)

    def total_log_normalizer(self, eta: Tensor) -> Tensor:
        parts = [family.total_log_normalizer(part) for family, part in self._of_outputs(eta)]
        return torch.stack(parts).sum(0)

    def log_prior(self) -> Tensor:
        return torch.stack([family.log_prior().double() for family in self._all()]).sum()

    def learned(self) -> dict[str, Tensor]:
        """Return what the blocks have learned, a number a column; not a number in other blocks."""
        found: dict[str, Tensor] = {}
        for family, columns in zip(self._all(), self.columns, strict=True):
            modelled = columns
            if isinstance(family, Counts):
                modelled = [columns[number] for number in family.counted.tolist()]
            for name, value in family.learned().items():
                empty = value.new_full((self.n_features,), float("nan"))
                found.setdefault(name, empty)[modelled] = value.detach()
        return found

    def mean(self, outputs: Tensor) -> Tensor:
        return self._in_place([family.mean(part) for family, part in self._of_outputs(outputs)])

    def variance(self, outputs: Tensor) -> Tensor:
        parts = [family.variance(part) for family, part in self._of_outputs(outputs)]
        return self._in_place(parts)

    def rescaled(self, means: Tensor, x: Tensor) -> Tensor:
        pairs = zip(self._of_columns(means), self.columns, strict=True)
        return self._in_place([family.rescaled(part, x[:, own]) for (family, part), own in pairs])

    def predictive(
        self, outputs: Tensor, weights: Tensor, x: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        pairs = [
            family.predictive(part, weights, None if x is None else x[:, columns])
            for (family, part), columns in zip(self._of_outputs(outputs), self.columns, strict=True)
        ]
        means, stds = zip(*pairs, strict=True)
        return self._in_place(list(means)), self._in_place(list(stds))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        parts = [family.sample(part, generator) for family, part in self._of_outputs(outputs)]
        return self._in_place(parts)

    def __repr__(self) -> str:
        lines = [
            f"  {type(family).__name__}: {self._named(i)}" for i, family in enumerate(self._all())
        ]
        return "\n".join([f"Mixed of {self.n_features} columns", *lines])

    def _all(self) -> list[ExponentialFamily]:
        return [cast(ExponentialFamily, family) for family in self.families]

    def _of_columns(self, x: Tensor) -> Iterator[tuple[ExponentialFamily, Tensor]]:
        for family, columns in zip(self._all(), self.columns, strict=True):
            yield family, x[:, columns]

    def _of_outputs(self, outputs: Tensor) -> Iterator[tuple[ExponentialFamily, Tensor]]:
        parts = outputs.split([family.n_outputs for family in self._all()], -1)
        return zip(self._all(), parts, strict=True)

    def _in_place(self, parts: list[Tensor]) -> Tensor:
        """Join what blocks say of their columns (..., n_some), in the order of the columns."""
        return torch.cat(parts, -1)[..., self.place]

    def _named(self, i: int) -> str:
        """The columns of a block in words: the levels of categories, what counts are counts per."""
        family, columns = self._all()[i], self.columns[i]
        words = [self.names[number] for number in columns]
        if isinstance(family, Categorical):
            pairs = zip(words, family.n_levels, strict=True)
            words = [f"{word} ({n_levels} levels)" for word, n_levels in pairs]
        per = ""
        if isinstance(family, Counts) and family.exposure is not None:
            per = " per total"
            if family.column is not None:
                per = f" per {words.pop(family.column)}"
        more = len(words) - _SHOWN
        return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "") + per
