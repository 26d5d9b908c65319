"""Beijing Multi-Site Air Quality: four years of hourly pollutants and weather at twelve stations."""

from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import table
from tqdm import tqdm

COLUMNS = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "WSPM", "RAIN"]
CLOCK = ["year", "month", "day", "hour"]
HEADER = ["No", *CLOCK, *COLUMNS[:9], "RAIN", "wd", "WSPM", "station"]  # of a station's file
STATIONS, HOURS = 12, 35_064  # published

SETS = {
    "airquality": fetch.PublicSet(
        what="Beijing Air Quality: 12 stations, hourly, 11 variables",
        size="8 MB",
        licence="CC BY 4.0",
        citation="Zhang, Guo, Dong, He, Xu, Chen, Cautionary tales on air-quality improvement in Beijing, Proc. R. Soc. A 473, 2017",
        copy="timeseries/beijing_air_quality.zip",
        url="https://archive.ics.uci.edu/static/public/501/",
        files={"beijing+multi+site+air+quality+data.zip": None},
        marker="PRSA_Data_*.csv",
    )
}


def read_station(name: str, content: bytes) -> tuple[str, pd.Series, np.ndarray]:
    "Name, dates and values (hours, 11) of the station that a file holds. Raises ValueError for the first thing wrong."
    rows = table.read_table(name, content, HEADER, "the Beijing Multi-Site Air-Quality Data")
    row = table.first(rows["station"] != rows["station"][0])
    if row is not None:
        raise ValueError(
            f"{name}, line {row + 2}, column station: {rows['station'][row]!r} in a file of {rows['station'][0]!r}; "
            "a file must hold one station: get it again"
        )
    texts = rows["year"] + "-" + rows["month"] + "-" + rows["day"] + " " + rows["hour"] + ":00:00"
    dates = table.read_hours(name, texts, "year, month, day, hour")
    return rows["station"][0], dates, table.read_numbers(name, rows, COLUMNS, missing="NA")


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """`values` (stations, hours, 11) float32, NaN where missing, and the facts of the index.

    Raises ValueError for the first thing wrong, and unless all stations have the same hours."""
    stations, files, dates = {}, {}, None
    for file, content in tqdm(
        fetch.contents(path, "PRSA_Data_*.csv"), "stations", STATIONS, delay=2
    ):
        station, hours, values = read_station(file, content)
        if station in stations:
            raise ValueError(
                f"{file} and {files[station]} both hold the station {station}; keep one"
            )
        if dates is not None and not hours.equals(dates):
            other = next(iter(files.values()))
            raise ValueError(
                f"{file} has {len(hours):,} hours from {hours.iloc[0]} on, {other} has {len(dates):,} "
                f"from {dates.iloc[0]} on; all stations must have the same hours: get the files again"
            )
        stations[station], files[station], dates = values, file, hours
    if dates is None:
        raise ValueError(f"{path.name} holds no file PRSA_Data_*.csv; is this the right archive?")
    names = sorted(stations)
    values = np.stack([stations[station] for station in names])
    short = f" (published: {STATIONS} x {HOURS:,})" if values.shape[:2] != (STATIONS, HOURS) else ""
    print(
        f"{name}: {len(names)} stations x {len(dates):,} hours{short}, {dates.iloc[0]} to {dates.iloc[-1]}, "
        f"{len(COLUMNS)} columns, {np.isnan(values).mean():.1%} missing"
    )
    facts = {"columns": COLUMNS, "stations": names, "start": dates.iloc[0].isoformat(), "hours": 1}
    return {"values": values}, facts
