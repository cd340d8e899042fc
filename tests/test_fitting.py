"""Whether a training was long enough, by what its history says."""

import warnings
from math import pi

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skqlvm import QLVMEmbedding
from skqlvm._fitting import falls_still
from skqlvm.engine import training


def history(validation_loss=None, loss=None, n_steps=100):
    n_records = len(loss or validation_loss)
    blank = [float("nan")] * n_records
    steps = np.linspace(0, n_steps, n_records + 1)[1:].tolist()
    return {"step": steps, "loss": loss or blank, "validation_loss": validation_loss or blank}


@pytest.mark.parametrize(("kind", "share"), [("validation_loss", 0.05), ("loss", 0.15)])
def test_training_falls_still_if_its_later_half_gains_a_share(kind, share):
    """Of a loss that falls by 100, in two steps: at once, and after the middle."""
    for lately, expected in ((share - 0.001, False), (share + 0.001, True)):
        losses = [100.0] + [100 * lately] * 15 + [0.0] * 8
        assert falls_still(history(**{kind: losses})) is expected


def test_noise_of_the_training_loss_is_no_fall():
    """Noise of 16 % of the gain, around a plateau that was reached at once."""
    generator = np.random.default_rng(0)
    fell = [falls_still(history(loss=[100.0, *generator.normal(0, 16, 23)])) for _ in range(499)]
    assert np.mean(fell) < 0.05


def test_held_out_loss_goes_before_the_training_loss():
    rests, falls = [9.0] + [0.0] * 23, np.arange(24.0, 0, -1).tolist()
    assert not falls_still(history(rests, falls))
    assert falls_still(history(falls, rests))
    assert falls_still(history(rests, rests, n_steps=99))


def test_end_without_held_out_rows_leaves_what_was_reached():
    """Rows that were held out are trained on in the end: their loss is not a number then."""
    end = [float("nan")] * 6
    assert falls_still(history([100.0] + [6.0] * 13 + [0.0] * 4 + end, [1.0] * 24))
    assert not falls_still(history([100.0] + [4.0] * 13 + [0.0] * 4 + end, [1.0] * 24))


@pytest.mark.parametrize("fraction", [0.1, 0.0])
def test_training_of_more_than_a_hundred_steps_may_be_too_short(fraction):
    """On a noisy ring: by small steps, and not by large ones."""
    generator = np.random.default_rng(7)
    angle = 2 * pi * generator.random((101, 1))
    ring = np.hstack([np.cos(angle), np.sin(angle)]) @ generator.normal(size=(2, 5))
    X = ring + 0.2 * generator.normal(size=(101, 5))
    sizes = {"n_points": 34, "n_points_eval": 55, "hidden_layer_sizes": (8,), "harmonic_order": 2}
    model = QLVMEmbedding(1, **sizes, noise_variance=0.04, random_state=0)
    model.set_params(validation_fraction=fraction, max_iter=120, learning_rate=1e-3)
    with pytest.warns(ConvergenceWarning, match="Training ended after 120 steps before its loss"):
        model.fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.set_params(max_iter=300, learning_rate=0.02).fit(X)


# held-out rows in the last quarter


def trained_rows(X, monkeypatch, **parameters):
    """The fitted model, and the numbers of the rows that each step took."""
    steps = []
    step_of = training._Run.next_batch

    def next_batch(run):
        index = step_of(run)
        steps.append(set(run.nats.args[1].trained[index].tolist()))
        return index

    monkeypatch.setattr(training._Run, "next_batch", next_batch)
    settings = {"n_points": 13, "n_points_eval": 55, "hidden_layer_sizes": (8,), "random_state": 0}
    return QLVMEmbedding(1, **settings, **parameters).fit(X), steps


def circle(n_rows):
    generator = np.random.default_rng(0)
    angle = 2 * pi * generator.random(n_rows)
    return np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * generator.normal(
        size=(n_rows, 2)
    )


@pytest.mark.parametrize(
    ("n_rows", "since", "join"),
    [(1009, 0, True), (1009, 1, True), (1009, 2, False), (701, 0, False)],
)
def test_held_out_rows_join_the_last_quarter_of_a_fit_that_goes_well(
    n_rows, since, join, monkeypatch
):
    """If they are a hundred or more, and one of the last two validations was the best."""
    remember_of = training._Run.remember

    def remember(run, held_out):
        remember_of(run, held_out)
        run.state.records_since_best = since

    monkeypatch.setattr(training._Run, "remember", remember)
    model, steps = trained_rows(circle(n_rows), monkeypatch, max_iter=13)
    three_quarters = round(0.75 * len(steps))
    before, after = (set.union(*part) for part in (steps[:three_quarters], steps[three_quarters:]))
    assert len(before) == n_rows - round(0.1 * n_rows)
    assert (after == set(range(n_rows))) if join else (after <= before)
    held_out, at = (np.array(model.history_[name]) for name in ("validation_loss", "step"))
    assert np.isfinite(held_out[at <= three_quarters]).all()
    assert np.isnan(held_out[at > three_quarters]).all() == join


def test_held_out_rows_stay_out_of_fits_that_others_may_go_on_from(monkeypatch):
    """The next fit is validated by the same rows."""
    monkeypatch.setattr(training._Run, "remember", lambda run, held_out: None)
    _, steps = trained_rows(circle(1009), monkeypatch, max_iter=13, warm_start=True)
    assert len(set.union(*steps)) == 908
