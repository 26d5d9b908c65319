"""Kills at random moments, half of them while a file is written: everything goes on, equal bit for bit, and no file is half written."""

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import prepare
import test_workflow as workflow
import torch
import yaml
from filelock import FileLock

from diffsda.blocks import change_file, read_checkpoint
from diffsda.encoder import Factors
from diffsda.model import denoising_loss
from diffsda.own import load, write_thing
from diffsda.prior import Codes, Prior, SequenceNetwork, prior_loss
from diffsda.training import TrainConfig, read_log, train
from diffsda.video import Clips
from diffsda.video_latents import encode_clips

from . import SEQUENCES, complete, contents, ended, forked, of_people, people, small

LONG = TrainConfig(8, 4, lr=1e-2, warmup=2, ema=0.9, log_every=1, save_every=2)
WRITING = ("fsync", "replace")  # of os: what every whole file goes through
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def armed(work: Callable, moment: str, count: int, number: int) -> Callable:
    "The same work, killed at the `count`th call of this function of os. A process that ends at once before fsync leaves half of the file; others may still end their step."

    def deadly(function):
        left = iter(range(count - 1, -1, -1))

        def wrapped(*args, **options):
            if next(left, -1) == 0:
                if moment == "fsync" and number == signal.SIGKILL:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), number)
            return function(*args, **options)

        return wrapped

    def begin():
        setattr(os, moment, deadly(getattr(os, moment)))
        work()

    return begin


def killed(rng, work: Callable, seconds: float, moments: tuple = WRITING) -> int:  # kills
    "Begins some work up to three times, kills it each time, half of them while it writes; then lets it end."
    struck = 0
    for _ in range(rng.integers(1, 4)):
        number = int(rng.choice(SIGNALS))
        if rng.random() < 0.5:
            moment, count = str(rng.choice(moments)), int(rng.integers(1, 7))
            process = forked(armed(work, moment, count, number))
        else:
            process = forked(work)
            time.sleep(rng.random() * seconds)
            os.kill(process, number)
        struck += ended(process) != 0
    status = ended(forked(work))
    assert status == 0, f"it does not go on: status {status}"
    return struck


def same_training(ours: Path, theirs: Path):
    "Weights, moments, running mean and log are those of the other one, bit for bit."
    (facts, tensors), (other, wanted) = (read_checkpoint(f, "training") for f in (ours, theirs))
    assert facts == other and tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[k], wanted[k]) for k in wanted), "other weights"
    told = lambda f: [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(f)]
    assert told(ours) == told(theirs)
    assert contents(ours).keys() == contents(theirs).keys(), f"left: {sorted(contents(ours))}"


def disturbed(rng, folder: Path, work: Callable, seconds: float) -> int:  # kills
    "A training that is killed is in the end what it is undisturbed."
    work(folder / "theirs")
    kills = killed(rng, lambda: work(folder / "ours"), seconds)
    same_training(folder / "ours", folder / "theirs")
    return kills


def same_files(ours: Path, theirs: Path):
    "Both folders hold the same, but for the seconds in logs."
    told = lambda folder: {k: y for k, y in contents(folder).items() if not k.endswith("log.jsonl")}
    ours, theirs = told(ours), told(theirs)
    assert ours.keys() == theirs.keys(), f"left: {sorted(ours.keys() ^ theirs.keys())}"
    other = [name for name in ours if ours[name] != theirs[name]]
    assert not other, f"other bytes in {other}"


def training(folder: Path):
    train(small(), denoising_loss, SEQUENCES, LONG, folder=folder, progress=False)


def kill_training(rng, folder):
    return disturbed(rng, folder, training, 0.5)


def prior_training(folder: Path):
    codes = Codes(Factors(SEQUENCES.x[:, 0].flatten(1)[:, :4], SEQUENCES.x.flatten(2)[..., :2]))
    torch.manual_seed(0)
    prior = Prior(SequenceNetwork(4, 2, width=8))
    prior.fit_scale(codes)
    train(prior, prior_loss, codes, LONG, folder=folder, progress=False)


def kill_prior(rng, folder):
    return disturbed(rng, folder, prior_training, 0.5)


def distillation(folder: Path):
    config = TrainConfig(8, 4, lr=1e-3, warmup=2, ema=0.9, log_every=1, save_every=2)
    options = {"lessons": 6, "sampling": {"steps": 2}, "config": config}
    small().distil(SEQUENCES, 8, folder=folder, progress=False, **options)


def kill_distillation(rng, folder):
    return disturbed(rng, folder, distillation, 0.7)


def kill_fit(rng, folder):
    "`fit` of a table: what it is about, training, worth, prior, model."
    from diffsda import disentangler

    disentangler.PRIOR = TrainConfig(6, 4, save_every=2)
    work = lambda where: of_people(folder=where, prior=True, steps=6, save_every=2)
    work(folder / "theirs")
    kills = killed(rng, lambda: work(folder / "ours"), 1.0)
    same_files(folder / "ours", folder / "theirs")
    return kills


def kill_save(rng, folder):
    "A model that gets a student, a prior and named factors is in its folder with or without them, and never broken."
    former, other = of_people(), complete()
    former.save(folder)
    kills = 0
    for _ in range(3):
        moment, count = str(rng.choice(WRITING)), int(rng.integers(1, 7))
        number = int(rng.choice(SIGNALS))
        kills += ended(forked(armed(lambda: other.save(folder), moment, count, number))) != 0
        found = load(folder)
        for name, wanted in former.network.state_dict().items():
            assert torch.equal(found.network.state_dict()[name], wanted), f"other {name}"
        assert torch.equal(found.directions.s.axes, former.directions.s.axes)
        assert np.isfinite(found.swap(people(2), people(2), steps=2)[["a", "b"]].to_numpy()).all()
    other.save(folder)
    other.save(folder / "again")
    left = set(os.listdir(folder)) - {"again"}
    assert left == set(os.listdir(folder / "again")), sorted(left)
    return kills


def kill_output(rng, folder):
    "What is written over a former file is that one until the new one is whole."
    path, made = folder / "out.csv", people(40, 40)
    people(1).to_csv(path)
    kills = killed(rng, lambda: write_thing(made, path, complete().adapter), 0.05, ("replace",))
    assert len(pd.read_csv(path)) == len(made)
    assert [*contents(folder)] == ["out.csv"], f"left: {sorted(contents(folder))}"
    return kills


def kill_preparation(rng, folder):
    "A prepared set is there whole or not at all, and nothing is left lying about."
    hours = pd.date_range("2016-07-01", periods=800, freq="h")
    values = np.random.default_rng(0).normal(size=(800, 7)).round(3)
    table = pd.DataFrame(values, columns=["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"])
    table.insert(0, "date", hours.strftime("%Y-%m-%d %H:%M:%S"))
    table.to_csv(folder / "ETTh1.csv", index=False)

    def work(where):
        with redirect_stdout(io.StringIO()):
            prepare.prepare("etth1", str(folder / "ETTh1.csv"), where)

    work(folder / "theirs")
    kills = killed(rng, lambda: work(folder / "ours"), 0.1, ("rename", "mkdir"))
    same_files(folder / "ours", folder / "theirs")
    assert [p.name for p in (folder / "ours").iterdir()] == ["etth1"], "left beside the set"
    return kills


def kill_large_preparation(rng, folder):
    "The same of arrays that take a while to write, over a set that is already there."
    arrays = {"values": np.arange(300_000.0).reshape(-1, 3), "starts": np.array([0, 100_000])}
    fetch.write(folder / "set", {"values": np.zeros(3)}, {"licence": "none"})
    fetch.write(folder / "other" / "set", arrays, {"licence": "none"})
    work = lambda: fetch.write(folder / "set", arrays, {"licence": "none"})
    kills = killed(rng, work, 0.05, ("rename", "mkdir"))
    same_files(folder / "set", folder / "other" / "set")
    assert {p.name for p in folder.iterdir()} == {"set", "other"}, sorted(os.listdir(folder))
    return kills


class Stage:
    "Stands for a first stage: latents are means of 4 x 4 pixels."

    fingerprint = "means"

    def encode(self, frames):
        return torch.nn.functional.avg_pool2d(frames.float() / 255, 4)


def kill_latents(rng, folder):
    "Clips are encoded once, and the file of latents is that of an encoding that nobody disturbed."
    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    clips = Clips(frames, [0, 20, 60])
    work = lambda name: encode_clips(clips, Stage(), folder / name, block=4, progress=False)
    work("theirs")
    kills = killed(rng, lambda: work("ours"), 0.1)
    told = lambda name: {k: v for k, v in contents(folder / name).items() if k != "index.json"}
    assert told("ours") == told("theirs")  # the index holds the folder's name
    return kills


def kill_rows(rng, folder):
    "Rows of results: each is there once, whatever was killed while it was stored."
    path = folder / "rows.json"
    with_row = lambda i, text: json.dumps(sorted({*json.loads(text or "[]"), i}))

    def add():
        for i in range(20):
            change_file(path, partial(with_row, i))

    kills = killed(rng, add, 0.02)
    assert json.loads(path.read_text()) == list(range(20))
    assert [*contents(folder)] == ["rows.json"], f"left: {sorted(contents(folder))}"
    return kills


def kill_workflow(rng, folder):
    "`make results` of two small runs and their table, killed at any moment: called again it makes the rest, and the same weights."
    workflow.notebook(folder / "nbs" / "10_run.ipynb", ("left", "right"), workflow.RUN)
    workflow.notebook(folder / "nbs" / "11_table.ipynb", ("table",), workflow.TABLE)
    kind = {"table": "table", "mem_mb": 500, "minutes": 5, "runs": [{"data": ["left", "right"]}]}
    config = {"kinds": {"tiny": kind}, "tables": {"table": {}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(workflow.CONFIG | config), encoding="utf-8")
    kills = 0
    for _ in range(rng.integers(1, 4)):
        run = workflow.snakemake(folder, "--cores", "2", start_new_session=True)
        time.sleep(rng.random() * 30)
        alone, number = rng.random() < 0.5, int(rng.choice(SIGNALS))
        if run.poll() is None:
            kills += 1
            (os.kill if alone else os.killpg)(run.pid, number)
        run.communicate()
        for name in ("left", "right"):  # kernels whose master was killed end by themselves
            if (folder / "runs" / name).is_dir():
                with FileLock(folder / "runs" / name / ".lock", timeout=120):
                    pass
        assert workflow.snakemake(folder, "--unlock").wait() == 0
    again = workflow.snakemake(folder, "--cores", "2")
    out = again.communicate()[0]
    assert again.returncode == 0, out
    same_training(folder / "runs" / "left", folder / "runs" / "right")  # one of them, or both
    rows = (folder / "results" / "table.txt").read_text().splitlines()
    assert {row.split()[0] for row in rows} == {"left", "right"}
    assert len({row.split()[-1] for row in rows}) == 1, rows
    made = sorted(p.parent.name for p in (folder / "reports").rglob("report.html"))
    assert made == ["left", "right", "table"], made
    shutil.rmtree(folder / ".snakemake")
    return kills
