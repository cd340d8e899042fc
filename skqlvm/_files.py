"""Files of the command line: rows to read, columns that are no features, places to write to."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from reprlib import repr as shortened
from typing import NamedTuple

import numpy as np

from . import _tables

_TEXT = tuple(kind + packed for kind in (".csv", ".tsv", ".txt") for packed in ("", ".gz"))
_ARRAYS = (".npy", ".npz")
_BLOCK_VALUES = 2**22
_COUNTED_NAMES = ("id", "index")
"""Names of a first column that is no feature where it only counts the rows."""

_UNREADABLE = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error)


class Rows(NamedTuple):
    """Rows to map, columns to carry along, and sentences on what was found out about the file.

    One of the columns to carry may be the label that colours the picture.
    """

    X: np.ndarray
    carried: dict[str, np.ndarray]
    label: str | None
    notes: list[str]


def read(path, array=None, labels=(), header=None):
    """Read rows of numbers from a file; images are flattened.

    Parameters
    ----------
    path : Path
    array : str, optional
        Name of the array in a .npz file.
    labels : sequence of str
        Names or numbers of columns to carry rather than fit; of a .npz file, also arrays.
    header : bool, optional
        Whether the first line of a text file names the columns; None finds out.

    Returns
    -------
    Rows

    Raises
    ------
    ValueError
        If the file cannot be read, or holds anything but numbers.
    """
    _check_readable(path)
    kind = next((k for k in (*_TEXT, *_ARRAYS, ".parquet") if path.name.lower().endswith(k)), None)
    if kind is None:
        raise ValueError(
            "--data expects a file that ends in .csv, .tsv, .txt (or one of them with .gz), .npy, "
            f".npz or .parquet, but got {str(path)!r}."
        )
    for option, given, kinds in (
        ("--array", array is not None, (".npz",)),
        ("--header", header is not None, _TEXT),
    ):
        if given and kind not in kinds:
            raise ValueError(f"{option} is for {' and '.join(kinds[:2])} files, but got {path}.")
    if kind in _ARRAYS:
        rows = _from_arrays(path, array, labels)
    else:
        table = _tables.read_text(path, header) if kind in _TEXT else _tables.read_parquet(path)
        rows = _from_table(table, labels, path)
    if len(rows.X) < 2:
        raise ValueError(f"--data expects two rows or more, but {path} holds {len(rows.X)}.")
    return rows


def check_place(option, path):
    """Raise unless a file can be written there; an existing one stays as it is."""
    if os.path.isdir(path):
        raise ValueError(f"{option} expects a file, but {str(path)!r} is a folder.")
    if not os.path.isdir(path.parent):
        raise ValueError(f"{option} expects a file in a folder that exists, but got {str(path)!r}.")
    existed = os.path.lexists(path)
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} expects a file that can be written, but {str(path)!r} cannot "
            f"({_reason(error)})."
        ) from error
    if not existed:
        path.unlink()


def save(write, path):
    """Call ``write(path)``; if that fails after all, write to the temporary folder instead.

    Returns
    -------
    path : Path
        Where it was written.
    reason : str or None
        Why it was written elsewhere.
    """
    try:
        write(path)
    except OSError as error:
        handle, other = tempfile.mkstemp(prefix=f"{path.stem}_", suffix=path.suffix)
        os.close(handle)
        write(Path(other))
        return Path(other), _reason(error)
    return path, None


def _reason(error):
    return (error.strerror or str(error)).lower()


def _check_readable(path):
    if os.path.isdir(path):
        raise ValueError(f"--data expects a file, but {str(path)!r} is a folder.")
    try:
        with open(path, "rb") as file:
            beginning = file.read(1)
    except FileNotFoundError as error:
        raise ValueError(f"--data expects a file, but there is no {str(path)!r}.") from error
    except OSError as error:
        raise ValueError(
            f"--data expects a file that can be read, but {str(path)!r} cannot ({_reason(error)})."
        ) from error
    if not beginning:
        raise ValueError(f"--data expects rows of numbers, but {path} is empty.")


def _from_arrays(path, name, labels):
    kind = path.suffix.lower()
    try:
        if kind == ".npz" and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile
        loaded = np.load(path, mmap_mode="r")
    except _UNREADABLE as error:
        raise _no_array(path, kind, error) from error
    if isinstance(loaded, np.ndarray):
        return _from_array(loaded, path, labels, {}, [])
    with loaded as archive:
        arrays = {key: _member(archive, key) for key in archive.files}
        name, notes = _chosen(arrays, name, path)
        others = {key: value for key, value in arrays.items() if key != name}
        return _from_array(arrays[name], f"{name!r} in {path}", labels, others, notes)


def _no_array(path, kind, error):
    if "Object arrays" in str(error) or "Python objects" in str(error):
        return ValueError(
            f"--data expects numbers, but {path} holds Python objects (a pickle), which are not "
            "loaded. Save X.astype(float)."
        )
    return ValueError(
        f"--data expects a {kind} file that NumPy wrote, but {path} is none, or damaged. Write "
        f"it with {'np.save' if kind == '.npy' else 'np.savez'}."
    )


def _member(archive, key):
    """An array of an archive; None if it is not an array that can be read."""
    try:
        value = archive[key]
    except _UNREADABLE:
        return None
    return value if isinstance(value, np.ndarray) else None


def _chosen(arrays, name, path):
    """Name of the array to map, and a note that says which it is."""
    shapes = {key: "unreadable" if v is None else str(v.shape) for key, v in arrays.items()}
    listed = ", ".join(f"{key!r} {shape}" for key, shape in shapes.items())
    if name is not None:
        if arrays.get(name) is None:
            raise ValueError(f"--array expects one of {listed} in {path}, but got {name!r}.")
        return name, []
    rows = {k: v for k, v in arrays.items() if v is not None and v.ndim > 1 and _is_real(v)}
    if not rows:
        sparse = {"format", "shape", "data"} <= set(arrays)
        raise ValueError(
            f"--data expects an array of rows of numbers, but {path} holds "
            + ("a sparse matrix. Save its X.toarray()." if sparse else f"{listed or 'no array'}.")
        )
    floating = [key for key, value in rows.items() if value.ndim == 2 and value.dtype.kind == "f"]
    name = "X" if "X" in rows else next(iter([*floating, *rows]))
    note = f"took the array {name!r} of shape {rows[name].shape}; --array takes another of {listed}"
    return name, [f"{note}."] if len(arrays) > 1 else []


def _is_real(array):
    return array.dtype.kind in "fiub"


def _from_array(X, source, labels, others, notes):
    """Rows of an array; labels are columns of it, or others of the archive."""
    if not _is_real(X):
        remedy = {"c": " Stack X.real and X.imag.", "O": " Save X.astype(float)."}
        raise ValueError(
            f"--data expects real numbers, but {source} has the type {X.dtype}."
            + remedy.get(X.dtype.kind, "")
        )
    if X.ndim < 2:
        raise ValueError(
            f"--data expects an array of rows, with two dimensions or more, but {source} has the "
            f"shape {X.shape}. If each value is a row, save X.reshape(-1, 1)."
        )
    if X.size == 0:
        raise ValueError(f"--data expects rows of numbers, but {source} has the shape {X.shape}.")
    X = X.reshape(len(X), -1)
    vectors = {
        key: value
        for key, value in others.items()
        if value is not None and value.shape in ((len(X),), (len(X), 1))
    }
    names, carried, taken = [str(i) for i in range(X.shape[1])], {}, []
    for label in labels:
        if label in vectors:
            carried[label] = vectors[label].ravel()
        else:
            taken.append(_position(label, names, source, also=vectors))
            carried[label] = X[:, taken[-1]]
    if taken:
        X, names = np.delete(X, taken, axis=1), [n for j, n in enumerate(names) if j not in taken]
    if not names:
        raise ValueError(f"--data expects columns of numbers, but {source} has none left to fit.")
    _check_finite(X, names, source)
    return Rows(X, carried, next(iter(carried), None), notes)


def _from_table(table, labels, path):
    """Rows of a table, without its labels, its index and its empty columns."""
    names, columns, notes = table.names, table.columns, list(table.notes)
    positions = [_position(label, names, path) for label in labels]
    empty = [j for j, c in enumerate(columns) if c.dtype.kind == "f" and np.isnan(c).all()]
    empty = [j for j in empty if j not in positions] if len(empty) < len(columns) else []
    if empty:
        notes.append(f"left out {_listed(names, empty)} of {path}, without a value in any row.")
    carried = {}
    if table.has_header and len(columns) > 1 and 0 not in [*positions, *empty]:
        index = _index_name(names[0], columns[0])
        if index is not None:
            notes.append(
                f"took the first column of {path} ({names[0]!r}) for the index of the rows; it is "
                "carried, not fitted."
            )
            carried[index], empty = columns[0], [*empty, 0]
    carried |= {names[j]: columns[j] for j in positions}
    kept = [j for j in range(len(columns)) if j not in {*positions, *empty}]
    if not kept:
        raise ValueError(f"--data expects columns of numbers, but {path} has none left to fit.")
    _check_numbers(table, kept, labels, path)
    X = np.column_stack([columns[j] for j in kept])
    _check_finite(X, [names[j] for j in kept], path)
    return Rows(X, carried, names[positions[0]] if positions else None, notes)


def _index_name(name, column):
    """What to call a first column that is an index; None if it is a feature."""
    if not name or name == "Unnamed: 0":
        return "index"
    if name.lower() in _COUNTED_NAMES and column.dtype.kind == "f":
        counts = np.arange(len(column))
        if any(np.array_equal(column, counts + start) for start in (0, 1)):
            return name
    return None


def _position(label, names, source, also=()):
    """Number of the column that a name, or a number counted from 0, stands for."""
    if label in names:
        return names.index(label)
    try:
        return range(len(names))[int(label)]
    except (ValueError, IndexError):
        choices = _listed([*also, *names], range(len(also) + len(names)))
        raise ValueError(
            f"--label expects the name or number of a column of {source} ({choices}), but got "
            f"{label!r}."
        ) from None


def _listed(names, positions, values=None):
    """Columns by name, eight at most, each with a value behind it if there are any."""
    parts = [
        shortened(names[j]) + ("" if values is None else f" ({values[i]})")
        for i, j in enumerate(positions)
    ]
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    return ("column " if len(parts) == 1 else "columns ") + ", ".join(parts[:8]) + more


def _check_numbers(table, kept, labels, path):
    """Raise if a column that is to be fitted holds text."""
    texts = [j for j in kept if table.columns[j].dtype.kind != "f"]
    if texts:
        examples = [shortened(next(filter(_tables.is_text, table.columns[j]))) for j in texts]
        named = " ".join([*labels, *(shortened(table.names[j]) for j in texts[:8])])
        raise ValueError(
            f"--data expects numbers, but {path} holds text in "
            f"{_listed(table.names, texts, examples)}. Carry what is no feature with "
            f"--label {named}, whose first colours the picture, or turn it into numbers."
        )


def _check_finite(X, names, source):
    """Raise if values are missing or infinite; reads a memory map block by block."""
    if X.dtype.kind != "f":
        return
    size = max(1, _BLOCK_VALUES // X.shape[1])
    for found, what, remedy in (
        (np.isnan, "missing values", "Fill them, as sklearn.impute.SimpleImputer does, or "),
        (np.isinf, "infinite values", "Correct them, or "),
    ):
        n_rows, per_column = 0, np.zeros(X.shape[1], dtype=np.int64)
        for start in range(0, len(X), size):
            where = found(X[start : start + size])
            n_rows, per_column = n_rows + where.any(axis=1).sum(), per_column + where.sum(axis=0)
        if n_rows:
            columns = np.flatnonzero(per_column)
            raise ValueError(
                f"--data expects a number in every place, but {n_rows} of {len(X)} rows of "
                f"{source} have {what}, in {_listed(names, columns, per_column[columns])}. "
                f"{remedy}leave these rows or columns out."
            )
