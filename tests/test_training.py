"""The training loop on problems small enough to know: means, counters, scripted losses."""

import random
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skqlvm.engine import optimizers, training
from skqlvm.engine.randomness import Stream

TARGETS = torch.tensor(
    [[1.0, -2.0, 0.5], [0.0, 4.0, 3.0], [5.0, 1.0, -1.0], [2.0, 2.0, 2.0], [-3.0, 0.0, 1.5]],
    dtype=torch.float64,
)


def how(n_steps=23, *, learning_rate=0.05, one_cycle=True, **others):
    """Settings of a short training."""
    cycle = optimizers.one_cycle(learning_rate, n_steps)
    schedule = cycle if one_cycle else optimizers.constant(learning_rate)
    usual = {"optimizer": optimizers.adam, "batch_size": 2, "steps_per_record": 5}
    return training.Settings(n_steps, schedule, **usual | others)


class Point(nn.Module):
    """Three numbers to be moved."""

    def __init__(self, start=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((3,), start, dtype=torch.float64))


def squares(point, targets=TARGETS):
    """Mean squared distance to rows of the targets."""
    return lambda rows: (
        (point.w - targets.to(point.w)[rows.to(point.w.device)]).square().sum(1).mean()
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def nats_of(loss):
    """The same nats for each row, minus a loss."""
    return lambda rows: -loss(rows).expand(len(rows))


def train(point, settings=None, seed=0, loss=None, validation_loss=None, **arguments):
    return training.train(
        point,
        nats_of(loss or squares(point)),
        len(TARGETS),
        settings or how(),
        seeded(seed),
        validation=validation_loss and (lambda: -validation_loss()),
        **arguments,
    )


@pytest.mark.parametrize("one_cycle", [True, False])
def test_training_finds_the_mean_of_a_quadratic_problem(one_cycle, device):
    point = Point().to(device)
    train(point, how(n_steps=800, batch_size=5, one_cycle=one_cycle))
    torch.testing.assert_close(point.w.detach().cpu(), TARGETS.mean(0), rtol=0, atol=1e-2)


def test_small_batches_find_it_as_well_once_annealed():
    point = Point()
    train(point, how(n_steps=2000, batch_size=2, learning_rate=0.1))
    torch.testing.assert_close(point.w.detach(), TARGETS.mean(0), rtol=0, atol=0.1)


# batches


@given(n_rows=st.integers(1, 40), batch_size=st.integers(1, 43), n_passes=st.integers(1, 3))
def test_every_row_is_used_once_a_pass(n_rows, batch_size, n_passes):
    point, batches = Point(), []

    def loss(rows):
        batches.append(rows.tolist())
        return point.w.square().sum()

    n_batches = -(-n_rows // batch_size)
    training.train(
        point,
        nats_of(loss),
        n_rows,
        how(n_steps=n_passes * n_batches, batch_size=batch_size),
        seeded(),
    )
    assert len(batches) == n_passes * n_batches
    for start in range(0, len(batches), n_batches):
        epoch = batches[start : start + n_batches]
        assert sorted(row for batch in epoch for row in batch) == list(range(n_rows))
        sizes = {len(batch) for batch in epoch}
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


@given(
    n_rows=st.integers(1, 40),
    batch_size=st.integers(1, 43),
    n_halved=st.integers(0, 9),
    n_steps=st.integers(1, 20),
)
def test_halved_batches_use_every_row_once_a_pass_too(n_rows, batch_size, n_halved, n_steps):
    point, seen, sizes = Point(), [], []

    def loss(rows):
        seen.extend(rows.tolist())
        sizes.append(len(rows))
        return point.w.square().sum()

    settings = how(n_steps=n_steps, batch_size=batch_size, halved_until=n_halved)
    state = training.train(point, nats_of(loss), n_rows, settings, seeded())
    half = max(1, batch_size // 2)
    assert all(size <= half for size in sizes[:n_halved])
    assert all(size <= batch_size for size in sizes)
    assert min(sizes) >= min(n_rows, half) / 2
    for start in range(0, len(seen), n_rows):
        some = seen[start : start + n_rows]
        assert len(set(some)) == len(some)
    assert state.n_passes == pytest.approx(len(seen) / n_rows)


def test_passes_are_shuffled_anew():
    orders = []

    def loss(rows):
        orders.append(tuple(rows.tolist()))
        return point.w.sum()

    point = Point()
    training.train(point, nats_of(loss), 101, how(n_steps=3, batch_size=101), seeded())
    assert len({*orders, tuple(range(101))}) == 4


def test_same_generator_gives_the_same_weights_and_another_others():
    first, again, other = Point(), Point(), Point()
    for point, seed in ((first, 3), (again, 3), (other, 4)):
        train(point, seed=seed)
    assert torch.equal(first.w, again.w)
    assert not torch.equal(first.w, other.w)


def test_training_leaves_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    train(Point())
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


# records


def test_history_has_one_entry_a_record_and_the_last_step(generator):
    losses, seen = [], []

    def loss(rows):
        value = squares(point)(rows)
        losses.append(value.item())
        return value

    def report(state):
        seen.append((state.step, len(state.history["step"])))

    point = Point()
    state = train(
        point,
        loss=loss,
        validation_loss=lambda: squares(point)(torch.arange(5)),
        after_record=[report],
    )
    assert state.step == 23
    assert state.history["step"] == [5, 10, 15, 20, 23]
    assert seen == [(5, 1), (10, 2), (15, 3), (20, 4), (23, 5)]
    assert {len(values) for values in state.history.values()} == {5}
    expected = [
        np.mean(losses[start:stop])
        for start, stop in [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]
    ]
    np.testing.assert_allclose(state.history["loss"], expected, rtol=1e-12)
    assert all(value > 0 for value in np.diff([0.0, *state.history["seconds"]]))


def test_training_without_validation_keeps_the_last_weights():
    point, weights = Point(), []
    state = train(point, after_record=[lambda state: weights.append(point.w.detach().clone())])
    assert np.isnan(state.history["validation_loss"]).all()
    assert state.best_weights is None
    assert torch.equal(point.w, weights[-1])
    assert not torch.equal(weights[-1], weights[-2])


def test_best_validated_weights_are_restored():
    """The weights move from 0 to 4; validation likes 1 best."""
    point, weights = Point(), []

    def validation():
        weights.append(point.w.detach().clone())
        return (point.w - 1).square().sum()

    settings = how(n_steps=200, one_cycle=False)
    state = train(
        point, settings, loss=lambda rows: (point.w - 4).square().sum(), validation_loss=validation
    )
    best = int(np.argmin(state.history["validation_loss"]))
    assert 0 < best < len(weights) - 1
    assert torch.equal(point.w, weights[best])
    assert not torch.equal(point.w, weights[-1])
    assert state.best_loss == min(state.history["validation_loss"])


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_so_many_records_after_the_best(patience):
    point = Point()
    settings = how(n_steps=400, one_cycle=False, patience=patience)
    state = train(
        point,
        settings,
        loss=lambda rows: (point.w - 4).square().sum(),
        validation_loss=lambda: (point.w - 1).square().sum(),
    )
    best = int(np.argmin(state.history["validation_loss"]))
    assert len(state.history["step"]) == best + 1 + patience
    assert state.step == 5 * (best + 1 + patience) < 400
    assert state.exhausted(patience)
    assert not state.exhausted(patience + 1)
    assert not state.exhausted(None)
    assert (point.w - 1).square().sum().item() == min(state.history["validation_loss"])


def test_validation_sees_no_graph():
    point, enabled = Point(), []

    def validation():
        enabled.append(torch.is_grad_enabled())
        return point.w.sum()

    train(point, validation_loss=validation)
    assert enabled == [False] * 5
    assert torch.is_grad_enabled()


def test_module_trains_in_steps_and_is_evaluated_in_validations():
    point, modes = Point(), []

    def loss(rows):
        modes.append(("step", point.training))
        return point.w.sum()

    def validation():
        modes.append(("validation", point.training))
        return point.w.sum()

    train(point, how(n_steps=10), loss=loss, validation_loss=validation)
    assert modes == 2 * (5 * [("step", True)] + [("validation", False)])
    assert point.training


# trouble


@pytest.mark.parametrize(("bad", "name"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_loss_that_is_not_finite_stops_the_training(bad, name):
    point, calls = Point(), []

    def loss(rows):
        calls.append(rows)
        return squares(point)(rows) + (bad if len(calls) == 7 else 0.0)

    with pytest.raises(
        FloatingPointError, match=f"the loss became {name} within the 5 steps before step 10"
    ):
        train(point, loss=loss)
    assert len(calls) == 10


def interrupted(point, at):
    calls = []

    def loss(rows):
        calls.append(rows)
        if len(calls) == at:
            raise KeyboardInterrupt
        return (point.w - 4).square().sum()

    return loss


def test_interrupt_keeps_the_best_weights_and_is_raised_again():
    point, weights = Point(), []

    def validation():
        weights.append(point.w.detach().clone())
        return (point.w - 1).square().sum()

    settings, state = how(n_steps=400, one_cycle=False), training.State()
    with pytest.raises(KeyboardInterrupt):
        train(
            point,
            settings,
            loss=interrupted(point, 58),
            validation_loss=validation,
            state=state,
        )
    best = int(np.argmin(state.history["validation_loss"]))
    assert state.step == 57
    assert state.history["step"][-1] == 55
    assert best < len(weights) - 1
    assert torch.equal(point.w, weights[best])


def test_interrupt_before_a_pause_keeps_the_best_weights_too():
    point = Point()
    settings = how(n_steps=400, one_cycle=False)
    arguments = {
        "loss": interrupted(point, 58),
        "validation_loss": lambda: (point.w - 1).square().sum(),
    }
    state = training.State()
    with pytest.raises(KeyboardInterrupt):
        train(point, settings, stop_at=300, state=state, **arguments)
    assert state.step == 57
    assert torch.equal(point.w, state.best_weights["w"])


def test_patience_does_not_wait_for_a_validation_that_is_not_there():
    assert train(Point(), how(patience=1)).step == 23


def test_interrupt_before_the_first_record_keeps_the_last_weights():
    point = Point()
    state = training.State()
    with pytest.raises(KeyboardInterrupt):
        train(
            point,
            loss=interrupted(point, 4),
            validation_loss=lambda: point.w.sum(),
            state=state,
        )
    assert state.step == 3
    assert state.history["step"] == []
    assert (point.w > 0).all()


# rows, weights, modules that draw


def test_loss_is_minus_the_mean_of_nats():
    """Rows of a batch count alike, however their nats differ."""
    point, gradients = Point(), []
    point.w.register_hook(lambda gradient: gradients.append(gradient.clone()))
    nats = torch.tensor([1.0, 10, 100, 1000, 10000], dtype=torch.float64)
    state = training.train(
        point, lambda rows: nats[rows] * point.w.sum(), 5, how(n_steps=1, batch_size=5), seeded()
    )
    assert state.history["loss"] == [0.0]
    torch.testing.assert_close(gradients[0], -nats.mean().expand(3))


def test_weights_count_rows_as_often():
    """Weights 1, 2 and 3 are these rows once, twice and three times, in a full batch."""
    weights, rows = torch.tensor([1, 2, 3]), torch.tensor([0, 1, 1, 2, 2, 2])
    weighted, repeated = Point(), Point()
    settings = how(n_steps=40, batch_size=6)
    training.train(
        weighted,
        lambda index: -(weighted.w - TARGETS[index]).square().sum(1),
        3,
        settings,
        seeded(),
        weights=weights,
    )
    training.train(
        repeated,
        lambda index: -(repeated.w - TARGETS[rows[index]]).square().sum(1),
        6,
        settings,
        seeded(),
    )
    torch.testing.assert_close(weighted.w, repeated.w, rtol=0, atol=1e-9)
    assert not torch.allclose(weighted.w, TARGETS[:3].mean(0), atol=0.01)


def test_mean_over_batches_of_weighted_rows_is_that_of_all_rows():
    """However the rows are split: a heavy row counts as much beside light ones as alone."""
    weights, nats = torch.tensor([1.0, 5.0, 0.5, 2.0]), torch.tensor([3.0, -1.0, 2.0, 7.0])
    point = Point()
    for batch_size in (1, 2, 4):
        state = training.train(
            point,
            lambda index: nats[index] + 0 * point.w.sum(),
            4,
            how(n_steps=4 // batch_size, batch_size=batch_size, steps_per_record=4 // batch_size),
            seeded(),
            weights=weights,
        )
        assert state.history["loss"][0] == pytest.approx(-float((weights * nats).sum() / 8.5))


def dropped(stops):
    """Train under dropout, whose numbers come from torch's global generator, with pauses."""
    point, drop, state = Point(1.0), nn.Dropout(0.5), None
    for seed, stop in enumerate([*stops, None]):
        stream = Stream(11 if seed == 0 else seed, torch.device("cpu"))
        state = train(
            point,
            how(n_steps=20),
            seed=seed,
            loss=lambda rows: drop(point.w).square().sum(),
            state=state,
            stop_at=stop,
            stream=stream,
        )
    return point.w.detach()


@pytest.mark.parametrize("stops", [(7,), (1, 2, 13)])
def test_paused_training_under_dropout_ends_like_a_straight_one(stops):
    before = torch.get_rng_state()
    assert torch.equal(dropped(stops), dropped(()))
    assert torch.equal(torch.get_rng_state(), before)


def test_seconds_of_validation_are_among_all_seconds():
    point = Point()

    def slow():
        time.sleep(0.02)
        return point.w.sum()

    history = train(point, validation_loss=slow).history
    assert history["validation_seconds"][-1] >= 5 * 0.02
    assert (np.array(history["seconds"]) > np.array(history["validation_seconds"])).all()
    assert train(Point()).history["validation_seconds"][-1] < 0.02


# pauses


def run_with_pauses(
    stops, between=lambda state: state, settings=None, validated=True, device="cpu"
):
    """Train with pauses at some steps, under a generator that is another one after each pause."""
    point, state = Point().to(device), None
    arguments = {"validation_loss": lambda: (point.w - 1).square().sum()} if validated else {}
    for seed, stop in enumerate([*stops, None]):
        state = train(point, settings, seed=seed, state=state, stop_at=stop, **arguments)
        if stop is not None:
            assert state.step == stop
            state = between(state)
    return point, state


@pytest.mark.parametrize("stops", [(5,), (7,), (1, 2, 3), (10, 20), (13, 22), (23,)])
@pytest.mark.parametrize("one_cycle", [True, False])
@pytest.mark.parametrize("validated", [True, False])
def test_paused_training_ends_with_the_weights_of_a_straight_one(
    stops, one_cycle, validated, device
):
    settings = how(one_cycle=one_cycle, n_steps=40)
    straight, expected = run_with_pauses((), settings=settings, validated=validated, device=device)
    for between in (lambda state: state, training.State.cpu):
        paused, state = run_with_pauses(stops, between, settings, validated, device)
        assert torch.equal(paused.w, straight.w)
        assert state.history["step"] == expected.history["step"]
        np.testing.assert_array_equal(
            state.history["validation_loss"], expected.history["validation_loss"]
        )


@pytest.mark.parametrize("stops", [(5,), (7,), (1, 2, 3), (13, 22)])
def test_paused_training_has_the_history_of_a_straight_one(stops):
    assert run_with_pauses(stops)[1].history["loss"] == run_with_pauses(())[1].history["loss"]


def test_pause_leaves_the_last_weights_and_the_end_the_best():
    point = Point()
    arguments = {
        "loss": lambda rows: (point.w - 4).square().sum(),
        "validation_loss": lambda: (point.w - 1).square().sum(),
    }
    settings = how(n_steps=200, one_cycle=False)
    state = train(point, settings, stop_at=150, **arguments)
    last = point.w.detach().clone()
    assert not torch.equal(last, state.best_weights["w"])
    state = train(point, settings, state=state, stop_at=150, **arguments)
    assert torch.equal(point.w, last)
    train(point, settings, state=state, **arguments)
    assert torch.equal(point.w, state.best_weights["w"])


def test_stop_beyond_the_schedule_is_its_end():
    point, straight = Point(), Point()
    assert train(point, stop_at=1000).step == 23
    train(straight)
    assert torch.equal(point.w, straight.w)


def equal(one, other):
    """Whether two nests of dicts and lists hold the same numbers."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and other.device.type == "cpu"
            and torch.equal(one.cpu(), other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def test_state_on_the_processor_is_the_same_state(device):
    point = Point().to(device)
    state = train(point, stop_at=7, validation_loss=lambda: point.w.sum())
    assert state.order is not None
    assert state.best_weights is not None
    copy = state.cpu()
    assert isinstance(copy, training.State)
    assert equal(vars(state), vars(copy))
    copy.history["step"].append(99)
    assert state.history["step"] == [5]


# the optimiser


def step_sizes(settings):
    """The step size at the end of each step."""
    point, state, sizes = Point(), None, []
    for stop in range(1, settings.n_steps + 1):
        state = train(point, settings, state=state, stop_at=stop)
        sizes.append(state.optimizer["param_groups"][0]["lr"])
    return np.array(sizes)


def test_one_cycle_warms_up_to_the_learning_rate_and_anneals():
    sizes = step_sizes(how())
    peak = int(sizes.argmax())
    assert sizes.max() == pytest.approx(0.05, rel=0.01)
    assert 3 <= peak <= 11
    assert (np.diff(sizes[: peak + 1]) > 0).all()
    assert (np.diff(sizes[peak:]) < 0).all()
    assert sizes[-1] < 0.05 / 50


def test_constant_step_size_is_the_learning_rate():
    assert set(step_sizes(how(one_cycle=False))) == {0.05}


def test_any_optimizer_is_handed_in():
    """Plain gradient descent at half the step takes the mean of the targets in one step."""
    point = Point()

    def descent(parameters):
        return torch.optim.SGD(parameters.values(), lr=0.0)

    train(point, how(1, learning_rate=0.5, one_cycle=False, batch_size=5, optimizer=descent))
    torch.testing.assert_close(point.w.detach(), TARGETS.mean(0))


def test_optimizer_is_made_of_named_parameters_so_that_only_some_decay():
    """Without a gradient, each step takes the decayed ones to 1 - 0.1 * 0.5 of what they were."""
    point = Point(1.0)
    point.bias = nn.Parameter(torch.ones(2))

    def decaying(parameters):
        groups = [
            {"params": [parameters["w"]], "weight_decay": 0.5},
            {"params": [parameters["bias"]]},
        ]
        return torch.optim.SGD(groups, lr=0.0)

    def loss(rows):
        return 0 * (point.w.sum() + point.bias.sum())

    settings = how(3, learning_rate=0.1, one_cycle=False, optimizer=decaying)
    train(point, settings, loss=loss, state=train(point, settings, loss=loss, stop_at=2))
    torch.testing.assert_close(point.w.detach(), torch.full((3,), 0.95**3, dtype=torch.float64))
    assert torch.equal(point.bias, torch.ones(2))


def test_parameters_that_are_frozen_stay():
    point = Point()
    point.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    train(point)
    assert torch.equal(point.frozen, torch.ones(2))


def test_long_gradients_are_shortened():
    point = Point()
    settings = how(n_steps=1, max_grad_norm=0.7)
    train(point, settings, loss=lambda rows: 1e3 * point.w.sum())
    assert point.w.grad.norm().item() == pytest.approx(0.7, rel=1e-4)
    train(point, settings, loss=lambda rows: 1e-3 * point.w.sum())
    assert point.w.grad.norm().item() == pytest.approx(1e-3 * 3**0.5)


def test_each_step_is_announced_with_the_fraction_done():
    fractions, steps, point = [], [], Point()

    def loss(rows):
        steps.append(len(fractions))
        return point.w.sum()

    settings = how(n_steps=4)
    state = train(point, settings, loss=loss, stop_at=3, before_step=[fractions.append])
    train(point, settings, loss=loss, state=state, before_step=[fractions.append])
    assert fractions == [0.0, 0.25, 0.5, 0.75]
    assert steps == [1, 2, 3, 4]


# averaged weights


def iterates(n_steps, **others):
    """The weights after each step of a training without averages."""
    weights = []
    for step in range(n_steps + 1):
        point = Point()
        train(point, how(n_steps=n_steps, **others), stop_at=step)
        weights.append(point.w.detach().clone())
    return weights


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_average_is_that_of_a_loop_over_the_weights(decay):
    """It starts as the first weights, of which little is left soon."""
    weights = iterates(12)
    average = weights[1]
    for step in range(13):
        if step:
            kept = min(decay, step / (9 + step))
            average = kept * average + (1 - kept) * weights[step]
        point = Point()
        state = train(point, how(n_steps=12, averaging=decay), stop_at=step)
        if step:
            torch.testing.assert_close(point.w.detach(), average)
            torch.testing.assert_close(state.weights[0], weights[step])


def test_averages_are_validated_and_the_best_of_them_kept():
    seen, point = [], Point()

    def validation_loss():
        seen.append(point.w.detach().clone())
        return torch.tensor(float(len(seen) != 2))

    train(point, how(n_steps=20, averaging=0.9), validation_loss=validation_loss)
    assert len(seen) == 4
    for step, average in zip((5, 10, 15, 20), seen, strict=True):
        paused = Point()
        train(paused, how(n_steps=20, averaging=0.9), stop_at=step)
        torch.testing.assert_close(average, paused.w.detach())
    torch.testing.assert_close(point.w.detach(), seen[1])


@pytest.mark.parametrize("validated", [False, True])
def test_paused_training_with_averages_ends_like_a_straight_one(validated):
    ends = []
    for stops in ((), (3, 11)):
        point, state = Point(), training.State()
        loss = (lambda point=point: squares(point)(torch.arange(5))) if validated else None
        for stop in (*stops, None):
            settings = how(n_steps=20, averaging=0.9)
            train(point, settings, state=state, stop_at=stop, validation_loss=loss)
        ends.append(point.w.detach())
    torch.testing.assert_close(*ends)


def test_interrupt_leaves_the_average():
    def loss(rows):
        if len(calls) == 8:
            raise KeyboardInterrupt
        calls.append(None)
        return squares(point)(rows)

    calls, point, paused = [], Point(), Point()
    with pytest.raises(KeyboardInterrupt):
        train(point, how(n_steps=20, averaging=0.9), loss=loss)
    train(paused, how(n_steps=20, averaging=0.9), stop_at=8)
    torch.testing.assert_close(point.w.detach(), paused.w.detach())
