"""TaiChi-HD: people do tai chi, whole bodies. Only from your own copy: its authors publish the addresses of the videos, not the videos.

Its layout is what first-order-model prepares: train/ and test/, and in them a folder of frames for each chunk of a video, or a file
(<video>#<first frame>#<last frame>.mp4, which is also how the folders are named)."""

import re
from pathlib import Path

import clips
import fetch
import numpy as np

OPTIONS = clips.Options(least=10)

SETS = {
    "taichi": fetch.PublicSet(
        what="TaiChi-HD: 3,081 chunks of tai chi, whole bodies, 64 x 64",
        size="not downloaded",
        licence="of each video's owner",
        citation="Siarohin, Lathuiliere, Tulyakov, Ricci, Sebe, First Order Motion Model for Image Animation, NeurIPS 2019",
        copy="video/taichi.zip",
        url="https://github.com/AliaksandrSiarohin/first-order-model",
        files={},
        marker="**/train/*",
        by_hand="the videos belong to those who made them: follow data/taichi-loading there, which writes train/ and test/, "
        "and name the folder that holds both",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]] | None:
    "Name and labels of a clip; None for what lies outside train and test. Raises ValueError if its name does not say its video."
    if not {"train", "test"} & {*Path(file).parts[:-1]}:
        return None
    where = re.search(r"(?:^|/)(train|test)/(?:[^/]*/)?(([^/]+)#\d+#\d+)$", file)
    if not where:
        raise ValueError(
            f"{file} has no label, expected a name like train/aDyyTMUBoLE#000164#000351.mp4 (video, first and last frame); "
            "rename it, or take it out"
        )
    return where[2], {"video": where[3], "part": where[1]}


def read(
    name: str, path: Path, options: clips.Options = OPTIONS
) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `clips.join`: video, part, and pairs. Raises ValueError for the first thing wrong."
    found = clips.find(path, parse)
    for part in clips.PARTS:
        if not any(clip.labels["part"] == part for clip in found):
            raise ValueError(
                f"{path.name} holds no clip in {part}, expected train and test; name the folder that holds both"
            )
    return clips.join(
        name,
        found,
        options,
        rate=0.0,
        published=3081,
        orders={"part": clips.PARTS},
        owner="video",
    )
