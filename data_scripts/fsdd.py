"""FSDD: spoken digits at 8 kHz, recordings/<digit>_<speaker>_<take>.wav."""

import re
from pathlib import Path

import fetch
import numpy as np
import waves

SETS = {
    "fsdd": fetch.PublicSet(
        what="Free Spoken Digit Dataset: 6 speakers say 10 digits, 8 kHz",
        size="16 MB",
        licence="CC BY-SA 4.0",
        citation="Z. Jackson and the speakers, Free Spoken Digit Dataset",
        copy="audio/fsdd.zip",
        url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/",
        files={"26eb9aa.zip": None},
        marker="**/[0-9]_*_*.wav",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]]:
    "Name and labels of a recording. Raises ValueError if the file's name does not say them."
    name = Path(file).stem
    who = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", name)
    if not who:
        raise ValueError(
            f"{file} has no label, expected a name like 7_jackson_32.wav (digit, speaker, take); rename it, or drop it"
        )
    return name, {"speaker": who[2], "digit": who[1], "take": who[3]}


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `waves.join`: speaker, digit, take. Raises ValueError for the first thing wrong."
    return waves.join(name, waves.find(path, parse), rate=8000, published=3000)
