"""CelebV-HQ: people in videos of all kinds, with 83 attributes. Only from your own copy: its authors publish addresses, not videos.

Its layout is a folder of clips named as in celebvhq_info.json, which says of each its video on YouTube and its attributes, and lies with
them. A square follows the face, found by a Haar cascade, with 40 pixels around it. Who is seen is not published: clips of one video count
as one person, and the part `test` is a tenth of the videos, chosen by name."""

import json
from pathlib import Path

import clips
import faces
import fetch
import numpy as np

INFO = "celebvhq_info.json"
MARGIN = 40  # pixels
TEST = 0.1
NO_YES = ["no", "yes"]
OPTIONS = clips.Options(size=256, least=10)

SETS = {
    "celebvhq": fetch.PublicSet(
        what="CelebV-HQ: 35,666 clips, 83 attributes, faces of 256 x 256",
        size="not downloaded",
        licence="non-commercial research; of each video's owner",
        citation="Zhu, Wu, Zhu, Jiang, Tang, Zhang, Liu, Loy, CelebV-HQ: A Large-Scale Video Facial Attributes Dataset, ECCV 2022",
        copy="video/celebvhq.zip",
        url="https://github.com/CelebV-HQ/CelebV-HQ",
        files={},
        marker=f"**/{INFO}",
        by_hand=f"the videos belong to those who made them: agree to the terms there, get {INFO}, let its script fetch and cut the "
        "clips, and name the folder that holds both",
    )
}


def read_info(path: Path) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Clip -> its labels, and the labels of what may change within a clip. Raises ValueError if the file is missing or is another.

    An emotion that changes within a clip is not known (None)."""
    files = [*fetch.contents(path, INFO)]
    if len(files) != 1:
        raise ValueError(
            f"{path.name} holds {len(files)} files {INFO}, which says whose clip is whose, expected one; put it beside the clips"
        )
    try:
        info = json.loads(files[0][1])
        looks = info["meta_info"]["appearance_mapping"]
        actions = info["meta_info"]["action_mapping"]
        labels = {}
        for clip, told in info["clips"].items():
            attributes, video = told["attributes"], told["ytb_id"]
            emotion = attributes["emotion"]
            labels[clip] = {
                "video": video,
                "part": "test" if clips.fraction(video) < TEST else "train",
                **{k: NO_YES[v] for k, v in zip(looks, attributes["appearance"], strict=True)},
                **{k: NO_YES[v] for k, v in zip(actions, attributes["action"], strict=True)},
                "emotion": None if emotion["sep_flag"] else emotion["labels"],
            }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{INFO} is not what we know ({type(error).__name__}: {error}), expected meta_info and clips with ytb_id and attributes; "
            "get it again"
        ) from error
    return labels, [*actions, "emotion"]


def read(
    name: str,
    path: Path,
    options: clips.Options = OPTIONS,
    detect: faces.Detector = faces.haar,
) -> tuple[dict[str, np.ndarray], dict]:
    "The arrays and facts of `clips.join`: video, part, the attributes, and pairs. Raises ValueError for the first thing wrong."
    labels, dynamic = read_info(path)

    def parse(file):
        clip = Path(file).name
        if clip not in labels:
            raise ValueError(f"{file} is not listed in {INFO}; take it out, or get both again")
        return clip, labels[clip]

    found = clips.find(path, parse)
    if len(found) < len(labels):
        print(f"warning: {len(labels) - len(found):,} clips are listed and not there")
    return clips.join(
        name,
        found,
        options,
        rate=0.0,
        published=35_666,
        crop=faces.followed(detect, MARGIN),
        orders={"part": clips.PARTS},
        dynamic=dynamic,
        owner="video",
    )
