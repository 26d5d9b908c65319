"""Sprites: 1,296 small characters who walk, cast a spell and slash, seen from three sides, rendered here from the public sheets.

A character is four layers in six variants each, and shoes that all share. A sheet holds every pose of one variant as tiles; a clip is
eight tiles of one row, the layers composited over black."""

import itertools
from pathlib import Path

import clips
import fetch
import numpy as np
import table
from tqdm import tqdm

TILE = 64  # pixels
SHEET = (1344, 832)  # pixels, height and width
LAYERS = {"body": "body", "bottom": "bottomwear", "top": "topwear", "hair": "hair"}  # from below
VARIANTS = 6
ROWS = {  # action -> direction -> row of tiles
    "walk": {"front": 10, "left": 9, "right": 11},
    "spellcard": {"front": 2, "left": 1, "right": 3},
    "slash": {"front": 14, "left": 13, "right": 15},
}
COLUMNS = {  # action -> columns of tiles
    "walk": [8, 1, 2, 3, 4, 5, 6, 7],
    "spellcard": [0, 1, 2, 3, 4, 5, 4, 6],
    "slash": [0, 1, 2, 3, 4, 5, 4, 0],
}

SETS = {
    "sprites": fetch.PublicSet(
        what="Sprites: 1,296 characters, 3 actions from 3 sides, 8 frames of 64 x 64",
        size="0.5 MB as sheets",
        licence="CC BY-SA 3.0 or GPL 3.0",
        citation="Liberated Pixel Cup artists, https://lpc.opengameart.org; set designed by Li, Mandt, Disentangled Sequential "
        "Autoencoder, ICML 2018",
        copy="video/sprites_sheets.zip",
        url="https://github.com/YingzhenLi/Sprites/archive/",
        files={"3ce4048.zip": None},
        marker="**/bottomwear/0.png",
    )
}


def read_sheets(path: Path) -> dict[str, np.ndarray]:  # RGBA, (1344, 832, 4) uint8
    "Every sheet by name, as in hair/3.png. Raises ValueError if one is missing, there twice, or no sheet."
    wanted = [f"{part}/{i}.png" for part in LAYERS.values() for i in range(VARIANTS)]
    wanted.append("shoes/1.png")
    sheets = {}
    for file, read in fetch.members(path):
        sheet = "/".join(Path(file).parts[-2:])
        if sheet not in wanted:
            continue
        if sheet in sheets:
            raise ValueError(f"{path.name} holds {sheet} twice; keep one of the two copies")
        try:
            sheets[sheet] = clips.open_still(file, read()).convert("RGBA")
        except clips.Broken as error:
            raise ValueError(f"{error}; get it again") from error
        if sheets[sheet].size != SHEET[::-1]:
            width, height = sheets[sheet].size
            raise ValueError(
                f"{file} is {height} x {width}, expected {SHEET[0]} x {SHEET[1]}; is it a sheet of this set? get it again"
            )
    lacks = [sheet for sheet in wanted if sheet not in sheets]
    if lacks:
        raise ValueError(
            f"{path.name} lacks {', '.join(lacks)}, expected {len(wanted)} sheets; get it again"
        )
    return {sheet: np.asarray(sheets[sheet]) for sheet in wanted}


def cut(sheet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a layer adds to each pixel and what it lets through, both times 255: (9, 8, 3, 64, 64) and (9, 8, 1, 64, 64) uint16.

    Its tiles of all poses: clips in the order of `ROWS`, then frames."""
    height, width = (size // TILE for size in SHEET)
    tiles = sheet.reshape(height, TILE, width, TILE, 4).transpose(0, 2, 4, 1, 3).astype(np.uint16)
    clips = [tiles[row, COLUMNS[action]] for action in ROWS for row in ROWS[action].values()]
    colour, alpha = np.split(np.stack(clips), [3], axis=2)
    return colour * alpha, 255 - alpha


def over(layer: tuple[np.ndarray, np.ndarray], ground: np.ndarray) -> np.ndarray:  # uint8
    "A layer composited over what is opaque (..., 3, 64, 64), rounded to the nearest."
    adds, through = layer
    return ((adds + 127 + ground * through) // 255).astype(np.uint8)


def render(sheets: dict[str, np.ndarray]):
    "The clips of each character, (9 * 8, 3, 64, 64) uint8, by body, bottom, top and hair, the last one fastest."
    body, bottom, top, hair = (
        [cut(sheets[f"{part}/{i}.png"]) for i in range(VARIANTS)] for part in LAYERS.values()
    )
    shoes = cut(sheets["shoes/1.png"])
    bar = tqdm(desc="characters", total=VARIANTS**4, delay=2)
    for skin in body:
        bare = over(skin, np.uint8(0))
        for trousers, shirt in itertools.product(bottom, top):
            dressed = over(shirt, over(trousers, bare))
            for locks in hair:
                yield over(shoes, over(locks, dressed)).reshape(-1, 3, TILE, TILE)
                bar.update()
    bar.close()


def read(name: str, path: Path) -> tuple[dict[str, np.ndarray], dict]:
    "All clips as `clips.join` gives them: char, body, bottom, top, hair, action, direction. Raises ValueError for the first thing wrong."
    frames = fetch.spool(name, render(read_sheets(path))).reshape(-1, 3, TILE, TILE)
    poses = [(action, direction) for action in ROWS for direction in ROWS[action]]
    looks = itertools.product(map(str, range(VARIANTS)), repeat=len(LAYERS))
    given = [
        {"char": str(char), **dict(zip(LAYERS, look)), "action": action, "direction": direction}
        for char, look in enumerate(looks)
        for action, direction in poses
    ]
    labels, classes = table.index_labels(given, {"action": [*ROWS], "direction": [*ROWS["walk"]]})
    length = len(COLUMNS["walk"])
    arrays = {"frames": frames, "starts": np.arange(len(given) + 1) * length, **labels}
    print(f"{name}: {VARIANTS**4:,} characters, {len(given):,} clips of {length} frames")
    files = [f"{one['char']}/{one['action']}_{one['direction']}" for one in given]
    facts = {"rate": 0.0, "files": files, "labels": classes, "dynamic": ["action", "direction"]}
    return arrays, facts
