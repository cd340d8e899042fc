"""Extremely low-dimensional deep generative embeddings with a scikit-learn interface and a torch
engine."""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "IWAEEmbedding": "._vae",
    "LatentSampler": ".sampling.latent_sampler",
    "PMFSampler": ".sampling.pmf",
    "QLVMEmbedding": "._qlvm",
    "VAEEmbedding": "._vae",
}

__all__ = [
    "IWAEEmbedding",
    "LatentSampler",
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
