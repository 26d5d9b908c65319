"""Places in which nothing is as usual: no room, no right to write, somebody else at work, a clock that jumps, other signs for decimals, odd names."""

import contextlib
import ctypes
import io
import locale
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import torch

from diffsda import training as training_module
from diffsda.blocks import change_file
from diffsda.cli import main
from diffsda.data import Sequences
from diffsda.model import DiffSDA, denoising_loss
from diffsda.own import fit, load
from diffsda.report import report
from diffsda.training import read_log, train
from diffsda.video import Clips
from diffsda.video_latents import encode_clips

from . import (
    KINDS,
    SEQUENCES,
    SIZES,
    Missing,
    complete,
    contents,
    ended,
    forked,
    of_people,
    people,
    refused,
    small,
)
from .kills import LONG, Stage, distillation, killed, prior_training, same_files, same_training
from .kills import training as one_training


def own_disk(folder: Path, kilobytes: int) -> bool:  # whether this process may have one
    "Puts a small disk at a folder, which only this process and those that it begins see."
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # a list of mounts of its own
        return False
    calls = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder],
    )
    return all(subprocess.run(call, capture_output=True).returncode == 0 for call in calls)


def remount(folder: Path, options: str):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


CLIPS = Clips(
    np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8), [0, 20, 60]
)
WRITERS = {  # name -> what writes into a folder
    "training": one_training,
    "prior": prior_training,
    "distillation": distillation,
    "fit": lambda folder: of_people(folder=folder, steps=6, save_every=2),
    "save": lambda folder: complete().save(folder),
    "report": lambda folder: report(complete(), people(), folder / "page.html", progress=False),
    "latents": lambda folder: encode_clips(CLIPS, Stage(), folder, block=4, progress=False),
    "preparation": lambda folder: fetch.write(folder / "set", {"x": np.arange(9000.0)}, {}),
    "rows": lambda folder: change_file(folder / "rows.json", lambda text: "[1]" * 5000),
}


def full_disk(rng, folder):
    "What finds no room says so, leaves no half file, and goes on once there is room."
    name = str(rng.choice([*WRITERS]))
    work, disk = WRITERS[name], folder / "disk"
    where = disk / "set"
    work(folder / "theirs" / "set")
    size = sum(map(len, contents(folder / "theirs").values())) // 1000
    room = int(rng.integers(4, max(6, size)))
    mounted = own_disk(disk, room)

    def crowded():
        if not mounted:  # the next best: no file may be larger
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room * 500, resource.RLIM_INFINITY))
        with contextlib.suppress(OSError):
            work(where)

    status = ended(forked(crowded))
    assert status == 0, f"{name}, {room} kB: another error than OSError, status {status}"
    if mounted:
        remount(disk, "size=64m")
    work(where)
    same_files(where, folder / "theirs" / "set")


READERS = {  # name -> what reads a model's folder
    "load": load,
    "encode": lambda folder: load(folder).encode(people()),
    "swap": lambda folder: load(folder).swap(people(2), people(2), steps=2),
}


def read_only(rng, folder):
    "In a folder that may not be written, models are read, and whatever would write names the folder."
    disk = folder / "disk"
    mounted = own_disk(disk, 8000)
    (disk / "set").mkdir()
    complete().save(disk / "set")
    before = contents(disk)
    if mounted:
        remount(disk, "ro")  # binds the superuser too
    else:
        disk.chmod(0o555), (disk / "set").chmod(0o555)
        if os.access(disk, os.W_OK):
            raise Missing("the superuser without the right to mount: no folder is read-only")
    for read in READERS.values():
        read(disk / "set")
    for name, work in WRITERS.items():
        where = disk / str(rng.choice(["set", "new"]))
        try:
            made = refused(lambda: [work(where)], "disk", also=(OSError,))  # noqa: B023
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        assert made is None, f"{name} was not refused"
    assert contents(disk) == before
    if not mounted:
        disk.chmod(0o755)
    return len(READERS) + len(WRITERS)


def two_trainings(rng, folder):
    "Of two trainings in one folder the second is refused, whichever it is, and the first ends as if alone."
    one_training(folder / "theirs")
    training_module.PATIENCE = 0.05
    ours, stay, stopped = folder / "ours", folder / "stay", int(rng.integers(1, 8))
    stay.touch()

    def slow():
        def wait(record):
            while record["step"] == stopped and stay.exists():
                time.sleep(0.01)

        how = {"folder": ours, "callbacks": (wait,), "progress": False}
        train(small(), denoising_loss, SEQUENCES, LONG, **how)

    first = forked(slow)
    while len(read_log(ours)) < stopped:
        assert os.waitpid(first, os.WNOHANG) == (0, 0), "the first training ended"
        time.sleep(0.01)
    intruder = {"training": one_training, "prior": prior_training, "distillation": distillation}
    for name, work in intruder.items():
        made = refused(lambda: work(ours), "another training is at work", str(ours))  # noqa: B023
        assert made is None and len(read_log(ours)) == stopped, name
    stay.unlink()
    assert ended(first) == 0
    same_training(ours, folder / "theirs")


def changed_between(rng, folder):
    "Other data, another model, another loss or other settings in the folder of a training are named, and it stays as it is."
    one_training(folder)
    before = contents(folder)
    moved = Sequences(SEQUENCES.x.flip(0), SEQUENCES.lengths)  # as many, of the same size
    touched = Sequences(SEQUENCES.x.clone(), SEQUENCES.lengths)
    touched.x[int(rng.integers(len(touched)))] += 1e-3
    dropping = DiffSDA.mlp(SEQUENCES.frame, 4, 2, 8, 16, 16, embedding=16, dropout=0.3)
    wider = DiffSDA.mlp(SEQUENCES.frame, 5, 2, 8, 16, 16, embedding=16)
    other = partial(denoising_loss, draws=2)
    calls = {
        "training sequences": (small(), denoising_loss, SEQUENCES[:20], LONG),
        "seed": (small(), denoising_loss, SEQUENCES, replace(LONG, seed=1)),
        "s_dim": (wider, denoising_loss, SEQUENCES, LONG),
        "dropout": (dropping, denoising_loss, SEQUENCES, LONG),
        "draws": (small(), other, SEQUENCES, LONG),
        "data": (small(), denoising_loss, moved, LONG),
        "data ": (small(), denoising_loss, touched, LONG),
    }
    for name, call in calls.items():
        made = refused(lambda: train(*call, folder=folder, progress=False), name.strip())  # noqa: B023
        assert made is None, f"another {name} was not noticed"
    assert contents(folder) == before
    one_training(folder)  # the same is welcome
    return len(calls)


def jumping_clock(rng, folder):
    "A clock that jumps by hours and days, forwards and backwards: the same weights, logs and models, and no time below 0."
    one_training(folder / "theirs")
    true_time = time.time

    def jump():
        return true_time() + float(rng.normal()) * 10.0 ** int(rng.integers(0, 9))

    def work():
        time.time = jump
        os.environ["TQDM_DISABLE"] = ""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            train(small(), denoising_loss, SEQUENCES, LONG, folder=folder / "ours")
        for file in (folder / "ours").iterdir():
            moment = true_time() + float(rng.normal()) * 1e7
            os.utime(file, (moment, moment))

    kills = killed(rng, work, 0.5)
    same_training(folder / "ours", folder / "theirs")
    seconds = [record["seconds"] for record in read_log(folder / "ours")]
    assert min(seconds) >= 0, seconds
    time.time = jump
    model = complete()
    model.save(folder / "model")
    for file in (folder / "model").iterdir():
        os.utime(file, (0, float(rng.integers(0, 2**33))))
    same = model.encode(people()).s.equals(load(folder / "model").encode(people()).s)
    assert same, "other codes"
    return 1 + kills


def chores(folder: Path) -> None:
    "A model's whole life, by the shell, in a folder."
    people().to_csv(folder / "people.csv", index=False)
    people(2).to_csv(folder / "people2.csv", index=False)
    pd.DataFrame({"name": KINDS.keys(), "kind": KINDS.values()}).to_csv(
        folder / "kinds.csv", index=False
    )
    table, model = str(folder / "people.csv"), str(folder / "model")
    sizes = [w for k, v in SIZES.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    out = lambda name: ["-o", str(folder / name)]
    kinds = ["--labels", str(folder / "kinds.csv")]
    one, two = f"{table}@p1", f"{table}@p2"
    quick = ["--levels", "2"]
    lines = (
        ["train", table, *out("model"), "--group", "who", "--steps", "2", *sizes],
        ["distil", model, table, "--steps", "1", "--lessons", "4", "--quiet"],
        ["name", model, table, *kinds],
        ["encode", model, table, *out("codes")],
        ["encode", model, table, *out("codes.npz")],
        ["reconstruct", model, table, *out("again.csv"), *quick],
        ["swap", model, "--static", one, "--dynamic", two, *out("swap.csv"), *quick],
        *(["swap", model, "--static", one, "--dynamic", two, "--only", "kind", *out("only.csv")],),
        ["walk", model, one, "--amounts", "-1.5", "1", *out("walk.csv"), *quick],
        ["morph", model, one, two, *out("morph.csv"), *quick],
        ["nearest", model, one, table],
        ["report", model, str(folder / "people2.csv"), *out("page.html"), "--quiet"],
    )
    for words in lines:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main(words)
        assert status == 0, f"{words}: status {status}, {said.getvalue()}"


def same_chores(ours: Path, theirs: Path, wanted: Callable = lambda name: True):
    "Both folders hold the same, but for seconds in the log and for the picture of a folder's name in pages."
    same = lambda folder: {
        name: re.sub(rb"[^<>]*people[^<>]*", b"", y) if name.endswith("html") else y
        for name, y in contents(folder).items()
        if not name.endswith("log.jsonl") and wanted(name)
    }
    ours, theirs = same(ours), same(theirs)
    assert ours.keys() == theirs.keys(), f"left: {sorted(ours.keys() ^ theirs.keys())}"
    other = [name for name in ours if ours[name] != theirs[name]]
    assert not other, f"other bytes in {other}"


NAMES = (
    *("zwei Wörter", "Ünïcödé – Größe", "U\u0308ber", "[0-9]*", "100% $HOME ~", 'it\'s "quoted"'),
    *("a@b", "-o", "--help", "weiß\tnicht", "<b>&amp;", "数据", "x" * 200, "#1;2,3", "{name}"),
)


def odd_path(rng, folder):
    "In a folder of an odd name, with blanks and umlauts, everything is made as in any other."
    first, second = (str(name) for name in rng.choice(NAMES, 2, replace=False))
    ours = folder / first / second
    ours.mkdir(parents=True), (folder / "theirs").mkdir()
    chores(folder / "theirs")
    chores(ours)
    same_chores(ours, folder / "theirs")
    return 12


def german(folder: Path) -> str:  # the name of a locale
    "A locale with decimal commas: one that is installed, or one made here."
    have = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    for name in have:
        if name.startswith(("de_", "fr_", "es_", "it_", "ru_")):
            return name
    os.environ["LOCPATH"] = str(folder)
    call = ["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(call, capture_output=True).returncode == 0:
            return "de_DE.UTF-8"
    raise Missing("no locale with decimal commas, and no localedef to make one (Debian: locales)")


def decimal_commas(rng, folder):
    "Where numbers are written with commas, files are the same to the byte."
    name = german(folder)
    (folder / "ours").mkdir(), (folder / "theirs").mkdir()
    chores(folder / "theirs")
    locale.setlocale(locale.LC_ALL, name)
    assert locale.localeconv()["decimal_point"] == ","
    chores(folder / "ours")
    same_chores(folder / "ours", folder / "theirs")
    text = people().to_csv(sep=";", decimal=",", index=False)
    (folder / "german.csv").write_text(text, encoding="utf-8")
    told = refused(
        lambda: fit(folder / "german.csv", window=8, steps=1, progress=False, **SIZES), "german.csv"
    )
    assert told is None  # one column of words: refused, and nobody is trained on something else
    return 13


def side_by_side(work: Callable) -> int:  # kills among them
    "Runs work(rank) in two processes with what torchrun tells its own; as torchrun does, ends both if one of them fails."
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = str(door.getsockname()[1])

    def one(rank: int):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({k: str(y) for k, y in told.items()} | {"MASTER_PORT": port})
        work(rank)

    running = {forked(partial(one, rank)) for rank in (0, 1)}
    failed = 0
    while running:
        process, code = os.waitpid(-1, 0)
        running.discard(process)
        if code and not failed:
            failed = 1
            for other in running:
                os.kill(other, signal.SIGKILL)
    return failed


def two_processes(rng, folder):
    "Trainings by two processes, one of them killed at some step: launched again they go on, equal bit for bit to undisturbed ones."
    steps, cut = int(rng.integers(4, 9)), int(rng.integers(1, 3))
    config = replace(LONG, steps=steps, accumulate=cut, batch=int(rng.integers(4, 9)))
    victim, deadly = int(rng.integers(0, 2)), int(rng.integers(2, steps + 1))

    def worker(where: Path, strike: bool, rank: int):
        def loss(model, batch):
            loss.calls += 1
            if strike and rank == victim and loss.calls == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return denoising_loss(model, batch)

        loss.calls = 0
        model = small(rank)  # the first one's weights count
        train(model, loss, SEQUENCES, config, folder=where, progress=False)
        torch.save(model.state_dict(), where.with_suffix(f".{rank}"))

    ours, theirs = folder / "ours", folder / "theirs"
    assert side_by_side(partial(worker, theirs, False)) == 0
    assert side_by_side(partial(worker, ours, True)) == 1
    assert side_by_side(partial(worker, ours, False)) == 0
    found = [torch.load(path.with_suffix(f".{i}")) for path in (ours, theirs) for i in (0, 1)]
    same = lambda a, b: all(torch.equal(a[k], b[k]) for k in a)
    assert same(found[0], found[1]), "two processes, two models"
    assert same(found[0], found[2]), f"other weights, {victim} killed at call {deadly}"
    same_training(ours, theirs)
    one, parts = small(), replace(config, accumulate=2 * cut)
    train(one, denoising_loss, SEQUENCES, parts, progress=False)
    close = partial(torch.allclose, rtol=1e-3, atol=1e-5)
    assert all(close(found[0][k], y) for k, y in one.state_dict().items()), "other than one process"
    return 3
