"""One door: whatever a user holds goes in, by name, path or array; what cannot be read is refused before work starts."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from makers import hiss, noise_bytes, tone, write_film, write_images

import diffsda
from diffsda.audio import Recordings, Voices
from diffsda.data import Sequences
from diffsda.own import ADAPTERS, AT_FIT, modality_of, settings_for, write_whole
from diffsda.sets import Preset
from diffsda.tables import Tables, example_table
from diffsda.video import Clips, Films

QUICK = {
    "steps": 2, "batch": 4, "s_dim": 3, "d_dim": 2, "hidden": 8, "enc_width": 8, "dec_width": 8,
    "embedding": 16, "levels": 2, "held_out": 0, "progress": False,
}  # fmt: skip
DAYS = {"time": "date", "group": "station", "window": 24}
FILMS = {"V": 4, "size": 16}
VOICES = {"rate": 8000, "seconds": 0.3}


def table():
    return example_table(days=3)


def films(folder):
    folder.mkdir()
    for i, name in enumerate("ab"):
        write_film(folder / f"{name}.mp4", noise_bytes(6 + i, 16, 16, 3, seed=i))
    write_images(folder / "c", noise_bytes(5, 16, 16, 3))
    return folder


def sounds(folder):
    folder.mkdir()
    for name, rate in (("a.wav", 8000), ("b.flac", 16_000), ("c.mp3", 44_100)):
        soundfile.write(folder / name, tone(0.7, rate=rate).numpy(), rate)
    return folder


def written(frame, path):
    write = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
    }
    write[path.suffix.lower()]() if path.suffix.lower() in write else np.save(path, frame)
    return path


x = torch.randn(6, 5, 2, generator=torch.Generator().manual_seed(0))
clips = Clips(noise_bytes(16, 3, 16, 16), [0, 5, 10, 16])
recordings = Recordings([hiss(0.5 + 0.1 * i, i, rate=8000) for i in range(3)], 8000)
SOURCES = {  # name -> what makes it in a folder, settings, its adapter
    "data frame": (lambda home: table(), DAYS, Tables),
    "csv": (lambda home: written(table(), home / "t.csv"), DAYS, Tables),
    "CSV": (lambda home: written(table(), home / "T.CSV"), DAYS, Tables),
    "parquet": (lambda home: written(table(), home / "t.parquet"), DAYS, Tables),
    "npy": (lambda home: written(x.numpy(), home / "x.npy"), {}, Tables),
    "array": (lambda home: x.numpy(), {}, Tables),
    "ragged arrays": (lambda home: {"a": x[0], "b": x[1, :4], "c": x[2]}, {}, Tables),
    "films": (lambda home: films(home / "films"), FILMS, Films),
    "one film": (lambda home: films(home / "films") / "b.mp4", FILMS, Films),
    "images": (lambda home: films(home / "films") / "c", FILMS, Films),
    "bytes": (lambda home: clips.frames, FILMS, Films),
    "clips": (lambda home: clips, FILMS, Films),
    "sounds": (lambda home: sounds(home / "sounds"), VOICES, Voices),
    "recordings": (lambda home: recordings, {"seconds": 0.3}, Voices),
    "sequences": (lambda home: Sequences(x), {}, ADAPTERS["sequences"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_user_holds_becomes_a_model_and_is_opened_again(name, tmp_path):
    make, settings, adapter = SOURCES[name]
    source = make(tmp_path)
    model = diffsda.fit(source, folder=tmp_path / "m", **QUICK | settings)
    again = diffsda.load(tmp_path / "m")
    assert type(model.adapter) is adapter and again.adapter == model.adapter
    s, d = model.encode(source)
    assert s.shape[1] == 3 and d.shape[1] == 2 and len(s) == len(model.adapter.pieces(source).names)
    assert again.encode(source).s.equals(s) and again.encode(source).d.equals(d)
    assert len(model.nearest(source, source)) == 1 if len(s) == 1 else True


def test_a_frame_its_file_and_its_arrays_say_the_same(tmp_path):
    codes = lambda source, **more: diffsda.fit(source, **QUICK | DAYS | more).encode(source).s
    frame = codes(table())
    assert codes(written(table(), tmp_path / "t.csv")).equals(frame)
    array = lambda source: diffsda.fit(source, **QUICK).encode(source).s.to_numpy()
    assert np.array_equal(array(x), array(list(x))) and np.array_equal(array(x), array(x.numpy()))
    assert np.array_equal(array(written(x.numpy(), tmp_path / "x.npy")), array(x))


def test_swaps_go_from_file_to_file(tmp_path):
    folder = sounds(tmp_path / "sounds")
    model = diffsda.fit(folder, **QUICK | VOICES)
    wave = model.swap(folder / "a.wav", folder / "c.mp3")
    assert wave.ndim == 1 and abs(len(wave) - 0.7 * 8000) < 1000 and torch.isfinite(wave).all()
    folder = films(tmp_path / "films")
    model = diffsda.fit(folder, **QUICK | FILMS)
    clip = model.swap(folder / "a.mp4", folder / "b.mp4")
    assert clip.shape == (7, 3, 16, 16) and clip.dtype == np.uint8


# ---- settings by name


def test_settings_arrive(tmp_path):
    model = diffsda.fit(table(), **QUICK | DAYS | {"window": 12, "stride": 6, "lowest": 0.5})
    assert model.network.encoder.to_s.out_features == 3 and model.curve[-1][0] == 2
    assert (model.adapter.window, model.adapter.stride) == (12, 6)
    assert model.sampling == {"steps": 2, "lowest": 0.5}
    assert model.worth is None and model.prior is None
    model = diffsda.fit(clips, **QUICK | {"V": 5, "stride": 1, "size": 32})
    assert model.reconstruct(clips.clip(0)).shape == (5, 3, 32, 32)
    assert Tables(leave_out=("flow",)).fitted(table())[0].values == ("pressure",)


def test_numbers_of_numpy_are_settings(tmp_path):
    numbers = {"V": np.int64(5), "size": np.int64(16), "levels": np.int64(3), "steps": np.int64(1)}
    model = diffsda.fit(clips, **QUICK | numbers | {"lowest": np.float32(0.5)})
    model.save(tmp_path)  # in JSON
    assert diffsda.load(tmp_path).sampling == {"steps": 3, "lowest": 0.5}


def changed(value):
    "Another one of its kind."
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return ("other",)
    return value + "other" if isinstance(value, str) else (value or 0) + 3


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_field_is_a_setting(kind):
    adapter = ADAPTERS[kind]
    config = adapter.preset.config
    own = {f.name: getattr(adapter(), f.name) for f in fields(adapter)}
    for name in set(own) - {"stage", "vocoder", "frame", "bin", "stride", "leave_out"}:
        made, _ = settings_for(adapter, **{name: changed(own[name])})
        assert made == replace(adapter(), **{name: changed(own[name])}), name
    for name in {f.name for f in fields(Preset)} - set(AT_FIT) - set(own):
        value = changed(getattr(adapter.preset, name))
        made, preset = settings_for(adapter, **{name: value})
        assert made == adapter() and preset == replace(adapter.preset, **{name: value}), name
    for name in ("steps", "batch", "lr", "seed", "log_every", "save_every"):
        value = changed(getattr(config, name))
        _, preset = settings_for(adapter, **{name: value})
        assert preset.config == replace(config, **{name: value}), name
    for recipe in ("paper", "capacity"):
        assert settings_for(adapter, recipe=recipe)[1] == adapter.preset.by(recipe)
    wider = settings_for(adapter, recipe="paper", d_noise=0.7)[1]
    assert wider == replace(adapter.preset.by("paper"), d_noise=0.7), "what is named wins"


@pytest.mark.parametrize(
    "source, settings, message",
    [
        ("table", {"widnow": 24}, "no setting 'widnow' for Tables; did you mean 'window'"),
        ("table", {"rate": 8000}, "no setting 'rate' for Tables"),
        ("clips", {"window": 4}, "no setting 'window' for Films"),
        ("clips", {"unet": {}}, "no setting 'unet' for Films"),
        ("recordings", {"second": 1}, "did you mean 'seconds'"),
        ("table", {"recipe": "papr"}, "unknown recipe 'papr'; there are .*paper"),
        ("table", {"steps": 0}, "steps must be"),
        ("table", {"lr": -1.0}, "lr"),
        ("table", {"levels": 1}, "levels must be 2 or more, .* got 1 and"),
        ("clips", {"lowest": 100.0}, "lowest above 0 and below 80, got 2 and 100"),
        ("table", {"stride": 3}, "stride 3 needs a window"),
        ("table", {"values": ("flow",), "leave_out": ("flow",)}, "'flow' is in values and in leave_out"),
        ("table", {"modality": "tables"}, "unknown modality 'tables'; there are table, clips"),
        ("clips", {"size": 18, "V": 4}, "multiples of 16"),
        ("clips", {"V": 7}, "has 5 frames, but a window needs 7.*smaller V"),
        ("clips", {"V": 4.0}, "V must be a number of frames, 1 or more, got 4.0"),
        ("clips", {"stride": 0}, "stride must be a number of frames, 1 or more, got 0"),
        ("recordings", {"hop": -1}, "hop must be a number of samples, 0 or more, got -1"),
        ("recordings", {"seconds": 3.0}, "chunks of 3 s are longer than the longest"),
        ("recordings", {"modality": "clips"}, r"bytes \(T, C, H, W\), got Recordings"),
        ("table", {"modality": "recordings"}, "wave .*got DataFrame"),
        ("sequences", {"modality": "table"}, "a table is a data frame, .* got Sequences"),
        ("clips", {"modality": "sequences"}, "reads Sequences, got Clips"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_and_nothing_is_written(source, settings, message, tmp_path):
    held = {"table": table(), "clips": clips, "recordings": recordings, "sequences": Sequences(x)}
    with pytest.raises(ValueError, match=message):
        diffsda.fit(held[source], folder=tmp_path / "m", **QUICK | settings)
    assert not (tmp_path / "m").exists()


# ---- what it is, and what it is not


def test_a_mixed_folder_is_read_if_one_says_as_what(tmp_path):
    folder = sounds(tmp_path / "mixed")
    write_film(folder / "d.mp4", noise_bytes(6, 16, 16, 3))
    written(table(), folder / "labels.csv")
    with pytest.raises(
        ValueError, match="holds table and clips and recordings; say which: modality="
    ):
        diffsda.fit(folder, folder=tmp_path / "m", **QUICK)
    model = diffsda.fit(folder, modality="recordings", **QUICK | VOICES)
    assert list(model.encode(folder).s.index) == ["a.wav", "b.flac", "c.mp3"]


def bad(folder):
    "Sources that cannot be: name -> (source, settings, message)."
    for name in ("empty", "text", "tables", "voices", "clips"):
        (folder / name).mkdir()
    (folder / "text" / "notes.txt").write_text("nothing")
    written(table(), folder / "tables" / "one.csv")
    written(table(), folder / "stations.csv")
    films(folder / "films")
    (folder / "films" / "d.mp4").write_bytes(b"no film")
    sounds(folder / "sounds")
    (folder / "sounds" / "d.wav").write_text("no sound")
    write_film(folder / "clips" / "brief.mp4", noise_bytes(2, 16, 16, 3))
    soundfile.write(folder / "voices" / "a.wav", tone(1.0).numpy(), 16_000)
    soundfile.write(folder / "voices" / "brief.wav", tone(0.05).numpy(), 16_000)
    (folder / "half.npy").write_bytes(b"\x93NUMPY")
    (folder / "table.xlsx").write_bytes(b"PK")
    return {
        "empty folder": ("empty", {}, "empty holds no film, no folder of images and no recording"),
        "folder of other things": ("text", {}, "text holds no film"),
        "folder of tables": ("tables", {}, "holds tables; name one file"),
        "missing file": ("station.csv", {}, "there is no .*station.csv; did you mean 'stations.csv'"),
        "other ending": ("table.xlsx", {}, "ends in '.xlsx', which is none of .csv"),
        "half a file": ("half.npy", {}, "half.npy cannot be read"),
        "broken film": ("films", FILMS, "d.mp4 cannot be decoded"),
        "broken sound": ("sounds", VOICES, "d.wav cannot be read as sound"),
        "short film": ("clips", FILMS, "brief has 2 frames, but a window needs 4"),
        "short sound": ("voices", VOICES, r"brief.wav lasts 0.050 s, expected at least 0.1"),
        "no such modality": ("films", {"modality": "recordings"}, "films holds no .wav"),
        "sound as film": ("sounds", {"modality": "clips"}, "sounds holds no clip"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    ["empty folder", "folder of other things", "folder of tables", "missing file", "other ending",
     "half a file", "broken film", "broken sound", "short film", "short sound", "no such modality",
     "sound as film"],
)  # fmt: skip
def test_bad_sources_are_refused_and_nothing_is_written(case, tmp_path):
    source, settings, message = bad(tmp_path)[case]
    with pytest.raises(ValueError, match=message):
        diffsda.fit(tmp_path / source, folder=tmp_path / "m", **QUICK | settings)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "thing, message",
    [
        (3, "a source is a data frame, .* got int"),
        (None, "got NoneType"),
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\) and float64 may be many things"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.zeros((9, 16, 16), np.uint8), r"\(9, 16, 16\) and uint8 .* a grey one as x\[:, None\]"),
        (
            ["a.wav", Path("b.wav")],
            r"a list of files is no source; name their folder, .*read_clips",
        ),
    ],
)
def test_what_cannot_be_told_apart(thing, message):
    with pytest.raises(ValueError, match=message):
        modality_of(thing)


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ValueError, match=r"pip install 'diffsda\[parquet\]'"):
        diffsda.fit(tmp_path / "t.parquet", **QUICK)


# ---- a model and things that are not its own


def test_things_unlike_those_it_was_trained_on(tmp_path):
    model = diffsda.fit(table(), **QUICK | DAYS)
    with pytest.raises(ValueError, match="no column 'flow'; did you mean 'flows'"):
        model.encode(table().rename(columns={"flow": "flows"}))
    with pytest.raises(ValueError, match="group 'north' has 23 steps, but a window needs 24"):
        model.encode(table()[:23])
    with pytest.raises(ValueError, match=r"sequences must be arrays|no column 'station'"):
        model.encode(tone())
    more = table().assign(humidity=1.0)
    assert model.encode(more).s.equals(model.encode(table()).s), "other columns are not looked at"

    model = diffsda.fit(recordings, **QUICK | {"seconds": 0.3})
    with pytest.raises(ValueError, match="have 16000 Hz, the model was trained at 8000"):
        model.encode(Recordings([tone()], 16_000))
    with pytest.raises(ValueError, match="this recording lasts 0.050 s"):
        model.encode(tone(0.05, rate=8000))
    with pytest.raises(ValueError, match="nowhere.wav is not a folder; look at its spelling"):
        model.encode(tmp_path / "nowhere.wav")

    model = diffsda.fit(clips, **QUICK | {"V": 4, "size": None})
    with pytest.raises(ValueError, match=r"\(3, 32, 32\), expected \(3, 16, 16\)"):
        model.encode(noise_bytes(6, 3, 32, 32))
    with pytest.raises(ValueError, match="has 3 frames"):
        model.encode(clips.clip(0)[:3])
    with pytest.raises(ValueError, match="clips must be bytes, got float32"):
        model.encode(Clips(np.zeros((6, 3, 16, 16), np.float32), [0, 6]))


def test_what_was_left_out_need_not_be_there_later():
    numbered = table().assign(id=range(len(table())))
    model = diffsda.fit(numbered, **QUICK | DAYS | {"leave_out": ("id",)})
    assert model.adapter.values == ("flow", "pressure")
    assert model.encode(table()).s.equals(model.encode(numbered).s)


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint here|does not exist"):
        diffsda.load(tmp_path / "nowhere")
    model = diffsda.fit(Sequences(x), **QUICK)
    model.adapter = type("Rolls", (type(model.adapter),), {})()
    model.save(tmp_path)
    with pytest.raises(ValueError, match="a model of Rolls, an adapter of somebody's own"):
        diffsda.load(tmp_path)


def test_the_summary_says_what_was_left_out_and_guessed(capsys):
    told = table().assign(city="x")
    later = told["date"] + pd.Timedelta("20D")  # the 21st is in no month's place
    told["date"] = later.dt.strftime("%d.%m.%Y %H:%M")
    diffsda.fit(told, **QUICK | DAYS | {"held_out": 0.3, "progress": True})
    said = capsys.readouterr().out
    assert "dates are read as %d.%m.%Y %H:%M" in said
    assert "columns without numbers are left out: city" in said
    assert "10 sequences to fit, 5 kept aside" in said and "The codes explain" in said


def test_a_table_needs_no_library_of_sound_and_sound_says_what_it_needs():
    code = """
import subprocess
import sys
sys.modules |= {"soundfile": None, "torchaudio": None}  # as if they were not installed
import pandas, diffsda, torch
when = pandas.date_range("2024-01-01", periods=48, freq="h")
frame = pandas.DataFrame({"time": when, "group": "a", "load": range(48), "heat": range(48)})
both = pandas.concat([frame, frame.assign(group="b")])
diffsda.fit(both, time="time", group="group", window=8, steps=2, progress=False, held_out=0)
try:
    diffsda.fit(diffsda.audio.Recordings([torch.rand(8000)] * 4, 8000), steps=2, progress=False)
except ModuleNotFoundError as error:
    assert "diffsda[audio]" in str(error), error
else:
    raise SystemExit("sound without its library")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_files_beside_an_output_stay_but_for_unfinished_ones(tmp_path):
    for name in (".2023.results.csv", ".unfinished-7.results.csv"):
        (tmp_path / name).write_text("half")
    write_whole(lambda fresh: fresh.write_text("whole"), tmp_path / "results.csv")
    assert {path.name for path in tmp_path.iterdir()} == {".2023.results.csv", "results.csv"}
