"""PhysioNet Challenge 2012, sets A and B: the first 48 hours of stays in intensive care, as hourly means of 37 variables.

Measurements come at irregular minutes. They are cleaned by the rules of `CLEANING`, in this order, and then averaged in bins:
hour = min(floor(minutes / 60), 47), so that the stamp 48:00 belongs to the last hour. A bin without a measurement is NaN."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fetch
import numpy as np
import pandas as pd
import table
from tqdm import tqdm

COLUMNS = """ALP ALT AST Albumin BUN Bilirubin Cholesterol Creatinine DiasABP FiO2 GCS Glucose HCO3 HCT HR K Lactate MAP MechVent
Mg NIDiasABP NIMAP NISysABP Na PaCO2 PaO2 Platelets RespRate SaO2 SysABP Temp TroponinI TroponinT Urine WBC Weight pH""".split()
GENERAL = ["Age", "Gender", "Height", "ICUType"]  # of the patient, given at 00:00
OUTCOMES = ["SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death"]
STATIC = [*GENERAL, "Weight", *OUTCOMES]
INDEX = {name: i for i, name in enumerate([*COLUMNS, "RecordID", *GENERAL])}  # of all 42 parameters
HOURS = 48
STAYS = 4000  # published, of each set


def stays(letter: str) -> fetch.PublicSet:
    return fetch.PublicSet(
        what=f"PhysioNet 2012, set {letter.upper()}: 48 h in intensive care, 37 variables",
        size="8 MB",
        licence="ODC-By 1.0",
        citation="Silva, Moody, Scott, Celi, Mark, Predicting in-hospital mortality of ICU patients, Comput. Cardiol. 39, 2012; "
        "Goldberger et al., PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101(23), 2000",
        copy=f"timeseries/physionet2012_set-{letter}.zip",
        url="https://physionet.org/files/challenge-2012/1.0.0/",
        files={f"set-{letter}.zip": None, f"Outcomes-{letter}.txt": None},
        sums="SHA256SUMS.txt",
        marker=f"Outcomes-{letter}.txt",
    )


SETS = {"physionet_a": stays("a"), "physionet_b": stays("b")}


class Rule(NamedTuple):
    variables: tuple[str, ...]
    wrong: Callable[[np.ndarray], np.ndarray]  # values -> which ones
    mend: Callable[[np.ndarray], np.ndarray] | None = None  # None: they are dropped


PRESSURES = ("DiasABP", "MAP", "NIDiasABP", "NIMAP", "NISysABP", "SysABP")
CLEANING = {
    "below 1": Rule((*PRESSURES, "RespRate", "HR", "HCT"), lambda x: x < 1),
    "HR above 299": Rule(("HR",), lambda x: x > 299),
    "Temp above 75, taken as Fahrenheit": Rule(
        ("Temp",), lambda x: x > 75, lambda x: (x - 32) / 1.8
    ),
    "Temp outside 25 to 45": Rule(("Temp",), lambda x: (x < 25) | (x > 45)),
    "pH 65 to 80, divided by 10": Rule(("pH",), lambda x: (x >= 65) & (x <= 80), lambda x: x / 10),
    "pH 650 to 800, divided by 100": Rule(
        ("pH",), lambda x: (x >= 650) & (x <= 800), lambda x: x / 100
    ),
    "pH outside 6.5 to 8": Rule(("pH",), lambda x: (x < 6.5) | (x > 8)),
    "Weight outside 35 to 299": Rule(("Weight",), lambda x: (x < 35) | (x > 299)),
}


class Rows(NamedTuple):
    "The lines of all stays, one after the other."

    stay: np.ndarray  # (rows,) 0 for the first file
    minute: np.ndarray  # (rows,) since admission
    variable: np.ndarray  # (rows,) its INDEX
    value: np.ndarray  # (rows,) float64


def minutes(text: str) -> float:
    "Of a time stamp like 07:30; NaN if it is none of the first 48 hours."
    stamp = re.fullmatch(r"(\d\d):([0-5]\d)", text)
    minute = 60 * int(stamp[1]) + int(stamp[2]) if stamp else np.nan
    return minute if minute <= 60 * HOURS else np.nan


def finite(text: str) -> float:
    "The number, NaN if it is none or infinite."
    value = pd.to_numeric(text, errors="coerce")
    return value if np.isfinite(value) else np.nan


def read_rows(files: dict[str, bytes]) -> Rows:
    "Parses all files at once. Raises ValueError naming file, line and column of the first thing wrong."
    lines, counts = [], []
    for name, content in files.items():
        header, *body = content.rstrip().replace(b"\r\n", b"\n").split(b"\n")
        if header != b"Time,Parameter,Value":
            raise ValueError(
                f"{name}, line 1: {header[:60].decode(errors='replace')!r}, expected Time,Parameter,Value; get the file again"
            )
        if not body:
            raise ValueError(f"{name} has a header and no record of a patient; get the file again")
        row = table.first([line.count(b",") != 2 for line in body])
        if row is not None:
            raise ValueError(
                f"{name}, line {row + 2}: {body[row].decode(errors='replace')!r} does not have the fields "
                "Time,Parameter,Value; get the file again"
            )
        lines += body
        counts.append(len(body))
    texts = pd.read_csv(  # few different texts: each is parsed once, below
        io.BytesIO(b"\n".join(lines)),
        names=["Time", "Parameter", "Value"],
        dtype="category",
        keep_default_na=False,
        encoding_errors="replace",
        quoting=csv.QUOTE_NONE,
        lineterminator="\n",
    )
    minute, variable, value = (
        np.array([parse(text) for text in texts[column].cat.categories])[texts[column].cat.codes]
        for column, parse in (
            ("Time", minutes),
            ("Parameter", lambda text: INDEX.get(text, np.nan)),
            ("Value", finite),
        )
    )
    stay = np.repeat(np.arange(len(counts)), counts)
    backwards = (np.diff(minute, prepend=0) < 0) & (np.diff(stay, prepend=0) == 0)
    for wrong, column, what in (
        (np.isnan(minute), "Time", "is no time from 00:00 to 48:00"),
        (np.isnan(variable), "Parameter", "is no parameter of the challenge"),
        (np.isnan(value), "Value", "is no finite number"),
        (backwards, "Time", "lies before the line above"),
    ):
        row = table.first(wrong)
        if row is not None:
            line = row - int(np.searchsorted(stay, stay[row])) + 2
            raise ValueError(
                f"{[*files][stay[row]]}, line {line}, column {column}: {str(texts[column][row])!r} {what}; "
                "mend the line, or get the file again"
            )
    return Rows(stay, minute, variable.astype(int), value)


def read_general(rows: Rows, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    "RecordID (n,) and Age, Gender, Height, ICUType (n, 4) of each stay. Raises ValueError unless it has each once."
    found = np.zeros((len(files), 5))
    for i, name in enumerate(["RecordID", *GENERAL]):
        here = rows.variable == INDEX[name]
        times = np.bincount(rows.stay[here], minlength=len(files))
        stay = table.first(times != 1)
        if stay is not None:
            raise ValueError(
                f"{files[stay]} has {times[stay]} lines of {name}, expected one; get the file again"
            )
        found[:, i] = rows.value[here]
    stay = table.first([f"{i:.0f}.txt" != file for i, file in zip(found[:, 0], files)])
    if stay is not None:
        raise ValueError(
            f"{files[stay]} holds the RecordID {found[stay, 0]:g}; a file must hold the stay it is named after: get it again"
        )
    return found[:, 0].astype(np.int32), found[:, 1:]


def read_outcomes(name: str, content: bytes, records: np.ndarray) -> np.ndarray:  # (n, 5)
    "Scores and outcomes of the stays, in their order. Raises ValueError unless each stay has them, and no other."
    columns = ["RecordID", *OUTCOMES]
    rows = table.read_table(name, content, columns, "the PhysioNet Challenge 2012")
    values = table.read_numbers(name, rows, columns)
    ids = values[:, 0].astype(np.int32)
    wrongs = {
        "is there twice; drop one": pd.Series(ids).duplicated().to_numpy(),
        "has no file; drop the line, or get the archive again": ~np.isin(ids, records),
    }
    for what, wrong in wrongs.items():
        row = table.first(wrong)
        if row is not None:
            raise ValueError(f"{name}, line {row + 2}: the stay {ids[row]} {what}")
    stay = table.first(~np.isin(records, ids))
    if stay is not None:
        raise ValueError(
            f"{name} has no line for the stay {records[stay]}; drop the file {records[stay]}.txt, or get both again"
        )
    return values[np.argsort(ids), 1:]


def clean(rows: Rows) -> Rows:
    "The rows that `CLEANING` leaves, mended; prints how many each rule met."
    value, keep = rows.value.copy(), np.ones(len(rows.value), bool)
    for rule, (variables, wrong, mend) in CLEANING.items():
        met = np.isin(rows.variable, [INDEX[variable] for variable in variables])
        met[met] = wrong(value[met])
        if mend:
            value[met] = mend(value[met])
        else:
            keep &= ~met
        print(f"  {met.sum():6,} {rule}" + ("" if mend else ": dropped"))
    return Rows(*(column[keep] for column in rows._replace(value=value)))


def hourly_means(rows: Rows, n: int) -> np.ndarray:  # (n, 48, 37) float32
    "Mean of each variable in each hour of a stay, NaN where there is none."
    hour = np.minimum(rows.minute // 60, HOURS - 1).astype(int)
    bins = (rows.stay * HOURS + hour) * len(COLUMNS) + rows.variable
    size = n * HOURS * len(COLUMNS)
    counts = np.bincount(bins, minlength=size)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        means = np.bincount(bins, rows.value, minlength=size) / counts
    return means.reshape(n, HOURS, -1).astype(np.float32)


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """`values` (n, 48, 37), `static` (n, 10), both float32 with NaN where missing, `record` (n,), and the facts of the index.

    A stay without a single measurement stays, all NaN. Raises ValueError for the first thing wrong."""
    letter = name[-1]
    files = {}
    for file, content in tqdm(
        fetch.contents(path, f"set-{letter}/[0-9]*.txt"), "stays", STAYS, delay=2
    ):
        if file in files:
            raise ValueError(f"{path.name} holds {file} twice; keep one of the two copies")
        files[file] = content
    outcomes = [*fetch.contents(path, f"Outcomes-{letter}.txt")]
    if not files or len(outcomes) != 1:
        raise ValueError(
            f"{path.name} holds {len(files)} files set-{letter}/*.txt and {len(outcomes)} Outcomes-{letter}.txt, "
            "expected many and one; get both again"
        )
    files = dict(sorted(files.items(), key=lambda item: (len(item[0]), item[0])))
    rows = read_rows(files)
    record, general = read_general(rows, [*files])
    known = read_outcomes(*outcomes[0], record)
    rows = Rows(*(column[rows.variable < len(COLUMNS)] for column in rows))
    print(f"{name}: {len(rows.value):,} measurements; cleaned:")
    rows = clean(rows)

    weight = np.full(len(record), np.nan)
    weighed = np.flatnonzero(rows.variable == INDEX["Weight"])[::-1]  # the first one wins
    weight[rows.stay[weighed]] = rows.value[weighed]
    static = np.column_stack([general, weight, known]).astype(np.float32)
    static[static == -1] = np.nan
    values = hourly_means(rows, len(record))

    short = "" if len(record) == STAYS else f" (published: {STAYS:,})"
    print(
        f"means of each hour = min(floor(minutes / 60), {HOURS - 1}): "
        f"{len(record):,} stays{short} x {HOURS} hours x {len(COLUMNS)} variables, {np.isnan(values).mean():.1%} missing; "
        f"stays without a single measurement: {np.isnan(values).all((1, 2)).sum()}"
    )
    print(f"{int(np.nansum(static[:, -1])):,} died in hospital")
    facts = {"columns": COLUMNS, "static": STATIC, "hours": 1}
    return {"values": values, "static": static, "record": record}, facts
