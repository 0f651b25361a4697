"""The columns of a table, from a file, a DataFrame or arrays."""

import csv
import datetime
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

# How people write that a number is missing. Of names, only "" is: "NA" is a
# country, and there are people called None.
_NO_NUMBER = frozenset(("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"))

_ORIGIN = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Columns = dict[str, np.ndarray]


def read_columns(data: Any) -> Columns:
    """Returns the columns of a table by name, each with a value for each row.

    Args:
        data: a pandas DataFrame, the path of a CSV or Parquet file, or a dict
            of arrays. The columns of a CSV file hold strings.

    Raises:
        ValueError: If `data` is none of these, if a file cannot be read, if
            columns differ in length or if there are no rows.
    """
    if isinstance(data, str | os.PathLike):
        columns = _read_file(pathlib.Path(data))
    elif isinstance(data, Mapping):
        columns = {str(name): np.asarray(data[name]) for name in data}
    elif hasattr(data, "columns") and hasattr(data, "__getitem__"):
        columns = _of_frame(data)
    else:
        raise ValueError(
            "`data` must be a pandas DataFrame, the path of a CSV or Parquet "
            f"file, or a dict of arrays. Received: data of type {type(data)}"
        )
    lengths = {name: len(np.atleast_1d(c)) for name, c in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(
            "`data` must have columns of one length and at least one row. "
            f"Received: columns of lengths {lengths}"
        )
    return columns


def take(columns: Columns, argument: str, name: Any) -> np.ndarray:
    """Returns one column, or raises a ValueError that names the argument."""
    if not isinstance(name, str) or name not in columns:
        raise ValueError(
            f"`{argument}` must be a column of the table, one of "
            f"{sorted(columns)}. Received: {argument}={name!r}"
        )
    return columns[name]


def numbers(argument: str, name: str, column: np.ndarray) -> np.ndarray:
    """Returns a column as float64; missing values are NaN.

    Raises:
        ValueError: If a value is no number. The error names it.
    """
    if column.dtype.kind in "biuf":
        return column.astype("float64")
    values = np.empty(len(column))
    for row, value in enumerate(column):
        try:
            values[row] = np.nan if is_missing(value) else float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"`{argument}` must name columns of numbers. If {name!r} holds "
                "names, pass it in `categories` or leave it out. Received: "
                f"{value!r} in row {row} of column {name!r}"
            ) from None
    return values


def parsed(column: np.ndarray) -> np.ndarray:
    """Returns for each row whether its value is a number that is there."""

    def is_number(value):
        try:
            return not is_missing(value) and np.isfinite(float(value))
        except (TypeError, ValueError):
            return False

    return np.array([is_number(value) for value in column], bool)


def keys(argument: str, name: str, column: np.ndarray) -> np.ndarray:
    """Returns a column of names or whole numbers that has no missing value.

    Raises:
        ValueError: If a value is missing. The error says how many are.
    """
    missing = missing_keys(column)
    if missing.any():
        raise ValueError(
            f"`{argument}` must have a value in each row. Received: column "
            f"{name!r} with {missing.sum()} missing values, the first in row "
            f"{missing.argmax()}"
        )
    if column.ndim != 1:
        raise ValueError(
            f"`{argument}` must be a column of one value a row. Received: "
            f"column {name!r} of shape {column.shape}"
        )
    if column.dtype.kind == "O":
        column = np.array([str(value) for value in column])
    if column.dtype.kind == "U":
        # As written, unless they are plain whole numbers: 2 comes before 10.
        try:
            whole = column.astype("int64")
        except (OverflowError, ValueError):
            return column
        return whole if (whole.astype(column.dtype) == column).all() else column
    return column


def times(argument: str, name: str, column: np.ndarray) -> np.ndarray:
    """Returns a column of numbers or moments, which sorts as time goes.

    Text is read first: as text, "9.5" comes after "10.5".

    Raises:
        ValueError: If a value is missing, or if text is neither numbers nor
            dates as ISO 8601 writes them.
    """
    values = keys(argument, name, column)
    if values.dtype.kind != "U":
        return values
    try:
        read = values.astype("float64")
    except ValueError:
        read = np.array([_moment(argument, name, v) for v in values.tolist()])
    if np.isnan(read).any():
        raise ValueError(
            f"`{argument}` must have a value in each row. Received: "
            f"{str(values[np.isnan(read).argmax()])!r} in row "
            f"{np.isnan(read).argmax()} of column {name!r}"
        )
    return read


def _moment(argument, name, text):
    """Returns the microseconds of a date since an origin."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"`{argument}` must be a column of numbers or dates; text must be "
            'like "2026-11-26" or "2026-11-26 09:30". Received: '
            f"{text!r} in column {name!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _ORIGIN) // datetime.timedelta(microseconds=1)


def missing_keys(column: np.ndarray) -> np.ndarray:
    """Returns for each row whether the name in it is missing."""
    if column.dtype.kind == "O":
        return np.array([_is_nothing(v) or v == "" for v in column], bool)
    if column.dtype.kind == "U":
        return column == ""
    if column.dtype.kind in "fmM":
        return (
            np.isnan(column) if column.dtype.kind == "f" else np.isnat(column)
        )
    return np.zeros(len(column), bool)


def is_missing(value: Any) -> bool:
    """Returns whether a value stands for a number that is missing."""
    if isinstance(value, str):
        return value.strip() in _NO_NUMBER
    return _is_nothing(value)


def _is_nothing(value):
    """Returns whether a value is `None`, NaN, or pandas's NaT or NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        # Nobody knows whether NA differs from NA.
        return True


def _read_file(path):
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if path.suffix.lower() not in (".parquet", ".pq"):
        raise ValueError(
            "`data` must be a path that ends in .csv, .parquet or .pq. "
            f"Received: data={str(path)!r}"
        )
    try:
        import pandas
    except ImportError:
        raise ValueError(
            "To read Parquet, install pandas and pyarrow (the extra "
            "`keras-maml[tables]`). Received: "
            f"data={str(path)!r}"
        ) from None
    try:
        frame = pandas.read_parquet(path)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(
            f"`data` could not be read ({error}). Received: data={str(path)!r}"
        ) from error
    return _of_frame(frame)


def _read_csv(path):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _columns_of(csv.reader(file), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`data` could not be read ({error}). Received: data={str(path)!r}"
        ) from error


def _columns_of(reader, path):
    rows = iter(reader)
    header = next(rows, [])
    if not header or len(set(header)) < len(header):
        raise ValueError(
            "The first line of a CSV file must hold the names of its columns, "
            f"all different. Received: {header} in data={str(path)!r}"
        )
    values: list[list[str]] = [[] for _ in header]
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"Each line of a CSV file must have the {len(header)} columns "
                f"of its first one. Received: {len(row)} in line {number} of "
                f"data={str(path)!r}"
            )
        for column, value in zip(values, row):
            column.append(value)
    return {name: np.array(c, str) for name, c in zip(header, values)}


def _of_frame(frame):
    columns = {}
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError(
            "`data` must have columns of different names. Received: "
            f"columns {names}"
        )
    for name in frame.columns:
        series = frame[name]
        if str(series.dtype) == "category":
            series = series.astype(object)
        columns[str(name)] = series.to_numpy()
    return columns
