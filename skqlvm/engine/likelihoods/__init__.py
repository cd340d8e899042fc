"""Observation models p(x | z): the contract, and a file for each group of families."""

from .categories import Bernoulli, Categorical
from .continuous import ContinuousBernoulli, Gaussian
from .contract import ExponentialFamily, Likelihood, Terms
from .counts import Multinomial, NegativeBinomial, Poisson
from .logistic_mixture import LogisticMixture
from .mixed import Block, Mixed, Told

FAMILIES: dict[str, type[ExponentialFamily]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "multinomial": Multinomial,
    "negative_binomial": NegativeBinomial,
    "poisson": Poisson,
}
"""Likelihoods by the name that an estimator's `likelihood` gives them."""

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Block",
    "Categorical",
    "ContinuousBernoulli",
    "ExponentialFamily",
    "Gaussian",
    "Likelihood",
    "LogisticMixture",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "Terms",
    "Told",
]
