"""Tables in text and Parquet files, as columns: their separator, header and gaps."""

import csv
import gzip
import re
import zlib
from itertools import dropwhile, islice
from typing import NamedTuple

import numpy as np

_SEPARATORS = ("\t", ";", ",", "|", " ")
"""In the order in which they are tried: a comma may be decimal, and a space may follow a comma."""

_MISSING = {"", "?", "na", "n/a", "#n/a", "nan", "null", "none"}
_SAMPLE_LINES = 100
_NAMELESS_HEADER = 5
"""Consecutive integers from which on a first line is a header although it does not start at 0."""

_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)")


class Table(NamedTuple):
    """Columns of a file: arrays of float64, with NaN for gaps, or of strings.

    Their names are numbers where the file has none.
    """

    names: list[str]
    columns: list[np.ndarray]
    has_header: bool
    notes: list[str]


class _Layout(NamedTuple):
    """How a text file is to be read: below so many lines of comments, and a header or none."""

    separator: str
    n_comments: int
    n_header: int
    names: list[str] | None
    decimal_comma: bool
    notes: list[str]


def read_text(path, header=None):
    """Read a text file, gzipped or not.

    A header is recognised unless True or False says whether there is one.
    """
    try:
        with _opened(path) as file:
            beginning = list(islice(file, _SAMPLE_LINES))
        layout = _layout(beginning, header, path)
        columns = None if layout.decimal_comma else _numeric_columns(path, layout)
        if columns is None:
            columns = _mixed_columns(path, layout)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--data expects text in UTF-8, but {path} holds other bytes (byte {error.start}). "
            "Save it as CSV in UTF-8."
        ) from error
    except (csv.Error, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"--data expects a table, but {path} cannot be read as one ({error})."
        ) from error
    names = layout.names or [str(i) for i in range(len(columns))]
    return Table(names, columns, layout.names is not None, layout.notes)


def read_parquet(path):
    """Read a Parquet file by pandas.

    An index that is more than row numbers becomes the first columns.
    """
    try:
        import pandas as pd

        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(
            f"{path} needs pandas and pyarrow. Install them with: "
            'pip install "skqlvm[table]", or save the table as CSV.'
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"--data expects a Parquet file, but {path} is none.") from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.rename_axis(index=lambda name: name or "").reset_index()
    columns = [_frame_column(frame.iloc[:, j]) for j in range(frame.shape[1])]
    return Table([str(name) for name in frame.columns], columns, True, [])


def _frame_column(series):
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return _column(series.astype("string").fillna("").tolist(), decimal_comma=False)


def _opened(path):
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _layout(beginning, header, path):
    """Find out how to read a file from its first lines.

    Leading lines that start with # are comments, the last of which may hold the names, as NumPy
    writes them.
    """
    filled = [line for line in beginning if line.strip()]
    lines = list(dropwhile(lambda line: line.startswith("#"), filled))
    if not lines:
        what = "holds comments only" if filled else "is empty"
        raise ValueError(f"--data expects rows of numbers, but {path} {what}.")
    n_comments = beginning.index(lines[0])
    separator, notes = _separator(lines), []
    rows = list(_fields(lines, separator))
    decimal_comma = separator != "," and any(
        _DECIMAL_COMMA.fullmatch(text) for row in rows for text in row
    )
    if decimal_comma:
        notes.append(f"took the commas within the numbers of {path} for decimal points.")
        rows = [[_DECIMAL_COMMA.sub(r"\1.\2", text) for text in row] for row in rows]
    names, n_header = None, 0
    if header is None:
        n_header = int(_is_header(rows[0], rows[1:]))
        if n_header and rows[0][0] and any(map(_is_number, rows[0])):
            shown = ", ".join(rows[0][:5]) + ", ..." * (len(rows[0]) > 5)
            notes.append(
                f"took the first line of {path} ({shown}) for a header; --no-header makes it a row."
            )
    if header is not False and not n_header:
        names = _names_in_comment(filled[: len(filled) - len(lines)], separator, len(rows[0]))
    if n_header or (header and names is None):
        names, n_header = rows.pop(0), 1
    if not rows:
        raise ValueError(f"--data expects rows of numbers, but {path} holds a header only.")
    if names is not None and len(names) == len(rows[0]) - 1:
        names = ["", *names]
    return _Layout(separator, n_comments, n_header, names, decimal_comma, notes)


def _names_in_comment(comments, separator, width):
    """The names of so many columns that the last comment holds; None if it does not."""
    for names in _fields([line.lstrip("# ") for line in comments[-1:]], separator):
        if len(names) == width:
            return names
    return None


def _separator(lines):
    """The first separator that splits all lines alike.

    A header may lack the name of the row names.
    """
    splits = {}
    for separator in _SEPARATORS:
        widths = [len(row) for row in _fields(lines, separator)]
        below = widths[1:] or widths
        if widths and min(widths) > 1 and len(set(below)) == 1:
            splits[separator] = abs(below[0] - widths[0])
    exact = [separator for separator, lacking in splits.items() if lacking == 0]
    nearly = [separator for separator, lacking in splits.items() if lacking == 1]
    return next(iter([*exact, *nearly]), None) or _frequent_separator(lines[0])


def _frequent_separator(line):
    """The separator that the first line has most of, where lengths differ; a comma if none."""
    return max((",", ";", "\t"), key=line.count)


def _fields(lines, separator):
    """Split lines; any run of white space is one space."""
    if separator == " ":
        lines = (" ".join(line.split()) for line in lines)
    return (
        [text.strip() for text in row]
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)
        if row
    )


def _is_header(first, below):
    """Whether the first row names the columns: it is text, has text above numbers, or counts up."""
    texts = [is_text(text) for text in first]
    if any(texts) and not any(_is_number(text) for text in first):
        return True
    if _count_up(first) and below and not any(_count_up(row) for row in below):
        return True
    return bool(below) and any(
        text and not any(is_text(row[j]) for row in below if j < len(row))
        for j, text in enumerate(texts)
    )


def _count_up(row):
    """Whether the entries are consecutive integers, as pandas names columns.

    The first may be empty or text.
    """
    begins_with_number = _is_number(row[0])
    counts = row if begins_with_number else row[1:]
    if not counts or not all(text.isdecimal() for text in counts):
        return False
    start, length = int(counts[0]), len(counts)
    if [int(text) for text in counts] != list(range(start, start + length)):
        return False
    enough = 2 if begins_with_number else 1
    return length >= (enough if start == 0 else _NAMELESS_HEADER)


def is_text(text):
    """Return whether an entry is neither a number nor one of the words for a missing one."""
    return text.lower() not in _MISSING and not _is_number(text)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return text.lower() not in _MISSING


def _numeric_columns(path, layout):
    """Read a table of nothing but numbers, fast; None if it is not one."""
    try:
        table = np.loadtxt(
            path,
            delimiter=None if layout.separator == " " else layout.separator,
            skiprows=layout.n_comments + layout.n_header,
            comments=None,
            quotechar='"',
            encoding="utf-8-sig",
            ndmin=2,
        )
    except UnicodeDecodeError:
        raise
    except ValueError:
        return None
    if layout.names is not None and len(layout.names) != table.shape[1]:
        return None
    return list(table.T)


def _mixed_columns(path, layout):
    """Read a table entry by entry."""
    with _opened(path) as file:
        rows = list(_fields(islice(file, layout.n_comments, None), layout.separator))
        del rows[: layout.n_header]
    width = len(layout.names or rows[0])
    for i, row in enumerate(rows, start=1):
        if len(row) != width:
            raise ValueError(
                f"--data expects rows of equal length, but row {i} of {path} has length {len(row)} "
                f"and {'the header' if layout.names else 'the first'} {width}. Quote values that "
                "contain the separator."
            )
    return [_column(texts, layout.decimal_comma) for texts in zip(*rows, strict=True)]


def _column(texts, decimal_comma):
    """An array: float64 if all entries are numbers, truth values or missing, else strings."""
    try:
        return np.array([_number(text, decimal_comma) for text in texts])
    except ValueError:
        return np.array(texts, dtype=object)


def _number(text, decimal_comma):
    word = text.lower()
    if word in _MISSING:
        return np.nan
    if word in ("true", "false"):
        return float(word == "true")
    return float(text.replace(",", ".") if decimal_comma else text)
