"""Observation models p(x | z): the contract, and a file for each group of families."""

from .categories import Bernoulli
from .continuous import Gaussian
from .contract import ExponentialFamily, Likelihood, Terms
from .counts import Poisson

FAMILIES: dict[str, type[ExponentialFamily]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "poisson": Poisson,
}
"""Likelihoods by the name that an estimator's `likelihood` gives them."""

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "ExponentialFamily",
    "Gaussian",
    "Likelihood",
    "Poisson",
    "Terms",
]
