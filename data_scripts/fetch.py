"""What every data script shares: finding or downloading a public file, and writing a prepared set whole or not at all."""

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent  # of this repository
BESIDE = ROOT.parent / "shared" / "data"  # copies kept beside the checkout spare the network


class PublicFile(NamedTuple):
    name: str  # path below a folder of copies, as in timeseries/ETTh1.csv
    url: str
    sha256: str | None  # of the file as published; None: not known to us


class Found(NamedTuple):
    path: Path
    sha256: str
    public: bool | None  # is this the published file? None: we know no checksum to compare with


def relative(path: Path) -> str:
    "A path as seen from the current folder, for messages."
    return os.path.relpath(path)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def local_copy(file: PublicFile, source: str) -> Path:
    "The file itself, or where it lies in a folder. Raises ValueError if it is in neither."
    given = Path(source).expanduser()
    candidates = (
        [given] if not given.is_dir() else [given / file.name, given / Path(file.name).name]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = " or ".join(map(relative, candidates))
    raise ValueError(
        f"--source {source}: there is no file {tried}; name {Path(file.name).name} or its folder"
    )


def download(file: PublicFile, folder: Path) -> Path:
    "The downloaded file, its checksum verified if there is one. Raises ValueError if either fails."
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ValueError("downloads need pooch: pip install 'diffsda[dev]'") from error
    pooch.get_logger().setLevel(logging.WARNING)
    remedy = "get it with a browser and pass it with --source FILE"
    try:
        return Path(
            pooch.retrieve(
                file.url,
                known_hash=file.sha256 and f"sha256:{file.sha256}",
                fname=Path(file.name).name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
            )
        )
    except ValueError as error:  # another checksum
        raise ValueError(
            f"{file.url} is not the file we know ({error}); if it was cut short, try again, else {remedy}"
        ) from error
    except OSError as error:  # all that requests raises
        raise ValueError(
            f"could not download {file.url} ({type(error).__name__}); {remedy}"
        ) from error


@contextmanager
def obtain(
    file: PublicFile,
    source: str | None,  # a local file or folder; None: a copy beside the checkout, else download
) -> Iterator[Found]:
    """The public file for the length of the block; says where it came from and how its checksum compares.

    A local copy with another checksum is used with a warning, a download with another one is refused (ValueError)."""
    with tempfile.TemporaryDirectory() as temporary:
        if source is None and (BESIDE / file.name).is_file():
            source = str(BESIDE)
        if source is None:
            print(f"downloading {file.url}")
            path = download(file, Path(temporary))
        else:
            path = local_copy(file, source)
            print(f"using the copy {relative(path)}")
        digest = sha256_of(path)
        public = None if file.sha256 is None else digest == file.sha256
        if public is False:
            print(
                f"warning: {path.name} is not the published file (sha256 {file.sha256}); "
                "going on with what it holds"
            )
        verdict = {True: "the published file", False: "NOT the published file"}
        print(
            f"sha256 {digest}: {verdict.get(public, 'no published checksum is known to compare with')}"
        )
        yield Found(path, digest, public)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` only if the block succeeds.

    Until then, and whenever something fails, the former folder is there and untouched."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    former = folder.parent / f".{folder.name}.former"
    if former.exists() and not folder.exists():  # an earlier run was killed between the two renames
        former.rename(folder)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    fresh.chmod(0o755)
    try:
        yield fresh
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            folder.rename(former)
        try:
            fresh.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_json(path: Path, facts: dict):
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def run(main: Callable[[], None]):
    "Runs a script; what it cannot do becomes one line and exit status 1."
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
