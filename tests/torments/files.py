"""Files that somebody spoilt or made on purpose: refused by name, nothing in them is executed, nothing is written outside."""

import html
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import bs4
import fetch
import numpy as np
import pandas as pd
import soundfile
import torch
from PIL import Image

from diffsda import classroom, zoo
from diffsda.audio import read_recording
from diffsda.blocks import read_checkpoint, write_checkpoint
from diffsda.model import DiffSDA, denoising_loss
from diffsda.own import fit, load
from diffsda.report import report
from diffsda.tables import read_table
from diffsda.training import train
from diffsda.video import read_clip, write_film

from . import (
    SEQUENCES,
    SIZES,
    any_value,
    complete,
    ended,
    forked,
    people,
    refused,
    small,
)
from .kills import LONG, same_training
from .kills import training as one_training


def spoilt(rng, content: bytes) -> tuple[bytes, str]:  # and how
    "Bytes flipped, the end cut off, a piece taken out or put in, or nothing left."
    how = str(
        rng.choice(["flipped", "cut", "hole", "longer", "empty"], p=[0.4, 0.3, 0.1, 0.1, 0.1])
    )
    data, at = bytearray(content), int(rng.integers(0, len(content)))
    if how == "flipped":
        for i in rng.integers(0, len(data), int(rng.choice([1, 1, 2, 20]))):
            data[i] ^= 1 << int(rng.integers(0, 8))
    elif how == "cut":
        del data[at:]
    elif how == "hole":
        del data[at : at + int(rng.integers(1, 50))]
    elif how == "longer":
        data[at:at] = rng.bytes(int(rng.integers(1, 50)))
    else:
        data.clear()
    return bytes(data), how


def spoil(rng, path: Path) -> str:
    content, how = spoilt(rng, path.read_bytes())
    path.write_bytes(content)
    return f"{path.name}, {how}"


def file_model(rng, folder):
    "A spoilt file of a saved model: refused by the name of the folder, or what was saved."
    model = complete()
    model.save(folder / "model")
    wanted = model.network.state_dict() | model.prior.state_dict()
    for _ in range(20):
        path = rng.choice(sorted((folder / "model").glob("[!.]*")))
        content = path.read_bytes()
        told = spoil(rng, path)
        try:
            loaded = refused(lambda: load(folder / "model"), "model")
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        if loaded is not None:
            found = loaded.network.state_dict() | loaded.prior.state_dict()
            assert all(torch.equal(wanted[k], found[k]) for k in wanted), f"other weights: {told}"
            assert torch.equal(loaded.scale.mean, model.scale.mean), f"another scale: {told}"
        path.write_bytes(content)
    return 20


def file_training(rng, folder):
    "A spoilt file of a training that was stopped: refused by the name of the folder, or gone on with as if nothing had been."
    one_training(folder / "theirs")

    def half():
        stop = lambda record: record["step"] == 5 and os.kill(os.getpid(), signal.SIGTERM)
        how = {"folder": folder / "ours", "callbacks": (stop,), "progress": False}
        train(small(), denoising_loss, SEQUENCES, LONG, **how)

    assert ended(forked(half)) == 128 + signal.SIGTERM
    for i in range(10):
        shutil.copytree(folder / "ours", folder / str(i))
        left = [p for p in sorted((folder / str(i)).iterdir()) if p.stat().st_size]
        told = spoil(rng, rng.choice(left))
        try:
            made = refused(lambda: one_training(folder / str(i)) or "made", str(folder / str(i)))  # noqa: B023
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        if made is not None and "log" not in told:
            same_training(folder / str(i), folder / "theirs")
    return 10


def file_exchanged(rng, folder):
    "The weights of another model under this one's name: refused."
    for seed, name in enumerate(("model", "other")):
        small(seed).save(folder / name)
    ours, theirs = (next((folder / name).glob("*.safetensors")) for name in ("model", "other"))
    shutil.copy(theirs, ours if rng.random() < 0.5 else ours.with_name(theirs.name))
    loaded = refused(lambda: DiffSDA.load(folder / "model"), "model")
    if loaded is not None:  # it lay there under its own name, which nothing asks for
        assert all(torch.equal(a, b) for a, b in zip(small().parameters(), loaded.parameters()))


def alter(rng, facts):
    "Some fact, however deep, is another, or is gone."
    keys = list(facts) if isinstance(facts, dict) else list(range(len(facts)))
    key = keys[int(rng.integers(len(keys)))]
    if isinstance(facts[key], dict | list) and facts[key] and rng.random() < 0.7:
        return f"{key}/" + alter(rng, facts[key])
    if rng.random() < 0.3:
        del facts[key]
        return f"{key} gone"
    facts[key] = any_value(rng)
    return f"{key} = {facts[key]!r}"[:60]


def file_facts(rng, folder):
    "Altered facts under a checksum that fits them: one clear ValueError, or a model."
    frame = pd.DataFrame({"a": np.arange(40.0) % 7, "b": np.arange(40.0) % 5})
    fit(frame, folder=folder / "model", window=8, steps=1, batch=2, progress=False, **SIZES)
    for _ in range(20):
        name = str(rng.choice(["disentangler", "model"]))
        path = folder / "model" / f"{name}.json"
        kept = path.read_bytes()
        facts, tensors = read_checkpoint(folder / "model", name)
        weights = facts.pop("weights")
        changed = alter(rng, facts)
        write_checkpoint(folder / "altered", name, facts, tensors)
        for own in ("disentangler", "model"):
            if own != name:
                write_checkpoint(folder / "altered", own, *without(folder / "model", own))
        try:
            refused(lambda: load(folder / "altered"))
        except Exception as error:
            raise AssertionError(
                f"{name}.json, {changed}: {type(error).__name__}: {error}"
            ) from error
        assert path.read_bytes() == kept and weights
    return 20


def without(folder: Path, name: str) -> tuple[dict, dict]:
    facts, tensors = read_checkpoint(folder, name)
    return {k: v for k, v in facts.items() if k != "weights"}, tensors


def file_table(rng, folder):
    "Spoilt tables are read, or refused by name."
    frame = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0) % 3, "c": ["x", "y"] * 25})
    path = folder / f"table{rng.choice(['.csv', '.npy', '.npz', '.parquet'])}"
    write = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".npy": lambda: np.save(path, frame[["a", "b"]].to_numpy()),
        ".npz": lambda: np.savez_compressed(path, a=frame["a"], b=frame["b"]),
        ".parquet": lambda: frame.to_parquet(path),
    }
    write[path.suffix]()
    for _ in range(20):
        content = path.read_bytes()
        told = spoil(rng, path)
        try:
            refused(lambda: read_table(path), path.name)
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        path.write_bytes(content)
    return 20


def file_sound(rng, folder):
    "Spoilt recordings are read as finite numbers, or refused by name."
    path = folder / f"voice{rng.choice(['.wav', '.flac', '.ogg'])}"
    soundfile.write(path, 0.5 * np.sin(np.arange(8000) / 9), 8000)
    for _ in range(10):
        content = path.read_bytes()
        told = spoil(rng, path)
        wave = refused(lambda: read_recording(path, 8000), path.name)
        assert wave is None or (wave.isfinite().all() and wave.ndim == 1), told
        path.write_bytes(content)
    return 10


def file_images(rng, folder):
    "Spoilt images are read as bytes of their size, or refused by name."
    path = folder / "clip" / f"0{rng.choice(['.png', '.jpg', '.bmp', '.webp'])}"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    for _ in range(10):
        content = path.read_bytes()
        told = spoil(rng, path)
        try:
            clip = refused(lambda: read_clip(path.parent), path.name)
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        assert clip is None or (clip.dtype == np.uint8 and clip.ndim == 4), told
        path.write_bytes(content)
    return 10


def file_bomb(rng, folder):
    "An image of a few bytes that says it has billions of pixels is refused by name, before it is unpacked."
    path = folder / "clip" / "0.png"
    path.parent.mkdir()
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = int(rng.integers(20_000, 60_000)).to_bytes(4, "big") * 2  # width and height
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    assert refused(lambda: read_clip(path.parent), path.name) is None


def file_film(rng, folder):
    "Spoilt films are read, or refused by name."
    path = folder / "film.mp4"
    write_film(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), path, 25.0)
    for _ in range(5):
        content = path.read_bytes()
        told = spoil(rng, path)
        clip = refused(lambda: read_clip(path), path.name)
        assert clip is None or clip.shape[1:] == (3, *clip.shape[2:]), told
        path.write_bytes(content)
    return 5


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return made


def file_archive(rng, folder):
    "Archives with paths that lead outside, links and devices, whole or spoilt: nothing is written outside, nothing is followed."
    (folder / "secret").write_text("mine")
    inside = folder / "inside"
    inside.mkdir()
    hostile = [
        member("../secret"),
        member("a/../../secret"),
        member(str(folder / "secret")),
        member("link", tarfile.SYMTYPE, "../secret"),
        member("link", tarfile.LNKTYPE, "../secret"),
        member("up", tarfile.SYMTYPE, ".."),
        member("up/secret"),
        member("pipe", tarfile.FIFOTYPE),
        member("disk", tarfile.BLKTYPE),
        member("good.txt"),
    ]
    path = folder / "set.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in rng.permutation(len(hostile))[: int(rng.integers(1, 6))]:
            regular = hostile[i].type == tarfile.REGTYPE
            archive.addfile(hostile[i], io.BytesIO(b"evil") if regular else None)
    if rng.random() < 0.3:
        spoil(rng, path)
    made = refused(lambda: fetch.unpacked(path, inside), path.name)
    assert (folder / "secret").read_text() == "mine", "a file outside was written over"
    found = [p for p in inside.rglob("*") if p.is_symlink() or not (p.is_dir() or p.is_file())]
    assert not found, f"links or devices: {found}"
    assert {p.name for p in folder.iterdir()} == {"secret", "inside", "set.tar.gz"}
    if made is not None:
        texts = [p.read_text() for p in made.rglob("*") if p.is_file()]
        assert set(texts) <= {"evil"}, "a link was followed"
    path = folder / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../secret", "/secret", "good.txt"):
            archive.writestr(name, "evil" * 50)
    spoil(rng, path)
    refused(lambda: [read() for _, read in fetch.members(path) if callable(read)], path.name)
    assert (folder / "secret").read_text() == "mine"
    return 2


def bounded(more: int = 2**30):
    "From here on this process may have so many more bytes: who unpacks a bomb gets no memory."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def file_archive_bombs(rng, folder):
    "Archives that unpack to a thousand times their size, or that hold themselves: refused by name before the disk is full."
    zeros, path, inside = bytes(2**20), folder / "set.tar.gz", folder / "inside"
    inside.mkdir()
    member_ = member("zeros")
    member_.size = 100 * len(zeros)
    with tarfile.open(path, "w:gz", compresslevel=9) as archive:
        archive.addfile(member_, io.BytesIO(zeros * 100))
    bounded()
    assert refused(lambda: fetch.unpacked(path, inside), path.name) is None
    assert sum(p.stat().st_size for p in inside.rglob("*") if p.is_file()) < 90 * len(zeros)
    path = folder / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", zeros * 100)
    read = lambda path: [read() for _, read in fetch.members(path)]
    assert refused(lambda: read(path), path.name) is None
    content = b"deep"
    for depth in range(int(rng.integers(20, 60))):
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr(f"{depth}.zip" if depth else "file.txt", content)
        content = held.getvalue()
    path = folder / "nested.zip"
    path.write_bytes(content)
    assert refused(lambda: read(path), "archive within an archive") is None
    return 3


def file_submission(rng, folder):
    "What students may hand in: archives that lead outside, links and bombs cost their points, and no file outside is touched."
    (folder / "secret").write_text("mine")
    (folder / "in").mkdir()
    for who in ("ada", "bob"):
        with zipfile.ZipFile(folder / "in" / f"{who}.zip", "w") as archive:
            for name in ("../../secret", str(folder / "secret"), "01_task.ipynb"):
                archive.writestr(name, "evil")
            link = zipfile.ZipInfo("02_task.ipynb")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "../../secret")
    (folder / "in" / "eve").mkdir()
    (folder / "in" / "eve" / "01_task.ipynb").symlink_to(folder / "secret")
    (folder / "in" / "mel.zip").write_bytes(rng.bytes(200))
    remarks = classroom.collect(folder / "in", ["01_task", "02_task"], folder / "course")
    assert (folder / "secret").read_text() == "mine", "a file outside was written over"
    assert {p.name for p in folder.iterdir()} <= {"secret", "in", "course"}, os.listdir(folder)
    assert remarks.keys() == {"ada", "bob", "eve", "mel"}
    assert all(any(told.values()) for told in remarks.values()), remarks
    found = [p for p in (folder / "course").rglob("*") if p.is_file()]
    assert not any("mine" in p.read_text(errors="replace") for p in found), "a link was followed"
    return 4


class Evil:
    "What unpickles itself into a file."

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


def file_pickles(rng, folder):
    "Arrays, models and tables with code inside: refused, and the code is not run."
    evil, ran = Evil(folder / "ran"), folder / "ran"
    np.save(folder / "a.npy", np.array([evil], object), allow_pickle=True)
    np.savez(folder / "a.npz", x=np.array([evil], object))
    for name in ("b.npy", "b.npz", "b.csv", "b.parquet"):
        (folder / name).write_bytes(pickle.dumps(evil))
    for path in sorted(folder.glob("?.*")):
        refused(lambda: read_table(path), path.name)  # noqa: B023
        assert not ran.exists(), f"{path.name} was executed"
    small().save(folder / "model")
    weights = next((folder / "model").glob("*.safetensors"))
    torch.save({"x": evil}, weights)
    assert refused(lambda: DiffSDA.load(folder / "model"), "model") is None
    facts = {
        "model": {"class": str(rng.choice(["eval", "os.system", "Path", "__class__", "Module"]))}
    }
    write_checkpoint(folder / "model", "model", facts, {})
    assert refused(lambda: DiffSDA.load(folder / "model"), "unknown class") is None
    assert not ran.exists(), "a model was executed"
    return 8


def file_leading_outside(rng, folder):
    "A model whose facts name weights somewhere else: they are not read."
    small(1).save(folder / "secret")
    small().save(folder / "model")
    theirs = next((folder / "secret").glob("*.safetensors"))
    path = folder / "model" / "model.json"
    for name in (f"../secret/{theirs.name}", str(theirs)):
        facts = json.loads(path.read_text())
        facts.pop("checksum", None)
        path.write_text(json.dumps(facts | {"weights": name}))
        assert refused(lambda: DiffSDA.load(folder / "model"), "model") is None
    return 2


def file_boasts(rng, folder):
    "Headers that promise billions of samples, frames or numbers: refused by name, or what is really there is read."
    bounded()
    path = folder / "voice.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(8000) / 9), 8000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", int(rng.choice([2**31, 2**32 - 1, 2**30])))
    path.write_bytes(data)
    wave = refused(lambda: read_recording(path, 8000), path.name)
    assert wave is None or (len(wave) <= 8000 and wave.isfinite().all())
    path = folder / "table.npy"
    np.save(path, np.zeros((20, 2)))
    rows = str(int(rng.choice([10**9, 10**12, 10**15])))
    path.write_bytes(path.read_bytes().replace(b"(20, 2)", f"({rows}, 2)".encode())[:200])
    assert refused(lambda: read_table(path), path.name) is None
    path = folder / "model" / "model.json"
    small().save(folder / "model")
    facts, tensors = read_checkpoint(folder / "model", "model")
    facts.pop("weights")
    facts["model"]["decoder"]["width"] = int(rng.choice([10**6, 10**9, 10**15]))
    write_checkpoint(folder / "model", "model", facts, tensors)
    assert refused(lambda: DiffSDA.load(folder / "model"), "model") is None
    return 3


def file_card(rng, folder):
    "Spoilt cards and weights of shipped models: refused by name, or the card and the model as they were."
    zoo.ship(small(), folder / "m", dict.fromkeys(zoo.CARD, "told"))
    for _ in range(10):
        path = rng.choice(sorted((folder / "m").glob("[!.]*")))
        content = path.read_bytes()
        told = spoil(rng, path)
        try:
            made = refused(lambda: zoo.pretrained("m", folder), str(folder))
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        assert made is None or made.recipe() == small().recipe()
        path.write_bytes(content)
    return 10


EVIL = (
    "<script>x()</script>",
    '"><img src=x onerror=y()>',
    "<b onmouseover='z()'>",
    "</td><svg onload=w()>",
    "$\\frac$ ${x}$",
)


def file_names(rng, folder):
    "Names of files, columns, things, labels and classes that would be a script in a page are text in a report."
    evil = str(rng.choice(EVIL))
    frame = people(8, 8).rename(columns={"a": f"a {evil}"})
    frame["who"] = frame["who"] + evil
    frame[f"kind {evil}"] = [f"{'xy'[i // 8 % 2]} {evil}" for i in range(len(frame))]
    source = folder / f"{evil.replace('/', '')}.csv"
    frame.to_csv(source, index=False)
    how = {"group": "who", "steps": 1, "batch": 2, "progress": False}
    model = fit(source, leave_out=(f"kind {evil}",), **how, **SIZES)
    labels = f"kind {evil}"
    page = report(model, source, folder / "page.html", labels, progress=False)
    text = page.read_text("utf-8")
    assert html.escape(evil) == evil or evil not in text, (
        f"not escaped: {text[max(0, text.find(evil) - 80) :][:160]}"
    )
    for tag in bs4.BeautifulSoup(text, "html.parser").find_all(True):
        assert tag.name not in ("script", "iframe", "object", "svg"), f"a <{tag.name}>"
        assert not [a for a in tag.attrs if a.startswith("on")], f"{tag.name}: {tag.attrs}"
