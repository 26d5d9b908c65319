"""MUG: people show six expressions, 19 frames a second. Only from your own copy: it is given to researchers who ask.

Its layout is <subject>/<expression>/take<number>/<frame>.jpg, perhaps with a folder of the session in between. Faces are found by a Haar
cascade; the crop of a clip stays where it is, so that only the face moves. A quarter of the clips is the part `test`, chosen by name."""

import re
from pathlib import Path

import clips
import faces
import fetch
import numpy as np

EXPRESSIONS = "anger disgust fear happiness sadness surprise".split()
OTHERS = ["neutral", "mixed"]  # published beside the six
RATE = 19.0  # frames a second
TEST = 0.25
OPTIONS = clips.Options(least=15)

SETS = {
    "mug": fetch.PublicSet(
        what="MUG: 52 people, 6 expressions, 19 frames/s, faces of 64 x 64",
        size="not downloaded",
        licence="MUG licence agreement (on request)",
        citation="Aifanti, Papachristou, Delopoulos, The MUG Facial Expression Database, WIAMIS 2010",
        copy="video/mug.zip",
        url="https://mug.ee.auth.gr/fed/",
        files={},
        marker="**/take*/*.jpg",
        by_hand="it is given under a licence: download the agreement there, sign it, send it from the address of a university, "
        "and unpack what you get access to",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]] | None:
    "Name and labels of a clip; None for those that show none of the six. Raises ValueError if its folders do not say them."
    where = re.search(r"(?:^|/)(\d{3})/(?:(session\d+)/)?([a-z]+)/(take\d+)$", file.lower())
    if not where or where[3] not in EXPRESSIONS + OTHERS:
        raise ValueError(
            f"{file} has no label, expected folders like 012/happiness/take001 (subject, {', '.join(EXPRESSIONS)}, take); "
            "name the folder of the subjects, or take the folder out"
        )
    if where[3] in OTHERS:
        return None
    name = "/".join(filter(None, where.groups()))
    part = "test" if clips.fraction(name) < TEST else "train"
    return name, {"subject": where[1], "expression": where[3], "part": part}


def read(
    name: str,
    path: Path,
    options: clips.Options = OPTIONS,
    detect: faces.Detector = faces.haar,
) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `clips.join`: subject, expression, part, and pairs. Raises ValueError for the first thing wrong."
    return clips.join(
        name,
        clips.find(path, parse),
        options,
        rate=RATE,
        crop=faces.held(detect),
        orders={"expression": EXPRESSIONS, "part": clips.PARTS},
        dynamic=["expression"],
        owner="subject",
    )
