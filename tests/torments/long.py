"""Long work: thousands of steps in bounded memory, notebooks in any order, other versions of Python."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from diffsda.cli import run_notebook
from diffsda.data import Sequences
from diffsda.model import denoising_loss
from diffsda.training import TrainConfig, train

from . import ROOT, SEQUENCES, Missing, complete, contents, people, small

STEPS, ENCODINGS, NOTEBOOKS = 2000, 500, 3  # of a case; `make test` does with fewer


def resident() -> int:  # bytes
    "Memory of this process that is really there."
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_steady(sizes: list, steps: int, files: tuple):
    "Over the last two thirds memory grows by less than 2 MB, and no file stays open."
    late = np.array(sizes[len(sizes) // 3 :], float)
    slope = np.polyfit(np.linspace(0, steps * 2 / 3, len(late)), late, 1)[0]
    grown = slope * steps * 2 / 3
    assert grown < 2e6, f"{slope:.0f} bytes a step: {sizes}"
    assert files[0] == files[1], f"{files[1] - files[0]} files stayed open"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def steady_training(rng, folder):
    "Thousands of steps of a training that keeps checkpoints and a log."
    sizes, before = [], open_files()
    config = TrainConfig(STEPS, 8, warmup=5, ema=0.9, log_every=STEPS // 20, save_every=STEPS // 10)
    look = lambda record: sizes.append(resident())
    how = {"folder": folder / "training", "callbacks": (look,), "progress": False}
    train(small(), denoising_loss, SEQUENCES, config, **how)
    check_steady(sizes, STEPS, (before, open_files()))
    return STEPS


# oneDNN keeps the kernels of the last 1,024 shapes it has met: whoever works on things of ever new shapes grows by them (by 84 MB in
# 100 encodings, by 0.6 MB if it keeps none). Only a process that begins so can be told to keep none; what still grows in it is ours.
KEEPS_NOTHING = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}


def some(rng) -> Sequences:
    "A batch of any size and length."
    n, V = int(rng.integers(1, 257)), int(rng.integers(1, 30))
    return Sequences(torch.randn(n, V, *SEQUENCES.frame))


def repeated(work: Callable, count: int):
    "Nothing; raises AssertionError if memory grows while `work` is done so often."
    gc.collect()
    gc.freeze()  # to look for rubbish among all that was imported would take longer than the work
    sizes, before = [], open_files()
    for i in range(count):
        work()
        if i % max(1, count // 20) == 0:
            sizes.append(resident())
    check_steady(sizes, count, (before, open_files()))


def encodings(seed: int, count: int):
    "Encodings and swaps of things of all lengths."
    torch.set_num_threads(1)
    rng, model, network = np.random.default_rng(seed), complete(), small()

    def once():
        network.encode(some(rng))
        table = people(int(rng.integers(1, 6)), int(rng.integers(8, 20)))
        model.encode(table)
        model.swap(table, table, steps=2)

    repeated(once, count)


def apart(code: str) -> subprocess.CompletedProcess:
    "What became of a line of Python that knows this module, in a process that keeps nothing but what we keep."
    code = f"from torments.long import *; {code}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    around = os.environ | KEEPS_NOTHING | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", code], env=around, capture_output=True, text=True)


def steady_encodings(rng, folder):
    "Hundreds of encodings and swaps of things of all lengths."
    ended = apart(f"encodings({int(rng.integers(10**6))}, {ENCODINGS})")
    assert ended.returncode == 0, ended.stderr
    return ENCODINGS


def notebooks_in_any_order(rng, folder):
    "Some notebooks, one after the other in any order, in one copy of the course: each runs, and changes nothing that others read."
    copy = folder / "course"
    for name in ("nbs", "diffsda", "results", "data_scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.ini", copy)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    kept = contents(copy)
    every = sorted((copy / "nbs").glob("[0-9]*.ipynb"))
    chosen = [every[i] for i in rng.permutation(len(every))[:NOTEBOOKS]]
    for path in chosen:
        run_notebook(path, folder / "executed" / path.name, {"fast": True}, progress=False)
        now = contents(copy)
        changed = [p for p in kept if now.get(p) != kept[p] and not p.startswith("results/")]
        assert not changed, f"{path.name} changed {changed}"
    return len(chosen)


TINY = """
import importlib, pkgutil, sys, tempfile
import numpy as np, pandas as pd, torch
import diffsda
lacks = {}
for module in pkgutil.iter_modules(diffsda.__path__):
    try:
        importlib.import_module(f"diffsda.{module.name}")
    except ModuleNotFoundError as error:
        lacks[module.name] = error.name
assert "diffsda" not in str(lacks.values()), lacks  # what is missing are packages of extras
g = np.random.default_rng(0)
frame = pd.DataFrame(g.normal(size=(80, 2)).cumsum(0), columns=["a", "b"])
sizes = dict(hidden=4, enc_width=4, dec_width=4, embedding=4, s_dim=2, d_dim=2, levels=2)
with tempfile.TemporaryDirectory() as folder:
    model = diffsda.fit(frame, folder=folder, window=8, steps=4, batch=4, progress=False, **sizes)
    again = diffsda.load(folder)
    assert model.encode(frame).s.equals(again.encode(frame).s)
    made = again.swap(frame, frame)
    assert made.shape[0] == len(frame) and np.isfinite(made[["a", "b"]].to_numpy()).all()
print(sys.version.split()[0], torch.__version__, sorted(lacks))
"""


def other_pythons(rng, folder):
    "Every module and a tiny fit under the Pythons that DIFFSDA_PYTHONS names (paths of interpreters with the package's requirements)."
    named = os.environ.get("DIFFSDA_PYTHONS", "").split(os.pathsep)
    found = [python for python in named if python] or [sys.executable]
    if len(found) == 1 and not Path(found[0]).exists():
        raise Missing("no such Python")
    for python in found:
        done = subprocess.run(
            [python, "-c", TINY],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{python}: {done.stderr[-3000:]}"
    return len(found)
