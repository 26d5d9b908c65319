"""Prepares ETTh1 or ETTh2: two years of hourly loads and oil temperature of an electricity transformer.

python data_scripts/ett.py [etth1|etth2] [--source FILE_OR_FOLDER] [--out FOLDER]"""

import argparse
from pathlib import Path

import fetch
import numpy as np
import pandas as pd

PUBLIC = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/"
FILES = {
    "etth1": fetch.PublicFile(
        "timeseries/ETTh1.csv",
        PUBLIC + "ETTh1.csv",
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    # we never held the whole public file, so there is no checksum that we could vouch for
    "etth2": fetch.PublicFile("timeseries/ETTh2.csv", PUBLIC + "ETTh2.csv", None),
}
ROWS = 17_420  # of each published file
LICENCE = "CC BY-ND 4.0"
CITATION = "Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021"
COLUMNS = [
    "HUFL",
    "HULL",
    "MUFL",
    "MULL",
    "LUFL",
    "LULL",
    "OT",
]  # six loads, oil temperature in deg C
MONTH = 672  # hours of a month that the experiment uses


def read_table(path: Path) -> pd.DataFrame:
    "The table as text, one row per line. Raises ValueError if it is no such table."
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8", skip_blank_lines=False
        )
    except (
        ValueError,
        pd.errors.ParserError,
    ) as error:  # no text, no rows at all, too many fields in a line
        raise ValueError(
            f"{path.name} cannot be read as a table ({error}); get the file again"
        ) from error
    if list(table.columns) != ["date", *COLUMNS]:
        lacks = [c for c in ["date", *COLUMNS] if c not in table.columns]
        extra = [c for c in table.columns if c not in ["date", *COLUMNS]]
        raise ValueError(
            f"{path.name} has columns {', '.join(map(str, table.columns))}; expected date, {', '.join(COLUMNS)}"
            + (f"; missing: {', '.join(lacks)}" if lacks else "")
            + (f"; not expected: {', '.join(extra)}" if extra else "")
            + "; is this a file of ETT-small?"
        )
    if not len(table):
        raise ValueError(f"{path.name} has a header and no rows; get the file again")
    return table


def first(wrong) -> int | None:
    "Where something is wrong for the first time, if anywhere."
    return int(np.argmax(wrong)) if np.any(wrong) else None


def read_hours(table: pd.DataFrame, name: str) -> pd.Series:
    "The dates, one per hour. Raises ValueError for the first line that breaks the clock."
    dates = pd.to_datetime(table["date"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    row = first(dates.isna())
    if row is not None:  # a file's first line is its header
        raise ValueError(
            f"{name}, line {row + 2}, column date: {table['date'][row]!r} is no date like 2016-07-01 00:00:00; mend or drop the line"
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


def read_values(table: pd.DataFrame, name: str) -> np.ndarray:  # (rows, 7)
    "The numbers. Raises ValueError for the first that is none, or a column that never changes."
    numbers = table[COLUMNS].apply(pd.to_numeric, errors="coerce")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        values = numbers.to_numpy(np.float64).astype(np.float32)
    for i, column in enumerate(COLUMNS):
        row = first(~np.isfinite(values[:, i]))
        if row is not None:
            raise ValueError(
                f"{name}, line {row + 2}, column {column}: {table[column][row]!r} is no finite number; mend or drop the line"
            )
        if np.ptp(values[:, i]) == 0:
            raise ValueError(
                f"{name}, column {column}: all rows hold {values[0, i]:g}, which says nothing; get the file again"
            )
    return values


def count_months(dates: pd.Series) -> tuple[int, int]:
    "Calendar months that the rows touch, and those whose first 672 hours are all there."
    months = dates.dt.to_period("M")
    firsts = dates.dt.day.sub(1) * 24 + dates.dt.hour < MONTH
    return months.nunique(), int((months[firsts].value_counts() == MONTH).sum())


def prepare(name: str, source: str | None, out: Path):
    file = FILES[name]
    with fetch.obtain(file, source) as found:
        table = read_table(found.path)
        dates, values = read_hours(table, found.path.name), read_values(table, found.path.name)
    months, complete = count_months(dates)
    with fetch.whole_folder(out / name) as folder:
        np.save(folder / "values.npy", values)
        facts = {
            "name": name,
            "columns": COLUMNS,
            "shape": list(values.shape),
            "start": dates.iloc[0].isoformat(),
            "hours": 1,
            "months": months,
            "complete_months": complete,
            "file": Path(file.name).name,
            "url": file.url,
            "sha256": found.sha256,
            "public_file": found.public,
            "licence": LICENCE,
            "citation": CITATION,
        }
        fetch.write_json(folder / "index.json", facts)
    short = "" if len(values) == ROWS else f" (the published file has {ROWS:,})"
    print(
        f"{name}: {len(values):,} rows{short}, {dates.iloc[0]} to {dates.iloc[-1]}, {len(COLUMNS)} columns"
    )
    print(f"{months} calendar months, {complete} of them with their first {MONTH} hours")
    print(f"licence {LICENCE}: share unaltered, name the source: {CITATION}")
    print(f"written: {fetch.relative(out / name)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", default="etth1", choices=FILES, help="default: etth1")
    parser.add_argument("--source", help="a local copy, or the folder it is in; default: download")
    parser.add_argument(
        "--out", type=Path, default=fetch.ROOT / "data", help="default: data in this repository"
    )
    args = parser.parse_args()
    prepare(args.name, args.source, args.out)


if __name__ == "__main__":
    fetch.run(main)
