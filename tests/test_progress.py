"""Progress lines against a bar that notes what it is asked for, and against tqdm's own."""

import sys
import types

import pytest

from skqlvm import _progress
from skqlvm.engine.training import State

N_RECORDS, STEPS_PER_RECORD = 7, 5


class Bar:
    """What a bar of tqdm does that is used, noted."""

    def __init__(self, **parameters):
        self.parameters, self.n, self.said, self.closed = parameters, 0, [], False
        self.pictures = 0

    def set_postfix_str(self, text, refresh=True):
        self.said.append(text)
        self.pictures += refresh

    def update(self, n):
        self.n += n

    def close(self):
        self.closed = True


def report(progress):
    state = State()
    for i in range(N_RECORDS):
        state.step += STEPS_PER_RECORD
        state.history["loss"].append(2.5 - i)
        state.history["validation_loss"].append(float("nan") if i < 3 else 3.5 - i)
        progress(state)


@pytest.fixture
def module(monkeypatch):
    """A module tqdm.auto, beside a tqdm that cannot be imported."""
    stub = types.ModuleType("tqdm.auto")
    stub.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", stub)
    return stub


def test_bar_is_the_one_that_notebooks_draw_too(module, capsys):
    with _progress.Progress(N_RECORDS * STEPS_PER_RECORD, 1, "Model") as progress:
        report(progress)
        assert not progress.bar.closed
    bar = progress.bar
    assert type(bar) is module.tqdm
    assert (bar.n, bar.closed) == (35, True)
    assert (bar.parameters["total"], bar.parameters["desc"]) == (35, "Model")
    assert bar.said[0] == "nats -2.50"
    assert bar.said[-1] == "nats 3.50, held out 2.50"
    assert capsys.readouterr() == ("", "")


def test_bar_is_drawn_by_its_own_clock(module):
    """At most once a second, and not again for its text."""
    with _progress.Progress(35, 1, "Model") as progress:
        report(progress)
    assert progress.bar.pictures == 0
    assert progress.bar.parameters["mininterval"] == 1
    assert progress.bar.parameters["miniters"] == 1


def test_bar_is_closed_by_an_error(module):
    with pytest.raises(KeyboardInterrupt), _progress.Progress(35, 1, "Model") as progress:
        raise KeyboardInterrupt
    assert progress.bar.closed


def test_nothing_is_drawn_unless_verbose(module, capsys):
    with _progress.Progress(35, 0, "Model") as progress:
        report(progress)
    assert progress.bar is None
    assert capsys.readouterr() == ("", "")


def test_lines_are_written_where_tqdm_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with _progress.Progress(35, 1, "Model") as progress:
        report(progress)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == N_RECORDS
    assert lines[0] == "Model: step 5 of 35, nats -2.50"
    assert lines[-1] == "Model: step 35 of 35, nats 3.50, held out 2.50"


def test_short_training_draws_few_bars(capsys):
    """The first, the last, and one a second."""
    pytest.importorskip("tqdm.auto")
    with _progress.Progress(35, 1, "Model") as progress:
        report(progress)
    pictures = capsys.readouterr().err.count("\r")
    assert 2 <= pictures <= 4


def test_bits_are_shown_as_what_is_lost(module):
    with _progress.Progress(35, 1, "Model", "bits per dimension") as progress:
        report(progress)
    assert progress.bar.said[0] == "bits per dimension 2.5000"
    assert progress.bar.said[-1] == "bits per dimension -3.5000, held out -2.5000"
