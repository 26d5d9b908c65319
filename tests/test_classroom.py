"""Assignments: honest answers get all points, each wrong one loses its own, and no submission stops the grading of others."""

import re
import shutil
import sys
import textwrap
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from nbgrader.api import Gradebook
from wrong_answers import WRONG

from diffsda.classroom import check, collect, grade, hand_out, own_work
from diffsda.cli import main

SOURCE = Path(__file__).resolve().parent.parent / "nbs" / "classroom" / "source"
NAMES = sorted(path.name for path in SOURCE.iterdir() if path.is_dir())

by_assignment = pytest.mark.parametrize("name", NAMES)


def mark_of(cell):
    return cell.metadata.get("nbgrader", {})


def is_task(cell):
    return mark_of(cell).get("solution") and not mark_of(cell)["grade"]


def is_test(cell):
    return mark_of(cell).get("grade") and not mark_of(cell)["solution"]


def source_of(cells):
    return "\n".join(cell.source for cell in cells)


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


class Paper:
    """The tasks and tests of a solved assignment in this process, where answers are exchanged and graded at little cost."""

    def __init__(self, name):
        self.solutions, self.tests, self.visible = {}, {}, {}
        self.names = {"__name__": "__main__"}
        for cell in cells_of(SOURCE / name / f"{name}.ipynb"):
            mark = mark_of(cell)
            if is_task(cell):
                self.solutions[mark["grade_id"]] = cell.source
            elif is_test(cell):
                shown = cell.source.split("### BEGIN HIDDEN TESTS")[0]
                self.visible[mark["grade_id"]] = compile(shown, mark["grade_id"], "exec")
                self.tests[mark["grade_id"]] = compile(cell.source, mark["grade_id"], "exec")
            if is_task(cell) or mark.get("locked") or "parameters" in cell.metadata.get("tags", []):
                exec(cell.source, self.names)

    def answer(self, text):
        exec(text, self.names)

    def said_by(self, code):
        "What a test says of the answers; empty if they pass."
        try:
            exec(code, self.names)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def failed(self):
        "What each test says that is not passed, by its name."
        said = {test: self.said_by(code) for test, code in self.tests.items()}
        return {test: text for test, text in said.items() if text}


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
def test_each_wrong_answer_loses_the_points_of_its_task_and_no_others(name):
    paper = Paper(name)
    assert not paper.failed(), "the solved source must pass all its tests"
    assert set(WRONG[name]) == set(paper.solutions), "every task has its wrong answers"
    for task, answers in WRONG[name].items():
        solution = paper.solutions[task]
        assert len(answers) >= 3
        assert any(what.startswith("the test's") for what in answers), "one is hard-coded"
        for what, answer in (answers | {"printed": "print('the answer')"}).items():
            paper.answer(rewritten(solution, answer))
            if what.startswith("the test's"):
                said = paper.said_by(paper.visible[f"test_{task}"])
                assert not said, f"{task}: what is hard-coded passes the visible test, but {said}"
            failed = paper.failed()
            assert set(failed) == {f"test_{task}"}, f"{task}, {what}: {failed}"
            if what.startswith("imported"):
                assert "own work" in failed[f"test_{task}"], f"{task}, {what}: {failed}"
        paper.answer(solution)
        assert not paper.failed()


@by_assignment
def test_twenty_points_or_thirty_and_a_question_for_the_teacher(name):
    cells = cells_of(SOURCE / name / f"{name}.ipynb")
    automatic = sum(mark_of(cell)["points"] for cell in cells if is_test(cell))
    by_hand = [mark_of(c)["points"] for c in cells if mark_of(c).get("grade") and not is_test(c)]
    assert (automatic, sum(by_hand)) == ((10, 20) if name == "5_project" else (16, 4))
    told = [int(n) for n in re.findall(r"^#+ Task \d: .*\((\d) points\)$", source_of(cells), re.M)]
    assert told == [mark_of(cell)["points"] for cell in cells if is_test(cell)]
    for task, test in zip(filter(is_task, cells), filter(is_test, cells), strict=True):
        assert mark_of(test)["grade_id"] == f"test_{mark_of(task)['grade_id']}"
        lines = re.search(r"### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", task.source, re.S)[1]
        assert 3 <= len(lines.splitlines()) <= 15, task.source
        visible, hidden = test.source.split("### BEGIN HIDDEN TESTS")
        assert "assert" in visible and "own_work(" in hidden


# A class. What each hands in is made from the sources; what each is worth follows from its answers.

FIRST = "3_split"
RUN_TO_THE_END = {
    "perfect",
    "empty",
    "partial",
    "importing",
    "by_heart",
    "editing",
    "hanging",
    "deleting",
}


def filled(given, answers):
    "A notebook that was handed out, with other text in the cells named."
    work = nbformat.from_dict(given)
    for cell in work.cells:
        cell.source = answers.get(mark_of(cell).get("grade_id"), cell.source)
    return work


def solutions_of(name):
    "What stands in every cell that a student fills: tasks solved, questions answered, the project left to its author."
    cells = [
        cell for cell in cells_of(SOURCE / name / f"{name}.ipynb") if mark_of(cell).get("solution")
    ]
    project = {"my_data", "my_model", "my_measurement", "my_swap"}  # slow, and read by hand anyway
    text = {mark_of(cell)["grade_id"]: cell.source for cell in cells}
    return {task: "print('see my report')" if task in project else text[task] for task in text}


def wrong_by(name, what):
    "The solutions, with the answers that are wrong in this way where there is one."
    found = solutions_of(name)
    for task, answers in WRONG[name].items():
        for said in filter(lambda said: said.startswith(what), answers):
            found[task] = rewritten(found[task], answers[said])
    return found


def hand_in(folder, student, name, notebook):
    (folder / student).mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / student / f"{name}.ipynb")


def class_of(came, course):
    "Nothing; twelve students hand in."
    given = {
        name: nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
        for name in NAMES
    }
    whole = (FIRST, "5_project")
    for name in whole:
        hand_in(came, "perfect", name, filled(given[name], solutions_of(name)))
    # the others take the pictures out, which may be done and saves a third of the time
    for notebook in given.values():
        notebook.cells = [
            c for c in notebook.cells if mark_of(c) or "parameters" in c.metadata.get("tags", [])
        ]
    for name in set(NAMES) - set(whole):
        hand_in(came, "perfect", name, filled(given[name], solutions_of(name)))
    hand_in(came, "empty", FIRST, given[FIRST])
    slips = solutions_of(FIRST)
    for task, what in {"per_frame": "s and d exchanged", "limited": "noise squared"}.items():
        slips[task] = rewritten(slips[task], WRONG[FIRST][task][what])
    hand_in(came, "partial", FIRST, filled(given[FIRST], slips))
    shutil.make_archive(came / "partial", "zip", came / "partial")  # handed in as a zip
    shutil.rmtree(came / "partial")
    hand_in(came, "importing", FIRST, filled(given[FIRST], wrong_by(FIRST, "imported")))
    hand_in(came, "by heart", FIRST, filled(given[FIRST], wrong_by(FIRST, "the test's example")))

    edited = nbformat.from_dict(given[FIRST])
    for cell in filter(is_test, edited.cells):
        cell.source, cell.metadata.nbgrader.points = "assert True", 100
    hand_in(came, "editing", FIRST, edited)

    good = solutions_of(FIRST)
    hand_in(
        came, "crashing", FIRST, filled(given[FIRST], good | {"limited": "import os\nos._exit(1)"})
    )
    endless = rewritten(good["limited"], "while True:\n    pass")
    hand_in(came, "hanging", FIRST, filled(given[FIRST], good | {"limited": endless}))

    leaving = good | {"limited": good["limited"] + "\nraise SystemExit"}  # once it is complete
    torn = filled(given[FIRST], leaving)
    gone = ("test_per_frame", "swap")
    torn.cells = [cell for cell in torn.cells if mark_of(cell).get("grade_id") not in gone]
    hand_in(came, "deleting", FIRST, torn)

    (came / "no notebook").mkdir()
    (came / "no notebook" / f"{FIRST}.ipynb").write_text("I did it all on paper.")
    (came / "picture").mkdir()
    (came / "picture" / f"{FIRST}.pdf").write_bytes(b"%PDF")
    (came / "broken.zip").write_bytes(b"PK?")
    spoilt = came / "spoilt.zip"
    with zipfile.ZipFile(spoilt, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(f"{FIRST}.ipynb", nbformat.writes(given[FIRST]))
    content = spoilt.read_bytes()
    spoilt.write_bytes(content[:200] + bytes(30) + content[230:])  # amid the packed text


def check_points(table):
    points = {task: 0 for task in WRONG[FIRST]}
    for cell in filter(is_test, cells_of(SOURCE / FIRST / f"{FIRST}.ipynb")):
        points[mark_of(cell)["grade_id"].removeprefix("test_")] = mark_of(cell)["points"]
    worth = {
        "partial": 16 - points["per_frame"] - points["limited"],
        "importing": points["decode_frames"]
        + points["swap"]
        + points["causal_mean"],  # the course has none
        "by_heart": 0,
        "editing": 0,
        "crashing": 0,
        "hanging": 16 - points["limited"],
        "deleting": 16 - points["per_frame"] - points["swap"],
        "no_notebook": 0,
        "picture": 0,
        "broken": 0,
    }
    for student, wanted in worth.items():
        assert table.points[student, FIRST] == wanted, (student, table.remark[student, FIRST])
    for name in NAMES:
        automatic_and_by_hand = table.points["perfect", name], table.to_mark["perfect", name]
        assert automatic_and_by_hand == ((10, 20) if name == "5_project" else (16, 4)), name
    assert table.points["empty", FIRST] == table.to_mark["empty", FIRST] == 0
    assert set(table.out_of) == {20, 30}


def check_remarks(table):
    said = table.remark.xs(FIRST, level="assignment")
    assert said["perfect"] == said["empty"] == said["partial"] == ""
    assert said["editing"].startswith("edited, and graded in the original: test_per_frame")
    assert "Kernel died" in said["crashing"]
    assert said["hanging"].startswith("stopped after its time")
    assert said["deleting"] == "deleted: test_per_frame"
    assert "no notebook" in said["no_notebook"] and "no notebook" in said["picture"]
    assert said["broken"].startswith("could not be unpacked")
    assert said["spoilt"].startswith("could not be unpacked")


def check_pages(table, course):
    for student in table.index.unique("student"):
        room = course / "feedback" / student
        page = (room / "index.html").read_text(encoding="utf-8")
        assert f"{FIRST}: {table.points[student, FIRST]:g} of 20" in page
        linked = re.findall(r'href="([^"]*)"', page)
        assert (f"{FIRST}/{FIRST}.html" in linked) == (student in RUN_TO_THE_END)
        for link in linked:
            text = (room / link).read_text(encoding="utf-8")
            assert "own_work" in text, "the notebook with every test"
            assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text), (
                link
            )


def check_release(course):
    "What is handed out holds no answer, earns no point, and stops at the first missing piece."
    with zipfile.ZipFile(course / "assignments.zip") as zipped:
        assert sorted(zipped.namelist()) == [f"{name}.ipynb" for name in NAMES]
        for name in NAMES:
            notebook = nbformat.reads(zipped.read(f"{name}.ipynb").decode(), as_version=4)
            text = source_of(notebook.cells)
            assert not re.search("SOLUTION|HIDDEN|own_work|Marking:", text), name
            names = {"__name__": "__main__"}
            with pytest.raises(NotImplementedError, match="not written yet: .* its test again"):
                for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
                    last = cell
                    exec(cell.source, names)
            assert is_test(last) and mark_of(last)["grade_id"] == f"test_{next(iter(WRONG[name]))}"
            paper = Paper(name)
            for cell in filter(is_task, notebook.cells):
                paper.answer(cell.source)
            assert set(paper.failed()) == set(paper.tests), "no point without work"


@pytest.mark.slow
def test_a_class_is_graded_whatever_it_hands_in(tmp_path, forked_kernels):
    course, came = tmp_path / "course", tmp_path / "submissions"
    assert main(["handout", "-o", str(course)]) == 0
    class_of(came, course)
    assert main(["grade", str(came), "-o", str(course), "--timeout", "10"]) == 0
    table = pd.read_csv(course / "grades.csv", keep_default_na=False)
    table = table.set_index(["student", "assignment"])
    check_points(table)
    check_remarks(table)
    check_pages(table, course)
    check_release(course)


# A small assignment, for what needs no model.

CIRCLES = {
    "area": "def area(radius):\n    ### BEGIN SOLUTION\n    return 3.14 * radius**2\n    ### END SOLUTION",
    "test_area": "assert area(1) == 3.14\n### BEGIN HIDDEN TESTS\nassert area(2) == 4 * 3.14\n### END HIDDEN TESTS",
}


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    "A folder with the small assignment and its course."
    home = tmp_path_factory.mktemp("circles")
    cells = [nbformat.v4.new_code_cell(source) for source in CIRCLES.values()]
    for cell, (name, solution) in zip(
        cells, {"area": True, "test_area": False}.items(), strict=True
    ):
        mark = {"grade_id": name, "schema_version": 3, "task": False, "solution": solution}
        mark |= {"grade": not solution, "locked": not solution} | (
            {} if solution else {"points": 5}
        )
        cell.metadata["nbgrader"] = mark
    path = home / "source" / "circles" / "circles.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    hand_out(home / "source", home / "course")
    return home


@pytest.fixture
def circles(handed_out, tmp_path):
    "A copy of that folder, and the notebook that was handed out."
    home = shutil.copytree(handed_out, tmp_path / "home")
    given = home / "course" / "release" / "circles" / "circles.ipynb"
    return home, nbformat.read(given, as_version=4)


def test_check_says_what_a_student_can_see(circles, capsys):
    home, given = circles
    right = {"area": "area = lambda radius: 3.14"}  # of the example that is shown
    for answers, status, line in (
        ({}, 1, "FAILED  test_area: NotImplementedError: not written yet"),
        (right, 0, "passed  test_area\n"),
        (
            {"test_area": "pass"},
            0,
            "passed  test_area: you edited this test; grading uses the original",
        ),
        (right | {"test_area": "import time\ntime.sleep(60)"}, 1, "FAILED  test_area: you edited"),
    ):
        nbformat.write(filled(given, answers), home / "mine.ipynb")
        assert main(["check", str(home / "mine.ipynb"), "--timeout", "3"]) == status
        assert capsys.readouterr().out.startswith(line)


def test_a_kernel_that_cannot_be_interrupted_does_not_stop_the_grading(circles):
    home, given = circles
    stubborn = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
    hand_in(home / "in", "ann", "circles", filled(given, {"area": stubborn}))
    hand_in(home / "in", "bob", "circles", filled(given, {"area": "area = lambda r: 3.14 * r**2"}))
    table = grade(home / "in", home / "course", seconds=2)
    assert table.points.tolist() == [0, 5] and table.remark[0] and not table.remark[1]


def test_odd_marks_in_a_notebook_do_not_stop_the_grading(circles):
    home, given = circles
    for student, mark in {
        "ann": "oops",
        "bob": {"locked": True},
        "cem": {"grade": True, "grade_id": 7},
        "dag": given.cells[1].metadata["nbgrader"],
    }.items():
        odd = filled(given, {"area": "area = lambda r: 3.14 * r**2"})
        odd.cells[1].metadata["nbgrader"] = mark
        hand_in(home / "in", student, "circles", odd)
    table = grade(home / "in", home / "course")
    assert table.points.tolist() == [0, 0, 0, 5]
    assert [bool(remark) for remark in table.remark] == [True, True, True, False]


def test_a_second_round_keeps_no_points_of_the_first(circles):
    home, given = circles
    hand_in(home / "in", "ann", "circles", filled(given, {"area": "area = lambda r: 3.14 * r**2"}))
    assert grade(home / "in", home / "course").points.tolist() == [5]
    torn = nbformat.from_dict(given)
    torn.cells = torn.cells[:1]
    hand_in(home / "in", "ann", "circles", torn)
    assert grade(home / "in", home / "course").points.tolist() == [0]


def test_who_is_absent_from_a_later_round_keeps_the_points_of_an_earlier_one(circles):
    home, given = circles
    right = filled(given, {"area": "area = lambda r: 3.14 * r**2"})
    for student in ("007", "ann", "bob"):
        hand_in(home / "in", student, "circles", right)
    grade(home / "in", home / "course")
    hand_in(home / "late", "cem", "circles", right)
    (home / "late" / "ann").mkdir()
    (home / "late" / "bob.zip").write_bytes(b"torn on its way")
    (home / "late" / "dag").mkdir()
    table = grade(home / "late", home / "course").set_index("student")
    assert table.points.to_dict() == {"007": 5, "ann": 5, "bob": 5, "cem": 5, "dag": 0}
    assert table.remark["ann"] == "not handed in; points of an earlier round"
    kept = pd.read_csv(home / "course" / "grades.csv", dtype={"student": str})
    assert kept.student.tolist() == list(table.index)
    assert "5 of 5" in (home / "course" / "feedback" / "ann" / "index.html").read_text("utf-8")


def test_points_given_by_hand_stay_and_wait_no_longer(circles):
    home, given = circles
    hand_in(home / "in", "ann", "circles", given)
    grade(home / "in", home / "course")
    with Gradebook(f"sqlite:///{home / 'course' / 'gradebook.db'}") as book:
        mark = book.find_grade("test_area", "circles", "circles", "ann")
        mark.manual_score, mark.needs_manual_grade = 2, False
        book.db.commit()
    table = grade(home / "in", home / "course")
    assert (table.points[0], table.to_mark[0]) == (2, 0)


def test_points_given_by_hand_go_with_the_answer_they_were_given_to(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell(f"{name}\n### BEGIN SOLUTION\nbecause\n### END SOLUTION")
        for name in ("how", "why")
    ]
    for cell, name in zip(cells, ("how", "why")):
        mark = {"grade_id": name, "schema_version": 3, "task": False, "points": 3}
        cell.metadata["nbgrader"] = mark | {"solution": True, "grade": True, "locked": False}
    (tmp_path / "source" / "words").mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, tmp_path / "source" / "words" / "words.ipynb")
    hand_out(tmp_path / "source", tmp_path / "course")
    given = nbformat.read(tmp_path / "course" / "release" / "words" / "words.ipynb", as_version=4)

    def worth(**answers):
        hand_in(tmp_path / "in", "ann", "words", filled(given, answers))
        table = grade(tmp_path / "in", tmp_path / "course")
        return table.points[0], table.to_mark[0]

    assert worth(how="thus", why="therefore") == (0, 6)
    with Gradebook(f"sqlite:///{tmp_path / 'course' / 'gradebook.db'}") as book:
        for name in ("how", "why"):
            mark = book.find_grade(name, "words", "words", "ann")
            mark.manual_score, mark.needs_manual_grade = 2, False
        book.db.commit()
    assert worth(how="thus", why="") == (2, 3)
    (tmp_path / "course" / "autograded" / "ann" / "words" / "words.ipynb").write_text("{")  # killed
    assert worth(how="thus", why="") == (0, 6)
    (tmp_path / "in" / "ann" / "words.ipynb").write_text("torn")
    (tmp_path / "in" / "bob").mkdir()
    hand_in(tmp_path / "in", "bob", "words", given)
    assert grade(tmp_path / "in", tmp_path / "course").points.tolist() == [0, 0]


def test_zips_in_capitals_are_read_and_what_is_not_looked_at_is_named(circles, capsys):
    home, given = circles
    (home / "in").mkdir()
    with zipfile.ZipFile(home / "in" / "ann.ZIP", "w") as zipped:
        zipped.writestr("circles.ipynb", nbformat.writes(given))
    for name in ("bob.ipynb", "cem.rar"):
        (home / "in" / name).write_text("of a student")
    assert collect(home / "in", ["circles"], home / "course") == {"ann": {"circles": ""}}
    assert capsys.readouterr().out.endswith(": bob.ipynb, cem.rar\n")


def test_nothing_that_was_given_is_made_anew(tmp_path, circles):
    "Whatever folders are named, submissions and sources are still there."
    home, _ = circles
    course, source = tmp_path / "course", tmp_path / "sources"
    shutil.copytree(home / "course", course)
    shutil.copytree(course / "source", source)
    work = course / "submitted" / "ann" / "circles.ipynb"
    work.parent.mkdir(parents=True, exist_ok=True)
    work.write_text("mine")
    for submissions in (course / "submitted", course):
        with pytest.raises(ValueError, match="overlaps with .*submitted.* would be lost"):
            collect(submissions, ["circles"], course)
    for own in (course / "source", course / "source" / "circles" / ".."):
        with pytest.raises(ValueError, match="overlaps with .*source.* would be lost"):
            hand_out(own, course)
    (tmp_path / "site" / "source").mkdir(parents=True)
    with pytest.raises(ValueError, match="no part of this course"):
        hand_out(source, tmp_path / "site")
    config = course / "nbgrader_config.py"
    config.write_text(config.read_text() + "c.Exchange.timezone = 'UTC'  # set by the teacher\n")
    hand_out(source, course)
    assert "set by the teacher" in config.read_text()
    (tmp_path / "algebra").mkdir()
    (tmp_path / "algebra" / "nbgrader_config.py").write_text("c = get_config()  # another course")
    with pytest.raises(ValueError, match="no part of this course"):
        hand_out(source, tmp_path / "algebra")
    assert work.read_text() == "mine" and (tmp_path / "site" / "source").is_dir()
    assert list((course / "source").glob("*/*.ipynb"))


def test_the_zip_of_before_stays_where_an_assignment_cannot_be_handed_out(tmp_path, circles):
    home, _ = circles
    course, source = tmp_path / "course", tmp_path / "sources"
    shutil.copytree(home / "course", course)
    shutil.copytree(course / "source", source)
    before = (course / "assignments.zip").read_bytes()
    (source / "odd").mkdir()
    (source / "odd" / "odd.ipynb").write_text("no notebook")
    with pytest.raises(RuntimeError, match="assignment odd cannot be handed out"):
        hand_out(source, course)
    assert (course / "assignments.zip").read_bytes() == before


def test_a_class_that_handed_in_nothing_of_the_course_is_told_so(tmp_path, circles):
    home, given = circles
    hand_in(tmp_path / "in", "ann", "mywork", given)
    with pytest.raises(
        ValueError, match="nobody in .* handed in circles; expected STUDENT/circles.ipynb"
    ):
        grade(tmp_path / "in", home / "course")


def test_what_cannot_be_graded_or_checked_is_said_before_work_starts(tmp_path, circles):
    home, given = circles
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no assignment in .*expected NAME/NAME.ipynb"):
        hand_out(tmp_path / "none", tmp_path / "course2")
    with pytest.raises(ValueError, match="no student in .*STUDENT/NOTEBOOK.ipynb"):
        grade(tmp_path / "none", home / "course")
    with pytest.raises(ValueError, match="make classroom"):
        grade(home / "in", tmp_path / "none")
    for student in ("jo ann", "jo_ann"):
        hand_in(home / "twins", student, "circles", given)
    with pytest.raises(ValueError, match="two submissions of 'jo_ann'"):
        grade(home / "twins", home / "course")
    (tmp_path / "text.ipynb").write_text("no")
    with pytest.raises(ValueError, match="cannot be read as a notebook"):
        check(tmp_path / "text.ipynb")
    given.cells = given.cells[:1]
    nbformat.write(given, tmp_path / "text.ipynb")
    with pytest.raises(ValueError, match="holds no test"):
        check(tmp_path / "text.ipynb")


@pytest.mark.parametrize(
    "cheat",
    [
        "from diffsda.precond import scalings as f",
        "import functools, diffsda.precond\nf = functools.partial(diffsda.precond.scalings)",
        "def f(x):\n    return [getattr(__import__('diffsda.precond').precond, 'scal' + 'ings')(x)][0]",
        "class Yes:\n    __lt__ = __eq__ = lambda self, other: True\ndef f(x):\n    return Yes()",
    ],
)
def test_own_work_notices_how_an_answer_was_borrowed(cheat):
    names = {"__name__": "__main__"}
    exec(cheat, names)
    with pytest.raises(AssertionError, match="own work|of its own"):
        own_work(names["f"])(torch.ones(2))


def test_own_work_leaves_honest_functions_and_their_errors_alone():
    assert own_work(lambda x, y=1: (x, y))(2, y=3) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        own_work(lambda x: x / 0)(1)
    assert sys.getprofile() is None
