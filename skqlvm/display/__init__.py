"""Pictures of maps, by scikit-learn's displays, and a page to explore one. Matplotlib draws them.

Names are resolved on first use, and matplotlib is imported when something is drawn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .curves import HistoryDisplay
    from .embedding import EmbeddingDisplay
    from .fields import JacobianDisplay, PosteriorDisplay
    from .manifold import ManifoldDisplay
    from .page import Explorer, explorer
    from .paths import PathDisplay

_PUBLIC = {
    "EmbeddingDisplay": ".embedding",
    "Explorer": ".page",
    "HistoryDisplay": ".curves",
    "JacobianDisplay": ".fields",
    "ManifoldDisplay": ".manifold",
    "PathDisplay": ".paths",
    "PosteriorDisplay": ".fields",
    "explorer": ".page",
}

__all__ = [
    "EmbeddingDisplay",
    "Explorer",
    "HistoryDisplay",
    "JacobianDisplay",
    "ManifoldDisplay",
    "PathDisplay",
    "PosteriorDisplay",
    "explorer",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
