"""A page that explores a map: one file of HTML, which asks the network for nothing."""

import html
import json
from importlib.resources import files
from pathlib import Path

from . import page_data


class Explorer:
    """A page that explores a map; a notebook shows it.

    Attributes
    ----------
    html : str
        The whole page.
    """

    def __init__(self, html):
        self.html = html

    def save(self, path):
        """Write the page.

        Parameters
        ----------
        path : str or Path
            Ends in .html.

        Returns
        -------
        Path
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"path expects a file that ends in .html, but got {str(path)!r}.")
        path.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self):
        page = html.escape(self.html, quote=True)
        return (
            f'<iframe srcdoc="{page}" '
            'style="width: 100%; height: 640px; border: 1px solid #ddd"></iframe>'
        )

    def __repr__(self):
        return f"Explorer({len(self.html) / 2**20:.1f} MiB of HTML; save(path) writes it)"


def explorer(
    estimator,
    X,
    y=None,
    path=None,
    *,
    names=None,
    y_name="label",
    values=("nats", "entropy"),
    clusters=None,
    image_shape=None,
    condition=None,
    n_grid=64,
    max_bytes=9_500_000,
    title="A map by skqlvm",
):
    """Make a page on which one pans a two-dimensional map without end, and sees what is where.

    At the place under the pointer it shows what the model decodes to and the nearest row, with its
    label, nats, entropy and cluster. Rows are coloured by any of these, and found by number or
    name. Places between the points of a grid are interpolated.

    Parameters
    ----------
    estimator : fitted estimator of this package
        With two components, on the torus or not.
    X : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,), optional
        Labels: classes or numbers.
    path : str or Path, optional
        Where to write the page, a file that ends in .html.
    names : array-like of shape (n_samples,), optional
        Names of the rows.
    y_name : str, default="label"
    values : sequence of {"nats", "entropy"}, default=("nats", "entropy")
        What the model is asked of every row; of many rows that takes most of the time.
    clusters : object with a method predict(Z), such as TorusWatershed, optional
    image_shape : tuple of int, optional
        (height, width) or (channels, height, width), to show rows as images; by default the
        estimator's own.
    condition : array-like of shape (n_conditions,), optional
        What the decoder is told, of models with `condition_columns`.
    n_grid : int, default=64
        Decoded points in each dimension; fewer where rows have many features.
    max_bytes : int, default=9,500,000
        Size of the page, beyond which features of a part of the rows are kept.
    title : str

    Returns
    -------
    Explorer
    """
    data = page_data.collect(
        estimator,
        X,
        y,
        names=names,
        y_name=y_name,
        values=values,
        clusters=clusters,
        image_shape=image_shape,
        condition=condition,
        n_grid=n_grid,
        max_bytes=max_bytes,
    )
    page = Explorer(_page({"title": str(title), **data}))
    if path is not None:
        page.save(path)
    return page


def _page(data):
    """The template with its data, in which nothing can end the script or begin a tag."""
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    head, rest = template.split("__TITLE__")
    between, tail = rest.split("__DATA__")
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return "".join([head, html.escape(data["title"]), between, text, tail])
