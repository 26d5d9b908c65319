"""The page of a model, in a real browser: drop two things, swap, move a slider, keep the result; nothing leaves the machine."""

import functools
import socket
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import walk

from diffsda import app
from diffsda.disentangler import Disentangler, Plain
from diffsda.own import fit, write_thing
from diffsda.scenes import example_clips
from diffsda.tables import example_table
from diffsda.vowels import vowels

# looked for and not imported, which takes each worker seconds, also one that has none of these tests
pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs gradio")
in_browser = pytest.mark.skipif(bool(walk.missing()), reason=walk.missing())
TINY = {"steps": 5, "batch": 4, "held_out": 0, "progress": False, "hidden": 16}
TINY |= {"enc_width": 8, "dec_width": 8}
KINDS = ("table", "clip", "recording")


@functools.cache
def model_of(kind):
    if kind == "table":
        return fit(example_table(3), time="date", group="station", window=24, **TINY)
    if kind == "clip":
        return fit(example_clips(4), size=16, V=4, **TINY)
    return fit(vowels(4), **TINY)


def two_files(kind, folder):
    model = model_of(kind)
    if kind == "table":
        table = example_table(2)
        things = [table[table["station"] == name] for name in ("hill", "harbour")]
    else:
        source = example_clips(2) if kind == "clip" else vowels(2)
        things = [(source.clip if kind == "clip" else source.wave)(i) for i in (0, 1)]
    paths = [folder / f"{i}{app.kind_of(model).ends[0]}" for i in (0, 1)]
    for thing, path in zip(things, paths):
        write_thing(thing, path, model.adapter)
    return paths


def drop(page, box, path):
    page.locator(f"#{box} input[type=file]").set_input_files(path)


def kept(page, end):
    "The bytes that the download button gives."
    with page.expect_download(timeout=20_000) as download:
        page.get_by_role("button", name=f"Download as {end[1:]}").click()
    return Path(download.value.path()).read_bytes()


def comes_to(page, thing, model, path):
    "Whether the page soon keeps this very thing."
    write_thing(thing, path, model.adapter)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if kept(page, path.suffix) == path.read_bytes():
            return True
        time.sleep(0.2)
    return False


@in_browser
@pytest.mark.parametrize("kind", KINDS)
def test_drop_two_swap_move_a_slider_keep_and_be_told(kind, tmp_path):
    model, (first, second) = model_of(kind), two_files(kind, tmp_path)
    end, asked = app.kind_of(model).ends[0], []
    with app.running(model, largest=1) as url, walk.browser_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        drop(page, "first", first)
        drop(page, "second", second)
        page.wait_for_timeout(2000)
        page.get_by_role("button", name="Swap").click()
        page.locator("#made button:not([disabled])", has_text="Download").first.wait_for()
        assert comes_to(page, model.swap(first, second), model, tmp_path / f"swap{end}")

        page.get_by_label("walk along s0").first.fill("1.5")
        moved = app.edited(
            model, app.Given.of(model, first), app.Given.of(model, second), 1.0, (1.5,)
        )
        page.keyboard.press("Enter")
        assert comes_to(page, moved, model, tmp_path / f"moved{end}")

        page.locator("#first button[aria-label='Clear']").first.click()
        broken = tmp_path / f"broken{end}"
        broken.write_bytes(b"broken")
        drop(page, "first", broken)
        told = page.locator(".toast-body", has_text="broken").first  # the player may complain too
        told.wait_for()
        assert str(tmp_path.parent) not in told.inner_text()
    assert asked and all(one.startswith((url, "data:", "blob:")) for one in asked)


def test_a_whole_number_moves_as_far_as_the_same_fraction():
    model, table = model_of("table"), example_table(1)
    given = app.Given.of(model, table[table["station"] == "hill"])
    far = 10**20  # more than an integer of PyTorch holds
    for exact, amounts in (
        (app.edited(model, given, given, 1.0, (1.0,), (2.0,)), (1, (1,), (2,))),
        (app.edited(model, given, given, 1e20, (1e20,), (1e20,)), (far, (far,), (far,))),
    ):
        pd.testing.assert_frame_equal(exact, app.edited(model, given, given, *amounts))


def test_what_is_drawn_has_one_axis_of_time():
    table = example_table(8)
    layout = {"time": "date", "group": "station", "bin": "2h", "window": 12}
    model = fit(table, **layout, **TINY)
    given = app.Given.of(model, table[table["station"] == "hill"])
    made = app.edited(model, given, given)
    figure = app.drawn(made, Path("hill.csv"), given, given, model.adapter)
    assert [{len(line.get_ydata()) for line in ax.lines} for ax in figure.axes] == [{96}] * 2


def test_several_things_are_not_edited_at_once():
    model, table = model_of("table"), example_table(8)
    with pytest.raises(ValueError, match="one thing is edited at a time, got .*; choose one"):
        app.Given.of(model, table)


def test_page_listens_here_only_and_refuses_what_is_too_large(tmp_path):
    with app.running(model_of("table"), largest=1) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError), socket.socket() as other:
            other.connect(("127.0.0.2", port))  # this machine too, but another address
        posing = urllib.request.Request(url, headers={"Host": "elsewhere.org"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(posing)
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'
        body = form + bytes(1_200_000) + b"\r\n--x--\r\n"
        upload = urllib.request.Request(
            f"{url}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
        )
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(upload)
        with pytest.raises(ValueError, match="name another one"), app.running(None, port):
            pass


def test_a_model_of_other_things_and_a_missing_gradio_are_told(monkeypatch):
    other = Disentangler(None, None, Plain())
    with pytest.raises(ValueError, match="Plain"):
        app.build_app(other)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ModuleNotFoundError, match=r"diffsda\[app\]"):
        app.build_app(model_of("table"))
