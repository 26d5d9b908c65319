"""Every notebook runs from a fresh kernel in fast mode, and has the course's form."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from diffsda.cli import experiments, parameters_of, run_notebook, unfit, write_report

NBS = Path(__file__).resolve().parent.parent / "nbs"
NOTEBOOKS = [
    *sorted(NBS.glob("*.ipynb")),
    *sorted(NBS.glob("classroom/*.ipynb")),  # for teachers
    *sorted(NBS.glob("classroom/source/*/*.ipynb")),  # assignments, solved
]
WORKING = [p for p in NOTEBOOKS if p.stem != "index"]
LESSONS = [
    p for p in WORKING if "default_exp" in p.read_text(encoding="utf-8")
]  # others: experiments
EXPERIMENTS = {experiment.notebook.stem for experiment in experiments(NBS)}
pytestmark = pytest.mark.usefixtures("forked_kernels")
SECONDS = (
    600  # a guard against a notebook that hangs; on an idle machine none takes over two minutes
)

by_stem = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
by_working = pytest.mark.parametrize("path", WORKING, ids=lambda p: p.stem)
by_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


def cells_of(path, kind=None):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if kind in (None, cell.cell_type)]


def outputs_of(path):
    return [(cell, output) for cell in cells_of(path, "code") for output in cell.outputs]


def run_fast(path, folder, parameters=()):
    """The executed notebook; skipped where it needs real data that are not on this machine."""
    chosen = {"fast": True} if "fast" in parameters_of(path) else {}
    chosen |= dict(parameters)
    try:
        executed = run_notebook(path, folder / path.name, chosen, timeout=SECONDS, progress=False)
    except RuntimeError as error:
        # an experiment on real data that are not on this machine names the script that gets them
        if path.stem in EXPERIMENTS and "FileNotFoundError" in str(error):
            if "data_scripts/" in str(error):
                pytest.skip(str(error))
        raise
    for cell, output in outputs_of(executed):
        reason = unfit(output)
        assert not reason, f"{reason}, from the cell\n{cell.source}"


# these two run below, where their reports are looked at
REPORTED = ("27_video_experiments", "33_audio_experiments")
by_run = [path for path in NOTEBOOKS if path.stem not in REPORTED]


@pytest.mark.slow
@pytest.mark.parametrize("path", by_run, ids=lambda p: p.stem)
def test_runs_in_fast_mode(path, tmp_path):
    """And the README's tables are those of the notebooks that write them."""
    run_fast(path, tmp_path)
    readme = (NBS.parent / "README.md").read_text(encoding="utf-8")
    for cell in cells_of(path, "code"):
        for name in re.findall(r'put_between\("../README.md", "(\w+)"', cell.source):
            table = readme.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- end of {name} -->")[0]
            told = [output for _, output in outputs_of(tmp_path / path.name)]
            told = [o.get("text") or o.get("data", {}).get("text/markdown", "") for o in told]
            assert any(table in text for text in told), f"{path.stem} shows another table {name}"


@pytest.mark.slow
@pytest.mark.parametrize("data", ["physionet_a", "har"])
def test_series_experiment_runs_on_stays_and_walks(data, tmp_path):
    asked = {"data": data, "protocol": "correct"}  # both protocols run on etth1, above
    run_fast(NBS / "42_timeseries_experiments.ipynb", tmp_path, asked)


@pytest.mark.slow
def test_voices_experiment_ends_with_players_in_the_report(tmp_path):
    run_fast(NBS / "33_audio_experiments.ipynb", tmp_path)
    report = write_report(tmp_path / "33_audio_experiments.ipynb", tmp_path / "report.html")
    assert report.read_text(encoding="utf-8").count("<audio controls") == 3 + 4


@pytest.mark.slow
def test_video_experiment_has_moving_pictures_in_the_report(tmp_path):
    run_fast(NBS / "27_video_experiments.ipynb", tmp_path)
    report = write_report(tmp_path / "27_video_experiments.ipynb", tmp_path / "report.html")
    assert "data:image/gif;base64" in report.read_text(encoding="utf-8")


@by_stem
def test_stored_outputs_are_fit_to_be_read(path):
    for cell, output in outputs_of(path):
        assert not unfit(output), f"{unfit(output)}, from the cell\n{cell.source}"
        assert output.get("name") != "stderr", f"stored stderr, from the cell\n{cell.source}"
    assert path.stat().st_size < 1_500_000


@by_stem
def test_pictures_have_alternative_text(path):
    for cell, output in outputs_of(path):
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 10, f"no alternative text for the figure of\n{cell.source}"


@by_stem
def test_opens_with_title_and_summary(path):
    first = cells_of(path)[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \S.*\n\n> \S", first.source), "a title, an empty line, a one-line summary"


@by_working
def test_says_what_it_needs_and_gives(path):
    opening = "\n".join(cell.source for cell in cells_of(path)[:2])
    for word in ("You will", "Builds on", "Runtime"):
        assert f"**{word}**" in opening, f"the opening lacks **{word}**"


@by_working
def test_parameters_cell(path):
    tagged = [c for c in cells_of(path, "code") if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert "export" not in tagged[0].source
    assert isinstance(parameters_of(path)["fast"].default, bool)
    assert parameters_of(path)["fast"].default, "fast mode is the default"


@by_stem
def test_cells_are_short(path):
    """At most 60 lines, unless the cell is one class and nothing else, of methods that keep to that."""
    for cell in cells_of(path, "code"):
        if len(cell.source.splitlines()) <= 60:
            continue
        statements = ast.parse(cell.source).body
        assert len(statements) == 1 and isinstance(statements[0], ast.ClassDef), cell.source[:200]
        for method in statements[0].body:
            assert method.end_lineno - method.lineno < 60, f"{method.name} is over 60 lines long"


@by_lesson
def test_closes_with_summary_and_solved_exercises(path):
    text = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    assert re.search(r"^## Summary.*^## Exercises", text, re.M | re.S)
    marks = []  # E for an exercise's text, S for the solution that follows it
    for cell in cells_of(path):
        if cell.cell_type == "markdown":
            marks += ["E"] * len(re.findall(r"^\*\*Exercise \d+\.", cell.source, re.M))
        elif "solution" in cell.metadata.get("tags", []):
            marks.append("S")
    assert re.fullmatch("(ES+){3,5}", "".join(marks)), f"3 to 5, each solved; got {marks}"


@by_stem
def test_never_exports_itself(path):
    code = "\n".join(cell.source for cell in cells_of(path, "code"))
    assert "nbdev_export" not in code and "nbdev.export" not in code


@by_stem
def test_skips_the_same_cells_everywhere(path):
    """nbdev obeys `#| eval: false`, papermill the tag: a cell that has one has both."""
    for cell in cells_of(path, "code"):
        directive = bool(re.search(r"^#\| *eval: *false", cell.source, re.M))
        assert directive == ("skip-execution" in cell.metadata.get("tags", [])), cell.source


@by_stem
def test_holds_no_trace_of_a_run(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "papermill" not in content["metadata"]
    for cell in content["cells"]:
        assert "injected-parameters" not in cell["metadata"].get("tags", [])
        assert cell.get("execution_count") is None
