"""Pictures: every panel is there and says whose it is; animations have their frames, pace, margins and a bounded size; wrong shapes stop."""

import base64
import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from diffsda.viz import (
    PALETTE,
    Animation,
    _gif,
    animate,
    animate_swaps,
    compare,
    draw_sequence,
    filmstrip,
    moving,
    show_frames,
    show_series,
    slider,
    swap_grid,
)

ALT = "patches of changing brightness"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def films(*shape, V=5, C=3, side=16):
    """Films of one brightness per frame, growing with time: (*shape, V, C, side, side)."""
    light = torch.linspace(0.1, 0.9, V)[:, None, None, None]
    tint = 0.5 + 0.5 * torch.rand(*shape, 1, C, 1, 1, generator=torch.Generator().manual_seed(0))
    return (light * tint).expand(*shape, V, C, side, side).clone()


def series(*shape, V=5, F=2):
    return torch.randn(*shape, V, F, generator=torch.Generator().manual_seed(0))


def pictures(animation):
    """All frames of a GIF as (V, H, W, 3), and what it says of itself."""
    opened = Image.open(io.BytesIO(animation.gif))
    found = []
    for v in range(opened.n_frames):
        opened.seek(v)
        found.append(np.asarray(opened.convert("RGB")).astype(int))
    return np.stack(found), opened.info


def near(picture, colour, tolerance=12):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return abs(picture - wanted).max(-1) <= tolerance


# Figures


@pytest.mark.parametrize("kind", [films, series])
def test_swap_grid_shows_donors_and_swaps(kind):
    statics, dynamics, swaps = kind(2), kind(3), kind(2, 3)
    fig = swap_grid(statics, dynamics, swaps)
    assert len(fig.axes) == (2 + 1) * (3 + 1)
    titles = [ax.get_title() for ax in fig.axes if ax.get_title()]
    names = [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()]
    assert titles == ["d from 1", "d from 2", "d from 3"] and names == ["s from 1", "s from 2"]


@pytest.mark.parametrize("kind", [films, series])
def test_compare_aligns_rows(kind):
    fig = compare({"original": kind(3), "copy": kind(3)})
    assert len(fig.axes) == 6
    assert [ax.get_ylabel() for ax in fig.axes[::3]] == ["original", "copy"]
    more = compare({"original": kind(1), "variants": kind(3)})
    drawn = [bool(ax.lines or ax.images) for ax in more.axes]
    assert drawn == [True, False, False, True, True, True]


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0])
def test_a_range_is_found_where_all_values_are_alike_or_none_is_there(value, recwarn):
    x = np.full((2, 5, 2), value)
    low, high = show_series(x).axes[0].get_ylim()
    assert low < high and not recwarn.list


def test_series_and_rows_of_pixels():
    assert len(show_series(series(3)).axes) == len(show_frames(series(3)).axes) == 3


@pytest.mark.parametrize(
    "V, frames, shown", [(5, 3, [0, 2, 4]), (5, 8, [0, 1, 2, 3, 4]), (9, 2, [0, 8])]
)
def test_film_shows_evenly_spaced_frames_first_and_last(V, frames, shown):
    x = films(V=V, side=4)
    ax = plt.subplots()[1]
    draw_sequence(ax, x, frames=frames)
    strip = np.asarray(
        ax.images[0].get_array()
    )  # (H + 2, frames (W + 2), 3): a white pixel around each
    assert strip.shape == (6, 6 * len(shown), 3)
    assert np.allclose(strip[2, 2::6], x[shown, :, 1, 1], atol=1e-6)
    assert (strip[0] == 1).all() and (strip[:, ::6] == 1).all()


def test_filmstrip_names_its_rows():
    fig = filmstrip(films(3), names=("a", "b", "c"), title="three")
    assert [ax.get_ylabel() for ax in fig.axes] == ["a", "b", "c"]


@pytest.mark.parametrize("C", [1, 3])
def test_images_are_clipped_and_gray_ones_shown_gray(C):
    x = torch.stack([torch.full((C, 2, 2), value) for value in (-0.5, 0.25, 1.5)])
    ax = plt.subplots()[1]
    draw_sequence(ax, x)
    strip = np.asarray(ax.images[0].get_array())
    assert strip.shape[-1] == 3 and np.allclose(strip[1, 1::4], [[0] * 3, [0.25] * 3, [1] * 3])


def test_bytes_are_the_same_picture():
    x = (films(2) * 255).byte()
    whole, as_bytes = (pictures(animate({"": y}, ALT))[0] for y in (x / 255, x))
    assert np.array_equal(whole, as_bytes)


# Animations


@pytest.mark.parametrize("rate, duration", [(8, 120), (10, 100), (1, 1000), (50, 20)])
def test_animation_has_its_frames_and_pace_and_loops(rate, duration):
    frames, info = pictures(animate({"one": films(2, V=6)}, ALT, rate=rate))
    assert len(frames) == 6
    assert info["duration"] == duration and info["loop"] == 0


def test_frames_are_shown_in_order_where_they_belong():
    """The middle of a picture has, in each frame, the colour of that frame of the film."""
    x = films(2, V=6)
    frames, _ = pictures(animate({"": x[:1], " ": x[1:]}, ALT))
    V, height, width, _ = frames.shape
    for r in range(2):
        middle = frames[:, 8 + 32 + r * 72, width - 40]  # pictures of 64, 8 between them
        assert abs(middle / 255 - x[r, :, :, 0, 0].numpy()).max() < 0.05


def test_margins_have_the_donors_colours():
    frames, _ = pictures(animate_swaps(films(2), films(3), films(2, 3), ALT))
    for picture in frames:
        s, d = near(picture, PALETTE[0]), near(picture, PALETTE[1])
        assert s.sum() > 2 * 4 * 64 * 2 and d.sum() > 3 * 4 * 64 * 2  # borders 3 pixels thick
        rows, columns = s.nonzero(), d.nonzero()
        assert rows[1].max() < columns[1].min() and columns[0].max() < rows[0].min()
        assert (picture[:8, -8:] >= 250).all()  # on white


def test_size_follows_the_grid():
    small, large = (
        pictures(animate_swaps(films(r), films(c), films(r, c), ALT))[0]
        for r, c in ((2, 3), (3, 3))
    )
    assert large.shape[1] - small.shape[1] == 72 and large.shape[2] == small.shape[2]


@pytest.mark.parametrize("side, shown", [(8, 64), (32, 64), (64, 64), (100, 100)])
def test_small_pictures_are_enlarged_by_whole_factors(side, shown):
    one, two = (pictures(animate({"": films(n, V=2, side=side)}, ALT))[0] for n in (1, 2))
    assert two.shape[2] - one.shape[2] == shown + 8


def test_a_file_that_would_grow_past_the_limit_takes_fewer_colours():
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    whole = _gif(frames, rate=8)
    less = _gif(frames, rate=8, largest=len(whole) - 1)
    colours = [
        len(np.unique(pictures(Animation(gif, ALT))[0].reshape(-1, 3), axis=0))
        for gif in (whole, less)
    ]
    assert len(less) < len(whole) and colours == [256, 128]
    assert len(_gif(frames, rate=8, largest=1)) < len(less)  # the fewest, and no error


def test_notebooks_get_a_gif_with_its_alternative_text(tmp_path):
    animation = animate({"": films(1)}, ALT)
    data, metadata = animation._repr_mimebundle_()
    assert metadata["image/gif"]["alt"] == data["text/plain"] == ALT
    assert base64.b64decode(data["image/gif"]) == animation.gif
    assert animation.save(tmp_path / "a.gif").read_bytes() == animation.gif
    assert animation.gif.startswith(b"GIF89a")


# What is refused


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: filmstrip(films()), "n, V, C, H, W"),
        (lambda: filmstrip(films(2), names=("a",)), "1 names"),
        (lambda: filmstrip(films(2, C=2)), "C 1 or 3"),
        (lambda: filmstrip(films(2).movedim(2, -1)), "C 1 or 3"),
        (lambda: filmstrip(films(2) * torch.nan), "finite"),
        (lambda: filmstrip((255 * films(2)).long()), "turn them into uint8"),
        (lambda: moving(films(), ALT, rate=0), "rate must be above 0"),
        (lambda: draw_sequence(plt.subplots()[1], torch.zeros(4)), "must be"),
        (lambda: swap_grid(series(2), series(3), series(3, 2)), r"swaps must be \(2, 3, 5, 2\)"),
        (lambda: swap_grid(series(2), series(3, V=4), series(2, 3)), "dynamics must be"),
        (lambda: animate_swaps(films(2), films(3), films(2, 3, V=4), ALT), "swaps must be"),
        (lambda: animate_swaps(series(2), series(3), series(2, 3), ALT), "C 1 or 3"),
        (lambda: animate({"a": films(2), "b": films(2, V=4)}, ALT), "same V"),
        (lambda: animate({"a": films()}, ALT), "n, V, C, H, W"),
        (lambda: animate({}, ALT), "n, V, C, H, W"),
        (lambda: animate({"a": films(2)}, " "), "alt"),
        (lambda: animate({"a": films(2)}, ALT, rate=0), "rate"),
        (lambda: animate({"a": films(2)}, ALT, rate=60), "rate"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_slider_is_a_row_of_still_pictures_where_nothing_can_be_moved(capsys):
    drawn = []
    fig = slider(lambda ax, value: drawn.append(value), range(10), "sigma", still=4)
    assert drawn == [0, 3, 6, 9]
    assert [ax.get_title() for ax in fig.axes] == [f"sigma {value}" for value in drawn]
    assert capsys.readouterr().out == ""
    for values, still in (([1], 2), (range(3), 4), (range(3), 1)):
        with pytest.raises(ValueError, match=f"still must lie in 2..{len(list(values))}"):
            slider(lambda ax, value: None, values, "sigma", still)
