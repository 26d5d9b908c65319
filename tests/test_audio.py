"""From files to frames and back to sound: every kind of file, every kind of bad one, chunks, whole sentences, measures."""

import math
import re

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import RATE, tone
from makers import hiss as noise

from diffsda.audio import (
    Chunks,
    Recordings,
    Voices,
    pooled,
    read_recording,
    read_recordings,
    string_recordings,
)
from diffsda.data import Sequences
from diffsda.disentangler import Disentangler
from diffsda.encoder import Factors
from diffsda.sets import Preset, build
from diffsda.sound import (
    Linear,
    LogMel,
    hifigan,
    intelligibility,
    mel_cepstral_distortion,
    players,
    to_wave,
)
from diffsda.training import TrainConfig

FRONT = LogMel()


def recordings(*seconds):
    return Recordings([noise(n, i) for i, n in enumerate(seconds)], RATE)


# ---- files


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_any_kind_rate_and_channel_count(tmp_path, kind, rate, channels):
    wave = tone(0.5, rate=rate).numpy()
    soundfile.write(tmp_path / f"a.{kind}", np.stack([wave] * channels, 1), rate)
    read = read_recording(tmp_path / f"a.{kind}")
    assert read.ndim == 1 and read.dtype == torch.float32
    n = min(len(read), 8000)
    assert abs(n - 8000) < 2000  # mp3 pads
    spectrum = torch.fft.rfft(read[:n] * torch.hann_window(n)).abs()
    assert abs(spectrum.argmax() * RATE / n - 440) < 5


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_a_loud_lossy_file_is_brought_into_range(tmp_path, kind):
    wave = np.sign(tone().numpy() + 1e-9)  # of which a codec keeps no corner
    soundfile.write(tmp_path / f"a.{kind}", wave, RATE)
    decoded = torch.from_numpy(soundfile.read(tmp_path / f"a.{kind}", dtype="float32")[0])
    assert decoded.abs().max() > 1.1
    read = read_recording(tmp_path / f"a.{kind}", RATE)
    assert torch.allclose(read, decoded / decoded.abs().max(), atol=1e-6)


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone().numpy(), 0 * tone().numpy()], 1), RATE)
    assert torch.allclose(read_recording(tmp_path / "a.wav"), tone() / 2, atol=1e-4)


def test_a_folder_and_its_speakers(tmp_path):
    for name in ("b_2.wav", "a_1.wav", "a_2.flac"):
        soundfile.write(tmp_path / name, tone().numpy(), RATE)
    (tmp_path / "notes.txt").write_text("not sound")
    (tmp_path / "._a_1.wav").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside a file
    read = read_recordings(tmp_path, who=lambda path: path.stem[0])
    assert read.names == ("a_1.wav", "a_2.flac", "b_2.wav")
    assert read.labels["speaker"].tolist() == [0, 0, 1] and read.classes == {"speaker": ("a", "b")}
    with pytest.raises(ValueError, match=r"b_2\.wav: `who` names no speaker"):
        read_recordings(tmp_path, who=lambda path: "" if path.stem == "b_2" else "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no .wav"):
        read_recordings(tmp_path / "empty")


def test_recordings_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for folder in ("s2", "s1"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", tone().numpy(), RATE)
    assert read_recordings(tmp_path).names == ("s1/a.wav", "s2/a.wav")
    by_folder = read_recordings(tmp_path, who=lambda path: path.parent.name)
    assert by_folder.names == ("s1/a.wav", "s2/a.wav") and by_folder.classes["speaker"][1] == "s2"
    with pytest.raises(ValueError, match=r"two recordings are called a\.wav; rename"):
        read_recordings(tmp_path.glob("*/a.wav"))


def test_a_folder_shows_how_far_it_is_read(tmp_path, impatient, capfd):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone().numpy(), RATE)
    read_recordings(tmp_path)
    assert re.search(r"reading recordings.* 2/2", capfd.readouterr().err)


def broken(folder):
    good = (0.3 * tone()).numpy()
    write = lambda name, x, **kw: soundfile.write(folder / name, x, RATE, **kw)
    write("zero.wav", good[:0])
    write("silent.wav", 0 * good)
    write("nan.wav", np.where(np.arange(len(good)) == 7, np.nan, good), subtype="FLOAT")
    write("loud.wav", 20 * good, subtype="FLOAT")
    write("clipped.wav", np.clip(40 * good, -1, 1))
    write("whole.wav", good)
    write("whole.flac", good)
    for name in ("whole.wav", "whole.flac"):
        data = (folder / name).read_bytes()
        (folder / f"half-{name}").write_bytes(data[: len(data) // 2])
    (folder / "letter.wav").write_text("Dear reader")
    (folder / "notes.txt").write_text("not sound at all")
    header = bytearray((folder / "whole.wav").read_bytes())
    header[24:28] = (0).to_bytes(4, "little")
    (folder / "norate.wav").write_bytes(header)
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero.wav", "no samples"),
        ("silent.wav", "silent from end to end"),
        ("nan.wav", "sample 7 is nan"),
        ("loud.wav", r"expected -1..1; divide"),
        ("clipped.wav", r"is clipped: \d+%"),
        ("half-whole.wav", "is cut short"),
        ("half-whole.flac", "cut short|cannot be read"),
        ("letter.wav", "cannot be read as sound"),
        ("notes.txt", "cannot be read as sound"),
        ("norate.wav", "rate is 0|cannot be read"),
        ("missing.wav", "is not a file"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, name, reason):
    folder = broken(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ValueError, match=reason) as error:
        read_recording(folder / name)
    assert name in str(error.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before  # nothing is lost


@pytest.mark.parametrize("rate", [0, -1, 16_000.0, "fast", 10**9])
def test_odd_rates(rate):
    with pytest.raises(ValueError, match="rate must be in Hz"):
        Recordings([tone()], rate)


def test_labels_must_fit():
    two = [tone(), tone()]
    with pytest.raises(ValueError, match="must be 2 whole numbers"):
        Recordings(two, RATE, labels={"speaker": torch.tensor([0])})
    with pytest.raises(ValueError, match="b: speaker is 5, expected one of 2"):
        Recordings(
            two, RATE, ("a", "b"), {"speaker": torch.tensor([0, 5])}, {"speaker": ("x", "y")}
        )
    with pytest.raises(ValueError, match="as many names"):
        Recordings(two, RATE, ("a",))
    with pytest.raises(ValueError, match="label 'word' must be told of 2 recordings, got 1"):
        Recordings(two, RATE, dynamic={"word": [torch.zeros(RATE).long()]})


def test_labels_are_lists_arrays_or_tensors():
    y, at = torch.tensor([1, 0]), torch.arange(2)[:, None].expand(2, RATE)
    for kind in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.clone):
        two = Recordings([tone()] * 2, RATE, labels={"who": kind(y)}, dynamic={"word": kind(at)})
        data = Chunks(two, LogMel())[:]
        assert data.static["who"].tolist() == [1, 1, 0, 0]
        assert data.dynamic["word"][:, 0].tolist() == [0, 0, 1, 1]


def test_whole_numbers_of_32_bits_are_told_what_to_become():
    with pytest.raises(ValueError, match=r"got torch.int32 \(16000,\); make it floats in -1..1"):
        Recordings([(2**30 * tone()).int()], RATE)
    with pytest.raises(ValueError, match=r"\(2, 16000\); average the channels"):
        Recordings([torch.stack([tone()] * 2)], RATE)


def test_excerpts_pass_over_silent_and_clipped_passages():
    wave, third = noise(9.6), round(2.4 * RATE)
    wave[:third], wave[third : third + RATE // 4] = 0, 3 * torch.randn(RATE // 4).sign()
    talk = Recordings([wave.clamp(-1, 1)], RATE, ("talk",))
    found = Voices().excerpts(talk)
    assert [part.start for part in found] == ["4.8 s", "7.2 s"]
    for part in found:
        Voices().pieces(part.thing)


# ---- front ends


def test_the_paper_chunk_has_68_frames():
    assert FRONT(noise(0.8)).shape == (68, 80)
    assert Linear()(noise(0.8)).shape == (78, 201)


def by_hand(wave):
    """HiFi-GAN's frames from their definition, one frame at a time, on a wave at 22,050 Hz."""
    padded = torch.nn.functional.pad(wave[None], (384, 384), "reflect")[0]
    window = torch.hann_window(1024)
    slaney = lambda f: f / (200 / 3) if f < 1000 else 15 + math.log(f / 1000) / (math.log(6.4) / 27)
    back = lambda m: m * 200 / 3 if m < 15 else 1000 * math.exp((m - 15) * math.log(6.4) / 27)
    edges = [back(m) for m in np.linspace(0, slaney(8000), 82)]
    grid = np.linspace(0, 11_025, 513)
    bank = np.array(
        [
            np.clip(np.minimum((grid - a) / (b - a), (c - grid) / (c - b)), 0, None) * 2 / (c - a)
            for a, b, c in zip(edges, edges[1:], edges[2:])
        ]
    )
    frames = []
    for start in range(0, len(padded) - 1023, 256):
        spectrum = torch.fft.rfft(padded[start : start + 1024] * window)
        strength = (spectrum.abs() ** 2 + 1e-9).sqrt()
        frames.append((torch.as_tensor(bank).float() @ strength).clamp(min=1e-5).log())
    return torch.stack(frames)


def test_log_mel_is_what_its_definition_says():
    front = LogMel(22_050)  # no resampling
    wave = 0.2 * torch.randn(12_000, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(front(wave), by_hand(wave), atol=2e-3)


def test_frames_do_not_depend_on_their_neighbours_in_the_batch():
    waves = torch.stack([noise(0.8, i) for i in range(3)])
    assert torch.allclose(FRONT(waves)[2], FRONT(waves[2]), atol=1e-5)
    assert torch.allclose(FRONT(waves[None])[0], FRONT(waves), atol=1e-5)


@pytest.mark.parametrize("front", [LogMel(), Linear()], ids=["mel", "linear"])
def test_sound_of_frames_has_nearly_those_frames(front):
    wave = sum(tone(1.0, 220.0 * k, gain=0.1 / k) for k in range(1, 8))
    made = to_wave(front(wave), front, iterations=60)
    assert made.abs().max() <= 1
    again = type(front)(front.sound_rate)(made)
    n = min(len(again), len(front(wave)))
    strong = front(wave)[:n] > front(wave).quantile(0.7)
    a, b = (x[:n] if front.features == 201 else x[:n].exp() for x in (again, front(wave)))
    assert ((a - b)[strong].norm() / b[strong].norm()) < 0.13  # 0.18 with another window
    assert torch.equal(made, to_wave(front(wave), front, iterations=60))


def test_any_callable_is_a_vocoder():
    seen = []
    to_wave(FRONT(noise(0.8)), FRONT, vocoder=lambda x: seen.append(x.shape) or np.zeros(100))
    assert seen == [(68, 80)]
    with pytest.raises(ValueError, match=r"\(V, 80\), got \(68, 40\)"):
        to_wave(torch.zeros(68, 40), FRONT)


def test_weights_of_a_vocoder_from_the_library(tmp_path):
    transformers = pytest.importorskip("transformers")
    make = lambda rates: transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(
            upsample_initial_channel=8,
            upsample_rates=rates,
            upsample_kernel_sizes=[2 * r for r in rates],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
        )
    )
    make([8, 8, 4]).save_pretrained(tmp_path / "right")
    assert len(to_wave(FRONT(noise(0.8)), FRONT, hifigan(tmp_path / "right"))) == 68 * 256
    make([4, 4, 4]).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="64 samples a frame, expected 80 and 256"):
        hifigan(tmp_path / "other")
    with pytest.raises(ValueError, match="no vocoder"):
        hifigan(tmp_path)


# ---- chunks


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.12, 3.0), min_size=1, max_size=4), st.floats(0.2, 1.0))
def test_chunks_hold_every_sample_but_short_tails(seconds, chunk):
    some = recordings(*seconds, 3.2)
    chunks = Chunks(some, FRONT, chunk)
    held = torch.zeros(len(some)).index_add(0, chunks.owner, chunks.held.float())
    lost = torch.tensor([len(w) for w in some.waves]) - held
    assert (lost >= 0).all() and (lost < 0.1 * RATE + 1).all()
    assert chunks.owner.unique().tolist() == list(range(len(some)))
    data = chunks[:]
    assert len(data) == len(chunks) and data.x.shape[1] == chunks.frames
    assert (data.lengths >= 1).all()


def test_chunks_are_computed_when_asked_for_and_scaled_exactly():
    some = recordings(2.0, 1.3)
    chunks = Chunks(some, FRONT).fit_scale()
    data = chunks[:]
    for i in range(len(chunks)):
        assert torch.allclose(chunks[[i]].x[0], data.x[i], atol=1e-5)
    assert abs(data.x[data.frame_mask].std() - 0.5) < 0.01
    raw = Chunks(some, FRONT)[:]
    exists = data.frame_mask
    assert torch.allclose(chunks.scale.undo(data.x)[exists], raw.x[exists], atol=1e-4)


def test_int16_and_float_waves_are_the_same_sound():
    wave = tone(1.0)
    coded = (wave * 32768).round().to(torch.int16)
    a, b = (Chunks(Recordings([w], RATE), FRONT)[:].x for w in (wave, coded))
    loud = a > -5
    assert (a - b)[loud].abs().max() < 0.02


def test_what_cannot_be_cut():
    with pytest.raises(
        ValueError, match=r"chunks of 4 s are longer than the longest.*recording 1 with 2\.00 s"
    ):
        Chunks(recordings(1.0, 2.0), FRONT, 4.0)
    with pytest.raises(ValueError, match=r"recording 1 lasts 0\.050 s, expected at least 0\.1"):
        Chunks(recordings(1.0, 0.05), FRONT)
    with pytest.raises(ValueError, match="front end is for 8000 Hz"):
        Chunks(recordings(1.0), LogMel(8000))


@pytest.mark.parametrize("seconds", [0.01, 0.0, -1.0, math.nan])
def test_chunks_too_short_for_a_frame_are_refused(seconds):
    with pytest.raises(ValueError, match=f"at least 0.1 s, got seconds={seconds:g}"):
        Voices(seconds=seconds).training(recordings(1.0))


# ---- a model that hears


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    voices = Voices()
    scale = Chunks(recordings(2.0, 3.0), voices.front).fit_scale().scale
    preset = Preset(8, 2, 16, 32, 32, TrainConfig(1, 1), embedding=64)
    return Disentangler(build(preset, (80,)), scale, voices)


def test_codes_of_recordings_are_weighted_means(model):
    some = recordings(1.2, 0.8)
    chunks = Chunks(some, model.adapter.front, scale=model.scale)
    data = chunks[:]
    assert chunks.owner.tolist() == [0, 0, 1] and data.lengths.tolist() == [68, 34, 68]
    factors = model.network.encode(data)
    codes = pooled(factors, data, chunks.owner)
    assert torch.allclose(codes.s[0], (68 * factors.s[0] + 34 * factors.s[1]) / 102, atol=1e-5)
    frames = torch.cat([factors.d[0], factors.d[1, :34]])
    assert torch.allclose(codes.d[0], frames.mean(0), atol=1e-5)
    # the same codes, the short chunk like the full
    published = pooled(factors, data, chunks.owner, weighted=False)
    assert torch.allclose(published.s[0], factors.s[:2].mean(0), atol=1e-5)
    means = torch.stack([factors.d[0].mean(0), factors.d[1, :34].mean(0)])
    assert torch.allclose(published.d[0], means.mean(0), atol=1e-5)
    assert not torch.allclose(published.s[0], codes.s[0], atol=1e-4)
    assert not torch.allclose(published.d[0], codes.d[0], atol=1e-4)
    for a, b in zip(published, codes):  # where no chunk is short, the two agree
        assert torch.allclose(a[1], b[1], atol=1e-5)


def test_pooling_forgets_frames_that_do_not_exist():
    d = torch.ones(1, 4, 1)
    d[0, 2:] = 99
    data = Sequences(torch.randn(1, 4, 3), torch.tensor([2]))
    for weighted in (True, False):
        whole = pooled(Factors(torch.ones(1, 1), d), data, torch.tensor([0]), weighted)
        assert whole.d.item() == 1


def test_whole_sentences(model):
    a, b = noise(2.3, 8), noise(1.1, 9)
    swapped = model.swap(a, b, steps=2)
    assert swapped.shape == b.shape and torch.isfinite(swapped).all()
    assert torch.equal(swapped, model.swap(a, b, steps=2))
    assert not torch.equal(swapped, model.swap(b, b, steps=2))
    short = model.swap(a, noise(0.3, 1), steps=2)  # shorter than a piece
    assert len(short) == len(noise(0.3, 1))


def test_arrays_and_double_precision_are_heard_as_tensors_are(model):
    wave = noise(1.0, 8)
    double = wave.numpy().astype(np.float64)
    double.setflags(write=False)
    some = Recordings([double, double[::-1], wave.double(), wave.tolist()], RATE)
    assert all(isinstance(y, torch.Tensor) and y.dtype == torch.float32 for y in some.waves)
    assert torch.equal(some.waves[0], wave) and torch.equal(some.waves[1], wave.flip(0))
    codes = model.codes(some)[0].s
    for one in (wave, double, wave.double()):
        assert torch.allclose(model.codes(one)[0].s, codes[:1], atol=1e-5)
    held = torch.zeros(5, dtype=torch.int16)
    held[1] = 7
    assert Recordings([held], RATE).waves[0] is held  # as of a file that is mapped
    with pytest.raises(ValueError, match="one row of int16 or float numbers, got torch.int64"):
        Recordings([np.arange(9)], RATE)


def test_any_vocoder_makes_the_sound(model, tmp_path):
    seen = []
    flat = lambda frames: seen.append(tuple(frames.shape)) or torch.full((len(frames) * 256,), 0.5)
    model.save(tmp_path)
    again = Disentangler.load(tmp_path, Voices, vocoder=flat)
    made = again.reconstruct(noise(1.0), steps=2)
    assert seen == [(len(FRONT(noise(1.0))), 80)] and abs(made[8000] - 0.5) < 0.01
    assert torch.equal(again.codes(noise(1.0))[0].s, model.codes(noise(1.0))[0].s)


# ---- measures, players


def test_distortion_is_a_distance_of_shapes_in_decibels():
    x = torch.randn(5, 80)
    assert mel_cepstral_distortion(x, x + 3).max() < 1e-4
    wave = torch.cos(math.pi * 5 * (torch.arange(80) + 0.5) / 80)
    in_db = wave * math.log(10) / 20
    assert torch.allclose(
        mel_cepstral_distortion(x, x + in_db), torch.full((5,), 0.5**0.5), atol=1e-3
    )
    fine = torch.cos(math.pi * 30 * (torch.arange(80) + 0.5) / 80)  # beyond the 13th
    assert mel_cepstral_distortion(x, x + fine).max() < 1e-4


def test_intelligibility_at_both_ends():
    voice = noise(2.0) * (1 + torch.sin(2 * math.pi * 4 * torch.arange(32_000) / RATE))
    assert intelligibility(voice, 0.5 * voice, RATE) > 0.99
    assert intelligibility(voice, noise(2.0, 5), RATE) < 0.4
    assert math.isnan(intelligibility(voice[:800], voice[:800], RATE))  # too short to say


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050])
def test_players_carry_their_sound(rate):
    page = players({"a <b>": tone(0.5, rate=rate), "c": tone(0.5, rate=rate)}, rate).data
    assert page.count("<audio controls") == 2 and "a &lt;b&gt;" in page and "http" not in page
    assert len(re.findall(r"base64,([A-Za-z0-9+/=]{500,})", page)) == 2


# Strings of recordings


def test_labels_of_a_string_follow_its_frames():
    takes = Recordings(
        [0.3 * torch.sin(torch.arange(n) / 9.0) for n in (4000, 6000, 5000)],
        16_000,
        labels={"speaker": torch.tensor([0, 0, 1]), "digit": torch.tensor([7, 2, 5])},
        classes={"speaker": ("a", "b"), "digit": tuple("0123456789")},
    )
    strings = string_recordings(takes, ("digit",), n=3, pieces=2)
    assert list(strings.labels) == ["speaker"] and (strings.labels["speaker"] == 0).all()
    data = Chunks(strings, LogMel(16_000), seconds=0.625)[:]  # as long as both takes
    assert list(data.static) == ["speaker"] and data.dynamic["digit"].shape == data.x.shape[:2]
    for row in data.dynamic["digit"]:
        first = row[0].item()
        length = {7: 4000, 2: 6000}[first] / 10_000
        change = (row != first).float().argmax().item() / len(row)
        assert abs(change - length) < 1 / len(row) and set(row.tolist()) == {7, 2}


def test_strings_of_unknown_labels_are_refused():
    takes = Recordings([torch.linspace(-0.5, 0.5, 900)] * 2, 8000)
    with pytest.raises(ValueError, match="no label 'speaker'"):
        string_recordings(takes, (), n=1)


def test_labels_that_change_must_be_as_long_as_their_wave():
    with pytest.raises(ValueError, match="each of 900 samples"):
        Recordings(
            [torch.linspace(-0.5, 0.5, 900)], 8000, dynamic={"digit": [torch.zeros(3).long()]}
        )


def test_a_chunk_reads_its_part_of_a_recording_only(monkeypatch):
    asked, wave = [], Recordings.wave
    long = Recordings([tone(6.0)], RATE)
    chunks = Chunks(long, LogMel(), 0.8)
    told = lambda self, i, start=0, stop=None: (
        asked.append((start, stop)) or wave(self, i, start, stop)
    )
    monkeypatch.setattr(Recordings, "wave", told)
    chunks[2:4]
    samples = round(0.8 * RATE)
    assert asked == [(2 * samples, 3 * samples), (3 * samples, 4 * samples)]


def test_a_scale_is_measured_on_as_many_chunks_as_asked_for_at_most(monkeypatch):
    chunks = Chunks(Recordings([tone(6.0)], RATE), LogMel(), 0.8)
    seen, take = [], Chunks.__getitem__
    monkeypatch.setattr(
        Chunks, "__getitem__", lambda self, rows: seen.append(rows) or take(self, rows)
    )
    chunks.fit_scale(most=5)
    assert len(range(len(chunks))[seen[0]]) <= 5


def test_picking_recordings_does_not_read_them_again(monkeypatch):
    two = Recordings([tone(1.0), tone(1.0, 300)], RATE, labels={"who": torch.tensor([0, 1])})
    monkeypatch.setattr("diffsda.audio.check_wave", lambda wave, name: 1 / 0)
    assert two[[1]].names == ("recording 1",) and two[1:].labels["who"].tolist() == [1]
    with pytest.raises(ValueError, match="rows pick no recording"):
        two[[]]
