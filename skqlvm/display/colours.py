"""How to colour rows: numbers of many kinds by a scale, everything else by category."""

import numpy as np

MOST_CATEGORIES = 20
GREY = (0.7, 0.7, 0.7)
_PLAIN_DOT = (0.12, 0.35, 0.6)


def colours(values, name, n_rows):
    """Return the colours of so many rows, by a value of each or all alike."""
    if values is None:
        return Plain(n_rows)
    values = np.asarray(values)
    if values.shape != (n_rows,):
        raise ValueError(
            f"values expects one for each of the {n_rows} rows, but got shape {values.shape}."
        )
    numbers = numbers_of(values)
    if numbers is None:
        return Categories([text(value) for value in values], plain(name))
    return Scale(numbers, plain(name))


class Plain:
    """One colour for all rows; there is nothing to explain."""

    name = ""

    def __init__(self, n_rows):
        self.rgb = np.tile(_PLAIN_DOT, (n_rows, 1))

    def explain(self, figure, axes):
        """Add nothing."""

    def groups(self):
        """Return all rows as one group."""
        return [np.arange(len(self.rgb))], [_PLAIN_DOT]

    def heights(self):
        """Return where rows lie in one lane."""
        return _jitter(len(self.rgb)), ([], [])


class Scale:
    """Colours of numbers, between their 1st and 99th percentile; grey for missing ones."""

    def __init__(self, numbers, name):
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        self.numbers, self.name = numbers, name
        known = np.isfinite(numbers)
        low, high = np.percentile(numbers[known], [1, 99])
        self.mappable = ScalarMappable(Normalize(low, high, clip=True), colormaps["viridis"])
        self.rgb = np.tile(GREY, (len(numbers), 1))
        self.rgb[known] = self.mappable.to_rgba(numbers[known])[:, :3]

    def explain(self, figure, axes):
        """Add the scale beside axes."""
        return figure.colorbar(
            self.mappable, ax=axes, label=self.name, extend="both", fraction=0.04, pad=0.02
        )

    def groups(self):
        """Return all rows as one group."""
        return [np.arange(len(self.numbers))], [GREY]

    def heights(self):
        """Return the numbers, with the lowest in place of missing ones."""
        known = np.isfinite(self.numbers)
        return np.where(known, self.numbers, self.numbers[known].min()), None


class Categories:
    """Colours of up to 20 categories; the rarest of more are grey."""

    def __init__(self, texts, name):
        from matplotlib import colormaps

        self.name = name
        self.names, self.codes, n_kept = grouped(texts)
        self.names = [plain(name) for name in self.names]
        palette = colormaps["tab10" if n_kept <= 10 else "tab20"].colors
        self.palette = np.array(palette[:n_kept])
        if n_kept < len(self.names):
            self.palette = np.vstack([self.palette, GREY])
        self.rgb = self.palette[self.codes]

    def explain(self, figure, axes):
        """Add a legend beside the last of the axes."""
        from matplotlib.lines import Line2D

        dot = {"marker": "o", "linestyle": "none"}
        return np.ravel(axes)[-1].legend(
            [Line2D([], [], color=colour, **dot) for colour in self.palette],
            self.names,
            title=self.name,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize="small",
            handletextpad=0.1,
        )

    def groups(self):
        """Return the rows of each category, and its colour."""
        return [np.flatnonzero(self.codes == i) for i in range(len(self.names))], self.palette

    def heights(self):
        """Return where rows lie in a lane for each category, and the ticks of the lanes."""
        return self.codes + _jitter(len(self.codes)), (range(len(self.names)), self.names)


def grouped(texts):
    """Return names of groups, the group of each row, and how many groups are of one category.

    Of more than 20 categories the rarest are one group, the last.
    """
    names, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order if len(names) <= MOST_CATEGORIES else order[: MOST_CATEGORIES - 1]
    kept = sorted(kept, key=lambda i: sorting(names[i]))
    places = np.full(len(names), len(kept))
    places[kept] = np.arange(len(kept))
    groups = [str(names[i]) or "(none)" for i in kept]
    if len(kept) < len(names):
        groups.append(f"{len(names) - len(kept)} others")
    return groups, places[codes], len(kept)


def _jitter(n_rows):
    return np.random.default_rng(0).uniform(-0.3, 0.3, n_rows)


def numbers_of(values):
    """Return values as float64 if they are numbers; None if they are categories.

    Text is categories, and so are up to 20 different integers.
    """
    if values.dtype.kind not in "fiu":
        return None
    values = values.astype(np.float64)
    kinds = np.unique(values[np.isfinite(values)])
    return None if len(kinds) <= MOST_CATEGORIES and (kinds == kinds.round()).all() else values


def text(value):
    """Return a category's name; empty for a missing number."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.9g}"
    return str(value)


def sorting(name):
    """Sort numbers by value, before names by letter."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def plain(text):
    """Return the user's text without the marks that matplotlib reads as mathematics or hides."""
    text = str(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
