"""Kernels between rows, against the predictive distributions of flat beliefs."""

from math import comb

import numpy as np
import pytest
import torch

from skqlvm.engine import kernels, likelihoods


def kernel_of(likelihood, x, other):
    kernel = kernels.kernel(likelihood)
    y, their = kernel.coordinates(x), kernel.coordinates(other)
    return (-((y - their) ** 2).sum(1) / (2 * kernel.bandwidth)).exp()


def test_coins_have_two_to_minus_the_number_that_differ():
    """The predictive of Beta(1, 1): 2/3 for what was seen, 1/3 for the other."""
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.rand(2, 20, 6, generator=generator) < 0.5).double()
    p = torch.where(x == other, 2 / 3, 1 / 3).prod(1) / (2 / 3) ** 6
    found = kernel_of(likelihoods.Bernoulli(6), x, other)
    torch.testing.assert_close(found, p.double(), atol=1e-7, rtol=1e-6)


def test_categories_have_the_predictive_of_a_flat_dirichlet_belief():
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randint(0, 3, (2, 20, 4), generator=generator).double()
    p = torch.where(x == other, 2 / 4, 1 / 4).double().prod(1) / 0.5**4
    found = kernel_of(likelihoods.Categorical(4, [3] * 4), x, other)
    torch.testing.assert_close(found, p)


def test_counts_have_nearly_the_predictive_of_a_flat_belief_about_the_rate():
    """A gamma belief after a count y: C(x + y, x) 2^-(x + y + 1), which is a negative binomial."""
    counts = torch.arange(200.0).double()[:, None]
    for seen in (16, 40, 100):
        exact = np.array([comb(seen + int(x), seen) / 2 ** (seen + int(x) + 1) for x in counts])
        found = kernel_of(likelihoods.Poisson(1), counts, torch.full((200, 1), float(seen)))
        distance = np.abs(found.numpy() / found.sum().item() - exact / exact.sum()).sum() / 2
        assert distance < 0.08


def test_dispersed_counts_tend_to_counts_as_the_dispersion_goes():
    generator = torch.Generator().manual_seed(0)
    x, other = torch.poisson(torch.full((2, 9, 3), 5.0), generator=generator).double()
    family = likelihoods.NegativeBinomial(3)
    family.start_dispersion = torch.full((3,), 1e-9, dtype=torch.float64)
    expected = kernel_of(likelihoods.Poisson(3), x, other)
    torch.testing.assert_close(kernel_of(family, x, other), expected, rtol=1e-2, atol=1e-6)


def test_families_without_a_kernel_are_refused_by_name():
    with pytest.raises(TypeError, match=r"\(Bernoulli, Categorical, .* but got Multinomial"):
        kernels.kernel(likelihoods.Multinomial(3))


def test_local_noise_is_that_around_a_curve(generator):
    z = torch.linspace(-2, 2, 600, dtype=torch.float64)[:, None]
    x = torch.cat([z, z**2, z.sin()], 1) + 0.05 * torch.randn(
        600, 3, dtype=torch.float64, generator=generator
    )
    neighbors = torch.cdist(x, x).topk(20, 1, largest=False).indices
    assert kernels.local_noise(x, neighbors, 1) == pytest.approx(0.0025, rel=0.3)
