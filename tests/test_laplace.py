"""Newton's method row by row, and the normals of curvature: quadratics, valleys, plains."""

from math import log, pi

import pytest
import torch

from skqlvm.engine import laplace
from skqlvm.engine.proposals import FullNormal

SETTINGS = {"n_steps": 6, "widest": 10.0, "reach": 5.0}


def quadratics(n, k, generator):
    """Normal densities of n rows: their log density, means and covariances."""
    root = torch.randn(n, k, k, dtype=torch.float64, generator=generator)
    covariance = root @ root.mT + 0.1 * torch.eye(k, dtype=torch.float64)
    mean = torch.randn(n, k, dtype=torch.float64, generator=generator)
    normal = FullNormal(mean, torch.linalg.cholesky(covariance))

    def log_density(z, rows):
        own = FullNormal(normal.loc[rows], normal.scale_tril[rows])
        return own.log_prob(z[:, None])[:, 0] + 3.0

    return log_density, normal


@pytest.mark.parametrize("k", [1, 2, 5])
def test_peak_of_a_normal_is_the_normal_in_one_step(k, generator):
    log_density, normal = quadratics(7, k, generator)
    found = laplace.climb(log_density, torch.zeros(7, k).double(), n_steps=1, widest=1e3, reach=1e3)
    torch.testing.assert_close(found.normal.loc, normal.loc)
    torch.testing.assert_close(found.normal.covariance(), normal.covariance())
    torch.testing.assert_close(found.log_mass(), torch.full((7,), 3.0, dtype=torch.float64))


def test_rows_are_climbed_one_by_one(generator):
    log_density, normal = quadratics(5, 2, generator)
    start = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    together = laplace.climb(log_density, start, **SETTINGS)
    for i in range(5):
        one = FullNormal(normal.loc[i : i + 1], normal.scale_tril[i : i + 1])
        alone = laplace.climb(
            lambda z, _, q=one: q.log_prob(z[:, None])[:, 0] + 3.0, start[i : i + 1], **SETTINGS
        )
        torch.testing.assert_close(alone.normal.loc[0], together.normal.loc[i])
        torch.testing.assert_close(alone.height[0], together.height[i])


def test_valleys_are_left_and_no_step_goes_down():
    """From next to the bottom of a cosine, where Newton's own step would lead to the bottom."""

    def cosine(z, _=None):
        return 7 * torch.cos(2 * pi * z[:, 0])

    start = torch.tensor([[0.45], [0.52], [0.1]], dtype=torch.float64)
    found = laplace.climb(cosine, start, n_steps=30, widest=1.0, reach=0.05)
    assert (cosine(found.normal.loc) > cosine(start)).all()
    torch.testing.assert_close(found.height, torch.full((3,), 7.0, dtype=torch.float64))
    torch.testing.assert_close(
        found.normal.covariance().flatten(), torch.full((3,), 1 / (7 * 4 * pi**2)).double()
    )


@pytest.mark.parametrize(
    "flat",
    [lambda z, _: z.new_zeros(len(z)), lambda z, _: z.sum(1), lambda z, _: (z > 0.5).sum(1).to(z)],
    ids=["constant", "linear", "steps"],
)
def test_functions_without_curvature_have_the_widest_normals(flat):
    found = laplace.climb(flat, torch.full((3, 2), 0.25).double(), n_steps=2, widest=0.5, reach=0.1)
    eye = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    torch.testing.assert_close(found.normal.scale_tril, 0.5 * eye)


def test_derivatives_that_are_not_finite_leave_a_row_where_it_is():
    def rooted(z, _):
        return z[:, 0].sqrt() - z[:, 0]

    start = torch.tensor([[-0.7], [0.2]], dtype=torch.float64)
    found = laplace.climb(rooted, start, n_steps=9, widest=1.0, reach=1.0)
    torch.testing.assert_close(found.normal.loc[:, 0], torch.tensor([-0.7, 0.25]).double())
    assert found.normal.scale_tril.isfinite().all()


def test_chosen_and_joined_are_indexing(generator):
    log_density, _ = quadratics(5, 2, generator)
    found = laplace.climb(log_density, torch.zeros(5, 2).double(), **SETTINGS)
    index = torch.tensor([3, 1, 1])
    again = laplace.Peaks.joined([found.chosen(index[:1]), found.chosen(index[1:])])
    assert torch.equal(again.height, found.height[index])
    assert torch.equal(again.normal.loc, found.normal.loc[index])
    assert again.log_mass().sub(found.log_mass()[index]).abs().max() < log(1 + 1e-12)
