"""Clips, files, windows and whole clips: what is read, what is refused, and that no frame is lost."""

import base64
import io
import re
import struct
import threading
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import noise_bytes as noise
from makers import write_film, write_images
from PIL import Image

from diffsda import training, video
from diffsda.data import Scale, Sequences
from diffsda.disentangler import Disentangler, Part
from diffsda.loss import LossSum
from diffsda.model import DiffSDA
from diffsda.training import TrainConfig, train
from diffsda.video import (
    Clips,
    Films,
    Windows,
    film_rate,
    flips_and_jitter,
    open_clips,
    read_clip,
    read_clips,
    string_clips,
)

av = pytest.importorskip("av")


def smooth(V, side=32):
    "Frames that a codec hardly changes: a ramp that brightens."
    ramp = np.linspace(0, 150, side)[None, None, :, None] + 5 * np.arange(V)[:, None, None, None]
    return np.broadcast_to(ramp, (V, side, side, 3)).astype(np.uint8)


class TestClips:
    def test_rows_keep_frames_and_labels_together(self):
        frames = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
        clips = Clips(frames, [0, 2, 5, 9], ("a", "b", "c"), static={"who": [3, 4, 5]})
        some = clips[[2, 0]]
        assert some.names == ("c", "a") and some.static["who"].tolist() == [5, 3]
        assert some.frames[:, 0, 0, 0].tolist() == [5, 6, 7, 8, 0, 1]
        assert clips[np.array([False, True, False])].names == ("b",)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"frames": noise(5, 4, 4)}, r"\(N, C, H, W\)"),
            ({"frames": noise(5, 3, 4, 4).astype(int)}, "int64"),
            ({"frames": noise(5, 3, 4, 0)}, "without any pixel"),
            ({"starts": [0, 6]}, "number of frames"),
            ({"starts": [0, 3, 3, 5]}, "rise"),
            ({"starts": [1, 5]}, "rise from 0"),
            ({"starts": [0.0, 2.0, 5.0]}, r"whole numbers that rise .*got \[0.0, 2.0"),
            ({"names": ("a", "a")}, "a twice"),
            ({"names": ("a", "b", "a")}, "got 3, and a twice"),
            ({"names": ("a",)}, "different names"),
            ({"static": {"who": [1]}}, "'who' has 1 entries for 2"),
        ],
    )
    def test_refuses_what_does_not_fit(self, change, message):
        good = {"frames": noise(5, 3, 4, 4), "starts": [0, 2, 5], "names": ("a", "b")}
        Clips(**good)
        with pytest.raises(ValueError, match=message):
            Clips(**good | change)

    def test_frames_that_cannot_be_written_to_are_read_without_a_warning(self):
        "As those of a prepared set are, which is mapped from disk."
        frames = noise(8, 3, 16, 16)
        frames.setflags(write=False)
        clips = Clips(frames, [0, 8])
        model = Disentangler(
            DiffSDA.mlp((3, 8, 8), 4, 2, 8, 8, 8),
            Scale.fit(Sequences(torch.randn(2, 4, 3, 8, 8))),
            Films(V=4, size=8),
        )
        torch.set_warn_always(True)  # else once in a process
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert clips.reduced(8).frames.shape == (8, 3, 8, 8)
                Windows(clips, 4)[:2]
                model.swap(clips.clip(0), clips.clip(0), steps=2)
        finally:
            torch.set_warn_always(False)

    def test_tensors_are_taken_as_arrays_are(self):
        frames, starts = noise(5, 3, 4, 4), [0, 2, 5]
        clips = Clips(torch.from_numpy(frames), torch.tensor(starts))
        assert np.array_equal(clips[[1]].frames, Clips(frames, starts)[[1]].frames)

    def test_a_label_that_changes_along_a_string_is_not_said_to_stay(self):
        static = {"who": [0, 0, 1, 1], "coat": [3, 3, 2, 2], "weather": [0, 1, 0, 1]}
        made = string_clips(Clips(noise(8, 3, 4, 4), [0, 2, 4, 6, 8], static=static), "who", 4)
        assert list(made.static) == ["who", "coat"]
        assert torch.equal(made.static["coat"], 3 - made.static["who"])

    def test_no_rows_are_refused(self):
        with pytest.raises(ValueError, match="pick no clip"):
            Clips(noise(5, 3, 4, 4), [0, 5])[[]]


class TestFiles:
    def test_images_come_in_the_order_of_their_numbers(self, tmp_path):
        frames = noise(12, 6, 8, 3)
        write_images(tmp_path / "clip", frames)
        assert np.array_equal(read_clip(tmp_path / "clip"), frames.transpose(0, 3, 1, 2))

    def test_films_are_read_whole(self, tmp_path):
        frames = smooth(11)
        write_film(tmp_path / "a.mp4", frames)
        read = read_clip(tmp_path / "a.mp4")
        assert read.shape == (11, 3, 32, 32) and read.dtype == np.uint8
        assert np.abs(read.astype(int) - frames.transpose(0, 3, 1, 2)).mean() < 6

    def test_size_crops_the_middle(self, tmp_path):
        frames = np.zeros((2, 8, 16, 3), np.uint8)
        frames[:, :, 4:12] = 200  # the middle square
        write_images(tmp_path / "clip", frames)
        assert (read_clip(tmp_path / "clip", size=4) == 200).all()

    def test_finds_films_and_folders_by_name(self, tmp_path):
        write_images(tmp_path / "b" / "10", noise(3, 8, 8, 3))
        write_images(tmp_path / "b" / "9", noise(4, 8, 8, 3))
        clips = read_clips(tmp_path)
        assert clips.names == ("b/9", "b/10") and clips.lengths.tolist() == [4, 3]

    @pytest.mark.parametrize(
        "mode, shape", [("L", (8, 8)), ("RGBA", (8, 8, 4))], ids=["grey", "transparent"]
    )
    def test_other_colours_are_refused_or_converted(self, tmp_path, mode, shape):
        write_images(tmp_path / "clip", noise(3, *shape))
        with pytest.raises(ValueError, match=rf"0\.png is {mode}, expected RGB.*to_rgb"):
            read_clip(tmp_path / "clip")
        assert read_clip(tmp_path / "clip", to_rgb=True).shape == (3, 3, 8, 8)

    def test_more_than_eight_bits_are_refused(self, tmp_path):
        write_images(tmp_path / "clip", np.full((3, 8, 8), 40_000, np.uint16))
        with pytest.raises(ValueError, match=r"0\.png has pixels of type I;16, expected 8 bits"):
            read_clip(tmp_path / "clip", to_rgb=True)

    def test_transparent_pixels_lie_over_black(self, tmp_path):
        write_images(tmp_path / "clip", np.full((3, 8, 8, 4), (200, 200, 200, 0), np.uint8))
        assert (read_clip(tmp_path / "clip", to_rgb=True) == 0).all()

    def test_what_macos_leaves_beside_a_file_is_no_frame(self, tmp_path):
        write_images(tmp_path / "clip", noise(3, 8, 8, 3))
        (tmp_path / "clip" / "._0.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / "._clip.mp4").write_bytes(b"\0\5\x16\7")
        clips = read_clips(tmp_path)
        assert clips.names == ("clip",) and clips.lengths == [3]

    def test_frames_of_two_sizes(self, tmp_path):
        write_images(tmp_path / "clip", noise(3, 8, 8, 3))
        Image.fromarray(noise(8, 9, 3)).save(tmp_path / "clip" / "7.png")
        with pytest.raises(ValueError, match=r"7\.png is 9 x 8, the frames before it 8 x 8"):
            read_clip(tmp_path / "clip")

    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_a_film_cut_short(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        write_film(path, noise(30, 64, 64, 3))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=rf"a\{suffix}.*get the file again"):
            read_clip(path)

    def test_a_broken_image(self, tmp_path):
        write_images(tmp_path / "clip", noise(3, 8, 8, 3))
        (tmp_path / "clip" / "1.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"1\.png cannot be read"):
            read_clip(tmp_path / "clip")

    def test_nothing_there(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for path, message in (("no", "does not exist"), ("empty", "holds no .png")):
            with pytest.raises(ValueError, match=message):
                read_clip(tmp_path / path)
        with pytest.raises(ValueError, match="holds no clip"):
            read_clips(tmp_path)

    def test_names_that_collide(self, tmp_path):
        write_film(tmp_path / "a.mp4", smooth(3))
        write_film(tmp_path / "a.avi", smooth(3))
        with pytest.raises(ValueError, match="two clips are called a"):
            read_clips(tmp_path)

    def test_a_broken_clip_is_named_among_good_ones(self, tmp_path):
        write_images(tmp_path / "good", noise(5, 8, 8, 3))
        (tmp_path / "broken.mp4").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=r"broken\.mp4"):
            read_clips(tmp_path)
        assert read_clips([tmp_path / "good"]).lengths.tolist() == [5]
        with pytest.raises(ValueError, match="there is no clip"):
            read_clips([])

    def test_clips_of_two_sizes(self, tmp_path):
        write_images(tmp_path / "a", noise(3, 8, 8, 3))
        write_images(tmp_path / "b", noise(3, 8, 10, 3))
        with pytest.raises(ValueError, match=r"b has frames of \(8, 10\).*pass size="):
            read_clips(tmp_path)
        assert read_clips(tmp_path, size=8).frames.shape == (6, 3, 8, 8)

    def test_what_was_filmed_upright_is_read_upright(self, tmp_path):
        frames = np.zeros((4, 32, 64, 3), np.uint8)
        frames[:, :16, :32] = 200  # light top left
        write_film(tmp_path / "a.mp4", frames)
        content = bytearray((tmp_path / "a.mp4").read_bytes())
        at = content.find(b"tkhd") + 44  # the matrix, behind a head of version 0
        content[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
        (tmp_path / "a.mp4").write_bytes(content)  # "turn to the right", as telephones write it
        upright = frames.transpose(0, 3, 2, 1)[..., ::-1]
        assert np.abs(read_clip(tmp_path / "a.mp4").astype(int) - upright).mean() < 6
        (tmp_path / "clip").mkdir()
        exif = Image.Exif()
        exif[274] = 6  # orientation: the same turn
        Image.fromarray(frames[0]).save(tmp_path / "clip" / "0.png", exif=exif)
        assert np.array_equal(read_clip(tmp_path / "clip")[0], upright[0])

    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov", ".mkv"])
    def test_a_film_says_its_rate(self, tmp_path, suffix):
        write_film(tmp_path / f"a{suffix}", smooth(12), Fraction(30000, 1001))
        assert film_rate(tmp_path / f"a{suffix}") == pytest.approx(29.97, abs=0.05)

    @pytest.mark.parametrize("rate", [25, 12.5, 8, 30])
    def test_a_gif_that_was_written_is_read(self, tmp_path, rate):
        video.write_film(smooth(12), tmp_path / "a.gif", rate)
        clips = read_clips(tmp_path)
        assert clips.frames.shape == (12, 3, 32, 32) and clips.rate == rate
        off = clips.frames.transpose(0, 2, 3, 1).astype(float) - smooth(12)
        assert np.abs(off).mean() < 12  # 256 colours a frame

    def test_frames_that_stand_still_come_back_from_a_gif(self, tmp_path):
        for name, frames in (("held", smooth(4).repeat(3, 0)), ("still", smooth(1).repeat(12, 0))):
            video.write_film(frames, tmp_path / f"{name}.gif", 25)
            assert read_clip(tmp_path / f"{name}.gif").shape == (12, 3, 32, 32)
            assert film_rate(tmp_path / f"{name}.gif") == 25
        Image.open(tmp_path / "held.gif").save(tmp_path / "other.gif", save_all=True, comment=b"hi")
        assert read_clip(tmp_path / "other.gif").shape[0] == 4  # three of it are told nowhere
        with pytest.raises(ValueError, match="at most 100 frames a second, got 120"):
            video.write_film(smooth(4), tmp_path / "fast.gif", 120)

    def test_a_film_whose_start_is_cut_away_is_not_cut_short(self, tmp_path):
        write_film(tmp_path / "a.mp4", smooth(16), 25)
        with av.open(tmp_path / "a.mp4") as whole, av.open(tmp_path / "b.mp4", "w") as cut:
            stream = cut.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.size:
                    packet.pts -= 5 * packet.duration
                    packet.dts -= 5 * packet.duration
                    packet.stream = stream
                    cut.mux(packet)
        assert 8 < len(read_clip(tmp_path / "b.mp4")) <= 16

    def test_a_film_that_says_no_rate_has_the_one_that_is_named(self, tmp_path):
        write_film(tmp_path / "a.mpg", smooth(12), Fraction(30000, 1001))  # not its usual codec
        assert film_rate(tmp_path / "a.mpg") == 0 and read_clips(tmp_path, rate=10).rate == 10

    def test_clips_have_the_rate_of_their_films_and_images_the_one_that_is_named(self, tmp_path):
        write_images(tmp_path / "stills" / "a", noise(3, 32, 32, 3))
        assert read_clips(tmp_path).rate == 25 and read_clips(tmp_path, rate=10).rate == 10
        write_film(tmp_path / "b.mp4", smooth(5), 30)
        assert read_clips(tmp_path, rate=10).rate == 30
        write_film(tmp_path / "c.mp4", smooth(5), Fraction(30000, 1001))
        assert len(read_clips(tmp_path)) == 3  # 29.97 is called 30
        write_film(tmp_path / "d.mp4", smooth(5), 24)
        with pytest.raises(
            ValueError, match=r"d\.mp4 has 24 frames a second, .* 30; .*ffmpeg .*-r 30"
        ):
            read_clips(tmp_path)


def numbered(lengths):
    "Clips whose frames hold their own number."
    N = sum(lengths)
    frames = np.broadcast_to(np.arange(N, dtype=np.float32)[:, None, None, None], (N, 1, 1, 2))
    return Clips(frames, np.append(0, np.cumsum(lengths)))


class TestWindows:
    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.integers(6, 60), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 5)
    )
    def test_evaluation_reaches_every_clip_from_first_to_last_frame(self, lengths, V, stride):
        clips = numbered(lengths)
        windows = Windows(clips, V, stride, every=V * stride)
        numbers = windows[:].x[:, :, 0, 0, 0].long()
        for i in range(len(clips)):
            seen = numbers[torch.from_numpy(windows.owner) == i]
            assert seen.min() == clips.starts[i] and seen.max() == clips.starts[i + 1] - 1
            steps = seen.diff(dim=1)
            fits = clips.lengths[i] > (V - 1) * stride
            assert (steps == (stride if fits else clips.lengths[i] // V)).all()
        if stride == 1:
            assert sorted(set(numbers.flatten().tolist())) == list(range(sum(lengths)))

    def test_training_takes_every_start(self):
        windows = Windows(numbered([10, 7]), V=3, stride=2)
        assert windows[:].x[:, 0, 0, 0, 0].tolist() == [*range(6), *range(10, 13)]

    def test_one_window_for_each_clip_at_its_start(self):
        windows = Windows(numbered([10, 7]), V=3, stride=2, every=None)
        assert windows[:].x[:, :, 0, 0, 0].tolist() == [[0, 2, 4], [10, 12, 14]]

    def test_only_some_clips(self):
        windows = Windows(numbered([5, 6, 7]), V=5, every=None, rows=np.array([2, 0]))
        assert windows.owner.tolist() == [2, 0] and windows[1].x[0, 0, 0, 0, 0] == 0

    def test_too_short_is_said_by_name(self):
        with pytest.raises(ValueError, match="1 has 3 frames, but a window needs 5.*1 other"):
            Windows(numbered([6, 3, 4]), V=5)
        Windows(numbered([6, 3, 4]), V=5, rows=np.array([0]))

    def test_bytes_become_unit_range_and_labels_follow(self):
        clips = Clips(
            np.full((8, 3, 2, 2), 51, np.uint8),
            [0, 3, 8],
            static={"who": [1, 0]},
            dynamic={"deed": [2, 3]},
            classes={"who": ("x", "y")},
        )
        data = Windows(clips, V=2, every=2)[:]
        assert torch.allclose(data.x, torch.tensor(0.2))
        assert data.static["who"].tolist() == [1, 1, 0, 0, 0]
        assert data.dynamic["deed"][0].tolist() == [2, 2] and data.classes["who"] == ("x", "y")

    def test_scale_makes_sigma_data_true(self):
        windows = Windows(Clips(noise(40, 3, 4, 4), [0, 20, 40]), V=4).fit_scale()
        x = windows[:].x
        assert torch.allclose(x.mean((0, 1, 3, 4)), torch.zeros(3), atol=0.02)
        assert torch.allclose(x.std((0, 1, 3, 4)), torch.full((3,), 0.5), atol=0.02)

    def test_reads_a_memory_map(self, tmp_path):
        frames = noise(20, 3, 4, 4)
        np.save(tmp_path / "frames.npy", frames)
        mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
        a, b = (Windows(Clips(f, [0, 9, 20]), V=3, stride=2)[[0, 7]].x for f in (mapped, frames))
        assert torch.equal(a, b)

    @pytest.mark.parametrize("kind", ["plain", "scaled", "augmented", "part", "latents"])
    def test_what_travels_as_bytes_arrives_as_the_same_floats(self, kind):
        frames = noise(20, 3, 4, 4)
        if kind == "latents":
            frames = (frames / 255).astype(np.float16)
        labels = {"static": {"who": [1, 0]}, "dynamic": {"deed": list(range(20))}}
        clips = Clips(frames, [0, 9, 20], **labels)
        how = {"augment": flips_and_jitter} if kind == "augmented" else {}
        data = windows = Windows(clips, V=3, stride=2, **how)
        if kind == "scaled":
            data = windows.fit_scale()
        if kind == "part":
            data = Part(windows, torch.tensor([5, 0, 7, 2]), Scale.fit(windows[:]))
        rows = torch.tensor([3, 0, 1])
        before = torch.get_rng_state()
        packed = data.packed(rows)
        assert torch.equal(before, torch.get_rng_state()), "a random number was drawn"
        kept = packed.kept.kept if kind == "part" else packed.kept
        assert kept.x.dtype == (torch.float16 if kind == "latents" else torch.uint8)
        made = packed.to("cpu")
        torch.set_rng_state(before)
        plain = Windows(clips, V=3, stride=2)[data._picked(rows) if kind == "part" else rows]
        assert torch.equal(plain.static["who"], made.static["who"])
        assert torch.equal(plain.dynamic["deed"], made.dynamic["deed"])
        x = torch.from_numpy(frames.astype(np.float32))[plain.dynamic["deed"]]
        x = x if kind == "latents" else x / 255
        if kind == "augmented":
            x = flips_and_jitter(x)
        if kind in ("scaled", "part"):
            x = (x - data.scale.mean) / data.scale.std * 0.5
        torch.set_rng_state(before)
        assert torch.equal(made.x, x) and torch.equal(data[rows].x, x)
        assert made.scale is getattr(data, "scale", None) and made.complete

    @pytest.mark.parametrize("augment", [None, flips_and_jitter])
    def test_nobody_waits_for_a_batch_and_it_is_made_on_the_device(self, augment):
        windows = Windows(Clips(noise(20, 3, 8, 8), [0, 9, 20]), V=3, augment=augment).fit_scale()
        made = windows.packed([0, 4]).to("meta")  # where nobody can look at a number
        assert made.x.is_meta and made.x.is_floating_point() and made.x.shape == (2, 3, 3, 8, 8)

    @pytest.mark.parametrize("augment", [None, flips_and_jitter])
    def test_a_training_that_cuts_ahead_sees_the_same_batches(self, augment, monkeypatch):
        windows = Windows(Clips(noise(30, 3, 8, 8), [0, 14, 30]), V=3, augment=augment).fit_scale()
        seen, cutters = [], set()
        cut = Windows.packed
        told = lambda data, rows: cutters.add(threading.current_thread()) or cut(data, rows)
        monkeypatch.setattr(Windows, "packed", told)

        def loss(model, batch):
            seen.append(batch.x)
            return LossSum(model.weight.square().sum(), torch.tensor(1.0))

        for ahead in (False, True):
            monkeypatch.setattr(training, "_runs_ahead", lambda device: ahead)  # noqa: B023
            cutters.clear()
            train(torch.nn.Linear(1, 1), loss, windows, TrainConfig(3, 4), progress=False)
            assert (cutters == {threading.main_thread()}) is not ahead
        assert len(seen) == 6 and all(map(torch.equal, seen[:3], seen[3:]))

    @pytest.mark.parametrize("change", [{"V": 0}, {"stride": 0}, {"every": -1}])
    def test_refuses_sizes_below_one(self, change):
        with pytest.raises(ValueError, match="must be at least 1"):
            Windows(numbered([9]), **{"V": 2} | change)


def test_flips_and_jitter_is_a_function_of_the_generator():
    x = torch.rand(6, 4, 3, 8, 8)
    torch.manual_seed(1)
    a = flips_and_jitter(x)
    torch.manual_seed(1)
    assert torch.equal(a, flips_and_jitter(x)) and not torch.equal(a, flips_and_jitter(x))
    grey = torch.full((30, 2, 3, 4, 4), 0.5)
    grey[:, 0] = 0.25  # darker first frames: some clips must come back the other way round
    turned = flips_and_jitter(grey).mean((2, 3, 4))
    assert 3 < (turned[:, 0] > turned[:, 1]).sum() < 27


def tiny_model(V=4, stride=1, side=8):
    torch.manual_seed(0)
    model = DiffSDA.unet(
        (3, side, side), 4, 2, 8, 8, 8, multipliers=(1, 2), blocks=1, attention=(), embedding=16
    )
    scale = Scale(torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25))
    return Disentangler(model, scale, Films(V, stride, None, frame=(3, side, side)))


class TestFilms:
    def test_swap_has_the_length_of_the_dynamic_clip_at_the_models_rate(self):
        model = tiny_model(V=4, stride=2)
        made = model.swap(noise(9, 3, 8, 8), noise(21, 3, 8, 8, seed=1), steps=2)
        assert made.shape == (11, 3, 8, 8) and made.dtype == np.uint8
        again = model.swap(noise(9, 3, 8, 8), noise(21, 3, 8, 8, seed=1), steps=2)
        assert np.array_equal(made, again)
        other = model.swap(noise(9, 3, 8, 8), noise(21, 3, 8, 8, seed=1), steps=2, seed=1)
        assert not np.array_equal(made, other)

    def test_every_frame_comes_from_its_own_pieces(self):
        model, clip = tiny_model(V=4), noise(9, 3, 8, 8)
        pieces = model.adapter.pieces(clip)
        at, _ = pieces.at()
        assert at.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [5, 6, 7, 8]]
        assert torch.allclose(pieces.data.x[3, 3], torch.from_numpy(clip[8]) / 255)

    def test_save_and_load(self, tmp_path):
        model = tiny_model(V=4, stride=2)
        model.save(tmp_path)
        again = Disentangler.load(tmp_path, Films)
        assert again.adapter == model.adapter
        a, b = noise(8, 3, 8, 8), noise(9, 3, 8, 8, seed=1)
        assert np.array_equal(model.swap(a, b, steps=2), again.swap(a, b, steps=2))
        with pytest.raises(ValueError, match="does not exist"):
            Disentangler.load(tmp_path / "elsewhere", Films)

    def test_the_rate_of_the_films_is_that_of_the_model_and_of_what_it_makes(self, tmp_path):
        for name, rate in (("a", 12), ("b", 12), ("fast", 24)):
            (tmp_path / name).mkdir()
            write_film(tmp_path / name / "film.mp4", smooth(9), rate)
        films, notes = Films(V=4, stride=2, size=8).fitted(tmp_path / "a")
        assert films.rate == 12 and notes == ("the clips have 12 frames a second",)
        films.write(noise(4, 3, 8, 8), tmp_path / "made.mp4")
        assert film_rate(tmp_path / "made.mp4") == 6
        assert films.pieces(tmp_path / "b").times[0].tolist() == [0, 2 / 12, 4 / 12, 6 / 12, 8 / 12]
        for path in (tmp_path / "fast", tmp_path / "fast" / "film.mp4"):
            with pytest.raises(ValueError, match=r"24 frames a second, .* trained at 12; .*-r 12"):
                films.pieces(path)

    def test_channels_that_come_last_are_refused(self):
        wrong = Clips(noise(9, 16, 16, 3), [0, 9])
        for films in (Films(V=4, size=16), Films(V=4, size=None)):
            for source in (noise(9, 16, 16, 3), wrong):
                with pytest.raises(ValueError, match=r"16 channels.*transpose\(0, 3, 1, 2\)"):
                    films.fitted(source)
        assert Films(V=4, size=16).fitted(noise(9, 1, 16, 16))[0].frame == (1, 16, 16)

    @pytest.mark.parametrize("suffix", Films.ends)
    def test_a_grey_clip_is_written_in_three_equal_channels(self, tmp_path, suffix):
        grey = smooth(5)[..., 0][:, None]
        Films(V=4).write(grey, tmp_path / f"grey{suffix}")
        read = read_clip(tmp_path / f"grey{suffix}", size=32).astype(int)
        assert read.shape == (5, 3, 32, 32) and np.abs(read - grey).mean() < 6
        films, _ = Films(V=4).fitted(grey)
        read = films.read(tmp_path / f"grey{suffix}")[0].frames.astype(int)
        assert read.shape == grey.shape and np.abs(read - grey).mean() < 6

    def test_a_gif_of_few_colours_comes_back_as_it_was(self, tmp_path):
        shown = np.repeat(smooth(5).transpose(0, 3, 1, 2) // 16 * 16, 2, 0)
        Films().write(shown, tmp_path / "a.gif")
        assert np.array_equal(Films().read(tmp_path / "a.gif")[0].frames, shown)

    def test_pictures_beside_films_do_not_hide_them(self, tmp_path):
        write_images(tmp_path / "stills", noise(5, 16, 16, 3))
        films = Films(V=4, size=16)
        assert films.read(tmp_path / "stills")[1]
        write_film(tmp_path / "stills" / "films.mp4", noise(6, 16, 16, 3))
        with pytest.raises(ValueError, match="stills holds pictures beside films or .*; move the"):
            films.read(tmp_path / "stills")
        write_images(tmp_path / "many", noise(1, 16, 16, 3))  # a cover
        write_images(tmp_path / "many" / "a", noise(5, 16, 16, 3))
        with pytest.raises(ValueError, match="many holds pictures beside films or folders of pic"):
            films.read(tmp_path / "many")
        (tmp_path / "many" / "0.png").unlink()
        assert films.read(tmp_path)[0].names == ("many/a", "stills", "stills/films")

    def test_a_clip_too_short_for_the_stride_is_refused_before_the_training(self):
        clips = Clips(noise(22, 3, 8, 8), [0, 14, 22], ("long", "brief"))
        films = Films(V=4, stride=3, size=None)
        with pytest.raises(
            ValueError,
            match=r"brief has 8 frames, but a window needs 10 \(4 at stride 3\).*smaller V",
        ):
            films.training(clips)
        just = Clips(noise(21, 3, 8, 8), [0, 11, 21])
        assert (films.training(just).data.stride == 3).all() and len(films.pieces(just)) == 2

    def test_the_frame_and_rate_of_a_folder_are_told_by_few_of_its_clips(
        self, tmp_path, impatient, capfd, monkeypatch
    ):
        write_images(tmp_path / "a", noise(5, 16, 16, 3))
        for name in "bcd":
            write_film(tmp_path / f"{name}.mp4", noise(6, 16, 16, 3), 12)
        read, whole = [], video.read_clip
        told = lambda path, *more: read.append(path.name) or whole(path, *more)
        monkeypatch.setattr(video, "read_clip", told)
        films, _ = Films(V=4, size=16).fitted(tmp_path)
        assert (films.rate, films.frame, read) == (12, (3, 16, 16), ["a", "b.mp4"])
        assert len(films.training(tmp_path).names) == 4
        assert re.search(r"reading clips.* 4/4", capfd.readouterr().err)
        (tmp_path / "none").mkdir()
        with pytest.raises(ValueError, match="none holds no clip"):
            films.fitted(tmp_path / "none")

    def test_films_in_green_have_a_scale(self):
        frames = noise(20, 3, 8, 8)
        frames[:, [0, 2]] = 0
        windows = Windows(Clips(frames, [0, 9, 20]), V=4).fit_scale()
        assert windows.scale.std.shape == (1, 1, 1) and windows[:].x.isfinite().all()

    def test_an_alternative_text_counts_the_frames_that_are_shown(self):
        films = Films(V=4, stride=2, size=None, frame=(3, 8, 8))
        shown = films.show({"as it came": noise(9, 3, 8, 8), "as it was made": noise(5, 3, 8, 8)})
        for made in shown.values():
            told = re.search(r"a moving picture of (\d+) frames", made)[1]
            kept = base64.b64decode(re.search(r"base64,([^\"]+)", made)[1])
            assert int(told) == Image.open(io.BytesIO(kept)).n_frames == 5

    def test_a_rate_must_be_one(self):
        with pytest.raises(ValueError, match="rate must be above 0 frames a second, got 0"):
            Clips(noise(3, 3, 4, 4), [0, 3], rate=0)

    def test_bad_clips_are_refused(self):
        model = tiny_model()
        with pytest.raises(ValueError, match="this clip has 3 frames.*, but a piece needs 4"):
            model.swap(noise(3, 3, 8, 8), noise(9, 3, 8, 8), steps=2)
        with pytest.raises(ValueError, match=r"expected \(3, 8, 8\)"):
            model.swap(noise(9, 3, 16, 16), noise(9, 3, 8, 8), steps=2)
        for clip in (torch.rand(9, 3, 8, 8), noise(9, 8, 8)):
            with pytest.raises(ValueError, match=r"bytes \(T, C, H, W\), got"):
                model.encode(clip)


def test_a_set_that_is_not_prepared_names_its_command(tmp_path):
    with pytest.raises(ValueError, match=r"prepare\.py sprites"):
        open_clips("sprites", tmp_path)


def test_a_prepared_set_opens_without_being_read(tmp_path):
    import json

    home = tmp_path / "made"
    home.mkdir()
    arrays = {
        "frames": noise(7, 3, 4, 4),
        "starts": np.array([0, 3, 7]),
        "who": np.array([1, 0], np.int16),
        "deed": np.array([0, 0], np.int16),
    }
    for name, array in arrays.items():
        np.save(home / f"{name}.npy", array)
    facts = {
        "arrays": {k: list(v.shape) for k, v in arrays.items()},
        "rate": 12.5,
        "files": ["a", "b"],
        "labels": {"who": ["x", "y"], "deed": ["run"]},
        "dynamic": ["deed"],
    }
    (home / "index.json").write_text(json.dumps(facts))
    clips = open_clips("made", tmp_path)
    assert isinstance(clips.frames, np.memmap) and clips.rate == Windows(clips, V=3).rate == 12.5
    assert clips.static["who"].tolist() == [1, 0] and list(clips.dynamic) == ["deed"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Windows(clips, V=3)[:]
    assert isinstance(data, Sequences) and data.dynamic["deed"].shape == (3, 3)
    (home / "index.json").write_text(json.dumps(facts | {"rate": 0.0}))  # nobody knows it
    assert open_clips("made", tmp_path).rate == 25


def test_an_array_is_cropped_as_a_file_is(tmp_path):
    across = np.linspace(0, 255, 64).astype(np.uint8)
    frames = np.broadcast_to(across, (4, 3, 48, 64)).copy()
    for i, frame in enumerate(frames):
        (tmp_path / "film").mkdir(exist_ok=True)
        Image.fromarray(frame.transpose(1, 2, 0)).save(tmp_path / "film" / f"{i}.png")
    read, reduced = read_clip(tmp_path / "film", size=16), Clips(frames, [0, 4]).reduced(16).frames
    assert np.abs(read.astype(int) - reduced).max() <= 1
    with pytest.raises(ValueError, match="must be bytes to be reduced, got float32"):
        Clips(frames.astype(np.float32), [0, 4]).reduced(16)


def test_labels_of_clips_are_whole_numbers_of_known_classes_and_left_to_their_owner():
    frames, mine = np.zeros((6, 3, 4, 4), np.uint8), {"age": [0, 1, -1]}
    clips = Clips(frames, [0, 2, 4, 6], static=mine, dynamic=mine, classes={"age": ("a", "b")})
    assert mine == {"age": [0, 1, -1]} and clips.dynamic["age"].tolist() == [0, 0, 1, 1, -1, -1]
    assert Clips(frames, [0, 3, 6], static={"a": np.array([0, 1], np.uint8)}).static["a"][1] == 1
    for wrong in ([0.5, 0.9, 1.7], [0, 1, 2], [0, -2, 1]):
        with pytest.raises(ValueError, match="label 'age' must be whole numbers from 0 to below 2"):
            Clips(frames, [0, 2, 4, 6], static={"age": wrong}, classes={"age": ("a", "b")})
