"""Labels of classes, of all types that can be told apart and sorted."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from skqlvm import PMFSampler

Z = np.random.default_rng(0).normal(size=(31, 2))
NUMBERS = np.arange(31) % 3
STRINGS = np.array(list("abc"))[NUMBERS]
DAYS = np.datetime64("2020-01-01") + NUMBERS


def density(y):
    return PMFSampler(3, bin_range=(-4, 4), conditional=True).fit(Z, y)


@pytest.mark.parametrize(
    "y",
    [
        NUMBERS.astype(np.uint8),
        NUMBERS / 2,
        STRINGS,
        STRINGS.astype(object),
        STRINGS.astype("S"),
        pd.Series(STRINGS),
        pd.Categorical(STRINGS),
        DAYS,
        DAYS.astype("M8[ns]"),
        DAYS - DAYS[0],
        np.array([date(2020, 1, 1 + n) for n in NUMBERS], dtype=object),
    ],
    ids=lambda y: f"{type(y).__name__}-{getattr(y, 'dtype', '')}",
)
def test_classes_of_every_type_are_counted_and_drawn_as_numbers_are(y):
    numbers, sampler = density(NUMBERS), density(y)
    np.testing.assert_array_equal(sampler.bins_, numbers.bins_)
    np.testing.assert_array_equal(sampler.weights_, numbers.weights_)
    assert (sampler.classes_ == np.unique(np.asarray(y))).all()
    for number, label in enumerate(sampler.classes_):
        np.testing.assert_array_equal(
            sampler.sample(7, random_state=0, label=label),
            numbers.sample(7, random_state=0, label=number),
        )
    parts = PMFSampler(3, bin_range=(-4, 4), conditional=True)
    parts.partial_fit(Z[:17], y[:17]).partial_fit(Z[17:], y[17:])
    np.testing.assert_array_equal(parts.bins_, numbers.bins_)
    np.testing.assert_array_equal(parts.weights_, numbers.weights_)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (STRINGS, NUMBERS, "strings such as a, but got numbers such as 0"),
        (NUMBERS, STRINGS, "numbers such as 0, but got strings such as a"),
        (STRINGS.astype(object), NUMBERS, "strings such as a, but got numbers such as 0"),
        (STRINGS, STRINGS.astype("S"), "strings such as a, but got bytes such as b'a'"),
        (NUMBERS, DAYS, "numbers such as 0, but got dates such as 2020-01-01"),
        (DAYS, DAYS - DAYS[0], "dates such as 2020-01-01, but got durations such as 0 days"),
        (
            NUMBERS,
            np.array([date(2020, 1, 1)] * 31, dtype=object),
            "numbers such as 0, but got objects of type date such as 2020-01-01",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value.dtype),
)
def test_labels_of_another_kind_cannot_continue_a_fit(first, second, message):
    sampler = density(first)
    before = dict(vars(sampler))
    with pytest.raises(
        TypeError,
        match=rf"y expects labels of the kind of earlier calls, {message}\. Convert y, or fit anew",
    ):
        sampler.partial_fit(Z, second)
    assert vars(sampler).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(sampler).items())
    assert sampler.fit(Z, second).classes_[0] == np.unique(second)[0]


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.where(NUMBERS == 1, None, STRINGS), ValueError, "but got None in row 1. Leave such"),
        (np.array([None] * 31), ValueError, "but got None in row 0. Leave such codes out"),
        (
            np.where(NUMBERS == 2, np.datetime64("NaT"), DAYS),
            ValueError,
            "y expects the class of each code, but got NaT in row 2. Leave such codes out, or give",
        ),
        (
            np.where(NUMBERS == 1, 7, STRINGS.astype(object)),
            TypeError,
            "y expects labels that can be compared and sorted, .* but '<' not supported between",
        ),
        (
            pd.Series(STRINGS, dtype="string").where(NUMBERS > 0),
            TypeError,
            "y expects labels that can be compared and sorted, .* but boolean value of NA is",
        ),
        (np.where(NUMBERS == 1, np.nan, 1.0), ValueError, "Input y contains NaN"),
    ],
    ids=["gaps", "none", "not-a-time", "mixed", "not-available", "nan"],
)
def test_labels_that_are_missing_or_cannot_be_sorted_are_refused(y, error, message, continued):
    sampler = density(STRINGS) if continued else PMFSampler(3, conditional=True)
    with pytest.raises(error, match=message):
        sampler.partial_fit(Z, y)


def test_label_that_names_no_class_is_refused():
    with pytest.raises(ValueError, match=r"label expects one of \['a', 'b', 'c'\], but got 1\."):
        density(STRINGS).sample(label=1)
    with pytest.raises(ValueError, match=r"label expects one of \[0, 1, 2\], but got 'a'\."):
        density(NUMBERS).score_samples(Z, label="a")
    with pytest.raises(ValueError, match=r"label expects one of \[0, 1, 2\], but got \[0, 1, 2\]"):
        density(NUMBERS).sample(label=[0, 1, 2])
    with pytest.raises(ValueError, match=r"label expects one of \['2020-01-01T00.* but got '2020"):
        density(DAYS.astype("M8[ns]")).sample(label="2020-01-01T00")
