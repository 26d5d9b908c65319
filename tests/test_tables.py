"""A user's own table: from rows to sequences and back, what is refused, a fit that survives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda import sets, tables
from diffsda.data import Scale
from diffsda.disentangler import Disentangler, keep_aside, worth
from diffsda.tables import OWN, Layout, Tables, binned, cut, example_table, records, sequences
from diffsda.training import TrainConfig

DAYS = Tables(time="date", group="station", window=24)
TINY = replace(
    OWN, s_dim=4, d_dim=2, hidden=8, enc_width=16, dec_width=16, embedding=16,
    levels=4, config=TrainConfig(steps=6, batch=8, lr=1e-3, save_every=2),
)  # fmt: skip


def fit(table, adapter=DAYS, preset=TINY, progress=False, **options):
    return Disentangler.fit(table, adapter, preset, progress=progress, **options)


@pytest.fixture(scope="module")
def table():
    return example_table(days=10)


@pytest.fixture(scope="module")
def model(table):
    return fit(table)


def of(table, *stations):
    return table[table["station"].isin(stations)]


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
    layout = Tables(time="t", group="who", window=window, stride=stride if window else 0)
    pieces = cut(mixed, layout)
    assert set(pieces.names) == set(groups)
    for x, mask, V, owner, place in zip(
        pieces.data.x,
        pieces.data.mask,
        *(y.tolist() for y in (pieces.lengths, pieces.owner, pieces.place)),
    ):
        own = made[made["who"] == pieces.names[owner]]
        assert np.array_equal(pieces.times[owner], own["t"])
        values = torch.where(mask.expand_as(x), x, torch.nan)[:V]
        assert np.array_equal(values, own[["a", "b"]].iloc[place : place + V], equal_nan=True)
    count = lambda n: len(range(0, n - (window or n) + 1, stride if window else n))
    assert len(pieces) == sum(map(count, lengths))

    whole, _ = layout.fitted(mixed)
    pieces = whole.pieces(mixed)
    back = whole.things(pieces.joined(pieces.data.x), pieces)
    assert list(back.columns) == ["who", "t", "a", "b"] and len(back) == len(made)
    both = back.merge(made.fillna(0), on=["who", "t"], validate="one_to_one")
    for name in ("a", "b"):
        assert np.allclose(both[f"{name}_x"], both[f"{name}_y"], atol=1e-6)


def test_arrays_of_every_kind_are_the_same_sequences():
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    kinds = [x, torch.as_tensor(x), list(x), {f"p{i}": part for i, part in enumerate(x)}]
    for kind in kinds:
        assert np.array_equal(sequences(kind).x, x)
    long = sequences(x.reshape(24, 3), Layout(window=6))
    assert np.array_equal(long.x, x)
    assert cut(kinds[3]).names == ("p0", "p1", "p2", "p3")
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


def test_dates_durations_and_periods_are_no_numbers(table):
    timely = {
        "when": table["date"],
        "zoned": table["date"].dt.tz_localize("UTC"),
        "since": (table["date"] - table["date"][0]).where(table.index != 3),
        "day": table["date"].dt.to_period("D"),
    }
    adapter, told = DAYS.fitted(table.assign(**timely))
    assert adapter.values == ("flow", "pressure")
    assert told == ("columns without numbers are left out: when, zoned, since, day",)


def test_columns_may_be_called_by_numbers():
    rows = np.random.default_rng(0).standard_normal((12, 3))
    held = pd.DataFrame(rows)
    assert sequences(held, Layout(values=(2, 0))).x.shape == (1, 12, 2)
    assert sequences(held, Layout(leave_out=(0,))).x.shape == (1, 12, 2)
    held[3] = np.repeat([4, 5], 6)
    pieces = cut(held, Layout(group=3, window=np.int64(6)))
    assert pieces.names == ("4", "5") and pieces.data.x.shape == (2, 6, 3)
    assert Layout(time=None, group=None) == Layout()


def test_times_with_a_zone_are_put_in_utc():
    zoned = pd.DataFrame({"t": ["2024-01-01T01:00+01:00", "2024-01-01T01:00+00:00"], "a": [1.0, 2]})
    assert cut(zoned, Layout(time="t")).times[0][0] == np.datetime64("2024-01-01T00:00")


FORMATS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y %H:%M", "%d-%m-%Y", "%m/%d/%Y %I:%M %p", "%d/%m/%y",
    "%b %d, %Y", "%d %B %Y", "%d-%b-%Y",
)  # fmt: skip


def dated(days, form, **layout):
    written = pd.DataFrame({"t": days.strftime(form), "a": np.arange(len(days), dtype=float)})
    return written, Tables(time="t", **layout).fitted(written)


@pytest.mark.parametrize("date_format", FORMATS)
def test_dates_are_read_as_they_are_written_and_it_is_said(date_format):
    days = pd.date_range("2024-01-20", periods=30, freq="D")
    written, (adapter, told) = dated(days, date_format)
    assert told == (f"dates are read as {date_format}",)
    assert (adapter.pieces(written).times[0] == days.to_numpy()).all()
    assert dated(days, date_format, date_format=date_format)[1] == (adapter, ())


@pytest.mark.parametrize("date_format", ["%Y-%m-%d", "%Y/%m/%d", "%Y-%m-%dT%H:%M", "%Y%m%d"])
def test_dates_with_the_year_first_need_no_guess(date_format):
    days = pd.date_range("2024-01-20", periods=30, freq="D")
    written, (adapter, told) = dated(days, date_format)
    assert told == () and adapter.date_format == ""
    assert (adapter.pieces(written).times[0] == days.to_numpy()).all()


def test_dates_that_rise_in_one_reading_only_are_of_that_one():
    days = pd.to_datetime(["2024-01-10", "2024-02-09", "2024-03-08"])  # else October to August
    assert dated(days, "%d/%m/%Y")[1][0].date_format == "%d/%m/%Y"
    with pytest.raises(ValueError, match="'03/01/2024' may be %d/%m/%Y or %m/%d/%Y; say which"):
        dated(pd.to_datetime(["2024-03-01", "2024-04-02"]), "%m/%d/%Y")  # rises in both


def test_numbers_that_are_dates_and_dates_that_are_none():
    days = pd.date_range("2024-01-20", periods=20, freq="D")
    written = pd.DataFrame({"t": days.strftime("%Y%m%d").astype(int), "a": 1.0})
    layout = Tables(time="t", date_format="%Y%m%d", values=("a",))
    assert (layout.pieces(written).times[0] == days.to_numpy()).all()
    text, _ = dated(days, "%d.%m.%Y")
    text.loc[7, "t"] = "31.02.2024"
    with pytest.raises(ValueError, match="row 7 .*'31.02.2024' is no date of the form %d.%m.%Y"):
        cut(text, Tables(time="t").fitted(text)[0])


@pytest.mark.parametrize("stride", [0, 6, 24, 30])
def test_what_is_kept_aside_shares_no_row_with_training(table, stride):
    pieces = cut(table, replace(DAYS, stride=stride))
    first, aside = keep_aside(pieces, 0.3, whole=False)
    frames = lambda part: {
        (int(pieces.owner[i]), int(pieces.place[i]) + v) for i in part for v in range(24)
    }
    assert not frames(first) & frames(aside)
    last = lambda part, thing: max(v for owner, v in frames(part) if owner == thing)
    for thing in range(5):  # from each station, and its last days
        assert last(first, thing) < last(aside, thing)


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
    "misspelt left out": (lambda t: t, {"leave_out": ("flwo",)}, "no column 'flwo'; did you mean 'flow'"),
    "text among numbers": (lambda t: changed(t, 7, flow="n/a"), {}, "'flow', row 7 .*line 9.*'n/a' is not"),
    "infinite": (lambda t: changed(t, 3, flow=np.inf), {}, "'flow', row 3 .*inf is not a finite number"),
    "no numbers": (lambda t: t[["station", "date"]], {}, "no column holds numbers"),
    "no date": (lambda t: changed(t, 5, date="yesterday"), {}, "'date', row 5 .*'yesterday' is no date; write"),
    "which month?": (lambda t: changed(t, date="01/02/2024"), {}, "'01/02/2024' may be .* say which: date_format='%d/%m/%Y'"),
    "unsorted": (lambda t: t[::-1], {}, "row 1 .*comes before .*row 0.*sort_values"),
    "twice": (lambda t: pd.concat([t[:1], t]), {}, "row 1 .*repeats .*keep one of the two"),
    "groups unnamed": (lambda t: t, {"group": ""}, "name the column: group="),
    "gap": (lambda t: t.drop(index=[5, 6]), {}, "group 'north': after 2024-01-01 04.* bin=\"1h\".*months.*leave time out"),
    "no group": (lambda t: changed(t, 4, station=None), {}, "'station', row 4 .*names no group"),
    "silent group": (
        lambda t: t.assign(flow=t["flow"].where(t["station"] != "hill")),
        {"values": ("flow",)}, "group 'hill' has no value in any of flow",
    ),
    "constant": (lambda t: t.assign(flow=1.5), {}, r"column 'flow' is 1.5 in every row.*values=\('pressure',\)"),
    "never there": (lambda t: t.assign(flow=np.nan), {}, "column 'flow' holds no value"),
    "long window": (lambda t: t, {"window": 999}, "window of 999 steps.*longest.* 240 steps; make the window shorter"),
    "few sequences": (lambda t: t[:240], {"window": 240}, "one sequence of 240 frames is too little.*stride"),
    "no rows": (lambda t: t[:0], {}, "the table has no rows"),
    "two names": (lambda t: pd.concat([t, t["flow"]], axis=1), {}, "two columns are called 'flow'"),
    "no width": (lambda t: t, {"bin": "hourly"}, "bin must be a duration such as 1h.*'hourly'"),
    "date in the index": (lambda t: t.set_index("date"), {}, r"no column 'date'; .*table.reset_index\(\)"),
    "dates as values": (lambda t: t, {"time": "", "values": ("date",)}, "'date' holds datetime64.*, expected numbers"),
    "durations as values": (
        lambda t: t.assign(flow=t["date"] - t["date"][0]), {"values": ("flow",)},
        "'flow' holds timedelta64.* .dt.total_seconds",
    ),
    "one spelling": (
        lambda t: pd.concat([t.assign(station=7), t.assign(station="7")]), {"time": ""},
        "'station' has 7 as a number and as text",
    ),
    "data frames": (lambda t: {"a": t, "b": t[["date", "pressure", "flow"]]}, {}, "several data frames must become one.*concat"),
    "absurd width": (lambda t: t, {"bin": "1s"}, "group 'north' would have .* steps for 240 rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_table_is_refused_with_place_and_remedy(table, case, tmp_path):
    spoil, layout, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(spoil(table), replace(DAYS, **layout), folder=tmp_path / "m")
    assert not (tmp_path / "m").exists(), "refused before any work"


@pytest.mark.parametrize(
    "layout, message",
    [
        ({"values": "flow"}, "must be a tuple"),
        ({"window": -1}, "window must be"),
        ({"window": 2.0}, "window must be"),
        ({"stride": 3}, "needs a window"),
        ({"bin": "1h"}, "name their column"),
        ({"time": "t", "values": ("t", "a")}, "'t' is in values and in time"),
        ({"group": "g", "values": ("g", "a")}, "'g' is in values and in group"),
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
    fit(longer, progress=True)
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

    def reconstruct(self, data, x_T, **sampling):
        return replace(data, x=data.x * self.share)


def test_worth_at_both_ends(table):
    pieces = cut(table, DAYS)
    scale = Scale.fit(pieces.data)
    data = scale.apply(pieces.data)
    perfect, nothing = (worth(Oracle(share), data, ("flow", "pressure")) for share in (1.0, 0.0))
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
    assert model.network.encoder.frames.mask_channel
    whole = fit(table, replace(DAYS, values=("pressure",)))
    assert not whole.network.encoder.frames.mask_channel


def test_codes_are_labelled_by_group_and_time(table, model):
    s, d = model.encode(table)
    assert s.index.name == "station" and list(s.index) == list(tables.STATIONS)
    assert list(s.columns) == ["s0", "s1", "s2", "s3"] and list(d.columns) == ["d0", "d1"]
    assert len(d) == len(table) and d.index.names == ["station", "date"]
    assert (d.index.get_level_values("date") == table["date"]).all()
    hill = model.encode(of(table, "hill"))
    assert np.allclose(hill.d, d.loc["hill"], atol=1e-5)  # a group's codes are its own affair
    assert np.allclose(hill.s, s.loc[["hill"]], atol=1e-5)


def test_swap_has_the_name_of_one_and_the_times_of_the_other(table, model):
    late = of(table, "hill")[72:]
    swapped = model.swap(of(table, "north"), late)
    assert set(swapped["station"]) == {"north"}
    assert (swapped["date"].to_numpy() == late["date"].to_numpy()).all()
    assert list(swapped.columns) == list(table.columns) and swapped.notna().all().all()
    other = model.swap(of(table, "south"), late)
    assert not swapped[["flow", "pressure"]].equals(other[["flow", "pressure"]])


def test_one_static_code_goes_with_many_groups_or_each_with_its_own(table, model):
    north, two = of(table, "north"), of(table, "hill", "centre")
    assert list(model.swap(north, two)["station"].unique()) == ["hill", "centre"]
    assert list(model.swap(of(table, "north", "south"), two)["station"].unique()) == [
        "north",
        "south",
    ]
    for static in (two, table):
        with pytest.raises(ValueError, match="do not pair up; give one"):
            model.swap(static, of(table, "north", "south", "hill"))


def test_ragged_arrays_from_fit_to_sample():
    g = np.random.default_rng(0)
    people = [g.standard_normal((n, 3)) for n in (5, 7, 5, 9, 7, 5, 9, 5, 7, 5)]
    model = fit(people, Tables())
    s, d = model.encode(people)
    assert len(s) == 10 and len(d) == sum(map(len, people))
    assert len(model.reconstruct(people[1])) == 7
    with pytest.raises(ValueError, match="no prior"):
        model.sample(2)
    model.fit_prior(people, TrainConfig(steps=2, batch=4), progress=False)
    drawn = model.sample(6, seed=1)
    assert set(drawn.groupby("group").size()) <= {5, 7, 9}
    assert list(drawn.columns) == ["group", "0", "1", "2"]
    assert np.isfinite(drawn[["0", "1", "2"]].to_numpy()).all()
    assert drawn.equals(model.sample(6, seed=1)) and not drawn.equals(model.sample(6, seed=2))


def test_fit_leaves_the_random_numbers_of_its_caller(table):
    torch.manual_seed(5)
    fit(table)
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
        fit(table, folder=tmp_path)
    with pytest.raises(ValueError, match="stopped before its end"):
        Disentangler.load(tmp_path, Tables)
    again = fit(table, folder=tmp_path)
    assert len(calls) == 4 + 4, "steps 1 and 2 were kept"
    assert again.encode(table).s.equals(model.encode(table).s)
    assert again.worth.equals(model.worth) and again.curve == model.curve


def test_a_folder_keeps_everything_and_belongs_to_one_table(table, model, tmp_path):
    kept = fit(table, folder=tmp_path)
    again = Disentangler.load(tmp_path, Tables)
    hill, north = of(table, "hill"), of(table, "north")
    assert again.encode(table).d.equals(kept.encode(table).d)
    assert again.swap(hill, north).equals(kept.swap(hill, north))
    assert again.adapter == kept.adapter == replace(DAYS, values=("flow", "pressure"))
    pd.testing.assert_frame_equal(again.worth, kept.worth)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    kinds = {".json", ".jsonl", ".safetensors", ".lock"}
    assert {path.suffix for path in files} == kinds, "no pickles"
    for other, adapter in (
        (example_table(days=10, seed=1), DAYS),
        (table, replace(DAYS, stride=12)),
    ):
        with pytest.raises(ValueError, match="other data, or of another way to read them"):
            fit(other, adapter, folder=tmp_path)
    with pytest.raises(ValueError, match="other settings: .*seed"):
        other = replace(TINY, config=replace(TINY.config, seed=9))
        fit(table, preset=other, folder=tmp_path)
    assert Disentangler.load(tmp_path, Tables).encode(table).s.equals(kept.encode(table).s)


def test_records_keep_groups_apart(table):
    found = records(table.sort_values("date", kind="stable"), DAYS, ["pressure"])
    assert [record.group for record in found] == list(tables.STATIONS)
    for record in found:
        own = table.loc[table["station"] == record.group, "pressure"]
        assert np.array_equal(record.values[:, 0], own.to_numpy(np.float32))


def test_an_archive_with_any_byte_flipped_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "table.npz"
    np.savez_compressed(path, a=np.arange(50.0), b=np.arange(50.0) % 3)
    content, refused = path.read_bytes(), 0
    for i in range(0, len(content), 5):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
        try:
            tables.read_table(path)
        except ValueError as error:
            assert "table.npz cannot be read" in str(error)
            refused += 1
    assert refused > len(content) // 20


@pytest.mark.parametrize("spoilt", [b"(", b"}", b"\0", b"'", b"\xff"])
def test_an_array_with_a_spoilt_header_is_refused_by_name(tmp_path, spoilt):
    path = tmp_path / "table.npy"
    np.save(path, np.arange(50.0))
    content = path.read_bytes()
    end = content.index(b"}") + 1
    path.write_bytes(content[:end] + spoilt + content[end + 1 :])
    with pytest.raises(ValueError, match="table.npy cannot be read"):
        tables.read_table(path)


def test_values_between_semicolons_are_told_from_a_table_without_numbers(tmp_path):
    path = tmp_path / "german.csv"
    pd.DataFrame({"a": [1.5, 2.0], "b": [0.5, 1.0]}).to_csv(path, sep=";", decimal=",", index=False)
    with pytest.raises(ValueError, match="german.csv has one column, 'a;b'.*sep=';', decimal=','"):
        tables.read_table(path)
    pd.DataFrame({"a": [1.5, 2.0]}).to_csv(path, index=False)
    assert list(tables.read_table(path)["a"]) == [1.5, 2.0]


def test_groups_of_a_file_are_called_as_they_are_written(tmp_path):
    path, layout = tmp_path / "rooms.csv", tables.Layout(group="room", window=3)
    rows = [f"{room},{i},{i * i}" for room in ("007", "7", "1e3") for i in range(6)]
    path.write_text("\n".join(["room,a,b", *rows]))
    assert tables.cut(path, layout).names == ("007", "7", "1e3")
    path.write_text("\n".join(["room,a,b", *rows[:9], "NA,1,2", *rows[9:]]))
    with pytest.raises(ValueError, match="'room', row 9 .*names no group; .*NA, None"):
        tables.cut(path, layout)


@pytest.mark.parametrize("width", ["0.1", "0.01", "0.05", "0.25", "2", "0.001"])
@pytest.mark.parametrize("start", [0, 1_700_000_000])
def test_regular_decimal_times_are_left_as_they_are(width, start):
    times = start + float(width) * np.arange(400)
    table = pd.DataFrame({"t": times, "a": np.arange(400.0)})
    (plain,), (in_bins,) = (tables._records(table, Layout(time="t", bin=b)) for b in ("", width))
    assert np.array_equal(plain.values, in_bins.values) and len(in_bins.times) == 400
    late = table.drop(index=7)
    with pytest.raises(ValueError, match=f"after {times[6]:.15g} comes {times[8]:.15g}"):
        tables._records(late, Layout(time="t"))


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_steps_of_a_millisecond_fill_their_bins(unit):
    times = np.datetime64("2024-01-01", unit) + np.arange(4000) * np.timedelta64(1, "ms")
    table = pd.DataFrame({"t": times, "a": np.arange(4000.0)})
    (found,) = tables._records(table, Layout(time="t", bin="1ms"))
    assert np.array_equal(found.values[:, 0], table.a)


def test_groups_that_are_days_have_one_spelling():
    days = pd.date_range("2024-01-01", periods=3).repeat(8)
    table = pd.DataFrame({"day": days, "a": np.arange(24.0), "kind": np.repeat([1, 2, 3], 8)})
    adapter = Tables(group="day", window=4, values=("a",))
    groups = adapter.groups(table)
    assert [len(part) for part in groups.values()] == [8, 8, 8]
    assert set(groups) == set(adapter.labels(table, "kind")) == set(adapter.pieces(table).names)


def test_a_gap_as_long_as_a_piece_is_named(table):
    holed = table.copy()
    holed.loc[100:219, holed.columns.difference(["date", "station"])] = np.nan
    adapter, _ = DAYS.fitted(holed)
    with pytest.raises(
        ValueError, match="has no value at all in the .* steps from .*fill that gap"
    ):
        adapter.pieces(holed)


def test_a_counter_of_rows_is_no_column(tmp_path):
    table = example_table(days=3)
    for held in (table, table.drop(index=[3, 7]), pd.concat([table[:9], table[:9]])):
        held.to_csv(tmp_path / "t.csv")
        assert list(tables.read_table(tmp_path / "t.csv")) == list(table)
    table.set_index("flow" if "flow" in table else table.columns[-1]).rename_axis(None).to_csv(
        tmp_path / "u.csv"
    )
    assert list(tables.read_table(tmp_path / "u.csv"))[0] == "Unnamed: 0", "numbers are kept"


def test_rows_may_end_in_a_comma_but_hold_no_cell_without_a_column(tmp_path):
    path, rows = tmp_path / "t.csv", [f"2024-01-{i:02},{i},{i / 2}" for i in range(1, 21)]
    path.write_text("date,flow,pressure\n" + "\n".join(rows))
    plain = tables.read_table(path)
    path.write_text("date,flow,pressure\n" + ",\n".join(rows) + ",\n")
    pd.testing.assert_frame_equal(tables.read_table(path), plain)
    path.write_text("flow,pressure\n" + "\n".join(rows))  # as R's write.table does
    with pytest.raises(ValueError, match="more cells than its header, flow, pressure, has names"):
        tables.read_table(path)


def test_columns_may_be_called_as_the_counters_of_new_things():
    rows = np.random.default_rng(0).standard_normal((48, 2))
    held = pd.DataFrame(rows, columns=["step", "group"]).assign(t=np.arange(48.0))
    model = fit(held, Tables(time="t", window=6))
    assert list(model.reconstruct(held)) == ["t", "step", "group"]
    model.fit_prior(held, replace(TINY.config, steps=2), progress=False)
    assert list(model.sample(2)) == ["step", "group"]
