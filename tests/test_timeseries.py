"""The transformer's table from public file to sequences: a made-up table of the same layout, and the real one where it is."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffsda.data import Sequences
from diffsda.model import denoising_loss
from diffsda.timeseries import (
    PRESETS,
    build,
    calendar,
    levels_and_movements,
    load,
    load_ett,
    month_starts,
    open_series,
    preset_of,
    split_names,
    windows,
)

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
REAL = [ROOT / "data" / "etth1", ROOT.parent / "shared" / "data" / "timeseries" / "ETTh1.csv"]


@pytest.fixture
def ett(monkeypatch):
    """The data script as a module, blind to copies beside the checkout."""
    monkeypatch.syspath_prepend(str(ROOT / "data_scripts"))
    module = importlib.import_module("ett")
    monkeypatch.setattr(module.fetch, "BESIDE", ROOT / "no such folder")
    return module


def table(rows=17_420, seed=0):
    """A table in the public file's layout, all of its numbers different."""
    hours = pd.date_range("2016-07-01", periods=rows, freq="h")
    x = np.random.default_rng(seed).standard_normal((rows, 7)).astype(np.float32)
    x[:, 6] += 10 + np.sin(np.arange(rows) * 2 * np.pi / 24)
    frame = pd.DataFrame(x, columns=COLUMNS)
    frame.insert(0, "date", hours.strftime("%Y-%m-%d %H:%M:%S"))
    return frame


def write(frame, folder, name="ETTh1.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False)
    return folder / name


@pytest.fixture
def prepared(ett, tmp_path):
    """Folder of prepared sets, and the table that went in."""
    frame = table()
    ett.prepare("etth1", str(write(frame, tmp_path / "raw")), tmp_path / "data")
    return tmp_path / "data", frame


# ---- from data/ to sequences


def test_not_prepared_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="python data_scripts/ett.py etth2"):
        load("etth2", tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'etth9'; there are etth1, etth2"):
        load("etth9", tmp_path)


@pytest.mark.parametrize(
    "damage", ["values cut", "no values", "index cut", "index without columns"]
)
def test_damaged_folder_names_the_command(prepared, damage):
    home = prepared[0] / "etth1"
    if damage == "values cut":
        np.save(home / "values.npy", np.zeros((10, 7), np.float32))
    elif damage == "no values":
        (home / "values.npy").unlink()
    else:
        content = (home / "index.json").read_text()
        (home / "index.json").write_text(content[:50] if damage == "index cut" else "{}")
    with pytest.raises(ValueError, match="python data_scripts/ett.py etth1"):
        load("etth1", prepared[0])


def check_splits(splits, frame):
    """Counts, names and alignment of the splits with the rows of the table they came from."""
    train, val, test = splits[:3]
    assert test.names == tuple(f"2016-{m:02d}" for m in range(7, 13))
    assert val.names == ("2018-03", "2018-04", "2018-05")
    assert train.names == tuple(f"2017-{m:02d}" for m in range(1, 13)) + ("2018-01", "2018-02")
    assert splits.dropped == {"2018-06": 620}
    assert [len(p.months) for p in splits[:3]] == [14, 3, 6]
    dates = frame["date"].tolist()
    for part in splits[:3]:
        raw = part.months.scale.undo(part.months.x)
        for i, name in enumerate(part.names):
            row = dates.index(f"{name}-01 00:00:00")
            want = torch.tensor(frame[COLUMNS].to_numpy()[row : row + 672].astype(np.float32))
            assert torch.allclose(raw[i], want[:, :6], atol=1e-4, rtol=1e-4)
            assert torch.equal(part.months.dynamic["oil_temperature"][i], want[:, 6])
            assert int(part.months.static["month"][i]) == int(name[5:]) - 1


def test_splits_follow_the_rows_of_the_table(prepared):
    check_splits(load("etth1", prepared[0]), prepared[1])


def test_scale_comes_from_the_training_months_alone(ett, prepared, tmp_path):
    folder, frame = prepared
    first = load("etth1", folder).train.months
    assert torch.allclose(first.x.mean((0, 1)), torch.zeros(6), atol=1e-4)
    assert torch.allclose(first.x.std((0, 1), correction=0), torch.full((6,), 0.5), atol=1e-4)
    other = frame.copy()
    outside = ~frame["date"].between("2017-01-01", "2018-03-01")
    other.loc[outside, COLUMNS] = 7 * other.loc[outside, COLUMNS] + 100
    ett.prepare("etth1", str(write(other, tmp_path / "other")), tmp_path / "data2")
    second = load("etth1", tmp_path / "data2").train.months
    assert torch.equal(first.x, second.x)


@pytest.mark.parametrize("window, stride", [(672, 24), (336, 24), (100, 7)])
def test_windows_stay_within_their_part(ett, tmp_path, window, stride):
    frame = table()
    frame["HUFL"] = np.arange(len(frame))  # each hour carries its own number
    ett.prepare("etth1", str(write(frame, tmp_path)), tmp_path / "data")
    splits = load_ett("etth1", tmp_path / "data", window, stride)
    months, seen = frame["date"].str[:7].to_numpy(), []
    for part in splits[:3]:
        rows = part.windows.scale.undo(part.windows.x)[:, :, 0].round().long()
        assert part.windows.x.shape[1] == window
        assert (rows.diff(dim=1) == 1).all() and (rows[:, 0].diff() == stride).all()
        assert set(months[rows.unique().numpy()]) <= set(part.names)
        middle = months[rows[:, window // 2].numpy()]
        assert part.windows.static["month"].tolist() == [int(name[5:]) - 1 for name in middle]
        seen.append(set(rows.unique().tolist()))
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_short_file_has_fewer_months(ett, tmp_path):
    """The twenty months of the usual forecasting split: 13 complete ones after 2016, 2 of them to choose."""
    ett.prepare("etth1", str(write(table(rows=14_400), tmp_path)), tmp_path / "data")
    splits = load("etth1", tmp_path / "data")
    assert [len(p.months) for p in splits[:3]] == [11, 2, 6]
    assert splits.dropped == {"2018-02": 480}
    ett.prepare("etth1", str(write(table(rows=3000), tmp_path)), tmp_path / "data")
    with pytest.raises(ValueError, match="at least 4 later ones, got 2016-07, .*2016-10"):
        load("etth1", tmp_path / "data")


def test_month_that_begins_before_the_table_is_dropped():
    hours = np.datetime64("2016-07-01T05", "h") + np.arange(24 * 70)
    complete, dropped = month_starts(hours)
    assert complete == {"2016-08": 31 * 24 - 5} and dropped == {"2016-07": 667, "2016-09": 197}


def test_split_needs_every_part():
    assert split_names(("2016-12", "2017-01", "2017-02", "2017-03", "2017-04"))[1] == ("2017-04",)
    for names in ((), ("2016-07",), ("2017-01", "2017-02", "2017-03", "2017-04")):
        with pytest.raises(ValueError, match="is the file whole"):
            split_names(names)


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


# ---- models and measures


@pytest.mark.parametrize("name", [n for n in PRESETS if n.endswith("_fast")])
def test_fast_preset_builds_a_model_that_reads_a_month(name):
    torch.manual_seed(0)
    model = build(PRESETS[name])
    data = Sequences(0.5 * torch.randn(2, 30, *PRESETS[name].frame))
    assert model.encode(data).s.shape == (2, 16) and model.encode(data).d.shape == (2, 30, 4)
    loss = denoising_loss(model, data, draws=2)
    assert loss.mean.isfinite() and int(loss.count) == 2 * data.x.numel()


def test_every_preset_has_a_fast_one():
    full = {name for name in PRESETS if not name.endswith("_fast")}
    assert {name + "_fast" for name in full} == set(PRESETS) - full
    assert (PRESETS["etth1"].s_dim, PRESETS["etth1"].d_dim, PRESETS["etth1"].hidden) == (16, 4, 512)


def test_levels_and_movements_of_made_up_swaps():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 20, 50, 3, generator=g) + torch.tensor([1.0, 5.0])[:, None, None, None]
    whole = levels_and_movements(b, a, b)
    assert whole.loc["from_d"].tolist() == pytest.approx([0, 1], abs=1e-5)
    assert whole.loc["from_s", "level_distance"] == pytest.approx(4, abs=0.2)
    mixed = levels_and_movements(b - b.mean(1, True) + a.mean(1, True), a, b)
    assert mixed.loc["from_s", "level_distance"] == pytest.approx(0, abs=1e-5)
    assert mixed.loc["from_d", "movement_correlation"] == pytest.approx(1, abs=1e-5)
    upside_down = levels_and_movements(-b, a, b)
    assert upside_down.loc["from_d", "movement_correlation"] == pytest.approx(-1, abs=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        levels_and_movements(a[:3], a, b)


# ---- the real table


@pytest.fixture
def real(ett, tmp_path):
    """The public file of ETTh1, prepared afresh."""
    if not REAL[1].exists():
        pytest.skip("no copy of ETTh1.csv in ../shared/data/timeseries beside this checkout")
    ett.prepare("etth1", str(REAL[1]), tmp_path / "data")
    return tmp_path / "data", pd.read_csv(REAL[1])


def test_real_table(real):
    folder, frame = real
    facts = open_series("etth1", folder).facts
    assert facts["public_file"] is True and facts["shape"] == [17_420, 7]
    assert (facts["months"], facts["complete_months"]) == (24, 23)
    check_splits(load("etth1", folder), frame)


def test_real_table_as_prepared_here():
    if not REAL[0].exists():
        pytest.skip("data/etth1 is not prepared: python data_scripts/ett.py etth1")
    assert len(load("etth1", ROOT / "data").test.months) == 6


def test_an_unknown_preset_names_those_there_are():
    assert preset_of("etth1") is PRESETS["etth1"]
    with pytest.raises(ValueError, match="unknown preset 'etth3'; there are etth1, "):
        preset_of("etth3")
