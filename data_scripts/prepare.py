"""Prepares real data sets: finds or downloads their public files, checks them, writes arrays that open by memory map.

python data_scripts/prepare.py                                lists all sets
python data_scripts/prepare.py NAME [--source FILE_OR_FOLDER] [--out FOLDER]

Sets of video take more: --size, --every, --least, --skip-broken, --drop and --pairs."""

import argparse
import difflib
import json
import textwrap
from pathlib import Path

import air
import celebvhq
import clips
import ett
import fetch
import fsdd
import grid
import har
import librispeech
import mug
import physionet
import ravdess
import sprites
import taichi
import timit
import voxceleb

ROOMS = {
    name: room
    for room in (
        *(ett, air, physionet, har),
        *(fsdd, ravdess, librispeech, timit),
        *(sprites, grid, mug, taichi, voxceleb, celebvhq),
    )
    for name in room.SETS
}


def room_of(name: str):
    "The module that knows a set. Raises ValueError with the nearest name if there is none."
    if name not in ROOMS:
        near = difflib.get_close_matches(name.lower(), ROOMS, n=1, cutoff=0.4)
        raise ValueError(
            f"there is no set {name!r}"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" There are {', '.join(ROOMS)}"
        )
    return ROOMS[name]


def prepare(
    name: str,
    source: str | None,  # a local file or folder; None: a copy beside the checkout, else download
    out: Path,  # holds the prepared sets, each in a folder of its name
    **options,  # fields of the room's OPTIONS that are to be other than there
):
    "Writes the set, or raises ValueError or OSError and leaves what was there."
    room = room_of(name)
    public = room.SETS[name]
    if options and not hasattr(room, "OPTIONS"):
        raise ValueError(
            f"{name} has no options {', '.join(options)}, only video that is cropped has; leave them out"
        )
    settings = (room.OPTIONS._replace(**options),) if hasattr(room, "OPTIONS") else ()
    with fetch.obtain(public, source) as found:
        arrays, facts = room.read(name, found.path, *settings)
    origin = {
        "file": Path(public.copy).name,
        "url": public.address,
        "sha256": found.sha256,
        "public_file": found.public,
        "licence": public.licence,
        "citation": public.citation,
    }
    fetch.write(out / name, arrays, facts | origin)
    print(f"licence {public.licence}, to be named with the source: {public.citation}")
    print(f"written: {fetch.relative(out / name)}")


def state(name: str, out: Path) -> str:
    "What a prepared set holds, or the command that prepares it."
    try:
        arrays = json.loads((out / name / "index.json").read_text(encoding="utf-8"))["arrays"]
        if "wave" in arrays:
            return f"present: {arrays['starts'][0] - 1:,} recordings"
        if "frames" in arrays:
            return f"present: {arrays['starts'][0] - 1:,} clips"
        return "present: " + " x ".join(f"{n:,}" for n in arrays["values"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"python data_scripts/prepare.py {name}"


def listing(out: Path) -> str:
    "All sets as a table: what they are, size, licence, and whether they are there or how to get them."
    rows = [("set", "what", "download", "licence", "prepared")]
    for name, room in ROOMS.items():
        public = room.SETS[name]
        rows.append((name, public.what, public.size, public.licence, state(name, out)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main():
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="of a set; without it, all sets are listed")
    parser.add_argument("--source", help="a local copy, or the folder it is in; default: download")
    parser.add_argument(
        "--out", type=Path, default=fetch.ROOT / "data", help="default: data in this repository"
    )
    video = parser.add_argument_group("sets of video").add_argument
    video("--size", type=int, help="of a frame's sides, in pixels")
    video("--every", type=int, help="of so many frames, keep the first")
    video("--least", type=int, help="refuse clips of fewer frames")
    video("--skip-broken", action="store_true", default=None, help="and count what is skipped")
    video("--drop", metavar="FILE", help="leave out these clips: a text file of names, one a line")
    video("--pairs", metavar="FILE", help="a csv file of names, columns source and driving")
    args = parser.parse_args()
    options = {key: value for key, value in vars(args).items() if value is not None}
    options = {key: options[key] for key in clips.Options._fields if key in options}
    try:
        if args.name is None:
            print(listing(args.out))
        else:
            prepare(args.name, args.source, args.out, **options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"prepare.py: {error}") from None


if __name__ == "__main__":
    main()
