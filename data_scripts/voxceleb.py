"""VoxCeleb1: celebrities speak in interviews, faces already cropped. Only from your own copy: its authors ask for a form.

Its layout is <speaker>/<video>/<chunk>.mp4, speakers id10001 to id11251; folders of frames in place of files are read as well. Of 25
frames a second one in six is kept, as in the paper. The part `test` is that of speaker verification: the 40 whose names begin with E."""

import re
from pathlib import Path

import clips
import fetch
import numpy as np

RATE = 25.0  # frames a second
TEST = [f"id{number}" for number in range(10270, 10310)]
CHUNKS = 153_516
OPTIONS = clips.Options(size=256, every=6, least=10)

SETS = {
    "voxceleb": fetch.PublicSet(
        what="VoxCeleb1: 1,251 speakers, faces of 256 x 256, 25/6 frames/s",
        size="not downloaded",
        licence="CC BY 4.0 for the lists; of each video's owner",
        citation="Nagrani, Chung, Zisserman, VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017",
        copy="video/voxceleb.zip",
        url="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/",
        files={},
        marker="**/id1[01]*/*/*",
        by_hand="its authors ask for a form: fill in the one linked there, get the face tracks of VoxCeleb1, unpack them, "
        "and name the folder that holds the speakers",
    )
}


def parse(file: str) -> tuple[str, dict[str, str]]:
    "Name and labels of a clip. Raises ValueError if its folders do not say them."
    where = re.search(r"(?:^|/)(id1[01]\d{3})/([^/]+)/([^/]+)$", file)
    if not where:
        raise ValueError(
            f"{file} has no label, expected folders and a name like id10270/5r0dWxy17C8/00001.mp4 (speaker, video, chunk); "
            "name the folder that holds the speakers, or take the file out"
        )
    speaker, video, _ = where.groups()
    part = "test" if speaker in TEST else "train"
    return "/".join(where.groups()), {"speaker": speaker, "video": video, "part": part}


def read(
    name: str, path: Path, options: clips.Options = OPTIONS
) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `clips.join`: speaker, video, part, and pairs. Raises ValueError for the first thing wrong."
    found = clips.find(path, parse)
    there = {clip.labels["speaker"] for clip in found} & {*TEST}
    if len(there) < len(TEST):
        print(f"warning: {len(there)} of the {len(TEST)} test speakers are there")
    return clips.join(
        name,
        found,
        options,
        rate=RATE,
        published=CHUNKS,
        orders={"part": clips.PARTS},
        owner="speaker",
    )
