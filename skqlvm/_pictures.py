"""Pictures of the command line: a map of one's own rows, and the bundled digits beside PCA's."""

from warnings import catch_warnings, simplefilter

from .display.colours import plain
from .display.embedding import EmbeddingDisplay
from .display.manifold import ManifoldDisplay

FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")

_DPI, _N_AXES, _SIZES = 120, {1: 2, 2: 1, 3: 3}, {1: (9, 5.5), 2: (6.5, 5.5), 3: (15, 4.8)}


def draw_map(z, values, name, title, path):
    """Draw coordinates in turns, coloured by a value or category of each row.

    One dimension is drawn below its histogram, three from three sides.
    """
    k = z.shape[1]
    figure = _figure(*_SIZES[k])
    if k == 1:
        axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    else:
        axes = figure.subplots(1, _N_AXES[k])
    EmbeddingDisplay.from_predictions(z, values, name=name, ax=axes)
    figure.suptitle(plain(title))
    _save(figure, path)


def draw_digits(maps, titles, y, model, largest, path):
    """Draw PCA's map and the torus, coloured by digit, beside the images that the torus decodes to.

    Parameters
    ----------
    maps : pair of ndarray of shape (n_samples, 2)
        PCA's coordinates, then those on the torus, in turns.
    titles : pair of str
        Titles of the two maps.
    y : ndarray of shape (n_samples,)
    model : QLVMEmbedding
        That of the torus.
    largest : float
        Grey level of black.
    path : Path
    """
    figure = _figure(15, 5.4)
    left, middle, right = figure.subplots(1, 3)
    EmbeddingDisplay.from_predictions(maps[0], y, period=None, ax=left, legend=False)
    EmbeddingDisplay.from_predictions(maps[1], y, name="digit", ax=middle)
    ManifoldDisplay.from_estimator(
        model, n_tiles=10, image_shape=(8, 8), grey_limits=(0, largest), ax=right
    )
    left.set(xlabel="first component", ylabel="second component")
    names = (*titles, "What the torus decodes to (opposite edges meet)")
    for panel, name in zip((left, middle, right), names, strict=True):
        panel.set_title(name, fontsize="medium")
    _save(figure, path)


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
        figure.savefig(path, dpi=_DPI)
