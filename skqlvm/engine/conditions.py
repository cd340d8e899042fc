"""What decoders are told of rows beside a latent point: conditions, and an atlas for each group.

Rows of a group have the same condition, and share a decoded lattice. Where conditions are real
numbers, groups are of rows whose conditions are near each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .atlas import Atlas, Normalizers
from .likelihoods import ExponentialFamily

_APART = 1e3
"""Standard deviations of a real number that two levels are apart: groups do not mix levels."""


_ROUNDING = 1e-7
"""Relative distance within which a number is a level that float32 has rounded."""


def are_levels(column: Tensor, levels: Tensor) -> Tensor:
    """Return which of levels (l,) the numbers of a column (n, 1) are, but for rounding, (n, l)."""
    exact = column == levels
    near = (column - levels).abs() <= _ROUNDING * levels.abs()
    return torch.where(exact.any(1, keepdim=True), exact, near)


class Conditions(nn.Module):
    """Columns of x that are told and not modelled.

    A column of levels becomes an indicator of each; any other is standardised.

    Parameters
    ----------
    columns : sequence of int
        Numbers of the columns.
    levels : sequence of Tensor of shape (n_levels,), or None
        For each column the values that it may have; None if it has any real numbers.
    loc, scale : Tensor of shape (n_columns,)
        Mean and standard deviation of the columns of real numbers, float64.
    values : Tensor of shape (n_groups, n_columns)
        What each group's condition is, in the units of x, float64.
    shares : Tensor of shape (n_groups,)
        How many of the rows of a fit each group has, as fractions, float64.

    Attributes
    ----------
    error : float
        Root mean square distance of a row of the fit from its group in the columns of real numbers,
        in standard deviations.
    """

    error = 0.0

    loc: Tensor
    scale: Tensor
    values: Tensor
    shares: Tensor
    vectors: Tensor
    factors: Tensor

    def __init__(
        self,
        columns: Sequence[int],
        levels: Sequence[Tensor | None],
        loc: Tensor,
        scale: Tensor,
        values: Tensor,
        shares: Tensor,
    ) -> None:
        super().__init__()
        self.columns, self.levels = list(columns), list(levels)
        for name, value in {"loc": loc, "scale": scale, "values": values, "shares": shares}.items():
            self.register_buffer(name, value.double())
        self.register_buffer("vectors", self.encoded(values))
        widths = [1 if each is None else len(each) for each in self.levels]
        factors = torch.tensor([1.0 if each is None else _APART for each in self.levels])
        self.register_buffer("factors", factors.double().repeat_interleave(torch.tensor(widths)))

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.values)

    @property
    def n_numbers(self) -> int:
        """Numbers that a decoder is told."""
        return self.vectors.shape[1]

    def encoded(self, values: Tensor) -> Tensor:
        """Return conditions (n, n_columns) as a decoder is told them, (n, n_numbers), float64."""
        parts, values = [], values.double()
        for i, levels in enumerate(self.levels):
            column = values[:, i, None]
            if levels is None:
                parts.append((column - self.loc[i]) / self.scale[i])
            else:
                parts.append(are_levels(column, levels.to(column)).double())
        return torch.cat(parts, 1)

    def groups(self, x: Tensor) -> Tensor:
        """Return the group whose condition is nearest that of each row of x (n, d), (n,), int64."""
        return self.groups_of(x[:, self.columns])

    def groups_of(self, values: Tensor) -> Tensor:
        """Return the group that is nearest to each condition (n, n_columns), (n,), int64.

        It has the same levels, if there is such a group.
        """
        return torch.cdist(self.placed(values), self.factors * self.vectors).argmin(1)

    def placed(self, values: Tensor) -> Tensor:
        """Return where conditions (n, n_columns) lie if near ones belong together, float64."""
        return self.factors * self.encoded(values)

    def fill(self, x: Tensor, group: Tensor | int) -> Tensor:
        """Return rows (m, d) with the condition of a group, or of one each, in its columns."""
        x = x.clone()
        x[..., self.columns] = self.values[group].to(x)
        return x


class Atlases:
    """Atlases of one lattice, one for each group of conditions; asked for rows as an `Atlas` is.

    Parameters
    ----------
    conditions : Conditions
    atlases : sequence of Atlas
        In the order of the groups.
    """

    def __init__(self, conditions: Conditions, atlases: Sequence[Atlas]) -> None:
        self.conditions, self.atlases = conditions, list(atlases)

    @property
    def points(self) -> Tensor:
        """Latent points of the lattice, (n_points, n_components)."""
        return self.atlases[0].points

    @property
    def normalizers(self) -> Normalizers | None:
        """What rows with gaps need, of the first group."""
        return self.atlases[0].normalizers

    @property
    def n_bytes(self) -> int:
        """Memory that all of them take."""
        return sum(atlas.n_bytes for atlas in self.atlases)

    def cpu(self) -> Atlases:
        """Return them on the processor."""
        return Atlases(self.conditions.cpu(), [atlas.cpu() for atlas in self.atlases])

    def with_normalizers(self, likelihood: ExponentialFamily, dtype: torch.dtype) -> Atlases:
        """Return them with what rows with gaps need; see `Atlas.with_normalizers`."""
        ready = [atlas.with_normalizers(likelihood, dtype) for atlas in self.atlases]
        return Atlases(self.conditions, ready)

    def averaged(self, scale: float) -> Atlases:
        """Return them with log weights averaged around each point; see `Atlas.averaged`."""
        return Atlases(self.conditions, [atlas.averaged(scale) for atlas in self.atlases])

    def relative(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return log w_ij less `offset`, (n, m); see `Atlas.relative`."""
        return self._each(x, lambda atlas, rows: atlas.relative(likelihood, x[rows]))

    def offset(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return the part of log w_ij that is the same at all points, (n,)."""
        return self._each(x, lambda atlas, rows: atlas.offset(likelihood, x[rows]))

    def table(self, likelihood: ExponentialFamily, x: Tensor) -> Tensor:
        """Return log w_ij in nats, (n, m)."""
        return self._each(x, lambda atlas, rows: atlas.table(likelihood, x[rows]))

    def _each(self, x: Tensor, answer: Callable[[Atlas, Tensor], Tensor]) -> Tensor:
        return by_group(self.conditions, x, lambda g, rows: answer(self.atlases[g], rows))


Chart = Atlas | Atlases
"""A decoded lattice, whatever a decoder is told."""


def by_group(conditions: Conditions, x: Tensor, answer: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Return what is answered for the rows of each group, in the order of the rows.

    Parameters
    ----------
    conditions : Conditions
    x : Tensor of shape (n_samples, n_features)
    answer : callable
        Maps a group's number and the numbers of its rows to a tensor with a row for each.
    """
    parts = [(rows, answer(group, rows)) for group, rows in rows_of_groups(conditions.groups(x))]
    if not parts:
        return answer(0, torch.arange(0, device=x.device))
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return torch.cat([part for _, part in parts])[order]


def rows_of_groups(group: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of each group that occurs in (n,), and the numbers of its rows."""
    for number in group.unique().tolist():
        yield number, (group == number).nonzero()[:, 0]
