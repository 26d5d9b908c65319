"""What every set shares: finding or downloading its public files, opening archives, and writing it whole or not at all."""

import errno
import glob
import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent  # of this repository
BESIDE = ROOT.parent / "shared" / "data"  # copies kept beside the checkout spare the network


class PublicSet(NamedTuple):
    what: str  # it is, in a few words
    size: str  # of the download
    licence: str
    citation: str
    copy: str  # where a copy lies below a folder of copies, as in timeseries/ETTh1.csv
    url: str  # of the place that publishes it
    files: dict[str, str | None]
    # there -> checksum known to us, if any: SHA-256, or md5:...; empty: all that a DOI leads to
    sums: str | None = None  # the file there that lists the others' checksums
    marker: str | None = None  # a folder that holds such a file is a copy, too
    by_hand: str | None = None  # why no script may or can download it, if so

    @property
    def address(self) -> str:
        "Of the file, or of the place where the files are."
        return self.url + (next(iter(self.files)) if len(self.files) == 1 else "")


class Found(NamedTuple):
    path: Path  # a file, or a folder that holds several
    sha256: str
    public: bool | None  # is this what was published? None: we know no checksum to compare with


def relative(path: Path) -> str:
    "A path as seen from the current folder, for messages."
    return os.path.relpath(path)


def files_of(path: Path) -> list[Path]:
    "The file itself, or all files below a folder."
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def checksum(path: Path, kind: str = "sha256") -> str:
    "Of a file, or of a folder's files one after the other."
    digest, files = hashlib.new(kind), files_of(path)
    size = sum(file.stat().st_size for file in files)
    with tqdm(desc=kind, total=size, unit="B", unit_scale=True, delay=2) as bar:
        for file in files:
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
                    bar.update(len(block))
    return digest.hexdigest()


def matches(path: Path, known: str) -> bool:
    "Does a file have this checksum, given as SHA-256 or as md5:...?"
    *kind, value = known.split(":")
    return checksum(path, *kind) == value


@contextmanager
def opening(name: str) -> Iterator[None]:
    "Whatever an archive that is not whole raises becomes a ValueError."
    try:
        yield
    except (
        *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        *(RuntimeError, NotImplementedError),
    ) as error:
        kind = "zip" if name.endswith(".zip") else "tar"
        raise ValueError(
            f"{name} is not a whole {kind} archive ({error}); get the file again"
        ) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset before the file's begin
            raise
        raise ValueError(f"{name} tells of places that it does not have; get it again") from error


SWELLS, ALWAYS, DEEP = 200, 2**26, 4
# how many times its size an archive may unpack to, bytes that are never too many, archives that may lie in each other:
# no public set comes near any of them


def check_size(name: str, packed: int, unpacks: int):
    "Raises ValueError for what unpacks to more than anything that is data does."
    if unpacks > max(ALWAYS, SWELLS * packed):
        raise ValueError(
            f"{name} unpacks from {packed / 2**20:.1f} MB to {unpacks / 2**20:,.0f} MB, which no set does; get the file again"
        )


def unpacked(path: Path, folder: Path) -> Path:
    "A tar archive as a folder, since one cannot reach into it; anything else as it is."
    if not path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return path
    inside = folder / path.name.split(".tar")[0].removesuffix(".tgz")
    size = 0
    with opening(path.name), tarfile.open(path) as archive:
        for member in tqdm(archive, f"unpacking {path.name}", delay=2):
            size += member.size
            check_size(path.name, path.stat().st_size, size)
            target = (inside / member.name).resolve()
            if not target.is_relative_to(inside.resolve()):
                raise ValueError(
                    f"{path.name}: {member.name} lies outside the destination; get the file again"
                )
            if member.isfile():  # links have no place in a data set
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.extractfile(member) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
    return inside


def within(
    name: str, file: Path | io.BytesIO, depth: int = 1
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    "What a zip archive holds, other archives opened as well."
    if depth > DEEP:
        raise ValueError(f"{name} is the {depth}th archive within an archive; get the file again")
    with opening(name):
        archive = zipfile.ZipFile(file)
        for member in sorted(archive.namelist()):
            if member.endswith(".zip"):
                inner = io.BytesIO(read_member(archive, name, member))
                yield from within(member, inner, depth + 1)
            elif not member.endswith("/"):
                yield member, partial(read_member, archive, name, member)


def read_member(archive: zipfile.ZipFile, name: str, member: str) -> bytes:
    with opening(name):
        told = archive.getinfo(member)
        check_size(f"{name}: {member}", told.compress_size, told.file_size)
        return archive.read(member)


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name with its folders, and how to read it, of each file: in a folder, a zip archive, or archives within either.

    Raises ValueError if an archive is not whole."""
    for file in files_of(path):
        name = file.name if file == path else file.relative_to(path.parent).as_posix()
        if name.endswith(".zip"):
            yield from within(name, file)
        else:
            yield name, file.read_bytes


def contents(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    "Name and bytes of each member that matches, as in set-a/*.txt. Raises ValueError if an archive is not whole."
    for name, read in members(path):
        if Path(name).match(pattern):
            yield Path(name).name, read()


def local_copy(public: PublicSet, source: str) -> Path:
    "The file itself, or where it lies in a folder, or its unpacked folder. Raises ValueError if there is none."
    given = Path(source).expanduser()
    candidates = [given]
    if given.is_dir():
        whole = public.files if len(public.files) == 1 else ()
        candidates = [given / n for n in (public.copy, Path(public.copy).name, *whole)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if public.marker and any(given.glob(public.marker)):
        return given
    tried = " or ".join(dict.fromkeys(map(relative, candidates)))
    raise ValueError(
        f"--source {source}: there is no file {tried}"
        + (f", nor a folder that holds {public.marker}" if public.marker else "")
        + f"; name {Path(public.copy).name} or its folder"
    )


def download(public: PublicSet, folder: Path) -> tuple[Path, bool | None]:
    """The downloaded file, or the folder of several; True if all were compared with a published checksum, None if not.

    Raises ValueError if the address cannot be reached, or gives another file than it should."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    remedy = "get it with a browser and pass it with --source FILE"
    known = public.files
    basket = pooch.create(folder / "files", public.url, registry=dict(known))
    progress = pooch.HTTPDownloader(progressbar=True, timeout=30)
    try:
        if public.sums:
            sums = pooch.retrieve(
                public.url + public.sums, None, public.sums, folder, downloader=progress
            )
            for line in Path(sums).read_text(encoding="utf-8").splitlines():
                digest, name = line.split(maxsplit=1)
                if name in known:
                    basket.registry[name] = f"sha256:{digest}"
        if not known or public.url.startswith("doi:"):
            basket.load_registry_from_doi()  # with the checksums of all that is there
            progress = pooch.DOIDownloader(progressbar=True, timeout=30)
        wanted = known or basket.registry
        paths = [Path(basket.fetch(name, downloader=progress)) for name in wanted]
    except ValueError as error:  # another checksum
        raise ValueError(
            f"{public.address} is not what we know ({error}); if it was cut short, try again, else {remedy}"
        ) from error
    except OSError as error:  # all that requests raises, and a full disk
        reason = type(error).__name__
        if error.errno == errno.ENOSPC:
            reason, remedy = (
                "no space left",
                f"make room in {folder}, or name another place in TMPDIR",
            )
        raise ValueError(f"could not download {public.address} ({reason}); {remedy}") from error
    verified = all(basket.registry[name] for name in wanted) or None
    return paths[0] if len(paths) == 1 else folder / "files", verified


@contextmanager
def obtain(
    public: PublicSet,
    source: str | None,  # a local file or folder; None: a copy beside the checkout, else download
) -> Iterator[Found]:
    """What is published, for the length of the block; says where it came from and how its checksum compares.

    A local copy with another checksum is used with a warning, a download with another one is refused (ValueError)."""
    with tempfile.TemporaryDirectory() as temporary:
        if source is None and (BESIDE / public.copy).is_file():
            source = str(BESIDE)
        known = [known for known in public.files.values() if known]
        if source is None and public.by_hand:
            raise ValueError(
                f"{public.address} is not downloaded ({public.by_hand}); name your copy with --source FILE_OR_FOLDER"
            )
        if source is None:
            print(f"downloading {public.address}")
            path, verified = download(public, Path(temporary))
        else:
            path = local_copy(public, source)
            print(f"using the copy {relative(path)}")
            verified = any(matches(path, one) for one in known) if known else None
        digest = checksum(path)
        if verified is False:
            print(
                f"warning: {path.name} is not the published file (checksum {known[0]}); "
                "going on with what it holds"
            )
        verdict = {True: "as published", False: "NOT the published file"}
        print(
            f"sha256 {digest}: {verdict.get(verified, 'no published checksum is known to compare with')}"
        )
        yield Found(unpacked(path, Path(temporary)), digest, verified)


def spool(
    name: str,  # of the set, for messages
    blocks: Iterable[np.ndarray],  # of one dtype; one or more
) -> np.memmap:  # (N,) all their values one after the other
    """A memory map of a temporary file, so that a set may be larger than the memory; the file goes with it.

    Raises OSError if the file finds no room, naming the remedy."""
    with tempfile.TemporaryFile() as file:
        for block in blocks:
            try:
                file.write(np.ascontiguousarray(block))
                file.flush()
            except OSError as error:
                raise OSError(
                    f"no room for {name} in {tempfile.gettempdir()} ({error}); make room, or name another place in TMPDIR"
                ) from error
        return np.memmap(file, block.dtype, "r")


def lock_of(folder: Path) -> FileLock:
    "Keeps other programs of this machine from writing the same folder; the system frees it if this one is killed."
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"diffsda-{name}.lock")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` only if the block succeeds.

    Until then, and whenever something fails, the former folder is there and untouched."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    former = folder.parent / f".{folder.name}.former"
    with lock_of(folder):
        if (
            former.exists() and not folder.exists()
        ):  # an earlier run was killed between the two renames
            former.rename(folder)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.{'?' * 8}"):
            shutil.rmtree(left, ignore_errors=True)  # an earlier run was killed while it wrote
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


def write(folder: Path, arrays: dict[str, np.ndarray], facts: dict):
    "Each array as a file that opens by memory map, and index.json, which names them: all of it or nothing (OSError)."
    index = {
        "name": folder.name,
        "arrays": {name: list(array.shape) for name, array in arrays.items()},
        **facts,
    }
    try:
        with whole_folder(folder) as fresh:
            for name, array in arrays.items():
                with (
                    (fresh / f"{name}.npy").open("wb") as file,
                    tqdm.wrapattr(
                        file, "write", array.nbytes, desc=f"writing {name}", delay=2
                    ) as slowly,
                ):
                    np.save(slowly, array)
            text = json.dumps(index, indent=1, ensure_ascii=False)
            (fresh / "index.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        need = sum(array.nbytes for array in arrays.values()) / 2**20
        raise OSError(
            f"could not write {relative(folder)} ({error}); it needs {need:.0f} MB: make room or name another "
            "place with --out; what was prepared before is still there and whole"
        ) from error
