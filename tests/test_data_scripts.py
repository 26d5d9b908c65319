"""From public files to prepared sets: made-up files in each set's own layout, and the real ones where they are."""

import copy
import errno
import functools
import hashlib
import http.server
import importlib
import io
import json
import sys
import threading
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIES = ROOT.parent / "shared" / "data"
LOADS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
AIR = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "WSPM", "RAIN"]
VITALS = ["DiasABP", "HR", "Temp", "Urine", "Weight", "pH"]  # some of the 37
OUTCOMES = ["SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death"]
CHANNELS = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]


@pytest.fixture
def scripts(monkeypatch):
    """The data scripts' door as a module, blind to copies beside the checkout."""
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    module = importlib.import_module("prepare")
    monkeypatch.setattr(module.fetch, "BESIDE", ROOT / "no such folder")
    return module


# ---- made-up sets, each a dict of files: name -> table, text or arrays


def transformer(rows=100, seed=0):
    """A table like the transformers', all of its numbers different."""
    x = np.random.default_rng(seed).standard_normal((rows, 7)).astype(np.float32)
    table = pd.DataFrame(x, columns=LOADS)
    hours = pd.date_range("2016-07-01", periods=rows, freq="h")
    table.insert(0, "date", hours.strftime("%Y-%m-%d %H:%M:%S"))
    return {"ETTh1.csv": table}


def stations(rows=60, seed=0):
    """Tables of three stations, out of their order, a tenth of the values missing."""
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2013-03-31 20:00", periods=rows, freq="h")
    files = {}
    for station in ("Tiantan", "Aotizhongxin", "Dongsi"):
        x = rng.standard_normal((rows, 11)).astype(np.float32)
        table = pd.DataFrame(np.where(rng.random(x.shape) < 0.1, np.nan, x), columns=AIR)
        for field in ("hour", "day", "month", "year"):
            table.insert(0, field, getattr(hours, field))
        table.insert(0, "No", np.arange(rows) + 1)
        table = table[[*table.columns[:14], "RAIN"]].assign(wd="NW", WSPM=table["WSPM"])
        files[f"PRSA_Data_{station}_20130301-20170228.csv"] = table.assign(station=station)
    return files


def stays(seed=0):
    """Texts of five stays, out of their order, and the table of their outcomes, in another one."""
    rng = np.random.default_rng(seed)
    records, files = [140_005, 132_539, 150_000, 132_541, 132_540], {}
    for record in records:
        lines = [f"00:00,RecordID,{record}", f"00:00,Age,{record % 60 + 20}", "00:00,Gender,-1"]
        lines += ["00:00,Height,170.2", f"00:00,ICUType,{record % 4 + 1}", "00:00,Weight,-1"]
        minutes = sorted(rng.integers(0, 48 * 60 + 1, 120))[:-1] + [48 * 60]
        for minute in minutes if record != 132_541 else ():
            variable = VITALS[rng.integers(len(VITALS))]
            lines += [f"{minute // 60:02}:{minute % 60:02},{variable},{rng.uniform(36, 44):.2f}"]
        files[f"set-b/{record}.txt"] = "\n".join(["Time,Parameter,Value", *lines]) + "\n"
    outcomes = pd.DataFrame(rng.integers(1, 99, (5, 5)), columns=OUTCOMES)
    outcomes["Survival"], outcomes["In-hospital_death"] = [-1, 3, 9, -1, 4], [0, 1, 0, 0, 1]
    outcomes.insert(0, "RecordID", sorted(records, reverse=True))
    return {"Outcomes-b.txt": outcomes} | files


def samples(seed=0):
    """Arrays of six recordings at irregular milliseconds, one of them with a gap of 200 ms."""
    rng = np.random.default_rng(seed)
    who = [(1, 1, 0), (1, 1, 1), (1, 2, 0), (3, 1, 0), (3, 1, 1), (3, 2, 1)]
    steps = rng.integers(0, 20, (len(who), 150))
    steps[2, 70] = 200
    n = steps.size
    arrays = {
        "signal": rng.standard_normal((n, 6)).astype(np.float32),
        "timestamp_ms": (1_657_533_977_813 + np.cumsum(steps, 1)).ravel(),
        "label": np.sort(rng.integers(0, 5, steps.shape), 1).ravel().astype(np.uint8),
        "label_names": np.array(["SEATED", "SITTING_DOWN", "STANDING_UP", "TURNING", "WALKING"]),
        "device_names": np.array(["smartphone", "smartwatch"]),
        "channel_names": np.array(CHANNELS),
        "subj_id": np.array([1, 3], np.uint8),
    }
    for i, key in enumerate(("subject", "execution", "device")):
        arrays[key] = np.repeat(np.array(who, np.uint8)[:, i], 150)
    for key in ("age", "gender", "height_cm", "weight_kg", "hand"):
        arrays[f"subj_{key}"] = np.array([30, 40])
    return {"sp_sw_har.npz": arrays}


MADE = {"etth1": transformer, "airquality": stations, "physionet_b": stays, "har": samples}
COPY = {"airquality": "beijing_air_quality.zip", "physionet_b": "physionet2012_set-b.zip"}


def content_of(made) -> bytes:
    if isinstance(made, pd.DataFrame):
        return made.to_csv(index=False, na_rep="NA").encode()
    if isinstance(made, dict):
        buffer = io.BytesIO()
        np.savez(buffer, **made)
        return buffer.getvalue()
    return made if isinstance(made, bytes) else made.encode()


def zipped(files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, made in files.items():
            archive.writestr(name, content_of(made))
    return buffer.getvalue()


def write(files, folder):
    for name, made in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content_of(made))
    return folder


def as_copied(name, files):
    """The files as a folder of copies has them: archives in one zip, others as they are."""
    return {COPY[name]: zipped(files)} if name in COPY else files


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def arrays_of(folder):
    """The arrays that index.json names, and what else it says."""
    facts = json.loads((folder / "index.json").read_text())
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in facts["arrays"]}
    assert {key: list(array.shape) for key, array in arrays.items()} == facts["arrays"]
    assert {p.name for p in folder.iterdir()} == {"index.json", *(f"{key}.npy" for key in arrays)}
    return arrays, facts


@pytest.fixture
def make(scripts, tmp_path):
    """Prepares files that lie as in a folder of copies; returns the arrays and the facts."""

    def prepared(name, files, folder="data"):
        source = write(as_copied(name, files), tmp_path / f"raw {len(list(tmp_path.iterdir()))}")
        scripts.prepare(name, str(source), tmp_path / folder)
        return arrays_of(tmp_path / folder / name)

    return prepared


# ---- what comes out


@pytest.mark.parametrize("name", MADE)
def test_every_set_opens_by_memory_map_and_says_where_it_is_from(make, tmp_path, name):
    arrays, facts = make(name, MADE[name]())
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    assert arrays["values"].dtype == np.float32
    assert arrays["values"].shape[-1] == len(facts["columns"])
    assert facts["name"] == name and facts["licence"] and facts["citation"] and facts["url"]
    assert len(facts["sha256"]) == 64 and facts["public_file"] is (
        False if name == "etth1" else None
    )
    assert [p.name for p in (tmp_path / "data").iterdir()] == [name], "nothing is left behind"
    assert str(tmp_path) not in json.dumps(facts), "no path of this machine is kept"


def test_transformer_is_its_table(make):
    files = transformer(17_420)
    arrays, facts = make("etth1", files)
    assert facts["columns"] == LOADS and facts["start"] == "2016-07-01T00:00:00"
    assert np.array_equal(arrays["values"], files["ETTh1.csv"][LOADS].to_numpy())
    assert (facts["months"], facts["complete_months"]) == (24, 23)


def test_stations_are_their_tables_in_alphabetical_order(make):
    files = stations()
    arrays, facts = make("airquality", files)
    assert facts["columns"] == AIR and facts["stations"] == ["Aotizhongxin", "Dongsi", "Tiantan"]
    assert facts["start"] == "2013-03-31T20:00:00"
    for station, values in zip(facts["stations"], arrays["values"]):
        table = files[f"PRSA_Data_{station}_20130301-20170228.csv"]
        assert np.array_equal(values, table[AIR].to_numpy(np.float32), equal_nan=True)


def test_stays_are_hourly_means_of_their_measurements(make):
    files = stays()
    arrays, facts = make("physionet_b", files)
    outcomes = files.pop("Outcomes-b.txt").set_index("RecordID")
    assert arrays["record"].tolist() == [132_539, 132_540, 132_541, 140_005, 150_000]
    assert len(facts["columns"]) == 37 and facts["columns"] == sorted(facts["columns"])
    for record, values, static in zip(arrays["record"], arrays["values"], arrays["static"]):
        bins, weight = {}, np.nan
        for line in files[f"set-b/{record}.txt"].splitlines()[1:]:
            time, variable, value = line.split(",")
            if variable in VITALS and value != "-1" and variable != "pH":  # none is 6.5 to 8
                bins.setdefault((min(int(time[:2]), 47), variable), []).append(float(value))
                weight = float(value) if variable == "Weight" and np.isnan(weight) else weight
        assert np.isfinite(values).sum() == len(bins)
        for (hour, variable), seen in bins.items():
            mean = values[hour, facts["columns"].index(variable)]
            assert mean == pytest.approx(np.mean(seen), rel=1e-6)
        known = outcomes.loc[record].astype(float).replace(-1, np.nan).tolist()
        want = [record % 60 + 20, np.nan, 170.2, record % 4 + 1, weight, *known]
        assert static == pytest.approx(want, rel=1e-6, nan_ok=True)
    assert facts["static"] == ["Age", "Gender", "Height", "ICUType", "Weight", *OUTCOMES]
    assert np.isnan(arrays["values"][2]).all(), "a stay without a measurement stays, empty"


@pytest.mark.parametrize(
    "variable, value, want",
    [
        ("SysABP", 0, None),
        ("SysABP", 1, 1),
        ("HCT", 0.5, None),
        ("HR", 299, 299),
        ("HR", 300, None),
        ("Temp", 98.6, 37),
        ("Temp", 75, None),
        ("Temp", 24.9, None),
        ("Temp", 45, 45),
        ("pH", 73.5, 7.35),
        ("pH", 735, 7.35),
        ("pH", 7.35, 7.35),
        ("pH", 1, None),
        ("pH", 8.1, None),
        ("Weight", 34, None),
        ("Weight", 299, 299),
        ("Lactate", 0.3, 0.3),
    ],
)
def test_cleaning(make, variable, value, want):
    files = stays()
    files["set-b/132541.txt"] += f"30:59,{variable},{value}\n"
    arrays, facts = make("physionet_b", files)
    got = arrays["values"][2, 30, facts["columns"].index(variable)]
    assert got == pytest.approx(np.nan if want is None else want, nan_ok=True)
    if variable == "Weight":
        assert arrays["static"][2, 4] == pytest.approx(
            np.nan if want is None else want, nan_ok=True
        )


def test_cleaning_is_counted(make, capsys):
    files = stays()
    files["set-b/132541.txt"] += "30:00,HR,0\n30:00,RespRate,0\n31:00,Temp,98\n"
    make("physionet_b", files)
    said = capsys.readouterr().out
    assert "  2 below 1: dropped" in said and "  1 Temp above 75, taken as Fahrenheit\n" in said
    assert "  5 Weight outside 35 to 299: dropped" in said, "-1 of each stay"
    assert "min(floor(minutes / 60), 47)" in said and "5 stays (published: 4,000)" in said


def check_bins(arrays, facts, made):
    """Every bin of 50 ms from a recording's first time stamp on, one by one."""
    who = np.stack([made[key] for key in ("subject", "execution", "device")], 1)
    for r, head in enumerate(zip(arrays["subject"], arrays["execution"], arrays["device"])):
        mine = (who == head).all(1)
        time = made["timestamp_ms"][mine] - made["timestamp_ms"][mine][0]
        rows = slice(*arrays["starts"][r : r + 2])
        values, labels = arrays["values"][rows], arrays["label"][rows]
        assert len(values) == time.max() // 50 + 1
        for b, (value, label) in enumerate(zip(values, labels)):
            here = time // 50 == b
            if not here.any():
                assert label == -1 and np.isnan(value).all()
                continue
            assert value == pytest.approx(made["signal"][mine][here].mean(0), rel=1e-4, abs=1e-5)
            votes = np.bincount(made["label"][mine][here])
            assert label == votes.argmax()
    assert arrays["starts"][0] == 0 and arrays["starts"][-1] == len(arrays["values"])


def test_recordings_are_means_of_their_bins(make):
    files = samples()
    arrays, facts = make("har", files)
    check_bins(arrays, facts, files["sp_sw_har.npz"])
    assert (arrays["label"] == -1).sum() >= 3, "the gap of 200 ms"
    assert arrays["subject"].tolist() == [1, 1, 1, 3, 3, 3]
    assert facts["rate"] == 20 and facts["people"]["id"] == [1, 3]
    assert facts["labels"][0] == "SEATED" and facts["devices"] == ["smartphone", "smartwatch"]


# ---- layouts


def recordings():
    """The same samples as one csv file for each recording."""
    made = samples()["sp_sw_har.npz"]
    table = pd.DataFrame(
        made["signal"], columns=["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]
    )
    table["timestamp"], table["label"] = made["timestamp_ms"], made["label_names"][made["label"]]
    who = zip(made["subject"], made["execution"], made["device"])
    names = np.array([f"s{s:02}_{e:02}_{('sp', 'sw')[d]}.csv" for s, e, d in who])
    return {f"DATA/{name[:3]}/{name}": table[names == name] for name in np.unique(names)}


def nested(files):
    """The stations' archive as UCI publishes it."""
    inner = {f"PRSA_Data_20130301-20170228/{name}": made for name, made in files.items()}
    inner = zipped(inner)
    outer = {"PRSA2017_Data_20130301-20170228.zip": inner, "data.csv": "x", "test.csv": "y"}
    return {"beijing+multi+site+air+quality+data.zip": zipped(outer)}


def apart(files):
    """The stays as PhysioNet publishes them: an archive, and the outcomes beside it."""
    texts = {name: made for name, made in files.items() if name.startswith("set-b")}
    return {"set-b.zip": zipped(texts), "Outcomes-b.txt": files["Outcomes-b.txt"]}


@pytest.mark.parametrize(
    "name, files",
    [
        ("airquality", lambda: nested(stations())),
        ("airquality", stations),
        ("airquality", lambda: {"timeseries/beijing_air_quality.zip": zipped(stations())}),
        ("physionet_b", lambda: apart(stays())),
        ("physionet_b", stays),
        (
            "physionet_b",
            lambda: {k: content_of(v).replace(b"\n", b"\r\n") for k, v in stays().items()},
        ),
        ("har", lambda: {"sp-sw-har.zip": zipped(recordings())}),
        ("har", lambda: {Path(k).name: v for k, v in recordings().items()}),
    ],
    ids=["nested", "tables", "copies", "published", "unpacked", "DOS lines", "zip", "csv"],
)
def test_layouts_give_the_same_arrays(scripts, make, tmp_path, name, files):
    want, _ = make(name, MADE[name]())
    source = write(files(), tmp_path / "other")
    only = [p for p in source.iterdir() if p.name == "sp-sw-har.zip"]
    scripts.prepare(name, str(only[0] if only else source), tmp_path / "other data")
    got, _ = arrays_of(tmp_path / "other data" / name)
    assert want.keys() == got.keys()
    for key in want:
        assert np.allclose(want[key], got[key], rtol=1e-6, atol=1e-6, equal_nan=True), key


# ---- bad input: one spoilt file, one clear error, and what was prepared stays


def cell(row, column, value):
    def spoil(table):
        table = table.astype(object)
        table.loc[row, column] = value
        return table

    return spoil


def rows(*order):
    return lambda table: table.iloc[np.r_[order]]


def more(line):
    return lambda text: text + line + "\n"


def instead(old, new):
    def spoil(text):
        assert old in text
        return text.replace(old, new, 1)

    return spoil


def array(key, row, value):
    def spoil(arrays):
        arrays = copy.deepcopy(arrays)
        arrays[key][row] = value
        return arrays

    return spoil


ETT, STATION = "ETTh1.csv", "PRSA_Data_Dongsi_20130301-20170228.csv"
STAY, OUTCOME, NPZ = "set-b/132540.txt", "Outcomes-b.txt", "sp_sw_har.npz"
BAD = [  # set, file, how it is spoilt, what the message says
    ("etth1", ETT, lambda t: t.drop(columns="MULL"), "missing: MULL"),
    ("etth1", ETT, lambda t: t.assign(note="x"), "not expected: note"),
    ("etth1", ETT, lambda t: t[["date", *LOADS[::-1]]], "expected date, HUFL, HULL"),
    ("etth1", ETT, cell(10, "date", "the eleventh"), "line 12, column date: 'the eleventh'"),
    (
        "etth1",
        ETT,
        cell(10, "date", "01/07/2016 10:00"),
        "line 12, column date: '01/07/2016 10:00'",
    ),
    (
        "etth1",
        ETT,
        rows(*range(10), 11, 10, *range(12, 100)),
        "line 13: 2016-07-01 10:00:00 lies before 2016-07-01 11:00:00",
    ),
    ("etth1", ETT, rows(*range(11), *range(10, 100)), "line 13: 2016-07-01 10:00:00 repeats"),
    ("etth1", ETT, lambda t: t.drop(index=10), "line 12: 2016-07-01 11:00:00 does not follow on"),
    ("etth1", ETT, cell(10, "LULL", "n/a"), "line 12, column LULL: 'n/a'"),
    ("etth1", ETT, cell(10, "OT", ""), "line 12, column OT: ''"),
    ("etth1", ETT, cell(10, "OT", np.inf), "line 12, column OT: 'inf'"),
    ("etth1", ETT, lambda t: t.assign(MUFL=3.0), "column MUFL: all rows hold 3"),
    ("etth1", ETT, lambda t: t[:0], "a header and no rows"),
    ("etth1", ETT, lambda t: content_of(t)[:-20], "line 101"),
    ("etth1", ETT, lambda t: b"", "cannot be read as a table"),
    ("etth1", ETT, lambda t: b"\xff\xfe\x00 no text \x80", "cannot be read as a table"),
    ("etth1", ETT, lambda t: b"date,a\n1,2\n1,2,3,4\n", "cannot be read as a table"),
    ("etth1", ETT, lambda t: b"<html>404</html>\n", "has columns <html>404</html>"),
    ("airquality", STATION, lambda t: t.drop(columns="PM10"), "missing: PM10"),
    (
        "airquality",
        STATION,
        cell(10, "month", 13),
        "line 12, column year, month, day, hour: '2013-13-1 6:00:00'",
    ),
    (
        "airquality",
        STATION,
        rows(*range(11), *range(10, 60)),
        "line 13: 2013-04-01 06:00:00 repeats",
    ),
    (
        "airquality",
        STATION,
        cell(10, "CO", "low"),
        "line 12, column CO: 'low' is no finite number nor NA",
    ),
    ("airquality", STATION, lambda t: t.assign(RAIN=0.0), "column RAIN: all rows hold 0"),
    ("airquality", STATION, lambda t: t.assign(O3=np.nan), "column O3: no row holds a number"),
    (
        "airquality",
        STATION,
        cell(10, "station", "Changping"),
        "line 12, column station: 'Changping' in a file of 'Dongsi'",
    ),
    ("airquality", STATION, lambda t: t.assign(station="Tiantan"), "both hold the station Tiantan"),
    (
        "airquality",
        STATION,
        rows(*range(59)),
        "has 59 hours from 2013-03-31 20:00:00 on, PRSA_Data_Aoti",
    ),
    ("physionet_b", STAY, lambda t: "", "line 1: '', expected Time,Parameter,Value"),
    ("physionet_b", STAY, lambda t: "Time,Parameter,Value\n", "no record of a patient"),
    ("physionet_b", STAY, instead("00:00,RecordID,132540\n", ""), "has 0 lines of RecordID"),
    (
        "physionet_b",
        STAY,
        instead("RecordID,132540", "RecordID,132539"),
        "holds the RecordID 132539",
    ),
    ("physionet_b", STAY, more("48:00,Age,30"), "has 2 lines of Age"),
    ("physionet_b", STAY, lambda t: t[:60], "line 4: '00:0' does not have the fields"),
    ("physionet_b", STAY, more("48:00,HR"), "line 128: '48:00,HR' does not have the fields"),
    (
        "physionet_b",
        STAY,
        more("48:01,HR,80"),
        "line 128, column Time: '48:01' is no time from 00:00 to 48:00",
    ),
    ("physionet_b", STAY, more("noon,HR,80"), "line 128, column Time: 'noon'"),
    (
        "physionet_b",
        STAY,
        more("47:59,HR,80"),
        "line 128, column Time: '47:59' lies before the line above",
    ),
    ("physionet_b", STAY, more("48:00,Mood,80"), "line 128, column Parameter: 'Mood'"),
    (
        "physionet_b",
        STAY,
        more("48:00,HR,fast"),
        "line 128, column Value: 'fast' is no finite number",
    ),
    ("physionet_b", STAY, more("48:00,HR,inf"), "line 128, column Value: 'inf'"),
    ("physionet_b", STAY, None, "line 5: the stay 132540 has no file"),
    ("physionet_b", OUTCOME, lambda t: t.drop(index=3), "no line for the stay 132540"),
    ("physionet_b", OUTCOME, rows(0, 1, 2, 3, 4, 3), "line 7: the stay 132540 is there twice"),
    ("physionet_b", OUTCOME, lambda t: t.drop(columns="SOFA"), "missing: SOFA"),
    ("physionet_b", OUTCOME, cell(3, "SOFA", "high"), "line 5, column SOFA: 'high'"),
    ("physionet_b", OUTCOME, lambda t: t.assign(SOFA=3), "column SOFA: all rows hold 3"),
    ("physionet_b", OUTCOME, None, "and 0 Outcomes-b.txt"),
    ("har", NPZ, lambda a: b"PK no archive", "cannot be read as an npz file"),
    ("har", NPZ, lambda a: content_of(a)[:-2000], "cannot be read as an npz file"),
    ("har", NPZ, lambda a: {k: v for k, v in a.items() if k != "label"}, "lacks the arrays label"),
    ("har", NPZ, lambda a: a | {"label": a["label"][:-1]}, "label: shape (899,), expected (900,)"),
    ("har", NPZ, array("channel_names", 0, "acc_z"), "channel_names: ['acc_z'"),
    ("har", NPZ, array("timestamp_ms", 10, 0), "timestamp_ms: sample 10 lies"),
    ("har", NPZ, array("device", slice(70, 80), 1), "is in 2 pieces"),
    ("har", NPZ, array("signal", (10, 1), np.nan), "signal, column acc_y: sample 10 is nan"),
    ("har", NPZ, array("signal", (..., 5), 1.5), "column gyro_z: all samples are 1.5"),
    ("har", NPZ, array("label", 10, 5), "label: sample 10 is 5, expected one of [0, 1, 2, 3, 4]"),
    (
        "har",
        NPZ,
        array("subject", slice(0, 450), 2),
        "subject: sample 0 is 2, expected one of [1, 3]",
    ),
]


@pytest.mark.parametrize("name, file, spoil, words", BAD, ids=[f"{b[0]}: {b[3]}" for b in BAD])
def test_bad_input_is_refused_and_the_former_stays(make, tmp_path, name, file, spoil, words):
    files = MADE[name]()
    make(name, files)
    before = contents(tmp_path / "data")
    made = files.pop(file)
    with pytest.raises(ValueError) as caught:
        make(name, files | ({file: spoil(made)} if spoil else {}))
    said = str(caught.value)
    assert words in said and "\n" not in said, said
    assert Path(file).name in said or Path(file).stem in said, said
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize("name", COPY)
@pytest.mark.parametrize("damage", ["cut", "altered", "within"])
def test_damaged_archive_is_refused_and_the_former_stays(scripts, make, tmp_path, name, damage):
    make(name, MADE[name]())
    before = contents(tmp_path / "data")
    archive = bytearray(zipped(MADE[name]()))
    if damage == "altered":
        archive[200:210] = bytes(10)
    else:
        del archive[len(archive) // 2 :]
    if damage == "within":
        archive = zipped({"inner.zip": bytes(archive)})
    source = write({COPY[name]: bytes(archive)}, tmp_path / "damaged")
    with pytest.raises(
        ValueError, match="is not a whole zip archive .*; get the file again"
    ) as caught:
        scripts.prepare(name, str(source), tmp_path / "data")
    assert ("inner.zip" if damage == "within" else COPY[name]) in str(caught.value)
    assert contents(tmp_path / "data") == before


def test_altered_copy_warns_and_says_what_it_holds(make, capsys):
    make("etth1", transformer(2000))
    said = capsys.readouterr().out
    assert "warning: ETTh1.csv is not the published file" in said
    assert "2,000 rows (the published file has 17,420)" in said
    assert "3 calendar months, 2 of them" in said  # 31 + 31 days, and 21 more of September


def test_unknown_checksum_is_said_to_be_unknown(make, capsys):
    _, facts = make("etth2", {"ETTh2.csv": transformer()["ETTh1.csv"]})
    said = capsys.readouterr().out
    assert "no published checksum is known" in said and "warning" not in said


@pytest.mark.parametrize("name, file", [("etth1", ETT), ("physionet_a", "physionet2012_set-a.zip")])
def test_missing_source_is_named(scripts, tmp_path, name, file):
    with pytest.raises(ValueError, match=f"--source .*there is no file .*{file}"):
        scripts.prepare(name, str(tmp_path), tmp_path / "data")


@pytest.mark.parametrize("file", [STAY, OUTCOME])
def test_the_same_file_twice_is_refused(scripts, tmp_path, file):
    source = write(stays(), tmp_path / "raw")
    write(apart(stays()) if file == STAY else {f"old/{OUTCOME}": stays()[OUTCOME]}, source)
    with pytest.raises(ValueError, match="132539.txt twice" if file == STAY else "2 Outcomes-b"):
        scripts.prepare("physionet_b", str(source), tmp_path / "data")


@pytest.mark.parametrize("name", ["s01_01_left_sp.csv", "s01_01_sp.csv"])
def test_unknown_layout_of_recordings_names_the_way_out(scripts, tmp_path, name):
    table = pd.DataFrame({"time": [1, 2], "x": [3, 4]})
    source = write({name: table}, tmp_path / "raw")
    way = "npz file that data_scripts/README.md" if "left" in name else "expected x_acc, y_acc"
    with pytest.raises(ValueError, match=f"{name} .*{way}"):
        scripts.prepare("har", str(source), tmp_path / "data")


# ---- writing


@pytest.mark.parametrize("when", ["writing", "replacing"])
def test_full_disk_leaves_the_former(scripts, make, tmp_path, monkeypatch, capsys, when):
    make("etth1", transformer())
    before = contents(tmp_path / "data")
    other = write(transformer(seed=1), tmp_path / "other")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "writing":
        monkeypatch.setattr(np, "save", full)
    else:
        rename = Path.rename
        keeps = lambda path, to: path.suffix == ".former" or path == tmp_path / "data" / "etth1"
        monkeypatch.setattr(Path, "rename", lambda p, to: rename(p, to) if keeps(p, to) else full())
    arguments = ["prepare.py", "etth1", "--source", str(other), "--out", str(tmp_path / "data")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="No space left on device.*make room") as caught:
        scripts.main()
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "data") == before


def test_killed_between_the_two_renames_is_mended(scripts, make, tmp_path):
    make("etth1", transformer())
    folder = tmp_path / "data" / "etth1"
    before = contents(folder)
    folder.rename(folder.with_name(".etth1.former"))
    with pytest.raises(ValueError):
        with scripts.fetch.whole_folder(folder):
            raise ValueError
    assert contents(folder) == before


# ---- downloads


@pytest.fixture
def server(tmp_path):
    """A folder that is served on this machine, and its address; files in cut/ break off on the way."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, outputfile):
            content = source.read()
            outputfile.write(content[: len(content) // 2] if "/cut/" in self.path else content)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture
def publish(scripts, server, monkeypatch):
    """Lets a set be published on this machine, with what is changed of its entry."""

    def published(name, **changes):
        sets = scripts.ROOMS[name].SETS
        monkeypatch.setitem(sets, name, sets[name]._replace(**{"url": server[1]} | changes))

    return published


def digest(made):
    return hashlib.sha256(content_of(made)).hexdigest()


def test_download_with_the_right_checksum(scripts, server, publish, tmp_path):
    files = transformer()
    write(files, server[0])
    publish("etth1", files={"ETTh1.csv": digest(files["ETTh1.csv"])})
    scripts.prepare("etth1", None, tmp_path / "data")
    facts = arrays_of(tmp_path / "data" / "etth1")[1]
    assert facts["public_file"] is True and facts["url"] == server[1] + "ETTh1.csv"
    assert facts["sha256"] == digest(files["ETTh1.csv"])


@pytest.mark.parametrize("listed", ["right", "wrong", "not there"])
def test_download_with_checksums_that_the_publisher_lists(
    scripts, server, publish, tmp_path, listed
):
    files = apart(stays())
    sums = {name: digest(made) if listed == "right" else "0" * 64 for name, made in files.items()}
    text = "".join(f"{value} {name}\n" for name, value in sums.items()) + f"{'1' * 64} other.txt\n"
    write(files | ({} if listed == "not there" else {"SHA256SUMS.txt": text}), server[0])
    publish("physionet_b")
    if listed == "right":
        scripts.prepare("physionet_b", None, tmp_path / "data")
        arrays, facts = arrays_of(tmp_path / "data" / "physionet_b")
        assert facts["public_file"] is True and len(arrays["values"]) == 5
    else:
        with pytest.raises(ValueError, match="--source FILE"):
            scripts.prepare("physionet_b", None, tmp_path / "data")


def test_download_of_an_archive_in_an_archive(scripts, server, publish, tmp_path):
    write(nested(stations()), server[0])
    publish("airquality")
    scripts.prepare("airquality", None, tmp_path / "data")
    arrays, facts = arrays_of(tmp_path / "data" / "airquality")
    assert facts["public_file"] is None and arrays["values"].shape == (3, 60, 11)


def test_download_of_all_that_a_doi_leads_to(scripts, server, publish, tmp_path, monkeypatch):
    """With the archive behind the DOI played by this machine: it lists its files and their checksums."""
    import pooch

    archive = zipped(recordings())
    write({"sp-sw-har.zip": archive}, server[0])
    listed = {"sp-sw-har.zip": "md5:" + hashlib.md5(archive).hexdigest()}
    lists = lambda basket: basket.registry.update(listed)
    monkeypatch.setattr(pooch.Pooch, "load_registry_from_doi", lists)
    monkeypatch.setattr(pooch, "DOIDownloader", pooch.HTTPDownloader)
    publish("har")
    scripts.prepare("har", None, tmp_path / "data")
    arrays, facts = arrays_of(tmp_path / "data" / "har")
    assert facts["public_file"] is True and len(arrays["subject"]) == 6


@pytest.mark.parametrize(
    "what", ["another checksum", "not found", "nobody there", "cut short", "full disk"]
)
def test_download_that_fails_leaves_the_former(
    scripts, server, publish, make, tmp_path, monkeypatch, what
):
    files = transformer()
    make("etth1", files)
    before = contents(tmp_path / "data")
    write(files if what != "not found" else {}, server[0])
    write(files, server[0] / "cut")
    known = "0" * 64 if what == "another checksum" else digest(files["ETTh1.csv"])
    url = {"nobody there": "http://127.0.0.1:9/", "cut short": server[1] + "cut/"}
    publish("etth1", files={"ETTh1.csv": known}, url=url.get(what, server[1]))
    if what == "full disk":
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr("pooch.core.hash_matches", Mock(side_effect=full))
    remedy = "make room" if what == "full disk" else "--source FILE"
    with pytest.raises(ValueError, match=f"ETTh1.csv .*{remedy}"):
        scripts.prepare("etth1", None, tmp_path / "data")
    assert contents(tmp_path / "data") == before


# ---- the command


def test_all_sets_are_listed(make, scripts, tmp_path, monkeypatch, capsys):
    make("airquality", stations())
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--out", str(tmp_path / "data")])
    scripts.main()
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(scripts.ROOMS)
    for name, line in zip(scripts.ROOMS, lines):
        public = scripts.ROOMS[name].SETS[name]
        here = "present: 3 x 60 x 11" if name == "airquality" else f"data_scripts/prepare.py {name}"
        assert line.endswith(here) and public.licence in line and public.size in line


@pytest.mark.parametrize(
    "name, near", [("ett1", "etth1"), ("PhysioNet_A", "physionet_a"), ("air_quality", "airquality")]
)
def test_unknown_set_is_refused_with_the_nearest(scripts, monkeypatch, name, near):
    monkeypatch.setattr(sys, "argv", ["prepare.py", name])
    with pytest.raises(SystemExit, match=f"no set '{name}'; did you mean {near}") as caught:
        scripts.main()
    assert str(caught.value).startswith("prepare.py: ") and "\n" not in str(caught.value)


# ---- the real sets


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Prepares the copy beside the checkout, once for each set."""
    folder = tmp_path_factory.mktemp("real")

    @functools.cache
    def prepared(name):
        sys.path.insert(0, str(ROOT / "data_scripts"))
        scripts = importlib.import_module("prepare")
        sys.path.remove(str(ROOT / "data_scripts"))
        path = COPIES / scripts.ROOMS[name].SETS[name].copy
        if not path.exists():
            pytest.skip(f"no copy of {path.name} in ../shared/data beside this checkout")
        scripts.prepare(name, str(path), folder)
        return path, *arrays_of(folder / name)

    return prepared


def test_real_transformer(real):
    path, arrays, facts = real("etth1")
    assert facts["public_file"] is True and arrays["values"].shape == (17_420, 7)
    assert np.array_equal(arrays["values"], pd.read_csv(path)[LOADS].to_numpy(np.float32))


def test_real_stations(real):
    path, arrays, facts = real("airquality")
    assert len(facts["stations"]) == 12 == len(arrays["values"])
    with zipfile.ZipFile(path) as archive:
        for i in (0, 11):
            member = next(m for m in archive.namelist() if facts["stations"][i] + "_" in m)
            table = pd.read_csv(archive.open(member))
            want = table[AIR].to_numpy(np.float32)
            assert np.array_equal(arrays["values"][i], want, equal_nan=True)
    assert facts["start"] == "2013-03-01T00:00:00" and len(want) in (33_648, 35_064)


def test_real_stays(real):
    path, arrays, facts = real("physionet_a")
    values, record = arrays["values"], arrays["record"]
    assert values.shape[1:] == (48, 37) and (np.diff(record) > 0).all()
    column = dict(zip(facts["columns"], np.moveaxis(np.asarray(values), 2, 0)))
    for name, low, high in (("HR", 1, 299), ("Temp", 25, 45), ("pH", 6.5, 8), ("Weight", 35, 299)):
        assert low <= np.nanmin(column[name]) and np.nanmax(column[name]) <= high
    with zipfile.ZipFile(path) as archive:
        outcomes = pd.read_csv(archive.open("Outcomes-a.txt")).set_index("RecordID")
        stay = pd.read_csv(archive.open(f"set-a/{record[7]}.txt"))
    assert np.array_equal(outcomes.sort_index()["In-hospital_death"], arrays["static"][:, -1])
    hour = stay["Time"].str[:2].astype(int).clip(upper=47)
    means = stay["Value"].groupby([hour, stay["Parameter"]]).mean()
    for name in ("GCS", "Urine", "Glucose"):  # which no rule cleans
        want = means.xs(name, level=1).reindex(range(48))
        assert column[name][7] == pytest.approx(want.to_numpy(), rel=1e-6, nan_ok=True)


def test_real_recordings(real):
    path, arrays, facts = real("har")
    empty = arrays["label"] == -1
    assert np.array_equal(np.isnan(arrays["values"]), np.repeat(empty[:, None], 6, 1))
    assert empty.mean() < 0.01 and len(arrays["starts"]) == len(arrays["subject"]) + 1
    assert set(arrays["subject"]) == set(facts["people"]["id"])
    gravity = np.linalg.norm(np.nanmean(arrays["values"][:, :3], 0))
    assert 5 < gravity < 12, "m/s^2"
    with np.load(path) as made:
        assert len(arrays["subject"]) == 404 and made["signal"].shape == (471_713, 6)


def test_what_a_killed_preparation_left_is_cleared_away(scripts, tmp_path):
    (tmp_path / ".set.a1b2c3d4").mkdir()
    (tmp_path / ".set.a1b2c3d4" / "values.npy").write_bytes(b"half")
    scripts.fetch.write(tmp_path / "set", {"values": np.arange(3.0)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
