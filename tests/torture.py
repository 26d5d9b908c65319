"""Torture: kills at random moments, inputs that nobody would type, files that somebody spoilt.

python tests/torture.py [PART ...] [--count 100] [--seed 0] [--store]

A case gets random numbers and an empty folder, and raises if anything is not as promised. Each runs in a process of its own and under a limit
of time, so that one that hangs or crashes is told like one that fails, with the numbers that repeat it: `--seed S --only I`."""

import argparse
import io
import json
import math
import os
import platform
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_scripts"))
import fetch  # noqa: E402

from diffsda.blocks import change_file, read_checkpoint, write_checkpoint  # noqa: E402
from diffsda.data import Sequences, toy_splits  # noqa: E402
from diffsda.encoder import Factors  # noqa: E402
from diffsda.model import DiffSDA, denoising_loss  # noqa: E402
from diffsda.prior import Codes, Prior, SequenceNetwork, prior_loss  # noqa: E402
from diffsda.training import TrainConfig, read_log, train  # noqa: E402

LIMIT = 600  # seconds for a case; many, since other programs may keep the processor busy
SEQUENCES = toy_splits("bump", sizes=(24, 2, 2))[0]
LONG = TrainConfig(8, 4, lr=1e-2, warmup=2, ema=0.9, log_every=1, save_every=2)


def small(seed: int = 0) -> DiffSDA:
    torch.manual_seed(seed)
    return DiffSDA.mlp(SEQUENCES.frame, 4, 2, hidden=8, enc_width=16, dec_width=16, embedding=16)


def contents(folder: Path) -> dict:  # path -> bytes
    "All that is in a folder but locks, which hold nothing."
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.suffix != ".lock"}


def refused(call: Callable, *names: str):  # words of which each must be in the message
    "What a call gives, or None if it refuses with one clear ValueError."
    try:
        return call()
    except ValueError as error:
        text = str(error)
        assert len(text) > 10, f"a message that says nothing: {text!r}"
        missing = [name for name in names if name not in text]
        assert not missing, f"the message does not name {missing}: {text}"
        return None


# ---- kills


def forked(work: Callable) -> int:  # the process
    "Begins some work in a process of its own, which has its signals as a shell would give them."
    process = os.fork()
    if process:
        return process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        status = error.code
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def armed(work: Callable, moment: str, count: int, number: int) -> Callable:
    "The same work, killed while it writes: at the `count`th call of os.fsync, its file half written, or of os.replace."

    def deadly(function):
        left = iter(range(count - 1, -1, -1))

        def wrapped(*args, **options):
            if next(left, -1) == 0:
                if moment == "fsync":
                    os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), number)
            return function(*args, **options)

        return wrapped

    def begin():
        setattr(os, moment, deadly(getattr(os, moment)))
        work()

    return begin


def killed(rng, work: Callable, seconds: float):
    "Begins some work up to three times, kills it each time, half of them while it writes; then lets it end."
    for _ in range(rng.integers(1, 4)):
        number = int(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        if rng.random() < 0.5:
            moment, count = str(rng.choice(["fsync", "replace"])), int(rng.integers(1, 7))
            os.waitpid(forked(armed(work, moment, count, number)), 0)
        else:
            process = forked(work)
            time.sleep(rng.random() * seconds)
            os.kill(process, number)
            os.waitpid(process, 0)
    _, status = os.waitpid(forked(work), 0)
    assert status == 0, f"it does not go on: status {status}"


def training(folder: Path):
    train(small(), denoising_loss, SEQUENCES, LONG, folder=folder, progress=False)


def prior_training(folder: Path):
    codes = Codes(Factors(SEQUENCES.x[:, 0].flatten(1)[:, :4], SEQUENCES.x.flatten(2)[..., :2]))
    torch.manual_seed(0)
    prior = Prior(SequenceNetwork(4, 2, width=8))
    prior.fit_scale(codes)
    train(prior, prior_loss, codes, LONG, folder=folder, progress=False)


def same_training(rng, folder: Path, work: Callable):
    "Weights, moments, running mean and log are those of a training that nobody disturbed, bit for bit."
    ours, theirs = folder / "ours", folder / "theirs"
    work(theirs)
    killed(rng, lambda: work(ours), 0.5)
    (facts, tensors), (other, wanted) = (read_checkpoint(f, "training") for f in (ours, theirs))
    assert facts == other and tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[k], wanted[k]) for k in wanted), "other weights"
    told = lambda f: [{k: v for k, v in r.items() if k != "seconds"} for r in read_log(f)]
    assert told(ours) == told(theirs)
    assert contents(ours).keys() == contents(theirs).keys(), f"left: {sorted(contents(ours))}"


def kill_training(rng, folder):
    same_training(rng, folder, training)


def kill_prior(rng, folder):
    same_training(rng, folder, prior_training)


def kill_fit(rng, folder):
    "`fit` of a table: what it is about, training, worth, model."
    from diffsda.own import fit

    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(80, 2)).cumsum(0), columns=["a", "b"]
    )
    sizes = dict(hidden=8, enc_width=8, dec_width=8, embedding=16, s_dim=2, d_dim=2, levels=2)
    work = lambda where: fit(
        frame, folder=where, window=8, steps=6, save_every=2, batch=4, progress=False, **sizes
    )
    work(folder / "theirs")
    killed(rng, lambda: work(folder / "ours"), 1.0)
    ours, theirs = contents(folder / "ours"), contents(folder / "theirs")
    skip = "training/log.jsonl"  # it holds seconds
    assert {k: v for k, v in ours.items() if k != skip} == {
        k: v for k, v in theirs.items() if k != skip
    }


def kill_preparation(rng, folder):
    "A prepared set is there whole or not at all, and nothing is left lying about."
    arrays = {"values": np.arange(30_000.0).reshape(-1, 3), "starts": np.array([0, 10_000])}
    killed(rng, lambda: fetch.write(folder / "set", arrays, {"licence": "none"}), 0.05)
    assert sorted(p.name for p in (folder / "set").iterdir()) == [
        "index.json",
        "starts.npy",
        "values.npy",
    ]
    assert np.array_equal(np.load(folder / "set" / "values.npy"), arrays["values"])
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"set"}, sorted(os.listdir(folder))


def kill_results(rng, folder):
    "Rows of results: each is there once, whatever was killed while it was stored."
    path = folder / "rows.json"
    with_row = lambda i, text: json.dumps(sorted({*json.loads(text or "[]"), i}))

    def add():
        for i in range(20):
            change_file(path, partial(with_row, i))

    killed(rng, add, 0.02)
    assert json.loads(path.read_text()) == list(range(20))
    assert [*contents(folder)] == ["rows.json"], f"left: {sorted(contents(folder))}"


class Stage:
    "Stands for a first stage: latents are means of 4 x 4 pixels."

    fingerprint = "means"

    def encode(self, frames):
        return torch.nn.functional.avg_pool2d(frames.float() / 255, 4)


def kill_latents(rng, folder):
    "Clips are encoded once, and the file of latents is that of an encoding that nobody disturbed."
    from diffsda.video import Clips
    from diffsda.video_latents import encode_clips

    frames = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    clips = Clips(frames, [0, 20, 60])
    work = lambda name: encode_clips(clips, Stage(), folder / name, block=4, progress=False)
    work("theirs")
    killed(rng, lambda: work("ours"), 0.1)
    ours, theirs = contents(folder / "ours"), contents(folder / "theirs")
    assert ours.keys() == theirs.keys(), sorted(ours)
    assert ours["frames.npy"] == theirs["frames.npy"]


def full_disk(rng, folder):
    "A training whose disk is full ends with an OSError, keeps its last checkpoint, and goes on once there is room."
    training(folder / "theirs")
    room = int(rng.integers(1, 60)) * 1000  # bytes that a file may have

    def crowded():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        try:
            training(folder / "ours")
        except OSError:
            return

    _, status = os.waitpid(forked(crowded), 0)
    assert status == 0, "another error than OSError"
    training(folder / "ours")
    (_, ours), (_, theirs) = (read_checkpoint(folder / f, "training") for f in ("ours", "theirs"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert contents(folder / "ours").keys() == contents(folder / "theirs").keys()


def changed_between(rng, folder):
    "Other data, another model or other settings in the folder of a training are named, and it stays as it is."
    training(folder)
    before = contents(folder)
    config = TrainConfig(**vars(LONG) | {"seed": 1})
    calls = {
        "training sequences": (small(), SEQUENCES[:20], LONG),
        "seed": (small(), SEQUENCES, config),
        "another model": (
            DiffSDA.mlp(SEQUENCES.frame, 5, 2, 8, 16, 16, embedding=16),
            SEQUENCES,
            LONG,
        ),
    }
    for name, (model, data, how) in calls.items():
        again = partial(train, model, denoising_loss, data, how, folder=folder, progress=False)
        made = refused(again, name)
        assert made is None, f"{name} was not noticed"
    assert contents(folder) == before


# ---- inputs


def wild(rng, shape=None) -> torch.Tensor:
    "An array of any kind: some dimensions are empty, some numbers are none."
    shape = shape or tuple(int(n) for n in rng.choice([0, 1, 1, 2, 3, 5], rng.integers(0, 5)))
    x = torch.as_tensor(rng.normal(size=shape)).float() * float(rng.choice([0, 1, 1e20]))
    for strange in (math.nan, math.inf, -math.inf):
        if rng.random() < 0.15:
            x[torch.as_tensor(rng.random(shape) < 0.2)] = strange
    return x.to(rng.choice([torch.float32, torch.float32, torch.float64, torch.int64, torch.bool]))


def input_sequences(rng, folder):
    x = wild(rng)
    lengths = (
        None if rng.random() < 0.5 else torch.as_tensor(rng.integers(-1, 6, rng.integers(0, 6)))
    )
    observed = None if rng.random() < 0.5 else torch.as_tensor(rng.random(tuple(x.shape)) < 0.7)
    labels = {} if rng.random() < 0.5 else {"y": wild(rng)}
    made = refused(lambda: Sequences(x, lengths, observed, labels))
    if made is not None:
        assert made.x.shape == x.shape and made.x.isfinite().all() and len(made) == len(x)
        assert made.lengths.min() >= 1 and made.lengths.max() <= x.shape[1]


def input_model(rng, folder):
    "encode, swap, reconstruct and decode: right shapes and finite numbers, or a ValueError."
    model, some = small(), SEQUENCES[: int(rng.integers(1, 5))]
    if rng.random() < 0.4:
        some = refused(lambda: Sequences(wild(rng))) or some
    how = {"steps": int(rng.integers(-1, 4))}
    if rng.random() < 0.5:
        how["lowest"] = float(rng.choice([-1.0, 0.0, 0.002, 2.0, 80.0, 1e9, math.nan, math.inf]))
    if rng.random() < 0.3:
        how["guidance"] = float(rng.choice([-3.0, 0.0, 1.0, 2.0, 1e30, math.nan]))
    codes = refused(lambda: model.encode(some))
    if codes is not None:
        assert codes.s.shape == (len(some), 4) and codes.d.shape == (*some.x.shape[:2], 2)
        assert codes.s.isfinite().all() and codes.d.isfinite().all()
    other = SEQUENCES[: int(rng.integers(1, 5))]
    x_T = str(rng.choice(["random", "static", "dynamic", "none"]))
    made = refused(lambda: model.swap(some, other, x_T, **how))
    if made is not None:
        assert made.x.shape == (max(len(some), len(other)), *other.x.shape[1:]), made.x.shape
        assert made.x.isfinite().all(), f"swap made no numbers: {x_T}, {how}"
    factors = Factors(wild(rng, (2, 4)), wild(rng, (2, int(rng.integers(0, 4)), 2)))
    made = refused(lambda: model.decode(factors, None, **how))
    if made is not None:
        assert made.shape[:2] == factors.d.shape[:2] and made.isfinite().all(), f"decode: {how}"


def wild_frame(rng) -> pd.DataFrame:
    "A table as people have them, and worse."
    rows = int(rng.choice([0, 1, 7, 30, 60]))
    kinds = {
        "number": lambda: rng.normal(size=rows),
        "constant": lambda: np.zeros(rows),
        "holes": lambda: np.where(rng.random(rows) < 0.3, np.nan, rng.normal(size=rows)),
        "nothing": lambda: np.full(rows, np.nan),
        "endless": lambda: np.where(rng.random(rows) < 0.1, np.inf, 1.0),
        "words": lambda: rng.choice(["a", "", "<b>", "1,5", "ä"], rows),
        "dates": lambda: pd.date_range("2020-01-01", periods=rows, freq="h").astype(str),
        "huge": lambda: rng.normal(size=rows) * 1e300,
        "whole": lambda: rng.integers(-(2**62), 2**62, rows),
        "truth": lambda: rng.random(rows) < 0.5,
    }
    chosen = rng.choice([*kinds], int(rng.integers(0, 5)))
    frame = pd.DataFrame({f"{k}{i}": kinds[k]() for i, k in enumerate(chosen)}, index=range(rows))
    if len(chosen) > 1 and rng.random() < 0.1:
        frame.columns = ["twice"] * len(chosen)
    return frame


def input_table(rng, folder):
    "`fit` of any table, then what it made is asked for codes and a swap."
    from diffsda.own import fit

    frame = wild_frame(rng)
    settings = {"window": int(rng.choice([-1, 0, 1, 4, 8, 1000]))}
    for name in ("time", "group"):
        if rng.random() < 0.3:
            settings[name] = str(rng.choice([*map(str, frame.columns), "nowhere"]))
    sizes = dict(hidden=4, enc_width=4, dec_width=4, embedding=4, s_dim=2, d_dim=2, levels=2)
    model = refused(
        lambda: fit(
            frame,
            modality=str(rng.choice(["", "", "table", "films"])),
            held_out=float(rng.choice([0, 0.2, 1, -1, math.nan])),
            steps=int(rng.choice([0, 1, 2])),
            batch=2,
            progress=False,
            **sizes | settings,
        )
    )
    if model is None:
        return
    codes = model.encode(frame)
    assert all(np.isfinite(code.to_numpy()).all() for code in codes)
    made = model.swap(frame, frame)
    assert np.isfinite(made.select_dtypes("number").to_numpy(float)).all()


WORDS = (
    "train encode reconstruct swap walk morph sample nearest report data get --static --dynamic --amounts --code --seed --levels --lowest "
    "-o -n --steps --window --time --group --d-dim --held-out --prior --quiet --recipe --nonsense -p 0 -1 1e9 nan 3 s d paper "
    "table.csv table.csv@a model out.csv out folder ../up '' <b> ä / . --help"
).split()


def input_shell(rng, folder):
    "Any words after `diffsda`: status 0, 1 or 2, and one line that says why."
    from diffsda.cli import main

    os.chdir(folder)
    pd.DataFrame({"x": np.arange(40.0) % 7, "y": np.arange(40.0) % 5}).to_csv(
        "table.csv", index=False
    )
    Path("folder").mkdir()
    words = [str(word) for word in rng.choice(WORDS, int(rng.integers(0, 9)))]
    if "train" in words:  # so that it is short
        words += "--steps 1 --window 8 --hidden 4 --enc-width 4 --dec-width 4 --embedding 4".split()
    said, out = io.StringIO(), io.StringIO()
    with redirect_stderr(said), redirect_stdout(out):
        try:
            status = main(words)
        except SystemExit as error:  # argparse
            status = error.code
    told = f"{words}: status {status}\n{said.getvalue()}"
    assert status in (0, 1, 2), told
    assert "Traceback" not in said.getvalue(), told
    assert status == 0 or said.getvalue().strip() or out.getvalue().strip(), (
        f"{told} and no word why"
    )


# ---- files


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
    model = small()
    model.save(folder / "model")
    told = spoil(rng, rng.choice(sorted((folder / "model").iterdir())))
    loaded = refused(lambda: DiffSDA.load(folder / "model"), "model")
    if loaded is not None:
        a, b = model.state_dict(), loaded.state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a), f"other weights were loaded: {told}"


def file_exchanged(rng, folder):
    "The weights of another model under this one's name: refused."
    for seed, name in enumerate(("model", "other")):
        small(seed).save(folder / name)
    ours, theirs = (next((folder / name).glob("*.safetensors")) for name in ("model", "other"))
    shutil.copy(theirs, ours if rng.random() < 0.5 else ours.with_name(theirs.name))
    loaded = refused(lambda: DiffSDA.load(folder / "model"), "model")
    if loaded is not None:  # it lay there under its own name, which nothing asks for
        assert all(torch.equal(a, b) for a, b in zip(small().parameters(), loaded.parameters()))


def any_value(rng):
    return [None, -1, 0, 10**30, 0.5, math.nan, "", "x" * 1000, [], {}, [1, "a"], True][
        int(rng.integers(12))
    ]


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
    from diffsda.own import fit, load

    frame = pd.DataFrame({"a": np.arange(40.0) % 7, "b": np.arange(40.0) % 5})
    sizes = dict(hidden=4, enc_width=4, dec_width=4, embedding=4, s_dim=2, d_dim=2, levels=2)
    fit(frame, folder=folder / "model", window=8, steps=1, batch=2, progress=False, **sizes)
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


def without(folder: Path, name: str) -> tuple[dict, dict]:
    facts, tensors = read_checkpoint(folder, name)
    return {k: v for k, v in facts.items() if k != "weights"}, tensors


def file_table(rng, folder):
    "Spoilt tables are read, or refused by name."
    from diffsda.tables import read_table

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


def file_sound(rng, folder):
    "Spoilt recordings are read as finite numbers, or refused by name."
    import soundfile

    from diffsda.audio import read_recording

    path = folder / f"voice{rng.choice(['.wav', '.flac', '.ogg'])}"
    soundfile.write(path, 0.5 * np.sin(np.arange(8000) / 9), 8000)
    for _ in range(10):
        content = path.read_bytes()
        told = spoil(rng, path)
        wave = refused(lambda: read_recording(path, 8000), path.name)
        assert wave is None or (wave.isfinite().all() and wave.ndim == 1), told
        path.write_bytes(content)


def file_images(rng, folder):
    "Spoilt images are read as bytes of their size, or refused by name."
    from diffsda.video import read_clip

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


def file_bomb(rng, folder):
    "An image of a few bytes that says it has billions of pixels is refused by name, before it is unpacked."
    from diffsda.video import read_clip

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
    from diffsda.video import read_clip, write_film

    path = folder / "film.mp4"
    write_film(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), path, 25.0)
    for _ in range(5):
        content = path.read_bytes()
        told = spoil(rng, path)
        clip = refused(lambda: read_clip(path), path.name)
        assert clip is None or clip.shape[1:] == (3, *clip.shape[2:]), told
        path.write_bytes(content)


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


def file_names(rng, folder):
    "Names and labels that would be a script in a page are shown as text in a report."
    from diffsda.own import fit
    from diffsda.report import report

    evil = str(rng.choice(["<script>x</script>", '"><img src=x onerror=y>', "<b onmouseover='z'>"]))
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(96, 2)), columns=[f"a {evil}", "b"])
    frame["who"] = np.repeat([f"{i} {evil}" for i in range(4)], 24)
    sizes = dict(hidden=4, enc_width=4, dec_width=4, embedding=4, s_dim=2, d_dim=2, levels=2)
    model = fit(frame, group="who", window=8, steps=1, batch=2, progress=False, **sizes)
    kinds = {f"{i} {evil}": f"kind {i % 2} {evil}" for i in range(4)}
    page = report(model, frame, folder / "page.html", kinds, progress=False).read_text("utf-8")
    assert evil not in page, f"not escaped: {page[max(0, page.find(evil) - 80) :][:160]}"


PARTS = {
    "kills": (
        *(kill_training, kill_prior, kill_fit, kill_preparation, kill_results, kill_latents),
        *(full_disk, changed_between),
    ),
    "inputs": (input_sequences, input_model, input_table, input_shell),
    "files": (
        *(file_model, file_exchanged, file_facts, file_table, file_sound, file_images),
        *(file_bomb, file_film, file_archive, file_names),
    ),
}

# ---- running them


def run_case(
    case: Callable, seed: tuple, limit: float = LIMIT
) -> str:  # what went wrong; empty: nothing
    "Runs one case in a process of its own."
    folder, report = Path(tempfile.mkdtemp(prefix="torture-")), tempfile.TemporaryFile("w+")

    def work():
        os.setsid()
        torch.set_num_threads(1)
        try:
            case(np.random.default_rng(seed), folder)
        except BaseException:
            report.write(traceback.format_exc())
            report.flush()
            raise SystemExit(1) from None

    process, end, status = forked(work), time.monotonic() + limit, None
    while status is None and time.monotonic() < end:
        done, code = os.waitpid(process, os.WNOHANG)
        status = code if done else None
        time.sleep(0 if done else 0.005)
    if status is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return f"it hangs: no end after {limit:g} s"
    shutil.rmtree(folder, ignore_errors=True)
    report.seek(0)
    return report.read() or (f"it crashed: status {status}" if status else "")


def tortured(part: str, count: int, seed: int, only: int | None = None) -> list[dict]:
    "A row for each case of a part: how often it ran, how often all was well, and the seconds it took."
    cases, rows = PARTS[part], {}
    for i in range(count) if only is None else (only,):
        case, begun = cases[i % len(cases)], time.perf_counter()
        wrong = run_case(case, (seed, [*PARTS].index(part), i))
        row = rows.setdefault(case, {"metric": case.__name__, "of": 0, "value": 0, "seconds": 0.0})
        row["of"] += 1
        row["value"] += not wrong
        row["seconds"] += time.perf_counter() - begun
        if wrong:
            again = f"python tests/torture.py {part} --seed {seed} --only {i}"
            print(f"FAILED {case.__name__}; again: {again}\n{wrong}", flush=True)
    return list(rows.values())


def store(part: str, words: str, rows: list):
    "Rows into results/reliability.json, in the place of older ones of the same cases."
    shared = {
        "experiment": "torture",
        "data": part,
        "hardware": f"{platform.machine()} CPU, 1 thread",
        "command": f'make torture ARGS="{part} {words} --store"',
    }
    new = [shared | row | {"seconds": round(row["seconds"], 1)} for row in rows]

    def with_ours(text):
        case = lambda row: (row["data"], row["metric"])
        others = [row for row in json.loads(text or "[]") if case(row) not in set(map(case, new))]
        return json.dumps(others + new, indent=1) + "\n"

    change_file(ROOT / "results" / "reliability.json", with_ours)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--count", type=int, default=100, help="cases of each part (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    parser.add_argument("--only", type=int, metavar="I", help="this case of a part alone")
    parser.add_argument("--store", action="store_true", help="keep the counts in results/")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    failed = 0
    for part in args.parts or PARTS:
        rows = tortured(part, args.count, args.seed, args.only)
        for row in rows:
            print(
                f"{part}: {row['metric']:20} {row['value']} of {row['of']}, {row['seconds']:.1f} s"
            )
            failed += row["of"] - row["value"]
        if args.store:
            which = f"--count {args.count}" if args.only is None else f"--only {args.only}"
            store(part, f"{which} --seed {args.seed}", rows)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
