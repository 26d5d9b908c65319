"""RAVDESS, speech: two sentences, acted in eight emotions, files named by seven numbers as in 03-01-06-01-02-01-12.wav.

They mean: 03 sound only, 01 speech, emotion, intensity, statement, repetition, actor (odd numbers are men). Two layouts are read: the
published one at 48 kHz (Actor_01/*.wav), and FLAC that was resampled before. All becomes 16 kHz."""

import re
from pathlib import Path

import fetch
import numpy as np
import waves

EMOTIONS = "neutral calm happy sad angry fearful disgust surprised".split()
INTENSITIES = ["normal", "strong"]
STATEMENTS = ["Kids are talking by the door", "Dogs are sitting by the door"]

SETS = {
    "ravdess": fetch.PublicSet(
        what="RAVDESS speech: 24 actors, 8 emotions, 2 sentences, 16 kHz",
        size="200 MB",
        licence="CC BY-NC-SA 4.0",
        citation="Livingstone, Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS), "
        "PLoS ONE 13(5), 2018, e0196391",
        copy="audio/ravdess_speech_16k.zip",
        url="doi:10.5281/zenodo.1188976/",
        files={"Audio_Speech_Actors_01-24.zip": None},
        marker="**/03-01-*-*-*-*-*.*",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]]:
    "Name and labels of a recording. Raises ValueError if the file's name does not say them."
    name = Path(file).stem
    code = re.fullmatch(r"03-01-0([1-8])-0([12])-0([12])-0([12])-(0[1-9]|1\d|2[0-4])", name)
    if not code:
        raise ValueError(
            f"{file} has no label, expected a name like 03-01-06-01-02-01-12.wav (03: sound only, 01: speech, "
            "emotion 1 to 8, intensity, statement and repetition 1 or 2, actor 1 to 24); rename it, or drop it"
        )
    emotion, intensity, statement = (int(number) - 1 for number in code.groups()[:3])
    return name, {
        "speaker": f"actor {code[5]}",
        "gender": "M" if int(code[5]) % 2 else "F",
        "emotion": EMOTIONS[emotion],
        "intensity": INTENSITIES[intensity],
        "statement": STATEMENTS[statement],
        "repetition": code[4],
    }


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `waves.join`, six labels. Raises ValueError for the first thing wrong."
    orders = {"emotion": EMOTIONS, "intensity": INTENSITIES, "statement": STATEMENTS}
    recordings = waves.find(path, parse)
    return waves.join(name, recordings, 16000, published=1440, orders=orders, resampled=True)
