"""The boxes of a hierarchical model put together, its bound, and valid estimates of log p(x).

    p(x, z, u) = p(u) p(z | u) p(x | z),        q(z, u | x) = r(u | x) q(z | x, u)

with the ladder's p(z | u) and q(z | x, u), a diffusion model p(u) of contexts, and r a
normal around the fixed context of x (Kuzina and Tomczak, arXiv 2412.01373). Without a context the
ladder alone is the model.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..likelihoods import Likelihood
from ..networks import allow_bfloat16
from ..objectives import log_mean_exp
from .contexts import Context
from .diffusion import DiffusionPrior
from .ladder import Ladder, Passed
from .noise import Source, normal

CONTEXT_LOG_VARIANCES = -12.0, -3.0, 0.0
"""Smallest, first and largest log variance of a context given its image.

The paper's are -12, gamma_min and -5. Contexts that are so exact cost many nats, which short fits
do not win back.
"""


class Parts(NamedTuple):
    """A bound on log p(x) of n rows, in parts, in nats.

    Attributes
    ----------
    reconstruction : Tensor of shape (n,)
        log p(x | z).
    kl : Tensor of shape (n, n_levels)
        Divergences of the ladder's levels, coarsest first.
    context : Tensor of shape (n,)
        Bound on the divergence KL(r(u | x) || p(u)), from one u; zero without a context.
    beta : float
        What the divergences count; with 1 it is a bound.
    """

    reconstruction: Tensor
    kl: Tensor
    context: Tensor
    beta: float = 1.0

    @property
    def bound(self) -> Tensor:
        """What is maximised, (n,)."""
        return self.reconstruction - self.beta * (self.kl.sum(1) + self.context)


class HierarchicalModel(nn.Module):
    """A ladder and its likelihood, and what tells the ladder of a context.

    Parameters
    ----------
    ladder : Ladder
        Or a module with its methods.
    likelihood : Likelihood
        Of images as rows (n, channels * height * width).
    context : Context, optional
        Without it the ladder has no condition.
    diffusion : DiffusionPrior, optional
        Density of contexts; there is one if and only if there is a context.
    n_steps : int
        Steps from noise to a context, when one is drawn.
    context_log_variances : tuple of float
        Smallest, first and largest log Var[u | x], which is learned for each number of u.

    Attributes
    ----------
    log_variance_u : Parameter of the context's shape, or None
        log Var[u | x], clamped where it is used.
    """

    def __init__(
        self,
        ladder: Ladder,
        likelihood: Likelihood,
        context: Context | None = None,
        diffusion: DiffusionPrior | None = None,
        n_steps: int = 25,
        context_log_variances: tuple[float, float, float] = CONTEXT_LOG_VARIANCES,
    ) -> None:
        super().__init__()
        if (context is None) != (diffusion is None):
            raise ValueError(
                "expects a context and a diffusion prior of it, or neither, but got "
                f"context={context} and diffusion={diffusion}"
            )
        self.ladder, self.likelihood = ladder, likelihood
        self.context, self.diffusion, self.n_steps = context, diffusion, n_steps
        self.log_variance_u: nn.Parameter | None = None
        if diffusion is not None:
            low, first_value, high = context_log_variances
            if not low <= first_value <= high:
                raise ValueError(
                    "expects a smallest, a first and a largest log variance of contexts in rising "
                    f"order, but got {context_log_variances}"
                )
            self.log_variances = low, high
            first = torch.full(diffusion.context_shape, first_value, dtype=torch.float32)
            self.log_variance_u = nn.Parameter(first)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.ladder.image_shape

    @property
    def like(self) -> Tensor:
        """A parameter, whose device and dtype images are brought to."""
        return self.ladder.start

    def allow_bfloat16(self, allowed: bool) -> None:
        """Let layers be rounded to bfloat16 while the model is trained, or not."""
        allow_bfloat16(self, allowed)

    def start(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Set scales and locations from training images x (n, \\*image_shape).

        Each counts as often as its weight (n,) says, once by default.
        """
        self.likelihood.start(x.flatten(1), *([] if weight is None else [weight]))
        if self.context is not None and self.diffusion is not None:
            self.context.start(x, weight)
            self.diffusion.start(self.context(x), self._log_variance(x).exp(), weight)

    def nats(
        self, x: Tensor, generator: Source, beta: float = 1.0, n_pairs: int | None = None
    ) -> Parts:
        """Return an unbiased estimate of the bound, from one draw a row.

        Parameters
        ----------
        x : Tensor of shape (n, \\*image_shape)
            Values in [0, 1].
        generator : Generator or Shared
        beta : float
            Factor of the divergences.
        n_pairs : int, optional
            Of the times of the diffusion model; see `DiffusionPrior.bound`.
        """
        u = self.draw_context(x, generator)
        passed = self.ladder(x, self.condition(u), generator)
        context = self.divergence_u(x, u, generator, n_pairs)
        return Parts(self.log_px_z(x, passed), passed.kl, context, beta)

    def log_weight(self, x: Tensor, generator: Source, n_steps: int | None = None) -> Tensor:
        """Return log importance weights, one a row: the mean of their exponentials is p(x).

        The path of noise from u counts as a latent variable: the density p is that of a diffusion
        model of so many steps, which are those of samples by default.

        Returns
        -------
        Tensor of shape (n,)
            ``log p(x | z) p(z | u) p(u, path) / (q(z | x, u) r(u | x) q(path | u))``, in nats.
        """
        u = self.draw_context(x, generator)
        weight = self.log_weight_given(x, u, generator)
        if u is None or self.diffusion is None:
            return weight
        n_steps = self.n_steps if n_steps is None else n_steps
        log_pu = self.diffusion.path_log_weight(u, generator, n_steps)
        return weight + log_pu - self.log_ru(x, u)

    def log_weight_given(self, x: Tensor, u: Tensor | None, generator: Source) -> Tensor:
        """Return log weights of one draw of z a row: their exponentials' mean is p(x | u), (n,)."""
        passed = self.ladder(x, self.condition(u), generator)
        return self.log_px_z(x, passed) + passed.log_pz - passed.log_qz

    def log_px_z(self, x: Tensor, passed: Passed) -> Tensor:
        """Return log p(x | z) of a pass through the ladder, in nats, (n,)."""
        terms = self.likelihood.terms(x.flatten(1))
        outputs = passed.outputs.flatten(1)[:, None]
        return self.likelihood.paired(terms, outputs)[:, 0] + terms.base

    def draw_context(self, x: Tensor, generator: Source | None) -> Tensor | None:
        """Draw from r(u | x), (n, \\*context_shape), or without a generator return its mean."""
        if self.context is None:
            return None
        u: Tensor = self.context(x)
        if generator is None:
            return u
        spread = (self._log_variance(u) / 2).exp()
        return u + spread * normal(tuple(u.shape), generator, u)

    def condition(self, u: Tensor | None) -> Tensor | None:
        """Return what the ladder is told of contexts: an image each, (n, \\*image_shape)."""
        return None if u is None or self.context is None else self.context.to_image(u)

    def divergence_u(
        self, x: Tensor, u: Tensor | None, generator: Source, n_pairs: int | None = None
    ) -> Tensor:
        """Return a bound on KL(r(u | x) || p(u)) by one u a row, in expectation, (n,)."""
        if u is None or self.diffusion is None:
            return x.new_zeros(len(x))
        entropy = (self._log_variance(u) + log(2 * pi) + 1).sum() / 2
        return -entropy - self.diffusion.bound(u, generator, n_pairs=n_pairs)

    def log_ru(self, x: Tensor, u: Tensor) -> Tensor:
        """Return log r(u | x), in nats, (n,)."""
        log_variance = self._log_variance(u)
        away = (u - cast(Context, self.context)(x)) ** 2 * (-log_variance).exp()
        return -(away + log_variance + log(2 * pi)).flatten(1).sum(1) / 2

    def _log_variance(self, like: Tensor) -> Tensor:
        parameter = cast(nn.Parameter, self.log_variance_u)
        return parameter.clamp(*self.log_variances).to(like)

    def generate(
        self,
        n: int,
        generator: Source,
        temperature: float = 1.0,
        *,
        noise: bool = True,
        n_steps: int | None = None,
    ) -> Tensor:
        """Draw n images, (n, \\*image_shape).

        Parameters
        ----------
        n : int
        generator : Generator
        temperature : float
            Factor of the spread of contexts and latent images.
        noise : bool
            Whether to draw from p(x | z), or to take its mean.
        n_steps : int, optional
            Steps from noise to a context.
        """
        u = self.generate_context(n, generator, temperature, n_steps=n_steps)
        outputs = self.ladder.generate(n, self.condition(u), generator, temperature)
        return self.images(outputs, generator if noise else None)

    def generate_context(
        self, n: int, generator: Source, temperature: float = 1.0, *, n_steps: int | None = None
    ) -> Tensor | None:
        """Draw n contexts from the diffusion model, (n, \\*context_shape); None without one."""
        if self.diffusion is None:
            return None
        n_steps = self.n_steps if n_steps is None else n_steps
        return self.diffusion.sample(n, generator, n_steps, temperature)

    def reconstruct(self, x: Tensor, generator: Source | None = None) -> Tensor:
        """Return E[x | z] for the z of images x, (n, \\*image_shape).

        They are drawn, or without a generator the means of r and q.
        """
        u = self.draw_context(x, generator)
        return self.images(self.ladder(x, self.condition(u), generator).outputs)

    def images(self, outputs: Tensor, generator: Source | None = None) -> Tensor:
        """Return images by outputs (n, n_outputs, height, width): drawn, or their means."""
        rows = outputs.flatten(1)
        if generator is None:
            return self.likelihood.mean(rows).unflatten(1, self.image_shape)
        drawn = self.likelihood.sample(rows, cast(torch.Generator, generator))
        return drawn.unflatten(1, self.image_shape)


def elbo(
    model: HierarchicalModel,
    x: Tensor,
    generator: Source,
    n_draws: int = 1,
    n_inner: int = 1,
    n_pairs: int = 8,
) -> tuple[Tensor, Tensor]:
    """Return the mean of bounds on log p(x), and its standard error, in nats, each (n,).

    The diffusion model's part is averaged, as it must be: it is a bound on log p(u) and no log
    importance weight, so that no exponential of it may be taken.

    Parameters
    ----------
    model : HierarchicalModel
    x : Tensor of shape (n, \\*image_shape)
    generator : Generator or Shared
    n_draws : int
        Contexts a row, and numbers that are averaged. The standard error of one is NaN.
    n_inner : int
        Draws of z for each context, whose weights are averaged before the logarithm: a tighter
        bound on log p(x | u).
    n_pairs : int
        Pairs of times of the diffusion model for each context. Where noise is shared, all rows have
        the same times, and an error of few would not average out over rows.
    """

    def draw() -> Tensor:
        if n_inner == 1:
            return model.nats(x, generator, n_pairs=n_pairs).bound
        u = model.draw_context(x, generator)
        given = [model.log_weight_given(x, u, generator) for _ in range(n_inner)]
        return log_mean_exp(torch.stack(given), 0) - model.divergence_u(x, u, generator, n_pairs)

    bounds = _drawn(draw, n_draws)
    return bounds.mean(0), bounds.std(0, correction=min(1, n_draws - 1)) / _root(n_draws)


def importance(
    model: HierarchicalModel,
    x: Tensor,
    generator: Source,
    n_draws: int,
    n_steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return estimates of log p(x) by importance weights of paths, in nats, each (n,).

    In expectation it is at most log p(x) under the model whose contexts take so many steps, and
    rises to it with the draws.

    Parameters
    ----------
    model, x, generator
        As for `elbo`.
    n_draws : int
        Weights a row.
    n_steps : int, optional
        Steps of the diffusion model; those of samples by default.

    Returns
    -------
    estimate, standard_error : Tensor of shape (n,)
    """
    log_w = _drawn(lambda: model.log_weight(x, generator, n_steps), n_draws)
    estimate = log_mean_exp(log_w, 0)
    share = (log_w - estimate).exp()
    return estimate, share.std(0, correction=min(1, n_draws - 1)) / _root(n_draws)


def _drawn(draw: Callable[[], Tensor], n_draws: int) -> Tensor:
    """Draws without graphs, (n_draws, n), in float64."""
    with torch.no_grad():
        return torch.stack([draw().double() for _ in range(n_draws)])


def _root(n_draws: int) -> float:
    """What a standard deviation of draws is divided by; NaN follows from one draw."""
    return float(n_draws) ** 0.5 if n_draws > 1 else float("nan")
