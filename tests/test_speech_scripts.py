"""From public recordings of speech to prepared sets: made-up trees in each set's own layout, and the real files where they are."""

import csv
import errno
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_data_scripts as shared

arrays_of, contents, write, zipped = shared.arrays_of, shared.contents, shared.write, shared.zipped
scripts, server, publish, real = shared.scripts, shared.server, shared.publish, shared.real

# ---- made-up sets, each a dict of files: name -> bytes


def noise(key, n=None):
    """16-bit samples that only this key has."""
    rng = np.random.default_rng([*key.encode()])
    return rng.integers(-(2**15), 2**15, n or rng.integers(40, 90), dtype=np.int16)


def sound(x, rate=16000, kind="FLAC", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, x, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def sphere(x, rate=16000):
    """A NIST SPHERE file with the header that TIMIT's have."""
    fields = f"""database_id -s5 TIMIT\ndatabase_version -s3 1.0\nutterance_id -s8 cjf0_sx1\nchannel_count -i 1
sample_count -i {len(x)}\nsample_rate -i {rate}\nsample_min -i {x.min()}\nsample_max -i {x.max()}
sample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_sig_bits -i 16\nend_head\n"""
    return b"NIST_1A\n   1024\n".ljust(16) + fields.encode().ljust(1008) + x.astype("<i2").tobytes()


def digits():
    names = [
        f"{d}_{who}_{take}" for d in (0, 7) for who in ("theo", "lucas") for take in (0, 2, 10)
    ]
    folder = "free-spoken-digit-dataset-26eb9aa"
    files = {f"{folder}/recordings/{n}.wav": sound(noise(n), 8000, "WAV") for n in names}
    return files | {f"{folder}/README.md": "digits"}


def actors():
    names = [
        f"03-01-{e}-01-{s}-02-{who}"
        for who in ("09", "10")
        for e in ("01", "08")
        for s in ("01", "02")
    ]
    return {f"Actor_{n[-2:]}/{n}.wav": sound(noise(n), 16000, "WAV") for n in names}


READERS = {"84": "F", "174": "M", "1272": "M"}


def readers():
    """LibriSpeech dev-clean, and a recording of another subset beside it."""
    names = [
        f"{who}-{chapter}-000{i}" for who in READERS for chapter in ("121123", "9") for i in (0, 1)
    ]
    lines = [";ID  |SEX| SUBSET |MINUTES| NAME", "60 | M | train-clean-100 | 20.18 ||CBW|Simon"]
    lines += [f"{who:5}| {sex} | dev-clean        |  8.02 | A Name" for who, sex in READERS.items()]
    files = {f"dev-clean/{n.replace('-', '/')[:-5]}/{n}.flac": sound(noise(n)) for n in names}
    files["test-clean/61/70968/61-70968-0000.flac"] = sound(noise("other"))
    files["SPEAKERS.TXT"] = "\n".join(lines) + "\n"
    return {f"LibriSpeech/{name}": made for name, made in files.items()}


def listed(names):
    rows = [shared.pd.Series(dict(zip(("subset", "name"), n.split("/")))) for n in names]
    table = shared.pd.DataFrame(rows)
    table["file"] = [f"{n}.flac" for n in names]
    table[["speaker", "chapter", "utterance"]] = [n.split("-") for n in table["name"]]
    table["sex"], table["seconds"] = table["speaker"].map(READERS), "0.0100"
    return table["file subset speaker sex chapter utterance seconds".split()]


def sample():
    names = ["test-other/84-1-0000", "test-other/84-1-0001", "train-clean-100/174-2-0000"]
    files = {f"{n}.flac": sound(noise(n)) for n in names}
    return files | {"labels.csv": listed(names), "LICENSE.TXT": "CC BY 4.0"}


TALKERS = {
    "TRAIN/DR1/FCJF0": "train",
    "TEST/DR1/FAKS0": "dev",
    "TEST/DR8/MPAM0": "core",
    "TEST/DR2/MABW0": "test",
}


def corpus(encode=sphere):
    """TIMIT with four of its speakers; another file lies beside each recording, and the tools have a sound of their own."""
    sentences = "SA1 SA2 SI648 SI1027 SI1657 SX37 SX127 SX217 SX307 SX397".split()
    files = {"SPHERE/LIB/EX1.WAV": b"no speech"}
    for where in TALKERS:
        for sentence in sentences:
            files[f"TIMIT/{where}/{sentence}.WAV"] = encode(noise(f"{where}/{sentence}"))
            files[f"TIMIT/{where}/{sentence}.TXT"] = (
                "0 63488 Don't ask me to carry an oily rag like that."
            )
    return files


MADE = {
    "fsdd": digits,
    "ravdess": actors,
    "librispeech_dev_clean": readers,
    "librispeech_sample": sample,
    "timit": corpus,
}
EXPECTED = {  # set -> label -> class of a recording, by its name
    "fsdd": {
        "speaker": lambda n: n.split("_")[1],
        "digit": lambda n: n.split("_")[0],
        "take": lambda n: n.split("_")[2],
    },
    "ravdess": {
        "speaker": lambda n: f"actor {n[-2:]}",
        "gender": lambda n: {"09": "M", "10": "F"}[n[-2:]],
        "emotion": lambda n: {"01": "neutral", "08": "surprised"}[n[6:8]],
        "intensity": lambda n: "normal",
        "statement": lambda n: (
            {"01": "Kids", "02": "Dogs"}[n[12:14]]
            + {"01": " are talking", "02": " are sitting"}[n[12:14]]
            + " by the door"
        ),
        "repetition": lambda n: "2",
    },
    "librispeech_dev_clean": {
        "speaker": lambda n: n.split("-")[0],
        "sex": lambda n: READERS[n.split("-")[0]],
    },
    "librispeech_sample": {
        "speaker": lambda n: n.split("/")[1].split("-")[0],
        "subset": lambda n: n.split("/")[0],
        "sex": lambda n: READERS[n.split("/")[1].split("-")[0]],
    },
    "timit": {
        "speaker": lambda n: n.split("/")[2],
        "sex": lambda n: n.split("/")[2][0],
        "dialect": lambda n: n.split("/")[1],
        "sentence": lambda n: n.split("/")[3],
        "part": lambda n: TALKERS[n.rsplit("/", 1)[0]],
    },
}


def tarred(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, made in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(shared.content_of(made))
            archive.addfile(info, io.BytesIO(shared.content_of(made)))
    return buffer.getvalue()


@pytest.fixture
def make(scripts, tmp_path):
    """Prepares files from a folder of them; returns the arrays and the facts."""

    def prepared(name, files):
        source = write(files, tmp_path / f"raw {len([*tmp_path.iterdir()])}")
        scripts.prepare(name, str(source), tmp_path / "data")
        return arrays_of(tmp_path / "data" / name)

    return prepared


# ---- what comes out


@pytest.mark.parametrize("name", MADE)
def test_recordings_are_their_files_with_their_labels(make, tmp_path, name):
    arrays, facts = make(name, MADE[name]())
    assert set(arrays) == {"wave", "starts", *EXPECTED[name]} and set(facts["labels"]) == set(
        EXPECTED[name]
    )
    assert facts["rate"] == (8000 if name == "fsdd" else 16000)
    starts, files = arrays["starts"], facts["files"]
    assert arrays["wave"].dtype == np.int16 and starts.dtype == np.int64
    assert len(set(files)) == len(files) == len(starts) - 1 and starts[-1] == len(arrays["wave"])
    for i, file in enumerate(files):
        assert np.array_equal(arrays["wave"][starts[i] : starts[i + 1]], noise(file)), file
    for label, of in EXPECTED[name].items():
        assert arrays[label].dtype == np.int16
        assert [facts["labels"][label][i] for i in arrays[label]] == [of(file) for file in files]
        assert set(arrays[label]) == set(range(len(facts["labels"][label]))), "every class is there"
    assert facts["licence"] and facts["citation"] and len(facts["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(facts), "no path of this machine is kept"
    assert [p.name for p in (tmp_path / "data").iterdir()] == [name], "nothing is left behind"


def test_numbers_in_names_sort_as_numbers(make):
    _, facts = make("fsdd", digits())
    assert facts["labels"]["take"] == ["0", "2", "10"]
    assert facts["files"][:4] == ["0_lucas_0", "0_lucas_2", "0_lucas_10", "0_theo_0"]
    _, facts = make("librispeech_dev_clean", readers())
    assert facts["labels"]["speaker"] == ["84", "174", "1272"]


def test_classes_keep_the_order_of_the_publisher(make):
    _, facts = make("ravdess", actors())
    assert facts["labels"]["emotion"] == ["neutral", "surprised"]
    assert [text[:4] for text in facts["labels"]["statement"]] == ["Kids", "Dogs"]
    _, facts = make("timit", corpus())
    assert facts["labels"]["part"] == ["train", "dev", "core", "test"]


def test_speakers_of_timits_parts(scripts):
    room = scripts.ROOMS["timit"]
    assert len({*room.CORE}) == 24 and len({*room.DEV}) == 50 and not {*room.CORE} & {*room.DEV}
    assert sum(who[0] == "M" for who in room.CORE) == 16, "two men and a woman of each dialect"
    _, labels = room.parse("TIMIT/TRAIN/DR8/MPAM0/SX109.WAV")
    assert labels["part"] == "train", "by its folder"


# ---- layouts


def lower(files):
    return {name.lower(): made for name, made in files.items()}


def flac(files):
    """As RAVDESS lies beside the checkout: one folder, and a table."""
    read = lambda made: soundfile.read(io.BytesIO(made), dtype="int16")
    made = {f"flac/{Path(n).stem}.flac": sound(*read(made)) for n, made in files.items()}
    return made | {"labels.csv": "file,actor\n"}


LAYOUTS = {
    "zip": ("fsdd", lambda: {"fsdd.zip": zipped(digits())}),
    "as GitHub names it": ("fsdd", lambda: {"26eb9aa.zip": zipped(digits())}),
    "one folder": ("fsdd", lambda: {Path(name).name: made for name, made in digits().items()}),
    "zip of actors": ("ravdess", lambda: {"Audio_Speech_Actors_01-24.zip": zipped(actors())}),
    "zip in a zip": (
        "ravdess",
        lambda: {"ravdess_speech_16k.zip": zipped({"all.zip": zipped(actors())})},
    ),
    "flac and table": ("ravdess", lambda: flac(actors())),
    "tar": (
        "librispeech_dev_clean",
        lambda: {"dev-clean.tar.gz": tarred(dict(reversed(readers().items())))},
    ),
    "deep": (
        "librispeech_dev_clean",
        lambda: {f"openslr/12/{name}": made for name, made in readers().items()},
    ),
    "zip of a sample": (
        "librispeech_sample",
        lambda: {"audio/librispeech_sample.zip": zipped(sample())},
    ),
    "lower case": ("timit", lambda: lower(corpus())),
    "RIFF": ("timit", lambda: corpus(lambda x: sound(x, 16000, "WAV"))),
    "RIFF, lower case": ("timit", lambda: lower(corpus(lambda x: sound(x, 16000, "WAV")))),
    "big endian": (
        "timit",
        lambda: corpus(lambda x: sphere(x.byteswap()).replace(b"-s2 01", b"-s2 10")),
    ),
    "zip of all": ("timit", lambda: {"timit.zip": zipped(corpus())}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_arrays(make, layout):
    name, files = LAYOUTS[layout]
    want, facts = make(name, MADE[name]())
    got, others = make(name, files())
    assert facts["files"] == others["files"] and facts["labels"] == others["labels"]
    for key in want:
        assert np.array_equal(want[key], got[key]), key


@pytest.mark.parametrize("rate", [48000, 44100, 8000])
def test_other_rates_of_ravdess_become_16_khz(make, capsys, rate):
    """A tone stays that tone; what 16 kHz cannot hold goes."""
    tone = lambda f, rate: 0.4 * np.sin(2 * np.pi * f * np.arange(rate) / rate)
    hiss = tone(11000, rate) if rate > 22000 else 0
    files = actors()
    files["Actor_09/03-01-01-01-01-02-09.wav"] = sound(tone(440, rate) + hiss, rate, "WAV")
    arrays, facts = make("ravdess", files)
    wave = arrays["wave"][: arrays["starts"][1]] / 2**15
    assert facts["files"][0] == "03-01-01-01-01-02-09" and len(wave) == 16000
    assert np.abs(wave - tone(440, 16000))[200:-200].max() < 2e-3
    assert "  1 resampled to 16000 Hz" in capsys.readouterr().out


# ---- what is kept, and counted


def test_stereo_is_averaged_and_what_is_odd_is_counted(make, capsys):
    files, names = digits(), [f"0_lucas_{take}" for take in (0, 2, 10)]
    both = np.stack([noise("left", 50) // 2, noise("right", 50) // 2], 1)
    loud = 3 * np.sin(np.arange(50.0))
    for n, x in zip(names, (both, np.zeros(60, np.int16), loud)):
        files[f"free-spoken-digit-dataset-26eb9aa/recordings/{n}.wav"] = sound(
            x, 8000, "WAV", "FLOAT" if x is loud else "PCM_16"
        )
    for n in ("0_theo_0", "7_theo_0"):
        made = f"free-spoken-digit-dataset-26eb9aa/recordings/{n}.wav"
        files[made] = sound((noise(n) // 4).astype(np.int16), 8000, "WAV")
    arrays, facts = make("fsdd", files)
    first = [arrays["wave"][arrays["starts"][i] : arrays["starts"][i + 1]] for i in range(3)]
    assert facts["files"][:3] == names
    assert np.abs(first[0] - both.mean(1)).max() <= 0.5
    assert len(first[1]) == 60 and not first[1].any()
    assert np.abs(first[2] - (loud * 2**15).clip(-(2**15), 2**15 - 1)).max() <= 0.5
    said = capsys.readouterr().out
    assert "  1 stereo, averaged\n" in said and "  1 silent throughout\n" in said
    assert "12 recordings (published: 3,000)" in said
    full = [
        max(noise(n)) == 2**15 - 1 or min(noise(n)) == -(2**15)
        for n in facts["files"][3:]
        if n[2:] != "theo_0"
    ]
    assert f"  {1 + sum(full)} at full scale somewhere\n" in said


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8"])
def test_other_sample_formats_are_rounded_to_16_bits(scripts, subtype):
    x = np.sin(np.arange(400)) * 0.9
    samples, rate = scripts.fsdd.waves.decode("x.wav", sound(x, 8000, "WAV", subtype))
    assert rate == 8000 and np.abs(samples[:, 0] - x).max() <= (
        1e-6 if subtype != "PCM_U8" else 1 / 128
    )


@pytest.mark.parametrize("chunk", [b"LIST\x04\0\0\0abcd", b"LIST\x03\0\0\0abc\0"])
def test_chunks_before_the_samples_are_passed_over(scripts, chunk):
    """Also those of an odd size, which a byte fills up."""
    made = sound(noise("chunk", 500), 8000, "WAV").replace(b"data", chunk + b"data", 1)
    decode = scripts.fsdd.waves.decode
    assert np.array_equal(decode("x.wav", made)[0][:, 0] * 2**15, noise("chunk", 500))
    with pytest.raises(ValueError, match="x.wav is cut short"):
        decode("x.wav", made[:-2])


def test_one_speaker_only_is_a_warning(make, capsys):
    arrays, _ = make("fsdd", {n: made for n, made in digits().items() if "theo" in n})
    assert len(arrays["speaker"]) == 6
    said = capsys.readouterr().out
    assert "warning: one speaker only (theo): verification needs two or more" in said
    make("fsdd", digits())
    assert "one speaker" not in capsys.readouterr().out


def test_copy_of_timit_with_few_speakers_is_a_warning(make, capsys):
    files = corpus()
    del files["TIMIT/TRAIN/DR1/FCJF0/SX37.WAV"]
    make("timit", files)
    said = capsys.readouterr().out
    assert "not whole: 4 of 630 speakers; 72 of the 24 core and 50 development" in said
    assert "1 speakers lack some" in said and "31 recordings (published: 5,040)" in said


# ---- bad input: one spoilt file, one clear error, and what was prepared stays

DIGIT = "free-spoken-digit-dataset-26eb9aa/recordings/7_lucas_2.wav"
ACTOR = "Actor_10/03-01-08-01-02-02-10.wav"
READER = "LibriSpeech/dev-clean/174/9/174-9-0001.flac"
TALKER = "TIMIT/TEST/DR1/FAKS0/SX217.WAV"
X = noise("bad", 4000)


def patched(made, old, new):
    assert old in made
    return made.replace(old, new, 1)


def nan(kind):
    x = np.zeros(80)
    x[33] = {"nan": np.nan, "inf": np.inf}[kind]
    return sound(x, 8000, "WAV", "FLOAT")


def ones(rate):
    return rate.to_bytes(4, "little")


BAD = {  # file, what it holds instead, what the message says
    "empty": ("fsdd", DIGIT, b"", r"is empty \(0 bytes\)"),
    "no samples": ("fsdd", DIGIT, sound(X[:0], 8000, "WAV"), "header and 0 samples"),
    "no samples, NIST": ("timit", TALKER, sphere(X)[:1024].replace(b"count -i 4000", b"count -i 0   "), "header and 0 samples"),
    "cut wav": ("fsdd", DIGIT, sound(X, 8000, "WAV")[:-2], "cut short: 8,042 bytes, expected 8,044"),
    "half a wav": ("ravdess", ACTOR, sound(X, 48000, "WAV")[:4000], "cut short"),
    "wav header": ("fsdd", DIGIT, sound(X, 8000, "WAV")[:30], "cannot be decoded"),
    "cut flac": ("librispeech_dev_clean", READER, sound(X)[:-100], "cannot be decoded .*expected a whole"),
    "cut NIST": ("timit", TALKER, sphere(X)[:-2], "cut short: 9,022 bytes, expected 9,024"),
    "NIST header": ("timit", TALKER, sphere(X)[:700], "cannot be decoded"),
    "shortened NIST": ("timit", TALKER, sphere(X).replace(b"end_head\n", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"), "cannot be decoded"),
    "text": ("librispeech_dev_clean", READER, b"<html>404</html>" * 9, "cannot be decoded .*expected a whole"),
    "rate of 0": ("fsdd", DIGIT, patched(sound(X, 8000, "WAV"), ones(8000), ones(0)), "rate or a number of channels of 0"),
    "rate of 0, NIST": ("timit", TALKER, sphere(X, 0), "rate or a number of channels of 0"),
    "NaN": ("fsdd", DIGIT, nan("nan"), "sample 33 is nan, expected finite"),
    "inf": ("fsdd", DIGIT, nan("inf"), "sample 33 is inf, expected finite"),
    "other rate": ("fsdd", DIGIT, sound(X, 16000, "WAV"), "has 16000 samples a second, expected 8000"),
    "other rate of flac": ("librispeech_dev_clean", READER, sound(X, 22050), "has 22050 .* expected 16000"),
    "other rate of NIST": ("timit", TALKER, sphere(X, 8000), "has 8000 .* expected 16000"),
    "a rate that is none": ("ravdess", ACTOR, sound(X, 47999, "WAV"), "has 47999 samples a second, expected 8000, 11025"),
}  # fmt: skip
NAMES = {  # set, file -> its new name, what the message says
    "digit": ("fsdd", DIGIT, "recordings/seven_lucas_2.wav", "has no label, expected a name like 7_jackson_32.wav"),
    "actor": ("ravdess", ACTOR, "Actor_25/03-01-08-01-02-02-25.wav", "has no label, .*actor 1 to 24"),
    "song": ("ravdess", ACTOR, "Actor_10/03-02-08-01-02-02-10.wav", "has no label, .*01: speech"),
    "emotion": ("ravdess", ACTOR, "Actor_10/03-01-09-01-02-02-10.wav", "has no label, .*emotion 1 to 8"),
    "reader": ("librispeech_dev_clean", READER, "LibriSpeech/dev-clean/174/9/first.flac", "has no label, .*84-121123-0000"),
    "unknown reader": ("librispeech_dev_clean", READER, "LibriSpeech/dev-clean/175/9/175-9-0001.flac", "SPEAKERS.TXT does not list the speaker 175"),
    "dialect": ("timit", TALKER, "TIMIT/TEST/DR9/FAKS0/SX217.WAV", "has no label, .*TRAIN/DR1/FCJF0/SX127.WAV"),
    "talker": ("timit", TALKER, "TIMIT/TEST/SX217.WAV", "has no label"),
    "talker in two parts": ("timit", TALKER, "TIMIT/TRAIN/DR1/FAKS0/SX217.WAV", "FAKS0 is in "),
    "mp3": ("fsdd", DIGIT, DIGIT.replace("wav", "mp3"), "is a .mp3, expected .wav or .flac"),
    "MP3": ("ravdess", ACTOR, ACTOR.replace("wav", "MP3"), "is a .mp3, expected .wav or .flac"),
}  # fmt: skip


@pytest.fixture
def refused(make, tmp_path):
    """Whether a set is refused with these words and one file's name, in one line, and the former one stays."""

    def check(name, files, file, words):
        make(name, MADE[name]())
        before = contents(tmp_path / "data")
        with pytest.raises(ValueError, match=words) as caught:
            make(name, files)
        assert Path(file).name in str(caught.value) and "\n" not in str(caught.value)
        assert ";" in str(caught.value), "what to do"
        assert contents(tmp_path / "data") == before

    return check


@pytest.mark.parametrize("what", BAD)
def test_bad_recording_is_named_and_the_former_set_stays(refused, what):
    name, file, made, words = BAD[what]
    refused(name, MADE[name]() | {file: made}, file, words)


@pytest.mark.parametrize("what", NAMES)
def test_name_without_a_label_is_refused(refused, what):
    name, file, other, words = NAMES[what]
    files = MADE[name]()
    files[other] = files.pop(file)
    refused(name, files, other, words)


SPEAKERS, TABLE = "LibriSpeech/SPEAKERS.TXT", "labels.csv"
TABLES = {
    "line": ("librispeech_dev_clean", SPEAKERS, lambda t: t + "84 F dev-clean\n", "line 6: '84 F dev-clean', expected speaker"),
    "columns": ("librispeech_sample", TABLE, lambda t: t.drop(columns="sex"), "missing: sex"),
    "sex": ("librispeech_sample", TABLE, lambda t: t.assign(sex=["F", "?", "M"]), "line 3, column sex: '\\?', expected F or M"),
    "no line": ("librispeech_sample", TABLE, lambda t: t[:2], "174-2-0000.flac has no line in labels.csv"),
    "no file": ("librispeech_sample", TABLE, lambda t: listed(["test-other/1272-0-0000", *t["file"].str[:-5]]), "1272-0-0000.flac is listed in labels.csv"),
    "no table": ("librispeech_sample", TABLE, lambda t: b"", "cannot be read as a table"),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLES)
def test_bad_table_of_speakers_is_refused(refused, what):
    name, file, spoil, words = TABLES[what]
    files = MADE[name]()
    refused(name, files | {file: spoil(files[file])}, file, words)


@pytest.mark.parametrize(
    "name, file", [("librispeech_dev_clean", SPEAKERS), ("librispeech_sample", TABLE)]
)
def test_missing_table_of_speakers_is_named(refused, name, file):
    files = MADE[name]()
    del files[file]
    refused(name, files, file, "sex")


@pytest.mark.parametrize("half", ["TRAIN", "TEST"])
def test_half_of_timit_is_refused(refused, half):
    refused(
        "timit",
        {n: made for n, made in corpus().items() if half not in n},
        half,
        f"no recording in {half}.*not whole",
    )


def test_the_same_recording_twice_is_refused(refused):
    refused(
        "fsdd",
        digits() | {"old/7_lucas_2.wav": sound(X, 8000, "WAV")},
        "7_lucas_2.wav",
        "holds 7_lucas_2 twice.*keep one",
    )
    refused("timit", corpus() | lower(corpus()), "si1027.wav", "SI1027 twice")


@pytest.mark.parametrize("name", ["fsdd", "librispeech_dev_clean", "timit"])
def test_source_without_a_recording_is_refused(scripts, tmp_path, name):
    (tmp_path / "other.7z").write_bytes(b"7z")
    with pytest.raises(ValueError, match="other.7z holds no recording of this set.*name the zip"):
        scripts.prepare(name, str(tmp_path / "other.7z"), tmp_path / "data")
    with pytest.raises(ValueError, match="there is no file .*, nor a folder that holds"):
        scripts.prepare(name, str(tmp_path), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("made", [zipped(digits()), tarred(readers())], ids=["zip", "tar"])
@pytest.mark.parametrize("cut", [0.5, 0.98])
def test_archive_that_is_not_whole_is_refused(scripts, tmp_path, made, cut):
    kind, name = ("zip", "fsdd") if made[:2] == b"PK" else ("tar", "librispeech_dev_clean")
    file = "fsdd.zip" if kind == "zip" else "dev-clean.tar.gz"
    write({file: made[: int(cut * len(made))]}, tmp_path)
    with pytest.raises(
        ValueError, match=f"{file} is not a whole {kind} archive .*get the file again"
    ):
        scripts.prepare(name, str(tmp_path), tmp_path / "data")


def test_tar_that_reaches_outside_is_refused(scripts, tmp_path):
    write({"dev-clean.tar.gz": tarred({"../../evil.flac": b"x"})}, tmp_path)
    with pytest.raises(ValueError, match="outside the destination"):
        scripts.prepare("librispeech_dev_clean", str(tmp_path), tmp_path / "data")


# ---- large sets


def test_set_larger_than_the_memory(scripts, tmp_path):
    """At no time more than a few recordings are held."""
    x = noise("long", 300_000)
    write(
        {f"{i}_theo_{j}.wav": sound(x, 8000, "WAV") for i in range(10) for j in range(4)}, tmp_path
    )
    room = scripts.ROOMS["fsdd"]
    room.read("fsdd", tmp_path)  # what is imported on the way does not count
    tracemalloc.start()
    arrays, _ = room.read("fsdd", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(arrays["wave"], np.memmap) and peak < arrays["wave"].nbytes / 2


def test_no_room_for_the_temporary_file_leaves_the_former(scripts, make, tmp_path, monkeypatch):
    make("fsdd", digits())
    before = contents(tmp_path / "data")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    temporary = tempfile.TemporaryFile

    def small(*arguments):
        file = temporary(*arguments)
        monkeypatch.setattr(file, "write", full)
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", small)
    with pytest.raises(OSError, match="no room for fsdd in .*No space left.*TMPDIR"):
        make("fsdd", digits())
    assert contents(tmp_path / "data") == before


# ---- downloads


@pytest.mark.parametrize("published", ["the same", "another"])
def test_download_of_a_tar_with_its_md5(scripts, server, publish, tmp_path, published):
    made = tarred(readers())
    write({"dev-clean.tar.gz": made}, server[0])
    md5 = hashlib.md5(made if published == "the same" else b"").hexdigest()
    publish("librispeech_dev_clean", files={"dev-clean.tar.gz": f"md5:{md5}"})
    if published == "another":
        with pytest.raises(ValueError, match="dev-clean.tar.gz is not what we know"):
            scripts.prepare("librispeech_dev_clean", None, tmp_path / "data")
        assert not (tmp_path / "data").exists()
        return
    scripts.prepare("librispeech_dev_clean", None, tmp_path / "data")
    arrays, facts = arrays_of(tmp_path / "data" / "librispeech_dev_clean")
    assert facts["public_file"] is True and len(arrays["speaker"]) == 12
    assert facts["sha256"] == hashlib.sha256(made).hexdigest()


@pytest.mark.parametrize("known", [True, False])
def test_copy_is_compared_with_the_published_md5(scripts, publish, tmp_path, capsys, known):
    made = tarred(readers())
    write({"dev-clean.tar.gz": made}, tmp_path)
    if known:
        publish(
            "librispeech_dev_clean",
            files={"dev-clean.tar.gz": f"md5:{hashlib.md5(made).hexdigest()}"},
        )
    scripts.prepare("librispeech_dev_clean", str(tmp_path), tmp_path / "data")
    assert ("dev-clean.tar.gz is not the published file" in capsys.readouterr().out) is not known


def test_download_of_one_file_of_many_behind_a_doi(scripts, tmp_path, monkeypatch):
    """With the DOI played by this machine: it lists two files and their checksums, and one is asked for."""
    import pooch

    file = "Audio_Speech_Actors_01-24.zip"
    write({file: zipped(actors())}, tmp_path / "doi")
    listed = {file: "md5:" + hashlib.md5(zipped(actors())).hexdigest(), "Video_Song.zip": "md5:0"}
    monkeypatch.setattr(
        pooch.Pooch, "load_registry_from_doi", lambda basket: basket.registry.update(listed)
    )

    def from_doi(**_):
        return lambda url, to, _: shutil.copy(tmp_path / "doi" / Path(url).name, to)

    monkeypatch.setattr(pooch, "DOIDownloader", from_doi)
    scripts.prepare("ravdess", None, tmp_path / "data")
    arrays, facts = arrays_of(tmp_path / "data" / "ravdess")
    assert facts["public_file"] is True and len(arrays["speaker"]) == 8
    assert facts["url"] == f"doi:10.5281/zenodo.1188976/{file}"


@pytest.mark.parametrize(
    "name, why",
    [("timit", "Linguistic Data Consortium"), ("librispeech_sample", "librispeech_test_other")],
)
def test_what_is_not_downloaded_says_how_to_get_it(scripts, tmp_path, name, why):
    with pytest.raises(ValueError, match=f"is not downloaded .*{why}.*--source"):
        scripts.prepare(name, None, tmp_path / "data")


def test_missing_soundfile_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"pip install 'diffsda\[audio\]'"):
        make("fsdd", digits())


def test_prepared_speech_is_listed(scripts, make, tmp_path):
    make("fsdd", digits())
    lines = scripts.listing(tmp_path / "data").splitlines()
    assert [line for line in lines if line.startswith("fsdd ")][0].endswith(
        "present: 12 recordings"
    )


# ---- the real sets


def originals(path, suffix):
    """Stem and samples of every fiftieth recording of the archive."""
    with zipfile.ZipFile(path) as archive:
        for member in [m for m in archive.namelist() if m.endswith(suffix)][::50]:
            yield Path(member), *soundfile.read(io.BytesIO(archive.read(member)), dtype="int16")


@pytest.mark.parametrize(
    "name, recordings, speakers, classes",
    [
        ("fsdd", 2400, 6, {"digit": 10, "take": 40}),
        (
            "ravdess",
            1320,
            22,
            {"gender": 2, "emotion": 8, "intensity": 2, "statement": 2, "repetition": 2},
        ),
        ("librispeech_sample", 306, 236, {"sex": 2, "subset": 2}),
    ],
)
def test_real_recordings_are_their_files(real, name, recordings, speakers, classes):
    path, arrays, facts = real(name)
    starts = arrays["starts"]
    assert len(facts["files"]) == recordings == len(starts) - 1 and starts[-1] == len(
        arrays["wave"]
    )
    assert {label: len(names) for label, names in facts["labels"].items()} == {
        "speaker": speakers
    } | classes
    place = {Path(file).name: i for i, file in enumerate(facts["files"])}
    for file, x, rate in originals(path, (".wav", ".flac")):
        i = place[file.stem]
        assert rate == facts["rate"] and np.array_equal(
            arrays["wave"][starts[i] : starts[i + 1]], x
        )


@pytest.mark.parametrize("name", ["ravdess", "librispeech_sample"])
def test_real_labels_are_those_of_the_table(real, name):
    path, arrays, facts = real(name)
    with zipfile.ZipFile(path) as archive:
        rows = [*csv.DictReader(io.TextIOWrapper(archive.open("labels.csv"), "utf-8"))]
    place = {Path(file).name: i for i, file in enumerate(facts["files"])}
    columns = {
        "gender": "gender",
        "emotion": "emotion_name",
        "statement": "statement_text",
        "repetition": "repetition",
    }
    columns = columns if name == "ravdess" else {key: key for key in ("speaker", "sex", "subset")}
    assert len(rows) == len(place)
    for row in rows:
        i = place[Path(row["file"]).stem]
        for label, column in columns.items():
            assert facts["labels"][label][arrays[label][i]] == row[column], row["file"]
        if name == "ravdess":
            assert (
                facts["labels"]["speaker"][arrays["speaker"][i]] == f"actor {int(row['actor']):02}"
            )
            assert arrays["intensity"][i] == int(row["intensity"]) - 1
