"""Files of rows: what is fitted, what is carried along, and what is wrong with the rest."""

import numpy as np
import pytest

from skqlvm import _files


@pytest.fixture
def X():
    return np.random.default_rng(0).random((7, 3))


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_archive_gives_its_first_floating_table(X, tmp_path):
    labels, counts = np.arange(7), np.arange(14).reshape(7, 2)
    rows = _files.read(saved(tmp_path / "a.npz", labels=labels, counts=counts, table=X))
    np.testing.assert_array_equal(rows.X, X)
    assert rows.notes == [
        "took the array 'table' of shape (7, 3); --array takes another of 'labels' (7,), "
        "'counts' (7, 2), 'table' (7, 3)."
    ]
    rows = _files.read(tmp_path / "a.npz", array="counts")
    np.testing.assert_array_equal(rows.X, counts)
    assert not rows.notes


def test_archive_without_floating_table_gives_its_first_images(tmp_path):
    images = np.arange(7 * 2 * 5, dtype=np.uint8).reshape(7, 2, 5)
    rows = _files.read(saved(tmp_path / "a.npz", labels=np.arange(7), images=images))
    np.testing.assert_array_equal(rows.X, images.reshape(7, 10))


def test_archive_prefers_the_array_named_x(X, tmp_path):
    rows = _files.read(saved(tmp_path / "a.npz", weights=np.ones((2, 2)), X=X.astype(np.float32)))
    assert rows.X.shape == (7, 3)


def test_labels_of_arrays_are_columns_or_other_arrays(X, tmp_path):
    y = np.array(list("abcabca"))
    rows = _files.read(saved(tmp_path / "a.npz", y=y, X=X), labels=["y", "-1"])
    np.testing.assert_array_equal(rows.X, X[:, :2])
    np.testing.assert_array_equal(rows.carried["-1"], X[:, 2])
    assert (rows.label, rows.carried["y"].tolist()) == ("y", y.tolist())
    np.save(tmp_path / "a.npy", X)
    rows = _files.read(tmp_path / "a.npy", labels=["0"])
    np.testing.assert_array_equal(rows.X, X[:, 1:])
    assert rows.label == "0"


@pytest.mark.parametrize("label", ["kind", "2", "-1"])
def test_label_of_a_table_is_named_or_numbered(label, tmp_path):
    path = written(tmp_path / "a.csv", "a,b,kind\n1,2,x\n3,5,y\n")
    rows = _files.read(path, labels=[label])
    np.testing.assert_array_equal(rows.X, [[1, 2], [3, 5]])
    assert rows.label == "kind"
    assert rows.carried["kind"].tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("names", "index", "carried"),
    [
        (",a,b", "012", "index"),
        ("Unnamed: 0,a,b", "730", "index"),
        ('"",a,b', "xyz", "index"),
        (",0,1", "012", "index"),
        ("Id,a,b", "123", "Id"),
        ("Id,a,b", "121", None),
        ("t,a,b", "012", None),
    ],
)
def test_index_is_carried_and_not_fitted(names, index, carried, tmp_path):
    text = "\n".join([names, *(f"{i},{j}.5,{j * j}" for j, i in enumerate(index))])
    rows = _files.read(written(tmp_path / "a.csv", text))
    assert rows.label is None
    assert list(rows.carried) == ([] if carried is None else [carried])
    assert rows.X.shape == (3, 2 + (carried is None))
    assert ["index of the rows" in note for note in rows.notes] == [True] * (carried is not None)


def test_columns_without_values_are_left_out(tmp_path):
    rows = _files.read(written(tmp_path / "a.csv", "a,b,\n1,2,\n3,5,\n"))
    np.testing.assert_array_equal(rows.X, [[1, 2], [3, 5]])
    assert rows.notes == [
        f"left out column '' of {tmp_path / 'a.csv'}, without a value in any row."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a,b,c,d\n1,x,2,p\n3,y,4,q\n",
            r"holds text in columns 'b' \('x'\), 'd' \('p'\)\. .* --label 'b' 'd', whose first",
        ),
        ("a,b\n1,2\n3,4.x\n", r"holds text in column 'b' \('4.x'\)"),
        (
            "a,b\n1,\n,\n3,4\n5,6\n",
            r"2 of 4 rows of .* have missing values, in columns 'a' \(1\), 'b' \(2\)\. Fill them",
        ),
        ("1,2\n3,nan\n", r"1 of 2 rows of .* have missing values, in column '1' \(1\)"),
        ("1,2\n3,-inf\n", r"1 of 2 rows of .* have infinite values, in column '1' \(1\)"),
        ("1,2\n", "expects two rows or more, but .* holds 1"),
    ],
)
def test_tables_that_cannot_be_fitted_are_described(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _files.read(written(tmp_path / "a.csv", text))


def test_missing_label_lists_the_columns(X, tmp_path):
    path = written(tmp_path / "a.csv", "a,b\n1,2\n3,5\n")
    with pytest.raises(ValueError, match=r"\(columns 'a', 'b'\), but got 'c'"):
        _files.read(path, labels=["c"])
    with pytest.raises(ValueError, match=r"\(columns 'y', '0', '1', '2'\), but got '3'"):
        _files.read(saved(tmp_path / "a.npz", y=np.arange(7), X=X), labels=["3"])
    with pytest.raises(ValueError, match="none left to fit"):
        _files.read(path, labels=["a", "1"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(4000.0), r"has the shape \(4000,\)\. If each value is a row, save X.reshape"),
        (np.zeros(()), r"has the shape \(\)"),
        (np.zeros((0, 5)), r"has the shape \(0, 5\)"),
        (np.zeros((5, 0)), r"has the shape \(5, 0\)"),
        (np.ones((2, 2), complex), r"has the type complex128\. Stack X\.real and X\.imag"),
        (np.array([["a", "b"]]), "has the type <U1"),
        (np.array([[{}, 1]], object), r"holds Python objects \(a pickle\)"),
        (np.array([[1, np.nan], [2, 3]]), r"1 of 2 rows of .* missing values, in column '1' \(1\)"),
    ],
)
def test_arrays_that_cannot_be_fitted_are_described_briefly(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message) as caught:
        _files.read(tmp_path / "a.npy")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_archives_that_cannot_be_fitted_are_described(X, tmp_path):
    from scipy.sparse import csr_array, save_npz

    with pytest.raises(ValueError, match=r"but .* holds no array"):
        _files.read(saved(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"but .* holds 'y' \(7,\), 'o' unreadable"):
        _files.read(saved(tmp_path / "a.npz", y=np.arange(7), o=np.array([{}, 1], object)))
    save_npz(tmp_path / "a.npz", csr_array(X))
    with pytest.raises(ValueError, match=r"sparse matrix. Save its X.toarray\(\)"):
        _files.read(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"--array expects one of 'X' \(7, 3\) in .* got 'Y'"):
        _files.read(saved(tmp_path / "a.npz", X=X), array="Y")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_empty_files_are_described(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"expects rows of numbers, but .* is empty"):
        _files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("n_bytes", [20, 150, None], ids=["header", "values", "garbage"])
def test_damaged_arrays_are_described(name, n_bytes, X, tmp_path):
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, X)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"neither of them" if n_bytes is None else whole[:n_bytes])
    with pytest.raises(ValueError, match=r"expects a .* file that NumPy wrote, but .* is none, or"):
        _files.read(tmp_path / name)


def test_paths_that_are_no_readable_file_are_described(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.csv, .*, but got '.*rows\.xlsx'"):
        _files.read(written(tmp_path / "rows.xlsx", "PK"))
    with pytest.raises(ValueError, match=r"there is no 'nowhere\.csv'"):
        _files.read(_files.Path("nowhere.csv"))
    with pytest.raises(ValueError, match=r"--data expects a file, but '.*' is a folder"):
        _files.read(tmp_path)


def test_options_that_do_not_fit_the_file_are_refused(X, tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match=r"--array is for \.npz files"):
        _files.read(tmp_path / "a.npy", array="X")
    with pytest.raises(ValueError, match=r"--header is for \.csv and"):
        _files.read(tmp_path / "a.npy", header=False)


def test_checking_a_place_changes_nothing(tmp_path):
    place = tmp_path / "map.csv"
    _files.check_place("--out", place)
    assert not place.exists()
    place.write_text("precious")
    _files.check_place("--out", place)
    assert place.read_text() == "precious"


def test_places_that_cannot_be_written_are_described(tmp_path):
    with pytest.raises(ValueError, match=r"--out expects a file, but '.*' is a folder"):
        _files.check_place("--out", tmp_path)
    with pytest.raises(ValueError, match="--out expects a file in a folder that exists"):
        _files.check_place("--out", tmp_path / "nowhere" / "map.csv")
    with pytest.raises(ValueError, match=r"can be written, but '.*' cannot \(file name too long\)"):
        _files.check_place("--out", tmp_path / f"{'m' * 300}.csv")


def test_what_cannot_be_written_after_all_goes_elsewhere(tmp_path):
    place, reason = _files.save(lambda path: path.write_text("map"), tmp_path / "map.csv")
    assert (place, reason) == (tmp_path / "map.csv", None)
    place, reason = _files.save(lambda path: path.write_text("map"), tmp_path / "gone" / "map.csv")
    assert (place.read_text(), reason) == ("map", "no such file or directory")
    assert place.suffix == ".csv"
    place.unlink()
