"""Inputs that nobody would type, through every public door: the right answer, or one clear error."""

import io
import math
import os
import shlex
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import fetch
import numpy as np
import pandas as pd
import prepare
import torch

from diffsda import app, zoo
from diffsda.audio import Recordings
from diffsda.cli import main
from diffsda.data import Sequences
from diffsda.disentangler import Disentangler
from diffsda.encoder import Factors
from diffsda.explore import Directions
from diffsda.model import STUDENT, DiffSDA, denoising_loss
from diffsda.own import ADAPTERS, fit, load, write_thing
from diffsda.report import labels_of, report
from diffsda.tables import Tables
from diffsda.training import TrainConfig, train
from diffsda.video import Clips

from . import (
    KINDS,
    SEQUENCES,
    SIZES,
    any_value,
    check_finite,
    complete,
    contents,
    people,
    refused,
    small,
    wild_number,
)


def wild(rng, shape=None) -> torch.Tensor:
    "An array of any kind: some dimensions are empty, some numbers are none."
    shape = shape or tuple(int(n) for n in rng.choice([0, 1, 1, 2, 3, 5], rng.integers(0, 5)))
    x = torch.as_tensor(rng.normal(size=shape)).float() * float(rng.choice([0, 1, 1e20]))
    for strange in (math.nan, math.inf, -math.inf):
        if rng.random() < 0.15:
            x[torch.as_tensor(rng.random(shape) < 0.2)] = strange
    return x.to(rng.choice([torch.float32, torch.float32, torch.float64, torch.int64, torch.bool]))


def input_sequences(rng, folder):
    "Sequences, what is read of them, and their codes."
    for _ in range(40):
        x = wild(rng)
        lengths = (
            None if rng.random() < 0.5 else torch.as_tensor(rng.integers(-1, 6, rng.integers(0, 6)))
        )
        observed = None if rng.random() < 0.5 else torch.as_tensor(rng.random(tuple(x.shape)) < 0.7)
        labels = {} if rng.random() < 0.5 else {"y": wild(rng)}
        made = refused(lambda: Sequences(x, lengths, observed, labels))  # noqa: B023
        if made is not None:
            assert made.x.shape == x.shape and made.x.isfinite().all() and len(made) == len(x)
            assert made.lengths.min() >= 1 and made.lengths.max() <= x.shape[1]
    return 40


@cache
def taught() -> DiffSDA:
    return small().distil(SEQUENCES, 1, lessons=4, progress=False)


def input_model(rng, folder):
    "encode, swap, reconstruct, invert and decode, by sampler or student: right shapes and finite numbers, or a ValueError."
    for _ in range(20):
        model = taught() if rng.random() < 0.5 else small()
        some = SEQUENCES[: int(rng.integers(1, 5))]
        if rng.random() < 0.4:
            some = refused(lambda: Sequences(wild(rng))) or some
        how = {"steps": int(rng.integers(-1, 4))}
        if rng.random() < 0.5:
            how["lowest"] = float(wild_number(rng))
        if rng.random() < 0.3:
            how["guidance"] = float(wild_number(rng))
        levels = dict(how)
        if rng.random() < 0.3:
            how["solver"] = str(rng.choice([*STUDENT, "five", ""]))
        told = f"{how}, x {tuple(some.x.shape)} {some.x.dtype}"
        codes = refused(lambda: model.encode(some))  # noqa: B023
        if codes is not None:
            assert codes.s.shape == (len(some), 4) and codes.d.shape == (*some.x.shape[:2], 2)
            check_finite(codes, told)
        other = SEQUENCES[: int(rng.integers(1, 5))]
        x_T = str(rng.choice(["random", "static", "dynamic", "none", "inverted"]))
        made = refused(lambda: model.swap(some, other, x_T, **how))  # noqa: B023
        if made is not None:
            assert made.x.shape == (max(len(some), len(other)), *other.x.shape[1:]), made.x.shape
            check_finite(made, f"swap {x_T}, {told}")
        made = refused(lambda: model.reconstruct(some, x_T, **how))  # noqa: B023
        if made is not None:
            assert made.x.shape == some.x.shape
            check_finite(made, f"reconstruct {x_T}, {told}")
        levels.pop("guidance", None)
        made = refused(lambda: model.invert(other, None, **levels))  # noqa: B023
        if made is not None:
            assert made.shape == other.x.shape
            check_finite(made, f"invert {told}")
        factors = Factors(wild(rng, (2, 4)), wild(rng, (2, int(rng.integers(0, 4)), 2)))
        made = refused(lambda: model.decode(factors, None, **how))  # noqa: B023
        if made is not None:
            assert made.shape[:2] == factors.d.shape[:2]
            check_finite(made, f"decode {told}")
    return 100


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


def looked_at(model: Disentangler, thing, told: str):
    "What was fitted is asked for codes and a swap."
    check_finite(model.encode(thing), told)
    made = model.swap(thing, thing, steps=2)
    if isinstance(made, pd.DataFrame):
        check_finite(made, told)


def input_table(rng, folder):
    "`fit` of any table."
    for _ in range(3):
        frame = wild_frame(rng)
        settings = {"window": int(rng.choice([-1, 0, 1, 4, 8, 1000]))}
        for name in ("time", "group"):
            if rng.random() < 0.3:
                settings[name] = str(rng.choice([*map(str, frame.columns), "nowhere"]))
        how = {
            "modality": str(rng.choice(["", "", "table", "films"])),
            "held_out": float(rng.choice([0, 0.2, 1, -1, math.nan])),
            "steps": int(rng.choice([0, 1, 2])),
        }
        model = refused(lambda: fit(frame, batch=2, progress=False, **SIZES | settings | how))  # noqa: B023
        if model is not None:
            looked_at(model, frame, f"{settings}, {how}")
    return 3


def input_sources(rng, folder):
    "`fit` of anything: arrays, lists, clips, recordings, sequences, paths, and what is none of these."
    bytes_ = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
    n = lambda most: int(rng.integers(0, most))
    sources = {
        "array": lambda: wild(rng).numpy(),
        "tensor": lambda: wild(rng),
        "list": lambda: [rng.normal(size=(n(20), n(3))) for _ in range(n(4))],
        "dict": lambda: {str(i): rng.normal(size=(n(20), 2)) for i in range(n(4))},
        "clips": lambda: Clips(bytes_(n(30), 3, 8, 8), [0, n(15), n(30)], rate=float(n(3))),
        "clip": lambda: bytes_(n(20), n(4), 8 * n(3), 8 * n(3)),
        "recordings": lambda: Recordings(
            [torch.as_tensor(rng.normal(size=n(9000)) / 9).float() for _ in range(n(4))],
            int(rng.choice([0, 4000, 8000])),
        ),
        "sequences": lambda: SEQUENCES[: n(20)],
        "path": lambda: str(rng.choice(["", ".", "..", "/", "nowhere", "a\0b", "x" * 5000, "~"])),
        "value": lambda: any_value(rng),
    }
    for _ in range(3):
        kind = str(rng.choice([*sources]))
        source = refused(sources[kind])
        if source is None and kind != "value":
            continue
        own = {"V": n(12), "window": n(9), "size": 8 * n(3), "seconds": n(2)}
        own = {k: v for k, v in own.items() if rng.random() < 0.3}
        how = {"modality": str(rng.choice(["", "", *ADAPTERS]))}
        told = f"{kind}, {own}, {how}"
        try:
            model = refused(
                lambda: fit(source, steps=1, batch=2, progress=False, **own, **how, **SIZES)  # noqa: B023
            )
            if model is not None:
                looked_at(model, source, told)
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
    return 3


def doors(model: Disentangler, folder: Path) -> dict:  # name -> (call, good arguments)
    "What one does with a model, each with a call that works."
    table, one, two = people(), people(1), people(2).iloc[8:].reset_index(drop=True)
    made = {"seed": 0, "steps": 2, "lowest": 2.0, "guidance": 1.0}
    given, (factors, like) = partial(app.Given.of, model), model.codes(one)
    moved = lambda static, dynamic, amount, along_s, along_d: app.edited(
        model, given(static), given(dynamic), amount, along_s, along_d
    )
    quiet = {"progress": False}
    return {
        "encode": (model.encode, {"things": table}),
        "codes": (model.codes, {"things": table}),
        "decode": (model.decode, {"factors": factors, "like": like} | made),
        "reconstruct": (model.reconstruct, {"things": table} | made),
        "swap": (model.swap, {"static": one, "dynamic": table} | made),
        "swap only": (model.swap, {"static": one, "dynamic": two, "only": "kind"} | made),
        "walk": (model.walk, {"thing": one, "direction": 0, "amounts": [1.0], "code": "s"} | made),
        "morph": (model.morph, {"a": one, "b": two, "amounts": [0.5]} | made),
        "nearest": (model.nearest, {"thing": one, "among": table, "code": "s"}),
        "sample": (model.sample, {"n": 2} | made),
        "name_factors": (model.name_factors, {"labelled": table, "labels": {"kind": KINDS}}),
        "distil": (partial(model.distil, **quiet), {"things": table, "steps": 1, "lessons": 4}),
        "fit_prior": (
            partial(replace(model).fit_prior, config=TrainConfig(1, 4), **quiet),
            {"things": table},
        ),
        "save": (model.save, {"folder": folder / "saved"}),
        "load": (load, {"folder": folder / "model"}),
        "edited": (
            moved,
            {"static": one, "dynamic": two, "amount": 0.5, "along_s": (1.0,), "along_d": (0.5,)},
        ),
        "labels_of": (partial(labels_of, model), {"source": table, "labels": {"p1": "x"}}),
        "write_thing": (
            partial(write_thing, adapter=model.adapter),
            {"thing": one, "path": folder / "out.csv"},
        ),
        "kind_of": (app.kind_of, {"model": model}),
    }


def argument(rng, name: str, good, folder: Path):
    "Another value for an argument: of its own kind, but wild."
    number = lambda: wild_number(rng)
    if name in ("things", "thing", "static", "dynamic", "a", "b", "among", "labelled", "source"):
        wilds = (wild_frame(rng), any_value(rng), people(2), people(3, 20), folder / "nowhere.csv")
        return wilds[int(rng.integers(len(wilds)))]
    if name in ("folder", "path"):
        text = rng.choice(["", "f.txt", "model", "a\0b", "x" * 400, "new/er", "f.txt/in", "o.exe"])
        return folder / str(text)
    if name == "labels":
        wilds = (None, {}, {"kind": {}}, {"kind": {"p0": 1}}, {"kind": KINDS, "k": KINDS}, "nope")
        return (*wilds, {"kind": dict.fromkeys(KINDS, "x")}, {"p1": math.nan})[
            int(rng.integers(len(wilds) + 2))
        ]
    if name in ("amounts", "along_s", "along_d"):
        return [number() for _ in range(int(rng.integers(0, 4)))]
    if name in ("code", "only"):
        return str(rng.choice(["s", "d", "", "S", "kind", "x"]))
    if name == "factors":
        shapes = (good.s.shape, good.d[0].shape) if rng.random() < 0.5 else ((2, 3), (1, 2))
        return Factors(wild(rng, shapes[0]), [wild(rng, shapes[1])])
    if name == "like":
        return model_of_sequences().adapter.pieces(SEQUENCES[:2])
    if name == "model":
        return Disentangler(model_of_sequences().network, good.scale, model_of_sequences().adapter)
    if name in ("steps", "n", "lessons", "seed", "direction"):
        return (
            [-1, 0, 1, 2, 3, 7, -(2**63), 2**63, 10**30][int(rng.integers(9))]
            if (name in ("seed", "direction"))
            else int(rng.integers(-2, 5))
        )
    return number()


@cache
def model_of_sequences() -> Disentangler:
    return fit(SEQUENCES, steps=1, batch=2, progress=False, **SIZES)


def input_doors(rng, folder):
    "Everything that a model can do, with one or two arguments that are other than they should be."
    model = complete()
    model.save(folder / "model")
    (folder / "f.txt").write_text("mine")
    kept = contents(folder)
    known = doors(model, folder)
    for _ in range(25):
        name = str(rng.choice([*known]))
        call, good = known[name]
        own = dict(good)
        for key in rng.choice([*good], min(len(good), int(rng.integers(0, 3))), replace=False):
            own[str(key)] = argument(rng, str(key), good[str(key)], folder)
        told = f"{name}: { {k: str(y)[:80] for k, y in own.items() if y is not good[k]} }"
        of_files = {"folder", "path"} & own.keys()
        try:
            made = refused(lambda: call(**own), also=(OSError,) if of_files else ())  # noqa: B023
            if name != "labels_of":  # it hands on what it was told, unknown labels too
                check_finite(made, told)
        except Exception as error:
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
        if made is not None and "dynamic" in own and isinstance(made, pd.DataFrame):
            assert len(made) == len(own["dynamic"]), f"{told}: {len(made)} rows"
        if all(own[k] is good[k] for k in good):
            assert made is not None or name in ("save", "write_thing", "fit_prior"), (
                f"{told}: refused"
            )
        now = contents(folder)
        lost = [k for k, y in kept.items() if now.get(k) != y]
        changed = name == "save" and own["folder"] == folder / "model"
        assert not lost or changed or own.get("path") in (folder / x for x in lost), (
            f"{told}: {lost}"
        )
        kept = now
    return 25


def input_report(rng, folder):
    "A report of any table and any labels: a whole page, or a clear error and the former page."
    model, page = complete(), folder / "page.html"
    page.write_text("former")
    source = people(int(rng.integers(0, 5))) if rng.random() < 0.7 else wild_frame(rng)
    labels = argument(rng, "labels", None, folder) if rng.random() < 0.5 else None
    made = refused(lambda: report(model, source, page, labels, progress=False))
    text = page.read_text("utf-8")
    assert (text == "former") if made is None else text.endswith("</html>\n")


def input_training(rng, folder):
    "Settings of a training: refused before work starts, or weights that are numbers."
    for _ in range(20):
        good = {"steps": 2, "batch": 4, "lr": 1e-2, "warmup": 1, "ema": 0.5, "seed": 0}
        names = (*good, "clip", "weight_decay", "accumulate", "save_every", "log_every")
        for name in rng.choice(names, int(rng.integers(1, 4)), replace=False):
            good[str(name)] = [-1, 0, 1, 2, 0.5, 1e30, math.nan, math.inf, 2**64][
                int(rng.integers(9))
            ]
        good["schedule"] = str(rng.choice(["cosine", "constant", "published", "none"]))
        good["precision"] = str(rng.choice(["auto", "fp32", "bf16", "fp8"]))
        config = refused(lambda: TrainConfig(**good))  # noqa: B023
        if config is None or config.steps > 9 or config.batch > 99:
            continue
        model = small()
        where = folder / "training" if rng.random() < 0.2 else None
        run = partial(train, model, denoising_loss, SEQUENCES, config, folder=where, progress=False)
        try:
            history = refused(run, also=(FloatingPointError,))
        except Exception as error:
            raise AssertionError(f"{good}: {type(error).__name__}: {error}") from error
        if history is not None:
            check_finite([p.detach() for p in model.parameters()], f"weights: {good}")
    return 20


def input_zoo(rng, folder):
    "Cards and names of shipped models."
    names = [*zoo.pretrained(), "", "..", "../zoo_models", "bump/../bump", "a\0b", "x" * 300]
    full = dict.fromkeys(zoo.CARD, "told")
    for i in range(10):
        name = str(rng.choice(names))
        made = refused(lambda: zoo.card(name))  # noqa: B023
        assert (made is not None) == (name in zoo.pretrained()), name
        card = {k: y for k, y in full.items() if rng.random() < 0.9}
        made = refused(lambda: zoo.ship(small(), folder / str(i), card))  # noqa: B023
        whole = card.keys() == full.keys()
        assert (folder / str(i)).exists() == whole, "a model without a card"
        if whole:
            assert zoo.pretrained(str(i), folder).recipe() == small().recipe()
    return 20


def input_directions(rng, folder):
    "Walks along directions of codes: finite codes move to finite codes."
    for _ in range(50):
        codes = wild(rng, (int(rng.integers(0, 6)), int(rng.integers(0, 4))))
        found = refused(lambda: Directions.of(codes))  # noqa: B023
        if found is not None:
            check_finite([found.mean, found.std, found.axes, found.share], f"{codes}")
            far, i = float(wild_number(rng)), int(rng.integers(-2, 5))
            made = refused(lambda: found.move(codes, i, far))  # noqa: B023
            if made is not None and math.isfinite(far) and abs(far) < 1e9:
                check_finite(made, f"{codes} moved by {far}")
    return 50


def input_preparation(rng, folder):
    "Any file or folder in the place of a public set: refused by name, and what was prepared before stays."
    out = folder / "out"
    fetch.write(out / "etth1", {"values": np.zeros(3)}, {})
    kept = contents(out)
    bad = {
        "empty": lambda path: path.write_bytes(b""),
        "noise": lambda path: path.write_bytes(rng.bytes(300)),
        "words": lambda path: path.write_text("date,a\n2020-01-01 00:00,1\n"),
        "folder": lambda path: path.mkdir(),
        "nothing": lambda path: None,
    }
    endings = (".csv", ".zip", ".tar.gz", ".txt", ".npz", "")
    for i in range(10):
        path = folder / f"file{i}{rng.choice(endings)}"
        kind = str(rng.choice([*bad]))
        bad[kind](path)
        name = str(rng.choice([*prepare.ROOMS, "nowhere", "", "../x"]))
        try:
            with redirect_stdout(io.StringIO()):
                made = refused(
                    lambda: prepare.prepare(name, str(path), out) or "made",  # noqa: B023
                    also=(OSError,),
                )
        except Exception as error:
            told = f"{name} of {kind} {path.name}: {type(error).__name__}: {error}"
            raise AssertionError(told) from error
        assert made is None, f"{name} was made of {kind} {path.name}"
        assert contents(out) == kept, f"{name} of {kind} {path.name}: {sorted(contents(out))}"
    return 10


COMMANDS = {  # calls that work, in a folder with a table, labels and a model
    "train": "train table.csv -o new --group who --steps 1 --batch 4 --quiet "
    + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in SIZES.items()),
    "distil": "distil model table.csv --steps 1 --lessons 4 --quiet",
    "encode": "encode model table.csv -o codes",
    "encode npz": "encode model table.csv -o codes.npz",
    "reconstruct": "reconstruct model table.csv -o out.csv --levels 2 --lowest 2 --seed 3",
    "swap": "swap model --static table.csv@p0 --dynamic table.csv@p1 -o out.csv --levels 2",
    "swap only": "swap model --static table.csv@p0 --dynamic table.csv@p1 --only kind -o out.csv",
    "walk": "walk model table.csv@p3 --direction 1 --amounts -1 1 --code d -o out.csv --levels 2",
    "morph": "morph model table.csv@p3 table.csv@p4 --amounts 0.5 -o out.csv --levels 2",
    "sample": "sample model -n 2 -o out.csv --levels 2",
    "nearest": "nearest model table.csv@p1 table.csv --code s -n 3",
    "name": "name model table.csv --labels labels.csv",
    "report": "report model table.csv -o page.html --labels labels.csv --quiet",
    "app": "app model --port 0",
    "data": "data list",
    "data get": "data get etth1 --source table.csv --out prepared",
    "run": "run nowhere -p data bump -o ran --quiet",
    "refresh": "refresh nowhere.ipynb --quiet",
    "check": "check nowhere.ipynb --timeout 5",
    "handout": "handout -o course --notebooks nowhere",
    "grade": "grade folder -o course --timeout 5",
}
SELDOM = ("report", "app", "data", "data get", "train", "distil")  # they take a while
FAIL = ("data get", "run", "refresh", "check", "handout", "grade")  # as they are typed here
WORDS = (
    "--static --dynamic --only --amounts --code --seed --levels --lowest --guidance --labels --port -o -n --steps --lessons --window "
    "--time --group --d-dim --held-out --prior --quiet --recipe --nonsense -p 0 -1 1e9 nan inf 3 99999999999999999999 s d paper "
    "table.csv table.csv@p1 table.csv@nobody labels.csv model out.csv out.exe folder ../up '' <b> ä / . --help -- @ x.npz"
).split()


def input_shell(rng, folder):
    "Commands of which words are left out, exchanged or put in: status 0, 1 or 2, one line that says why, and no file lost."
    home = folder / "home"
    (home / "folder").mkdir(parents=True)
    os.chdir(home)
    people().to_csv("table.csv", index=False)
    pd.DataFrame({"name": KINDS.keys(), "kind": KINDS.values()}).to_csv("labels.csv", index=False)
    complete().save("model")
    nap = time.sleep

    def interrupted(seconds):
        nap(1)  # a server that is stopped while it starts complains at length
        raise KeyboardInterrupt

    time.sleep = interrupted
    names = [name for name in COMMANDS if name not in SELDOM]
    tried = 0
    for i in range(12):
        name = str(rng.choice(names if i % 6 else SELDOM))
        good = shlex.split(COMMANDS[name])
        words = list(good)
        for _ in range(int(rng.integers(0, 3))):
            at, way = int(rng.integers(0, len(words))), rng.random()
            fresh = [str(rng.choice(WORDS))]
            words[at : at + (way < 0.7)] = fresh if way > 0.3 else []
            words = words or fresh
        if words[0] == "refresh" and not [word for word in words if word.endswith(".ipynb")]:
            continue  # all notebooks of this clone, for an hour, is what these words mean
        before = contents(home)
        said, out = io.StringIO(), io.StringIO()
        with redirect_stderr(said), redirect_stdout(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = main(words)
            except SystemExit as error:  # argparse
                status = error.code
            except BaseException as error:
                raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error
        told = f"{words}: status {status}\n{said.getvalue()}"
        assert status in (0, 1, 2) or (words[0], status) == ("app", 130), told  # it was interrupted
        assert "Traceback" not in said.getvalue(), told
        heard = said.getvalue().strip() or out.getvalue().strip()
        heard = heard or words[:2] == ["data", "get"]  # a script of its own speaks
        assert status == 0 or heard, f"{told} no word"
        if words == good and name not in (*FAIL, "app"):
            assert status == 0, told
        after = contents(home)
        named = [w for w in words if w not in ("table.csv", "labels.csv", "model")]
        written = {w for w, option in zip(words[1:], words) if option in ("-o", "--output")}
        touched = {"model", *written} if words[0] in ("name", "distil", "train") else written
        lost = [p for p, y in before.items() if after.get(p) != y]
        lost = [p for p in lost if not any(p.startswith(t) or t.startswith(".") for t in touched)]
        lost = [p for p in lost if p not in map(os.path.basename, named) and "out" not in p]
        assert not lost or status == 0, f"{told} lost {lost}"
        if status == 0 and Path("out.csv").exists():
            check_finite(pd.read_csv("out.csv"), told)
        for p in ("out.csv", "new", "codes", "codes.npz", "page.html"):
            if Path(p).is_file():
                Path(p).unlink()
        tried += 1
    assert sorted(p.name for p in folder.iterdir()) in (["home"], ["home", "up"])
    return tried


def input_apps(rng, folder):
    "What the page of a model does with files that are dropped into it."
    model = complete()
    kind = app.kind_of(model)
    for i in range(10):
        path = folder / f"dropped{i}.csv"
        frame = people(int(rng.integers(1, 4))) if rng.random() < 0.5 else wild_frame(rng)
        frame.to_csv(path, index=False)
        things = refused(lambda: kind.things(path, model.adapter))  # noqa: B023
        if things is None:
            continue
        assert isinstance(model.adapter, Tables) and all(map(len, things.values()))
        given = refused(lambda: app.Given.of(model, next(iter(things.values()))))  # noqa: B023
        if given is not None:
            far = [float(x) for x in rng.uniform(-2, 2, 3)]
            made = app.edited(model, given, given, float(rng.random()), tuple(far[:2]), (far[2],))
            check_finite(made, f"{path}")
            figure = app.drawn(made, path, given, given, model.adapter)
            assert figure.axes
    return 10
