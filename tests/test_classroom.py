"""Assignments: honest answers get all points, each wrong one loses its own, and no submission stops the grading of others."""

import re
import textwrap
from pathlib import Path

import matplotlib
import nbformat
import pytest
from wrong_answers import WRONG

SOURCE = Path(__file__).resolve().parent.parent / "nbs" / "classroom" / "source"
NAMES = sorted(path.name for path in SOURCE.iterdir() if path.is_dir())

by_assignment = pytest.mark.parametrize("name", NAMES)


def mark_of(cell):
    return cell.metadata.get("nbgrader", {})


class Paper:
    """A solved assignment that was run once in this process, so that its answers can be exchanged and graded at little cost."""

    def __init__(self, name):
        cells = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4).cells
        self.code = [cell for cell in cells if cell.cell_type == "code"]
        self.solutions, self.tests, self.points = {}, {}, {}
        for cell in self.code:
            mark = mark_of(cell)
            if mark.get("solution") and not mark["grade"]:
                self.solutions[mark["grade_id"]] = cell.source
            elif mark.get("grade") and not mark["solution"]:
                self.tests[mark["grade_id"]] = compile(cell.source, mark["grade_id"], "exec")
                self.points[mark["grade_id"]] = mark["points"]
        self.names = {"__name__": "__main__"}
        for cell in self.code:
            exec(cell.source, self.names)
        matplotlib.pyplot.close("all")

    def answer(self, task, text):
        exec(text, self.names)

    def failed(self):
        "What each test says that is not passed, by its name."
        said = {}
        for test, code in self.tests.items():
            try:
                exec(code, self.names)
            except Exception as error:
                said[test] = f"{type(error).__name__}: {error}"
        return said


def rewritten(solution, answer):
    "A solution cell with a wrong answer in it."
    if isinstance(answer, tuple):
        old, new = answer
        assert solution.count(old) == 1, f"{old!r} must be in the solution once:\n{solution}"
        return solution.replace(old, new)
    body = textwrap.indent(textwrap.dedent(answer).strip("\n"), "    ")
    region = r" *### BEGIN SOLUTION\n.*### END SOLUTION"
    return re.sub(region, lambda _: body, solution, flags=re.S)


@by_assignment
def test_each_wrong_answer_loses_the_points_of_its_task_and_no_others(name, monkeypatch):
    matplotlib.use("Agg")
    paper = Paper(name)
    assert not paper.failed(), "the solved source must pass all its tests"
    assert set(WRONG[name]) == set(paper.solutions), "every task has its wrong answers"
    for task, answers in WRONG[name].items():
        solution = paper.solutions[task]
        assert len(answers) >= 3
        for what, answer in (answers | {"printed": "print('the answer')"}).items():
            paper.answer(task, rewritten(solution, answer))
            failed = paper.failed()
            assert set(failed) == {f"test_{task}"}, f"{task}, {what}: {failed}"
            if what.startswith("imported"):
                assert "own work" in failed[f"test_{task}"], f"{task}, {what}: {failed}"
        paper.answer(task, solution)
        assert not paper.failed()
