"""What is done to the package: a module for each kind of torment. Here is what they share.

A case gets random numbers and an empty folder, and raises if anything is not as promised. It returns how many things it
tried (None: one), and raises Missing if this machine lacks what it needs."""

import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import RLock

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from diffsda.data import Sequences, toy_splits
from diffsda.disentangler import Disentangler
from diffsda.model import DiffSDA
from diffsda.own import fit
from diffsda.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
for room in (ROOT / "data_scripts", ROOT / "tests"):
    sys.path.insert(0, str(room))

SEQUENCES = toy_splits("bump", sizes=(24, 2, 2))[0]
SIZES = dict(hidden=4, enc_width=4, dec_width=4, embedding=4, s_dim=2, d_dim=2, levels=2)


class Missing(Exception):
    "This machine lacks what a case needs; it is not counted."


def small(seed: int = 0) -> DiffSDA:
    torch.manual_seed(seed)
    return DiffSDA.mlp(SEQUENCES.frame, 4, 2, hidden=8, enc_width=16, dec_width=16, embedding=16)


def people(count: int = 12, rows: int = 8) -> pd.DataFrame:
    "A table of several people of two kinds, each with a row for every step."
    g = np.random.default_rng(0)
    kind = 6.0 * (np.arange(count) % 2)
    values = g.normal(size=(count, rows, 2)) + kind[:, None, None]
    frame = pd.DataFrame(values.reshape(-1, 2), columns=["a", "b"])
    frame["who"] = np.repeat([f"p{i}" for i in range(count)], rows)
    return frame


KINDS = {f"p{i}": "xy"[i % 2] for i in range(12)}


def of_people(**options) -> Disentangler:  # options of `fit`
    "A model of people, barely trained."
    how = {"group": "who", "steps": 2, "batch": 4, "progress": False} | SIZES
    return fit(people(), **how | options)


@cache
def complete() -> Disentangler:
    "A model of people with all that a model can have: a prior, a student, named factors."
    model = of_people().distil(people(), 1, lessons=4, progress=False)
    model.fit_prior(people(), TrainConfig(2, 4), progress=False)
    model.name_factors(people(), {"kind": KINDS})
    return model


def contents(folder: Path) -> dict:  # path -> bytes
    "All that is in a folder but locks, which hold nothing."
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.suffix != ".lock"}


def refused(call: Callable, *names: str, also: tuple = ()):  # words of which each must be said
    "What a call gives, or None if it refuses with one clear ValueError (or one of the errors in `also`)."
    try:
        return call()
    except (ValueError, *also) as error:
        text = str(error)
        assert len(text) > 10, f"a message that says nothing: {text!r}"
        missing = [name for name in names if name not in text]
        assert not missing, f"the message does not name {missing}: {text}"
        return None


def forked(work: Callable) -> int:  # the process
    "Begins some work in a process of its own, which has its signals as a shell would give them."
    stops = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # they wait until the new process has its own
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
        return process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tqdm.set_lock(RLock())  # not the one that a killed process may have taken with it
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
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


def ended(process: int) -> int:
    "The status of a process once it is over; negative: the signal that ended it."
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def numbers_in(made) -> Iterator[np.ndarray]:
    "All numbers of what a door gave, however it is wrapped."
    if isinstance(made, torch.Tensor):
        yield made.detach().numpy()
    elif isinstance(made, pd.DataFrame | pd.Series):
        yield pd.DataFrame(made).select_dtypes("number").to_numpy(float)
    elif isinstance(made, Sequences):
        yield made.x.numpy()
    elif isinstance(made, np.ndarray | float):
        yield np.asarray(made)
    elif isinstance(made, list | tuple | dict):
        for part in made.values() if isinstance(made, dict) else made:
            yield from numbers_in(part)


def check_finite(made, told: str):
    assert all(np.isfinite(x).all() for x in numbers_in(made)), f"no numbers: {told}"


def wild_number(rng):
    return [-1, 0, 1, 2, 3, 10**30, -0.5, 0.5, 2.0, 80.0, 1e30, math.nan, math.inf, -math.inf][
        int(rng.integers(14))
    ]


def any_value(rng):
    return [None, -1, 0, 10**30, 0.5, math.nan, "", "x" * 1000, [], {}, [1, "a"], True][
        int(rng.integers(12))
    ]
