"""Torture: kills at random moments, inputs that nobody would type, files that somebody spoilt, places in which nothing is as usual, long work.

python tests/torture.py [PART ...] [--count 100] [--seed 0] [--case NAME] [--store]

What is done is in tests/torments, a module for each part. A case gets random numbers and an empty folder, and raises if anything
is not as promised. Each runs in a process of its own and under a limit of time, so that one that hangs or crashes is told like
one that fails, with the words that repeat it: `--seed S --only I`."""

import argparse
import inspect
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torments import ROOT, Missing, complete, files, forked, inputs, kills, long, places

from diffsda.blocks import store_rows

LIMIT = float(
    os.environ.get("TORTURE_LIMIT", 900)
)  # seconds for a case; many, since other programs may keep the processor busy


def cases_of(module: ModuleType, *named: str, without: tuple = ()) -> tuple:
    "The cases of a module: functions of (rng, folder) that it defines."
    own = inspect.getmembers(module, inspect.isfunction)
    found = {
        name: case
        for name, case in own
        if case.__module__ == module.__name__
        and tuple(inspect.signature(case).parameters) == ("rng", "folder")
    }
    return tuple(
        case for name, case in found.items() if (not named or name in named) and name not in without
    )


WORKFLOW = ("kill_workflow",)  # takes a minute
PARTS = {
    "kills": cases_of(kills, without=WORKFLOW),
    "workflow": cases_of(kills, *WORKFLOW),
    "inputs": cases_of(inputs),
    "files": cases_of(files),
    "places": cases_of(places),
    "steady": cases_of(long, "steady_training", "steady_encodings"),
    "notebooks": cases_of(long, "notebooks_in_any_order"),
    "pythons": cases_of(long, "other_pythons"),
}


class Outcome(NamedTuple):
    "How a case went."

    wrong: str = ""  # what was not as promised
    tried: int = 1  # how many things the case tried; 0: this machine lacks what it needs
    note: str = ""


def run_case(case: Callable, seed: tuple, limit: float = LIMIT) -> Outcome:
    "Runs one case in a process of its own."
    folder, report = Path(tempfile.mkdtemp(prefix="torture-")), tempfile.TemporaryFile("w+")

    def work():
        os.setsid()
        torch.set_num_threads(1)
        said, failed = "", 0
        try:
            tried = case(np.random.default_rng(seed), folder)
            said = f"{1 if tried is None else int(tried)}"
        except Missing as error:
            said = f"0 {error}"
        except BaseException:
            said, failed = traceback.format_exc(), 1
        report.write(said)
        report.flush()
        raise SystemExit(failed)

    process, end, status = forked(work), time.monotonic() + limit, None
    try:
        while status is None and time.monotonic() < end:
            done, code = os.waitpid(process, os.WNOHANG)
            status = code if done else None
            time.sleep(0 if done else 0.005)
    finally:  # with all that it has begun, also if this is stopped itself
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    if status is None:
        os.waitpid(process, 0)
        return Outcome(f"it hangs: no end after {limit:g} s")
    report.seek(0)
    said = report.read()
    tried, _, note = said.partition(" ")
    if status or not tried.isdigit():
        return Outcome(said or f"it crashed: status {status}")
    return Outcome("", int(tried), note)


def tortured(
    part: str, count: int, seed: int, only: int | None = None, named: str = ""
) -> list[dict]:
    "A row for each case of a part: how many things it tried, with how many all was well, and the seconds it took."
    cases, rows = [case for case in PARTS[part] if named in case.__name__], {}
    for i in range(count) if only is None else (only,):
        case, begun = cases[i % len(cases)], time.perf_counter()
        # another seed for each case, whatever other cases there are
        how = run_case(case, (seed, *case.__name__.encode(), i // len(cases)))
        first = {"metric": case.__name__, "cases": 0, "of": 0, "value": 0, "seconds": 0.0}
        row = rows.setdefault(case, first)
        row["cases"] += how.tried > 0
        row["of"] += how.tried
        row["value"] += 0 if how.wrong else how.tried
        row["seconds"] += time.perf_counter() - begun
        if how.note:
            print(f"not run: {case.__name__}: {how.note}", flush=True)
        if how.wrong:
            words = f" --case {named}" if named else ""
            again = f"python tests/torture.py {part} --seed {seed}{words} --only {i}"
            print(f"FAILED {case.__name__}; again: {again}\n{how.wrong}", flush=True)
    return list(rows.values())


def store(part: str, words: str, rows: list):
    "Rows into results/reliability.json, in the place of older ones of the same cases."
    shared = {
        "experiment": "torture",
        "data": part,
        "hardware": f"{platform.machine()} CPU, 1 thread",
        "command": f'make torture ARGS="{part} {words} --store"',
    }
    new = [shared | row | {"seconds": round(row["seconds"], 1)} for row in rows if row["of"]]
    same = {(part, row["metric"]) for row in new}
    former = lambda row: (row["data"], row["metric"]) in same
    store_rows(ROOT / "results" / "reliability.json", new, former)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = [part for part in PARTS if part not in ("notebooks", "pythons")]
    told = f"{', '.join(PARTS)}; default: {', '.join(usual)}"
    parser.add_argument("parts", nargs="*", metavar="PART", help=told)
    parser.add_argument("--count", type=int, default=100, help="cases of each part (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    parser.add_argument("--case", default="", metavar="NAME", help="only cases of such a name")
    parser.add_argument("--only", type=int, metavar="I", help="this case of a part alone")
    parser.add_argument("--store", action="store_true", help="keep the counts in results/")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    failed = 0
    complete()  # before all processes, which then have it
    for part in args.parts or usual:
        if not [case for case in PARTS[part] if args.case in case.__name__]:
            continue
        rows = tortured(part, args.count, args.seed, args.only, args.case)
        for row in rows:
            print(
                f"{part}: {row['metric']:24} {row['value']} of {row['of']}, {row['seconds']:.1f} s"
            )
            failed += row["of"] - row["value"]
        if args.store:
            which = f"--count {args.count}" if args.only is None else f"--only {args.only}"
            which = f"--case {args.case} {which}" if args.case else which
            store(part, f"{which} --seed {args.seed}", rows)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
