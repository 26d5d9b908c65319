"""Moving digits: exact labels, movements that obey their walls, drawings that follow their factors, and looks held back."""

import pytest
import torch

from diffsda.digits import (
    COLOURS,
    FORMS,
    HANDS,
    LOOKS,
    PATHS,
    SPINS,
    WALLS,
    digit_splits,
    draw_digits,
    glyphs,
    moving_digits,
)

PLACE = ("x", "y", "angle")


@pytest.fixture(scope="module")
def clips():
    return moving_digits(300, seed=3)


def light_centre(x):
    """The mean place of light, (n, V) each for x and y, in half pictures."""
    light = x.amax(2)  # (n, V, H, W)
    at = (torch.arange(light.shape[-1]) * 2 + 1) / light.shape[-1] - 1
    total = light.sum((-1, -2))
    return (light.sum(-2) * at).sum(-1) / total, (light.sum(-1) * at).sum(-1) / total


def test_forms_hold_the_same_digits():
    """Every form is one sheet: each digit 9 to 14 times, and all sheets together the whole set."""
    from sklearn.datasets import load_digits

    target = torch.tensor(load_digits().target)
    assert FORMS[0] == 0 and FORMS[-1] == len(target) and len(set(HANDS)) == 6
    first = target[:130].tolist()
    for begin, end in zip(FORMS, FORMS[1:]):
        sheet = iter(first)
        kept = sum(y in sheet for y in target[begin:end].tolist())  # in the printed order
        assert kept >= 0.8 * (end - begin)
        assert torch.bincount(target[begin:end], minlength=10).min() >= 9


def test_glyphs_are_scans_of_the_digit_and_hand_they_claim():
    from sklearn.datasets import load_digits

    scans = load_digits()
    for digit in range(10):
        for hand, form in enumerate(HANDS):
            same = (torch.tensor(scans.images / 16).float() == glyphs()[digit, hand]).all(2).all(1)
            (place,) = same.nonzero()[:, 0].tolist()
            assert scans.target[place] == digit and FORMS[form] <= place < FORMS[form + 1]


def test_clips_are_the_drawing_of_their_labels(clips):
    again = draw_digits(**clips.static, **{name: clips.dynamic[name] for name in PLACE})
    assert torch.equal(again, clips.x)
    assert clips.x.shape == (300, 12, 3, 32, 32) and clips.x.min() >= 0 and clips.x.max() <= 1


def test_ink_has_its_colour(clips):
    brightest = clips.x.flatten(3).amax(3)  # (n, V, 3)
    ink = torch.tensor(list(COLOURS.values()))[clips.static["colour"]][:, None]
    share = (brightest * ink).sum(-1) / brightest.norm(dim=-1) / ink.norm(dim=-1)
    assert (share > 0.999).all()


def test_light_is_where_the_labels_say():
    still = torch.zeros(10, 5)
    place = torch.linspace(-0.4, 0.4, 5).expand(10, 5)
    look = torch.arange(10), torch.arange(10) % 6, torch.arange(10) % 6
    for axis in range(2):
        x, y = (place, still) if axis == 0 else (still, place)
        found = light_centre(draw_digits(*look, x, y, still))
        for wanted, got in zip((x, y), found):
            shift = got - got[:, 2:3]
            assert (shift - (wanted - wanted[:, 2:3])).abs().max() < 0.01


def test_positive_angles_turn_clockwise():
    """A one that leans to the right has been turned clockwise: its light moves right at the top."""
    look = torch.tensor([1]), torch.tensor([5]), torch.tensor([0])
    zero = torch.zeros(1, 2)
    light = draw_digits(*look, zero, zero, torch.tensor([[0.0, 40.0]])).amax(2)[0]
    top = (light[:, :12] * (torch.arange(32) - 15.5)).sum((1, 2)) / light[:, :12].sum((1, 2))
    assert top[1] > top[0] + 2


def test_a_whole_turn_changes_nothing():
    look = torch.tensor([4]), torch.tensor([2]), torch.tensor([3])
    zero = torch.zeros(1, 2)
    a, b = draw_digits(*look, zero, zero, torch.tensor([[0.0, 360.0]]))[0]
    assert torch.allclose(a, b, atol=1e-4)


def test_sizes_draw_the_same_picture(clips):
    some = clips[:20]
    place = {name: some.dynamic[name] for name in PLACE}
    large = draw_digits(**some.static, **place, size=64)
    small = torch.nn.functional.avg_pool2d(large.flatten(0, 1), 2).view_as(some.x)
    assert (small - some.x).abs().mean() < 0.01


def test_movements_obey_their_labels(clips):
    """Each axis: constant speed, one bounce at most, at the wall it says; still axes stay still."""
    x, y, path, bounce = (clips.dynamic[name] for name in ("x", "y", "path", "bounce"))
    step = torch.tensor(list(PATHS.values()))[path[:, 0]]
    for axis, (place, walls) in enumerate(((x, (1, 2)), (y, (3, 4)))):
        moved = place.diff(dim=1)
        still = step[:, axis] == 0
        assert (moved[still] == 0).all()
        direction = step[~still, axis]
        moved = moved[~still] * direction[:, None] * 13  # steps, 1 towards the first wall
        assert torch.allclose(moved[:, 0], torch.ones(len(moved)), atol=1e-4)
        assert (moved[:, 1:] <= moved[:, :-1] + 1e-4).all()  # turns round once
        hit = (moved[:, :-1] > 0.99) & (moved[:, 1:] < 0.99)  # the step in which it bounced
        named = bounce[~still][:, 2:] == torch.where(direction > 0, walls[1], walls[0])[:, None]
        assert named[hit].all()
        assert not named[(moved[:, 1:] > 0.99)].any()
        between = moved[(moved < 0.99) & (moved > -0.99)]
        assert between.abs().max() < 0.31  # never so near to a frame that it is in doubt
    assert (bounce[:, :2] == 0).all()


def test_bounce_is_the_last_wall(clips):
    """Once a wall is touched there is always a last one, and it changes at most once more."""
    bounce = clips.dynamic["bounce"]
    assert ((bounce[:, 1:] == bounce[:, :-1]) | (bounce[:, 1:] > 0)).all()
    assert ((bounce[:, 1:] != bounce[:, :-1]).sum(1) <= 2).all()
    assert ((bounce[:, 1:] != bounce[:, :-1]).sum(1) == 2).any()


def test_rotation_is_the_way_it_turns(clips):
    turned = clips.dynamic["angle"].diff(dim=1)
    expected = (clips.dynamic["rotation"][:, 1:] - 1) * 80 / 11
    assert torch.allclose(turned, expected, atol=1e-4)
    assert clips.dynamic["angle"].abs().max() <= 50  # a six is never a nine


def test_every_class_occurs(clips):
    for name, y in (clips.static | clips.dynamic).items():
        if not y.is_floating_point():
            assert sorted(y.unique().tolist()) == list(range(len(clips.classes[name]))), name
    counts = {"path": PATHS, "bounce": WALLS, "rotation": SPINS}
    assert all(clips.classes[name] == tuple(wanted) for name, wanted in counts.items())


def test_seeds():
    a, b, c = moving_digits(8, seed=1), moving_digits(8, seed=1), moving_digits(8, seed=2)
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)


@pytest.mark.parametrize("V, size", [(4, 16), (7, 20), (20, 32)])
def test_other_lengths_and_sizes(V, size):
    clips = moving_digits(30, V=V, size=size)
    assert clips.x.shape == (30, V, 3, size, size)
    assert clips.dynamic["x"].abs().max() <= 0.5


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 2.0}, {"V": 3}, {"size": 8}])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        moving_digits(**{"n": 2, **wrong})


def test_splits_hold_looks_back():
    train, val, test = digit_splits((900, 100, 300), seed=1)
    looks = [set(zip(*(y.tolist() for y in part.static.values()))) for part in (train, val, test)]
    assert looks[1] & looks[0] and not looks[2] & (looks[0] | looks[1])
    assert len(looks[2]) == 60 and len(LOOKS) == 360
    for i, j in ((0, 1), (0, 2), (1, 2)):  # every pair of factors was seen
        pairs = [{(look[i], look[j]) for look in part} for part in looks]
        assert pairs[2] <= pairs[0]
    assert not torch.equal(train.x[:100], val.x)


def test_splits_are_in_the_training_set_s_scale():
    train, val, test = digit_splits((60, 20, 20))
    channels = train.x.transpose(0, 2).flatten(1)
    assert torch.allclose(channels.std(1, correction=0), torch.full((3,), 0.5), atol=1e-4)
    assert channels.mean(1).abs().max() < 1e-4
    assert train.scale is val.scale is test.scale
    raw = train.scale.undo(test.x)
    assert raw.min() > -1e-5 and raw.max() < 1 + 1e-5
