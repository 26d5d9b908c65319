"""Nobody is in two parts, and what stands under a set's name is whole: licence, parts, presets."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda import scenes, speech, timeseries
from diffsda.encoder import RECIPES
from diffsda.sets import Preset, Splits, build, by_group, get_ready, kinds_of, set_of
from diffsda.training import TrainConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data_scripts"))

import prepare  # noqa: E402

SETS = [row for module in (timeseries, speech, scenes) for row in module.SETS.values()]
by_set = pytest.mark.parametrize("row", SETS, ids=lambda row: row.name)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 30), min_size=1), st.tuples(*[st.sampled_from([0.05, 0.3, 1, 2])] * 2)
)
def test_every_row_is_in_one_part_and_every_group_too(groups, shares):
    try:
        parts = by_group(groups, shares)
    except ValueError:
        held_out = [s if isinstance(s, int) else max(1, int(s * len(set(groups)))) for s in shares]
        assert len(set(groups)) <= sum(held_out)  # it is refused only if nobody is left
        return
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    people = [{groups[i] for i in part} for part in parts]
    assert all(people) and sum(map(len, people)) == len(set(groups))
    for share, held_out in zip(shares, people[1:]):
        wanted = share if isinstance(share, int) else max(1, int(share * len(set(groups))))
        assert len(held_out) == wanted


def test_parts_depend_on_names_not_on_their_order_or_type():
    names = [f"p{k % 17}" for k in range(60)]
    turned = np.array(names)[::-1]
    for a, b in zip(by_group(names), by_group(turned)):
        assert {names[i] for i in a} == set(turned[b])
    numbers = torch.arange(60) % 17
    assert all(map(np.array_equal, by_group(numbers), by_group(numbers.tolist())))


def test_an_order_says_who_tests():
    train, val, test = by_group([3, 1, 2, 3, 5], (1, 1), order=lambda k: -k)
    assert (train.tolist(), val.tolist(), test.tolist()) == ([1, 2], [0, 3], [4])


def test_splits_unpack_into_their_three_parts():
    splits = Splits("a", "b", "c", names=("x",), columns=("y",))
    first, second, third = splits
    assert (first, second, third) == ("a", "b", "c") and splits.dropped == {}
    assert Splits(1, 2, 3).dropped is not Splits(1, 2, 3).dropped  # nobody writes into another's


@by_set
def test_a_set_names_the_licence_that_its_script_writes(row):
    licences = {prepare.room_of(name).SETS[name].licence for name in row.prepared}
    assert licences == (set(row.licence.split(", ")) if row.prepared else set())
    assert row.prepared or row.licence == "made up"


@by_set
def test_a_set_has_presets_and_knows_its_name(row):
    assert row.presets and row.modality in ("time series", "sound", "video")
    kind = next(iter(row.presets))
    assert row.preset(kind) is row.presets[kind]
    with pytest.raises(ValueError, match=f"{row.name} has no preset of the kind 'slow'; there are"):
        row.preset("slow")


@by_set
def test_a_set_that_is_not_prepared_says_how(row, tmp_path):
    if row.prepared:
        preset = next(iter(row.presets.values()))
        with pytest.raises(ValueError, match=f"prepare.py {row.prepared[0]}"):
            row.load(tmp_path, preset)


def test_names_are_those_of_the_tables_they_are_made_from():
    assert set(timeseries.SETS) == set(timeseries.LOADERS)
    assert set(speech.SETS) == set(speech.CORPORA) == set(speech.PREPARED)
    assert set(scenes.SETS) == {"digits", *scenes.OWNERS, *scenes.STRUNG}
    with pytest.raises(
        ValueError, match="unknown set 'etth3'; did you mean 'etth[12]'[?] known: .*har"
    ):
        set_of(timeseries.SETS, "etth3")


def test_rows_of_one_set_are_not_mixed_with_those_of_another():
    rows = {"a": 1, "a_fast": 2, "a_b": 3, "a_b_fast": 4}
    assert kinds_of(rows, "a") == {"": 1, "fast": 2} and kinds_of(rows, "a_b") == {"": 3, "fast": 4}


def test_what_is_prepared_is_left_alone_and_what_cannot_be_says_how(tmp_path):
    root = Path(__file__).resolve().parent.parent
    (tmp_path / "data" / "tides").mkdir(parents=True)
    get_ready(["tides"], root=tmp_path)  # no script is there to run
    with pytest.raises(FileNotFoundError, match="data_scripts/prepare.py tides .*could not"):
        get_ready(["tides"], source="nowhere", root=root)
    with pytest.raises(FileNotFoundError, match="data_scripts/prepare.py winds could not .*winds"):
        get_ready(["winds"], root=root)


def test_a_preset_names_its_recipe():
    preset = SETS[0].preset("short")
    assert all(preset.by(name).recipe == name for name in RECIPES)
    assert replace(preset, d_noise=0.3).recipe == "own"
    assert Preset(16, 4, 64, 64, 64, TrainConfig(1, 1)).recipe == "static first"  # its defaults


def test_a_network_of_images_has_no_mask_channel():
    images = replace(scenes.SETS["digits"].preset("fast"), mask_channel=True)
    with pytest.raises(ValueError, match="mask_channel tells a network of vectors"):
        build(images, (3, 16, 16))
    build(replace(images, mask_channel=False), (3, 16, 16))
