"""GRID: talkers say sentences of six words, 25 frames a second, three seconds each.

The name of a clip is its sentence: bbaf2n is "bin blue at f two now". Two layouts are read: the published one, folders of talkers with
clips of 360 x 288 pixels (s1/bbaf2n.mpg), of which a square around the face is kept, and an npz file of faces that were cropped so before."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import clips
import fetch
import numpy as np
import table

RATE = 25.0  # frames a second
FRAME = (288, 360)  # pixels as published, height and width
FACE = (76, 36, 284, 244)  # left, top, right, bottom
WORDS = {  # label -> letter in the name -> word
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "color": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": dict(zip("z123456789", "zero one two three four five six seven eight nine".split())),
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}
KEYS = ["frames", "clip", "talker", "sentence"]
OPTIONS = clips.Options()

SETS = {
    "grid": fetch.PublicSet(
        what="GRID: talkers' faces, sentences of six words, 25 frames/s",
        size="7 MB for 9 clips",
        licence="CC BY 4.0",
        citation="Cooke, Barker, Cunningham, Shao, An audio-visual corpus for speech perception and automatic speech recognition, "
        "JASA 120(5), 2006",
        copy="video/grid_sample_64.npz",
        url="https://zenodo.org/records/3625687",
        files={},
        marker="**/s[0-9]*",
        by_hand="the sample is not published as one file, and the corpus is 16 GB: get s1.zip to s34.zip there, as many as you want, "
        "and name their folder",
    )
}


def sentence(name: str, file: str) -> dict[str, str]:
    "Label -> word. Raises ValueError if the name is no sentence."
    if len(name) != len(WORDS) or any(c not in words for c, words in zip(name, WORDS.values())):
        raise ValueError(
            f"{file} has no label, expected a name like bbaf2n (bin blue at f two now); rename it, or drop it"
        )
    return {label: words[c] for c, (label, words) in zip(name, WORDS.items())}


def parse(file: str) -> tuple[str, dict[str, str]]:
    "Name and labels of a clip. Raises ValueError if its folder and name do not say them."
    *folders, name = Path(file).parts
    talker = [folder for folder in folders if re.fullmatch(r"s\d{1,2}", folder)]
    if not talker:
        raise ValueError(
            f"{file} has no label, expected a talker's folder and a sentence like s1/bbaf2n.mpg; name the folder above"
        )
    return f"{talker[-1]}/{name}", {"talker": talker[-1], **sentence(name, file)}


def face(clip: clips.Clip, seen: Counter) -> Iterator[tuple[clips.Frame, clips.Box]]:
    "Each frame, and where its face is. Raises Broken for other frames than published."
    for frame in clip.frames(seen):
        if frame.shape[:2] != FRAME:
            height, width = frame.shape[:2]
            raise clips.Broken(
                f"{clip.file} is {height} x {width} (height x width), expected {FRAME[0]} x {FRAME[1]}"
            )
        yield frame, FACE


def read_npz(path: Path) -> list[clips.Clip]:
    "The clips of an npz file of faces. Raises ValueError if it is none, or if its arrays do not belong together."
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in KEYS}
    except Exception as error:  # a spoilt file makes its reader stumble in many ways
        raise ValueError(
            f"{path.name} cannot be read as an npz file of {', '.join(KEYS)} ({error}); get the file again"
        ) from error
    frames, n = arrays["frames"], len(arrays["clip"])
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(
            f"{path.name}, frames: {frames.dtype} {frames.shape}, expected uint8 (clips, frames, height, width, 3); "
            "get the file again"
        )
    if any(len(array) != n for array in arrays.values()):
        lengths = {key: len(array) for key, array in arrays.items()}
        raise ValueError(f"{path.name} holds {lengths}, expected one number; get the file again")
    found = {}
    for name, talker, said, pictures in zip(*(arrays[k].tolist() for k in KEYS[1:]), frames):
        file = f"{path.name}, clip {name}"
        words = sentence(name, file)
        if " ".join(words.values()) != said:
            raise ValueError(f"{file}: sentence {said!r}, expected {' '.join(words.values())!r}")
        clip = f"talker{talker}/{name}"
        if clip in found:
            raise ValueError(f"{path.name} holds {clip} twice; get the file again")
        labels = {"talker": f"talker{talker}", **words}
        found[clip] = clips.Clip(clip, labels, file, lambda seen, pictures=pictures: iter(pictures))
    return sorted(found.values(), key=lambda clip: table.natural(clip.name))


def read(
    name: str, path: Path, options: clips.Options = OPTIONS
) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `clips.join`: talker, and the six words. Raises ValueError for the first thing wrong."
    sample = path.suffix == ".npz"
    return clips.join(
        name,
        read_npz(path) if sample else clips.find(path, parse),
        options,
        rate=RATE,
        published=33_000,
        crop=clips.centred if sample else face,
        orders={label: [*words.values()] for label, words in WORDS.items()},
        dynamic=[*WORDS],
    )
