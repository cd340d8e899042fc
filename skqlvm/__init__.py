"""Extremely low-dimensional deep generative embeddings, by scikit-learn's interface and torch."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._dvpvae import DVPVAE
    from ._iwae import IWAEEmbedding
    from ._mapa import MAPAEmbedding
    from ._qlvm import QLVMEmbedding
    from ._vae import VAEEmbedding
    from .sampling.latent_sampler import LatentSampler
    from .sampling.pmf import PMFSampler

__version__ = "0.1.0"

_PUBLIC = {
    "DVPVAE": "._dvpvae",
    "IWAEEmbedding": "._iwae",
    "LatentSampler": ".sampling.latent_sampler",
    "MAPAEmbedding": "._mapa",
    "PMFSampler": ".sampling.pmf",
    "QLVMEmbedding": "._qlvm",
    "VAEEmbedding": "._vae",
}

__all__ = [
    "DVPVAE",
    "IWAEEmbedding",
    "LatentSampler",
    "MAPAEmbedding",
    "PMFSampler",
    "QLVMEmbedding",
    "VAEEmbedding",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
