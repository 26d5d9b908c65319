"""ETTh1 and ETTh2: two years of hourly loads and oil temperature of an electricity transformer."""

from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import table

COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]  # six loads, oil in deg C
ROWS = 17_420  # of each published file
MONTH = 672  # hours of a month that the experiment uses
CITATION = "Zhou et al., Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting, AAAI 2021"


def transformer(what: str, file: str, sha256: str | None) -> fetch.PublicSet:
    return fetch.PublicSet(
        what=what,
        size="2.6 MB",
        licence="CC BY-ND 4.0",
        citation=CITATION,
        copy=f"timeseries/{file}",
        url="https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/",
        files={file: sha256},
    )


SETS = {
    "etth1": transformer(
        "ETTh1: an electricity transformer, hourly, 7 variables",
        "ETTh1.csv",
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    # we never held the whole public file, so there is no checksum that we could vouch for
    "etth2": transformer("ETTh2: another transformer, hourly, 7 variables", "ETTh2.csv", None),
}


def count_months(dates: pd.Series) -> tuple[int, int]:
    "Calendar months that the rows touch, and those whose first 672 hours are all there."
    months = dates.dt.to_period("M")
    firsts = dates.dt.day.sub(1) * 24 + dates.dt.hour < MONTH
    return months.nunique(), int((months[firsts].value_counts() == MONTH).sum())


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "`values` (hours, 7) float32 and the facts of the index. Raises ValueError for the first thing wrong."
    rows = table.read_table(path.name, path.read_bytes(), ["date", *COLUMNS], "ETT-small")
    dates = table.read_hours(path.name, rows["date"], "date")
    values = table.read_numbers(path.name, rows, COLUMNS)
    months, complete = count_months(dates)
    short = "" if len(values) == ROWS else f" (the published file has {ROWS:,})"
    print(
        f"{name}: {len(values):,} rows{short}, {dates.iloc[0]} to {dates.iloc[-1]}, {len(COLUMNS)} columns"
    )
    print(f"{months} calendar months, {complete} of them with their first {MONTH} hours")
    facts = {
        "columns": COLUMNS,
        "start": dates.iloc[0].isoformat(),
        "hours": 1,
        "months": months,
        "complete_months": complete,
    }
    return {"values": values}, facts
