"""From public files to prepared sets: made-up files in each set's own layout, and the real ones where they are."""

import functools
import http.server
import importlib
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffsda.timeseries import open_series

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]


@pytest.fixture
def ett(monkeypatch):
    """The data script as a module, blind to copies beside the checkout."""
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    module = importlib.import_module("ett")
    monkeypatch.setattr(module.fetch, "BESIDE", ROOT / "no such folder")
    return module


def table(rows=17_420, seed=0):
    """A table in the public file's layout, all of its numbers different."""
    hours = pd.date_range("2016-07-01", periods=rows, freq="h")
    x = np.random.default_rng(seed).standard_normal((rows, 7)).astype(np.float32)
    x[:, 6] += 10 + np.sin(np.arange(rows) * 2 * np.pi / 24)
    frame = pd.DataFrame(x, columns=COLUMNS)
    frame.insert(0, "date", hours.strftime("%Y-%m-%d %H:%M:%S"))
    return frame


def write(frame, folder, name="ETTh1.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture
def prepared(ett, tmp_path):
    """Folder of prepared sets, and the table that went in."""
    frame = table()
    ett.prepare("etth1", str(write(frame, tmp_path / "raw")), tmp_path / "data")
    return tmp_path / "data", frame


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- from the public file to data/


def test_prepared_array_is_the_table(prepared):
    folder, frame = prepared
    series = open_series("etth1", folder)
    assert isinstance(series.values, np.memmap) and series.values.dtype == np.float32
    assert series.columns == tuple(COLUMNS)
    assert np.array_equal(series.values, frame[COLUMNS].to_numpy())
    assert np.array_equal(series.hours, pd.to_datetime(frame["date"]).to_numpy("datetime64[h]"))
    assert (series.facts["months"], series.facts["complete_months"]) == (24, 23)
    assert series.facts["licence"] == "CC BY-ND 4.0"
    assert series.facts["public_file"] is False, "a made-up table is not the public file"
    assert sorted(p.name for p in (folder / "etth1").iterdir()) == ["index.json", "values.npy"]
    assert [p.name for p in folder.iterdir()] == ["etth1"], "nothing is left behind"


def test_no_machine_path_is_kept(prepared, tmp_path):
    text = (prepared[0] / "etth1" / "index.json").read_text()
    assert str(tmp_path) not in text and json.loads(text)["file"] == "ETTh1.csv"


def test_altered_copy_warns_and_says_what_it_holds(ett, tmp_path, capsys):
    ett.prepare("etth1", str(write(table(rows=2000), tmp_path)), tmp_path / "data")
    said = capsys.readouterr().out
    assert "warning: ETTh1.csv is not the published file" in said
    assert "2,000 rows (the published file has 17,420)" in said
    assert "3 calendar months, 2 of them" in said  # 31 + 31 days, and 21 more of September


def test_unknown_checksum_is_said_to_be_unknown(ett, tmp_path, capsys):
    write(table(rows=2000), tmp_path / "copies" / "timeseries", "ETTh2.csv")
    ett.prepare("etth2", str(tmp_path / "copies"), tmp_path / "data")
    said = capsys.readouterr().out
    assert "no published checksum is known" in said and "warning" not in said
    assert open_series("etth2", tmp_path / "data").facts["public_file"] is None


def drop_column(t):
    return t.drop(columns="MULL")


def add_column(t):
    return t.assign(note="x")


def swap_columns(t):
    return t[["date", "HULL", "HUFL", *COLUMNS[2:]]]


def bad_date(t):
    t.loc[10, "date"] = "the eleventh"
    return t


def day_first(t):
    t.loc[10, "date"] = "01/07/2016 10:00"
    return t


def unsorted(t):
    return t.iloc[[*range(10), 11, 10, *range(12, len(t))]]


def duplicated(t):
    return t.iloc[[*range(11), *range(10, len(t))]]


def gap(t):
    return t.drop(index=10)


def text(t):
    t["LULL"] = t["LULL"].astype(object)
    t.loc[10, "LULL"] = "n/a"
    return t


def empty_cell(t):
    t.loc[10, "OT"] = np.nan
    return t


def infinite(t):
    t.loc[10, "HUFL"] = np.inf
    return t


def constant(t):
    t["MUFL"] = 3.0
    return t


BAD = {  # what is wrong -> what the message must say
    drop_column: ["missing: MULL"],
    add_column: ["not expected: note"],
    swap_columns: ["expected date, HUFL, HULL"],
    bad_date: ["line 12", "column date", "the eleventh"],
    day_first: ["line 12", "01/07/2016 10:00"],
    unsorted: ["line 13", "2016-07-01 10:00:00 lies before 2016-07-01 11:00:00", "sort"],
    duplicated: ["line 13", "2016-07-01 10:00:00 repeats", "drop it"],
    gap: ["line 12", "2016-07-01 11:00:00 does not follow on 2016-07-01 09:00:00", "fill in"],
    text: ["line 12", "column LULL", "'n/a'"],
    empty_cell: ["line 12", "column OT", "''"],
    infinite: ["line 12", "column HUFL", "'inf'"],
    constant: ["column MUFL", "all rows hold 3"],
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda f: f.__name__)
def test_bad_table_is_refused_and_the_former_stays(ett, prepared, spoil):
    folder, _ = prepared
    before = contents(folder)
    path = write(spoil(table(rows=100, seed=1)), folder.parent / "spoilt")
    with pytest.raises(ValueError) as caught:
        ett.prepare("etth1", str(path), folder)
    for words in ("ETTh1.csv", *BAD[spoil]):
        assert words in str(caught.value), str(caught.value)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"date\n",
        b"\xff\xfe\x00 no text \x80",
        b"date,a\n1,2\n1,2,3,4\n",
        b"<html>404</html>\n",
    ],
    ids=["empty", "header", "binary", "ragged", "web page"],
)
def test_what_is_no_table_is_refused(ett, prepared, content):
    folder, _ = prepared
    before = contents(folder)
    path = folder.parent / "ETTh1.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="ETTh1.csv"):
        ett.prepare("etth1", str(path), folder)
    assert contents(folder) == before


def test_header_alone_is_refused(ett, tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        ett.prepare("etth1", str(write(table(rows=1)[:0], tmp_path)), tmp_path / "data")


def test_line_cut_short_is_found(ett, tmp_path):
    path = write(table(rows=100), tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="line 101"):
        ett.prepare("etth1", str(path), tmp_path / "data")


def test_missing_source_is_named(ett, tmp_path):
    with pytest.raises(ValueError, match="--source .*there is no file .*ETTh1.csv"):
        ett.prepare("etth1", str(tmp_path), tmp_path / "data")


@pytest.mark.parametrize("when", ["writing", "replacing"])
def test_failure_while_writing_leaves_the_former(ett, prepared, monkeypatch, when):
    folder, _ = prepared
    before = contents(folder)
    other = write(table(rows=2000, seed=1), folder.parent / "other")

    def full(*args):
        raise OSError("no space left on device")

    if when == "writing":
        monkeypatch.setattr(ett.fetch, "write_json", full)
    else:
        rename = Path.rename
        fails = lambda self, to: (
            full() if self.suffix != ".former" and self != folder / "etth1" else rename(self, to)
        )
        monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        ett.prepare("etth1", str(other), folder)
    assert contents(folder) == before


def test_killed_between_the_two_renames_is_mended(ett, prepared):
    folder, _ = prepared
    before = contents(folder / "etth1")
    (folder / "etth1").rename(folder / ".etth1.former")
    with pytest.raises(ValueError):
        with ett.fetch.whole_folder(folder / "etth1"):
            raise ValueError
    assert contents(folder / "etth1") == before


@pytest.fixture
def server(tmp_path):
    """A folder that is served on this machine, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def test_download_with_the_right_checksum(ett, server, tmp_path, monkeypatch):
    folder, address = server
    digest = ett.fetch.sha256_of(write(table(rows=2000), folder))
    file = ett.fetch.PublicFile("timeseries/ETTh1.csv", address + "ETTh1.csv", digest)
    monkeypatch.setitem(ett.FILES, "etth1", file)
    ett.prepare("etth1", None, tmp_path / "data")
    facts = open_series("etth1", tmp_path / "data").facts
    assert facts["public_file"] is True and facts["sha256"] == digest


@pytest.mark.parametrize("what", ["another checksum", "not found", "nobody there"])
def test_download_that_fails_leaves_the_former(ett, server, prepared, monkeypatch, what):
    folder, address = server
    write(table(rows=2000, seed=2), folder, "ETTh1.csv" if what != "not found" else "other.csv")
    if what == "nobody there":
        address = "http://127.0.0.1:9/"
    file = ett.fetch.PublicFile("timeseries/ETTh1.csv", address + "ETTh1.csv", "0" * 64)
    monkeypatch.setitem(ett.FILES, "etth1", file)
    before = contents(prepared[0])
    with pytest.raises(ValueError, match="--source FILE"):
        ett.prepare("etth1", None, prepared[0])
    assert contents(prepared[0]) == before


def test_command_line_ends_with_one_line(ett, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ett.py", "etth1", "--source", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        ett.fetch.run(ett.main)
    assert str(caught.value).startswith("ett.py: --source") and "\n" not in str(caught.value)
