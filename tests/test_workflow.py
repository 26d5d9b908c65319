"""The workflow behind `make results`: what it lists, that a kill costs nothing, and that runs at one time lose none of each other's rows."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from filelock import FileLock

from diffsda.blocks import change_file, put_between, read_rows, store_rows, store_runs
from diffsda.encoder import RECIPES

ROOT = Path(__file__).resolve().parent.parent
CONFIG = yaml.safe_load((ROOT / "workflow" / "config.yaml").read_text(encoding="utf-8"))
SNAKEMAKE = [str(Path(sys.executable).parent / "snakemake"), "-s", ROOT / "workflow" / "Snakefile"]

RUN = """
import os
import time
from functools import cache
from pathlib import Path
import torch
from torch import nn
from diffsda.blocks import change_file, store_rows
from diffsda.data import toy_splits
from diffsda.loss import LossSum
from diffsda.training import TrainConfig, train

def told(line):
    change_file("../results/rows.txt", lambda text: text + f"{data} {line}\\n")

def loss(model, batch):
    error = (model(batch.x) - batch.x).square()
    return LossSum(error.sum(), torch.tensor(error.numel()))

def look(record):
    told(f"step {record['step']}")
    while data == "right" and record["step"] == 5 and Path("../stay").exists():
        time.sleep(0.05)

torch.manual_seed(seed)
sequences = toy_splits("bump", sizes=(20, 2, 2))[0]
model = nn.Linear(sequences.x.shape[-1], sequences.x.shape[-1])
config = TrainConfig(8, 4, log_every=1, save_every=4)
train(model, loss, sequences, config, folder=f"../runs/{data}", callbacks=(look,), progress=False)
told(f"gpu {os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}")
told(f"weights {model.weight.sum().item():.9f}")
"""

TABLE = """
from pathlib import Path
rows = Path("../results/rows.txt").read_text().splitlines()
Path("../results/table.txt").write_text("\\n".join(row for row in rows if "weights" in row))
"""


def notebook(path, data, code):
    form = f'data = "{data[0]}"  # one of: {", ".join(data)}\nseed = 0\nfast = True'
    cells = [nbformat.v4.new_code_cell(form, metadata={"tags": ["parameters"]})]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)]), path)


def snakemake(folder, *words, **options):
    return subprocess.Popen(
        [*SNAKEMAKE, "--directory", folder, "--configfile", folder / "config.yaml", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},  # where the locks of GPUs are
        **options,
    )


@pytest.fixture
def tiny(tmp_path):
    "Two runs of one kind and their table."
    notebook(tmp_path / "nbs" / "10_run.ipynb", ("left", "right"), RUN)
    notebook(tmp_path / "nbs" / "11_table.ipynb", ("table",), TABLE)
    kind = {"table": "table", "mem_mb": 500, "minutes": 5, "runs": [{"data": ["left", "right"]}]}
    config = CONFIG | {"kinds": {"tiny": kind}, "tables": {"table": {}}, "gpus": "6,7"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path


def told(folder, name):
    path = folder / "results" / "rows.txt"
    rows = path.read_text().splitlines() if path.exists() else []
    return [row.removeprefix(name + " ") for row in rows if row.startswith(name)]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_makes_nothing_twice(tiny):
    (tiny / "stay").touch()
    first = snakemake(tiny, "--cores", "2", start_new_session=True)
    reports = {
        name: tiny / "reports/results/tiny" / name / "report.html" for name in ("left", "right")
    }
    at_work = lambda: len(list((tiny / ".snakemake" / "incomplete").glob("*")))  # runs under way
    while not (reports["left"].exists() and at_work() == 1 and "step 5" in told(tiny, "right")):
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    with FileLock(tiny / "runs" / "right" / ".lock", timeout=60):  # its kernel ends by itself
        (tiny / "stay").unlink()
    made = reports["left"].stat().st_mtime_ns
    assert not reports["right"].exists()

    assert snakemake(tiny, "--unlock").wait() == 0
    again = snakemake(tiny, "--cores", "2")
    out = again.communicate()[0]
    assert again.returncode == 0, out
    assert reports["left"].stat().st_mtime_ns == made
    eight = [f"step {i}" for i in range(1, 9)]
    assert told(tiny, "left")[:8] == eight and len(told(tiny, "left")) == 10
    # of right the checkpoint of step 4 was kept: step 5 came again, nothing before it
    assert told(tiny, "right")[:9] == eight[:5] + eight[4:]
    assert told(tiny, "left")[-1] == told(tiny, "right")[-1]  # weights, with and without a kill
    assert len((tiny / "results" / "table.txt").read_text().splitlines()) == 2
    assert told(tiny, "left")[-2] in ("gpu 6", "gpu 7") and told(tiny, "right")[-2] == "gpu 6"


@pytest.mark.slow
def test_the_notebooks_behind_the_tables_run_in_it(tmp_path):
    """Copies of the real ones, a few steps on a toy: runs store rows under the command that was called, a page reads them."""
    for file in ("nbs/47_rivals.ipynb", "nbs/48_ablations.ipynb", "results/recipes.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    toy = {"data": "bump", "steps": 4}
    runs = {
        "rivals": {"experiment": "rivals", **toy, "methods": "mean frame"},
        "ablations": {
            "experiment": "ablations",
            **toy,
            "ablations": "direction",
            "recipes": "paper",
        },
    }
    kinds = {  # one page behind both: the other one's takes half a minute
        name: {"table": "ablations", "mem_mb": 500, "minutes": 5, "runs": [run]}
        for name, run in runs.items()
    }
    config = CONFIG | {"kinds": kinds, "tables": {"ablations": {"fast": True}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    first = snakemake(tmp_path, "--cores", "1")
    out = first.communicate()[0]
    assert first.returncode == 0, out
    found = {name: read_rows(tmp_path / "results" / f"{name}.json") for name in runs}
    assert {row["method"] for row in found["rivals"]} == {"the judge", "mean frame"}
    assert {row["setting"] for row in found["ablations"]} == {"real sequences", "base", "causal"}
    lines = [line for line in out.splitlines() if line.startswith("Shell command: ")]
    words = [shlex.split(line)[4:] for line in lines if " -o " in line]
    calls = [parameters_in(call[: call.index("-o")]) for call in words]
    for row in found["rivals"] + found["ablations"]:
        notebook, asked = parameters_in(shlex.split(row["command"])[2:])
        del asked["methods" if notebook == "47_rivals" else "ablations"]  # of which it is one
        assert is_called(notebook, asked, calls), row["command"]
    again = snakemake(tmp_path, "--cores", "1")
    assert "Nothing to be done" in again.communicate()[0]


def test_runs_that_store_rows_at_the_same_time_lose_none(tmp_path):
    path = tmp_path / "new" / "rows.json"

    def add(name):
        def with_one_more(text):
            rows = json.loads(text or "[]")
            time.sleep(0.001)  # long enough for another one to read the same rows
            return json.dumps([*rows, name])

        for _ in range(25):
            change_file(path, with_one_more)

    runs = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    [run.start() for run in runs]
    [run.join() for run in runs]
    assert sorted(json.loads(path.read_text())) == sorted("abcd" * 25)


def test_what_a_killed_run_left_beside_its_rows_is_cleared_away(tmp_path):
    (tmp_path / ".rows.json.123").write_text("[half")
    change_file(tmp_path / "rows.json", lambda text: text + "[]")
    assert {p.name for p in tmp_path.iterdir()} == {"rows.json", ".rows.json.lock"}


@pytest.mark.parametrize(
    "text",
    ["no marks", "<!-- end of t --> <!-- t -->", "<!-- t --> <!-- t --> <!-- end of t -->"],
)
def test_a_table_is_put_between_its_two_marks_or_nothing_is_changed(text, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- t -->\nold\n<!-- end of t -->\nb\n")
    put_between(path, "t", "new\nrows")
    assert path.read_text() == "a\n<!-- t -->\nnew\nrows\n<!-- end of t -->\nb\n"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold <!-- t --> and then <!-- end of t -->"):
        put_between(path, "t", "new")
    assert path.read_text() == text


def test_new_rows_stand_where_the_former_stood(tmp_path):
    path = tmp_path / "rows.json"
    for name in "abca":
        store_rows(
            path,
            [{"data": name}, {"data": name, "more": 1}],
            lambda old, name=name: old["data"] == name,
        )
    assert [row["data"] for row in json.loads(path.read_text())] == list("aabbcc")


def test_runs_that_differ_in_their_seed_share_a_row(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"metric": "of another day", "value": 7}]')
    shared = {"metric": "error", "steps": 5, "command": "run it -p seed {seed}", "paper": None}
    row = lambda seed, value, machine="a CPU", **other: (
        shared | {"seed": seed, "value": value, "hardware": machine} | other
    )
    store_runs(path, [row(0, 0.123456789), row(0, 9.0, steps=6), row(0, float("nan"), metric="no")])
    other, first, longer = json.loads(path.read_text())
    assert other == {"metric": "of another day", "value": 7} and "seed" not in first
    assert first["values"] == {"0": 0.12346} and (first["std"], first["seeds"]) == (0.0, 1)
    assert first["command"] == "run it -p seed 0" and longer["values"] == {"0": 9.0}
    store_runs(path, [row(2, 0.3, "a GPU")])
    store_runs(path, [row(0, 0.1), row("ada", 0.2, metric="rate")])
    _, both, _, ada = json.loads(path.read_text())
    assert both["values"] == {"0": 0.1, "2": 0.3} and both["hardware"] == "a CPU; a GPU"
    assert (both["value"], both["std"], both["seeds"]) == (0.2, 0.1, 2)
    assert both["command"] == "for seed in 0 2; do run it -p seed $seed; done"
    assert both["machines"] == {"0": "a CPU", "2": "a GPU"} and "machines" not in first
    store_runs(path, [row(2, 0.3), row(10, 0.2)])
    _, again, *_ = json.loads(path.read_text())
    assert again["hardware"] == "a CPU" and "machines" not in again
    assert again["command"].startswith("for seed in 0 2 10;")
    assert ada["values"] == {"ada": 0.2} and ada["command"] == "run it -p seed ada"


def test_rows_of_several_runs_are_kept_and_those_of_the_same_run_give_way(tmp_path):
    path = tmp_path / "rows.json"
    row = lambda name, value: {"data": name, "value": value}

    def add(name):
        for value in range(25):
            store_rows(path, [row(name, value)], lambda old: old["data"] == name)

    runs = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    [run.start() for run in runs]
    [run.join() for run in runs]
    kept = json.loads(path.read_text())
    assert sorted(kept, key=str) == [row(name, 24) for name in "abcd"]


@pytest.fixture(scope="module")
def listed():
    "The calls of `diffsda` that a fresh clone is missing, as lists of words."
    plan = subprocess.run(
        [*SNAKEMAKE, "-n", "--cores", "1", "--forceall"], cwd=ROOT, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    lines = (plan.stdout + plan.stderr).splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("Shell command: ")]


def test_every_run_and_table_that_is_listed_can_be_called(listed, monkeypatch):
    from diffsda import cli

    monkeypatch.setattr(cli, "parameters_of", cache(cli.parameters_of))  # reading takes a while
    runs = [words[2:] for words in listed if words[1:2] == ["run"]]
    assert len(runs) == len(set(map(tuple, runs))) > 100
    for name, *words in runs:
        experiment, _ = cli.find_experiment(name, ROOT / "nbs")
        pairs = words[: words.index("-o")]
        assert pairs[::3] == ["-p"] * (len(pairs) // 3)
        cli.check_parameters(
            experiment.notebook, dict(zip(pairs[1::3], map(cli.parse_value, pairs[2::3])))
        )


GROUPS = {  # of trials, as 17_capacity calls them
    "length": "half first, by itself",
    "parts": "first quarter alone, first quarter and noise, first quarter and withheld, withheld alone",
    "leak": "held, apart, residual, rising, rate, read back, apart 128 a step, read back 128 a step, "
    "read back seventh first, read back seventh first noise 0.05",
}
SOME_OF = ("methods", "ablations", "recipes", "trials", "afterwards")  # lists of names
WHOLE = {("recipes", ""), *((name, "all") for name in SOME_OF)}
WIDER = {  # what a row's command says -> what a call that makes the row may say instead
    ("protocol", "correct"): "both",
    ("protocol", "published"): "both",
    ("brief", True): False,
    ("seconds", 0.8): 0.0,  # 0 is the preset's; the first rows of voices spelt out its 0.8
}
OF_ITS_OWN = {
    "17_capacity": ("trials", "afterwards")
}  # rows of these name them, as others need not


def names_in(text):
    "The names in a list of trials, or of others, in pieces: some names hold a comma."
    entries = re.split("[,;] ", text)
    return {name for entry in entries for name in GROUPS.get(entry, entry).split(", ")}


def is_made_by(call, name, asked):
    "Whether a call says of a parameter what a row's command does, or more."
    says = call[name]
    if says == asked or says == WIDER.get((name, asked)):
        return True
    if name not in SOME_OF or not asked:
        return False
    return (name, says) in WHOLE or asked == "nothing" or names_in(asked) <= names_in(says)


def parameters_in(words):
    "The notebook of a call of `diffsda run`, and all its parameters, also those that the call leaves as they are."
    from diffsda import cli

    experiment, told = cli.find_experiment(words[0], ROOT / "nbs")
    found = {k: v.default for k, v in cli.parameters_of(experiment.notebook).items()} | told
    found |= dict(zip(words[2::3], map(cli.parse_value, words[3::3])))
    if found.get("d_noise") == RECIPES.get(found.get("recipe"), {}).get("d_noise"):
        found["d_noise"] = -1.0  # the recipe's
    return experiment.notebook.stem, found


def is_called(notebook, asked, calls):
    return any(
        where == notebook and all(is_made_by(call, name, asked[name]) for name in asked)
        for where, call in calls
    )


def commands_in(row):
    "The command of a row, for each of its seeds."
    loop = re.fullmatch(r"for seed in ([\d ]+); do (.+); done", row["command"])
    return [loop[2].replace("$seed", k) for k in loop[1].split()] if loop else [row["command"]]


def test_every_row_of_the_results_is_made_by_a_run_that_is_listed(listed, monkeypatch):
    "Or by a target of the Makefile. Of what is not trained the steps do not matter."
    from diffsda import cli

    monkeypatch.setattr(cli, "parameters_of", cache(cli.parameters_of))
    monkeypatch.setattr(cli, "find_experiment", cache(cli.find_experiment))
    runs = [words[2 : words.index("-o")] for words in listed if words[1:2] == ["run"]]
    calls = [parameters_in(words) for words in runs]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    rows = [row for file in (ROOT / "results").glob("*.json") for row in read_rows(file)]
    missing = []
    for command, untrained in {
        (c, row.get("steps") == 0) for row in rows for c in commands_in(row)
    }:
        tool, *words = shlex.split(command)
        if tool == "make":
            assert words[0] in targets, command
            continue
        notebook, asked = parameters_in(words[1:])
        unsaid = [name for name in OF_ITS_OWN.get(notebook, ()) if name not in words]
        unsaid += ["steps"] * untrained
        told = [name for name in asked if name not in unsaid]
        if not is_called(notebook, {name: asked[name] for name in told}, calls):
            missing.append(command)
    assert not missing, "\n".join(sorted(missing))


def test_the_page_of_the_workflow_counts_the_runs_of_each_kind(listed):
    folders = [Path(words[words.index("-o") + 1]) for words in listed if "-o" in words]
    counts = Counter(folder.parts[2] for folder in folders if len(folder.parts) == 4)
    page = (ROOT / "workflow" / "README.md").read_text(encoding="utf-8")
    told = {kind: int(n) for kind, n in re.findall(r"^\| (\w+) \| (\d+) \|", page, re.M)}
    assert told == counts and counts.keys() == CONFIG["kinds"].keys()


def test_the_sets_that_runs_read_are_prepared_before_them(listed):
    from diffsda import scenes, speech, timeseries

    sets = scenes.SETS | speech.SETS | timeseries.SETS
    runs = [words for words in listed if words[1:2] == ["run"]]
    asked = {w[w.index("data") + 1] if "data" in w else w[2] for w in runs}
    lenders = {w[w.index("trained_on") + 1] for w in runs if "trained_on" in w}
    read = (asked | lenders) & sets.keys()
    told = CONFIG["prepared"]
    as_tuple = lambda names: (names,) if isinstance(names, str) else tuple(names)
    assert {name: sets[name].prepared for name in read if sets[name].prepared} == {
        name: as_tuple(names) for name, names in told.items()
    }
    gets = {words[words.index("get") + 1] for words in listed if "get" in words}
    assert gets == {one for names in told.values() for one in as_tuple(names)}


def test_each_gpu_has_as_many_commands_as_it_may(tmp_path):
    "Four at once, two GPUs, one on each: a place is free again when its command ends, even if it is killed."
    show = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(60)"
    launch = [
        sys.executable,
        ROOT / "workflow" / "on_gpu.py",
        "3,5",
        "1",
        sys.executable,
        "-c",
        show,
    ]
    start = lambda: subprocess.Popen(
        launch, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    first, second = start(), start()
    try:
        gpus = [one.stdout.readline().strip() for one in (first, second)]
        assert sorted(gpus) == ["3", "5"]
        third = start()
        with pytest.raises(subprocess.TimeoutExpired):  # it waits
            third.wait(0.5)
        second.kill()
        assert third.stdout.readline().strip() == gpus[1]
    finally:
        for one in (first, second, third):
            one.kill()
            one.wait()
