"""PMFSampler against hand-made cases, naive loops and the laws of a density."""

import pickle
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import log
from time import process_time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare, cramervonmises
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skqlvm import PMFSampler

HAND = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 4.0], [4.0, 4.0]])

FLOATS = {
    np.float64: st.floats(-1e300, 1e300)
    | st.floats(-1, 1)
    | st.sampled_from([0.0, 1.0, 1.0 + 2**-52, 1e-320, 1e8, 1e8 + 2**-26]),
    np.float32: st.floats(-(2.0**100), 2.0**100, width=32)
    | st.floats(-1, 1, width=32)
    | st.sampled_from([0.0, 1.0, 1e8, 1e8 + 8]),
}


@st.composite
def codes(draw, dtypes=(np.float32, np.float64)):
    """Up to 13 codes in up to 5 dimensions, with ties, huge ranges and ranges of a few last
    digits."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.tuples(st.integers(1, 13), st.integers(1, 5)))
    return draw(arrays(dtype, shape, elements=FLOATS[dtype]))


@pytest.fixture(scope="module")
def Z():
    """Codes in three dimensions, 211 rows: two correlated columns and one of few values."""
    generator = np.random.default_rng(5)
    Z = generator.normal(size=(211, 3)) @ np.array(
        [[1.0, 0.7, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 1.0]]
    )
    Z[:, 2] = np.round(Z[:, 2])
    return Z


def occupied(sampler):
    """Masses by bins, as a dict."""
    return dict(zip(map(tuple, sampler.bins_.tolist()), sampler.weights_.tolist(), strict=True))


def test_hand_case_has_the_bins_weights_and_densities_of_paper_and_pencil():
    sampler = PMFSampler(4).fit(HAND)
    assert sampler.bins_.tolist() == [[0, 0], [1, 0], [1, 3], [3, 3]]
    assert sampler.bins_.dtype == np.uint8
    assert sampler.weights_.tolist() == [0.25] * 4
    assert sampler.n_bins_occupied_ == 4
    assert sampler.n_bins_.tolist() == [4, 4]
    assert [edges.tolist() for edges in sampler.bin_edges_] == [[0, 1, 2, 3, 4]] * 2
    np.testing.assert_allclose(
        sampler.score_samples([[0.5, 0.5], [4.0, 4.0], [1.2, 3.9]]), log(1 / 4), rtol=1e-15
    )
    assert np.isneginf(
        sampler.score_samples([[2.5, 0.5], [0.5, 3.5], [-0.1, 0.0], [4.1, 4.0]])
    ).all()
    assert sampler.score(HAND) == pytest.approx(-1.386294, abs=1e-6)


def test_samples_of_the_hand_case_have_its_moments():
    n = 200_000
    drawn = PMFSampler(4).fit(HAND).sample(n, random_state=0)
    covariance = np.cov(drawn.T, ddof=0)
    np.testing.assert_allclose(drawn.mean(axis=0), [1.75, 2.0], atol=5 * np.sqrt(2.34 / n))
    np.testing.assert_allclose(covariance, [[1.270833, 1.125], [1.125, 2.333333]], atol=0.02)


@given(codes(), st.integers(1, 29))
def test_bins_and_weights_equal_those_of_a_loop(Z, n_bins):
    bin_range = (np.float64(-1.5), np.float64(1.25))
    sampler = PMFSampler(n_bins, bin_range=bin_range).fit(Z)
    counts = Counter()
    for row in Z.astype(np.float64):
        position = [(min(max(z, -1.5), 1.25) + 1.5) * (n_bins / 2.75) for z in row]
        counts[tuple(min(int(p), n_bins - 1) for p in position)] += 1
    assert occupied(sampler) == {cell: count / len(Z) for cell, count in counts.items()}
    assert sampler.bins_.tolist() == sorted(sampler.bins_.tolist())


@pytest.mark.parametrize("n_bins", [7, (3, 300, 70_000)])
def test_rows_of_bins_are_sorted_as_numbers_in_every_integer_type(Z, n_bins):
    sampler = PMFSampler(n_bins).fit(Z)
    rows = sampler.bins_.tolist()
    assert rows == sorted(rows)
    assert len({tuple(row) for row in rows}) == len(rows) == sampler.n_bins_occupied_
    assert sampler.bins_.dtype == {7: np.uint8, 70_000: np.uint32}[np.max(n_bins)]
    np.testing.assert_array_equal(np.unique(sampler.quantize(Z), axis=0), sampler.bins_)


@given(codes(), st.integers(1, 500), st.sampled_from(["uniform", "center"]), st.integers(0, 9))
def test_every_sample_quantises_to_an_occupied_bin_and_has_a_density(Z, n_bins, within_bin, seed):
    sampler = PMFSampler(n_bins, within_bin=within_bin).fit(Z)
    drawn = sampler.sample(101, random_state=seed)
    assert drawn.dtype == Z.dtype
    assert {tuple(row) for row in sampler.quantize(drawn).tolist()} <= occupied(sampler).keys()
    assert ((drawn >= Z.min(axis=0)) & (drawn <= Z.max(axis=0))).all()
    assert np.isfinite(sampler.score_samples(drawn)).all()


@given(codes(), st.integers(1, 40), st.integers(0, 9))
def test_every_sample_on_circles_quantises_to_an_occupied_bin(Z, n_bins, seed):
    sampler = PMFSampler(n_bins, periodic=True, bin_range=(-0.3, 0.45)).fit(Z)
    drawn = sampler.sample(101, random_state=seed)
    assert {tuple(row) for row in sampler.quantize(drawn).tolist()} <= occupied(sampler).keys()
    assert ((drawn >= -0.3) & (drawn < 0.45)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_bins", [1, 3, 20, 1_000_003])
def test_samples_stay_in_their_bins_at_the_seams(dtype, n_bins):
    """Draws within rounding of every edge, where bins are far narrower than the codes are large,
    and where zero is inside."""
    for low, high in [(1000.0, 1000.5), (-1.0, 1.0), (0.1, 0.7)]:
        Z = np.linspace(low, high, 1009, dtype=dtype)[:, np.newaxis]
        sampler = PMFSampler(n_bins).fit(Z)
        bins = sampler.bins_.astype(np.int64)
        for within in (0.0, 1e-17, 0.5, 1 - 2**-53):
            placed = sampler._grid.place(bins + within, bins, np.dtype(dtype))
            np.testing.assert_array_equal(sampler.quantize(placed), bins)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("bin_range", [(0.0, 1.0), (0.1, 0.7), (-0.3, 0.45), (1 / 3, 1e4)])
def test_samples_stay_in_a_given_range_at_the_seams(dtype, periodic, bin_range):
    """Also where a dtype has not the ends of the range: a sample is inside, and on a circle not at
    its upper end."""
    low, high = bin_range
    Z = np.linspace(low, high, 101)[1:-1, np.newaxis].astype(dtype)
    sampler = PMFSampler(7, periodic=periodic, bin_range=bin_range).fit(Z)
    bins = sampler.bins_.astype(np.int64)
    for within in (0.0, 1e-17, 1 - 2**-53, 1.0):
        placed = sampler._grid.place(bins + within, bins, np.dtype(dtype))
        np.testing.assert_array_equal(sampler.quantize(placed), bins)
        assert (placed >= np.float64(low)).all()
        assert (placed < np.float64(high)).all() if periodic else (placed <= np.float64(high)).all()
        assert np.isfinite(sampler.score_samples(placed)).all()


@pytest.mark.parametrize("dtype", np.typecodes["AllInteger"])
@pytest.mark.parametrize("as_array", [False, True], ids=["scalar", "array"])
def test_number_of_bins_may_be_of_any_integer_type(Z, dtype, as_array):
    """At its largest value, where one more would overflow."""
    n_bins = min(np.iinfo(dtype).max, 70_000)
    typed = np.full(3, n_bins, dtype) if as_array else np.dtype(dtype).type(n_bins)
    sampler, plain = PMFSampler(typed).fit(Z), PMFSampler(n_bins).fit(Z)
    assert sampler.n_bins_.dtype == np.int64
    assert [len(edges) for edges in sampler.bin_edges_] == [n_bins + 1] * 3
    np.testing.assert_array_equal(sampler.bins_, plain.bins_)
    np.testing.assert_array_equal(sampler.score_samples(Z), plain.score_samples(Z))
    np.testing.assert_array_equal(
        sampler.sample(7, random_state=0), plain.sample(7, random_state=0)
    )


@pytest.mark.parametrize(
    "smoothing", [np.float16(0.25), np.float32(0.25), Fraction(1, 4)], ids=type
)
@pytest.mark.parametrize("integer", [np.int8, np.uint8, np.int32, np.int64])
def test_numbers_may_be_of_any_type(Z, smoothing, integer):
    ends = np.array([0.125, 0.875])
    typed = PMFSampler(
        integer(5),
        bin_range=("quantile", *ends.astype(np.float32)),
        smoothing=smoothing,
        random_state=integer(3),
    ).fit(Z)
    plain = PMFSampler(
        5, bin_range=("quantile", *ends.tolist()), smoothing=0.25, random_state=3
    ).fit(Z)
    np.testing.assert_array_equal(typed.score_samples(Z), plain.score_samples(Z))
    np.testing.assert_array_equal(typed.sample(integer(101)), plain.sample(101))
    for n_samples, batch_size in [(integer(101), 50), (101, integer(50)), (integer(101),) * 2]:
        batches = list(typed.sample_batches(n_samples, batch_size))
        np.testing.assert_array_equal(np.concatenate(batches), plain.sample(101))


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("periodic", [False, (True, False)])
def test_density_integrates_to_one(Z, smoothing, periodic):
    n_bins = (5, 7)
    sampler = PMFSampler(
        n_bins, smoothing=smoothing, bin_range=((-2.0, -1.5), (1.0, 1.25)), periodic=periodic
    ).fit(Z[:, :2])
    centres = np.meshgrid(
        *((edges[1:] + edges[:-1]) / 2 for edges in sampler.bin_edges_), indexing="ij"
    )
    area = 3.0 / 5 * 2.75 / 7
    density = np.exp(sampler.score_samples(np.column_stack([grid.ravel() for grid in centres])))
    assert density.sum() * area == pytest.approx(1, rel=1e-12)
    assert (density > 0).all() == (smoothing > 0)


@given(codes(), st.integers(1, 50))
def test_masses_sum_to_one_and_scores_are_log_mass_over_volume(Z, n_bins):
    sampler = PMFSampler(n_bins).fit(Z)
    assert sampler.weights_.sum() == pytest.approx(1, rel=1e-12)
    masses = occupied(sampler)
    widths = np.ptp(Z.astype(np.float64), axis=0)
    with np.errstate(divide="ignore", over="ignore"):
        divided = np.isfinite(n_bins / widths)
    for row, nats in zip(sampler.quantize(Z).tolist(), sampler.score_samples(Z), strict=True):
        log_widths = [log(w) - log(n_bins) for w, d in zip(widths, divided, strict=True) if d]
        assert nats == pytest.approx(log(masses[tuple(row)]) - sum(log_widths), rel=1e-5, abs=1e-5)


def test_sampled_bins_have_their_weights(Z):
    sampler = PMFSampler(4).fit(Z)
    n = 100_000
    found = Counter(map(tuple, sampler.quantize(sampler.sample(n, random_state=1)).tolist()))
    assert (
        chisquare([found[cell] for cell in occupied(sampler)], n * sampler.weights_).pvalue > 1e-3
    )


def test_samples_are_uniform_in_their_bin_or_at_its_centre():
    sampler = PMFSampler(5, bin_range=(0, 1)).fit([[0.33], [0.95]])
    offsets = sampler.sample(2000, random_state=3).ravel() * 5 % 1
    assert cramervonmises(offsets, "uniform").pvalue > 1e-3
    centres = sampler.set_params(within_bin="center").sample(50, random_state=3)
    np.testing.assert_allclose(np.unique(centres), [0.3, 0.9], rtol=1e-15)


def test_smoothing_draws_that_fraction_from_the_whole_box():
    sampler = PMFSampler(4, smoothing=0.4).fit([[0.0], [8.0]])
    drawn = sampler.sample(50_000, random_state=0).ravel()
    shares = np.histogram(drawn, bins=4, range=(0, 8))[0] / len(drawn)
    np.testing.assert_allclose(shares, [0.4, 0.1, 0.1, 0.4], atol=0.01)
    assert cramervonmises(drawn[(drawn > 2) & (drawn < 6)], "uniform", args=(2, 4)).pvalue > 1e-3
    np.testing.assert_allclose(
        np.exp(sampler.score_samples([[1.0], [3.0]])), [0.2, 0.05], rtol=1e-14
    )
    assert np.isneginf(sampler.score_samples([[8.1]]))
    centres = sampler.set_params(within_bin="center").sample(500, random_state=0)
    assert np.unique(centres).tolist() == [1, 3, 5, 7]


def test_256_dimensions_of_20_bins_do_not_overflow():
    Z = np.random.default_rng(0).normal(size=(1000, 256))
    sampler = PMFSampler(20).fit(Z)
    assert sampler.n_bins_occupied_ == 1000
    assert sampler.bins_.nbytes == 256_000
    drawn = sampler.sample(17, random_state=0)
    width = np.ptp(Z, axis=0) / 20
    nearest = (np.abs(drawn[:, np.newaxis] - Z) / width).max(axis=2).min(axis=1)
    assert (nearest <= 1).all()
    assert np.isfinite(sampler.score(Z))
    smooth = sampler.set_params(smoothing=0.5).score_samples(np.vstack([Z[:1], Z.mean(axis=0)]))
    assert smooth[0] == pytest.approx(log(0.5 / 1000) - np.log(width).sum())
    assert smooth[1] == pytest.approx(log(0.5) - np.log(20 * width).sum())


def test_time_grows_with_rows_and_columns_in_proportion():
    """Within a factor of five, where a square would be 32: other work on the processor must not
    matter."""

    def seconds(n, d):
        Z = np.random.default_rng(0).normal(size=(n, d))
        times = []
        for _ in range(5):
            start = process_time()
            PMFSampler(20).fit(Z)
            times.append(process_time() - start)
        return min(times)

    base = seconds(2000, 32)
    assert seconds(64_000, 32) < 5 * 32 * base
    assert seconds(2000, 1024) < 5 * 32 * base


def test_largest_code_is_in_the_last_bin_and_a_constant_column_keeps_its_value():
    for dtype in (np.float32, np.float64):
        Z = np.array([[0.1, 0.7], [0.35, 0.7], [0.7, 0.7]], dtype=dtype)
        sampler = PMFSampler(3).fit(Z)
        assert sampler.bins_[:, 0].tolist() == [0, 1, 2]
        assert sampler.n_bins_.tolist() == [3, 1]
        assert (sampler.sample(31, random_state=0)[:, 1] == dtype(0.7)).all()
        one = PMFSampler(3).fit(Z[:, :1])
        np.testing.assert_allclose(sampler.score_samples(Z), one.score_samples(Z[:, :1]))
        assert np.isneginf(sampler.score_samples(np.array([[0.3, 0.7001]], dtype=dtype)))


def test_a_single_code_is_all_that_can_be_sampled():
    for sampler in (PMFSampler(), PMFSampler(5)):
        sampler.fit([[1.5, -2.0]])
        assert sampler.sample(3, random_state=0).tolist() == [[1.5, -2.0]] * 3
        assert sampler.score_samples([[1.5, -2.0], [1.5, -2.1]]).tolist() == [0.0, -np.inf]


@given(st.integers(-60, 60), st.sampled_from([0.0, -3.0, 64.0]), st.sampled_from(["auto", 11]))
def test_scaling_and_shifting_a_column_does_it_to_the_samples(exponent, shift, n_bins):
    Z = np.random.default_rng(2).integers(-512, 512, size=(97, 3)) / 1024
    moved = Z.copy()
    moved[:, 1] = (moved[:, 1] + shift) * 2.0**exponent
    straight, other = PMFSampler(n_bins).fit(Z), PMFSampler(n_bins).fit(moved)
    np.testing.assert_array_equal(straight.bins_, other.bins_)
    expected = straight.sample(50, random_state=4)
    expected[:, 1] = (expected[:, 1] + shift) * 2.0**exponent
    np.testing.assert_allclose(
        other.sample(50, random_state=4), expected, rtol=1e-12, atol=1e-13 * 2.0**exponent
    )
    np.testing.assert_allclose(
        other.score_samples(moved), straight.score_samples(Z) - exponent * log(2), rtol=1e-9
    )


def test_one_bin_is_uniform_on_the_box_and_many_bins_resample_the_codes(Z):
    box = PMFSampler(1).fit(Z[:, :1])
    low, high = Z[:, 0].min(), Z[:, 0].max()
    assert (
        cramervonmises(
            box.sample(2000, random_state=0).ravel(), "uniform", args=(low, high - low)
        ).pvalue
        > 1e-3
    )
    drawn = PMFSampler(10_000_000).fit(Z).sample(300, random_state=0)
    gap = np.abs(drawn[:, np.newaxis] - Z).max(axis=2).min(axis=1)
    assert (gap <= np.ptp(Z, axis=0).max() / 10_000_000).all()


@given(codes(), st.randoms(use_true_random=False), st.sampled_from(["auto", 6]))
def test_order_of_the_rows_changes_nothing(Z, random, n_bins):
    order = list(range(len(Z)))
    random.shuffle(order)
    weights = np.random.default_rng(0).random(len(Z)) + 0.5
    straight = PMFSampler(n_bins).fit(Z, sample_weight=weights)
    shuffled = PMFSampler(n_bins).fit(Z[order], sample_weight=weights[order])
    np.testing.assert_array_equal(straight.bins_, shuffled.bins_)
    np.testing.assert_array_equal(straight.weights_, shuffled.weights_)
    np.testing.assert_array_equal(
        straight.sample(7, random_state=0), shuffled.sample(7, random_state=0)
    )


@given(
    st.integers(0, 99),
    st.sampled_from(["auto", 9]),
    st.sampled_from(["minmax", ("quantile", 0.1, 0.8)]),
)
def test_integer_weights_equal_repeated_rows(seed, n_bins, bin_range):
    generator = np.random.default_rng(seed)
    Z, repeats = generator.normal(size=(53, 2)), generator.integers(0, 4, size=53)
    weighted = PMFSampler(n_bins, bin_range=bin_range).fit(Z, sample_weight=repeats)
    repeated = PMFSampler(n_bins, bin_range=bin_range).fit(np.repeat(Z, repeats, axis=0))
    np.testing.assert_array_equal(weighted.bins_, repeated.bins_)
    np.testing.assert_array_equal(weighted.weights_, repeated.weights_)
    assert [edges.tolist() for edges in weighted.bin_edges_] == [
        edges.tolist() for edges in repeated.bin_edges_
    ]


def test_weights_are_masses_whatever_their_unit(Z):
    weights = np.random.default_rng(0).random(len(Z))
    for unit in (1e-300, 1.0, 1e297):
        sampler = PMFSampler(3).fit(Z, sample_weight=weights * unit)
        assert sampler.weights_.sum() == pytest.approx(1, rel=1e-12)
        bins = sampler.quantize(Z)
        for cell, mass in occupied(sampler).items():
            assert mass == pytest.approx(weights[(bins == cell).all(axis=1)].sum() / weights.sum())


def test_auto_takes_the_largest_weights_there_may_be():
    Z = np.random.default_rng(0).normal(size=(101, 31))
    assert np.isfinite(PMFSampler().fit(Z, sample_weight=np.full(101, 9e297)).score(Z))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True), st.booleans())
def test_partial_fits_equal_one_fit_with_a_given_range(cuts, conditional):
    generator = np.random.default_rng(1)
    Z, y = (
        generator.normal(size=(101, 3)),
        np.array(list("abcde"))[np.sort(generator.integers(0, 5, 101))],
    )
    parts = PMFSampler(7, bin_range=(-2, 2.5), conditional=conditional)
    for start, end in pairwise([0, *sorted(cuts), 101]):
        assert parts.partial_fit(Z[start:end], y[start:end]) is parts
    whole = PMFSampler(7, bin_range=(-2, 2.5), conditional=conditional).fit(Z, y)
    np.testing.assert_array_equal(parts.bins_, whole.bins_)
    np.testing.assert_array_equal(parts.weights_, whole.weights_)
    np.testing.assert_array_equal(
        parts.sample(31, random_state=0), whole.sample(31, random_state=0)
    )
    if conditional:
        assert parts.classes_.tolist() == list("abcde")
        np.testing.assert_array_equal(parts.bin_labels_, whole.bin_labels_)


def test_partial_fit_keeps_the_bins_of_the_first_call_and_clips(Z):
    sampler = PMFSampler(4).partial_fit(HAND).partial_fit([[-100.0, 2.5], [3.1, 1000.0]])
    assert occupied(sampler) == {
        (0, 0): 1 / 6,
        (0, 2): 1 / 6,
        (1, 0): 1 / 6,
        (1, 3): 1 / 6,
        (3, 3): 2 / 6,
    }
    assert sampler.bin_edges_[1].tolist() == [0, 1, 2, 3, 4]
    assert sampler.fit(HAND).bins_.tolist() == PMFSampler(4).fit(HAND).bins_.tolist()
    with pytest.raises(
        ValueError, match="X has 3 features, but PMFSampler is expecting 2 features as input"
    ):
        sampler.partial_fit(Z)


def test_two_components_apart_are_told_from_a_gaussian():
    """Sliced Wasserstein distance to held-out codes of a mixture: nearer than a normal distribution
    with the same moments."""
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    train, test = (
        centres[generator.integers(0, 3, 3000)] + generator.normal(size=(3000, 2)) for _ in range(2)
    )
    drawn = PMFSampler().fit(train).sample(3000, random_state=0)
    gaussian = generator.multivariate_normal(train.mean(axis=0), np.cov(train.T), size=3000)
    directions = generator.normal(size=(2, 500))
    directions /= np.linalg.norm(directions, axis=0)

    def distance(A):
        return np.abs(np.sort(A @ directions, axis=0) - np.sort(test @ directions, axis=0)).mean()

    assert distance(drawn) < 0.25 * distance(gaussian)


@pytest.mark.parametrize("d", [1, 2])
def test_auto_is_near_the_best_held_out_density_and_grows_with_the_data(d):
    """Of normal codes within three standard deviations; regret in nats a held-out code, if each
    number of bins has the best smoothing."""

    def normal(generator, n):
        Z = generator.normal(size=(n, d))
        return Z[(np.abs(Z) < 3).all(axis=1)]

    def held_out(n_bins, train, test):
        sampler = PMFSampler(n_bins, bin_range=(-3, 3)).fit(train)
        return max(
            sampler.set_params(smoothing=a).score(test) for a in (0.001, 0.01, 0.03, 0.1, 0.3)
        )

    chosen, regrets = np.empty((2, 3, 5))
    for i, n in enumerate((200, 2000, 20_000)):
        for seed in range(5):
            generator = np.random.default_rng(seed)
            train, test = normal(generator, n), normal(generator, 3000)
            auto = PMFSampler(bin_range=(-3, 3)).fit(train).n_bins_
            assert len(set(auto)) == 1
            chosen[i, seed] = auto[0]
            scores = [
                held_out(n_bins, train, test)
                for n_bins in (1, 3, 4, 5, 7, 9, 12, 16, 20, 25, 32, 45, 64, 100)
            ]
            regrets[i, seed] = max(scores) - held_out(int(auto[0]), train, test)
            assert max(scores) - scores[0] > 0.3
    assert (regrets.mean(axis=1) < [0.1, 0.02, 0.01]).all()
    few, more, many = np.log(chosen).mean(axis=1)
    # n^(1/3) in one dimension, n^(1/4) in two
    assert (many - few) / log(100) == pytest.approx(1 / (d + 2), abs=0.1)
    assert few < more < many


def test_auto_takes_one_bin_for_uniform_codes_and_fine_ones_for_repeated_values():
    generator = np.random.default_rng(0)
    for d in (1, 2, 17):
        assert (PMFSampler().fit(generator.random((3000, d))).n_bins_ == 1).all()
    assert PMFSampler().fit(generator.choice([0.0, 0.1234, 1.0], size=(3000, 1))).n_bins_[0] > 500
    assert PMFSampler().fit([[0.0], [0.1234], [1.0]] * 11).n_bins_[0] == 32


def test_auto_is_finite_and_fine_where_every_code_is_alone():
    Z = np.random.default_rng(0).normal(size=(499, 32))
    sampler = PMFSampler().fit(Z)
    assert 8 <= sampler.n_bins_[0] <= 64
    assert sampler.n_bins_occupied_ == 499
    assert np.isfinite(sampler.score(Z))
    # the marginals decide: the number of bins is about that of a single dimension
    assert sampler.n_bins_[0] == pytest.approx(PMFSampler().fit(Z[:, :1]).n_bins_[0], rel=1)


def test_auto_ignores_constant_columns(Z):
    with_constant = np.hstack([Z[:, :2], np.full((len(Z), 1), 3.0)])
    k = PMFSampler().fit(Z[:, :2]).n_bins_[0]
    assert PMFSampler().fit(with_constant).n_bins_.tolist() == [k, k, 1]
    wide = np.hstack([np.random.default_rng(0).normal(size=(101, 30)), np.zeros((101, 30))])
    k = PMFSampler().fit(wide[:, :30]).n_bins_[0]
    assert PMFSampler().fit(wide).n_bins_.tolist() == [k] * 30 + [1] * 30
    assert k > 1


def test_range_by_quantiles_clips_the_tails():
    Z = np.append(np.arange(100.0), [1e6])[:, np.newaxis]
    sampler = PMFSampler(10, bin_range=("quantile", 0.1, 0.9)).fit(Z)
    low, high = sampler.bin_edges_[0][[0, -1]]
    assert (low, high) == (10.0, 90.0)
    assert sampler.bins_.ravel().tolist() == list(range(10))
    assert sampler.weights_[0] == pytest.approx(18 / 101)
    assert sampler.weights_[-1] == pytest.approx(19 / 101)
    assert sampler.sample(1000, random_state=0).max() <= 90
    assert sampler.quantize([[-5.0], [1e9]]).ravel().tolist() == [0, 9]
    assert np.isneginf(sampler.score_samples([[9.9], [1e6]])).all()


def test_circles_are_binned_by_turns_and_wrap():
    Z = np.array([[0.05], [1.05], [-0.95], [0.95], [-0.05]])
    sampler = PMFSampler(10, periodic=True).fit(Z)
    assert sampler.bins_.ravel().tolist() == [0, 9]
    np.testing.assert_allclose(sampler.weights_, [0.6, 0.4])
    np.testing.assert_array_equal(
        sampler.quantize([[7.05], [-3.01], [1.0], [-1e-20]]).ravel(), [0, 9, 0, 9]
    )
    np.testing.assert_allclose(sampler.score_samples([[2.01], [-0.01]]), np.log([6.0, 4.0]))
    assert sampler.bin_edges_[0][[0, -1]].tolist() == [0, 1]


def test_circles_and_lines_mix():
    Z = np.random.default_rng(0).normal(size=(211, 2)) * 3
    sampler = PMFSampler((5, 7), periodic=[True, False]).fit(Z)
    assert sampler.bin_edges_[0][[0, -1]].tolist() == [0, 1]
    assert sampler.bin_edges_[1][[0, -1]].tolist() == [Z[:, 1].min(), Z[:, 1].max()]
    turned = Z + np.array([4.0, 0.0])
    np.testing.assert_allclose(sampler.score_samples(turned), sampler.score_samples(Z))
    assert np.isneginf(sampler.score_samples(Z + np.array([0.0, 40.0]))).all()
    degrees = PMFSampler(36, periodic=True, bin_range=(0, 360)).fit([[355.0], [-1.0], [725.0]])
    assert degrees.bins_.ravel().tolist() == [0, 35]


def test_classes_have_densities_of_their_own_over_common_bins(Z):
    y = np.where(Z[:, 0] > 0.5, "right", "left")
    sampler = PMFSampler(6, conditional=True).fit(Z, y)
    assert sampler.classes_.tolist() == ["left", "right"]
    for label in ("left", "right"):
        of_class = Z[y == label]
        alone = PMFSampler(6, bin_range=(Z.min(axis=0), Z.max(axis=0))).fit(of_class)
        np.testing.assert_array_equal(sampler.bins_[sampler.bin_labels_ == label], alone.bins_)
        np.testing.assert_allclose(
            sampler.weights_[sampler.bin_labels_ == label], alone.weights_ * (y == label).mean()
        )
        np.testing.assert_allclose(
            sampler.score_samples(Z, label=label), alone.score_samples(Z), rtol=1e-13
        )
        np.testing.assert_array_equal(
            sampler.sample(37, random_state=3, label=label), alone.sample(37, random_state=3)
        )
    both = PMFSampler(6).fit(Z)
    np.testing.assert_allclose(sampler.score_samples(Z), both.score_samples(Z), rtol=1e-13)
    drawn = sampler.sample(20_000, random_state=0)
    assert (drawn[:, 0] > 0.5).mean() == pytest.approx(
        (both.sample(20_000, random_state=1)[:, 0] > 0.5).mean(), abs=0.02
    )


def test_auto_bins_of_classes_serve_the_classes():
    """Two classes side by side fill the line evenly: without y one bin does."""
    Z = np.linspace(0, 1, 1001)[:, np.newaxis]
    y = (Z.ravel() > 0.5).astype(int)
    assert PMFSampler().fit(Z, y).n_bins_[0] == 1
    assert PMFSampler(conditional=True).fit(Z, y).n_bins_[0] == 2
    # each class in two quarters of each of many dimensions, where no two codes meet
    generator = np.random.default_rng(0)
    quarters = 2 * generator.integers(0, 2, (1000, 64)) + np.arange(1000)[:, np.newaxis] % 2
    alone = (quarters + generator.random((1000, 64))) / 4
    assert PMFSampler().fit(alone).n_bins_[0] == 1
    assert PMFSampler(conditional=True).fit(alone, np.arange(1000) % 2).n_bins_[0] == 4


def test_y_is_ignored_unless_asked_for(Z):
    y = np.arange(len(Z)) % 3
    with_y, without = PMFSampler(5).fit(Z, y), PMFSampler(5).fit(Z)
    np.testing.assert_array_equal(with_y.bins_, without.bins_)
    assert not hasattr(with_y, "classes_")
    again = PMFSampler(5, conditional=True).fit(Z, y).set_params(conditional=False).fit(Z, y)
    assert not hasattr(again, "classes_")
    assert not hasattr(again, "bin_labels_")


@pytest.mark.parametrize("parameters", [{}, {"smoothing": 0.3}, {"within_bin": "center"}])
@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_batches_are_the_sample_cut_in_pieces(Z, parameters, batch_size):
    sampler = PMFSampler(5, **parameters).fit(Z)
    batches = list(sampler.sample_batches(100, batch_size, random_state=3))
    assert [len(batch) for batch in batches] == [batch_size] * (100 // batch_size) + [
        100 % batch_size
    ] * (100 % batch_size > 0)
    np.testing.assert_array_equal(np.concatenate(batches), sampler.sample(100, random_state=3))


def test_sample_itself_is_drawn_in_pieces():
    Z = np.random.default_rng(0).normal(size=(11, 1024))
    sampler = PMFSampler(3).fit(Z)
    drawn = sampler.sample(600, random_state=0)
    assert {tuple(row) for row in sampler.quantize(drawn).tolist()} == occupied(sampler).keys()
    np.testing.assert_array_equal(drawn, next(sampler.sample_batches(600, 600, random_state=0)))


def test_seeds_make_samples_repeatable(Z):
    sampler = PMFSampler(5, random_state=1).fit(Z)
    np.testing.assert_array_equal(sampler.sample(5), sampler.sample(5, random_state=1))
    assert not np.array_equal(sampler.sample(5), sampler.sample(5, random_state=2))
    state = np.random.RandomState(0)
    assert not np.array_equal(sampler.sample(5, state), sampler.sample(5, state))


def test_grid_search_chooses_bins_by_held_out_likelihood():
    Z = np.random.default_rng(0).beta(2, 2, size=(400, 1))
    search = GridSearchCV(
        PMFSampler(bin_range=(0, 1), smoothing=0.05), {"n_bins": [1, 6, 300]}
    ).fit(Z, np.zeros(400))
    assert search.best_params_ == {"n_bins": 6}
    assert np.isfinite(search.best_score_)


def test_clones_and_pickles_sample_the_same(Z):
    sampler = PMFSampler((5, 4, 3), bin_range=("quantile", 0.05, 0.95), smoothing=0.1).fit(Z)
    for other in (pickle.loads(pickle.dumps(sampler)), clone(sampler).fit(Z)):
        np.testing.assert_array_equal(
            sampler.sample(9, random_state=0), other.sample(9, random_state=0)
        )
        np.testing.assert_array_equal(sampler.score_samples(Z), other.score_samples(Z))


def test_data_frames_and_read_only_arrays_are_taken_and_left_alone(Z):
    frame = pd.DataFrame(Z, columns=["a", "b", "c"])
    sampler = PMFSampler(5).fit(frame)
    assert sampler.feature_names_in_.tolist() == ["a", "b", "c"]
    assert np.isfinite(sampler.score_samples(frame)).all()
    frozen = Z.copy(order="F")
    frozen.setflags(write=False)
    np.testing.assert_array_equal(PMFSampler(5).fit(frozen).bins_, sampler.bins_)
    np.testing.assert_array_equal(frozen, Z)


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324, 2.0**-1040])
def test_huge_and_tiny_codes_are_binned(scale):
    Z = np.array([[-1.0], [0.0], [1.0]]) * scale
    sampler = PMFSampler(3).fit(Z)
    drawn = sampler.sample(50, random_state=0)
    assert ((drawn >= Z.min()) & (drawn <= Z.max())).all()
    assert {tuple(row) for row in sampler.quantize(drawn).tolist()} <= occupied(sampler).keys()
    assert not np.isnan(sampler.score_samples(np.array([[-1e308], [0.0], [1e308]]))).any()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_bins": 0}, ValueError, "n_bins expects an integer of at least 1 or 'auto', but got 0"),
        (
            {"n_bins": 2.5},
            TypeError,
            "n_bins expects an integer of at least 1 or 'auto', but got 2.5",
        ),
        (
            {"n_bins": True},
            TypeError,
            "n_bins expects an integer of at least 1 or 'auto', but got True",
        ),
        (
            {"n_bins": None},
            TypeError,
            "n_bins expects an integer of at least 1 or 'auto', but got None",
        ),
        (
            {"n_bins": "many"},
            TypeError,
            "n_bins expects an integer of at least 1 or 'auto', but got 'many'",
        ),
        (
            {"n_bins": 2**32},
            ValueError,
            "n_bins expects integers of at most 2147483648, but got 4294967296",
        ),
        (
            {"n_bins": 10**30},
            ValueError,
            "n_bins expects integers of at most 2147483648, but got 1000",
        ),
        (
            {"n_bins": (2, 0, 3)},
            ValueError,
            "each entry of n_bins expects an integer of at least 1, but got 0",
        ),
        (
            {"n_bins": (2, 2.5, 3)},
            TypeError,
            "each entry of n_bins expects an integer of at least 1, but got 2.0",
        ),
        (
            {"n_bins": (2, 3)},
            ValueError,
            r"n_bins expects one value, or one for each of the 3 features, but got \(2, 3\)",
        ),
        (
            {"bin_range": "quantile"},
            ValueError,
            r"bin_range expects 'minmax', \('quantile', lower, upper\) or \(low, high\), but got "
            r"'quantile'",
        ),
        ({"bin_range": 1.0}, ValueError, r"bin_range expects 'minmax', .* but got 1.0"),
        (
            {"bin_range": (0, 1, 2)},
            ValueError,
            r"bin_range expects 'minmax', .* but got \(0, 1, 2\)",
        ),
        (
            {"bin_range": ("a", "b")},
            ValueError,
            r"bin_range expects 'minmax', .* but got \('a', 'b'\)",
        ),
        (
            {"bin_range": (1, 1)},
            ValueError,
            r"bin_range expects finite numbers with low < high in every dimension, but got \(1, "
            r"1\)",
        ),
        (
            {"bin_range": (0, np.inf)},
            ValueError,
            "bin_range expects finite numbers with low < high in every dimension",
        ),
        (
            {"bin_range": ((0, 0, 2), (1, 1, 1))},
            ValueError,
            "bin_range expects finite numbers with low < high in every dimension",
        ),
        (
            {"bin_range": ((0, 0), (1, 1))},
            ValueError,
            "each end of bin_range expects one value, or one for each of the 3 features",
        ),
        (
            {"bin_range": ("quantile", 0.9, 0.1)},
            ValueError,
            r"bin_range expects quantiles with 0 <= lower < upper <= 1, but got \('quantile'",
        ),
        (
            {"bin_range": ("quantile", 1, 99)},
            ValueError,
            "bin_range expects quantiles with 0 <= lower < upper <= 1",
        ),
        (
            {"bin_range": ("quantile", "a", 1)},
            ValueError,
            "bin_range expects quantiles with 0 <= lower < upper <= 1",
        ),
        (
            {"periodic": (True, False)},
            ValueError,
            "periodic expects one value, or one for each of the 3 features, but got",
        ),
        ({"periodic": "yes"}, TypeError, "periodic expects booleans, but got 'yes'"),
        (
            {"within_bin": "edge"},
            ValueError,
            r"within_bin expects one of \['center', 'uniform'\], but got 'edge'",
        ),
        ({"smoothing": 1.0}, ValueError, r"smoothing expects a number in \[0, 1\), but got 1.0"),
        ({"smoothing": -0.1}, ValueError, r"smoothing expects a number in \[0, 1\), but got -0.1"),
        (
            {"conditional": True},
            ValueError,
            "conditional=True expects y, the class of each code, but got None",
        ),
    ],
)
def test_bad_parameters_are_refused_and_leave_nothing_behind(Z, parameters, error, message):
    sampler = PMFSampler(**parameters)
    for fit in (sampler.fit, sampler.partial_fit):
        with pytest.raises(error, match=message):
            fit(Z)
        assert vars(sampler) == vars(PMFSampler(**parameters))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"Z": [[0.0], [np.nan]]}, "Input X contains NaN"),
        ({"Z": [[0.0], [np.inf]]}, "Input X contains infinity"),
        (
            {"Z": [[-1.7e308], [1.7e308]]},
            "The range of the codes is too large: its width overflows. Rescale the codes.",
        ),
        (
            {"sample_weight": [1.0, -2.0]},
            "sample_weight expects nonnegative weights, but got a minimum of -2",
        ),
        (
            {"sample_weight": [0.0, 0.0]},
            "sample_weight expects at least one positive weight, but all weights are zero",
        ),
        (
            {"sample_weight": [1e308, 1e308]},
            r"sample_weight expects a sum in \[1e-300, 1e\+300\], but got inf. Divide the weights "
            r"by their maximum, 1e\+308\.",
        ),
        (
            {"sample_weight": [5e-324, 0.0]},
            r"sample_weight expects a sum in \[1e-300, 1e\+300\], but got 4.94066e-324",
        ),
        ({"sample_weight": [1.0, np.nan]}, "Input sample_weight contains NaN"),
        (
            {"sample_weight": [1.0]},
            r"sample_weight expects one weight for each of the 2 samples, but got shape \(1,\)",
        ),
        (
            {"sample_weight": [0.5, 0.5]},
            "n_bins='auto' expects sample_weight to count codes, but it sums to 1 over 2 codes. "
            "Multiply it",
        ),
    ],
)
def test_bad_data_are_refused_and_leave_the_last_fit(arguments, message):
    sampler = PMFSampler().fit([[0.0], [1.0], [2.0]])
    before = dict(vars(sampler))
    with pytest.raises(ValueError, match=message):
        sampler.fit(**{"Z": [[0.0], [1.0]], **arguments})
    assert vars(sampler).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(sampler).items())


def test_queries_say_what_is_wrong(Z):
    sampler = PMFSampler(3)
    for query in (sampler.sample, sampler.sample_batches, sampler.score_samples, sampler.quantize):
        with pytest.raises(NotFittedError, match="This PMFSampler instance is not fitted yet"):
            query(Z)
    sampler.fit(Z)
    with pytest.raises(ValueError, match="n_samples expects an integer of at least 1, but got 0"):
        sampler.sample(0)
    with pytest.raises(
        TypeError, match=r"n_samples expects an integer of at least 1, but got 2\.0"
    ):
        sampler.sample(2.0)
    with pytest.raises(ValueError, match="batch_size expects an integer of at least 1, but got 0"):
        sampler.sample_batches(3, 0)
    with pytest.raises(
        ValueError,
        match=r"label='a' needs a density for each class\. Fit with conditional=True and y\.",
    ):
        sampler.sample(label="a")
    with pytest.raises(
        ValueError, match="X has 2 features, but PMFSampler is expecting 3 features"
    ):
        sampler.score_samples(Z[:, :2])
    with pytest.raises(ValueError, match="smoothing expects a number"):
        sampler.set_params(smoothing=2).score_samples(Z)
    y = np.arange(len(Z)) % 2
    classes = PMFSampler(3, conditional=True).fit(Z, y)
    with pytest.raises(ValueError, match=r"label expects one of \[0, 1\], but got 7"):
        classes.score_samples(Z, label=7)
    with pytest.raises(
        ValueError, match=r"conditional=False cannot continue a fit that had True\. Fit anew"
    ):
        classes.set_params(conditional=False).partial_fit(Z, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        PMFSampler(3, conditional=True).fit(Z, y[:-1])


def test_sampling_codes_needs_no_torch():
    code = (
        "import sys\n"
        "from sklearn.decomposition import PCA\n"
        "from skqlvm import LatentSampler, PMFSampler\n"
        "X = [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]\n"
        "PMFSampler().fit(X).sample(3)\n"
        "LatentSampler(PCA(1)).fit(X).sample(3)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
