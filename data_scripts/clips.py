"""What every set of video shares: clips found in any layout, decoded frame by frame, checked, cropped, and put one after the other.

A clip is a file (mp4, avi, ...) or a folder of frames. It is refused, by its file's name, where frames are missing or do not belong
together: an empty or truncated file, frames of mixed size, fewer frames than asked for. Only if asked for, such a clip is skipped and
counted. What can be put right is kept and counted: grayscale becomes three equal channels, transparent pixels lie over black."""

import difflib
import hashlib
import importlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import fetch
import numpy as np
import table
from tqdm import tqdm

MOVIES = (".mp4", ".m4v", ".mov", ".avi", ".mpg", ".mpeg", ".mkv", ".webm")  # in either letter case
STILLS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
PARTS = ["train", "test"]
GRAY = ("1", "L", "LA")  # modes of Pillow
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")

Frame = np.ndarray  # (H, W, 3) uint8, RGB
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, within the frame


class Broken(ValueError):
    "What is wrong with one clip, by its file's name."


class Clip(NamedTuple):
    name: str  # in the set: the same in every layout, without suffix
    labels: dict[str, str | None]  # label -> class, as in subject -> 012; None: not known
    file: str  # as found: the file, or the folder of its frames
    frames: Callable[[Counter], Iterator[Frame]]  # from the start; counts what was put right


class Options(NamedTuple):
    "How clips are prepared: what a set begins with, and the command line may change."

    size: int = 64  # pixels of a prepared frame's sides
    every: int = 1  # of so many frames, the first is kept
    least: int = 1  # frames that a clip must have after that
    skip_broken: bool = (
        False  # skip and count clips that cannot be used; else the first one ends it
    )
    drop: str | None = None  # a text file, the name of a clip in each line
    pairs: str | None = None  # a csv file of names, with the columns source and driving


def library(module: str):
    "A module that only video needs. Raises ValueError if it is not installed, with the way to get it."
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"video needs {module}: pip install 'diffsda[video]'") from error


# ---- finding


def find(
    path: Path,
    parse: Callable[[str], tuple[str, dict[str, str | None]] | None],
    # a clip with its folders, without suffix -> name and labels, None to leave it out; ValueError if it has no label
) -> list[Clip]:
    "All clips of a file, folder or archive, by name. Raises ValueError for the first one that does not belong."
    stills, found = defaultdict(list), {}

    def add(file: str, frames: Callable):
        parsed = parse(stem(file))
        if parsed is None:
            return
        name, labels = parsed
        if name in found:
            raise ValueError(
                f"{path.name} holds {name} twice, as {found[name].file} and {file}; keep one of the two copies"
            )
        found[name] = Clip(name, labels, file, partial(one_size, frames))

    for file, read in fetch.members(path):
        where = Path(file)
        if where.name.startswith("."):  # what macOS leaves beside a file
            continue
        if where.suffix.lower() in MOVIES:
            add(file, partial(movie_frames, file, read))
        elif where.suffix.lower() in STILLS:
            stills[where.parent.as_posix()].append((where.name, read))
    for folder in bare_folders(path, parse):
        stills[folder] = []
    for folder, files in stills.items():
        add(folder, partial(still_frames, folder, files))
    if not found:
        raise ValueError(
            f"{path.name} holds no clip of this set ({', '.join(MOVIES)}, or folders of {', '.join(STILLS)}); "
            "name the folder, or a zip of it"
        )
    return sorted(found.values(), key=lambda clip: table.natural(clip.name))


def stem(file: str) -> str:
    "A file or folder without the suffix of a clip, which TaiChi-HD's folders have as well."
    suffix = Path(file).suffix
    return file.removesuffix(suffix) if suffix.lower() in MOVIES else file


def bare_folders(path: Path, parse: Callable) -> Iterator[str]:
    "Folders that are clips by their names and hold no frame."
    for folder in path.rglob("*"):
        if folder.is_dir() and not any(
            inside.is_dir() or inside.suffix.lower() in MOVIES + STILLS
            for inside in folder.iterdir()
        ):
            file = folder.relative_to(path.parent).as_posix()
            try:
                parse(stem(file))
            except ValueError:
                continue
            yield file


# ---- decoding


def open_still(file: str, content: bytes):
    "A picture of Pillow's, decoded. Raises Broken if it is not whole."
    image = library("PIL.Image")
    if not content:
        raise Broken(f"{file} is empty (0 bytes), expected a picture")
    try:
        picture = image.open(io.BytesIO(content))
        picture.load()
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        reason = "its format is not known" if "cannot identify" in str(error) else error
        raise Broken(f"{file} cannot be decoded ({reason}), expected a whole picture") from error
    return picture


def rgb(file: str, picture, seen: Counter) -> Frame:
    "The picture's pixels; counts what was put right. Raises Broken for more than 8 bits."
    if picture.mode not in GRAY + COLOUR:
        raise Broken(f"{file} has pixels of type {picture.mode}, expected 8 bits, gray or colour")
    seen["frames in grayscale, made RGB"] += picture.mode in GRAY
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        seen["frames with transparent pixels, laid over black"] += picture.getextrema()[3][0] < 255
        image = library("PIL.Image")
        black = image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = image.alpha_composite(black, picture)
    return np.asarray(picture.convert("RGB"))


def still_frames(
    folder: str, files: list[tuple[str, Callable[[], bytes]]], seen: Counter
) -> Iterator[tuple[str, Frame]]:
    "File and pixels of each picture in a folder, numbers in names counting as numbers. Raises Broken."
    if not files:
        raise Broken(f"{folder} holds no frame, expected {' or '.join(STILLS)}")
    key = lambda file: table.natural(Path(file[0]).stem)
    files = sorted(files, key=key)
    for one, other in zip(files, files[1:]):
        if key(one) == key(other):
            raise Broken(f"{folder} holds one frame twice, as {one[0]} and {other[0]}")
    for name, read in files:
        file = f"{folder}/{name}"
        yield file, rgb(file, open_still(file, read()), seen)


def movie_frames(
    file: str, read: Callable[[], bytes], seen: Counter
) -> Iterator[tuple[str, Frame]]:
    "Place and pixels of each frame of a file, decoded one by one. Raises Broken, also where a file was cut between two frames."
    av = library("av")
    content = read()
    if not content:
        raise Broken(f"{file} is empty (0 bytes), expected a clip")
    try:
        with av.open(io.BytesIO(content)) as container:
            if not container.streams.video:
                raise Broken(f"{file} holds no pictures, expected a clip")
            stream, packets, count = container.streams.video[0], 0, 0
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    if packet.is_corrupt or frame.is_corrupt:
                        raise Broken(f"{file} is cut short or damaged at frame {count}")
                    seen["frames in grayscale, made RGB"] += frame.format.name.startswith("gray")
                    yield f"{file}, frame {count}", frame.to_ndarray(format="rgb24")
                    count += 1
            if packets < stream.frames:
                raise Broken(
                    f"{file} is cut short: {packets} frames, expected {stream.frames} by its header"
                )
    except av.FFmpegError as error:
        raise Broken(
            f"{file} cannot be decoded ({error.strerror}), expected a whole clip"
        ) from error


def one_size(
    decode: Callable[[Counter], Iterator[tuple[str, Frame]]], seen: Counter
) -> Iterator[Frame]:
    "The frames. Raises Broken for the first one of another size."
    first = None
    for place, frame in decode(seen):
        first = first or frame.shape
        if frame.shape != first:
            raise Broken(
                f"{place} is {frame.shape[0]} x {frame.shape[1]} (height x width), "
                f"expected {first[0]} x {first[1]} as the frames before it"
            )
        yield frame


# ---- cropping


def centred(clip: Clip, seen: Counter) -> Iterator[tuple[Frame, Box]]:
    "Each frame, and the largest square in its middle."
    for frame in clip.frames(seen):
        height, width, _ = frame.shape
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        yield frame, (left, top, left + side, top + side)


def cropped(
    clip: Clip,
    crop: Callable[[Clip, Counter], Iterator[tuple[Frame, Box]]],
    options: Options,
    seen: Counter,
) -> np.ndarray:  # (V, 3, size, size) uint8
    "The clip as it is kept: every so many frames, what lies in their boxes, resized without aliasing. Raises Broken."
    image = library("PIL.Image")
    thinned = lambda seen: islice(clip.frames(seen), 0, None, options.every)
    size = (options.size, options.size)
    frames = [
        np.asarray(image.fromarray(frame).resize(size, image.Resampling.BICUBIC, box))
        for frame, box in crop(clip._replace(frames=thinned), seen)
    ]
    if len(frames) < options.least:
        of = f", one of each {options.every} kept" if options.every > 1 else ""
        raise Broken(f"{clip.file} has {len(frames)} frames{of}, expected {options.least} or more")
    return np.stack(frames).transpose(0, 3, 1, 2)


# ---- splits and pairs, by name


def fraction(name: str) -> float:  # from 0 to 1
    "A number that only this name decides, evenly spread: what else is in a set does not move it."
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} is no clip of this set" + (f"; did you mean {near[0]}?" if near else "")


def read_drop(file: str, known: list[str]) -> set[str]:
    "The names in a file. Raises ValueError for the first one that is not known."
    names = Path(file).read_text(encoding="utf-8").splitlines()
    for i, name in enumerate(names, 1):
        if name and name not in known:
            raise ValueError(f"{Path(file).name}, line {i}: {unknown(name, known)}; mend the line")
    return {*names} - {""}


def read_pairs(
    file: str,  # csv
    known: list[str],  # clips that were found
    kept: list[str],  # those that are in the prepared set
) -> np.ndarray:  # (P, 2) int64, indices into kept
    "The pairs of a file, without those of clips that were skipped. Raises ValueError for the first name that is not known."
    path, columns = Path(file), ["source", "driving"]
    rows = table.read_table(path.name, path.read_bytes(), columns, "pairs of clips")
    for column in columns:
        row = table.first(~rows[column].isin(known))
        if row is not None:
            raise ValueError(
                f"{path.name}, line {row + 2}, column {column}: {unknown(rows[column][row], known)}; mend the line"
            )
    there = rows[rows.isin(kept).all(axis=1)]
    if len(there) < len(rows):
        print(f"  {len(rows) - len(there):6,} pairs left out, as one of their clips is")
    index = {name: i for i, name in enumerate(kept)}
    return there.map(index.get).to_numpy(np.int64)


def make_pairs(
    clips: list[Clip],
    owner: str,  # the label that says who or what is seen
) -> np.ndarray:  # (P, 2) int64
    "Clips of the part test in twos, each clip once, of different owners; the order is that of their names' `fraction`."
    test = [i for i, clip in enumerate(clips) if clip.labels["part"] == "test"]
    test.sort(key=lambda i: fraction(clips[i].name))
    pairs = []
    while test:
        source = test.pop(0)
        own = clips[source].labels[owner]
        driving = next((i for i in test if clips[i].labels[owner] != own), None)
        if driving is not None:
            test.remove(driving)
            pairs.append((source, driving))
    return np.array(pairs, np.int64).reshape(-1, 2)


# ---- the set


def join(
    name: str,  # of the set
    found: list[Clip],
    options: Options,
    *,
    rate: float,  # of the clips, frames a second; 0 where it is not known
    published: int | None = None,  # clips
    crop: Callable[[Clip, Counter], Iterator[tuple[Frame, Box]]] = centred,
    orders: dict[str, list[str]] | None = None,  # label -> classes in the order of the publisher
    dynamic: list[str] | None = None,  # labels of what changes within a clip; the others do not
    owner: str | None = None,  # the label that pairs of the part test must differ in
) -> tuple[dict[str, np.ndarray], dict]:
    """`frames` (N, 3, size, size) uint8, `starts` (R + 1,), one int16 array (R,) for each label, `pairs` (P, 2), and the facts.

    Clips pass one by one, and `frames` is a memory map of a temporary file: a set may be larger than the memory.
    Raises ValueError for the first clip that cannot be used unless it may be skipped, OSError if the temporary file finds no room."""
    if min(options.size, options.every, options.least) < 1:
        raise ValueError(
            f"size, every and least must be 1 or more, got {options.size}, {options.every} and {options.least}"
        )
    known = [clip.name for clip in found]
    dropped = read_drop(options.drop, known) if options.drop else set()
    kept, lengths, skipped, seen = [], [], {}, Counter()

    def prepared():
        for clip in tqdm([c for c in found if c.name not in dropped], "clips", delay=2):
            noted = Counter()
            try:
                frames = cropped(clip, crop, options, noted)
            except Broken as error:
                if not options.skip_broken:
                    raise ValueError(
                        f"{error}; get it again, take it out (--drop FILE), or skip what is broken (--skip-broken)"
                    ) from error
                skipped[clip.name] = str(error)
                continue
            kept.append(clip)
            lengths.append(len(frames))
            seen.update(noted)
            yield frames
        if not kept:
            why = next(iter(skipped.values()), "all were dropped")
            raise ValueError(
                f"{name}: no clip of {len(found):,} is left ({why}); get the set again"
            )

    frames = fetch.spool(name, prepared()).reshape(-1, 3, options.size, options.size)
    labels, classes = table.index_labels([clip.labels for clip in kept], orders)
    arrays = {"frames": frames, "starts": np.cumsum([0, *lengths], dtype=np.int64), **labels}
    some = "" if published in (None, len(kept)) else f" (published: {published:,})"
    print(
        f"{name}: {len(kept):,} clips{some}, {len(frames):,} frames of {options.size} x {options.size}; "
        + ", ".join(f"{label} {len(ones)}" for label, ones in islice(classes.items(), 8))
    )
    for what, count in seen.items():
        if count:
            print(f"  {count:6,} {what}")
    if dropped:
        print(f"  {len(dropped):6,} clips dropped by name")
    if skipped:
        print(
            f"  {len(skipped):6,} broken clips skipped; the first: {next(iter(skipped.values()))}"
        )
    files = [clip.name for clip in kept]
    if options.pairs:
        arrays["pairs"] = read_pairs(options.pairs, known, files)
    elif owner:
        arrays["pairs"] = make_pairs(kept, owner)
    if "pairs" in arrays:
        print(f"  {len(arrays['pairs']):6,} pairs, of each a source and a driving clip")
    facts = {
        "rate": rate / options.every,
        "files": files,
        "labels": classes,
        "dynamic": dynamic or [],
        "skipped": skipped,
        "dropped": sorted(dropped, key=table.natural),
    }
    return arrays, facts
