"""The same from a shell: every field is an option, files come out as Python makes them, wrong calls leave nothing."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from makers import noise_bytes, tone, write_film

import diffsda
from diffsda import disentangler, own
from diffsda.cli import command_line, main
from diffsda.own import ADAPTERS, AT_FIT, settings_for
from diffsda.sets import Preset
from diffsda.tables import Tables, example_table
from diffsda.training import TrainConfig
from diffsda.video import read_clip

QUICK = (
    "--steps 3 --batch 4 --s-dim 3 --d-dim 2 --hidden 8 --enc-width 8 --dec-width 8 --embedding 16 "
    "--levels 2 --held-out 0 --quiet"
)
TABLES = "--time date --group station --window 24"
SETTINGS = {
    "steps": 3, "batch": 4, "s_dim": 3, "d_dim": 2, "hidden": 8, "enc_width": 8, "dec_width": 8,
    "embedding": 16, "levels": 2, "held_out": 0, "progress": False,
    "time": "date", "group": "station", "window": 24,
}  # fmt: skip


def call(*lines):
    for line in lines:
        assert main(line.split()) == 0, line


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with a table, a model of it with a prior, and what Python makes of the same."
    home = tmp_path_factory.mktemp("shell")
    example_table(days=4).to_csv(home / "t.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(disentangler, "PRIOR", TrainConfig(2, 4))
        call(f"train t.csv -o m {TABLES} {QUICK} --prior")
        diffsda.fit(home / "t.csv", prior=True, **SETTINGS).save(home / "python")
    return home


@pytest.fixture
def there(home, monkeypatch):
    monkeypatch.chdir(home)
    return diffsda.load("python"), pd.read_csv("t.csv")


def test_every_field_is_an_option_and_arrives(monkeypatch):
    came = {}
    monkeypatch.setattr(own, "fit", lambda source, **settings: came.update(settings))
    monkeypatch.setattr(own, "check_output", lambda *args: None)
    kinds = (*ADAPTERS.values(), Preset, TrainConfig)
    words = {int: "7", float: "7", str: "seven", bool: ""}
    for kind in kinds:
        for f in fields(kind):
            options = [f"--{f.name}", f"--{f.name.replace('_', '-')}"]
            if f.metadata.get("learnt") or (kind is Preset and f.name in AT_FIT):
                continue
            for option in dict.fromkeys(options):
                plain = next((k for k in words if f.type in (k, k | None)), None)
                given = {tuple: "a b"}.get(f.type, words.get(plain))
                if given is None:
                    continue
                came.clear()
                call(f"train x -o m {option} {given}")
                want = {"": True, "7": 7, "seven": "seven", "a b": ("a", "b")}[given]
                assert came[f.name] == want, option
    assert "window" in {f.name for f in fields(Tables)}


def test_what_is_not_said_is_the_default(monkeypatch):
    came = {}
    monkeypatch.setattr(own, "fit", lambda source, **settings: came.update(settings))
    call("train x -o m")
    known = ("modality", "folder", "held_out", "prior", "progress")
    assert came == dict(zip(known, ("", "m", 0.2, False, True)))
    left = {k: v for k, v in came.items() if k not in known}
    assert settings_for(Tables, **left) == (Tables(), Tables.preset)


def test_help_puts_the_five_that_matter_first(capsys):
    with pytest.raises(SystemExit):
        command_line().parse_args(["train", "--help"])
    said = capsys.readouterr().out
    first = said[said.index("first of all:") :].split("\n\n")[0]
    at = [first.index(f"--{name} ") for name in ("steps", "s-dim", "d-dim", "recipe", "seed")]
    assert at == sorted(at)
    titles = [
        said.index(f"{title}:\n") for title in ("data: table", "data: clips", "model", "training")
    ]
    assert titles == sorted(titles) and "first of all" in said[: titles[0]]


def test_names_with_at_and_folders_with_a_point(there, capsys):
    _, table = there
    table.replace({"station": {"hill": "ann@hill.org"}}).to_csv("at.csv", index=False)
    call(f"train at.csv -o lr0.01 {TABLES} {QUICK} --quiet")
    call("reconstruct lr0.01 at.csv@ann@hill.org -o ONE.CSV")
    assert len(pd.read_csv("ONE.CSV")) == (table.station == "hill").sum()
    assert main("reconstruct lr0.01 at.csv@ann@hill.com -o one.csv".split()) == 2
    assert "did you mean 'ann@hill.org'" in capsys.readouterr().err


def test_shell_and_python_agree_to_the_bit(there, capsys):
    model, table = there
    call(
        "encode m t.csv -o codes",
        "encode m t.csv -o codes.npz",
        "encode m t.csv -o CODES.NPZ",
        "swap m --static t.csv@hill --dynamic t.csv@north --seed 2 -o swap.csv",
        "reconstruct m t.csv --levels 3 -o again.csv",
        "walk m t.csv@hill --direction 1 --code d --amounts -1 0 -o walk.csv",
        "walk m t.csv@hill --amounts 1 1.0000001 1e6 -o near.csv",
        "morph m t.csv@hill t.csv@north --amounts 0 1 -o morph.csv",
        "sample m -n 3 --seed 2 -o new.csv",
    )
    s, d = model.encode(table)
    numbers = lambda path, index: pd.read_csv(path, index_col=index).to_numpy(np.float32)
    assert np.array_equal(numbers("codes/s.csv", [0]), s)
    assert np.array_equal(numbers("codes/d.csv", [0, 1]), d)
    assert Path("CODES.NPZ").read_bytes() == Path("codes.npz").read_bytes()
    with np.load("codes.npz") as codes:
        assert np.array_equal(codes["s"], s) and np.array_equal(codes["d"], d)
        assert codes["d_station"].tolist() == list(table["station"])

    def agree(path, frame):
        read, names = pd.read_csv(path), ["flow", "pressure"]
        assert list(read.columns) == list(frame.columns)
        assert np.array_equal(read[names].to_numpy(np.float32), frame[names].to_numpy())
        assert list(read["station"]) == list(frame["station"])

    hill, north = (table[table["station"] == name] for name in ("hill", "north"))
    agree("swap.csv", model.swap(hill, north, seed=2))
    agree("again.csv", model.reconstruct(table, steps=3))
    for amount, made in zip((-1, 0), model.walk(hill, 1, [-1, 0], "d")):
        agree(f"walk_{amount}.csv", made)
    assert len(list(Path().glob("near_*.csv"))) == 3
    for amount, made in zip((0, 1), model.morph(hill, north, [0, 1])):
        agree(f"morph_{amount}.csv", made)
    agree("new.csv", model.sample(3, seed=2))
    capsys.readouterr()
    call("nearest m t.csv@hill t.csv -n 2")
    assert capsys.readouterr().out.split("\n")[1].split() == ["hill", "0.000"]
    assert not list(Path().glob(".*")), "no half-written file is left"


def test_films_go_in_and_films_come_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    for i, name in enumerate("ab"):
        write_film(tmp_path / "films" / f"{name}.mp4", noise_bytes(6 + i, 16, 16, 3, seed=i))
    call(
        f"train films -o m --V 4 --size 16 {QUICK}",
        "swap m --static films/a.mp4 --dynamic films/b.mp4 -o c.mp4",
        "reconstruct m films/a.mp4 -o c.gif",
    )
    assert read_clip("c.mp4").shape == (7, 3, 256, 256)  # enlarged sixteen times, to be seen
    assert (tmp_path / "c.gif").read_bytes()[:4] == b"GIF8"


def test_sounds_go_in_and_sounds_come_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sounds").mkdir()
    for name, rate in (("a.wav", 8000), ("b.mp3", 16_000)):
        soundfile.write(tmp_path / "sounds" / name, tone(0.6, rate=rate).numpy(), rate)
    call(
        f"train sounds -o m --rate 8000 --seconds 0.3 {QUICK}",
        "swap m --static sounds/b.mp3 --dynamic sounds/a.wav -o c.wav",
    )
    wave, rate = soundfile.read("c.wav")
    assert rate == 8000 and len(wave) == 4800 and torch.isfinite(torch.as_tensor(wave)).all()


WRONG = [
    ("train t.csv -o n --time dat", "no column 'dat'; did you mean 'date'"),
    ("train u.csv -o n", "there is no u.csv; did you mean 't.csv'"),
    ("train broken.npz -o n", "broken.npz cannot be read"),
    ("train t.xlsx -o n", "ends in '.xlsx', which is none of"),
    ("train t.csv -o n --widnow 24", "train does not take '--widnow'; did you mean '--window'"),
    ("train t.csv -o n --held-uot 0", "did you mean '--held-out'"),
    ("train t.csv -o n --rate 8000", "no setting 'rate' for Tables"),
    ("train t.csv -o n --steps 0", "steps must be a whole number"),
    ("train t.csv -o t.csv", "t.csv is a file; name another output"),
    ("encode nowhere t.csv -o codes", "no checkpoint here"),
    ("encode nowhere t.csv -o codes.csv", "give a folder or an .npz"),
    ("sample nowhere -o new.csv", "no checkpoint here"),
    ("swap m --static t.csv@hil --dynamic t.csv@north -o x.csv", "no group 'hil' in t.csv; did you mean 'hill'"),
    ("swap m --static t.csv@hill --dynamic t.csv@north -o x.wav", "x.wav must end in one of .csv"),
    ("swap m --static t.csv --dynamic t.csv@north -o x.csv", "do not pair up"),
    ("swap m --static u.csv --dynamic t.csv@north -o x.csv", "there is no u.csv; did you mean 't.csv'"),
    ("walk m t.csv@hill --direction 9 -o x.csv", "direction 9 does not exist"),
    ("reconstruct m t.csv -o m.csv/x.csv", "cannot be written"),
    ("data get", "diffsda data get NAME"),
]  # fmt: skip


@pytest.mark.parametrize("line, message", WRONG)
def test_wrong_calls_are_answered_and_leave_nothing(there, home, capsys, line, message):
    (home / "broken.npz").write_bytes(b"PK\x03\x04 half of a file")
    (home / "t.xlsx").write_bytes(b"PK")
    (home / "m.csv").write_text("a file")
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


def test_a_failed_write_leaves_the_former_file(there, home, monkeypatch, capsys):
    (home / "out.csv").write_text("former")
    before = sorted(home.iterdir())

    def full(self, path, **options):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main("swap m --static t.csv@hill --dynamic t.csv@north -o out.csv".split()) == 1
    assert "No space left" in capsys.readouterr().err
    assert (home / "out.csv").read_text() == "former" and sorted(home.iterdir()) == before


def test_data_hands_on_to_the_scripts(capfd):
    assert main(["data"]) == 0
    assert "etth1" in capfd.readouterr().out
    assert main(["data", "get", "ettth1"]) != 0
    assert "etth1" in capfd.readouterr().err


def test_several_things_are_written_one_by_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    for i, name in enumerate("ab"):
        write_film(tmp_path / "films" / f"{name}.mp4", noise_bytes(6 + i, 16, 16, 3, seed=i))
    monkeypatch.setattr(disentangler, "PRIOR", TrainConfig(2, 4))
    call(f"train films -o m --V 4 --size 16 --prior {QUICK}", "sample m -n 2 -o new.gif")
    call("reconstruct m films -o again.mp4", "sample m -n 1 -o one.gif")
    made = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert made == ["again_0.mp4", "again_1.mp4", "new_0.gif", "new_1.gif", "one.gif"]
    assert len(read_clip("again_1.mp4")) == 7
