"""Reading tables line by line: what breaks a rule is named by file, line and column, with the remedy. And labels as indices."""

import io
import re

import numpy as np
import pandas as pd


def first(wrong) -> int | None:
    "Where something is wrong for the first time, if anywhere."
    return int(np.argmax(wrong)) if np.any(wrong) else None


def read_table(
    name: str, content: bytes, columns: list[str], origin: str
) -> pd.DataFrame:  # the table as text, one row per line
    "Raises ValueError if this is no table with exactly these columns, which is how files of `origin` look."
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8",
            skip_blank_lines=False,
        )
    except ValueError as error:  # no text, no rows at all, too many fields in a line
        raise ValueError(
            f"{name} cannot be read as a table ({str(error).strip()}); get the file again"
        ) from error
    if list(table.columns) != columns:
        lacks = [c for c in columns if c not in table.columns]
        extra = [c for c in table.columns if c not in columns]
        raise ValueError(
            f"{name} has columns {', '.join(map(str, table.columns))}; expected {', '.join(columns)}"
            + (f"; missing: {', '.join(lacks)}" if lacks else "")
            + (f"; not expected: {', '.join(extra)}" if extra else "")
            + f"; is this a file of {origin}?"
        )
    if not len(table):
        raise ValueError(f"{name} has a header and no rows; get the file again")
    return table


def read_hours(
    name: str,
    texts: pd.Series,  # as in 2016-07-01 00:00:00
    column: str,  # where they stand, for messages
) -> pd.Series:
    "The dates, one per hour. Raises ValueError for the first line that breaks the clock."
    dates = pd.to_datetime(texts, format="%Y-%m-%d %H:%M:%S", errors="coerce")
    row = first(dates.isna())
    if row is not None:  # a file's first line is its header
        raise ValueError(
            f"{name}, line {row + 2}, column {column}: {texts[row]!r} is no date like 2016-07-01 00:00:00; mend or drop the line"
        )
    hours = dates.diff().to_numpy()[1:] / np.timedelta64(1, "h")
    wrongs = {  # in this order: an unsorted table also has gaps
        "lies before": (hours < 0, "sort the lines"),
        "repeats": (hours == 0, "drop it"),
        "does not follow on": (hours != 1, "fill in the missing hours"),
    }
    for what, (wrong, remedy) in wrongs.items():
        row = first(wrong)
        if row is not None:
            raise ValueError(
                f"{name}, line {row + 3}: {dates[row + 1]} {what} {dates[row]} in the line above, "
                f"but rows must be one hour apart; {remedy}"
            )
    return dates


def read_numbers(
    name: str,
    table: pd.DataFrame,
    columns: list[str],
    missing: str | None = None,  # how the file writes a value that was not measured
) -> np.ndarray:  # (rows, columns) float32, NaN where missing
    "Raises ValueError for the first value that is no finite number, or a column that never changes."
    texts = table[columns]
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        values = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64).astype(np.float32)
    gaps = (texts == missing).to_numpy()
    for i, column in enumerate(columns):
        row = first(~np.isfinite(values[:, i]) & ~gaps[:, i])
        if row is not None:
            raise ValueError(
                f"{name}, line {row + 2}, column {column}: {texts[column][row]!r} is no finite number"
                + (f" nor {missing}" if missing else "")
                + "; mend or drop the line"
            )
        there = values[~gaps[:, i], i]
        if not len(there):
            raise ValueError(f"{name}, column {column}: no row holds a number; get the file again")
        if np.ptp(there) == 0:
            raise ValueError(
                f"{name}, column {column}: all rows hold {there[0]:g}, which says nothing; get the file again"
            )
    return values


def natural(text: str) -> list:
    "A key that sorts numbers within names as numbers: take 9 before take 10."
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def index_labels(
    given: list[dict[str, str | None]],  # of each item: label -> class, None if it is not known
    orders: dict[str, list[str]] | None = None,  # label -> classes in the order of the publisher
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """One int16 array (items,) for each label, and label -> its classes: those that occur, as ordered or sorted.

    An array holds indices into the classes, -1 where the class is not known."""
    arrays, classes = {}, {}
    for label in given[0]:
        there = {labels[label] for labels in given} - {None}
        order = (orders or {}).get(label, sorted(there, key=natural))
        classes[label] = [one for one in order if one in there]
        index = {None: -1} | {one: i for i, one in enumerate(classes[label])}
        arrays[label] = np.array([index[labels[label]] for labels in given], np.int16)
    return arrays, classes
