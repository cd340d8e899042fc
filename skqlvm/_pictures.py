"""Pictures of the command line: a map of one's own rows, and the bundled digits beside PCA's."""

from itertools import combinations
from warnings import catch_warnings, simplefilter

import numpy as np

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")

_MOST_POINTS, _MOST_CATEGORIES, _N_BARS = 20_000, 20, 60
_GREY = (0.7, 0.7, 0.7)
_ORDINALS = ("first", "second", "third")


def draw_map(z, values, name, title, path):
    """Draw coordinates in turns, coloured by a value or category of each row.

    One dimension is drawn above its histogram, three from three sides.
    """
    shown = np.random.default_rng(0).permutation(len(z))[:_MOST_POINTS]
    colours = _colours(values, name)
    if z.shape[1] == 1:
        figure = _figure(9, 5.5)
        _draw_line(figure, z[:, 0], colours, shown)
    else:
        pairs = list(combinations(range(z.shape[1]), 2))
        figure = _figure(5 * len(pairs) + 1.5, 5.5)
        panels = figure.subplots(1, len(pairs), squeeze=False)[0]
        for panel, (i, j) in zip(panels, pairs, strict=True):
            colours.scatter(panel, z[:, i], z[:, j], shown)
            _frame(panel, i, j)
        colours.explain(figure, panels)
    drawn = "" if len(z) <= len(shown) else f" ({len(shown)} of {len(z)} rows drawn)"
    figure.suptitle(_plain(title) + drawn)
    _save(figure, path)


def draw_digits(maps, titles, y, tiles, largest, path):
    """Draw PCA's map and the torus, coloured by digit, beside the images that the torus decodes to.

    Parameters
    ----------
    maps : pair of ndarray of shape (n_samples, 2)
        PCA's coordinates, then those on the torus, in turns.
    titles : pair of str
        Titles of the two maps.
    y : ndarray of shape (n_samples,)
    tiles : ndarray of shape (side, side, height, width)
        Images at the centres of a grid on the torus; rows go up, columns to the right.
    largest : float
        Grey level of black; 0 is all but white in every tile.
    path : Path
    """
    figure = _figure(15, 5.1)
    left, middle, right = figure.subplots(1, 3)
    colours = _colours(y, "digit")
    for panel, z, title in zip((left, middle), maps, titles, strict=True):
        colours.scatter(panel, z[:, 0], z[:, 1], np.arange(len(z)), size=9)
        panel.set_title(title)
    left.set(xlabel="first component", ylabel="second component", box_aspect=1)
    left.margins(0.03)
    _frame(middle, 0, 1)
    colours.explain(figure, [left, middle])
    right.imshow(
        _mosaic(tiles, largest),
        cmap="gray_r",
        vmin=0,
        vmax=1,
        extent=(0, 1, 0, 1),
        interpolation="nearest",
    )
    _frame(right, 0, 1)
    right.set_title("What the torus decodes to (its edges meet)")
    _save(figure, path)


def _mosaic(tiles, largest, gap=2):
    """Join images by white gaps, on one scale of greys from 0.08 in the tiles to 1."""
    side, _, height, width = tiles.shape
    canvas = np.zeros((side * (height + gap), side * (width + gap)))
    grey = 0.08 + 0.92 * np.clip(tiles / largest, 0, 1)
    for i in range(side):
        for j in range(side):
            top, left = (side - 1 - i) * (height + gap) + gap // 2, j * (width + gap) + gap // 2
            canvas[top : top + height, left : left + width] = grey[i, j]
    return canvas


def _colours(values, name):
    """How to colour rows: numbers of many kinds by a scale, everything else by category."""
    numbers = _numbers(values)
    if numbers is None:
        return _Categories([_text(value) for value in values], _plain(name))
    return _Scale(numbers, _plain(name))


class _Scale:
    """Colours of numbers, between their 1st and 99th percentile; grey for missing ones."""

    def __init__(self, numbers, name):
        self.numbers, self.name = numbers, name

    def scatter(self, panel, x, y, shown, size=None):
        """Draw the rows that are shown."""
        size = size or _size(shown)
        known = shown[np.isfinite(self.numbers[shown])]
        low, high = np.percentile(self.numbers[np.isfinite(self.numbers)], [1, 99])
        panel.scatter(x[shown], y[shown], color=_GREY, s=size, linewidths=0)
        colours = {"c": self.numbers[known], "vmin": low, "vmax": high}
        self.drawn = panel.scatter(x[known], y[known], s=size, linewidths=0, **colours)

    def explain(self, figure, panels):
        """Add the scale beside the panels."""
        figure.colorbar(self.drawn, ax=panels, label=self.name, extend="both", fraction=0.04)

    def histogram(self, panel, z, bars):
        """Count rows."""
        panel.hist(z, bars, color=_GREY)

    def spread(self, panel, z, shown):
        """Draw rows at the height of their number; missing ones at the lowest."""
        finite = np.isfinite(self.numbers)
        heights = np.where(finite, self.numbers, self.numbers[finite].min())
        self.scatter(panel, z, heights, shown)
        panel.set_ylabel(self.name)


class _Categories:
    """Colours of up to 20 categories; the rarest of more are grey."""

    def __init__(self, texts, name):
        from matplotlib import colormaps

        self.name = name
        names, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kept = order if len(names) <= _MOST_CATEGORIES else order[: _MOST_CATEGORIES - 1]
        kept = sorted(kept, key=lambda i: _sorting(names[i]))
        places = np.full(len(names), len(kept))
        places[kept] = np.arange(len(kept))
        self.codes = places[codes]
        self.names = [_plain(names[i]) or "(none)" for i in kept]
        palette = colormaps["tab10" if len(kept) <= 10 else "tab20"].colors
        self.palette = np.array(palette[: len(kept)])
        if len(kept) < len(names):
            self.names.append(f"{len(names) - len(kept)} others")
            self.palette = np.vstack([self.palette, _GREY])

    def scatter(self, panel, x, y, shown, size=None):
        """Draw the rows that are shown."""
        colours = self.palette[self.codes[shown]]
        panel.scatter(x[shown], y[shown], c=colours, s=size or _size(shown), linewidths=0)

    def explain(self, figure, panels):
        """Add a legend beside the last panel."""
        from matplotlib.lines import Line2D

        dot = {"marker": "o", "linestyle": "none"}
        panels[-1].legend(
            [Line2D([], [], color=colour, **dot) for colour in self.palette],
            self.names,
            title=self.name,
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize="small",
            handletextpad=0.1,
        )

    def histogram(self, panel, z, bars):
        """Count rows, by category."""
        groups = [z[self.codes == code] for code in range(len(self.names))]
        panel.hist(groups, bars, color=list(self.palette), stacked=True)

    def spread(self, panel, z, shown):
        """Draw rows in a lane for each category."""
        jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(z))
        self.scatter(panel, z, self.codes + jitter, shown)
        panel.set_yticks(range(len(self.names)), self.names)
        panel.set_ylabel(self.name)


def _draw_line(figure, z, colours, shown):
    """A histogram of one coordinate, above the rows."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    colours.histogram(above, z, np.linspace(0, 1, _N_BARS + 1))
    colours.spread(below, z, shown)
    above.set_ylabel("rows")
    below.set(xlim=(0, 1), xlabel="coordinate, turns; both ends meet")


def _size(shown):
    """Area of a dot, in squared points."""
    return float(np.clip(6000 / len(shown), 2, 16))


def _frame(panel, i, j):
    panel.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel=f"{_ORDINALS[i]} coordinate, turns",
        ylabel=f"{_ORDINALS[j]} coordinate, turns",
    )


def _numbers(values):
    """Values as float64 if they are numbers; None if they are categories.

    Text is categories, and so are up to 20 different integers.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        return None
    values = values.astype(np.float64)
    kinds = np.unique(values[np.isfinite(values)])
    return None if len(kinds) <= _MOST_CATEGORIES and (kinds == kinds.round()).all() else values


def _text(value):
    """A category's name; empty for a missing number."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.9g}"
    return str(value)


def _sorting(name):
    """Sort numbers by value, before names by letter."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _plain(text):
    """Text of the user's, without the marks that matplotlib would read as mathematics or hide."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    """Save without a word on letters that the font lacks."""
    with catch_warnings():
        simplefilter("ignore")
        figure.savefig(path, dpi=100)
