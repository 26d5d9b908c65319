"""From prepared arrays to sequences: made-up sets in the prepared format checked row by row, and the real ones where they are."""

import importlib
import itertools
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffsda.cli import parameters_of
from diffsda.data import Sequences
from diffsda.encoder import RECIPES
from diffsda.model import denoising_loss
from diffsda.sets import build, open_prepared
from diffsda.timeseries import (
    LOADERS,
    PRESETS,
    UNITS,
    VITALS,
    calendar,
    every_seventh_month,
    last_months,
    levels_and_movements,
    load,
    load_hourly,
    load_stays,
    load_walks,
    month_starts,
    open_hourly,
    windows,
)

ROOT = Path(__file__).resolve().parent.parent
LOADS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
AIR = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "WSPM", "RAIN"]
YEARS = [f"{year}-{month:02d}" for year in range(2013, 2018) for month in range(1, 13)][2:50]


# ---- made-up sets: arrays, and what index.json says of them


def transformer(rows=17_420, start="2016-07-01T00:00:00"):
    """One table; its first column counts the hours."""
    values = np.random.default_rng(0).standard_normal((rows, 7)).astype(np.float32)
    values[:, 0] = np.arange(rows)
    return {"values": values}, {"columns": LOADS, "start": start}


def stations():
    """Twelve tables with holes, from January 2015 to February 2017."""
    T = (np.datetime64("2017-03-01", "h") - np.datetime64("2015-01-01", "h")).astype(int)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((12, T, 11), np.float32)
    values[rng.random(values.shape, np.float32) < 0.1] = np.nan  # rain among them
    values[..., 0], values[..., 1] = np.arange(T), np.arange(12)[:, None]
    names = [f"Station {letter}" for letter in "ABCDEFGHIJKL"]
    return {"values": values}, {"columns": AIR, "stations": names, "start": "2015-01-01T00:00:00"}


def stays(n=60):
    """Stays of rising record numbers; the first four lie on either side of the rules' edges."""
    rng = np.random.default_rng(0)
    vitals = rng.standard_normal((n, 48, 10)).astype(np.float32)
    vitals[rng.random(vitals.shape) < 0.3] = np.nan
    vitals[:, 47, 0] = 1
    for stay, hours in ((0, 40), (1, 39)):  # just long enough, and not
        vitals[stay, hours - 1], vitals[stay, hours:] = 1, np.nan
    for stay, seen in ((2, 160), (3, 159)):  # of 400 readings in 40 hours: just enough, and not
        vitals[stay] = np.nan
        vitals[stay].reshape(-1)[400 - seen : 400] = 1
    vitals[4] = np.nan
    others = np.ones((n, 48, 2), np.float32)  # measured always, and of no concern
    gender, unit, died = rng.integers(0, 2, n), rng.integers(1, 5, n), rng.integers(0, 2, n)
    static = np.stack([rng.uniform(16, 90, n), gender, unit, died], 1).astype(np.float32)
    static[[10, 20, 30, 40], range(4)] = np.nan  # one stay's age, another's gender ...
    arrays = {
        "values": np.concatenate([others, vitals[:, :, ::-1]], 2),
        "static": static,
        "record": 132_539 + rng.integers(1, 5, n).cumsum(),
    }
    names = ["Age", "Gender", "ICUType", "In-hospital_death"]
    return arrays, {"columns": ["HR", "Urine", *VITALS[::-1]], "static": names}


def walks():
    """Recordings of two people, one of whom lacks some rounds; a twentieth of the bins is empty."""
    rounds = {3: (1, 2, 3, 4, 5), 7: (1, 2, 4, 6, 7, 9)}
    who = np.array([(s, e, d) for s in rounds for e in rounds[s] for d in (0, 1)])
    rng = np.random.default_rng(0)
    frames = rng.integers(100, 200, len(who))
    frames[:2] = 63, 64  # too short for a window, and just long enough
    T = frames.sum()
    values, label = rng.standard_normal((T, 6)).astype(np.float32), rng.integers(0, 5, T)
    empty = rng.random(T) < 0.05
    values[empty], label[empty] = np.nan, -1
    arrays = {"values": values, "label": label.astype(np.int8)}
    arrays |= {"starts": np.append(0, frames.cumsum())}
    arrays |= dict(zip(("subject", "execution", "device"), who.T))
    facts = {"columns": ["ax", "ay", "az", "gx", "gy", "gz"], "rate": 20}
    return arrays, facts | {"labels": list("vwxyz"), "devices": ["phone", "watch"]}


MADE = {"etth1": transformer, "airquality": stations, "physionet_a": stays, "har": walks}


def put(folder, name, arrays, facts):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        np.save(folder / name / f"{key}.npy", array)
    index = facts | {"arrays": {key: list(array.shape) for key, array in arrays.items()}}
    (folder / name / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder that holds all four made-up sets."""
    folder = tmp_path_factory.mktemp("data")
    for name, make in MADE.items():
        put(folder, name, *make())
    return folder


# ---- what the sequences must be, from the arrays and by another road


def check_values(part, raw):
    """Scaled, with holes where the arrays have them."""
    seen = np.isfinite(raw)
    assert np.array_equal(part.mask.expand_as(part.x).numpy(), seen)
    want = (raw - part.scale.mean.numpy()) / part.scale.std.numpy() * 0.5
    assert np.allclose(part.x.numpy(), np.where(seen, want, 0), atol=1e-5)


def begins(hours, months, windows):
    """Rows where the sequences of a part begin that may use these months alone."""
    inside = np.isin(hours.astype("datetime64[M]").astype(str), months)
    if windows is None:
        return [i for i in np.flatnonzero(inside) if str(hours[i]).endswith("-01T00")]
    length, stride = windows
    rows = []
    for row in np.flatnonzero(inside & ~np.append(False, inside[:-1])):
        while row + length <= len(hours) and inside[row : row + length].all():
            rows.append(row)
            row += stride
    return rows


def check_hourly(name, folder, windows=None):
    """Values, labels and names of all sequences; returns the months of the three parts."""
    arrays, facts = open_prepared(name, folder)
    values = arrays["values"].reshape(-1, *arrays["values"].shape[-2:])
    hours = np.datetime64(facts["start"], "h") + np.arange(values.shape[1])
    places, at = facts.get("stations", [name]), len(facts["columns"]) - 1  # OT or RAIN
    months = [sorted({n[-10:-3] for n in part}) for part in load(name, folder).names]
    splits, length = load(name, folder, windows), windows[0] if windows else 672

    early = hours[hours < hours.astype("datetime64[M]") + np.timedelta64(672, "h")]
    month, count = np.unique(early.astype("datetime64[M]"), return_counts=True)
    assert sorted(sum(months, [])) == month[count == 672].astype(str).tolist()
    assert splits.columns == tuple(facts["columns"][:at])
    for part, names, mine in zip(splits, splits.names, months):
        rows = begins(hours, mine, windows)
        cuts = [(p, row) for p in range(len(places)) for row in rows]
        raw = np.stack([values[p, row : row + length] for p, row in cuts])
        check_values(part, raw[:, :, :at])
        ((_, label),) = part.dynamic.items()
        assert np.array_equal(label.numpy(), raw[:, :, at], equal_nan=True)
        middle = [str(hours[row + length // 2]) for _, row in cuts]
        assert part.static["month"].tolist() == [int(date[5:7]) - 1 for date in middle]
        if len(places) > 1:
            assert part.static["station"].tolist() == [p for p, _ in cuts]
            assert part.classes["station"] == tuple(places)
        assert names == tuple(f"{places[p]} {str(hours[row])[:10]}" for p, row in cuts)
    return months


def check_stays(name, folder):
    """Who is kept and where, lengths, holes and labels of all stays."""
    arrays, facts = open_prepared(name, folder)
    values = arrays["values"][:, :, [facts["columns"].index(vital) for vital in VITALS]]
    record, kept, hours = arrays["record"].tolist(), [], []
    for number, stay in zip(record, values):
        seen = np.isfinite(stay)
        hours.append(max(np.flatnonzero(seen.any(1)), default=-1) + 1)
        if hours[-1] >= 40 and 10 * (~seen[: hours[-1]]).sum() <= 6 * 10 * hours[-1]:
            kept.append(number)
    splits = load(name, folder)
    train, val, test = ([int(n.removeprefix("stay ")) for n in names] for names in splits.names)
    fifth = len(kept) // 5
    assert test == kept[:fifth] and sorted(train + val) == kept[fifth:]
    assert len(train) == round(0.8 * len(kept[fifth:])) and train != sorted(train)
    short = sum(n < 40 for n in hours)
    assert list(splits.dropped.values()) == [short, len(record) - short - len(kept)]
    for part, numbers in zip(splits, (train, val, test)):
        rows = [record.index(number) for number in numbers]
        check_values(part, values[rows])
        assert part.lengths.tolist() == [hours[row] for row in rows]
        static = dict(zip(facts["static"], arrays["static"][rows].T))
        for key, column, first in (
            ("unit", "ICUType", 1),
            ("died", "In-hospital_death", 0),
            ("gender", "Gender", 0),
        ):
            want = [-1 if np.isnan(y) else int(y) - first for y in static[column]]
            assert part.static[key].tolist() == want
        assert np.array_equal(part.static["age"].numpy(), static["Age"], equal_nan=True)
    return splits


def check_walks(name, folder, windows=None):
    """Round, person, device and activity of all windows; returns the splits."""
    arrays, facts = open_prepared(name, folder)
    splits, (length, stride) = load(name, folder, windows), windows or (64, 32)
    who = list(zip(*(arrays[key].tolist() for key in ("subject", "execution", "device"))))
    rounds = {s: sorted({e for person, e, _ in who if person == s}) for s, _, _ in who}
    for k, (part, names) in enumerate(zip(splits, splits.names)):
        mine = {s: (e[:-3], e[-3:-2], e[-2:])[k] for s, e in rounds.items()}
        cuts = [
            (i, row)
            for i, (s, e, _) in enumerate(who)
            if e in mine[s]
            for row in range(0, arrays["starts"][i + 1] - arrays["starts"][i] - length + 1, stride)
        ]
        rows = np.array([np.arange(length) + arrays["starts"][i] + row for i, row in cuts])
        check_values(part, arrays["values"][rows])
        assert np.array_equal(part.dynamic["activity"].numpy(), arrays["label"][rows])
        assert part.static["device"].tolist() == [who[i][2] for i, _ in cuts]
        people = [part.classes["subject"][y] for y in part.static["subject"]]
        assert people == [f"person {who[i][0]}" for i, _ in cuts]
        assert names == tuple(
            f"person {s}, {facts['devices'][d]}, round {e}, {row / facts['rate']:.1f} s"
            for (s, e, d), row in ((who[i], row) for i, row in cuts)
        )
    return splits


# ---- prepared sets


def test_arrays_are_opened_and_not_read(made):
    for name, make in MADE.items():
        arrays, facts = open_prepared(name, made)
        assert all(isinstance(array, np.memmap) for array in arrays.values())
        assert np.array_equal(arrays["values"], make()[0]["values"], equal_nan=True)
        assert facts["columns"] == make()[1]["columns"]
    tables = open_hourly("airquality", made)
    assert isinstance(tables.values, np.memmap) and len(tables.values) == 12
    assert (tables.target, tables.label, tables.places[3]) == ("RAIN", "rain", "Station D")
    assert open_hourly("etth1", made).values.shape == (1, 17_420, 7)
    assert list(map(str, tables.hours[[0, -1]])) == ["2015-01-01T00", "2017-02-28T23"]


@pytest.mark.parametrize("name", LOADERS)
def test_not_prepared_names_the_command(tmp_path, name):
    with pytest.raises(ValueError, match=f"python data_scripts/prepare.py {name}$"):
        load(name, tmp_path)


def test_unknown_names_list_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'etth9'; there are etth1, etth2, air"):
        load("etth9", tmp_path)


def cut_file(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "values of other rows": lambda home: np.save(home / "values.npy", np.zeros((9, 6), "f4")),
    "values cut": lambda home: cut_file(home / "values.npy"),
    "no values": lambda home: (home / "values.npy").unlink(),
    "no starts": lambda home: (home / "starts.npy").unlink(),
    "starts of another length": lambda home: np.save(home / "starts.npy", np.zeros(3)),
    "index cut": lambda home: cut_file(home / "index.json"),
    "index of nothing": lambda home: (home / "index.json").write_text("{}"),
    "index of another kind": lambda home: (home / "index.json").write_text("[1]"),
    "a column less": lambda home: (home / "index.json").write_text(
        (home / "index.json").read_text().replace('"ax", ', "")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folder_names_the_command(made, tmp_path, damage):
    home = Path(shutil.copytree(made / "har", tmp_path / "har"))
    DAMAGE[damage](home)
    with pytest.raises(ValueError, match="python data_scripts/prepare.py har"):
        load("har", tmp_path)


# ---- months and windows of hourly tables


def test_months_of_the_transformer(made):
    train, val, test = check_hourly("etth1", made)
    assert train == [f"2017-{m:02d}" for m in range(1, 13)] + ["2018-01", "2018-02"]
    assert (val, test) == (
        ["2018-03", "2018-04", "2018-05"],
        [f"2016-{m:02d}" for m in range(7, 13)],
    )
    assert load("etth1", made).dropped == {"2018-06": 620}


def test_months_of_the_stations(made):
    train, val, test = check_hourly("airquality", made)
    assert val == ["2015-04", "2015-11"] and test == [f"2016-{m:02d}" for m in range(1, 13)]
    assert len(train) == 12 and train[-1] == "2017-02"
    part = load("airquality", made).train
    holes = (~part.mask).float().mean((0, 1))
    assert (holes[:2] == 0).all() and ((holes[2:] - 0.1).abs() < 0.01).all()
    assert len(part) == 12 * 12 and part.dynamic["rain"].isnan().any()


@pytest.mark.parametrize(
    "name, windows",
    [
        ("etth1", (672, 24)),
        ("etth1", (100, 7)),
        ("airquality", (700, 300)),  # a validation month lies between training months
        *(
            (name, PRESETS[name + kind].windows)
            for name in ("etth1", "airquality")
            for kind in ("_short", "_fast")
        ),
    ],
)
def test_windows_stay_within_their_part(made, name, windows):
    check_hourly(name, made, windows)


def test_windows_and_months_share_a_scale(made):
    for part in load("etth1", made, (100, 7)):
        assert torch.equal(part.scale.mean, load("etth1", made).train.scale.mean)


@pytest.mark.parametrize("windows", [None, (336, 50)])
def test_windows_do_not_cross_a_month_that_is_left_out(tmp_path, windows):
    """A table that begins too late in its month, and one that ends within the last one."""
    put(tmp_path, "etth1", *transformer(12_000, "2016-06-01T05:00:00"))
    months = check_hourly("etth1", tmp_path, windows)
    assert load("etth1", tmp_path).dropped == {"2016-06": 667, "2017-10": 317}
    assert months[2][0] == "2016-07" and months[1] == ["2017-09"]


def test_short_file_has_fewer_months(tmp_path):
    """The twenty months of the usual forecasting split: 13 complete ones after 2016, 2 of them to choose."""
    put(tmp_path, "etth1", *transformer(14_400))
    assert list(map(len, check_hourly("etth1", tmp_path))) == [11, 2, 6]
    assert load("etth1", tmp_path).dropped == {"2018-02": 480}
    put(tmp_path, "etth1", *transformer(3000))
    with pytest.raises(ValueError, match="at least 4 others, got 2016-07, .*2016-10; is the file"):
        load("etth1", tmp_path)


@pytest.mark.parametrize("split", [last_months, every_seventh_month])
@pytest.mark.parametrize("months", [YEARS, YEARS[:40], YEARS[3:9] + YEARS[30:], YEARS[28:39]])
def test_splits_share_out_all_months(split, months):
    train, val, test = split(tuple(months))
    assert sorted(train + val + test) == months and list(train) == sorted(train)
    assert set(test) == {month for month in months if month.startswith("2016-")}
    assert 1 / 10 < len(val) / len(train + val) < 1 / 3
    if split is last_months:
        assert max(train) < min(val)
    else:
        assert all(min(train) < month < max(train) for month in val)


def test_a_split_of_ones_own(made):
    odd = lambda names: (names[::2], names[1::4], names[3::4])
    splits = load_hourly("etth1", made, split=odd)
    assert [names[0] for names in splits.names] == [
        f"etth1 2016-{m}-01" for m in ("07", "08", "10")
    ]


def test_month_that_begins_before_the_table_is_dropped():
    hours = np.datetime64("2016-07-01T05", "h") + np.arange(24 * 70)
    complete, dropped = month_starts(hours)
    assert complete == {"2016-08": 31 * 24 - 5} and dropped == {"2016-07": 667, "2016-09": 197}


def test_calendar():
    days = np.array(
        ["2017-12-31T23", "2018-01-01T00", "2016-02-29T12", "2017-03-01T00"], "datetime64[h]"
    )
    labels = calendar(days)
    assert labels["month"].tolist() == [11, 0, 1, 2]
    assert labels["season"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("length, stride", [(1, 1), (5, 2), (20, 3)])
def test_windows_are_views_of_what_they_cut(length, stride):
    x = np.arange(40).reshape(20, 2)
    cut = windows(x, length, stride)
    assert np.shares_memory(cut, x) and len(cut) == (20 - length) // stride + 1
    for i, window in enumerate(cut):
        assert np.array_equal(window, x[i * stride : i * stride + length])


@pytest.mark.parametrize("length, stride", [(0, 1), (5, 0), (21, 1)])
def test_windows_refuse_what_cannot_be_cut(length, stride):
    with pytest.raises(ValueError):
        windows(np.zeros((20, 2)), length, stride)


# ---- stays and recordings


def test_stays(made):
    splits = check_stays("physionet_a", made)
    assert splits.dropped == {"shorter than 40 h": 2, "over 60 % missing": 1}
    first = int(open_prepared("physionet_a", made).arrays["record"][0])
    assert f"stay {first}" in splits.names[2] and splits.test.lengths[0] == 40
    for label in ("unit", "died", "gender"):
        parts = torch.cat([part.static[label] for part in splits])
        assert (parts == -1).sum() == 1, "one of each is unknown"
    assert splits.train.classes["unit"] == UNITS
    assert load("physionet_a", made).names == splits.names, "the same shuffle each time"


def test_too_few_stays_are_refused(tmp_path):
    arrays, facts = stays()
    put(tmp_path, "physionet_a", {key: array[:13] for key, array in arrays.items()}, facts)
    assert sum(map(len, load_stays("physionet_a", tmp_path))) == 10
    put(tmp_path, "physionet_a", {key: array[:12] for key, array in arrays.items()}, facts)
    with pytest.raises(ValueError, match="physionet_a: 9 stays are long and full enough"):
        load_stays("physionet_a", tmp_path)


@pytest.mark.parametrize("windows", [None, (100, 50), (20, 7)])
def test_walks(made, windows):
    splits = check_walks("har", made, windows)
    for part in splits:
        empty = ~part.mask.any(2)
        assert empty.any() and torch.equal(empty, part.dynamic["activity"] == -1)


def test_walks_open_by_their_own_door(made):
    assert torch.equal(load_walks("har", made).test.x, load("har", made, (64, 32)).test.x)


@pytest.mark.parametrize("name", MADE)
def test_scale_comes_from_the_training_part_alone(made, name):
    splits = load(name, made)
    x, mask = splits.train.x.double(), splits.train.mask
    mask = mask.expand_as(x)
    mean = (x * mask).sum((0, 1)) / mask.sum((0, 1))
    std = ((x - mean).square() * mask).sum((0, 1)).div(mask.sum((0, 1))).sqrt()
    assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
    assert torch.allclose(std, torch.full_like(std, 0.5), atol=1e-4)
    assert splits.train.scale is splits.val.scale is splits.test.scale


# ---- models and measures


def test_every_set_has_its_three_presets_and_air_quality_a_long_one():
    three = {name + kind for name in LOADERS for kind in ("", "_short", "_fast")}
    assert set(PRESETS) == three | {"airquality_long"}
    sizes = lambda p: (p.s_dim, p.d_dim, p.hidden, p.enc_width, p.dec_width, p.embedding)
    for name in LOADERS:
        full, short, fast = (PRESETS[name + kind] for kind in ("", "_short", "_fast"))
        assert sizes(full) == sizes(short) and full.draws == 10 and full.windows is None
        assert (full.s_dim, full.d_dim) == (fast.s_dim, fast.d_dim) and fast.hidden < full.hidden
        assert max(short.config.steps, fast.config.steps) <= full.config.steps
    paper = {"etth1": (16, 4, 512, 1024, 512), "airquality": (16, 4, 512, 512, 1024)}
    for name, want in (paper | {"physionet_a": (24, 2, 96, 384, 1024)}).items():
        assert sizes(PRESETS[name])[:5] == want, "method.md 11.2; widths are 4 x the base"
    assert PRESETS["etth2"] == PRESETS["etth1"] and PRESETS["physionet_b"] == PRESETS["physionet_a"]


@pytest.mark.parametrize("name", MADE)
def test_fast_preset_builds_a_model_that_reads_its_set(made, name):
    preset = PRESETS[f"{name}_fast"]
    torch.manual_seed(0)
    data = load(name, made).val[:2]
    model = build(preset, data.frame)
    assert model.encode(data).s.shape == (2, preset.s_dim)
    assert model.encode(data).d.shape == (2, data.x.shape[1], preset.d_dim)
    loss = denoising_loss(model, data, draws=2)
    assert loss.mean.isfinite() and int(loss.count) == 2 * data.mask.expand_as(data.x).sum()


def test_a_preset_carries_the_capacity_limit_and_the_mask_channel():
    holes = torch.ones(2, 20, 6, dtype=torch.bool)
    holes[:, 3:7, 2] = False
    x = torch.where(holes, torch.randn(2, 20, 6), 0.0)
    for told in (False, True):
        torch.manual_seed(0)
        preset = PRESETS["etth1_fast"].by("paper")
        preset = replace(preset, d_noise=float(told), mask_channel=told)
        model = build(preset, (6,)).eval()
        with_holes, without = model.encode(Sequences(x, observed=holes)), model.encode(Sequences(x))
        assert torch.allclose(with_holes.s, without.s) != told
        assert (model.encoder.channel is not None) == told


def test_levels_and_movements_of_made_up_swaps():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 50, 3, generator=g) + torch.tensor([1.0, 5.0])[:, None, None, None]
    measured = lambda swapped: levels_and_movements(*map(Sequences, (swapped, a, b)))
    whole = measured(b)
    assert whole.loc["from_d"].tolist() == pytest.approx([0, 1], abs=1e-5)
    assert whole.loc["from_s", "level_distance"] == pytest.approx(4, abs=0.2)
    mixed = measured(b - b.mean(1, True) + a.mean(1, True))
    assert mixed.loc["from_s", "level_distance"] == pytest.approx(0, abs=1e-5)
    assert mixed.loc["from_d", "movement_correlation"] == pytest.approx(1, abs=1e-5)
    assert measured(-b).loc["from_d", "movement_correlation"] == pytest.approx(-1, abs=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        levels_and_movements(Sequences(a[:3]), Sequences(a), Sequences(b))


def test_levels_and_movements_compare_where_the_donor_was_observed():
    """A swap that is its donors where these were seen is right, whatever it says in their holes."""
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 6, 40, 3, generator=g)
    observed = torch.rand(6, 40, 3, generator=g) < 0.7
    observed[:, :, 2] &= torch.arange(6)[:, None] > 0  # one feature of one donor: nothing
    donor = Sequences(x, torch.tensor([40, 40, 30, 20, 10, 40]), observed)
    swapped = Sequences(torch.where(donor.mask, x, 9 * noise))
    moved = levels_and_movements(swapped, donor, donor)
    assert moved["level_distance"].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert moved["movement_correlation"].tolist() == pytest.approx([1, 1], abs=1e-5)
    far = levels_and_movements(Sequences(swapped.x + 2), donor, donor)
    assert far["level_distance"].tolist() == pytest.approx([2, 2], abs=1e-5), "of features seen"


# ---- the real sets


@pytest.fixture
def prepare(monkeypatch):
    """The data scripts' door."""
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    return importlib.import_module("prepare")


def copy_of(prepare, name):
    """The copy beside the checkout, or skip."""
    copy = prepare.fetch.BESIDE / prepare.room_of(name).SETS[name].copy
    if not copy.exists():
        pytest.skip(f"{name} is not in data/, and there is no ../shared/data copy {copy.name}")
    return copy


def test_real_transformer_from_its_public_file(prepare, tmp_path):
    copy = copy_of(prepare, "etth1")
    prepare.prepare("etth1", str(copy), tmp_path)
    frame = pd.read_csv(copy)
    values, facts = (
        open_prepared("etth1", tmp_path).arrays["values"],
        open_hourly("etth1", tmp_path),
    )
    assert np.array_equal(values, frame[LOADS].to_numpy(np.float32)) and len(frame) == 17_420
    assert np.array_equal(facts.hours, frame["date"].to_numpy("datetime64[h]"))
    assert list(map(len, check_hourly("etth1", tmp_path))) == [14, 3, 6]


@pytest.mark.parametrize(
    "name, check",
    [
        ("etth2", check_hourly),
        ("airquality", check_hourly),
        ("physionet_a", check_stays),
        ("physionet_b", check_stays),
        ("har", check_walks),
    ],
)
def test_real_sets(prepare, tmp_path, name, check):
    folder = ROOT / "data"
    if not (folder / name / "index.json").exists():
        prepare.prepare(name, str(copy_of(prepare, name)), tmp_path)
        folder = tmp_path
    check(name, folder)
    splits = load(name, folder)
    assert splits.train.frame == (len(splits.columns),)
    if name == "airquality":
        assert all(len(part) % 12 == 0 for part in splits), "twelve stations, all their months"


def test_levels_and_movements_compare_frames_that_the_swap_has():
    wave = torch.randn(1, 12, 2)
    static = Sequences(1 + wave)  # 12 frames
    swapped = Sequences(1 + wave, torch.tensor([7]))  # as long as the donor of d
    table = levels_and_movements(swapped, static, Sequences(wave, torch.tensor([7])))
    assert table.level_distance["from_s"] == pytest.approx(0, abs=1e-6)
    assert table.movement_correlation["from_s"] == pytest.approx(1)
    seen = torch.ones(2, 12, 2, dtype=torch.bool)
    seen[1, :8] = False  # observed where its swap has no frames
    three = [torch.cat([x, x]) for x in (1 + wave, wave)]
    table = levels_and_movements(
        Sequences(three[0], torch.tensor([7, 7])),
        Sequences(three[0], observed=seen),
        Sequences(three[1], torch.tensor([7, 7])),
    )
    assert table.loc["from_s"].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_the_command_of_each_result_asks_for_its_recipe():
    notebook = ROOT / "nbs" / "42_timeseries_experiments.ipynb"
    usual = {name: parameter.default for name, parameter in parameters_of(notebook).items()}
    rows = json.loads((ROOT / "results" / "timeseries.json").read_text(encoding="utf-8"))
    trained = [row for row in rows if row.get("recipe")]
    for row in trained:
        words = shlex.split(row["command"].removeprefix("diffsda run "))[1:]
        given = usual | dict(zip(words[1::3], words[2::3]))  # -p name value
        asked = dict(RECIPES[given["recipe"]])
        if float(given["d_noise"]) >= 0:
            asked["d_noise"] = float(given["d_noise"])
        static_first, noisy = asked["static_first"] > 0, asked["d_noise"] > 0
        told = "static first" if static_first else "capacity" if noisy else "paper"
        assert (told, str(given["training"])) == (row["recipe"], row["kind"]), row["command"]
    assert len(trained) > 500


def names_in(notebook, *cells):
    """What some cells of a notebook define, which is run elsewhere."""
    stored = json.loads((ROOT / "nbs" / notebook).read_text(encoding="utf-8"))["cells"]
    source = {cell["id"]: "".join(cell["source"]) for cell in stored}
    names = {"pd": pd, "np": np}
    for cell in cells:
        exec(source[cell], names)
    return names


def test_runs_that_keep_s_and_d_apart_differently_share_no_folder_and_no_row():
    named = names_in("42_timeseries_experiments.ipynb", "series-named")["named"]
    rows = names_in("43_timeseries_results.ipynb", "431f084e")
    usual, folders, told = PRESETS["har_short"], {}, {}
    for recipe, d_noise, mask in itertools.product(RECIPES, (None, 0.0, 0.1, 0.5, 1.0), (0, 1)):
        preset = replace(usual.by(recipe), mask_channel=bool(mask))
        preset = preset if d_noise is None else replace(preset, d_noise=d_noise)
        folder = named(recipe, preset)
        folders.setdefault(folder, set()).add(preset)
        experiment = rows["experiment_of"]({"recipe": folder})
        told.setdefault(experiment, set()).add(preset)
        apart = "static first" if preset.static_first else "capacity" if preset.d_noise else "paper"
        assert rows["recipe_of"](experiment) == apart, folder
    assert {len(presets) for presets in (folders | told).values()} == {1}
    kept = {"static_first", "static_first-mask", "d_noise_0", "d_noise_1-mask"}
    assert kept <= set(folders)  # the names of runs that are stored
