"""Splits of speech sets in the prepared format, verification at both ends, and the rivals that need no learning."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffsda.audio import Chunks, Recordings, pooled
from diffsda.cli import check_parameters, parameters_of, parse_value
from diffsda.encoder import RECIPES, Factors
from diffsda.sets import build, set_of
from diffsda.sound import LogMel
from diffsda.speech import (
    CORPORA,
    PREPARED,
    PRESETS,
    SETS,
    Components,
    MeanCodes,
    MeanFrames,
    by_speaker,
    final,
    load_speech,
    open_speech,
    together,
    verify,
    verify_one,
    voices_of,
    without,
)
from diffsda.vowels import vowels


def prepare(folder, name, rate, labels, n):
    """A made-up set in the prepared format: recording i holds the number i, and `labels` maps a name to (classes, values)."""
    home = folder / name
    home.mkdir(parents=True)
    lengths = 3000 + 10 * np.arange(n)
    starts = np.r_[0, np.cumsum(lengths)]
    wave = np.repeat(np.arange(n), lengths).astype(np.int16)
    wave[starts[:-1]] = -100  # not silent
    arrays = {"wave": wave, "starts": starts.astype(np.int64)}
    arrays |= {k: np.asarray(values, np.int16) for k, (_, values) in labels.items()}
    for key, array in arrays.items():
        np.save(home / f"{key}.npy", array)
    facts = {
        "name": name,
        "rate": rate,
        "arrays": {k: list(a.shape) for k, a in arrays.items()},
        "files": [f"{name} {i}" for i in range(n)],
        "labels": {k: list(classes) for k, (classes, _) in labels.items()},
    }
    (home / "index.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("data")
    i = np.arange(240)
    names = lambda n: [f"person {k}" for k in range(n)]
    prepare(
        home,
        "fsdd",
        8000,
        {
            "speaker": (names(6), i % 6),
            "digit": ("0123456789", i % 10),
            "take": (list(map(str, range(20))), i // 12),
        },
        240,
    )
    prepare(
        home,
        "ravdess",
        16_000,
        {"speaker": (names(22), i[:220] % 22), "statement": ("ab", i[:220] % 2)},
        220,
    )
    subset = (i[:120] >= 40).astype(int)
    speaker = np.where(subset, i[:120], i[:120] % 5)
    prepare(
        home,
        "librispeech_sample",
        16_000,
        {"speaker": (names(120), speaker), "subset": (["test-other", "train-clean-100"], subset)},
        120,
    )
    part = np.repeat([0, 1, 2, 3], 20)
    prepare(
        home,
        "timit",
        16_000,
        {
            "speaker": (names(16), 4 * part + i[:80] % 4),
            "part": (["train", "dev", "test", "core"], part),
        },
        80,
    )
    for k, name in enumerate(PREPARED["librispeech_360"]):
        prepare(home, name, 16_000, {"speaker": (names(4), i[: 12 + k] % 4)}, 12 + k)
    return home


people = lambda part: set(part.labels["speaker"].tolist())


def test_a_prepared_set_is_opened_not_read(folder):
    opened = open_speech("ravdess", folder)
    assert (len(opened), opened.rate, opened.names[3]) == (220, 16_000, "ravdess 3")
    assert all(wave.dtype == torch.int16 and wave[5] == i for i, wave in enumerate(opened.waves))
    assert [len(wave) for wave in opened.waves[:3]] == [3000, 3010, 3020]
    assert opened.wave(7)[5] == 7 / 32768
    assert opened.classes["statement"] == ("a", "b")


@pytest.mark.parametrize("name", [n for n in CORPORA if PREPARED[n]])
def test_not_prepared_names_the_command(tmp_path, name):
    with pytest.raises(ValueError, match=f"prepare.py {PREPARED[name][0]}$"):
        load_speech(name, tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(
        ValueError, match="unknown set 'ravdes'; there are vowels, vowels_strings, fsdd"
    ):
        load_speech("ravdes")


@pytest.mark.parametrize("name", ["ravdess", "timit", "librispeech"])
def test_nobody_tests_who_was_trained_on(folder, name):
    train, val, test = load_speech(name, folder)
    assert not people(train) & people(test) and not people(val) & people(test)
    assert not people(train) & people(val)
    assert not set(train.names) & set(test.names)


def test_the_splits_are_the_stated_ones(folder):
    actors = load_speech("ravdess", folder)
    assert [sorted(people(part)) for part in actors] == [
        [*range(12)],
        [*range(12, 16)],
        [*range(16, 22)],
    ]
    assert people(final(actors).train) == set(range(16)) and final(actors).test is actors.test
    digits = load_speech("fsdd", folder)
    takes = [{int(part.classes["take"][t]) for t in part.labels["take"]} for part in digits]
    assert takes == [set(range(10, 20)), set(range(5, 10)), set(range(5))]
    assert all(people(part) == set(range(6)) for part in digits)
    sentences = load_speech("timit", folder)
    assert [sorted(people(part)) for part in sentences] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [12, 13, 14, 15],
    ]
    sample = load_speech("librispeech", folder)
    assert [len(part) for part in sample] == [54, 26, 40] and people(sample.test) == set(range(5))
    assert [len(part) for part in load_speech("librispeech_360", folder)] == [12, 13, 14]


def test_all_speech_has_one_rate_and_no_test_voice(folder):
    train, _, test = load_speech("speech", folder)
    parts = [load_speech(name, folder) for name in ("librispeech", "ravdess", "fsdd")]
    assert train.rate == 16_000 and len(train) == sum(len(part.train) for part in parts)
    assert train.names == sum((part.train.names for part in parts), ())
    assert test.names == parts[0].test.names
    twice = len(parts[2].train.waves[0]) * 2
    assert abs(len(train.waves[-len(parts[2].train)]) - twice) <= 1


def test_left_out(folder):
    digits = load_speech("fsdd", folder)
    fewer = without(digits, "person 2")
    assert people(fewer.train) == people(fewer.val) == {0, 1, 3, 4, 5}
    assert fewer.test is digits.test
    with pytest.raises(ValueError, match="no speaker 'ann'; there are person 0"):
        without(digits, "ann")


def test_splits_that_cannot_be():
    waves = [0.1 * torch.randn(2000) for _ in range(4)]
    who = {"speaker": torch.tensor([0, 1, 1, -1])}
    with pytest.raises(ValueError, match="do not say who speaks"):
        by_speaker(Recordings(waves, 16_000), 1, 1)
    with pytest.raises(ValueError, match="c has no speaker"):
        by_speaker(Recordings(waves, 16_000, ("x", "a", "b", "c"), who), 1, 1)
    with pytest.raises(ValueError, match="2 groups cannot be split"):
        by_speaker(Recordings(waves[:3], 16_000, labels={"speaker": who["speaker"][:3]}), 1, 1)


def test_together_keeps_what_is_shared():
    wave = [0.1 * torch.randn(2000)]
    one = Recordings(
        wave,
        16_000,
        ("a",),
        {"speaker": torch.tensor([0]), "x": torch.tensor([1])},
        {"speaker": ("p",), "x": ("u", "v")},
    )
    two = Recordings(
        wave,
        8_000,
        ("b",),
        {"speaker": torch.tensor([0]), "y": torch.tensor([1])},
        {"speaker": ("q",)},
    )
    both = together([one, two])
    assert both.names == ("a", "b") and both.labels == {} and abs(len(both.waves[1]) - 4000) <= 1
    assert set(together([one, one]).labels) == {"speaker", "x"}


def test_sizes_are_the_published_ones():
    count = lambda name: sum(p.numel() for p in build(PRESETS[name], (80,)).parameters())
    timit, books = PRESETS["timit"], PRESETS["librispeech_360"]
    assert (timit.s_dim, timit.d_dim, timit.hidden, timit.enc_width, timit.dec_width) == (
        32,
        4,
        128,
        512,
        1024,
    )
    assert (books.s_dim, books.d_dim, books.hidden, books.enc_width, books.dec_width) == (
        32,
        2,
        256,
        512,
        256,
    )
    assert (timit.config.lr, books.config.lr) == (1e-4, 1e-3)
    shrunk = ("vowels",)  # made up: its short training has a smaller network
    for name in (name for name in CORPORA if not name.endswith("_strings") and name not in shrunk):
        assert (
            count(name) == count(f"{name}_short") > count(f"{name}_narrow") > count(f"{name}_fast")
        )
    assert count("vowels") > count("vowels_short") > count("vowels_narrow") > count("vowels_fast")


# ---- verification


@pytest.fixture(scope="module")
def voices():
    return vowels(60, seed=1, speakers=5)


def test_verification_at_both_ends(voices):
    told = torch.nn.functional.one_hot(voices.labels["speaker"]).float()
    noise = torch.randn(60, 8)
    perfect = verify(Factors(told, noise), voices)
    assert perfect["percent"]["static"] == 0 and 40 < perfect["percent"]["dynamic"] < 60
    assert perfect["percent"]["gap"] == perfect["percent"]["dynamic"]
    assert (perfect.low <= perfect["percent"] + 1e-9).all() and (
        perfect["percent"] <= perfect.high + 1e-9
    ).all()
    upside_down = verify(Factors(noise, told), voices)
    assert upside_down["percent"]["gap"] == -perfect["percent"]["gap"]
    same = verify(Factors(noise, noise), voices)
    assert same.loc["gap"].tolist() == [0, 0, 0]


def test_recordings_of_unknown_voices_are_left_out(voices):
    labels = voices.labels["speaker"].clone()
    labels[::2] = -1
    half = Recordings(voices.waves, voices.rate, voices.names, {"speaker": labels})
    codes = Factors(torch.randn(60, 8), torch.randn(60, 2))
    known = voices[1::2]
    assert verify(codes, half).equals(verify(codes.map(lambda code: code[1::2]), known))


def test_one_speaker_only_is_refused(voices):
    alone = voices[(voices.labels["speaker"] == 0).nonzero()[:, 0]]
    with pytest.raises(ValueError, match="one owner only"):
        verify(Factors(torch.randn(len(alone), 4), torch.randn(len(alone), 4)), alone)


def test_leave_one_out_asks_about_that_voice_only(voices):
    who = voices.labels["speaker"]
    told = torch.nn.functional.one_hot(who).float()
    mixed = told.clone()
    mixed[who > 1] = torch.randn(int((who > 1).sum()), 5)  # others cannot be told apart
    mixed[who > 1, 0] = 0
    rates = verify_one(Factors(mixed, told), voices, voices.classes["speaker"][0])
    assert rates["percent"].tolist() == [0, 0, 0]
    assert verify(Factors(mixed, told), voices)["percent"]["static"] > 10


def test_rivals_go_through_the_same_door(voices):
    front = LogMel()
    chunks = Chunks(voices, front).fit_scale()
    rivals = (MeanFrames(chunks), MeanFrames(chunks, 13), Components(chunks, 32, 4))
    shapes = [((60, 80), (60, 80)), ((60, 13), (60, 13)), ((60, 32), (60, 4))]
    for rival, (s, d) in zip(rivals, shapes):
        codes = rival.encode(voices)
        assert tuple(codes.s.shape) == s and tuple(codes.d.shape) == d
        assert (
            torch.isfinite(codes.s).all() and 0 <= verify(codes, voices)["percent"]["static"] < 50
        )
    louder = Recordings([wave / 2 for wave in voices.waves], voices.rate)
    mfcc = rivals[1]
    more = MeanFrames(chunks, LogMel.features).encode(voices).s  # as many coefficients as bands
    assert torch.allclose(more[:, :13], mfcc.encode(voices).s, atol=1e-4)
    quiet, loud = mfcc.encode(louder).s, mfcc.encode(voices).s
    assert (quiet - loud).abs().mean() < 0.2 * loud.abs().mean()  # a cepstrum forgets loudness


def test_mean_codes_are_pooled_over_the_chunks_of_a_recording(voices):
    chunks = Chunks(voices, LogMel(), 0.3).fit_scale()
    torch.manual_seed(0)
    network = build(PRESETS["vowels_fast"], (80,))
    codes = MeanCodes(network, chunks)
    data = chunks[:]
    for weighted in (True, False):
        want = pooled(network.encode(data), data, chunks.owner, weighted)
        for a, b in zip(codes.encode(voices, weighted), want):
            assert torch.equal(a, b)
    assert not torch.equal(codes.encode(voices).s, codes.encode(voices, False).s)


def test_a_presets_windows_say_how_recordings_are_cut():
    assert voices_of(PRESETS["timit"]).V == 68  # the paper's
    strings = voices_of(PRESETS["fsdd_strings"], rate=8000)
    V, stride = PRESETS["fsdd_strings"].windows
    assert (strings.hop, strings.rate) == (256 * stride, 8000) and abs(strings.V - V) <= 1
    assert voices_of(PRESETS["timit"], 0.4).seconds == 0.4


# ---- results


def test_the_command_of_each_result_asks_for_that_result():
    root = Path(__file__).resolve().parent.parent
    notebook = root / "nbs" / "33_audio_experiments.ipynb"
    usual = {name: parameter.default for name, parameter in parameters_of(notebook).items()}
    for row in json.loads((root / "results" / "audio.json").read_text(encoding="utf-8")):
        data, *words = shlex.split(row["command"].removeprefix("diffsda run "))
        given = dict(zip(words[1::3], words[2::3]))  # -p name value
        given = {name: parse_value(value) for name, value in given.items()}
        check_parameters(notebook, given)
        asked = usual | given
        assert data == row["data"] and asked["fast"] is False and asked["training"] == row["kind"]
        own = RECIPES[asked["recipe"]]["d_noise"] if asked["d_noise"] < 0 else asked["d_noise"]
        assert asked["recipe"] == row["recipe"] and own == row["d_noise"], row
        preset = set_of(SETS, data).preset(row["kind"])
        length = voices_of(preset, asked["seconds"] or None, rate=16_000).seconds
        assert length == pytest.approx(row["seconds"]), row
        assert asked["d_dim"] in (0, row["d_dim"])
        assert asked["part"] == row["part"] or asked["held_out"]


def test_an_unknown_voice_is_nobody_in_a_comparison_of_one(voices):
    who = voices.labels["speaker"]
    told = torch.nn.functional.one_hot(who).float()
    unknown = replace(voices, labels={"speaker": torch.where(who == 1, -1, who)})
    told[who == 1] = told[who == 0][0]  # as the first, and nobody knows whose it is
    name = voices.classes["speaker"][0]
    assert verify_one(Factors(told, told), unknown, name)["percent"]["static"] == 0
    assert verify_one(Factors(told, told), voices, name)["percent"]["static"] > 10


def test_silent_recordings_of_a_prepared_set_are_left_out_and_named(tmp_path, capsys):
    prepare(tmp_path, "fsdd", 8000, {"speaker": (("a", "b"), [0, 1, 0, 1])}, 4)
    wave = np.load(tmp_path / "fsdd" / "wave.npy")
    wave[3000:6010] = 0
    np.save(tmp_path / "fsdd" / "wave.npy", wave)
    heard = open_speech("fsdd", tmp_path)
    assert heard.names == ("fsdd 0", "fsdd 2", "fsdd 3")
    assert heard.labels["speaker"].tolist() == [0, 0, 1]
    assert "1 of 4 recordings are silent or clipped and left out: fsdd 1" in capsys.readouterr().out


def test_a_rival_keeps_the_length_of_chunks(voices):
    chunks = Chunks(voices, LogMel(), 0.4).fit_scale()
    assert MeanFrames(chunks).settings["seconds"] == pytest.approx(0.4)
