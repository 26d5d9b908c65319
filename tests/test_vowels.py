"""The synthesiser says what its labels say: pitch, length of the vocal tract, vowels and when they are heard."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz

from diffsda.vowels import (
    BANDWIDTHS,
    FORMANTS,
    RHYTHMS,
    TRACT,
    VOWELS,
    WORDS,
    Script,
    Voice,
    draw_script,
    formant_tracks,
    glottal_flow,
    play,
    resonate,
    voices,
    vowels,
)

RATE = 16000


def script(words, rhythm="even", seconds=1.2):
    n = len(words)
    return Script(
        np.arange(n),
        np.array([WORDS.index(word) for word in words]),
        np.full(n, list(RHYTHMS).index(rhythm)),
        np.full(n, seconds),
    )


def cycles_per_second(wave):
    """The highest peak of the autocorrelation between 60 and 300 Hz, over pieces of 64 ms; the mean of its logarithm."""
    pieces = wave.double().unfold(0, 1024, 512)[2:-3]
    spectrum = torch.fft.rfft(pieces * torch.hann_window(1024), 4096)
    ours = torch.fft.irfft(spectrum.abs() ** 2)
    window = torch.fft.irfft(torch.fft.rfft(torch.hann_window(1024).double(), 4096).abs() ** 2)
    likeness = (ours / window)[:, RATE // 300 : RATE // 60]
    enough = likeness > 0.9 * likeness.amax(1, keepdim=True)
    first = enough.float().argmax(1)  # not two cycles later
    near = torch.arange(likeness.shape[1]) - first[:, None]
    lag = likeness.masked_fill((near < 0) | (near > 10), -1).argmax(1) + RATE // 300
    return (RATE / lag).log().mean().exp().item()


def resonances(wave, start, stop):
    """The sharp poles (Hz) of the filter of order 16 that predicts a piece best."""
    x = np.diff(wave.numpy()[int(start * RATE) : int(stop * RATE)])
    x = x * np.hamming(len(x))
    r = np.array([x[: len(x) - k] @ x[k:] for k in range(17)])
    roots = np.roots([1, *-solve_toeplitz(r[:-1], r[1:])])
    return np.sort(np.angle(roots[(roots.imag > 0) & (abs(roots) > 0.9)])) / (2 * np.pi) * RATE


@pytest.mark.parametrize("pitch", [95, 130, 170, 215])
@pytest.mark.parametrize("word", ["aei", "oua"])
def test_pitch_is_the_speakers(pitch, word):
    (wave,) = play(script([word]), [Voice(pitch, 16.0, 0.03)])
    assert cycles_per_second(wave) == pytest.approx(pitch, rel=0.03)


@pytest.mark.parametrize("word", ["aei", "eio", "oua"])
@pytest.mark.parametrize("tract", [13.5, 15.5, 18.0])
def test_formants_scale_with_the_tract(word, tract):
    (wave,) = play(script([word]), [Voice(90, tract, 0.02)])
    found = resonances(wave, 0.1, 0.34)
    for formant in FORMANTS[word[0]][:3]:
        assert abs(found / (formant * TRACT / tract) - 1).min() < 0.1


def test_resonances_ring_where_they_are_told():
    click = np.zeros((RATE, 5))
    click[0] = 1
    told = np.array(list(FORMANTS.values()), float).T
    tracks = np.broadcast_to(told, (1001, 5, 5))
    gain = np.abs(np.fft.rfft(resonate(click, tracks, RATE), axis=0))  # one Hz per entry
    exact = np.ones(RATE // 2 + 1)
    f = np.arange(RATE // 2 + 1) / RATE
    for v in range(5):
        exact = np.ones(len(f), complex)
        for formant, width in zip(told[:, v], BANDWIDTHS):
            pole = np.exp((-np.pi * width + 2j * np.pi * formant) / RATE)
            z = np.exp(-2j * np.pi * f)
            exact *= abs(1 - pole) ** 2 / ((1 - pole * z) * (1 - pole.conj() * z))
        assert np.allclose(gain[:, v], abs(exact), rtol=1e-6, atol=1e-9)


def test_recordings_do_not_hear_each_other():
    two = script(["aei", "oua"])
    tracks = formant_tracks(two, np.array([14.0, 17.0]), np.arange(301) / 1000)
    source = np.random.default_rng(0).standard_normal((4800, 2))
    both = resonate(source, tracks, RATE)
    for i in range(2):
        alone = resonate(source[:, i : i + 1], tracks[..., i : i + 1], RATE)
        assert np.allclose(both[:, i : i + 1], alone)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1000))
def test_flow_repeats_and_stays_in_range(phase):
    a, b = glottal_flow(np.array([phase])), glottal_flow(np.array([phase + 1]))
    assert 0 <= a[0] <= 1 and np.allclose(a, b, atol=1e-9)
    assert glottal_flow(np.array([0.6 + np.floor(phase)]))[0] == pytest.approx(0, abs=1e-12)


def test_same_seed_same_samples():
    data, again, other = vowels(5, seed=3), vowels(5, seed=3), vowels(5, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(data.waves, again.waves))
    assert all(torch.equal(data.labels[k], again.labels[k]) for k in data.labels)
    assert not any(len(a) == len(b) and torch.equal(a, b) for a, b in zip(data.waves, other.waves))


def test_waves_are_sound():
    data = vowels(130, speakers=40, seconds=(0.3, 0.6))  # more than are played at once
    assert data.rate == RATE and len(data.waves) == 130
    for wave in data.waves:
        assert wave.dtype == torch.float32 and wave.ndim == 1 and torch.isfinite(wave).all()
        assert 0.4 < wave.abs().max() < 1
        assert max(wave[:16].abs().max(), wave[-16:].abs().max()) < 0.02  # faded at both ends


def test_labels_are_those_of_the_script():
    data, drawn = vowels(60, seed=5, speakers=6), draw_script(60, seed=5, speakers=6)
    for name, classes in (("speaker", 6), ("word", 10), ("rhythm", 3)):
        y = data.labels[name]
        assert torch.equal(y, torch.from_numpy(getattr(drawn, name)))
        assert y.dtype == torch.int64 and len(data.classes[name]) == classes
        assert y.bincount(minlength=classes).tolist() == [60 // classes] * classes
    assert [len(w) for w in data.waves] == [round(s * RATE) for s in drawn.seconds]
    assert 0.8 <= drawn.seconds.min() and drawn.seconds.max() <= 1.7


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 9))
def test_each_vowel_is_labelled_while_it_lasts(n, seed):
    drawn = draw_script(n, seed)
    times = np.arange(200) / 100
    y = drawn.vowel_at(times)
    assert y.shape == (n, 200)
    assert ((y == -1) == (times >= drawn.seconds[:, None])).all()
    for i, row in enumerate(y):
        said = [v for k, v in enumerate(row) if v >= 0 and (k == 0 or v != row[k - 1])]
        assert "".join(VOWELS[v] for v in said) == WORDS[drawn.word[i]]
        shares = np.array(list(RHYTHMS.values()))[drawn.rhythm[i]]
        held = np.array([(row == v).sum() for v in said]) / 100
        assert np.allclose(held, drawn.seconds[i] * shares / shares.sum(), atol=0.011)


def test_formants_are_the_labelled_vowels_away_from_the_joints():
    drawn = draw_script(20)
    times = np.arange(0, 0.8, 0.01)
    tracks = formant_tracks(drawn, np.full(20, TRACT), times)  # (V, 5, n)
    far = (abs(times[:, None, None] - drawn.ends[:, :2]) > 0.0501).all(-1)
    want = np.array(list(FORMANTS.values()))[drawn.vowel_at(times)]  # (n, V, 5)
    assert far.mean() > 0.5
    assert np.allclose(tracks.transpose(2, 0, 1)[far.T], want[far.T])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
def test_more_voices_leave_the_first_ones_alone(few, more, seed):
    cast = voices(few + more, seed)
    assert cast[:few] == voices(few, seed)
    for voice in cast:
        assert (
            90 <= voice.pitch <= 225 and 13.5 <= voice.tract <= 18 and 0.02 <= voice.breath <= 0.2
        )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [6, 12, 24])
def test_neighbours_are_clearly_different(count, seed):
    u = np.array(
        [(np.log(v.pitch / 90) / np.log(2.5), (18 - v.tract) / 4.5) for v in voices(count, seed)]
    )
    apart = np.hypot(*(u[:, None] - u).T)[np.triu_indices(count, 1)]
    assert apart.min() > 0.5 / count**0.5  # half of what a square grid has


def test_who_speaks_does_not_depend_on_the_seed():
    a, b = (vowels(24, seed=seed, speakers=2) for seed in (0, 1))
    for who, voice in enumerate(voices(2)):
        for data in (a, b):
            i = int((data.labels["speaker"] == who).nonzero()[0])
            assert cycles_per_second(data.waves[i]) == pytest.approx(voice.pitch, rel=0.05)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"n": 0}, "n must"),
        ({"n": 2.0}, "n must"),
        ({"speakers": 0}, "speakers must"),
        ({"speakers": True}, "speakers must"),
        ({"rate": 8000}, "rate must"),
        ({"rate": 16000.0}, "rate must"),
        ({"seconds": (0.1, 1.0)}, "seconds must"),
        ({"seconds": (1.0, 0.8)}, "seconds must"),
        ({"seconds": (float("nan"), 1.0)}, "seconds must"),
    ],
)
def test_bad_sizes_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        vowels(**{"n": 2, **arguments})


def test_a_script_needs_a_voice_for_everybody():
    with pytest.raises(ValueError, match="voices"):
        play(script(["aei", "oua"]), voices(1))
    with pytest.raises(ValueError, match="voices must"):
        voices(0)
    assert len(play(replace(script(["aei", "oua"]), speaker=np.array([0, 0])), voices(1))) == 2


@pytest.mark.parametrize("rate", [22050, 44100])
def test_pitch_and_length_hold_at_other_rates(rate):
    (wave,) = play(script(["aei"]), [Voice(120, 16, 0.02)], rate)
    assert len(wave) == round(1.2 * rate)
    at_ours = torch.nn.functional.interpolate(wave[None, None], 19200, mode="linear")[0, 0]
    assert cycles_per_second(at_ours) == pytest.approx(120, rel=0.03)
