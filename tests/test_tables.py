"""A user's own table: from rows to sequences and back, what is refused, a fit that survives, the same numbers from a shell."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda import sets, tables
from diffsda.cli import command_line, main
from diffsda.commands import from_fields
from diffsda.tables import (
    OWN,
    Layout,
    TableModel,
    binned,
    cut,
    example_table,
    fit,
    keep_aside,
    records,
    sequences,
    worth,
)
from diffsda.training import TrainConfig

DAYS = Layout(time="date", group="station", window=24)
TINY = replace(
    OWN, s_dim=4, d_dim=2, hidden=8, enc_width=16, dec_width=16, embedding=16,
    config=TrainConfig(steps=6, batch=8, lr=1e-3, save_every=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return example_table(days=10)


@pytest.fixture(scope="module")
def model(table):
    return fit(table, DAYS, TINY, progress=False)


# ---- rows to sequences and back


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(3, 9), min_size=1, max_size=4),
    window=st.integers(0, 3),
    stride=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_table_comes_back_from_its_sequences(lengths, window, stride, seed):
    g = np.random.default_rng(seed)
    groups = np.repeat([f"g{i}" for i in range(len(lengths))], lengths)
    made = pd.DataFrame(g.standard_normal((len(groups), 2)).astype(np.float32), columns=["a", "b"])
    made["who"], made["t"] = groups, np.concatenate([np.arange(n) * 0.5 for n in lengths])
    made.loc[g.random(len(made)) < 0.2, "a"] = np.nan
    mixed = made.sample(frac=1, random_state=seed).sort_values("t")  # groups take turns
    layout = Layout(time="t", group="who", window=window, stride=stride if window else 0)
    pieces = cut(mixed, layout)
    back = pieces.to_frame().reset_index()
    assert list(back.columns) == ["who", "start", "t", "a", "b"]
    assert set(back["who"]) == set(groups)
    both = back.merge(made, on=["who", "t"], suffixes=("", "_table"), validate="many_to_one")
    assert len(both) == len(back)
    for name in ("a", "b"):
        assert np.array_equal(both[name], both[f"{name}_table"], equal_nan=True)
    if not window:
        assert len(back) == len(made) and sorted(pieces.data.lengths.tolist()) == sorted(lengths)
    else:
        count = lambda n: len(range(0, n - window + 1, stride))
        assert len(pieces.times) == sum(map(count, lengths))
        offsets = back["t"] - back["start"]
        assert np.array_equal(offsets, np.tile(np.arange(window) * 0.5, len(pieces.times)))


def test_arrays_of_every_kind_are_the_same_sequences():
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    kinds = [x, torch.as_tensor(x), list(x), {f"p{i}": part for i, part in enumerate(x)}]
    for kind in kinds:
        assert np.array_equal(sequences(kind).x, x)
    long = sequences(x.reshape(24, 3), Layout(window=6))
    assert np.array_equal(long.x, x)
    assert cut(kinds[3]).groups == ["p0", "p1", "p2", "p3"]
    assert np.array_equal(sequences(x, Layout(values=("2", "0"))).x, x[..., [2, 0]])


def test_holes_stay_holes(table):
    pieces = cut(table, DAYS)
    missing = table["flow"].isna().to_numpy().reshape(-1, 24)
    assert missing.any()
    assert np.array_equal(~pieces.data.mask[..., 0], missing)
    assert sequences(table, replace(DAYS, values=("pressure",))).observed is None


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(-500, 500), min_size=1, max_size=30, unique=True), st.sampled_from([7, 60])
)
def test_bins_are_means_of_what_falls_into_them(minutes, width):
    minutes = np.sort(minutes)
    values = minutes[:, None].astype(np.float32)
    epoch = np.datetime64("1970-01-01", "m")
    got = {}
    for kind, times, bin in (
        ("number", minutes.astype(float), str(width)),
        ("date", epoch + minutes, f"{width}min"),
    ):
        steps = binned(tables.Record("a", times, values), Layout(time="t", bin=bin))
        got[kind] = steps.values
        first = (
            steps.times[0]
            if kind == "number"
            else (steps.times[0] - epoch) / np.timedelta64(1, "m")
        )
        for i, mean in enumerate(steps.values[:, 0]):
            start = first + i * width
            inside = minutes[(minutes >= start) & (minutes < start + width)]
            assert (
                np.isnan(mean) if len(inside) == 0 else np.isclose(mean, inside.mean(), atol=1e-3)
            )
        assert first % width == 0 and first <= minutes[0] and start + width > minutes[-1]
    assert np.array_equal(got["number"], got["date"], equal_nan=True)


def test_times_with_a_zone_are_put_in_utc():
    zoned = pd.DataFrame({"t": ["2024-01-01T01:00+01:00", "2024-01-01T01:00+00:00"], "a": [1.0, 2]})
    assert cut(zoned, Layout(time="t")).times[0][0] == np.datetime64("2024-01-01T00:00")


@pytest.mark.parametrize("stride", [0, 6, 24, 30])
def test_what_is_kept_aside_shares_no_row_with_training(table, stride):
    pieces = cut(table, replace(DAYS, stride=stride))
    first, aside = keep_aside(pieces, 0.3)
    rows = lambda part: {
        (group, time)
        for i in part
        for group, time in [(pieces.groups[i], t) for t in pieces.times[i]]
    }
    assert not rows(first) & rows(aside)
    assert (
        {pieces.groups[i] for i in first}
        == {pieces.groups[i] for i in aside}
        == set(tables.STATIONS)
    )
    last = lambda part, group: max(pieces.times[i][0] for i in part if pieces.groups[i] == group)
    for group in tables.STATIONS:
        assert last(first, group) < last(aside, group)


def test_whole_groups_are_kept_aside_evenly():
    pieces = cut([np.random.rand(5, 2) for _ in range(20)])
    first, aside = keep_aside(pieces, 0.2)
    assert aside == [4, 9, 14, 19] and sorted(first + aside) == list(range(20))
    assert keep_aside(pieces, 0.0) == (list(range(20)), [])


# ---- what is refused


def changed(table, row=None, **columns):
    """A copy with one cell of each named column set, or the whole column."""
    copy = table.astype({name: object for name in columns})
    for name, value in columns.items():
        copy.loc[copy.index if row is None else row, name] = value
    return copy


WRONG = {
    "misspelt column": (lambda t: t, {"values": ("presure",)}, "no column 'presure'; did you mean 'pressure'"),
    "misspelt time": (lambda t: t, {"time": "dat"}, "no column 'dat'; did you mean 'date'"),
    "text among numbers": (lambda t: changed(t, 7, flow="n/a"), {}, "'flow', row 7 .*line 9.*'n/a' is not"),
    "infinite": (lambda t: changed(t, 3, flow=np.inf), {}, "'flow', row 3 .*inf is not a finite number"),
    "no numbers": (lambda t: t[["station", "date"]], {}, "no column holds numbers"),
    "no date": (lambda t: changed(t, 5, date="yesterday"), {}, "'date', row 5 .*'yesterday' is no date; write"),
    "which month?": (lambda t: changed(t, date="01/02/2024"), {}, "'01/02/2024' is no date; write dates as"),
    "unsorted": (lambda t: t[::-1], {}, "row 1 .*comes before .*row 0.*sort_values"),
    "twice": (lambda t: pd.concat([t[:1], t]), {}, "row 1 .*repeats .*keep one of the two"),
    "groups unnamed": (lambda t: t, {"group": ""}, "name the column: group="),
    "gap": (lambda t: t.drop(index=[5, 6]), {}, "group 'north': after 2024-01-01 04.* bin=\"1h\""),
    "no group": (lambda t: changed(t, 4, station=None), {}, "'station', row 4 .*names no group"),
    "silent group": (
        lambda t: t.assign(flow=t["flow"].where(t["station"] != "hill")),
        {"values": ("flow",)}, "group 'hill' has no value in any of flow",
    ),
    "constant": (lambda t: t.assign(flow=1.5), {}, r"column 'flow' is 1.5 in every row.*values=\('pressure',\)"),
    "never there": (lambda t: t.assign(flow=np.nan), {}, "column 'flow' holds no value"),
    "long window": (lambda t: t, {"window": 999}, "window of 999 steps.*longest.* 240 steps; make the window shorter"),
    "few sequences": (lambda t: t[:240], {"window": 240}, "1 sequences are too few.*stride"),
    "no rows": (lambda t: t[:0], {}, "the table has no rows"),
    "two names": (lambda t: pd.concat([t, t["flow"]], axis=1), {}, "two columns are called 'flow'"),
    "no width": (lambda t: t, {"bin": "hourly"}, "bin must be a duration such as 1h.*'hourly'"),
    "absurd width": (lambda t: t, {"bin": "1s"}, "group 'north' would have .* steps for 240 rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_table_is_refused_with_place_and_remedy(table, case, tmp_path):
    spoil, layout, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(spoil(table), replace(DAYS, **layout), TINY, folder=tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists(), "refused before any work"


@pytest.mark.parametrize(
    "layout, message",
    [
        ({"values": "flow"}, "must be a tuple"),
        ({"window": -1}, "window must be"),
        ({"window": 2.0}, "window must be"),
        ({"stride": 3}, "needs a window"),
        ({"bin": "1h"}, "name their column"),
    ],
)
def test_a_layout_that_cannot_be(layout, message):
    with pytest.raises(ValueError, match=message):
        Layout(**layout)


@pytest.mark.parametrize(
    "arrays, message",
    [
        (np.zeros(5), r"0 is \(\)"),
        ([np.zeros((5, 2)), np.zeros((4, 3))], r"0 is \(5, 2\), 1 is \(4, 3\)"),
        ([], "there is none"),
    ],
)
def test_arrays_that_are_no_sequences(arrays, message):
    with pytest.raises(ValueError, match=message):
        cut(arrays)


def test_what_is_left_out_is_said(table, capsys):
    longer = pd.concat([table.assign(city="x"), table[:5].assign(station="new")])
    longer.loc[longer["station"] == "hill", ["flow", "pressure"]] = np.nan
    longer.iloc[480, 2] = 1.0  # hill's first day
    fit(longer, DAYS, TINY)
    said = capsys.readouterr().out
    assert "columns without numbers are left out: city" in said
    assert "shorter than a window are left out: new" in said
    assert "without any value are left out: 9" in said
    assert "from codes" in said and "explain" in said


# ---- the fitted model


class Oracle:
    """Reconstructs everything exactly, but for a share of the way to 0, the column's mean."""

    def __init__(self, share):
        self.share = share

    def reconstruct(self, data, x_T):
        return replace(data, x=data.x * self.share)


def test_worth_at_both_ends(table):
    pieces = cut(table, DAYS)
    scale = tables.Scale.fit(pieces.data)
    data = scale.apply(pieces.data)
    perfect, nothing = (worth(Oracle(share), data, pieces.columns) for share in (1.0, 0.0))
    assert (perfect["from codes"] == 0).all() and (perfect["explained"] == 1).all()
    assert np.allclose(nothing["explained"], 0)
    std = table[["flow", "pressure"]].std(ddof=0)
    assert np.allclose(nothing["column's mean"], std, rtol=1e-4)
    daily = table.assign(day=table["date"].dt.date).groupby(["station", "day"])[
        ["flow", "pressure"]
    ]
    within = (table[["flow", "pressure"]] - daily.transform("mean")).pow(2).mean().pow(0.5)
    assert np.allclose(nothing["sequence's mean"], within, rtol=1e-4)


def test_the_encoder_is_told_of_holes_only_if_there_are_any(table, model):
    assert model.model.encoder.frames.mask_channel
    whole = fit(table, replace(DAYS, values=("pressure",)), TINY, progress=False)
    assert not whole.model.encoder.frames.mask_channel


def test_codes_are_labelled_by_group_and_time(table, model):
    s, d = model.encode(table)
    assert s.index.names == ["station", "start"] and list(s.columns) == ["s0", "s1", "s2", "s3"]
    assert len(s) == 50 and len(d) == len(table) and list(d.columns) == ["d0", "d1"]
    assert (d.index.get_level_values("date") == table["date"]).all()
    hill = model.encode(table[table["station"] == "hill"])
    assert np.allclose(hill.d, d.loc["hill"], atol=1e-5)  # a sequence's codes are its own affair


def test_swap_with_oneself_is_reconstruction(table, model):
    own = table[table["station"] == "south"]
    assert model.swap(own, "south", "south", seed=3).equals(model.reconstruct(own, seed=3))


def test_swap_has_the_name_of_one_and_the_times_of_the_other(table, model):
    late = table[(table["station"] != "hill") | (table["date"] >= "2024-01-04")]
    swapped = model.swap(late, "north", "hill")
    assert set(swapped.index.get_level_values("station")) == {"north"}
    hill = late[late["station"] == "hill"]
    assert (swapped.index.get_level_values("date") == hill["date"]).all()
    assert list(swapped.columns) == ["flow", "pressure"] and swapped.notna().all().all()
    assert not swapped.equals(model.swap(late, "south", "hill"))
    with pytest.raises(ValueError, match="no sequence of group 'hil'; did you mean 'hill'"):
        model.swap(late, "north", "hil")


def test_ragged_arrays_from_fit_to_sample():
    g = np.random.default_rng(0)
    people = [g.standard_normal((n, 3)) for n in (5, 7, 5, 9, 7, 5, 9, 5, 7, 5)]
    model = fit(people, preset=TINY, progress=False)
    s, d = model.encode(people)
    assert len(s) == 10 and len(d) == sum(map(len, people))
    with pytest.raises(ValueError, match="no prior"):
        model.sample(2)
    model.fit_prior(people, TrainConfig(steps=2, batch=4), progress=False)
    drawn = model.sample(6, seed=1)
    assert set(drawn.groupby(level="sequence").size()) <= {5, 7, 9}
    assert list(drawn.columns) == ["0", "1", "2"] and np.isfinite(drawn.to_numpy()).all()
    assert drawn.equals(model.sample(6, seed=1)) and not drawn.equals(model.sample(6, seed=2))


def test_fit_leaves_the_random_numbers_of_its_caller(table):
    torch.manual_seed(5)
    fit(table, DAYS, TINY, progress=False)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)


def test_a_killed_fit_goes_on_to_the_same_weights(table, model, tmp_path, monkeypatch):
    real, calls = sets.denoising_loss, []

    def dies_in_step_4(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(sets, "denoising_loss", dies_in_step_4)
    with pytest.raises(MemoryError):
        fit(table, DAYS, TINY, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="model.json does not exist"):
        TableModel.load(tmp_path)
    again = fit(table, DAYS, TINY, folder=tmp_path, progress=False)
    assert len(calls) == 4 + 4, "steps 1 and 2 were kept"
    assert again.encode(table).s.equals(model.encode(table).s)
    assert again.report.equals(model.report)


def test_a_folder_keeps_everything_and_belongs_to_one_table(table, model, tmp_path):
    kept = fit(table, DAYS, TINY, folder=tmp_path, progress=False)
    again = TableModel.load(tmp_path)
    assert again.encode(table).d.equals(kept.encode(table).d)
    assert again.swap(table, "hill", "north").equals(kept.swap(table, "hill", "north"))
    assert again.layout == DAYS and again.columns == kept.columns
    pd.testing.assert_frame_equal(again.report, kept.report)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors"}, "nothing is pickled"
    for other, layout in (
        (example_table(days=10, seed=1), DAYS),
        (table, replace(DAYS, stride=12)),
    ):
        with pytest.raises(ValueError, match="another table or layout"):
            fit(other, layout, TINY, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="other settings: .*seed"):
        other = replace(TINY, config=replace(TINY.config, seed=9))
        fit(table, DAYS, other, folder=tmp_path, progress=False)
    assert TableModel.load(tmp_path).encode(table).s.equals(kept.encode(table).s)


# ---- the same from a shell


def words(preset):
    """A preset as options; fields that are none have no option."""
    own = {f.name: getattr(preset, f.name) for f in fields(preset)}
    flat = own | {f.name: getattr(preset.config, f.name) for f in fields(preset.config)}
    return [
        word
        for name, value in flat.items()
        if value is not None and name not in ("config", "mask_channel")
        for word in (f"--{name}", str(value))
    ]


def test_every_field_is_an_option_and_arrives():
    args = command_line().parse_args(["train", "t.csv", "-o", "m", *words(TINY)])
    assert from_fields(OWN, args) == TINY
    args = command_line().parse_args(
        "train t.csv -o m --time date --group g --values a b --bin 1h --window 5 --stride 2".split()
    )
    assert from_fields(Layout(), args) == Layout("date", "g", ("a", "b"), "1h", 5, 2)


def test_commands_and_python_agree_to_the_bit(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "PRIOR", TrainConfig(steps=2, batch=4))
    table.to_csv("t.csv", index=False)
    layout = "--time date --group station --window 24 --quiet --prior".split()
    assert main(["train", "t.csv", "-o", "m", *layout, *words(TINY)]) == 0
    assert main("encode m t.csv -o codes".split()) == 0
    assert main("encode m t.csv -o codes.npz".split()) == 0
    assert main("swap m t.csv --static hill --dynamic north --seed 2 -o swap.csv".split()) == 0
    assert main("sample m -n 3 --seed 2 -o new.csv".split()) == 0
    assert capsys.readouterr().out.split("\n")[0] == "model: m"

    own = pd.read_csv("t.csv")
    model = fit(own, DAYS, TINY, prior=True, progress=False)
    s, d = model.encode(own)
    values = lambda path, index: pd.read_csv(path, index_col=list(range(index))).to_numpy(
        np.float32
    )
    assert np.array_equal(values("codes/s.csv", 2), s) and np.array_equal(
        values("codes/d.csv", 3), d
    )
    with np.load("codes.npz") as codes:
        assert np.array_equal(codes["s"], s) and np.array_equal(codes["d"], d)
        assert codes["d_station"].tolist() == list(table["station"])
    assert np.array_equal(values("swap.csv", 3), model.swap(own, "hill", "north", seed=2))
    assert np.array_equal(values("new.csv", 2), model.sample(3, seed=2))
    assert not list(tmp_path.glob(".*")), "no half-written file is left"


@pytest.mark.parametrize(
    "call, message",
    [
        ("train t.csv -o m --time dat", "no column 'dat'; did you mean 'date'"),
        ("train u.csv -o m", "no file u.csv; did you mean 't.csv'"),
        ("train broken.npz -o m", "broken.npz cannot be read"),
        ("train t.parquet -o m", "must end in one of .csv"),
        ("train t.csv -o m --widnow 24", "train does not take '--widnow'; did you mean '--window'"),
        ("train t.csv -o m --steps 0", "steps must be a whole number"),
        ("encode nowhere t.csv -o codes", "no checkpoint here"),
        ("encode nowhere t.csv -o codes.csv", "give a folder or an .npz"),
        ("sample nowhere -o new.csv", "no checkpoint here"),
        ("data get", "diffsda data get NAME"),
    ],
)
def test_wrong_calls_are_answered_and_leave_nothing(
    table, tmp_path, monkeypatch, capsys, call, message
):
    monkeypatch.chdir(tmp_path)
    table.to_csv("t.csv", index=False)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 half of a file")
    before = sorted(tmp_path.iterdir())
    assert main(call.split()) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_write_leaves_the_former_file(table, model, tmp_path, monkeypatch, capsys):
    model.save(tmp_path / "m")
    table.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.csv").write_text("former")

    def full(self, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert main("swap m t.csv --static hill --dynamic north -o out.csv".split()) == 1
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "former"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.csv", "t.csv"]


def test_data_hands_on_to_the_scripts(capfd):
    assert main(["data"]) == 0
    assert "etth1" in capfd.readouterr().out
    assert main(["data", "get", "ettth1"]) != 0
    assert "etth1" in capfd.readouterr().err


def test_records_keep_groups_apart(table):
    found = records(table.sort_values("date", kind="stable"), DAYS, ["pressure"])
    assert [record.group for record in found] == list(tables.STATIONS)
    for record in found:
        own = table.loc[table["station"] == record.group, "pressure"]
        assert np.array_equal(record.values[:, 0], own.to_numpy(np.float32))
