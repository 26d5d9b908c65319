"""Splits by name, the paper's sizes, and training in one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda import scenes
from diffsda.disentangler import Disentangler
from diffsda.scenes import PRESETS, films_of, load_scenes
from diffsda.sets import build, by_group
from diffsda.training import TrainConfig
from diffsda.video import SMALL, Clips
from diffsda.video_latents import small_stage

QUICK = replace(SMALL, config=TrainConfig(2, 8))
FOUR = replace(SMALL, windows=(4, 1))  # windows of four frames
FRAMES = {"digits": (3, 32, 32), "voxceleb": (4, 32, 32), "celebvhq": (4, 32, 32)}


def prepared(folder, name, groups, labels, V=12, side=8):
    "A prepared set of noise: a clip for each group, its labels as given."
    home = folder / name
    home.mkdir(parents=True)
    R, rng = len(groups), np.random.default_rng(0)
    arrays = {
        "frames": rng.integers(0, 256, (R * V, 3, side, side), dtype=np.uint8),
        "starts": np.arange(0, R * V + 1, V),
    }
    classes = {}
    for label, values in labels.items():
        classes[label] = sorted(set(values))
        arrays[label] = np.array([classes[label].index(v) for v in values], np.int16)
    for key, array in arrays.items():
        np.save(home / f"{key}.npy", array)
    facts = {
        "arrays": {k: list(v.shape) for k, v in arrays.items()},
        "rate": 25.0,
        "files": list(groups),
        "labels": classes,
        "dynamic": [],
    }
    (home / "index.json").write_text(json.dumps(facts))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=80).filter(lambda g: len(set(g)) > 2))
def test_groups_are_never_divided(groups):
    names = [f"person {g}" for g in groups]
    parts = by_group(names)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(names)))
    held = [{names[i] for i in part} for part in parts]
    assert all(held) and not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])


def test_order_does_not_matter():
    names = [f"clip {i}" for i in range(60)]
    shuffled = np.random.default_rng(0).permutation(names)
    for a, b in zip(by_group(names), by_group(shuffled)):
        assert set(np.array(names)[a]) == set(shuffled[b])
    assert len(by_group(names)[2]) == 12 and len(by_group(names)[1]) == 3


def test_too_few_groups():
    with pytest.raises(ValueError, match="2 groups cannot be split"):
        by_group(["a", "b", "a"])


def test_looks_of_test_clips_were_never_trained_on(tmp_path):
    chars = [f"{i // 3}" for i in range(60)]
    prepared(tmp_path, "sprites", [f"c{i}" for i in range(60)], {"char": chars})
    parts = load_scenes("sprites", FOUR, tmp_path)
    held = [set(np.array(chars)[np.unique(part.owner)]) for part in parts]
    assert not held[0] & held[2] and not held[1] & held[2] and len(held[2]) == 4
    assert parts.test.scale is parts.train.scale
    assert len(parts.test) == 12 * 3 and len(parts.train) > 9 * len(held[0])  # side by side; all


def test_who_is_seen_is_no_label_where_there_are_others(tmp_path):
    "Nobody in the test part was seen in training, so no judge and no probe could ever be right about them."
    names, chars = [f"c{i}" for i in range(60)], [f"{i // 3}" for i in range(60)]
    prepared(tmp_path, "sprites", names, {"char": chars, "hair": ["red", "blue"] * 30})
    parts = load_scenes("sprites", FOUR, tmp_path)
    held = [set(np.array(chars)[np.unique(part.owner)]) for part in parts]
    assert not held[0] & held[2]
    assert set(parts.train[:2].static) == set(parts.test[:2].static) == {"hair"}


def test_the_sets_own_test_speakers_are_obeyed(tmp_path):
    who = [f"id{i % 20}" for i in range(60)]
    part = ["test" if int(w[2:]) < 3 else "train" for w in who]
    prepared(tmp_path, "voxceleb", [f"c{i}" for i in range(60)], {"speaker": who, "part": part})
    parts = load_scenes("voxceleb", replace(FOUR, windows=(4, 2)), tmp_path)
    held = [set(np.array(who)[np.unique(p.owner)]) for p in parts]
    assert held[2] == {"id0", "id1", "id2"}
    assert len(held[1]) == 1 and not held[0] & held[1] and len(held[0]) == 16


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown set 'sprite'; there are digits"):
        load_scenes("sprite", FOUR)
    with pytest.raises(ValueError, match=r"prepare\.py mug"):
        load_scenes("mug", FOUR, "nowhere")
    with pytest.raises(ValueError, match=r"needs windows \(V, stride\), got None"):
        load_scenes("mug", replace(FOUR, windows=None))


def test_digits_need_no_file():
    parts = load_scenes("digits", replace(FOUR, size=16), "nowhere")
    assert parts.train.x.shape[1:] == (4, 3, 16, 16)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name):
    frame = FRAMES.get(name.split("_")[0], (3, 64, 64))
    with torch.device("meta"):
        model = build(PRESETS[name], frame)
    assert model.encoder.to_s.out_features == PRESETS[name].s_dim
    if name == "mug":  # the published one has 27.5 million, with attention that is never called
        assert 25e6 < sum(p.numel() for p in model.parameters()) < 27.5e6


def made_clips(V=13, side=16):
    frames = np.random.default_rng(0).integers(0, 256, (3 * V, 3, side, side), dtype=np.uint8)
    return Clips(frames, np.arange(0, 3 * V + 1, V))


def fit(clips, preset=QUICK, **options):
    options = {"held_out": 0, "progress": False} | options
    return Disentangler.fit(clips, films_of(preset), preset, **options)


def test_fit_is_a_function_of_the_seed_and_goes_on_from_its_folder(tmp_path):
    clips = made_clips()
    other = replace(QUICK, config=replace(QUICK.config, seed=1))
    a, b, c = (fit(clips, preset) for preset in (QUICK, QUICK, other))
    same = lambda m, n: all(map(torch.equal, m.network.parameters(), n.network.parameters()))
    assert same(a, b) and not same(a, c)
    assert (a.adapter.V, a.adapter.stride) == SMALL.windows
    assert same(fit(clips, folder=tmp_path), a)
    assert same(fit(clips, folder=tmp_path), a)  # done already


def test_fit_refuses_sides_that_the_levels_do_not_divide(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 18, 18\) do not fit.*multiples of 16"):
        fit(made_clips(side=18), folder=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_smaller_frames_are_made_alike_in_training_and_in_swaps():
    clips = made_clips(side=32)
    model = fit(clips, replace(QUICK, size=16))
    small = clips.reduced(16)
    made = model.swap(small.clip(0), small.clip(1), steps=2)
    assert made.shape == (13, 3, 16, 16)
    assert np.array_equal(model.swap(clips.clip(0), clips.clip(1), steps=2), made)


def test_frames_become_latents_once(tmp_path):
    torch.manual_seed(0)
    stage = small_stage()
    prepared(tmp_path, "grid", ["a", "b", "c"], {"talker": ["x", "y", "z"]}, V=4, side=16)
    first = load_scenes("grid", replace(FOUR, windows=(2, 1)), tmp_path, stage)
    assert first.train[:1].frame == (4, 2, 2)
    (kept,) = tmp_path.glob("grid-*/frames.npy")
    written = kept.stat().st_mtime_ns
    again = load_scenes("grid", replace(FOUR, windows=(2, 1)), tmp_path, stage)
    assert kept.stat().st_mtime_ns == written
    assert torch.equal(first.test[:].x, again.test[:].x)
    small = load_scenes("grid", replace(FOUR, windows=(2, 1), size=8), tmp_path, stage)
    assert small.train[:1].frame == (4, 1, 1) and len([*tmp_path.glob("grid*-*")]) == 2


def test_who_is_asked_about_where_a_test_part_has_people_of_the_training(tmp_path):
    people = [f"p{i % 6}" for i in range(60)]
    parts = ["test" if i % 4 == 0 else "train" for i in range(60)]
    moods = ["glad" if i % 3 else "sad" for i in range(60)]
    labels = {"subject": people, "expression": moods, "part": parts}
    prepared(tmp_path, "mug", [f"c{i}" for i in range(60)], labels)
    fit, _, test = load_scenes("mug", FOUR, tmp_path)
    assert set(fit[:1].static) == set(test[:1].static) == {"subject", "expression"}
    prepared(tmp_path, "voxceleb", [f"c{i}" for i in range(60)], {
        "speaker": [f"p{i // 15}" for i in range(60)], "video": [f"v{i // 5}" for i in range(60)],
        "part": ["test" if i >= 45 else "train" for i in range(60)], "light": moods,
    })  # fmt: skip
    assert set(load_scenes("voxceleb", FOUR, tmp_path).test[:1].static) == {"light"}
    who = torch.tensor([0, -1, 1, -1])  # nobody knows the second and the last
    clips = Clips(np.zeros((4, 3, 4, 4), np.uint8), range(5), static={"who": who})
    assert scenes._untaught(clips, ([0, 1], [], [2, 3])) == {"part", "who"}
