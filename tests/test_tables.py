"""Tables of text and Parquet: the same numbers, however they are written."""

import gzip
import sys

import numpy as np
import pytest

from skqlvm import _tables

ROWS = np.array([[0.5, -2.25, 7.0], [3.0, 0.125, -1e-3], [1e6, 5.0, 2.0], [4.5, 6.0, 9.75]])


def write(path, text, encoding="utf-8"):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding=encoding, newline="") as file:
        file.write(text)
    return path


def lines(separator, names=None, quote="", decimal="."):
    rows = [] if names is None else [names]
    rows += [[repr(value).replace(".", decimal) for value in row] for row in ROWS.tolist()]
    return "".join(separator.join(f"{quote}{v}{quote}" for v in row) + "\r\n" for row in rows)


@pytest.mark.parametrize("names", [None, ["a", "b", "c"], ["0", "1", "2"]], ids=repr)
@pytest.mark.parametrize(
    ("name", "separator", "quote", "decimal"),
    [
        ("rows.csv", ",", "", "."),
        ("rows.csv", ",", '"', "."),
        ("rows.csv", ", ", "", "."),
        ("rows.csv", ";", "", "."),
        ("rows.csv", ";", "", ","),
        ("rows.tsv", "\t", "", "."),
        ("rows.tsv.gz", "\t", '"', ","),
        ("rows.csv.gz", ",", "", "."),
        ("rows.txt", "|", "", "."),
        ("rows.txt", " ", "", "."),
        ("rows.txt", "   ", "", "."),
    ],
)
def test_numbers_are_read_however_they_are_separated(
    name, separator, quote, decimal, names, tmp_path
):
    table = _tables.read_text(write(tmp_path / name, lines(separator, names, quote, decimal)))
    np.testing.assert_array_equal(np.column_stack(table.columns), ROWS)
    assert table.names == (names or ["0", "1", "2"])
    assert table.has_header == (names is not None)


@pytest.mark.parametrize(
    ("first", "below", "is_header"),
    [
        ("a,b", ["1,2"], True),
        ("a,2020", ["1,2"], True),
        ("name,2020,2021", ["x,1,2"], False),
        ("name,0,1", ["x,7,2"], True),
        (",0", ["0,3.5"], True),
        ("0,1", ["3,7"], True),
        ("0,1", ["1,1", "0,1"], False),
        ("1,2,3", ["4,4,4"], False),
        ("2019,2020,2021,2022,2023", ["4,4,4,5,6"], True),
        ("1,2,3,4,5", ["2,3,4,5,6"], False),
        ("1,,3", ["4,5,6"], False),
        ("NA,2", ["4,5"], False),
        ("x,2", ["y,3"], False),
    ],
)
def test_header_is_text_above_numbers_or_counts(first, below, is_header, tmp_path):
    path = write(tmp_path / "rows.csv", "\n".join([first, *below]))
    assert _tables.read_text(path).has_header == is_header


def test_header_can_be_said(tmp_path):
    path = write(tmp_path / "rows.csv", "0,1\n3,7\n5,5\n")
    assert _tables.read_text(path).notes == [
        f"took the first line of {path} (0, 1) for a header; --no-header makes it a row."
    ]
    table = _tables.read_text(path, header=False)
    np.testing.assert_array_equal(np.column_stack(table.columns), [[0, 1], [3, 7], [5, 5]])
    assert not table.notes
    path = write(tmp_path / "rows.csv", "3,7\n5,5\n")
    assert _tables.read_text(path, header=True).names == ["3", "7"]


def test_files_of_numpy_and_r_keep_their_names(tmp_path):
    np.savetxt(tmp_path / "rows.txt", ROWS, header="made today\na b c")
    for header in (None, True):
        table = _tables.read_text(tmp_path / "rows.txt", header)
        assert (table.names, len(table.columns[0])) == (["a", "b", "c"], 4)
    text = '"a b" "c"\n"first row" 1 2\n"second" 3 4\n'
    table = _tables.read_text(write(tmp_path / "rows.txt", text))
    assert table.names == ["", "a b", "c"]
    assert table.columns[0].tolist() == ["first row", "second"]


def test_byte_order_mark_belongs_to_no_value(tmp_path):
    path = write(tmp_path / "rows.csv", lines(","), encoding="utf-8-sig")
    np.testing.assert_array_equal(np.column_stack(_tables.read_text(path).columns), ROWS)


def test_names_may_hold_line_breaks_and_separators(tmp_path):
    path = write(tmp_path / "rows.csv", '\n"length\nin mm","a, b"\n1,2\n\n3,5\n')
    table = _tables.read_text(path)
    assert table.names == ["length\nin mm", "a, b"]
    np.testing.assert_array_equal(np.column_stack(table.columns), [[1, 2], [3, 5]])


def test_gaps_are_nan_and_truth_values_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", "a,b,c\n1,yes,True\nNA,no,false\n,,?\n")
    first, second, third = _tables.read_text(path).columns
    np.testing.assert_array_equal(first, [1, np.nan, np.nan])
    np.testing.assert_array_equal(third, [1, 0, np.nan])
    assert second.tolist() == ["yes", "no", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "is empty"),
        (b"a,b\n", "holds a header only"),
        (b"# a,b\n", "holds comments only"),
        (b"# a,b\n\n", "holds comments only"),
        (b"a,b\n1,2\n3\n4,5\n", "row 2 of .* has length 1 and the header 2"),
        (b"1,2\n3,4,5\n", "row 2 of .* has length 3 and the first 2"),
        (b"\xff\xfe1\x002\x00", r"expects text in UTF-8, but .* holds other bytes \(byte 0\)"),
    ],
)
def test_broken_text_is_described(content, message, tmp_path):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _tables.read_text(tmp_path / "rows.csv")


def test_broken_gzip_is_described(tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(b"1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"expects a table, but .* cannot be read as one"):
        _tables.read_text(tmp_path / "rows.csv.gz")


def test_parquet_is_read_by_pandas(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": [1, None], "b": ["x", None], "c": [True, False]}, index=["r", "s"])
    frame["d"] = ["0.5", "1"]
    frame.to_parquet(tmp_path / "rows.parquet")
    table = _tables.read_parquet(tmp_path / "rows.parquet")
    assert table.names == ["", "a", "b", "c", "d"]
    np.testing.assert_array_equal(table.columns[1], [1, np.nan])
    assert [c.tolist() for c in table.columns[::2]] == [["r", "s"], ["x", ""], [0.5, 1]]
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"expects a Parquet file, but .* is none"):
        _tables.read_parquet(tmp_path / "rows.parquet")


def test_parquet_without_pandas_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match=r'needs pandas and pyarrow\. .* "skqlvm\[table\]"'):
        _tables.read_parquet(tmp_path / "rows.parquet")
