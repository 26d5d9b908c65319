"""From clips to prepared sets: made-up trees in each set's own layout, and the real files where they are."""

import copy
import csv
import functools
import io
import json
import sys
import tempfile
import tracemalloc
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import test_data_scripts as shared

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

arrays_of, contents, write, zipped = shared.arrays_of, shared.contents, shared.write, shared.zipped
scripts = shared.scripts
COPIES = shared.COPIES / "video"

# ---- made-up clips: smooth, so that codecs keep them, and a little brighter with each frame


def frames_of(key, count=12, height=48, width=64):
    """(count, height, width, 3) uint8 that only this key has."""
    rng = np.random.default_rng([*key.encode()])
    low, high = rng.integers(30, 90, 3), rng.integers(120, 180, 3)
    across = np.linspace(0, 1, width)[:, None] * (high - low)
    down = np.linspace(0, 20, height)[:, None, None]
    time = 4 * (np.arange(count) % 12)[:, None, None, None]
    return (low + across + down + time).astype(np.uint8)


def still(frame, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def stills(folder, frames, pattern="{:07}.png", kind="PNG"):
    return {f"{folder}/{pattern.format(v)}": still(frame, kind) for v, frame in enumerate(frames)}


def movie(frames, suffix=".mp4", codec="libx264", **options):
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/made{suffix}"
        with av.open(file, "w", options=options) as container:
            stream = container.add_stream(codec, rate=25, options={"crf": "8"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt, stream.bit_rate = "yuv420p", 10_000_000
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))
        return Path(file).read_bytes()


# ---- made-up sets, each a dict of files: name -> bytes; and what must come of them


def made_once(files):
    """Encoding takes its time; what a test changes is a copy."""
    kept = functools.cache(files)
    return lambda: dict(kept())


TAKES = [
    f"{who}/{expression}/take00{take}"
    for who in ("001", "002", "010/session0")
    for expression in ("anger", "surprise")
    for take in (0, 1)
]


@made_once
def mug():
    folders = [*TAKES, "001/neutral/take000"]
    files = [
        stills(f"subjects3/{folder}", frames_of(folder, 16), "img_{:04}.jpg", "JPEG")
        for folder in folders
    ]
    return {name: made for folder in files for name, made in folder.items()} | {
        "subjects3/README.txt": "expressions"
    }


CHUNKS = ["train/abc#000000#000012", "train/abc#000012#000024"]
CHUNKS += ["test/other#000001#000013", "test/x-Y_z#000000#000012"]


@made_once
def taichi():
    files = [stills(f"taichi/{chunk}.mp4", frames_of(chunk[-8:])) for chunk in CHUNKS]
    return {name: made for folder in files for name, made in folder.items()} | {
        "taichi/metadata.csv": "video_id,start,end,bbox,fps,partition"
    }


TALKS = ["id10001/1zcIwhmdeo4/00001", "id10001/1zcIwhmdeo4/00010", "id10270/5r0dWxy17C8/00001"]
TALKS += ["id10309/0cYFdtyWVds/00001", "id10309/0cYFdtyWVds/00002", "id11251/s4R4hvqrhFw/00009"]


@made_once
def voxceleb():
    return {f"dev/mp4/{talk}.mp4": movie(frames_of(talk, 70)) for talk in TALKS}


LISTED = {  # clip -> YouTube's name, appearance, action, emotion
    "A_0": ("A", [1, 0], [0, 1], {"sep_flag": False, "labels": "neutral"}),
    "A_1": ("A", [1, 0], [0, 0], {"sep_flag": True, "labels": [{"emotion": "happy"}]}),
    "v9_0": ("v9", [0, 1], [1, 0], {"sep_flag": False, "labels": "happy"}),
    "gone": ("gone", [0, 1], [1, 0], {"sep_flag": False, "labels": "sad"}),
}


def listing():
    clips = {
        clip: {
            "ytb_id": video,
            "duration": {"start_sec": 0.0, "end_sec": 1.0},
            "bbox": {"top": 0.0, "bottom": 0.9, "left": 0.1, "right": 0.8},
            "attributes": {"appearance": looks, "action": actions, "emotion": emotion},
            "version": "v0.1",
        }
        for clip, (video, looks, actions, emotion) in LISTED.items()
    }
    names = {"appearance_mapping": ["young", "wearing_hat"], "action_mapping": ["talk", "blink"]}
    return {"meta_info": names, "clips": clips}


@made_once
def celebvhq():
    files = {f"35666/{clip}.mp4": movie(frames_of(clip)) for clip in LISTED if clip != "gone"}
    return files | {"celebvhq_info.json": json.dumps(listing())}


SENTENCES = ["s1/bbaf2n", "s2/sgwzzp", "s10/lrbx7s"]


@made_once
def grid():
    big = lambda name: frames_of(name, 12, 288, 360)
    return {f"{name}.mpg": movie(big(name), ".mpg", "mpeg1video") for name in SENTENCES}


FACE = (16, 8, 48, 40)  # of the made-up detector
MIDDLE = (8, 0, 56, 48)
MADE = {  # set -> files, names, box, frames a second, dynamic labels
    "mug": (mug, TAKES, FACE, 19, ["expression"]),
    "taichi": (taichi, [chunk.split("/")[1] for chunk in CHUNKS], MIDDLE, 0, []),
    "voxceleb": (voxceleb, TALKS, MIDDLE, 25 / 6, []),
    "celebvhq": (celebvhq, ["A_0", "A_1", "v9_0"], MIDDLE, 0, ["talk", "blink", "emotion"]),
    "grid": (
        grid,
        SENTENCES,
        (76, 36, 284, 244),
        25,
        ["command", "color", "preposition", "letter", "digit", "adverb"],
    ),
}
ORIGINAL = {  # set -> name -> the frames that are kept
    "mug": lambda name: frames_of(name, 16),
    "taichi": lambda name: frames_of(name[-8:]),
    "voxceleb": lambda name: frames_of(name, 70)[::6],
    "celebvhq": frames_of,
    "grid": lambda name: frames_of(name, 12, 288, 360),
}
EXPECTED = {  # set -> label -> class of a clip, by its name; part is tested below
    "mug": {
        "subject": lambda n: n[:3],
        "expression": lambda n: n.split("/")[-2],
    },
    "taichi": {
        "video": lambda n: n.split("#")[0],
        "part": lambda n: "train" if n.startswith("abc") else "test",
    },
    "voxceleb": {
        "speaker": lambda n: n[:7],
        "video": lambda n: n.split("/")[1],
        "part": lambda n: "test" if n[:7] in ("id10270", "id10309") else "train",
    },
    "celebvhq": {
        "video": lambda n: LISTED[n][0],
        "young": lambda n: ["no", "yes"][LISTED[n][1][0]],
        "wearing_hat": lambda n: ["no", "yes"][LISTED[n][1][1]],
        "talk": lambda n: ["no", "yes"][LISTED[n][2][0]],
        "blink": lambda n: ["no", "yes"][LISTED[n][2][1]],
        "emotion": lambda n: None if n == "A_1" else LISTED[n][3]["labels"],
    },
    "grid": {
        "talker": lambda n: n.split("/")[0],
        "command": lambda n: {"b": "bin", "s": "set", "l": "lay"}[n[-6]],
        "color": lambda n: {"b": "blue", "g": "green", "r": "red"}[n[-5]],
        "preposition": lambda n: {"a": "at", "w": "with", "b": "by"}[n[-4]],
        "letter": lambda n: n[-3],
        "digit": lambda n: {"2": "two", "z": "zero", "7": "seven"}[n[-2]],
        "adverb": lambda n: {"n": "now", "p": "please", "s": "soon"}[n[-1]],
    },
}


@pytest.fixture
def make(scripts, tmp_path, monkeypatch):
    """Prepares files from a folder of them, with a made-up detector; returns the arrays and the facts."""
    for room in (scripts.mug, scripts.celebvhq):
        read = functools.partial(room.read, detect=lambda frame: FACE)
        monkeypatch.setattr(room, "read", read)

    def prepared(name, files, **options):
        source = write(files, tmp_path / f"raw {len([*tmp_path.iterdir()])}")
        scripts.prepare(name, str(source), tmp_path / "data", **{"size": 24} | options)
        return arrays_of(tmp_path / "data" / name)

    return prepared


def clip_of(prepared, name):
    arrays, facts = prepared
    i = facts["files"].index(name)
    return arrays["frames"][arrays["starts"][i] : arrays["starts"][i + 1]]


def shown(frames, box, size):
    """What lies in the box, as the scripts are to store it."""
    cut = lambda frame: Image.fromarray(frame).crop(box).resize((size, size), Image.BICUBIC)
    return np.stack([np.asarray(cut(frame)) for frame in frames]).transpose(0, 3, 1, 2)


def far(one, other):
    """The largest difference of two clips' pixels."""
    assert one.shape == other.shape, (one.shape, other.shape)
    return np.abs(one.astype(int) - other).max()


# ---- what comes out


@pytest.mark.parametrize("name", MADE)
def test_clips_are_their_files_with_their_labels(make, scripts, tmp_path, name):
    files, names, box, rate, dynamic = MADE[name]
    arrays, facts = make(name, files())
    assert facts["files"] == names and facts["rate"] == pytest.approx(rate)
    assert arrays["frames"].dtype == np.uint8 and arrays["starts"].dtype == np.int64
    assert isinstance(arrays["frames"], np.memmap) and arrays["starts"][0] == 0
    for clip in names:
        want = shown(ORIGINAL[name](clip), box, 24)
        assert far(clip_of((arrays, facts), clip), want) <= 8, clip
    for label, of in EXPECTED[name].items():
        classes = [None, *facts["labels"][label]]
        assert arrays[label].dtype == np.int16
        assert [classes[i + 1] for i in arrays[label]] == [of(clip) for clip in names], label
    assert {*facts["labels"]} - {*EXPECTED[name]} <= {"part"} and facts["dynamic"] == dynamic
    assert (
        facts["licence"] and facts["citation"] and facts["skipped"] == {} and not facts["dropped"]
    )
    assert str(tmp_path) not in json.dumps(facts), "no path of this machine is kept"
    assert [p.name for p in (tmp_path / "data").iterdir()] == [name], "nothing is left behind"
    here = [line for line in scripts.listing(tmp_path / "data").splitlines() if "present" in line]
    assert len(here) == 1 and here[0].endswith(f"present: {len(names)} clips")


def test_lossless_clips_of_the_right_size_are_kept_exactly(make):
    files = stills("t/train/a#0#1.mp4", frames_of("a", 12, 24, 24))
    files |= stills("t/test/b#0#1", frames_of("b", 12, 24, 24))
    prepared = make("taichi", files)
    assert far(clip_of(prepared, "a#0#1"), frames_of("a", 12, 24, 24).transpose(0, 3, 1, 2)) == 0


def test_large_frames_are_reduced_without_aliasing(scripts):
    """A chessboard of single pixels is gray from afar."""
    board = np.indices((96, 96)).sum(0) % 2 * 255
    frames = np.repeat(board[None, ..., None], 3, 3).astype(np.uint8)
    clips = scripts.clips
    clip = clips.Clip("x", {}, "x", lambda seen: iter(frames))
    small = clips.cropped(clip, clips.centred, clips.Options(size=12), Counter())
    assert small.shape == (1, 3, 12, 12) and np.abs(small.astype(int) - 127).max() <= 2


# ---- layouts


def renamed(files, suffix, encode):
    """Folders of frames in place of files, or the other way round."""
    return {Path(name).with_suffix(suffix).as_posix(): encode(name) for name in files}


LAYOUTS = {
    "zip": ("taichi", lambda: {"taichi.zip": zipped(taichi())}, 0),
    "zips": ("grid", lambda: {f"{n[:-11]}.zip": zipped({n: m}) for n, m in grid().items()}, 0),
    "deep": ("voxceleb", lambda: {f"a/b/{name}": made for name, made in voxceleb().items()}, 0),
    "frames without padding": (
        "taichi",
        lambda: {
            name: made
            for chunk in CHUNKS
            for name, made in stills(chunk, frames_of(chunk[-8:]), "{}.png").items()
        },
        0,
    ),
    "files in place of folders": (
        "taichi",
        lambda: {f"{chunk}.mp4": movie(frames_of(chunk[-8:])) for chunk in CHUNKS},
        8,
    ),
    "folders in place of files": (
        "voxceleb",
        lambda: {
            name: made
            for talk in TALKS
            for name, made in stills(talk, frames_of(talk, 70), "{}.jpg", "JPEG").items()
        },
        8,
    ),
    "another container": (
        "voxceleb",
        lambda: {f"{talk}.AVI": movie(frames_of(talk, 70), ".avi", "mpeg4") for talk in TALKS},
        8,
    ),
    "what macOS leaves": (
        "grid",
        lambda: grid() | {"s1/._bbaf2n.mpg": b"\0" * 99, ".DS_Store": b"x"},
        0,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_arrays(make, layout):
    name, files, near = LAYOUTS[layout]
    want, facts = make(name, MADE[name][0]())
    got, others = make(name, files())
    assert {**facts, "sha256": 0} == {**others, "sha256": 0}
    for key in want:
        assert far(want[key], got[key]) <= near, key


def test_order_of_a_listing_does_not_matter(make, scripts, monkeypatch):
    want, facts = make("taichi", taichi())
    listed = scripts.fetch.files_of

    def shuffled(path):
        files = listed(path)
        return [files[i] for i in np.random.default_rng(0).permutation(len(files))]

    monkeypatch.setattr(scripts.fetch, "files_of", shuffled)
    got, others = make("taichi", taichi())
    assert facts["files"] == others["files"]
    assert all(np.array_equal(want[key], got[key]) for key in want)


# ---- what is put right, and counted


def test_gray_and_transparent_frames_are_put_right_and_counted(make, capsys):
    files, frame = taichi(), frames_of("gray", 1)[0]
    alpha = np.full(frame.shape[:2] + (1,), 255, np.uint8)
    holes = alpha.copy()
    holes[:, 32:] = 0
    made = [frame[..., 0], np.concatenate([frame, alpha], 2), np.concatenate([frame, holes], 2)]
    for v, pixels in enumerate(made):
        files[f"taichi/{CHUNKS[0]}.mp4/{v:07}.png"] = still(pixels)
    clip = clip_of(make("taichi", files, size=48), "abc#000000#000012")
    square = frame[:, 8:56].transpose(2, 0, 1)
    assert far(clip[0], np.stack([square[0]] * 3)) == 0 and far(clip[1], square) == 0
    assert far(clip[2], np.where(np.arange(48) < 24, square, 0)) == 0
    said = capsys.readouterr().out
    assert "  1 frames in grayscale, made RGB" in said
    assert "  1 frames with transparent pixels, laid over black" in said


def test_palettes_are_colours(scripts):
    frame = frames_of("palette", 1)[0]
    few = Image.fromarray(frame).quantize(200)
    seen = Counter()
    assert far(scripts.clips.rgb("x.png", few, seen), np.asarray(few.convert("RGB"))) == 0
    assert not any(seen.values())


# ---- bad input: one spoilt clip, one clear error; skipped and counted only when asked for

FIRST = "taichi/train/abc#000000#000012.mp4"
FILE = "dev/mp4/id10001/1zcIwhmdeo4/00001.mp4"
SAID = "s2/sgwzzp.mpg"


def without(files, folder):
    return {name: made for name, made in files.items() if not name.startswith(folder)}


def between(made):
    """A clip cut between two of its frames, where no decoder stumbles."""
    with av.open(io.BytesIO(made)) as container:
        places = sorted(packet.pos for packet in container.demux() if packet.size)
    return made[: places[len(places) // 2]]


def deep(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


def changed(name, spoil):
    return lambda files: {**files, name: spoil(files[name])}


long = frames_of("long", 70)
BROKEN = {  # set, what is done to its files, what the message says
    "empty file": ("voxceleb", changed(FILE, lambda m: b""), r"00001.mp4 is empty \(0 bytes\)"),
    "empty frame": ("taichi", changed(f"{FIRST}/0000003.png", lambda m: b""), "0000003.png is empty"),
    "text": ("voxceleb", changed(FILE, lambda m: b"<html>404</html>" * 99), "00001.mp4 cannot be decoded .*expected a whole clip"),
    "text frame": ("taichi", changed(f"{FIRST}/0000003.png", lambda m: b"<html>"), "0000003.png cannot be decoded .*not known"),
    "cut mp4, contents last": ("voxceleb", changed(FILE, lambda m: m[: len(m) // 2]), "00001.mp4 cannot be decoded"),
    "cut mp4, contents first": ("voxceleb", changed(FILE, lambda m: movie(long, movflags="faststart")[:-200]), "00001.mp4 (cannot be decoded|is cut short)"),
    "cut mp4 between frames": ("voxceleb", changed(FILE, lambda m: between(movie(long, movflags="faststart"))), r"00001.mp4 is cut short: \d+ frames, expected 70"),
    "cut mpg": ("grid", changed(SAID, lambda m: m[: len(m) // 2]), "sgwzzp.mpg is cut short or damaged at frame"),
    "cut png": ("taichi", changed(f"{FIRST}/0000003.png", lambda m: m[:-30]), "0000003.png cannot be decoded"),
    "cut jpg": ("mug", changed("subjects3/001/anger/take000/img_0007.jpg", lambda m: m[: len(m) // 2]), "img_0007.jpg cannot be decoded"),
    "only sound": ("voxceleb", changed(FILE, lambda m: sound()), "00001.mp4 holds no pictures"),
    "mixed size": ("taichi", changed(f"{FIRST}/0000003.png", lambda m: still(frames_of("a", 1, 50, 64)[0])), r"0000003.png is 50 x 64 \(height x width\), expected 48 x 64"),
    "16 bits": ("taichi", changed(f"{FIRST}/0000003.png", lambda m: deep(long[0])), "0000003.png has pixels of type I;16, expected 8 bits"),
    "a frame twice": ("taichi", lambda files: {**files, f"{FIRST}/3.png": still(long[0])}, "holds one frame twice, as (3|0000003).png and (3|0000003).png"),
    "no frame": ("taichi", lambda files: {**without(files, FIRST), f"{FIRST}/notes.txt": "x"}, "abc#000000#000012.mp4 holds no frame"),
    "too short": ("voxceleb", changed(FILE, lambda m: movie(long[:54])), "00001.mp4 has 9 frames, one of each 6 kept, expected 10 or more"),
    "too short, frames": ("mug", lambda files: without(files, "subjects3/001/anger/take000/img_0003"), "take000 has 15 frames, expected 16 or more"),
    "other frames": ("grid", changed(SAID, lambda m: movie(long, ".mpg", "mpeg1video")), r"sgwzzp.mpg is 48 x 64 \(height x width\), expected 288 x 360"),
}  # fmt: skip


def sound():
    with tempfile.TemporaryDirectory() as folder:
        with av.open(f"{folder}/made.mp4", "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return Path(f"{folder}/made.mp4").read_bytes()


@pytest.mark.parametrize("what", BROKEN)
def test_broken_clip_is_named_or_skipped_if_asked_for(make, scripts, tmp_path, capsys, what):
    name, spoil, words = BROKEN[what]
    options = {"least": 16} if what == "too short, frames" else {}
    whole, facts = make(name, MADE[name][0](), **options)
    whole = {key: np.array(array) for key, array in whole.items()}
    before = contents(tmp_path / "data")
    source = write(spoil(MADE[name][0]()), tmp_path / "spoilt")
    asked = lambda **more: scripts.prepare(
        name, str(source), tmp_path / "data", size=24, **options, **more
    )
    with pytest.raises(ValueError, match=words) as caught:
        asked()
    assert "\n" not in str(caught.value) and "--skip-broken" in str(caught.value)
    assert contents(tmp_path / "data") == before, "the former set is there"

    capsys.readouterr()
    asked(skip_broken=True)
    assert "  1 broken clips skipped; the first: " in capsys.readouterr().out
    arrays, others = arrays_of(tmp_path / "data" / name)
    (skipped,) = others["skipped"]
    assert others["files"] == [clip for clip in facts["files"] if clip != skipped]
    for clip in others["files"]:
        assert far(clip_of((arrays, others), clip), clip_of((whole, facts), clip)) == 0


MISPLACED = {  # set, file -> its new name, what the message says
    "subject": ("mug", "subjects3/12/anger/take000/img_0000.jpg", "has no label, expected folders like 012/happiness/take001"),
    "expression": ("mug", "subjects3/001/angry/take000/img_0000.jpg", "has no label, .*anger, disgust"),
    "chunk": ("taichi", "taichi/train/abc/0000000.png", "has no label, .*aDyyTMUBoLE#000164#000351.mp4"),
    "speaker": ("voxceleb", "id00012/1zcIwhmdeo4/00001.mp4", "has no label, .*id10270/5r0dWxy17C8/00001.mp4"),
    "video": ("voxceleb", "id10001/00001.mp4", "has no label"),
    "not listed": ("celebvhq", "35666/B_0.mp4", "B_0 is not listed in celebvhq_info.json"),
    "talker": ("grid", "talker/bbaf2n.mpg", "has no label, .*s1/bbaf2n.mpg"),
    "sentence": ("grid", "s1/bbaw2n.mpg", "has no label, .*bin blue at f two now"),
    "short sentence": ("grid", "s1/bbaf2.mpg", "has no label"),
    "the same clip twice": ("voxceleb", "test/mp4/id10001/1zcIwhmdeo4/00001.mp4", "holds id10001/1zcIwhmdeo4/00001 twice, as .*keep one"),
    "file and folder": ("voxceleb", "dev/mp4/id10001/1zcIwhmdeo4/00001/0.png", "twice, as .*00001 and|twice, as .*00001.mp4 and"),
    "in train and test": ("taichi", "taichi/test/abc#000000#000012.mp4/0.png", "holds abc#000000#000012 twice"),
}  # fmt: skip


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("what", MISPLACED)
def test_clip_that_does_not_belong_is_refused(make, what, skip_broken):
    name, file, words = MISPLACED[what]
    with pytest.raises(ValueError, match=words) as caught:
        make(name, MADE[name][0]() | {file: b"x"}, skip_broken=skip_broken)
    assert ";" in str(caught.value), "what to do"


def test_no_clip_at_all_is_refused(scripts, make, tmp_path):
    with pytest.raises(ValueError, match="holds no clip of this set .*name the folder"):
        make("voxceleb", {"id10001/video/notes.txt": "x"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nor a folder that holds"):
        scripts.prepare("taichi", str(tmp_path / "empty"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_nothing_left_is_refused(make):
    with pytest.raises(ValueError, match="grid: no clip of 3 is left .*has 12 frames, expected 99"):
        make("grid", grid(), least=99, skip_broken=True)


@pytest.mark.parametrize("part", ["train", "test"])
def test_half_of_taichi_is_refused(make, part):
    files = {name.replace("taichi/test", "taichi/train"): made for name, made in taichi().items()}
    if part == "train":
        files = {name.replace("/train/", "/test/"): made for name, made in files.items()}
        files["taichi/train/notes.txt"] = "x"
    with pytest.raises(ValueError, match=f"no clip in {part}, expected train and test"):
        make("taichi", files)


INFO = "celebvhq_info.json"


def altered(change):
    info = copy.deepcopy(listing())
    change(info)
    return json.dumps(info)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "holds 0 files celebvhq_info.json"),
        ("{", "is not what we know .*get it again"),
        ("[]", "is not what we know"),
        (altered(lambda i: i.pop("meta_info")), "is not what we know .KeyError: 'meta_info'"),
        (altered(lambda i: i["clips"]["A_0"].pop("ytb_id")), "KeyError: 'ytb_id'"),
        (altered(lambda i: i["clips"]["A_0"]["attributes"]["action"].pop()), "is not what we know"),
    ],
    ids=["missing", "no json", "no object", "no names", "no video", "too few attributes"],
)
def test_bad_list_of_celebvhq_is_refused(make, scripts, text, words):
    files = {name: made for name, made in celebvhq().items() if name != INFO}
    if text is None:
        with pytest.raises(ValueError, match="nor a folder that holds .*celebvhq_info.json"):
            make("celebvhq", files)
        files = {"celebvhq.zip": zipped(files)}
    else:
        files[INFO] = text
    with pytest.raises(ValueError, match=words):
        make("celebvhq", files)


def test_clips_that_are_listed_and_not_there_are_said(make, capsys):
    make("celebvhq", celebvhq())
    assert "warning: 1 clips are listed and not there" in capsys.readouterr().out


# ---- options


def test_frames_are_thinned_and_the_rate_with_them(make):
    arrays, facts = make("grid", grid(), every=5)
    want = shown(ORIGINAL["grid"]("s1/bbaf2n")[::5], MADE["grid"][2], 24)
    assert facts["rate"] == 5 and far(clip_of((arrays, facts), "s1/bbaf2n"), want) <= 8


def test_clips_are_dropped_by_name(make, tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("s10/lrbx7s\n\ns1/bbaf2n\n")
    arrays, facts = make("grid", grid(), drop=str(tmp_path / "bad.txt"))
    assert facts["files"] == ["s2/sgwzzp"] and facts["dropped"] == ["s1/bbaf2n", "s10/lrbx7s"]
    assert "  2 clips dropped by name" in capsys.readouterr().out
    (tmp_path / "bad.txt").write_text("s10/lrbx7s\ns1/bbaf2m\n")
    with pytest.raises(ValueError, match="bad.txt, line 2: 's1/bbaf2m' is no clip.*mean s1/bbaf2n"):
        make("grid", grid(), drop=str(tmp_path / "bad.txt"))


@pytest.mark.parametrize("option", ["size", "every", "least"])
def test_numbers_below_one_are_refused(make, option):
    with pytest.raises(ValueError, match="must be 1 or more, got .*0"):
        make("grid", grid(), **{option: 0})


def test_command_line_passes_what_is_asked_for(scripts, tmp_path, monkeypatch):
    write(grid() | {"s1/lrbx7s.mpg": b""}, tmp_path / "raw")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("source,driving\ns2/sgwzzp,s1/bbaf2n\ns1/lrbx7s,s1/bbaf2n\n")
    line = f"prepare.py grid --source {tmp_path / 'raw'} --out {tmp_path / 'data'} --size 8 --every 2 --least 6"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--skip-broken", "--pairs", str(pairs)])
    scripts.main()
    arrays, facts = arrays_of(tmp_path / "data" / "grid")
    assert arrays["frames"].shape == (18, 3, 8, 8) and [*facts["skipped"]] == ["s1/lrbx7s"]
    assert arrays["pairs"].tolist() == [[1, 0]]
    monkeypatch.setattr(sys, "argv", ["prepare.py", "etth1", "--size", "8"])
    with pytest.raises(SystemExit, match="etth1 has no options size"):
        scripts.main()


# ---- splits and pairs


def test_split_depends_on_nothing_but_the_name(make):
    parts = {}
    for files in (mug(), without(mug(), "subjects3/002")):
        arrays, facts = make("mug", files)
        for name, part in zip(facts["files"], arrays["part"]):
            assert (
                parts.setdefault(name, facts["labels"]["part"][part])
                == facts["labels"]["part"][part]
            )


def test_shares_of_the_splits(scripts):
    takes = [
        f"{s:03}/{e}/take{t:03}"
        for s in range(52)
        for e in scripts.mug.EXPRESSIONS
        for t in range(4)
    ]
    test = [scripts.mug.parse(take)[1]["part"] == "test" for take in takes]
    assert 0.21 < np.mean(test) < 0.29
    assert 0.08 < np.mean([scripts.clips.fraction(f"video {i}") < 0.1 for i in range(2000)]) < 0.12
    part = lambda i: scripts.voxceleb.parse(f"mp4/id{i}/video/1")[1]["part"]
    assert [i for i in range(10001, 11252) if part(i) == "test"] == [*range(10270, 10310)]


@pytest.mark.parametrize("name, owner", [("voxceleb", "speaker"), ("taichi", "video")])
def test_pairs_are_test_clips_of_different_owners(make, name, owner):
    arrays, facts = make(name, MADE[name][0]())
    pairs, test = arrays["pairs"], facts["labels"]["part"].index("test")
    assert pairs.dtype == np.int64 and pairs.shape == (1, 2)
    assert (arrays["part"][pairs] == test).all() and len({*pairs.ravel()}) == pairs.size
    assert (arrays[owner][pairs[:, 0]] != arrays[owner][pairs[:, 1]]).all()


def test_pairs_do_not_depend_on_what_else_is_there(scripts):
    clips = scripts.clips
    made = [
        clips.Clip(f"{i}", {"who": f"{i % 5}", "part": "test" if i % 3 else "train"}, "", None)
        for i in range(60)
    ]
    named = lambda some: {(some[a].name, some[b].name) for a, b in clips.make_pairs(some, "who")}
    pairs = named(made)
    assert len(pairs) >= 18 and all(int(a) % 5 != int(b) % 5 for a, b in pairs)
    assert named(made[::-1]) == named([clip for clip in made if int(clip.name) % 3]) == pairs
    alone = [clip for clip in made if clip.labels["who"] == "1"]
    assert clips.make_pairs(alone, "who").shape == (0, 2)


def listed(tmp_path, rows):
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([["source", "driving"], *rows])
    return str(tmp_path / "pairs.csv")


def test_pairs_of_a_file_in_its_order(make, tmp_path):
    rows = [(TALKS[5], TALKS[0]), (TALKS[0], TALKS[1]), (TALKS[5], TALKS[0])]
    arrays, _ = make("voxceleb", voxceleb(), pairs=listed(tmp_path, rows))
    assert arrays["pairs"].tolist() == [[5, 0], [0, 1], [5, 0]]


def test_unknown_name_in_a_file_of_pairs_is_refused(make, tmp_path):
    rows = [(TALKS[0], TALKS[1]), (TALKS[0], TALKS[1][:-1])]
    with pytest.raises(
        ValueError, match="pairs.csv, line 3, column driving: .* no clip of this set"
    ):
        make("voxceleb", voxceleb(), pairs=listed(tmp_path, rows))


# ---- faces


@pytest.fixture
def faces(scripts):
    return scripts.mug.faces


def marked(places, height=60, width=80):
    """Frames with a white square of 10 pixels at each place (left, top), or none."""
    frames = np.zeros((len(places), height, width, 3), np.uint8)
    for frame, place in zip(frames, places):
        if place:
            frame[place[1] : place[1] + 10, place[0] : place[0] + 10] = 255
    return frames


def white(frame):
    """A detector of what is white."""
    rows, columns = np.nonzero(frame[..., 0])
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else None


def test_crop_follows_the_face_and_stays_where_it_is_lost(scripts, faces):
    places = [None, (20, 20), None, (30, 25), (70, 50), (0, 0), None]
    clip = scripts.clips.Clip("x", {}, "x.mp4", lambda seen: iter(marked(places)))
    seen = Counter()
    boxes = [box for _, box in faces.followed(white, 5)(clip, seen)]
    first, second, corner, other = (
        (15, 15, 35, 35), (25, 20, 45, 40), (60, 40, 80, 60), (0, 0, 20, 20),
    )  # fmt: skip
    assert boxes == [first, first, first, second, corner, other, other]
    assert seen["frames without a face, cropped as the one before"] == 3


def test_held_crop_is_the_median(scripts, faces):
    places = [(20, 20), (22, 20), None, (60, 40), (22, 22), (24, 20)]
    clip = scripts.clips.Clip("x", {}, "x.mp4", lambda seen: iter(marked(places)))
    assert {box for _, box in faces.held(white)(clip, Counter())} == {(22, 20, 32, 30)}


def test_squares_lie_in_the_frame(faces):
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = rng.integers(20, 100, 2)
        corners = np.sort(rng.uniform(0, [[width, height]] * 2, (2, 2)), axis=0)
        margin = rng.uniform(0, 40)
        left, top, right, bottom = faces.square(tuple(corners.ravel()), margin, height, width)
        assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
        side = min(np.ptp(corners, axis=0).max() + 2 * margin, height, width)
        assert right - left == pytest.approx(side) and bottom - top == pytest.approx(side)


@pytest.mark.parametrize("name, clip", [("mug", "001/anger/take001"), ("celebvhq", "A_1")])
def test_clip_without_a_face_is_named_or_skipped(make, scripts, monkeypatch, name, clip):
    room, dark = getattr(scripts, name), np.zeros((16, 48, 64, 3), np.uint8)
    detect = lambda frame: FACE if frame.max() > 20 else None
    monkeypatch.setattr(room, "read", functools.partial(room.read, detect=detect))
    files = MADE[name][0]()
    if name == "mug":
        files |= stills(f"subjects3/{clip}", dark, "img_{:04}.jpg", "JPEG")
    else:
        files[f"35666/{clip}.mp4"] = movie(dark)
    with pytest.raises(ValueError, match=f"{clip}.*: no face is found in any of .* frames"):
        make(name, files)
    _, facts = make(name, files, skip_broken=True)
    assert [*facts["skipped"]] == [clip]


def test_nothing_is_no_face(faces):
    pytest.importorskip("cv2")
    assert faces.haar(np.zeros((100, 100, 3), np.uint8)) is None


@pytest.mark.parametrize("module, name", [("av", "voxceleb"), ("PIL.Image", "taichi")])
def test_missing_library_is_named_and_no_clip_is_skipped(make, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"video needs {module}: pip install 'diffsda\[video\]'"):
        make(name, MADE[name][0](), skip_broken=True)


@pytest.mark.parametrize("cv2", [None, types.SimpleNamespace(__version__="5.0.0")])
def test_opencv_that_finds_no_faces_is_named(faces, monkeypatch, cv2):
    faces.cascade.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    with pytest.raises(ValueError, match="pip install"):
        faces.haar(np.zeros((100, 100, 3), np.uint8))


# ---- large sets


def test_set_larger_than_the_memory(scripts, tmp_path):
    """At no time more than a clip is held."""
    frame = still(frames_of("large", 1, 128, 128)[0])
    files = {
        f"t/{p}/{p}{i}#0#1/{v}.png": frame
        for p in ("train", "test")
        for i in range(8)
        for v in range(12)
    }
    write(files, tmp_path)
    room, options = scripts.taichi, scripts.taichi.OPTIONS._replace(size=128)
    room.read("taichi", tmp_path, options)  # what is imported on the way does not count
    tracemalloc.start()
    arrays, _ = room.read("taichi", tmp_path, options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(arrays["frames"], np.memmap) and peak < arrays["frames"].nbytes / 2


def test_no_room_for_the_temporary_file_leaves_the_former(scripts, make, tmp_path, monkeypatch):
    make("grid", grid())
    before = contents(tmp_path / "data")
    full = types.SimpleNamespace(memmap=np.memmap)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    full.ascontiguousarray = refuse
    monkeypatch.setattr(scripts.fetch, "np", full)
    with pytest.raises(OSError, match="no room for grid in .*No space left.*TMPDIR"):
        make("grid", grid())
    assert contents(tmp_path / "data") == before


# ---- licences


@pytest.mark.parametrize("name", ["mug", "taichi", "voxceleb", "celebvhq", "grid"])
def test_what_is_not_downloaded_says_how_to_get_it(scripts, tmp_path, name):
    with pytest.raises(ValueError, match="https://.* is not downloaded .*--source"):
        scripts.prepare(name, None, tmp_path / "data")


# ---- Sprites


def sheets(variants):
    """Made-up sheets: noise, mostly opaque or clear as the real ones are, some of it in between."""
    rng, files = np.random.default_rng(0), {}
    parts = [
        (part, i) for part in ("body", "bottomwear", "topwear", "hair") for i in range(variants)
    ]
    for part, i in [*parts, ("shoes", 1)]:
        sheet = rng.integers(0, 256, (1344, 832, 4), dtype=np.uint8)
        sheet[..., 3] = rng.choice([0, 0, 83, 253, 255], sheet.shape[:2])
        files[f"{part}/{i}.png"] = Image.fromarray(sheet)
    return files


def composited(made, look, row, column):
    """A tile of a character, by Pillow."""
    files = [f"{part}/{i}.png" for part, i in zip(("body", "bottomwear", "topwear", "hair"), look)]
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    for file in [*files, "shoes/1.png"]:
        box = (64 * column, 64 * row, 64 * column + 64, 64 * row + 64)
        picture = Image.alpha_composite(picture, made[file].crop(box))
    return np.asarray(picture)[..., :3].transpose(2, 0, 1)


def encoded(sheet):
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def two():
    """With two variants of each layer in place of six."""
    made = sheets(2)
    return made, {f"sheets/{name}": encoded(sheet) for name, sheet in made.items()}


def test_sprites_are_their_layers(scripts, two, tmp_path, monkeypatch):
    made, files = two
    monkeypatch.setattr(scripts.sprites, "VARIANTS", 2)
    scripts.prepare("sprites", str(write(files, tmp_path / "raw")), tmp_path / "data")
    arrays, facts = arrays_of(tmp_path / "data" / "sprites")
    assert arrays["frames"].shape == (16 * 9 * 8, 3, 64, 64) and len(facts["files"]) == 16 * 9
    assert facts["dynamic"] == ["action", "direction"] and len(facts["labels"]["char"]) == 16
    named = lambda label, i: facts["labels"][label][arrays[label][i]]
    for i in range(0, 144, 11):
        look = [int(named(label, i)) for label in ("body", "bottom", "top", "hair")]
        action, direction = named("action", i), named("direction", i)
        assert int(named("char", i)) == int("".join(map(str, look)), 2)
        assert facts["files"][i] == f"{named('char', i)}/{action}_{direction}"
        rows = {"walk": (10, 9, 11), "spellcard": (2, 1, 3), "slash": (14, 13, 15)}
        row = rows[action][("front", "left", "right").index(direction)]
        clip = arrays["frames"][arrays["starts"][i] : arrays["starts"][i + 1]]
        columns = {"walk": "81234567", "spellcard": "01234546", "slash": "01234540"}[action]
        for frame, column in zip(clip, columns):
            assert far(frame, composited(made, look, row, int(column))) <= 1, "but for rounding"


SPOILT_SHEETS = {
    "missing": (lambda files: files.pop("sheets/hair/1.png") and files, "lacks hair/1.png, expected 9 sheets"),
    "twice": (lambda files: files | {"old/hair/1.png": files["sheets/hair/1.png"]}, "holds hair/1.png twice"),
    "size": (lambda files: files | {"sheets/hair/1.png": still(np.zeros((832, 832, 3), np.uint8))}, "hair/1.png is 832 x 832, expected 1344 x 832"),
    "cut": (lambda files: files | {"sheets/hair/1.png": files["sheets/hair/1.png"][:-500]}, "hair/1.png cannot be decoded"),
    "empty": (lambda files: files | {"sheets/hair/1.png": b""}, "hair/1.png is empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT_SHEETS)
def test_bad_sheet_is_named(scripts, two, tmp_path, monkeypatch, what):
    spoil, words = SPOILT_SHEETS[what]
    monkeypatch.setattr(scripts.sprites, "VARIANTS", 2)
    source = write(spoil(dict(two[1])), tmp_path / "raw")
    with pytest.raises(ValueError, match=words) as caught:
        scripts.prepare("sprites", str(source), tmp_path / "data")
    assert ";" in str(caught.value) and not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def beside():
    def found(name):
        if not (COPIES / name).exists():
            pytest.skip(f"no copy of {name} in ../shared/data beside this checkout")
        return COPIES / name

    return found


def test_sprites_are_the_published_clips(scripts, beside):
    """Every fifth character, all of its clips, all of their pixels."""
    with np.load(beside("sprites.npz")) as file:
        known = {key: file[key] for key in file}
    room = scripts.sprites
    sheets = room.read_sheets(beside("sprites_sheets.zip"))
    compared = 0
    for char, clips in enumerate(room.render(sheets)):
        for i in np.flatnonzero(known["char_id"] == char) if char % 5 == 0 else ():
            clip = 3 * int(known["action"][i]) + int(known["direction"][i])
            want = known["palette"][known["frames_idx"][i]].transpose(0, 3, 1, 2)
            assert np.array_equal(clips[8 * clip : 8 * clip + 8], want), (char, clip)
            compared += 1
    assert char == 1295 and compared > 1500
    names = [*room.ROWS], [*room.ROWS["walk"]]
    assert names == (known["action_names"].tolist(), known["direction_names"].tolist())


# ---- GRID's faces, and the other sets' path on them


@pytest.fixture(scope="module")
def talkers(beside):
    with np.load(beside("grid_sample_64.npz")) as file:
        return {key: file[key] for key in KEYS}


KEYS = ["frames", "clip", "talker", "sentence"]


def test_sample_of_grid_is_its_file(scripts, beside, talkers, tmp_path):
    scripts.prepare("grid", str(beside("grid_sample_64.npz")), tmp_path)
    arrays, facts = arrays_of(tmp_path / "grid")
    want = talkers["frames"].transpose(0, 1, 4, 2, 3).reshape(-1, 3, 64, 64)
    assert np.array_equal(arrays["frames"], want) and facts["rate"] == 25
    words = [facts["labels"][label] for label in facts["dynamic"]]
    said = zip(*(arrays[label] for label in facts["dynamic"]))
    spoken = [" ".join(one[i] for one, i in zip(words, clip)) for clip in said]
    assert spoken == talkers["sentence"].tolist()


SAMPLES = {
    "lacks": (lambda a: a.pop("talker"), "cannot be read as an npz file of frames, clip, talker"),
    "shape": (lambda a: a.update(frames=a["frames"][0]), r"frames: uint8 .*expected uint8 \(clips"),
    "kind": (lambda a: a.update(frames=a["frames"] / 255), "frames: float64"),
    "count": (lambda a: a.update(talker=a["talker"][:1]), "expected one number"),
    "sentence": (lambda a: a.update(clip=np.array(["bbaf2n", "bbawzz"])), "clip bbawzz has no label"),
    "other words": (lambda a: a.update(sentence=a["sentence"][::-1]), "expected 'bin blue at f two now'"),
    "twice": (lambda a: a.update({k: a[k][[0, 0]] for k in KEYS}), "holds talker0/bbaf2n twice"),
}  # fmt: skip


@pytest.mark.parametrize("what", SAMPLES)
def test_bad_sample_of_grid_is_refused(scripts, tmp_path, what):
    arrays = {
        "frames": np.zeros((2, 5, 8, 8, 3), np.uint8),
        "clip": np.array(["bbaf2n", "brbk7n"]),
        "talker": np.array([0, 1]),
        "sentence": np.array(["bin blue at f two now", "bin red by k seven now"]),
    }
    spoil, words = SAMPLES[what]
    spoil(arrays)
    np.savez(tmp_path / "grid_sample_64.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        scripts.prepare("grid", str(tmp_path), tmp_path / "data")


def larger(frames, side=128):
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side))) for f in frames])


def test_voxceleb_of_real_faces(scripts, talkers, tmp_path):
    """Chunks of GRID's talkers, at 128 pixels, as files in VoxCeleb's layout."""
    chunks = {f"id1027{i}/video{i}/0000{i}": larger(talkers["frames"][i]) for i in range(3)}
    files = {f"{name}.mp4": movie(frames) for name, frames in chunks.items()}
    source = write(files, tmp_path / "raw")
    scripts.prepare("voxceleb", str(source), tmp_path / "data", size=128)
    arrays, facts = arrays_of(tmp_path / "data" / "voxceleb")
    assert arrays["pairs"].shape == (1, 2) and facts["files"] == [*chunks]
    for name, frames in chunks.items():
        clip = clip_of((arrays, facts), name)
        assert clip.shape == (13, 3, 128, 128)
        error = clip.astype(float) - frames[::6].transpose(0, 3, 1, 2)
        assert np.sqrt((error**2).mean()) < 6


def test_celebvhq_of_real_faces(scripts, talkers, tmp_path):
    """GRID's talkers move through a wider scene; the square that is found moves with them."""
    pytest.importorskip("cv2")
    scene = np.full((40, 200, 320, 3), 128, np.uint8)
    places = np.arange(0, 160, 4)
    for frame, face, left in zip(scene, larger(talkers["frames"][0]), places):
        frame[36:164, left : left + 128] = face
    info = listing()
    info["clips"] = {"A_0": info["clips"]["A_0"]}
    files = {"A_0.mp4": movie(scene), INFO: json.dumps(info)}
    source = write(files, tmp_path / "raw")
    scripts.prepare("celebvhq", str(source), tmp_path / "data", size=64)
    arrays, facts = arrays_of(tmp_path / "data" / "celebvhq")
    assert arrays["frames"].shape == (40, 3, 64, 64)

    faces, path = scripts.celebvhq.faces, scripts.clips.find(source, lambda name: (name, {}))
    boxes = [box for _, box in faces.followed(faces.haar, 40)(path[0], Counter())]
    middles = np.array([(left + right) / 2 for left, _, right, _ in boxes])
    inside = (places > 30) & (places < 130)  # elsewhere the square is held back by the frame
    offsets = (middles - places)[inside]
    assert np.ptp(offsets) < 8 and 32 < offsets.mean() < 96
