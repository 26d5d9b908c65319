"""Exercises with a `check` cell: it waits for an answer, praises the course's own, and refuses a wrong one with a reason."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest

NBS = Path(__file__).resolve().parent.parent / "nbs"

# what a student names -> what the solution calls it, and wrong answers: parts of the solution, exchanged
WRONG = {
    "my_variance": ("posterior_variance", [("sigma**2 *", "sigma *"), ("sigma**2 *", "0.2 + 0 *")]),
    "my_softened": ("softened", [("h**2", "h"), ("h**2", "1e-6")]),
    "my_ratio": ("ratio", [(".c_out", ".c_skip"), ("sigma / ", "1 / ")]),
    "my_gradient": (
        "gradient",
        [("/ count", "/ 3"), ("network.zero_grad()", "pass"), (".clone()", ".mul(2)")],
    ),
    "my_ddim": ("ddim", [("+ lower *", "+ sigma *"), ("+ lower *", "+ 0 *")]),
    "my_breather": (
        "breather",
        [
            ("place[:, None] + 8)", "place[:, None] + torch.arange(V).max() + 8)"),
            ("* torch.arange(V))", "* torch.zeros(V))"),
            ('"place": place', '"place": rate'),
        ],
    ),
    "my_decoder": (
        "Blind",
        [
            ("self.line(torch.cat([flat, level], dim=-1))", "torch.randn_like(flat)"),
            ("c_noise[..., None]", "0 * c_noise[..., None]"),
        ],
    ),
    "my_noise": ("noise", [("(2**2 - 1) ** -0.5", "1.0"), ("2**2", "2**4")]),
    "my_mean": ("mean", [("[-1].sqrt()", "[-1]"), ("1e-5, 1e-2", "1e-4, 2e-2")]),
    "my_sigma": ("smallest", [("-5", "-2.5"), ("-5", "-5.5")]),
    "my_bound": ("bound", [("+ draws * denoise", "+ denoise"), ("draws * (encode", "(encode")]),
}


def exercises():
    "The notebook, the cell for an answer, its check and its solution, for each exercise that has a check."
    for path in sorted(NBS.glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        tagged = [(set(cell.metadata.get("tags", [])), cell.source) for cell in cells]
        for i, (tags, check) in enumerate(tagged):
            if "check" in tags:
                (before, answer), (after, solution) = tagged[i - 1], tagged[i + 1]
                assert "answer" in before and "solution" in after, path.stem
                name = re.fullmatch(r"# a \w+.*\n(my_\w+) = \.\.\.", answer)[1]
                yield pytest.param(path, name, answer, check, solution, id=name)


def names_of(path):
    "What a notebook imports and exports: all that a check may use."
    names = {}
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    for source in code:
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                exec(ast.unparse(statement), names)
    module = re.search(r"^#\| default_exp (\w+)", "\n".join(code), re.M)[1]
    names |= vars(importlib.import_module(f"diffsda.{module}"))
    return names


def part_of(solution, name):
    "The statement of a solution that binds a name."
    for statement in ast.parse(solution).body:
        bound = [getattr(statement, "name", None)]
        bound += [getattr(target, "id", None) for target in getattr(statement, "targets", [])]
        if name in bound:
            return ast.get_source_segment(solution, statement)
    raise AssertionError(f"the solution must bind {name}:\n{solution}")


@pytest.mark.parametrize("path, name, answer, check, solution", list(exercises()))
def test_a_check_waits_praises_and_refuses(path, name, answer, check, solution, capsys):
    names = names_of(path)
    exec(answer, names)
    exec(check, names)
    assert capsys.readouterr().out.startswith(f"Nothing to check yet: write {name}")
    theirs, wrong = WRONG[name]
    right = part_of(solution, theirs)

    def checked(text):
        exec(text, names)
        names[name] = names[theirs]
        exec(check, names)

    checked(right)
    assert capsys.readouterr().out.startswith("Right: ")
    for old, new in wrong:
        assert right.count(old) == 1, (old, right)
        with pytest.raises(AssertionError, match=r"\w+ \w+"):
            checked(right.replace(old, new))


def test_every_check_has_its_wrong_answers_and_each_of_them_a_check():
    assert sorted(WRONG) == sorted(exercise.id for exercise in exercises())
