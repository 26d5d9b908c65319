"""The batch contract: what a batch counts as observed, that its parts stay aligned, and that wrong input stops at the door."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffsda.data import TOYS, Scale, Sequences, bump, carry, draw_strings, rotor, toy_splits

quick = settings(deadline=None, max_examples=40)


@st.composite
def parts(draw, min_b=1):
    """The arguments of a batch of any frame shape: ragged, with holes (NaN in x), labelled by sequence and by frame."""
    B, V = draw(st.integers(min_b, 5)), draw(st.integers(1, 5))
    frame = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(B, V, *frame, generator=g)
    lengths = torch.randint(1, V + 1, (B,), generator=g)
    observed = None
    if draw(st.booleans()):
        observed = torch.rand(x.shape, generator=g) < draw(st.floats(0, 1))
        observed[(slice(None),) + (0,) * (x.ndim - 1)] = True  # something in every sequence
        x[~observed] = math.nan
    return {
        "x": x,
        "lengths": lengths,
        "observed": observed,
        "static": {"who": torch.arange(B), "weight": torch.rand(B, generator=g)},
        "dynamic": {"when": torch.arange(B * V).view(B, V)},
        "classes": {"who": tuple("abcde")},
    }


def expected_mask(p):
    """Where a batch counts as observed, by loops: the plain meaning of the contract."""
    mask = torch.zeros(p["x"].shape, dtype=torch.bool)
    for b, length in enumerate(p["lengths"].tolist()):
        for v in range(length):
            mask[b, v] = True if p["observed"] is None else p["observed"][b, v]
    return mask


def same(a, b):
    """Whether two batches hold the same, field by field."""
    pairs = [(a.x, b.x), (a.lengths, b.lengths), (a.mask.expand_as(a.x), b.mask.expand_as(b.x))]
    pairs += [(a.frame_mask, b.frame_mask)]
    pairs += [(a.static[k], b.static[k]) for k in a.static | b.static]
    pairs += [(a.dynamic[k], b.dynamic[k]) for k in a.dynamic | b.dynamic]
    return all(torch.equal(*pair) for pair in pairs) and a.classes == b.classes


def values_of(data, channel):
    """The observed values of one entry of the first frame axis."""
    return data.x[:, :, channel][data.mask.expand_as(data.x)[:, :, channel]].double()


# The contract


@quick
@given(parts())
def test_masks_say_what_exists_and_was_observed(p):
    data = Sequences(**p)
    mask = expected_mask(p)
    assert torch.equal(data.mask.expand_as(data.x), mask)
    assert data.frame_mask.sum() == p["lengths"].sum()
    assert torch.equal(data.frame_mask.sum(1), p["lengths"])
    assert len(data) == len(p["x"]) and data.frame == p["x"].shape[2:]
    assert torch.equal(data.x[mask], p["x"][mask])
    assert (data.x[~mask] == 0).all()


@quick
@given(parts())
def test_arguments_are_not_written_to(p):
    before = {k: p[k].clone() for k in ("x", "lengths") if p[k] is not None}
    data = Sequences(**p)
    kept = data.x.clone()
    data[:1], data.to("cpu"), Sequences.cat([data, data])
    scale = Scale(torch.ones(data.frame), torch.ones(data.frame))
    scale.undo(scale.apply(data).x)
    assert torch.equal(p["lengths"], before["lengths"])
    assert torch.equal(p["x"].nan_to_num(7.0), before["x"].nan_to_num(7.0))
    assert torch.equal(data.x, kept)


def test_lengths_and_observed_may_be_left_out():
    x = torch.randn(3, 4, 2)
    data = Sequences(x)
    assert data.lengths.tolist() == [4, 4, 4] and data.observed is None
    assert data.mask.all() and data.frame_mask.all() and torch.equal(data.x, x)
    assert same(data, Sequences(x, lengths=[4, 4, 4], observed=torch.ones_like(x).bool()))


def test_gradient_of_values_nobody_observed_is_zero():
    x = torch.randn(2, 4, 3, requires_grad=True)
    observed = torch.rand(2, 4, 3) < 0.5
    observed[:, 0] = True
    data = Sequences(x, lengths=[3, 4], observed=observed)
    (data.x * torch.randn(2, 4, 3)).sum().backward()
    assert ((x.grad != 0) == data.mask).all()


# Rows


@quick
@given(parts(), st.data())
def test_picked_rows_stay_aligned(p, draw):
    data = Sequences(**p)
    rows = draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=6))
    picked = data[rows]
    assert same(picked, data[torch.tensor(rows)])
    for i, row in enumerate(rows):
        assert torch.equal(picked.x[i], data.x[row])
        assert torch.equal(picked.mask[i], data.mask[row])
        assert picked.lengths[i] == data.lengths[row]
        assert picked.static["who"][i] == row
        assert torch.equal(picked.dynamic["when"][i], data.dynamic["when"][row])


@quick
@given(parts(), st.integers(1, 4))
def test_cutting_and_joining_gives_the_whole(p, size):
    data = Sequences(**p)
    cut = [data[i : i + size] for i in range(0, len(data), size)]
    assert same(Sequences.cat(cut), data)
    assert same(data.to("cpu"), data) and same(data.to(torch.device("cpu")), data)


@pytest.mark.parametrize("rows", [0, -1, True, torch.tensor(1), (slice(0, 2), slice(0, 2))])
def test_picking_one_without_its_batch_axis_is_refused(rows):
    with pytest.raises(ValueError, match="batch axis"):
        Sequences(torch.randn(3, 3, 3))[rows]


def test_numpy_rows():
    np = pytest.importorskip("numpy")
    data = Sequences(torch.randn(3, 4, 2))
    assert torch.equal(data[np.array([2, 0])].x, data.x[[2, 0]])
    with pytest.raises(ValueError, match="batch axis"):
        data[np.int64(1)]


@pytest.mark.parametrize(
    "other, what",
    [
        (Sequences(torch.ones(2, 4, 3)), "frame"),
        (Sequences(torch.ones(2, 5, 2)), "frame"),
        (Sequences(torch.ones(2, 4, 2), observed=torch.ones(2, 4, 2).bool()), "observed"),
        (Sequences(torch.ones(2, 4, 2), static={"who": torch.zeros(2)}), "labels"),
        (Sequences(torch.ones(2, 4, 2), classes={"who": ("a",)}), "labels"),
        (Sequences(torch.ones(2, 4, 2), scale=Scale(torch.zeros(2), torch.ones(2))), "scale"),
    ],
)
def test_only_batches_of_one_kind_are_joined(other, what):
    with pytest.raises(ValueError, match=what):
        Sequences.cat([Sequences(torch.ones(2, 4, 2)), other])


def test_joining_nothing():
    with pytest.raises(ValueError, match="parts"):
        Sequences.cat([])


# Wrong input stops, and the text names the argument and says what came

X = torch.zeros(2, 4, 3)
NAN = torch.full((2, 4, 3), math.nan)
SOME = torch.ones(2, 4, 3).bool()
NONE_OF_SECOND = SOME.clone()
NONE_OF_SECOND[1] = False


@pytest.mark.parametrize(
    "arguments, texts",
    [
        ({"x": torch.zeros(2, 4)}, ["x must be", "(2, 4)"]),
        ({"x": torch.zeros(2)}, ["x must be", "(2,)"]),
        ({"x": torch.zeros(2, 4, 3).long()}, ["x must be", "int64"]),
        ({"x": torch.zeros(2, 4, 3).bool()}, ["x must be", "bool"]),
        ({"x": [[[1.0]]]}, ["x must be", "list"]),
        ({"x": torch.zeros(0, 4, 3)}, ["x is empty", "(0, 4, 3)"]),
        ({"x": torch.zeros(2, 0, 3)}, ["x is empty", "(2, 0, 3)"]),
        ({"x": torch.zeros(2, 4, 0)}, ["x is empty", "(2, 4, 0)"]),
        ({"x": NAN}, ["x holds NaN", "observed=x.isfinite()"]),
        ({"x": X + math.inf}, ["x holds", "infinite"]),
        ({"x": NAN, "observed": NAN.isfinite()}, ["sequence 0", "no observed value"]),
        ({"x": X, "observed": NONE_OF_SECOND}, ["sequence 1", "no observed value"]),
        ({"x": X, "observed": SOME[:1]}, ["observed", "(2, 4, 3)", "(1, 4, 3)"]),
        ({"x": X, "observed": SOME[:, :, 0]}, ["observed", "(2, 4)"]),
        ({"x": X, "observed": SOME.float()}, ["observed", "float32"]),
        ({"x": X, "observed": SOME.tolist()}, ["observed", "list"]),
        ({"x": X, "lengths": [4, 0]}, ["lengths", "1..4", "0 to 4"]),
        ({"x": X, "lengths": [5, 4]}, ["lengths", "1..4", "4 to 5"]),
        ({"x": X, "lengths": [4]}, ["lengths", "2 whole numbers", "(1,)"]),
        ({"x": X, "lengths": 4}, ["lengths", "()"]),
        ({"x": X, "lengths": [4.0, 3.0]}, ["lengths", "float32"]),
        ({"x": X, "lengths": [True, True]}, ["lengths", "bool"]),
        ({"x": X, "static": {"who": torch.zeros(3).long()}}, ["static", "'who'", "(2,)", "(3,)"]),
        ({"x": X, "static": {"who": [0, 1]}}, ["static", "'who'", "list"]),
        ({"x": X, "static": {"who": torch.tensor([0, -2])}}, ["static", "'who'", "-2 to 0"]),
        (
            {"x": X, "static": {"who": torch.tensor([0, 2])}, "classes": {"who": ("a", "b")}},
            ["static", "'who'", "0 to 2", "a, b"],
        ),
        ({"x": X, "dynamic": {"how": torch.zeros(2).long()}}, ["dynamic", "'how'", "(2, 4)"]),
        (
            {"x": X, "dynamic": {"how": 3 + torch.zeros(2, 4).long()}, "classes": {"how": "abc"}},
            ["dynamic", "'how'", "3 to 3"],
        ),
    ],
)
def test_wrong_batches_are_refused(arguments, texts):
    with pytest.raises(ValueError) as error:
        Sequences(**arguments)
    assert all(text in str(error.value) for text in texts), error.value


def test_unknown_labels_are_welcome():
    labels = {"who": torch.tensor([-1, 1]), "weight": torch.tensor([math.nan, 2.0])}
    data = Sequences(X, static=labels, classes={"who": ("a", "b")})
    assert data.static["who"][0] == -1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_classes_of_any_whole_numbers_are_held_in_64_bits(dtype):
    who = torch.tensor([0, 1], dtype=dtype)
    data = Sequences(X, static={"who": who}, dynamic={"what": who[:, None].expand(X.shape[:2])})
    assert data.static["who"].dtype == data.dynamic["what"].dtype == torch.int64
    assert data.static["who"].tolist() == [0, 1]


def test_what_padding_and_holes_held_does_not_matter():
    x = torch.randn(2, 4, 3)
    observed = SOME.clone()
    observed[0, 1, 2] = False
    wild = x.clone()
    wild[0, 1, 2], wild[1, 3:] = math.inf, math.nan
    assert same(
        Sequences(x, lengths=[4, 3], observed=observed),
        Sequences(wild, lengths=[4, 3], observed=observed),
    )


# Scale


@st.composite
def spread_out(draw):
    """A batch with at least a few observed values of every feature, and a mean and spread of each."""
    B, V, F = draw(st.integers(3, 6)), draw(st.integers(3, 6)), draw(st.integers(1, 4))
    trailing = draw(st.sampled_from([(), (3,)]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size, offset = (
        10 ** (4 * torch.rand(F, generator=g) - 2),
        3 * torch.randn(F, generator=g),
    )
    wide = (...,) + (None,) * len(trailing)
    x = torch.randn(B, V, F, *trailing, generator=g)
    x = size[wide] * (x + offset[wide])
    observed = torch.rand(x.shape, generator=g) < 0.7
    observed[:, :2] = True
    lengths = torch.randint(2, V + 1, (B,), generator=g)
    return Sequences(x, lengths=lengths, observed=observed)


@quick
@given(spread_out())
def test_scaled_values_have_mean_0_and_spread_one_half_feature_by_feature(data):
    scaled = Scale.fit(data).apply(data)
    for feature in range(data.frame[0]):
        values = values_of(scaled, feature)
        assert abs(values.mean()) < 1e-4
        assert abs(values.std(correction=0) - 0.5) < 1e-4
    assert (scaled.x[~scaled.mask] == 0).all()  # holes stay holes
    assert torch.equal(scaled.mask, data.mask) and data.scale is None


@quick
@given(spread_out())
def test_one_scale_for_everything(data):
    scale = Scale.fit(data, axes=())
    values = scale.apply(data).x[data.mask].double()
    assert scale.mean.numel() == 1
    assert abs(values.mean()) < 1e-4 and abs(values.std(correction=0) - 0.5) < 1e-4


@quick
@given(spread_out(), st.sampled_from([(0,), ()]))
def test_undo_gives_raw_units_back(data, axes):
    scaled = Scale.fit(data, axes).apply(data)
    back = scaled.scale.undo(scaled.x)
    assert torch.allclose(back[data.mask], data.x[data.mask], rtol=1e-4, atol=1e-4)
    assert torch.allclose(scaled.scale.undo(scaled.x[:1, 0])[0], back[0, 0])  # any leading axes


@quick
@given(spread_out())
def test_holes_have_no_say_in_the_scale(data):
    junk = torch.where(data.mask, data.x, 1e3)
    scale = Scale.fit(Sequences(junk, lengths=data.lengths, observed=data.observed))
    for feature in range(data.frame[0]):  # the statistics of observed values, and of no others
        values = values_of(data, feature)
        mean, std = scale.mean[feature].item(), scale.std[feature].item()
        assert math.isclose(mean, values.mean(), rel_tol=1e-5, abs_tol=1e-6 * std)
        assert math.isclose(std, values.std(correction=0), rel_tol=1e-5)


def test_scale_keeps_channels_apart_and_pixels_together():
    data = Sequences(torch.randn(20, 5, 2, 7) * torch.tensor([1.0, 50.0])[:, None])
    assert Scale.fit(data, axes=(0,)).std.shape == (2, 1)
    assert Scale.fit(data, axes=(0, 1)).std.shape == (2, 7)
    assert Scale.fit(data, axes=(-1,)).std.shape == (1, 7)
    assert Scale.fit(data, axes=()).std.shape == (1, 1)


def test_images_without_one_of_their_colours_have_one_scale_for_all():
    x = torch.rand(4, 5, 3, 6, 6)
    x[:, :, 0] = 0
    scale = Scale.fit(Sequences(x))
    assert scale.mean.shape == scale.std.shape == (1, 1, 1)
    made = scale.apply(Sequences(x))
    assert abs(made.x.mean()) < 1e-5 and abs(made.x.std(correction=0) - 0.5) < 1e-5
    assert torch.allclose(scale.undo(made.x), x, atol=1e-6)
    with pytest.raises(ValueError, match="constant"):
        Scale.fit(Sequences(torch.zeros(4, 5, 3, 6, 6)))


def test_rows_and_joins_keep_the_scale():
    train, _, _ = toy_splits("rotor", (20, 5, 5))
    assert train[:3].scale is train.scale and train.to("cpu").scale is train.scale
    assert Sequences.cat([train[:3], train[3:]]).scale is train.scale


CONSTANT = torch.randn(4, 5, 3)
CONSTANT[:, :, 1] = 0.1
UNSEEN = torch.ones(4, 5, 3).bool()
UNSEEN[:, :, 2] = False
GOOD = Sequences(torch.randn(4, 5, 3))


@pytest.mark.parametrize(
    "attempt, texts",
    [
        (lambda: Scale.fit(Sequences(CONSTANT)), ["feature 1", "constant", "0.1"]),
        (lambda: Scale.fit(Sequences(torch.zeros(4, 5, 3))), ["feature 0", "constant"]),
        (lambda: Scale.fit(Sequences(GOOD.x, observed=UNSEEN)), ["feature 2", "never observed"]),
        (lambda: Scale.fit(GOOD, axes=(1,)), ["axes", "(1,)", "(3,)"]),
        (lambda: Scale.fit(GOOD, axes=(-2,)), ["axes", "(-2,)"]),
        (lambda: Scale.fit(GOOD).apply(Scale.fit(GOOD).apply(GOOD)), ["normalised already"]),
        (lambda: Scale.fit(GOOD).apply(Sequences(torch.randn(4, 5, 1))), ["(1,)", "(3,)"]),
        (lambda: Scale.fit(GOOD).apply(Sequences(torch.randn(4, 5, 2, 3))), ["(2, 3)", "(3,)"]),
    ],
)
def test_wrong_scales_are_refused(attempt, texts):
    with pytest.raises(ValueError) as error:
        attempt()
    assert all(text in str(error.value) for text in texts), error.value


# Toys


@pytest.mark.parametrize("make", [bump, rotor])
def test_toys_are_reproducible_and_leave_the_callers_random_numbers_alone(make):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = make(20, seed=1), make(20, seed=1), make(20, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert same(a, b) and not torch.equal(a.x, c.x)
    assert all(a.static[k].max() < len(a.classes[k]) for k in a.static)
    assert all(a.dynamic[k].max() < len(a.classes[k]) for k in a.dynamic)
    assert make(2, V=7).x.shape[1] == 7


def test_bump_labels_tell_the_truth():
    data = bump(200, seed=3)
    light, echo = data.x.unbind(2)
    ring = 2 * math.pi / 16 * torch.arange(16)
    turn = torch.complex(light @ ring.cos(), light @ ring.sin()).angle() * 16 / (2 * math.pi)
    off = (turn - data.dynamic["position"] + 8) % 16 - 8  # the nearest pixel: at most half off
    assert off.abs().max() < 0.75
    step = ((turn.diff(dim=1) + 8) % 16 - 8).mean(1)
    speeds = torch.tensor([float(name) for name in data.classes["speed"]])
    assert (step - speeds[data.dynamic["speed"][:, 0]]).abs().max() < 0.05
    sign = (echo * light).sum((1, 2)) / (light**2).sum((1, 2))
    assert torch.equal(sign.round().long() + 1, data.static["sign"])
    area = light.sum(-1).mean(1)  # of a bump: its width times a constant
    by_width = [area[data.static["width"] == w] for w in range(4)]
    assert all(a.max() < b.min() for a, b in zip(by_width, by_width[1:]))


def test_rotor_labels_tell_the_truth():
    data = rotor(200, seed=3)
    offset = torch.tensor([-0.6, 0.0, 0.6])[data.static["offset"]]
    centred = data.x - offset[:, None, None]
    size = centred.abs().amax(1)  # (n, 4)
    assert torch.equal(size.argmax(1), data.static["pattern"])
    channel = data.static["pattern"]  # the strongest one: a cosine if even, a sine if odd
    strong = centred[torch.arange(200), :, channel]
    angle = math.pi / 4 * (data.dynamic["angle"] + 0.5)  # middle of the sector
    wave = torch.where((channel % 2 == 0)[:, None], angle.cos(), angle.sin())
    assert (strong - wave).abs().max() < math.pi / 8 + 0.15


@pytest.mark.parametrize("name", TOYS)
def test_splits_are_apart_and_scaled_by_the_first(name):
    train, val, test = toy_splits(name, (200, 40, 30), seed=1)
    assert [len(part) for part in (train, val, test)] == [200, 40, 30]
    assert train.scale is val.scale and train.scale is test.scale
    assert abs(train.x.std(correction=0) - 0.5) < 1e-3 and abs(train.x.mean()) < 1e-3
    others = [toy_splits(name, (30, 30, 30), seed=s) for s in (0, 1, 2)]
    first = torch.cat([part.scale.undo(part.x[:, 0]).flatten(1) for o in others for part in o])
    assert (torch.cdist(first, first) + torch.eye(len(first)) > 1e-4).all()  # no sequence twice


@pytest.mark.parametrize(
    "attempt, texts",
    [
        (lambda: toy_splits("swirl"), ["'swirl'", "bump", "rotor"]),
        (lambda: bump(0), ["n must", "0"]),
        (lambda: rotor(-1), ["n must", "-1"]),
        (lambda: bump(2.5), ["n must", "2.5"]),
        (lambda: rotor(3, V=0), ["V must", "0"]),
        (lambda: toy_splits("bump", (10, 0, 5)), ["n must", "0"]),
    ],
)
def test_wrong_toys_are_refused(attempt, texts):
    with pytest.raises(ValueError) as error:
        attempt()
    assert all(text in str(error.value) for text in texts), error.value


# Strings: several pieces of one owner


def test_strings_are_of_one_owner_and_repeat_no_piece():
    owner = torch.tensor([0, 1, 2, 0, 1, 0, -1, -1])
    rows = draw_strings(owner, 300, 2, seed=3)
    assert rows.shape == (300, 2) and (owner[rows[:, 0]] == owner[rows[:, 1]]).all()
    assert (rows[:, 0] != rows[:, 1]).all() and set(owner[rows].flatten().tolist()) == {0, 1}
    share = (owner[rows[:, 0]] == 0).float().mean()
    assert 0.4 < share < 0.6  # owners are drawn evenly, however many pieces they have
    assert torch.equal(rows, draw_strings(owner, 300, 2, seed=3))
    assert not torch.equal(rows, draw_strings(owner, 300, 2, seed=4))


@pytest.mark.parametrize("n, pieces, words", [(0, 2, "n"), (3, 0, "pieces"), (3, 4, "no owner")])
def test_strings_that_cannot_be_are_refused(n, pieces, words):
    with pytest.raises(ValueError, match=words):
        draw_strings(torch.tensor([0, 0, 0, 1]), n, pieces)


def test_ends_are_told_only_of_sequences_that_end_early():
    whole = Sequences(torch.zeros(2, 3, 1))
    assert whole.ends is None
    early = Sequences(torch.zeros(2, 3, 1), torch.tensor([3, 2]))
    assert early.ends.tolist() == [3, 2] and early[:1].ends is None


def test_a_tensor_that_repeats_its_numbers_can_go_to_a_gpu(monkeypatch):
    "Memory of its own is pinned; numbers that share a place cannot be."

    class Pinned(Exception):
        pass

    def pin(self):
        assert self.is_contiguous()
        raise Pinned

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    with pytest.raises(Pinned):
        carry(torch.arange(3)[:, None].expand(3, 4), "cuda")
