"""Columns that decoders are told: each group of rows has a decoder, and they come back as given."""

import pickle
from math import log

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding, _conditions
from skqlvm._columns import Columns

KINDS = (QLVMEmbedding, VAEEmbedding, IWAEEmbedding)
all_kinds = pytest.mark.parametrize("kind", KINDS)


def tiny(kind=QLVMEmbedding, **parameters):
    lattice = {"n_points": 21, "n_points_eval": 55} if kind is QLVMEmbedding else {}
    settings = {"hidden_layer_sizes": (16,), "max_iter": 30, "random_state": 0}
    settings |= {"condition_columns": [1], "n_components": 1}
    return kind(**(lattice | settings | parameters))


@pytest.fixture
def X():
    """A circle that a level moves; the level is column 1."""
    rng = np.random.default_rng(0)
    turn, level = 2 * np.pi * rng.uniform(size=120), rng.integers(0, 3, 120)
    columns = [np.cos(turn) + 2 * level, 5.0 + 2 * level, np.sin(turn) - level]
    return np.stack(columns, 1) + np.array([0.1, 0, 0.1]) * rng.normal(size=(120, 3))


pytestmark = pytest.mark.filterwarnings("ignore:Training ended")


@all_kinds
def test_score_is_the_mean_over_the_lattice_that_is_decoded_for_the_rows_condition(kind, X):
    model = tiny(kind).fit(X)
    z, likelihood = torch.from_numpy(model.lattice_), model.likelihood_
    if kind is QLVMEmbedding:
        log_weight = torch.zeros(len(z))
    else:
        log_weight = model._model.prior.nodes(model._cube)[1]
    assert model.condition_groups_.tolist() == [[5.0], [7.0], [9.0]]
    assert model.condition_error_ == 0
    nats = model.score_samples(X)
    for i in range(9):
        group = int((X[i, 1] - 5) / 2)
        outputs = model._model.outputs(z, group).double().detach()
        with torch.no_grad():
            terms = likelihood.terms(torch.from_numpy(X[i : i + 1]))
            table = likelihood.table(terms, outputs)[0] + log_weight
        expected = torch.logsumexp(table, 0) - log(len(z)) + terms.base[0]
        assert nats[i] == pytest.approx(float(expected), abs=1e-2)
        posterior = model.posterior(X[i : i + 1])[0]
        np.testing.assert_allclose(posterior, torch.softmax(table, 0), atol=1e-4)


@all_kinds
def test_told_columns_come_back_as_they_were_given(kind, X):
    model = tiny(kind).fit(X)
    Z = model.transform(X)
    assert model.reconstruct(X)[:, 1].tolist() == X[:, 1].tolist()
    assert model.inverse_transform(Z, condition=X[:, [1]])[:, 1].tolist() == X[:, 1].tolist()
    one = model.inverse_transform(Z[:4], condition=[7])
    assert one[:, 1].tolist() == 4 * [7.0]
    np.testing.assert_allclose(one, model.inverse_transform(Z[:4], condition=np.full((4, 1), 7)))
    assert np.abs(one - model.inverse_transform(Z[:4], condition=[5])).max() > 0.5
    for noise in (True, False):
        drawn = model.sample(500, 0, noise=noise)
        share = np.mean(X[:, 1] == 5)
        assert np.mean(drawn[:, 1] == 5) == pytest.approx(share, abs=0.08)
        assert model.sample(3, 0, noise=noise, condition=[9])[:, 1].tolist() == [9, 9, 9]
    gaps = X.copy()
    gaps[::2, 2] = np.nan
    filled = model.impute(gaps)
    assert filled[:, :2].tolist() == X[:, :2].tolist()
    assert np.abs(filled - X)[::2, 2].mean() < np.abs(X[:, 2] - X[:, 2].mean()).mean()


@all_kinds
def test_effect_is_what_permuted_conditions_cost_and_zero_where_they_are_ignored(kind, X):
    model = tiny(kind, max_iter=250).fit(X)
    assert model.condition_effect(X, random_state=0) > 1
    decoder = model._model.decoder
    with torch.no_grad():
        decoder.layers[0].weight[:, -3:] = 0
        vars(model).update(model._finish(model._model, torch.from_numpy(X)))
    assert model.condition_effect(X, random_state=0) == pytest.approx(0, abs=1e-4)


def test_effect_is_the_difference_to_rows_with_others_conditions(X):
    model = tiny().fit(X)
    order = np.random.RandomState(3).permutation(len(X))
    others = X.copy()
    others[:, 1] = X[order, 1]
    found = model.condition_effect(X, random_state=3, n_permutations=1)
    assert found == pytest.approx(model.score(X) - model.score(others), rel=1e-6)


@all_kinds
def test_map_does_not_depend_on_the_order_of_the_rows(kind, X):
    model = tiny(kind).fit(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_allclose(model.transform(X)[order], model.transform(X[order]), atol=1e-6)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.score_samples(X), model.score_samples(X))
    assert clone(model).fit(X).score(X) == pytest.approx(model.score(X), abs=1e-9)


def test_rows_of_many_conditions_share_the_lattice_of_near_ones(X):
    rng = np.random.default_rng(2)
    X = np.column_stack([X, rng.normal(size=len(X))])
    model = tiny(condition_columns=[1, 3], max_iter=2).fit(X)
    groups = model.condition_groups_
    assert 16 <= len(groups) <= 48
    assert set(groups[:, 0]) == {5.0, 7.0, 9.0}
    nearest = [
        min(range(len(groups)), key=lambda g: (groups[g, 0] != row[1], abs(groups[g, 1] - row[3])))
        for row in X
    ]
    away = (X[:, 3] - groups[nearest, 1]) / X[:, 3].std()
    assert model.condition_error_ == pytest.approx(np.sqrt((away**2).mean()))
    assert 0 < model.condition_error_ < 0.15
    assert len(model.transform(X)) == len(X)


def test_rows_of_a_group_have_the_same_levels_however_many_there_are():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.permutation(500) % 100, rng.normal(size=500), np.zeros(500)])
    frame = pd.DataFrame({"a": X[:, 2], "b": X[:, 1], "c": X[:, 0].astype(str)})
    columns = Columns.of(frame, categories=True)
    coded = columns.coded(frame).to_numpy(dtype=float)
    for told, n_groups in (([2], 100), ([1, 2], 100)):
        conditions = _conditions.learn(told, coded, columns)
        groups = conditions.groups(torch.from_numpy(coded))
        assert len(conditions) == n_groups
        np.testing.assert_array_equal(conditions.values[groups, -1], coded[:, 2])
        np.testing.assert_allclose(conditions.shares, 1 / n_groups)


@all_kinds
def test_category_that_no_row_of_the_fit_had_is_refused(kind, X):
    days = pd.Categorical(
        np.array(["mon", "sun", "tue"])[((X[:, 1] - 5) / 2).astype(int)],
        categories=["fri", "mon", "sun", "tue"],
    )
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 2], "day": days})
    model = tiny(kind, condition_columns="day", max_iter=1).fit(frame)
    match = "'day' expects one of the levels of the fit, 'mon', 'sun', 'tue', but got 'fri'"
    with pytest.raises(ValueError, match=match):
        model.score_samples(frame.assign(day=pd.Categorical(["fri"] * len(X))))
    with pytest.raises(ValueError, match=match):
        model.sample(condition=["fri"])
    assert model.to_frame(model.sample(2, condition=["tue"]))["day"].tolist() == ["tue", "tue"]


@all_kinds
def test_levels_of_one_precision_are_known_in_another(kind, X):
    X[:, 1] = X[:, 1] / 10 - 0.4  # 0.1, 0.3, 0.5
    wide = tiny(kind, max_iter=2).fit(X)
    assert wide.score(X.astype(np.float32)) == pytest.approx(wide.score(X), abs=1e-3)
    narrow = tiny(kind, max_iter=2).fit(X.astype(np.float32))
    assert narrow.score(X) == pytest.approx(narrow.score(X.astype(np.float32)), abs=1e-3)
    assert wide.sample(3, condition=[np.float32(0.3)])[:, 1] == pytest.approx(0.3)


def test_names_work_in_pipelines_and_searches(X):
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 2]})
    frame["day"] = pd.Categorical(np.array(["mon", "sun", "tue"])[((X[:, 1] - 5) / 2).astype(int)])
    model = tiny(condition_columns="day", max_iter=3).fit(frame)
    assert model.to_frame(model.sample(4, 0, condition=["sun"]))["day"].tolist() == 4 * ["sun"]
    asked = pd.DataFrame({"other": [0], "day": ["tue"]})
    assert model.to_frame(model.inverse_transform([[0.2]], condition=asked))["day"][0] == "tue"
    assert np.isfinite(model.condition_effect(frame, random_state=0))
    with pytest.raises(ValueError, match=r"'day'.*'mon', 'sun', 'tue', but got 'wed'"):
        model.score(frame.assign(day="wed"))
    with pytest.raises(ValueError, match=r"'day'.*expects a value in every row"):
        model.transform(frame.assign(day=None))
    codes = frame.assign(day=frame["day"].cat.codes.astype(float))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), tiny(condition_columns="day", max_iter=2)),
        {"qlvmembedding__n_points": [13, 21]},
        cv=2,
    )
    search.estimator.set_output(transform="pandas")
    search.fit(codes)
    assert search.best_estimator_[-1].condition_groups_.shape == (3, 1)


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        (1.5, TypeError, r"condition_columns expects None, or columns .* but got 1.5"),
        ([True], TypeError, "condition_columns expects None, or columns"),
        ([3], ValueError, "numbers of columns from 0 to 2, but got 3"),
        (
            "day",
            ValueError,
            "condition_columns expects columns of X, but got 'day': X has no names",
        ),
        ([1, 1], ValueError, "each column once"),
        ([0, 1, 2], ValueError, "leave a column that is modelled"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(columns, error, match, X):
    with pytest.raises(error, match=match):
        tiny(condition_columns=columns).fit(X)


def test_conditions_that_cannot_be_asked_for_are_refused(X):
    model, Z = tiny(max_iter=1).fit(X), np.zeros((2, 1))
    for condition, match in (
        (None, r"condition expects values of \[1\], which the decoder is told, but got None"),
        ([5, 7], r"condition expects shape \(1,\) or \(2, 1\)"),
        (np.zeros((3, 1)), r"condition expects shape \(1,\) or \(2, 1\)"),
        ([6], r"Condition 1 expects one of the levels of the fit, 5, 7, 9, but got 6"),
    ):
        with pytest.raises(ValueError, match=match):
            model.inverse_transform(Z, condition=condition)
    with pytest.raises(ValueError, match="but got 8"):
        model.score(np.where(X == 7, 8, X))
    with pytest.raises(ValueError, match=r"condition_columns=None. Name some"):
        tiny(condition_columns=None, max_iter=1).fit(X).sample(condition=[5])
    with pytest.raises(ValueError, match="cannot continue a fit"):
        model.set_params(warm_start=True, condition_columns=[0]).fit(X)
    with pytest.raises(ValueError, match="transformations expects columns of one likelihood"):
        tiny(transformations={"roll": [0, 1]}).fit(X)


def test_conditions_that_are_no_numbers_or_not_there_are_refused_in_a_sentence(X):
    frame = pd.DataFrame(X, columns=["a", "level", "b"])
    model = tiny(condition_columns="level", max_iter=1).fit(frame)
    with pytest.raises(TypeError, match="'level' expects numbers, but got could not convert"):
        model.sample(condition=["seven"])
    with pytest.raises(ValueError, match=r"columns \['level'\], but \['level'\] are not in it"):
        model.sample(condition=frame[["a"]].iloc[:1])


def test_levels_that_the_fit_has_not_seen_together_are_warned_of(X):
    X = np.column_stack([X, (X[:, 1] == 5)])
    model = tiny(condition_columns=[1, 3], max_iter=1).fit(X)
    model.score(X)
    X[:3, 3] = 1 - X[:3, 3]
    with pytest.warns(UserWarning, match=r"3 of 120 rows have conditions \[1, 3\] .* together"):
        model.score_samples(X)
    with pytest.warns(UserWarning, match="1 of 1 rows"):
        model.sample(2, condition=[5, 0])


def test_numbers_of_few_values_and_categories_have_levels_others_none():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 16, 200), rng.normal(size=200), np.zeros(200)])
    told = _conditions.learn([0, 1], X, Columns.of(X, categories=True))
    assert [None if each is None else len(each) for each in told.levels] == [16, None]
    few = _conditions.learn([0], X, Columns.of(X, categories=True))
    assert len(few) == 16
    np.testing.assert_allclose(few.shares, np.bincount(X[:, 0].astype(int)) / 200)
    encoded = few.encoded(torch.from_numpy(X[:, :1]))
    assert torch.equal(encoded.argmax(1), torch.from_numpy(X[:, 0]).long())
    assert torch.equal(few.groups(torch.from_numpy(X)), torch.from_numpy(X[:, 0]).long())


@pytest.mark.parametrize("n_values", [3, 200])
def test_weights_count_rows_of_conditions_as_often(n_values):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, n_values, 90), rng.normal(size=90)]).astype(float)
    weight, columns = rng.integers(1, 4, 90), Columns.of(X, categories=True)
    repeated = np.repeat(X, weight, axis=0)
    found = _conditions.learn([0], X, columns, torch.from_numpy(weight.astype(float)))
    expected = _conditions.learn([0], repeated, columns)
    torch.testing.assert_close(found.loc, expected.loc)
    torch.testing.assert_close(found.scale, expected.scale)
    if n_values == 3:
        torch.testing.assert_close(found.shares, expected.shares)
    group = found.groups(torch.from_numpy(repeated)).numpy()
    np.testing.assert_allclose(found.shares, np.bincount(group) / len(repeated))
    away = (repeated[:, :1] - found.values.numpy()[group]) / found.scale.numpy()
    if n_values > 3:
        assert found.error == pytest.approx(np.sqrt((away**2).mean()))
