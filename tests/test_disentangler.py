"""One class for all modalities: the same properties hold for every adapter, a home-made one included."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import hiss, noise_bytes, tone

from diffsda import disentangler
from diffsda.audio import Recordings, Voices
from diffsda.blocks import read_checkpoint, write_checkpoint
from diffsda.data import Sequences
from diffsda.disentangler import Adapter, Disentangler, Plain, in_pieces, keep_aside, told_by
from diffsda.encoder import Factors
from diffsda.explore import NamedFactors
from diffsda.model import DiffSDA
from diffsda.prior import Prior
from diffsda.sets import Preset
from diffsda.tables import Tables, example_table
from diffsda.training import TrainConfig
from diffsda.video import SMALL, Clips, Films

TINY = Preset(
    4, 2, 8, 16, 16, TrainConfig(6, 8, lr=1e-3, save_every=2), embedding=16, draws=1, levels=3
)  # fmt: skip
TINY_FILMS = replace(
    SMALL, s_dim=4, d_dim=2, hidden=8, enc_width=8, dec_width=8, embedding=16, levels=2,
    config=replace(TINY.config, steps=12, lr=0.03),  # what few steps change shows in bytes
)  # fmt: skip


@dataclass(frozen=True)
class Strokes(Adapter):
    "Pen strokes: points (T, 2) of a stroke become steps from one to the next, and back."

    V: int = 8

    preset = TINY
    index = ("stroke", "point")

    def pieces(self, things):  # one stroke, or a list of them
        alone = isinstance(things, np.ndarray)
        strokes = [things] if alone or not isinstance(things, list) else things
        for i, points in enumerate(strokes):
            if np.ndim(points) != 2 or np.shape(points)[1] != 2:
                raise ValueError(f"stroke {i} must be (T, 2) points, got {type(points).__name__}")
        steps = [np.diff(points, axis=0, prepend=np.zeros((1, 2))) for points in strokes]
        return in_pieces(steps, self.V, alone=alone)

    def things(self, frames, like):
        made = [steps.cumsum(0).numpy() for steps in frames]
        return made[0] if like.alone else made


def drawn(T, seed):
    g = np.random.default_rng(seed)
    return np.cumsum(g.normal(0, 1, (T, 2)) + g.normal(0, 1, 2), 0).astype(np.float32)


@dataclass(eq=False)
class Kind:
    "What a user of one modality holds."

    adapter: Adapter
    preset: Preset
    many: Any  # a collection to learn from
    one: Any  # its first thing, by itself
    other: Any  # its second one, which is of another length
    model: Disentangler | None = None


def hum(frames):
    "A vocoder that is quick: each frame a level."
    return (frames.mean(1) / 20).tanh().repeat_interleave(256)


def make(name):
    if name == "tables":
        table = example_table(days=4)
        station = lambda name: table[table["station"] == name]
        adapter = Tables(time="date", group="station", window=24, stride=12)
        table = table.drop(index=station("south").index[72:])
        return Kind(adapter, TINY, table, station("north"), station("south"))
    if name == "films":
        lengths = (12, 9, 11, 10)
        clips = Clips(
            noise_bytes(42, 3, 16, 16), np.append(0, np.cumsum(lengths)), tuple("abcd"), 12.5
        )
        return Kind(Films(size=None), TINY_FILMS, clips, clips.clip(0), clips.clip(1))
    if name == "voices":
        sound = lambda i: tone(0.5 + 0.2 * i, 200 * 2**i, 8000) + hiss(0.5 + 0.2 * i, i, 0.02, 8000)
        waves = [sound(i) for i in range(4)]
        return Kind(
            Voices(8000, 0.3, vocoder=hum), TINY, Recordings(waves, 8000, tuple("abcd")), *waves[:2]
        )
    if name == "plain":
        x = torch.randn(8, 9, 3, generator=torch.Generator().manual_seed(0)) * 3 + 5
        data = Sequences(x, torch.tensor([9, 7, 8, 6, 9, 7, 5, 9]))
        return Kind(Plain(), TINY, data, data[[0]], data[[1]])
    strokes = [drawn(20 - 3 * (i % 3), i) for i in range(6)]
    return Kind(Strokes(), TINY, strokes, strokes[0], strokes[1])


KINDS = ("tables", "films", "voices", "plain", "strokes")


def fit(kind, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disentangler, "PRIOR", TrainConfig(2, 4))
        options = {"progress": False, "held_out": 0.25} | options
        return Disentangler.fit(kind.many, kind.adapter, kind.preset, **options)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    made = make(request.param)
    made.model = fit(made, prior=True)
    return made


def values(thing) -> list:
    "The numbers of a thing or of several, an array for each."
    if isinstance(thing, pd.DataFrame):
        columns = thing.select_dtypes("number")
        return [columns.to_numpy()]
    if isinstance(thing, Clips):
        return [thing.clip(i) for i in range(len(thing))]
    if isinstance(thing, Recordings):
        return [wave.numpy() for wave in thing.waves]
    if isinstance(thing, Sequences):
        return [x[:length].numpy() for x, length in zip(thing.x, thing.lengths)]
    if isinstance(thing, list):
        return sum(map(values, thing), [])
    return [np.asarray(thing)]


def same(a, b) -> bool:
    return len(values(a)) == len(values(b)) and all(map(np.array_equal, values(a), values(b)))


def form(thing) -> tuple:
    "Everything of a thing but its numbers."
    shapes = type(thing), [(x.shape, x.dtype) for x in values(thing)]
    if isinstance(thing, pd.DataFrame):
        return (
            shapes[0],
            list(thing.columns),
            *(thing[k].astype(str).tolist() for k in ("station", "date")),
        )
    if isinstance(thing, Clips | Recordings):
        return *shapes, thing.names, thing.rate
    return shapes


# ---- pieces


def test_things_come_back_from_their_pieces(kind):
    for things in (kind.one, kind.many):
        pieces = kind.model.adapter.pieces(things)
        assert len(pieces) > len(pieces.names) or isinstance(things, Sequences)
        adapter = kind.model.adapter
        if isinstance(adapter, Voices):
            adapter = replace(adapter, vocoder=None)
        back = adapter.things(pieces.joined(pieces.data.x), pieces)
        assert form(back) == form(things)
        for came, went in zip(values(back), values(things)):
            if isinstance(kind.adapter, Voices):  # phases are guessed: the frames must be near
                a, b = (adapter.front(torch.as_tensor(x)).exp() for x in (came, went))
                assert (a - b).norm() < 0.35 * b.norm()
            else:
                there = np.isfinite(went)
                assert np.allclose(came[there], went[there], atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(0, 30), st.integers(0, 9))
def test_pieces_cover_every_frame_and_join_to_the_whole(lengths, V, seed):
    g = torch.Generator().manual_seed(seed)
    wholes = [torch.randn(T, 2, generator=g) for T in lengths]
    pieces = in_pieces(wholes, V)
    for whole, back in zip(wholes, pieces.joined(pieces.data.x)):
        assert torch.allclose(back, whole, atol=1e-5)
    longest = V or max(lengths)
    for thing, T in enumerate(lengths):
        own = pieces.owner == thing
        starts, ends = pieces.place[own], (pieces.place + pieces.lengths)[own]
        assert starts[0] == 0 and ends[-1] == T, "from the first frame to the last"
        assert (pieces.lengths[own] == min(longest, T)).all(), "none is padded that need not be"
        assert (starts.diff() <= max(1, longest // 2)).all(), (
            "each frame but the ends is seen twice"
        )
    again = pieces.cut(wholes)
    assert torch.equal(again, pieces.data.x)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 3))
def test_a_join_has_no_seam(k, half, more):
    V = 2 * half
    pieces = in_pieces([torch.zeros(V + k * half + min(more, half - 1), 1)], V)
    levels = torch.arange(len(pieces)).float()[:, None, None].expand(-1, V, 1)
    (whole,) = pieces.joined(levels)  # pieces disagree, and fade into each other
    steps = whole.diff(dim=0)
    assert (steps >= -1e-5).all() and whole[0] == 0
    assert abs(whole[-1] - (len(pieces) - 1)) < 1e-4
    if more == 0 or half == 1:  # the last piece lies half over the one before, as all others do
        assert steps.max() < 2 / half + 1e-5


# ---- codes


def test_a_thing_has_one_static_code_the_mean_over_its_frames(kind):
    model, pieces = kind.model, kind.model.adapter.pieces(kind.many)
    codes = model.network.encode(model.scale.apply(pieces.data))
    s, d = model.encode(kind.many)
    assert tuple(s.index) == pieces.names and s.shape[1] == 4 and d.shape[1] == 2
    for i, name in enumerate(pieces.names):
        own = pieces.owner == i
        mean = np.average(codes.s[own], 0, weights=pieces.lengths[own])
        assert np.allclose(s.iloc[i], mean, atol=1e-5)
        assert len(d.loc[name]) == len(pieces.times[i])
    alone = model.encode(kind.one)
    assert np.allclose(alone.s.iloc[0], s.iloc[0], atol=1e-5), "others have no part in it"
    assert np.allclose(alone.d, d.loc[pieces.names[0]], atol=1e-5)
    assert s.index.name == d.index.names[0] == kind.adapter.index[0]


# ---- what one does with them


def test_swap_with_itself_is_reconstruction(kind):
    for things in (kind.one, kind.many):
        made = kind.model.reconstruct(things, seed=3)
        assert form(made) == form(things)
        assert same(kind.model.swap(things, things, seed=3), made)
        assert not same(kind.model.reconstruct(things, seed=4), made)


def test_a_swap_has_length_rate_size_and_form_of_the_dynamic_one(kind):
    made = kind.model.swap(kind.one, kind.other)
    assert [x.shape for x in values(made)] == [x.shape for x in values(kind.other)]
    assert type(made) is type(kind.other)
    assert all(np.isfinite(x).all() for x in values(made))
    assert not same(made, kind.model.reconstruct(kind.other)), "s has an effect"
    assert form(kind.model.swap(kind.one, kind.many)) == form(kind.many)


def test_nothing_moved_is_reconstruction(kind):
    model, whole = kind.model, kind.model.reconstruct(kind.one)
    for code in ("s", "d"):
        there, still, back = model.walk(kind.one, 0, [-2, 0, 2], code)
        assert same(still, whole) and not same(there, back) and form(there) == form(kind.one)
    assert not same(*(model.walk(kind.one, i, [2])[0] for i in (0, 1)))
    start, middle, end = model.morph(kind.one, kind.other, [0, 0.5, 1])
    assert same(start, whole) and not same(middle, start) and not same(middle, end)
    assert same(end, model.swap(kind.other, kind.one))


def test_a_thing_is_nearest_to_itself(kind):
    names = kind.model.adapter.pieces(kind.many).names
    for code in ("s", "d"):
        found = kind.model.nearest(kind.one, kind.many, code)
        assert found.index[0] == names[0] and set(found.index) == set(names)
        assert found.iloc[0] < 1e-3 < found.iloc[1] and found.is_monotonic_increasing


def test_without_directions_things_are_measured_by_each_other():
    kind = make("plain")
    model = replace(fit(kind), directions=None)
    assert model.nearest(kind.one, kind.one).tolist() == [0]
    assert np.isclose(model.nearest(kind.one, kind.other), 2**0.5)


def test_a_prior_tells_a_model_of_no_lengths_how_long_its_samples_are():
    kind = make("plain")
    model = replace(fit(kind), lengths=None)
    model.fit_prior(kind.many, TrainConfig(2, 4), progress=False)
    assert set(model.sample(8).lengths.tolist()) <= set(kind.many.lengths.tolist())


def test_a_prior_that_could_not_be_trained_takes_the_place_of_none():
    kind = make("plain")
    model = fit(kind, prior=True)
    before = model.prior
    with pytest.raises(ValueError):
        model.fit_prior(kind.many, TrainConfig(2, 4, accumulate=8), progress=False)
    assert model.prior is before


def test_samples_are_as_long_as_pieces_and_need_a_prior(kind):
    model = kind.model
    made = model.sample(3, seed=1)
    assert type(made) is type(kind.many) and same(made, model.sample(3, seed=1))
    assert not same(made, model.sample(3, seed=2))
    assert all(np.isfinite(x).all() for x in values(made))
    if not isinstance(made, pd.DataFrame):
        assert len(values(made)) == 3
    if isinstance(made, Recordings | Clips):
        assert made.rate == kind.many.rate
    with pytest.raises(ValueError, match="no prior to sample from; call model.fit_prior"):
        replace(model, prior=None).sample()


def test_the_codes_and_the_frames_of_a_sample_come_from_noise_of_their_own(monkeypatch):
    model, seen = fit(make("plain"), prior=True), {}
    draw, decode = model.prior.sample, DiffSDA.decode

    def sample(n, lengths, generator):
        state = generator.get_state()
        numbers = torch.randn(10_000, generator=generator)
        generator.set_state(state)
        seen["prior"] = numbers
        return draw(n, lengths, generator=generator)

    def decoded(self, factors, x_T, **sampling):
        seen["x_T"] = x_T
        return decode(self, factors, x_T, **sampling)

    monkeypatch.setattr(Prior, "sample", lambda self, *rest, **options: sample(*rest, **options))
    monkeypatch.setattr(DiffSDA, "decode", decoded)
    model.sample(2, seed=3)
    assert not torch.isin(seen["x_T"], seen["prior"][: seen["x_T"].numel()]).any()


@pytest.mark.parametrize("name", ["plain"])
def test_what_cannot_be_asked(name):
    kind = make(name)
    model = fit(kind)
    for call, message in (
        (lambda: model.walk(kind.one, code="x"), "code must be 's' or 'd', got 'x'"),
        (lambda: model.nearest(kind.one, kind.many, "x"), "code must be 's' or 'd', got 'x'"),
        (lambda: model.walk(kind.one, 4), r"direction 4 does not exist; there are 0\.\.3"),
        (
            lambda: model.walk(kind.one, 2, code="d"),
            r"direction 2 does not exist; there are 0\.\.1",
        ),
        (lambda: model.morph(kind.many, kind.one), "one thing to another, got 8 and 1"),
        (lambda: model.nearest(kind.many, kind.many), "one thing, got 8"),
        (
            lambda: model.swap(kind.many, kind.one),
            "8 things to take s from and 1 .* do not pair up",
        ),
        (lambda: replace(model, directions=None).walk(kind.one), "no directions"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_things_of_another_modality_are_refused(kind):
    for name in KINDS:
        stranger = make(name)
        if type(stranger.adapter) is not type(kind.adapter):
            for thing in (stranger.one, stranger.many):
                with pytest.raises(ValueError):
                    kind.model.encode(thing)


def test_whoever_wants_no_bar_sees_none(two_models, impatient, tmp_path, capfd):
    kind, model = make("films"), replace(two_models[0])
    kind.many = replace(kind.many, frames=kind.many.frames.repeat(2, 2).repeat(2, 3))
    kind.adapter = replace(kind.adapter, size=16)  # frames are reduced first
    kind.preset = replace(kind.preset, config=TrainConfig(1, 4))
    things = make("plain").many
    quick = {"config": TrainConfig(1, 4), "progress": False}
    lessons = {"sampling": {"steps": 2}, "lessons": 3, "config": TrainConfig(1, 2)}
    fit(kind, prior=True, folder=tmp_path)
    model.fit_prior(things, **quick)
    model.distil(things, 1, **lessons, progress=False)
    assert capfd.readouterr().err == ""
    model.fit_prior(things, **quick | {"progress": True})  # bars are shown again
    model.distil(things, 1, **lessons)
    shown = capfd.readouterr().err
    assert all(bar in shown for bar in ("prior", "encode", "lessons", "student"))


# ---- kept in a folder


@pytest.fixture(scope="module")
def two_models():
    "Two models of other weights, scales and directions."
    kind = make("plain")
    other = replace(kind, many=kind.many[1:])
    return fit(kind, prior=True), fit(other, prior=True)


def test_what_is_saved_gives_the_same_bits(kind, tmp_path):
    kind.model.save(tmp_path)
    more = {"vocoder": hum} if isinstance(kind.adapter, Voices) else {}
    again = Disentangler.load(tmp_path, type(kind.adapter), **more)
    for call in (
        lambda model: model.swap(kind.one, kind.other, seed=1),
        lambda model: model.walk(kind.one, 1, [1], "d"),
        lambda model: model.sample(2, seed=5),
    ):
        assert same(call(again), call(kind.model))
    for a, b in zip(again.encode(kind.many), kind.model.encode(kind.many)):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert again.adapter == kind.model.adapter and again.sampling == kind.model.sampling
    assert again.nearest(kind.one, kind.many).equals(kind.model.nearest(kind.one, kind.many))
    pd.testing.assert_frame_equal(again.worth, kind.model.worth, check_exact=True)
    assert again.curve == kind.model.curve and len(again.curve) > 0
    for other in {Plain, Films} - {type(kind.adapter)}:
        with pytest.raises(
            ValueError, match=f"of {type(kind.adapter).__name__}, expected {other.__name__}"
        ):
            Disentangler.load(tmp_path, other)


def leaves(tree, path=()):
    "Where each number and word of a JSON tree stands."
    if isinstance(tree, dict | list):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, (*path, key))
    else:
        yield path, tree


def altered(tree, path, leaf):
    tree = json.loads(json.dumps(tree))
    branch = tree
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = leaf
    return tree


def test_an_altered_number_is_refused(kind, tmp_path):
    kind.model.save(tmp_path)
    files = sorted(tmp_path.glob("*.json"))
    whole = lambda folder: Disentangler.load(folder, type(kind.adapter))
    loaded = {"disentangler": whole, "model": DiffSDA.load, "prior": Prior.load}
    assert [file.stem for file in files] == list(loaded)
    for file in files:
        content = file.read_text()
        tree = json.loads(content)
        changes = 0
        for path, leaf in leaves(tree):
            if isinstance(leaf, int | float) and path != ("format",):
                file.write_text(
                    json.dumps(
                        altered(tree, path, (not leaf) if isinstance(leaf, bool) else leaf * 2 + 1)
                    )
                )
                with pytest.raises(ValueError, match=f"{file.name} was altered"):
                    loaded[file.stem](tmp_path)
                changes += 1
        assert changes > 0
        file.write_text(json.dumps(tree))  # laid out in another way, it says the same
        loaded[file.stem](tmp_path)


def test_a_folder_belongs_to_one_source(kind, tmp_path):
    kept = fit(kind, folder=tmp_path)
    again = fit(kind, folder=tmp_path)  # done already
    assert same(again.reconstruct(kind.one), kept.reconstruct(kind.one))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = replace(kind, adapter=Plain(), many=make("plain").many[1:], preset=TINY)
    with pytest.raises(ValueError, match="other data, or of another way to read them"):
        fit(other, folder=tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_prior_goes_when_another_model_is_saved_over_it(tmp_path):
    kind = make("plain")
    fit(kind, prior=True).save(tmp_path)
    fit(kind).save(tmp_path)
    assert Disentangler.load(tmp_path, Plain).prior is None


def save_as_before(model, folder):
    "As folders were written when each module had a file of its own, and nothing named them all."
    model.save(folder)
    facts, tensors = read_checkpoint(folder, "disentangler")
    own = {k: v for k, v in facts.items() if k not in ("modules", "weights")}
    write_checkpoint(folder, "disentangler", own, tensors)


class Killed(BaseException):
    """As good as a kill: nothing of ours catches it."""


def killed_at(moment, call):
    "Whether the process died: it does instead of its n-th change of a file, and changes nothing afterwards."
    made = []

    def deadly(change):
        def once(*args, **options):
            made.append(change)
            if len(made) >= moment:
                raise Killed
            return change(*args, **options)

        return once

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, deadly(getattr(owner, name)))
        try:
            call()
        except Killed:
            return True
    return False


@pytest.mark.parametrize(
    "before, priors",
    [
        (Disentangler.save, (True, False)),
        (Disentangler.save, (False, True)),
        (save_as_before, (True, True)),
    ],
)
def test_a_save_that_is_killed_never_mixes_two_models(
    two_models, tmp_path, before, priors, monkeypatch
):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # this is about the order, and quicker
    old, new = (m if p else replace(m, prior=None) for m, p in zip(two_models, priors))
    told = lambda model: [
        *model.network.state_dict().values(),
        *(model.prior.state_dict().values() if model.prior else ()),
        model.scale.mean,
        model.directions.s.axes,
    ]
    alike = lambda a, b: len(a) == len(b) and all(map(torch.equal, a, b))
    found, died, moment = set(), True, 0
    while died:
        moment += 1
        folder = tmp_path / str(moment)
        before(old, folder)
        died = killed_at(moment, lambda: new.save(folder))  # noqa: B023
        again = told(Disentangler.load(folder, Plain))
        which = [alike(again, told(model)) for model in (old, new)]
        assert any(which), f"killed at change {moment}: a mixture"
        assert not (found == {1} and which[0]), "it went back to the old one"
        found = {which.index(True)}
        alone = list(DiffSDA.load(folder).state_dict().values())
        assert any(alike(alone, list(m.network.state_dict().values())) for m in (old, new))
        new.save(folder)
        assert alike(told(Disentangler.load(folder, Plain)), told(new))
        kinds = ["disentangler", "model"] + ["prior"] * any(priors)
        assert len(list(folder.iterdir())) == 2 * len(kinds) + 1, "leftovers"  # and a lock
    assert found == {1} and moment > 12


def test_a_network_saved_alone_leaves_the_model_it_came_from(two_models, tmp_path):
    old, new = two_models
    old.save(tmp_path)
    new.network.save(tmp_path)
    same = lambda a, b: all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
    assert same(Disentangler.load(tmp_path, Plain).network, old.network)
    assert same(DiffSDA.load(tmp_path), new.network)


def test_whole_numbers_with_a_gap_are_classes():
    y, classes = disentangler._numbered([0.0, 2.0, float("nan"), 1.0])
    assert (y[:, 0].tolist(), classes) == ([0, 2, -1, 1], ("0", "1", "2"))
    assert disentangler._numbered([0.5, 2.0])[1] == ()


def test_names_are_looked_up_with_and_without_the_ending_of_a_file():
    told = told_by({"a.mp4": 1, "0": 2, "0.5": 3, "b": 4})
    assert list(map(told, ("a", "a.mp4", "0.5", "0", "1.5", "b.wav"))) == [1, 1, 3, 2, None, 4]
    told = told_by({"anna.walk": 1, "bert.walk": 2, "carl": 3, 4: 5})
    names = ("anna.walk", "anna", "anna.jump", "bert.jump", "carl.jump", "4")
    assert list(map(told, names)) == [1, 1, None, None, 3, 5]


def test_where_no_thing_can_spare_a_piece_whole_things_are_kept_aside():
    pieces = in_pieces([torch.randn(24, 2) for _ in range(10)], 16)
    first, aside = keep_aside(pieces, 0.2, whole=False)
    assert len(aside) == 4 and len(first) == 16
    assert not set(pieces.owner[first].tolist()) & set(pieces.owner[aside].tolist())
    with pytest.raises(ValueError, match="window=24"):
        keep_aside(in_pieces([torch.randn(24, 2)]), 0.2)
    with pytest.raises(ValueError, match="2 sequences are too few: 1 to train on, 1 to check with"):
        keep_aside(in_pieces([torch.randn(24, 2), torch.randn(24, 2)]), 0.2)


@pytest.mark.parametrize("things, kept", [(1, 0), (2, 1), (4, 3), (5, 4), (9, 4)])
def test_of_few_things_one_is_kept_aside_or_the_end_of_the_only_one(things, kept):
    pieces = in_pieces([torch.randn(80, 2) for _ in range(things)], 16)
    first, aside = keep_aside(pieces, 0.2)
    assert set(pieces.owner[aside].tolist()) == {kept} and not set(first) & set(aside)
    assert len(aside) == (2 if things == 1 else 9)
    assert len(first) == (6 if things == 1 else 9 * (things - 1))


def test_a_second_fit_keeps_what_was_made_of_the_first(tmp_path):
    kind = make("plain")
    again = lambda **options: fit(kind, folder=tmp_path, **options)
    first = again(prior=True)
    lessons = {"sampling": {"steps": 2}, "lessons": 3, "config": TrainConfig(1, 2)}
    taught = first.distil(kind.many, 1, **lessons)
    taught.named = NamedFactors({"hair": Factors(torch.eye(4), torch.zeros(2, 2))})
    taught.save(tmp_path)
    for prior in (False, True):
        kept = again(prior=prior)
        assert kept.network.student is not None and kept.prior is not None
        assert list(Disentangler.load(tmp_path, Plain).named.parts) == ["hair"]
    kind.preset = replace(TINY, config=replace(TINY.config, steps=TINY.config.steps + 1))
    with pytest.raises(ValueError, match="a student and named factors .* copy the folder"):
        again()
    first.save(tmp_path)  # without student and names
    longer = again(prior=True)  # and a prior of its own codes
    assert longer.curve[-1][0] == TINY.config.steps + 1
    assert len(list(tmp_path.glob("training_prior*"))) == 1
    assert not torch.equal(next(longer.prior.parameters()), next(first.prior.parameters()))


def test_a_fit_that_was_stopped_is_no_model_of_another(two_models, tmp_path):
    two_models[0].network.save(tmp_path)  # lay there before
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(disentangler, "fit_network", Mock(side_effect=Killed))
        fit(make("plain"), folder=tmp_path)
    with pytest.raises(ValueError, match="stopped before its end; call it again"):
        Disentangler.load(tmp_path, Plain)


def test_nothing_is_written_for_a_fit_that_cannot_be(kind, tmp_path):
    home = tmp_path / "m"
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="held_out"):
            fit(kind, folder=home, held_out=share)
    with pytest.raises(ValueError, match="too (few|little)"):
        fit(replace(kind, many=kind.other), folder=home, held_out=0.9)
    assert not home.exists()


@pytest.mark.parametrize("name", ["x.npz", "X.NPZ"])
def test_sequences_are_read_as_they_were_written(tmp_path, name):
    x = torch.randn(3, 5, 2)
    x[1, 2] = torch.nan  # a hole
    held = Sequences(x, torch.tensor([5, 5, 3]), x.isfinite())
    Plain().write(Plain().things([y[:n] for y, n in zip(x, held.lengths)], None), tmp_path / name)
    again = Plain().pieces(tmp_path / name).data
    assert torch.equal(again.x, held.x) and torch.equal(again.lengths, held.lengths)
    assert torch.equal(again.mask.expand_as(x), held.mask.expand_as(x))
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=f"{name} holds no sequences .*save x"):
        Plain().pieces(tmp_path / name)


def test_clips_of_another_rate_are_refused():
    slow = Clips(np.zeros((9, 3, 16, 16), np.uint8), [0, 9], rate=10.0)
    films, _ = Films(V=4, size=16).fitted(replace(slow, rate=25.0))
    with pytest.raises(ValueError, match="10 frames a second, the model was trained at 25"):
        films.pieces(slow)


def test_each_front_end_has_its_own_hop():
    assert Voices().front.hop == 256 and Voices(linear=True).front.hop == 165
    assert Voices(hop=512).front.hop == 512
