"""What is read off the posterior, against von Mises moments, known weights and turns of the
torus."""

from math import log, pi

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive

from skqlvm.engine import harmonics, lattices, likelihoods, posteriors

READOUTS = {
    "mean": lambda weights, points: posteriors.mean_direction(weights, points)[0],
    "mode": posteriors.mode,
    "local": lambda weights, points: posteriors.local_mean(weights.log(), points),
}


def turns_between(a, b):
    difference = torch.as_tensor(a, dtype=torch.float64) - b
    return (difference - difference.round()).abs()


def weights_of(x, outputs, variance=0.1):
    likelihood = likelihoods.Gaussian(x.shape[1], variance)
    return posteriors.responsibilities(likelihood.table(likelihood.terms(x), outputs))


def circle_weights(points, x, variance=0.1, turn=0.0):
    """The posterior of x under the circle of radius 1, with Gaussian noise."""
    z = 2 * pi * (points + turn)
    return weights_of(x, torch.cat([z.cos(), z.sin()], 1), variance)


def random_weights(generator, n, m):
    return posteriors.responsibilities(
        3 * torch.randn(n, m, dtype=torch.float64, generator=generator)
    )


def bump(points, *peaks):
    """Weights of von Mises bumps: pairs of a centre and a height."""
    total = torch.zeros(len(points), dtype=torch.float64)
    for center, height in peaks:
        total += height * torch.exp(
            200 * (torch.cos(2 * pi * (points - torch.tensor(center))) - 1).sum(1)
        )
    return (total / total.sum())[None]


@given(
    m=st.integers(1, 60), k=st.integers(1, 3), seed=st.integers(0, 99), offset=st.floats(-1e5, 1e5)
)
def test_responsibilities_are_bayes_rule(m, k, seed, offset):
    log_w = torch.randn(5, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights = posteriors.responsibilities(log_w + offset)
    torch.testing.assert_close(
        weights, log_w.exp() / log_w.exp().sum(1, keepdim=True), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))


def test_circle_posterior_is_von_mises():
    """Mean direction and resultant of kappa = |x| / variance, and its printed values."""
    x = torch.tensor([[0.6, 0.3], [-0.2, 1.1], [0.05, -0.02]], dtype=torch.float64)
    points = lattices.lattice(1, 89)
    mean, resultant = posteriors.mean_direction(circle_weights(points, x), points)
    kappa = x.norm(dim=1).numpy() / 0.1
    assert turns_between(mean[:, 0], torch.atan2(x[:, 1], x[:, 0]) / (2 * pi)).max() < 1e-12
    torch.testing.assert_close(
        resultant[:, 0], torch.tensor(ive(1, kappa) / ive(0, kappa)), rtol=1e-12, atol=0
    )
    assert mean[0].item() == pytest.approx(0.0737918088, abs=1e-10)
    assert resultant[0].item() == pytest.approx(0.92212155488, abs=1e-11)


def test_product_torus_has_the_means_of_its_circles():
    x = torch.tensor([[0.6, 0.3, -0.2, 0.4]], dtype=torch.float64)
    points = lattices.lattice(2, 987)
    z = 2 * pi * points
    outputs = torch.stack(
        [z[:, 0].cos(), z[:, 0].sin(), 0.5 * z[:, 1].cos(), 0.5 * z[:, 1].sin()], 1
    )
    weights = weights_of(x, outputs)
    mean, resultant = posteriors.mean_direction(weights, points)
    angles = torch.atan2(x[:, [1, 3]], x[:, [0, 2]]) / (2 * pi)
    kappa = torch.stack([x[0, :2].norm(), 0.5 * x[0, 2:].norm()]).numpy() / 0.1
    assert turns_between(mean, angles).max() < 1e-10
    torch.testing.assert_close(
        resultant[0], torch.tensor(ive(1, kappa) / ive(0, kappa)), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize(("k", "m"), [(1, 7), (2, 13), (2, 610), (3, 31)])
def test_uniform_posterior_has_no_direction_and_stays_finite(k, m):
    points = lattices.lattice(k, m)
    weights = posteriors.responsibilities(torch.full((3, m), -2.5, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.full((3, m), 1 / m, dtype=torch.float64))
    mean, resultant = posteriors.mean_direction(weights, points)
    assert ((mean >= 0) & (mean < 1)).all()
    assert resultant.max() < 1e-13
    torch.testing.assert_close(
        posteriors.entropy(weights), torch.full((3,), log(m), dtype=torch.float64)
    )
    torch.testing.assert_close(
        posteriors.effective_points(weights), torch.full((3,), float(m), dtype=torch.float64)
    )


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 7), (2, 13), (2, 610), (3, 31)])
def test_certain_posterior_is_its_point_in_every_readout(k, m):
    points = lattices.lattice(k, m)
    weights = torch.eye(m, dtype=torch.float64)
    for readout in READOUTS.values():
        assert turns_between(readout(weights, points), points).max() < 1e-12
    torch.testing.assert_close(
        posteriors.mean_direction(weights, points)[1], torch.ones(m, k, dtype=torch.float64)
    )
    torch.testing.assert_close(posteriors.entropy(weights), torch.zeros(m, dtype=torch.float64))
    torch.testing.assert_close(
        posteriors.effective_points(weights), torch.ones(m, dtype=torch.float64)
    )


@given(n=st.integers(1, 7), m=st.integers(1, 60), seed=st.integers(0, 99))
def test_entropy_and_effective_points_equal_naive_sums(n, m, seed):
    weights = random_weights(torch.Generator().manual_seed(seed), n, m)
    rows = weights.tolist()
    entropy = torch.tensor([-sum(w * log(w) for w in row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(posteriors.entropy(weights), entropy, rtol=1e-10, atol=1e-10)
    effective = torch.tensor([1 / sum(w * w for w in row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(posteriors.effective_points(weights), effective, rtol=1e-10, atol=0)
    assert (
        posteriors.entropy(weights).exp() >= posteriors.effective_points(weights) * (1 - 1e-12)
    ).all()


@pytest.mark.parametrize("readout", ["mean", "local"])
def test_posterior_across_the_seam_has_its_mean_at_the_seam(readout):
    """Half the mass at 0.99 and half at 0.01: the mean is 0, not 0.5."""
    points = lattices.lattice(1, 100)
    weights = torch.zeros(1, 100, dtype=torch.float64)
    weights[0, [99, 1]] = 0.5
    assert turns_between(READOUTS[readout](weights, points), 0).max() < 1e-8


@given(
    readout=st.sampled_from(list(READOUTS)),
    k=st.integers(1, 3),
    m=st.integers(1, 99),
    seed=st.integers(0, 99),
    turn=st.floats(0, 1),
)
def test_turning_the_points_turns_every_readout(readout, k, m, seed, turn):
    points = lattices.lattice(k, m)
    weights = random_weights(torch.Generator().manual_seed(seed), 5, m)
    turned = READOUTS[readout](
        weights, lattices.shifted(points, torch.full((k,), turn, dtype=torch.float64))
    )
    assert turns_between(turned - turn, READOUTS[readout](weights, points)).max() < 1e-9
    assert turned.min() >= 0
    assert turned.max() < 1


@given(turn=st.floats(-1, 1), seed=st.integers(0, 99))
def test_turning_the_decoder_turns_the_mean_back(turn, seed):
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    points = lattices.lattice(1, 233)
    mean, resultant = posteriors.mean_direction(circle_weights(points, x), points)
    turned, other = posteriors.mean_direction(circle_weights(points, x, turn=turn), points)
    assert turns_between(turned + turn, mean).max() < 1e-9
    torch.testing.assert_close(resultant, other, rtol=0, atol=1e-9)


@given(k=st.integers(1, 3), m=st.integers(2, 99), seed=st.integers(0, 99))
def test_moving_weights_along_the_lattice_moves_every_readout(k, m, seed):
    points = lattices.lattice(k, m)
    weights = random_weights(torch.Generator().manual_seed(seed), 5, m)
    for readout in READOUTS.values():
        moved = readout(weights.roll(3, 1), points)
        assert turns_between(moved - points[3 % m], readout(weights, points)).max() < 1e-9


def test_mean_direction_does_not_depend_on_the_order_of_points(generator):
    points, weights = lattices.lattice(2, 55), random_weights(generator, 5, 55)
    order = torch.randperm(55, generator=generator)
    for permuted, direct in zip(
        posteriors.mean_direction(weights[:, order], points[order]),
        posteriors.mean_direction(weights, points),
        strict=True,
    ):
        torch.testing.assert_close(permuted, direct, rtol=0, atol=1e-12)


def test_mode_is_the_point_of_largest_weight(generator):
    points, weights = lattices.lattice(2, 55), random_weights(generator, 11, 55)
    expected = [points[max(range(55), key=lambda j, row=row: row[j])] for row in weights.tolist()]
    assert torch.equal(posteriors.mode(weights, points), torch.stack(expected))


@given(n=st.integers(1, 7), m=st.integers(1, 99), levels=st.integers(1, 9), seed=st.integers(0, 99))
def test_peak_is_the_first_largest_entry(n, m, levels, seed):
    """As argmax has it, among many that are equal."""
    generator = torch.Generator().manual_seed(seed)
    log_w = torch.randint(levels, (n, m), generator=generator).double()
    assert torch.equal(posteriors._peak(log_w), log_w.argmax(1))


def test_local_mean_stays_at_the_bigger_of_two_modes_where_the_mean_falls_between():
    points = lattices.lattice(2, 6765)
    weights = bump(points, ((0.1, 0.4), 0.6), ((0.4, 0.6), 0.4))
    mean = posteriors.mean_direction(weights, points)[0]
    local = posteriors.local_mean(weights.log(), points)
    assert 0.15 < mean[0, 0] < 0.35
    assert turns_between(local, torch.tensor([[0.1, 0.4]])).max() < 1e-3


@pytest.mark.parametrize("center", [(0.0, 0.0), (0.999, 0.25), (0.5, 0.001), (0.3, 0.7)])
def test_local_mean_lies_between_lattice_points(center, generator):
    """A bump with its centre off the lattice: far better than the mode, on a shifted lattice and at
    the seam as well."""
    points = lattices.shifted(lattices.lattice(2, 2584), lattices.random_shift(2, generator))
    weights = bump(points, (center, 1.0))
    truth = torch.tensor([center], dtype=torch.float64)
    error_of_mode = turns_between(posteriors.mode(weights, points), truth).max()
    assert turns_between(posteriors.local_mean(weights.log(), points), truth).max() < min(
        1e-3, 0.3 * error_of_mode
    )


def mean_shift(row, points, center, scale):
    """The plain way, over all points: thousands of small steps, then the mean within a plateau."""
    for _ in range(3000):
        steps = points - center
        steps = steps - steps.round()
        weights = row * (-steps.square().sum(1) / (2 * scale**2)).exp()
        center = center + weights @ steps / weights.sum()
    steps = points - center
    steps = steps - steps.round()
    weights = row * (-((steps.norm(dim=1) / (2.6 * scale)) ** 4)).exp()
    return center + weights @ steps / weights.sum()


@pytest.mark.parametrize(("k", "m"), [(1, 610), (2, 6765), (2, 987), (3, 8191)])
def test_local_mean_equals_plain_mean_shift_over_all_points(k, m, generator):
    """Of lopsided posteriors, each of two bumps of different widths that overlap."""
    points = lattices.shifted(lattices.lattice(k, m), lattices.random_shift(k, generator))
    scale = max(0.0135, 0.75 * m ** (-1 / k))
    first = torch.rand(4, k, dtype=torch.float64, generator=generator)
    second = first + scale * torch.rand(4, k, dtype=torch.float64, generator=generator)
    weights = sum(
        height * (-((points - at[:, None] + 0.5).remainder(1) - 0.5).square().sum(2) / width).exp()
        for at, height, width in ((first, 1.0, scale**2), (second, 0.7, scale**2 / 3))
    )
    found = posteriors.local_mean(weights.log(), points)
    for row, z in zip(weights, found, strict=True):
        expected = mean_shift(row, points, points[row.argmax()], scale)
        assert turns_between(z, expected).max() < 2e-3 * scale


@pytest.mark.parametrize(("k", "m", "bound"), [(1, 2584, 1e-6), (2, 6765, 2e-4), (3, 8191, 2e-3)])
def test_local_mean_of_a_wide_posterior_is_not_tied_to_the_lattice(k, m, bound):
    """As the posterior moves on by a hundredth of the spacing, so does its mean, with no jump."""
    points, spacing = lattices.lattice(k, m), m ** (-1 / k)
    centers = 0.3 + spacing * torch.linspace(0, 3, 301, dtype=torch.float64)[:, None].expand(-1, k)
    log_w = 5 * (2 * pi * (points - centers[:, None])).cos().sum(2)
    assert turns_between(posteriors.local_mean(log_w, points), centers).max() < bound
    assert turns_between(posteriors.mode(log_w, points), centers).max() > 0.3 * spacing


def test_local_mean_goes_where_the_window_has_most_around():
    """A single point that stands out, on the slope of a wide bump, does not hold it."""
    points = lattices.lattice(1, 987)
    log_w = 25 * (2 * pi * (points[:, 0] - 0.5)).cos()[None]
    log_w[0, 440] = log_w.max() + 0.1
    assert turns_between(posteriors.local_mean(log_w, points), 0.5).max() < 2e-3


def test_local_mean_of_a_row_does_not_depend_on_other_rows(generator):
    points = lattices.lattice(2, 987)
    log_w = torch.randn(60, 987, dtype=torch.float64, generator=generator)
    log_w[:20] *= 20
    together = posteriors.local_mean(log_w, points)
    alone = torch.cat([posteriors.local_mean(row[None], points) for row in log_w])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_local_mean_does_not_see_what_is_far_away():
    points = lattices.lattice(1, 100)
    log_w = torch.full((1, 100), -torch.inf, dtype=torch.float64)
    log_w[0, [0, 20, 24]] = torch.tensor([2.0, 1, 1], dtype=torch.float64).log()
    assert turns_between(posteriors.local_mean(log_w, points), 0).max() < 1e-12


def test_local_mean_of_a_narrow_posterior_is_its_mean_and_stays_below_one():
    """The peak is at 0.99; the mean of 0.99, 0.01 and 0.02 is beyond the seam."""
    points = lattices.lattice(1, 100)
    weights = torch.zeros(1, 100, dtype=torch.float64)
    weights[0, [99, 1, 2]] = torch.tensor([0.34, 0.33, 0.33], dtype=torch.float64)
    mean = 0.34 * -0.01 + 0.33 * 0.01 + 0.33 * 0.02
    assert posteriors.local_mean(weights.log(), points).item() == pytest.approx(mean, abs=1e-3)


def test_moments_are_posterior_means(generator):
    points, weights = lattices.lattice(2, 55), random_weights(generator, 5, 55)
    features = harmonics.TorusBasis(2, 3)(points)
    moments = posteriors.moments(weights, features)
    torch.testing.assert_close(moments, (weights[:, :, None] * features).sum(1), rtol=0, atol=1e-12)
    mean, resultant = posteriors.mean_direction(weights, points)
    first = torch.cat([moments[:, :2], moments[:, 12:14]], 1)
    expected = torch.cat([resultant * (2 * pi * mean).cos(), resultant * (2 * pi * mean).sin()], 1)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-12)


def test_readouts_keep_float32_and_the_device(generator, device):
    points = lattices.lattice(2, 55, torch.float32).to(device)
    weights = random_weights(generator, 5, 55).float().to(device)
    exact = {
        name: readout(weights.cpu().double(), lattices.lattice(2, 55))
        for name, readout in READOUTS.items()
    }
    for name, readout in READOUTS.items():
        z = readout(weights, points)
        assert (z.dtype, z.device) == (torch.float32, points.device)
        assert turns_between(z.cpu().double(), exact[name]).max() < 1e-5
    assert (
        posteriors.entropy(weights).device
        == posteriors.effective_points(weights).device
        == points.device
    )
