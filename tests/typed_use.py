"""What a typed user of the package writes; mypy reads it, nothing runs it."""

from typing import assert_type

from skqlvm import (
    IWAEEmbedding,
    LatentSampler,
    PMFSampler,
    QLVMEmbedding,
    VAEEmbedding,
    __version__,
)

assert_type(QLVMEmbedding(2), QLVMEmbedding)
assert_type(VAEEmbedding(2), VAEEmbedding)
assert_type(IWAEEmbedding(2), IWAEEmbedding)
assert_type(PMFSampler(), PMFSampler)
assert_type(LatentSampler(QLVMEmbedding()), LatentSampler)
assert_type(__version__, str)
