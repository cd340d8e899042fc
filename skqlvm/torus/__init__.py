"""What people do with a map: distances, geometry, density, paths and regions on the flat torus.

Coordinates are in turns, of any real numbers, in arrays of shape (n, k); what comes back is in
[0, 1). Names are resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .alignment import Alignment, align, stability
    from .clusters import TorusWatershed
    from .density import TorusDensity
    from .distances import (
        TorusFeatures,
        circular_mean,
        circular_variance,
        difference,
        distance,
        neighbors,
        pairwise_distances,
        path,
        wrap,
    )
    from .geodesics import geodesic, geodesic_distances
    from .geometry import jacobian, jacobian_norm, metric, sensitivity, volume_element
    from .mean_shift import TorusMeanShift

_PUBLIC = {
    "Alignment": ".alignment",
    "TorusDensity": ".density",
    "TorusFeatures": ".distances",
    "TorusMeanShift": ".mean_shift",
    "TorusWatershed": ".clusters",
    "align": ".alignment",
    "circular_mean": ".distances",
    "circular_variance": ".distances",
    "difference": ".distances",
    "distance": ".distances",
    "geodesic": ".geodesics",
    "geodesic_distances": ".geodesics",
    "jacobian": ".geometry",
    "jacobian_norm": ".geometry",
    "metric": ".geometry",
    "neighbors": ".distances",
    "pairwise_distances": ".distances",
    "path": ".distances",
    "sensitivity": ".geometry",
    "stability": ".alignment",
    "volume_element": ".geometry",
    "wrap": ".distances",
}

__all__ = [
    "Alignment",
    "TorusDensity",
    "TorusFeatures",
    "TorusMeanShift",
    "TorusWatershed",
    "align",
    "circular_mean",
    "circular_variance",
    "difference",
    "distance",
    "geodesic",
    "geodesic_distances",
    "jacobian",
    "jacobian_norm",
    "metric",
    "neighbors",
    "pairwise_distances",
    "path",
    "sensitivity",
    "stability",
    "volume_element",
    "wrap",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
