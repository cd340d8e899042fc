"""Tables of mixed columns: what a frame's columns are, which likelihood they get, exposures."""

import pickle
from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributions as laws
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skqlvm import IWAEEmbedding, QLVMEmbedding, VAEEmbedding
from skqlvm._blocks import Ranges
from skqlvm._columns import Columns
from skqlvm.engine import likelihoods

N = 61
TINY = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
QLVM = TINY | {"n_points": 34, "n_points_eval": 89, "harmonic_order": 2}
ESTIMATORS = [(QLVMEmbedding, QLVM), (VAEEmbedding, TINY), (IWAEEmbedding, TINY)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:The posterior of a typical row"),
    pytest.mark.filterwarnings("ignore:Log-likelihoods by quadrature still changed"),
]


def table(n=N, seed=0):
    """A data frame with a column of each kind, some of them with gaps."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "height": 170 + 9 * rng.normal(size=n),
            "visits": rng.poisson(4, n),
            "calls": rng.negative_binomial(1, 0.1, n),
            "size": pd.Categorical(
                rng.choice(["small", "large"], n), ["small", "medium", "large"], ordered=True
            ),
            "city": rng.choice(["Rome", "Oslo", "Bern"], n),
            "smokes": rng.random(n) < 0.3,
            "member": pd.array(rng.integers(0, 2, n), dtype="Int64"),
            "year": rng.integers(1990, 2020, n),
            "days": rng.uniform(1, 9, n),
        }
    )
    frame.loc[3, "height"] = np.nan
    frame.loc[[4, 5], "size"] = None
    frame.loc[6, "city"] = None
    frame.loc[7, "member"] = pd.NA
    return frame


FAMILIES = {
    "height": "Gaussian",
    "visits": "Poisson",
    "calls": "NegativeBinomial",
    "size": "Categorical",
    "city": "Categorical",
    "smokes": "Bernoulli",
    "member": "Bernoulli",
    "year": "Gaussian",
    "days": "Gaussian",
}


def families_of(likelihood):
    """The family of each column of a mixed likelihood."""
    found = {}
    for family, columns in zip(likelihood.families, likelihood.columns, strict=True):
        found |= {likelihood.names[number]: type(family).__name__ for number in columns}
    return found


@pytest.fixture(params=ESTIMATORS, ids=lambda pair: pair[0].__name__)
def build(request):
    kind, settings = request.param
    return lambda **parameters: kind(**(settings | parameters))


# data frames


def test_categories_become_codes_in_their_order_and_come_back():
    frame = table()
    columns = Columns.of(frame, categories=True)
    coded = columns.coded(frame)
    assert list(coded.columns) == list(frame.columns)
    assert set(columns.levels) == {3, 4}
    assert list(columns.levels[3]) == ["small", "medium", "large"]
    assert list(columns.levels[4]) == ["Bern", "Oslo", "Rome"]
    codes = {"Bern": 0, "Oslo": 1, "Rome": 2}
    expected = [codes.get(city, np.nan) for city in frame["city"]]
    np.testing.assert_array_equal(coded["city"], expected)
    assert coded["size"].isna().to_numpy().nonzero()[0].tolist() == [4, 5]
    values = coded.astype({"member": float, "smokes": float}).to_numpy(dtype=float)
    again = columns.frame(values, None, frame.index)
    pd.testing.assert_frame_equal(
        again[["height", "size", "city", "visits", "smokes", "days"]],
        frame[["height", "size", "city", "visits", "smokes", "days"]],
        check_dtype=False,
    )
    assert again["size"].dtype == frame["size"].dtype
    assert again["visits"].dtype == np.int64
    assert again["smokes"].dtype == bool


@pytest.mark.parametrize(
    ("values", "kind", "levels"),
    [
        (["b", "a", None], "category", ["a", "b"]),
        (["b", 3, np.nan], "category", [3, "b"]),
        (pd.array(["b", "a", pd.NA], dtype="string"), "category", ["a", "b"]),
        ([True, False, True], "boolean", None),
        (np.array([True, False, None], dtype=object), "boolean", None),
        (np.array([1, 2, 3], dtype=object), "integer", None),
        (np.array([1.5, None, 3], dtype=object), "real", None),
        (pd.array([1, 2, pd.NA], dtype="Int64"), "integer", None),
        (pd.array([1.0, 2, pd.NA], dtype="Float64"), "real", None),
        (pd.array([True, False, pd.NA], dtype="boolean"), "boolean", None),
        (np.array([1, 2, 3], dtype=np.uint8), "integer", None),
        ([None, None, None], "real", None),
    ],
)
def test_kinds_of_columns(values, kind, levels):
    columns = Columns.of(pd.DataFrame({"a": [1.0, 2, 3], "b": values}), categories=True)
    assert columns.kinds == ["real", kind]
    assert ({1: levels} if levels else {}) == {i: list(at) for i, at in columns.levels.items()}
    assert not Columns.of(pd.DataFrame({"b": values}), categories=False).levels


def test_category_that_was_not_in_the_fit_is_named(build):
    frame = table()
    model = build(likelihood="auto").fit(frame)
    with pytest.raises(ValueError, match="Column 'city' expects") as caught:
        model.transform(frame.assign(city=["Rome"] * 9 + ["Paris"] * (N - 9)))
    assert str(caught.value) == (
        "Column 'city' expects one of the categories of the fit, 'Bern', 'Oslo', 'Rome', but got "
        "'Paris'. Fit anew with it, or make it missing."
    )
    with pytest.raises(ValueError, match="should match those that were passed during fit"):
        model.transform(frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="yet now missing:\n- city"):
        model.transform(frame.drop(columns="city"))
    few = frame.assign(size=pd.Categorical(["small"] * N), city="Oslo")
    assert np.isfinite(model.score_samples(few)).all()


def test_dates_are_refused_in_a_sentence(build):
    days = pd.DataFrame({"a": np.arange(5.0), "born": [date(2000, 1, 1 + i) for i in range(5)]})
    for likelihood in ("gaussian", "auto"):
        with pytest.raises(TypeError, match="'born' has objects of the kind 'date'"):
            build(likelihood=likelihood).fit(days)
        with pytest.raises(TypeError, match="'born' \\(datetime64"):
            build(likelihood=likelihood).fit(days.assign(born=pd.to_datetime(days["born"])))


def test_categories_need_a_likelihood_that_takes_them(build):
    frame = table()[["height", "size", "days"]]
    with pytest.raises(TypeError, match="columns of numbers, but got 'size' \\(category\\)"):
        build().fit(frame)
    with pytest.raises(
        TypeError, match="likelihood='poisson' expects columns of numbers"
    ) as caught:
        build(likelihood={("height", "days"): "gaussian", "size": "poisson"}).fit(frame)
    assert "but 'size' has categories. Give that column 'categorical' or 'auto'" in str(
        caught.value
    )


def test_plain_numbers_take_the_same_path_as_ever(build):
    X = np.random.default_rng(0).normal(size=(N, 3))
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    plain = build().fit(X)
    for model, rows in ((build(), frame), (build(likelihood={range(3): "gaussian"}), X)):
        model.fit(rows)
        np.testing.assert_array_equal(model.score_samples(rows), plain.score_samples(X))
        np.testing.assert_array_equal(model.transform(rows), plain.transform(X))
        assert isinstance(model.likelihood_, likelihoods.Gaussian)
    assert plain.levels_ == {}
    assert list(plain.to_frame(X).columns) == ["x0", "x1", "x2"]


# which likelihood


def test_auto_says_what_it_chose(build):
    model = build(likelihood="auto").fit(table())
    assert families_of(model.likelihood_) == FAMILIES
    assert str(model.likelihood_).splitlines() == [
        "Mixed of 9 columns",
        "  Gaussian: height, year, days",
        "  Poisson: visits",
        "  NegativeBinomial: calls",
        "  Categorical: size (3 levels), city (3 levels)",
        "  Bernoulli: smokes, member",
    ]
    noise = model.noise_variance_
    assert np.isfinite(noise).nonzero()[0].tolist() == [0, 7, 8]
    assert noise[7] != noise[8]
    assert np.isfinite(model.dispersion_).nonzero()[0].tolist() == [2]
    assert {name: list(levels) for name, levels in model.levels_.items()} == {
        "size": ["small", "medium", "large"],
        "city": ["Bern", "Oslo", "Rome"],
    }


COUNTS = np.random.default_rng(1).poisson(3, (N, 4))


@pytest.mark.parametrize(
    ("X", "family"),
    [
        (COUNTS, likelihoods.Poisson),
        (COUNTS.astype(np.float32), likelihoods.Gaussian),
        (COUNTS.astype(np.uint8), likelihoods.Poisson),
        (COUNTS - 2, likelihoods.Gaussian),
        (COUNTS * 10, likelihoods.NegativeBinomial),
        (1000 + COUNTS, likelihoods.Gaussian),
        (COUNTS > 2, likelihoods.Bernoulli),
        ((COUNTS > 2).astype(int), likelihoods.Bernoulli),
        (COUNTS.tolist(), likelihoods.Poisson),
    ],
)
def test_auto_chooses_by_dtype_and_range(X, family):
    assert type(QLVMEmbedding(**QLVM, likelihood="auto").fit(X).likelihood_) is family


def test_ranges_leave_out_what_is_missing():
    X = np.random.default_rng(0).normal(size=(5000, 3))
    X[X > 2] = np.nan
    ranges = Ranges(X)
    for found, of in (
        (ranges.smallest, np.nanmin),
        (ranges.largest, np.nanmax),
        (ranges.mean, np.nanmean),
        (ranges.variance, np.nanvar),
    ):
        np.testing.assert_allclose(found, of(X, axis=0), rtol=1e-10)


@pytest.mark.parametrize(
    "choice",
    [
        {"height": "gaussian", ("visits", "calls"): "poisson", "remainder": "auto"},
        {0: "gaussian", range(1, 3): "poisson", "remainder": "auto"},
        {(0, "days"): "gaussian", ("calls", 1): "poisson", "remainder": "auto"},
    ],
)
def test_dict_maps_columns_to_families(choice, build):
    model = build(likelihood=choice).fit(table())
    expected = FAMILIES | {"visits": "Poisson", "calls": "Poisson"}
    assert families_of(model.likelihood_) == expected
    assert np.isfinite(model.score_samples(table())).all()
    assert clone(model).likelihood == choice


def test_dict_takes_factories_and_codes():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=N), rng.integers(0, 4, N), rng.integers(0, 2, N)])
    own = {0: lambda d: likelihoods.Gaussian(d, 0.3), (2, 1): "categorical"}
    model = QLVMEmbedding(**QLVM, likelihood=own).fit(X)
    real, codes = model.likelihood_.families
    assert real.fixed == 0.3
    assert codes.n_levels == [2, 4]
    with pytest.raises(ValueError, match=r"expects codes from 0 to 3 in column 1, but got 4"):
        model.transform(X + np.array([0, 1, 0]))


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({}, ValueError, "likelihood expects columns and names, but got an empty dict"),
        ({1.5: "poisson"}, TypeError, "by their names or numbers, .* but got 1.5"),
        ({True: "poisson"}, TypeError, "by their names or numbers, .* but got True"),
        ({0: "cauchy"}, ValueError, r"likelihood\[0\] expects one of .*, but got 'cauchy'"),
        ({"a": "poisson"}, ValueError, "but got 'a': X has no names"),
        ({4: "poisson"}, ValueError, "numbers of columns from 0 to 3, but got 4"),
        ({-1: "poisson"}, ValueError, "numbers of columns from 0 to 3, but got -1"),
        ({range(3): "poisson"}, ValueError, "every column, but 3 has none. Add the key 'rem"),
        ({range(4): "poisson", 1: "gaussian"}, ValueError, "once, but 1 of 1 is taken: another"),
        ("mixed", ValueError, "likelihood expects one of .*, a dict of columns, or a callable"),
    ],
)
def test_dict_that_cannot_be_is_refused(choice, error, message, build):
    with pytest.raises(error, match=message):
        build(likelihood=choice).fit(COUNTS)


def test_numbers_that_are_no_codes_are_refused(build):
    X = np.column_stack([COUNTS[:, 0], 10_000 + np.arange(N)])
    message = "expects codes 0, 1, ..., but 1 goes up to 10060 in 61 rows. Recode it"
    with pytest.raises(ValueError, match=message):
        build(likelihood="categorical").fit(X)


def test_slices_are_keys_where_python_can_hash_them():
    try:
        choice = {slice(0, 2): "poisson", slice(2, None): "negative_binomial"}
    except TypeError:
        pytest.skip("before Python 3.12")
    model = QLVMEmbedding(**QLVM, likelihood=choice).fit(COUNTS)
    assert model.likelihood_.columns == [[0, 1], [2, 3]]


@pytest.mark.parametrize("likelihood", ["auto", "categorical", {range(4): "poisson"}])
def test_transformations_are_for_columns_that_are_alike(likelihood):
    frame = table()[["height", "visits", "size", "days"]]
    X = frame if likelihood == "auto" else COUNTS
    exposure = 0 if isinstance(likelihood, dict) else None
    if exposure == 0:
        X, likelihood = COUNTS + 1.0, {range(1, 4): "poisson"}
    model = QLVMEmbedding(
        **QLVM, likelihood=likelihood, exposure=exposure, transformations={"roll": [0, 1]}
    )
    with pytest.raises(ValueError, match="transformations expects columns of one likelihood"):
        model.fit(X)


# scores and queries


def log_px_z(model, rows, points):
    """Log p(x_i | z_j) of mixed rows column by column, by torch's laws."""
    mixed = model.likelihood_
    with torch.no_grad():
        outputs = model._model.outputs(points).double()
        parts = outputs.split([family.n_outputs for family in mixed.families], 1)
        total = torch.zeros(len(rows), len(points), dtype=torch.float64)
        for family, columns, o in zip(mixed.families, mixed.columns, parts, strict=True):
            x = torch.from_numpy(rows[:, columns])[:, None]
            each = law_of(family, o, x)
            total += torch.where(x.isnan()[:, :, : each.shape[2]], 0, each).sum(2)
    return total


def law_of(family, o, x):
    filled = x.nan_to_num(0.0)
    if isinstance(family, likelihoods.Categorical):
        parts = (o + family.loc).split(family.n_levels, 1)
        each = [
            laws.Categorical(logits=part).log_prob(filled[:, :, i]) for i, part in enumerate(parts)
        ]
        return torch.stack(each, 2)
    if isinstance(family, likelihoods.Gaussian):
        return laws.Normal(family.mean(o), family.noise_variance().sqrt()).log_prob(filled)
    if isinstance(family, likelihoods.Bernoulli):
        return laws.Bernoulli(logits=o + family.loc).log_prob(filled)
    e = filled[:, :, [family.column]] / family.unit if family.column is not None else 1.0
    filled = filled[:, :, family.counted]
    if isinstance(family, likelihoods.Poisson):
        return laws.Poisson(e * (o + family.loc).exp()).log_prob(filled)
    size = 1 / family.dispersion()
    law = laws.NegativeBinomial(e * size, logits=o + family.loc - size.log())
    return law.log_prob(filled)


@pytest.mark.parametrize("exposure", [None, "days", 8])
def test_scores_are_the_log_of_the_mean_over_the_lattice(exposure):
    """Rows with gaps included, each column by its own law; with the exposure told."""
    frame = table()
    model = QLVMEmbedding(**QLVM, likelihood="auto", exposure=exposure).fit(frame)
    rows = model._validated(frame, reset=False)
    assert np.isnan(rows).sum() == 5
    log_p = log_px_z(model, rows, torch.from_numpy(model.lattice_))
    expected = torch.softmax(log_p, 1).numpy()
    np.testing.assert_allclose(model.posterior(frame), expected, rtol=1e-4, atol=1e-6)
    nats = torch.logsumexp(log_p, 1).numpy() - np.log(len(model.lattice_))
    wide = 1 / (expected**2).sum(1) > 10  # others are refined
    assert wide.sum() > N / 2
    np.testing.assert_allclose(model.score_samples(frame)[wide], nats[wide], rtol=1e-3, atol=1e-3)


def test_rows_that_come_back_are_like_those_given(build):
    frame = table()
    model = build(likelihood="auto", exposure="days").fit(frame)
    Z = model.transform(frame)
    for values in (model.inverse_transform(Z), model.reconstruct(frame), model.sample(N)):
        assert isinstance(values, np.ndarray)
        assert values.shape == frame.shape
        assert (values[:, 3:5] == values[:, 3:5].round()).all()  # levels, not means of codes
        again = model.to_frame(values)
        assert list(again.columns) == list(frame.columns)
        assert set(again["size"].cat.categories) == {"small", "medium", "large"}
        assert set(again["city"]) <= {"Rome", "Oslo", "Bern"}
        assert np.isfinite(
            model.score_samples(again.round({"visits": 0, "calls": 0}).pipe(flags))
        ).all()
    filled = model.to_frame(model.impute(frame))
    assert not filled.isna().any().any()
    there = frame.notna()
    for name in frame:
        assert (filled[name][there[name]] == frame[name][there[name]]).all()
    drawn = model.to_frame(model.sample(7, random_state=0))
    assert drawn["visits"].dtype == np.int64
    assert drawn["smokes"].dtype == bool
    assert drawn["days"].nunique() == 1


def flags(frame):
    """Means of flags and counts as values that may be."""
    names = ["smokes", "member"]
    return frame.assign(**{name: frame[name].astype(float).round() for name in names}).assign(
        **{name: frame[name].astype(float).round() for name in ("visits", "calls")}
    )


def test_to_frame_keeps_an_index_and_refuses_other_widths(build):
    frame = table().set_index(pd.Index(range(100, 100 + N)))
    model = build(likelihood="auto").fit(frame)
    assert model.to_frame(model.impute(frame)).index.equals(frame.index)
    with pytest.raises(ValueError, match=r"X expects rows of 9 features, but got shape \(61, 2\)"):
        model.to_frame(model.transform(frame))


def test_to_frame_knows_columns_by_their_names(build):
    frame = table()
    model = build(likelihood="auto").fit(frame)
    filled = model.impute(frame)
    turned = model.to_frame(filled[filled.columns[::-1]])
    pd.testing.assert_frame_equal(turned, model.to_frame(filled))


def test_mixed_models_are_estimators(build, tmp_path):
    """Pickles, clones, searches, pipelines, passes over further rows."""
    frame = table()
    model = build(likelihood="auto", exposure="days").fit(frame)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(frame), model.score_samples(frame))
    assert again.to_frame(again.sample(3)).shape == (3, 9)
    search = GridSearchCV(
        build(exposure="days"),
        {"likelihood": ["auto", {("visits", "calls"): "poisson", "remainder": "auto"}]},
        cv=2,
        error_score="raise",
    )
    assert np.isfinite(search.fit(frame).best_score_)
    pipeline = make_pipeline(
        FunctionTransformer(lambda X: X.assign(height=X["height"] / 100)),
        build(likelihood="auto", exposure="days").set_output(transform="pandas"),
    )
    assert pipeline.fit_transform(frame).shape == (N, 2)
    before = str(model.likelihood_)
    assert str(model.partial_fit(table(seed=1)).likelihood_) == before
    with pytest.raises(ValueError, match="Column 'city' expects"):
        model.partial_fit(table(seed=1).assign(city="Paris"))


# exposures


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "auto"])
def test_exposure_is_told_and_not_modelled(likelihood, build):
    rng = np.random.default_rng(0)
    days = rng.uniform(1, 20, N)
    counts = rng.poisson(days[:, None] * [0.5, 2, 8])
    frame = pd.DataFrame(counts, columns=["a", "b", "c"]).assign(days=days)
    model = build(likelihood=likelihood, exposure="days").fit(frame)
    assert model.n_features_in_ == 4
    assert model.likelihood_.n_outputs == 3
    means = model.inverse_transform(model.transform(frame))
    np.testing.assert_allclose(means[:, 3], np.median(days))
    own = model.reconstruct(frame)
    np.testing.assert_allclose(own[:, 3], days)
    if build().__class__ is not QLVMEmbedding:
        np.testing.assert_allclose(own[:, :3], means[:, :3] * (days / np.median(days))[:, None])
    assert np.corrcoef(own[:, 2], days)[0, 1] > 0.9
    gaps = frame.astype(float)
    gaps.loc[:9, "c"] = np.nan
    filled, std = model.impute(gaps, return_std=True)
    assert np.corrcoef(filled["c"][:10], days[:10])[0, 1] > 0.9
    assert (std["c"][:10] > 0.9 * np.sqrt(filled["c"][:10])).all()
    with pytest.raises(ValueError, match="expects an exposure that is positive, but got 0"):
        model.score_samples(frame.assign(days=0.0))


def test_total_is_an_exposure(build):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.uniform(1, 30, N)[:, None] * [0.1, 0.5, 1]) + 1
    model = build(likelihood="poisson", exposure="total").fit(counts)
    own = model.reconstruct(counts)
    np.testing.assert_allclose(own.sum(1), counts.sum(1), rtol=0.1)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.transform(np.where(counts > 9, np.nan, counts))


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "multinomial"])
def test_sparse_counts_are_scored_as_dense_ones(likelihood, build):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.uniform(0.1, 3, (N, 1)) * rng.random(40))
    exposure = None if likelihood == "multinomial" else "total"
    model = build(likelihood=likelihood, exposure=exposure).fit(csr_array(counts))
    for query in (model.score_samples, model.transform, model.reconstruct, model.posterior):
        np.testing.assert_allclose(
            query(csr_array(counts, dtype=float)), query(counts), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("likelihood", ["poisson", {range(3): "poisson", 3: "bernoulli"}])
def test_exposures_and_blocks_of_sparse_rows_are_refused(likelihood, build):
    exposure = 3 if likelihood == "poisson" else None
    rows = csr_array(np.column_stack([COUNTS[:, :3], COUNTS[:, 3] > 2]).astype(float))
    with pytest.raises(TypeError, match="expects a dense array, but got a sparse matrix"):
        build(likelihood=likelihood, exposure=exposure).fit(rows)


@pytest.mark.parametrize(
    ("exposure", "likelihood", "error", "message"),
    [
        (
            "days",
            "gaussian",
            ValueError,
            "exposure='days' expects columns whose likelihood is 'poi",
        ),
        ("total", "multinomial", ValueError, "exposure='total' expects columns whose"),
        ("week", "poisson", ValueError, "exposure expects columns of X, but got 'week': X has 'a'"),
        (7, "poisson", ValueError, "exposure expects numbers of columns from 0 to 2, but got 7"),
        (1.5, "poisson", TypeError, "exposure expects None, 'total', or a column .* but got 1.5"),
        (True, "poisson", TypeError, "exposure expects None, 'total', or a column .* but got True"),
        (
            "days",
            {("a", "days"): "poisson", "remainder": "auto"},
            ValueError,
            "but 'days' of \\('a', 'days'\\) is taken: it is the exposure",
        ),
    ],
)
def test_exposure_that_cannot_be_is_refused(exposure, likelihood, error, message, build):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0, 1, 5], "days": [1.0, 2, 3]})
    with pytest.raises(error, match=message):
        build(likelihood=likelihood, exposure=exposure).fit(frame)


def test_counts_share_a_family_where_they_share_an_exposure():
    frame = table()[["visits", "calls", "days"]]
    model = QLVMEmbedding(**QLVM, likelihood="auto", exposure="days").fit(frame)
    assert isinstance(model.likelihood_, likelihoods.NegativeBinomial)


def test_exposure_shapes_the_model():
    frame = table()[["visits", "calls", "days"]]
    model = QLVMEmbedding(**QLVM, likelihood="poisson", exposure="days").fit(frame)
    with pytest.raises(ValueError, match="exposure=None cannot continue a fit that had"):
        model.set_params(exposure=None).partial_fit(frame)


def test_imputed_frames_are_like_those_given_and_can_be_asked_about():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"other": rng.normal(size=60), "size": rng.normal(size=60)})
    frame["kind"] = pd.Categorical(np.array(["a", "b"])[rng.integers(0, 2, 60)])
    gaps = frame.copy()
    gaps.iloc[::5, 0], gaps.iloc[::7, 1], gaps.iloc[::4, 2] = np.nan, np.nan, None
    model = QLVMEmbedding(1, likelihood="auto", n_points=34, max_iter=2, random_state=0).fit(gaps)
    filled = model.impute(gaps)
    assert filled["kind"].dtype == frame["kind"].dtype
    assert (filled["kind"] == frame["kind"])[gaps["kind"].notna()].all()
    assert np.isfinite(model.score_samples(filled)).all()
    pd.testing.assert_frame_equal(model.to_frame(filled), filled)
