"""Histograms of occupied cells against loops over codes."""

from math import log

import numpy as np

from skqlvm.sampling import histograms


def test_held_out_gain_leaves_one_out_as_a_loop_does():
    """Each code is scored by the others of its class, mixed with the uniform distribution in some
    fraction."""
    labels, cells = (
        np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1]),
        np.array([5, 5, 2, 2, 2, 7, 2, 2, 2, 0]),
    )
    n_cells = 11
    fractions = 1 / (1 + np.exp(-histograms._LOGITS.ravel()))
    expected = np.zeros(len(fractions))
    for i in range(10):
        others = (labels == labels[i]) & (np.arange(10) != i)
        share = (cells[others] == cells[i]).mean()
        expected += np.log((1 - fractions) * share * n_cells + fractions)
    counts = [np.unique(cells[labels == c], return_counts=True)[1].astype(float) for c in (0, 1)]
    np.testing.assert_allclose(histograms.held_out_gains(counts, log(n_cells)), expected, rtol=1e-9)
    assert np.isfinite(histograms.held_out_gains([np.ones(7), np.ones(1)], 1e4)).all()


def test_histogram_counts_and_adds_as_a_loop_does():
    generator = np.random.default_rng(0)
    bins = generator.integers(0, 3, size=(101, 2)).astype(np.uint8)
    y, weights = np.array(list("cab"))[generator.integers(0, 3, 101)], generator.random(101)
    parts = histograms.Histogram.of(bins[:59], y[:59], weights[:59])
    both = parts.plus(bins[59:], y[59:], weights[59:])
    whole = histograms.Histogram.of(bins, y, weights)
    for histogram in (both, whole):
        assert histogram.classes.tolist() == ["a", "b", "c"]
        assert histogram.ends.tolist() == [9, 18, 27]
        assert histogram.labels.tolist() == [*"a" * 9, *"b" * 9, *"c" * 9]
        for number, label in enumerate("abc"):
            cells, counts = histogram.cells(number)
            assert cells.tolist() == [[i, j] for i in range(3) for j in range(3)]
            for cell, count in zip(cells, counts, strict=True):
                rows = (y == label) & (bins == cell).all(axis=1)
                np.testing.assert_allclose(count, weights[rows].sum(), rtol=1e-14)
        np.testing.assert_allclose(
            histogram.masses(bins[:1]), weights[(bins == bins[0]).all(axis=1)].sum() / weights.sum()
        )
        np.testing.assert_allclose(
            histogram.masses(bins[:1], 1),
            weights[(bins == bins[0]).all(axis=1) & (y == "b")].sum() / weights[y == "b"].sum(),
        )
