"""Notebooks run in a real JupyterLab from "Run All Cells"; make walk walks through all of them."""

import nbformat
import pytest
import walk
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

pytestmark = pytest.mark.skipif(bool(walk.missing()), reason=walk.missing())
MOVES = """%matplotlib inline
from diffsda.viz import slider
fig = slider(lambda ax, value: print("drawn", value), [1, 2, 3], "level")"""
SHORT = ["02_precond", "05_data"]


@pytest.fixture(scope="module")
def lab():
    """A JupyterLab that serves the short notebooks and two that are made up, at the end without kernels."""
    with walk.course([walk.NBS / f"{name}.ipynb" for name in SHORT]) as folder:
        made_up = {
            "fails": [new_code_cell("1 + 1"), new_code_cell("1 / 0"), new_code_cell("2 + 2")],
            "old": [new_code_cell("import time; time.sleep(3)", execution_count=9)],
            "moves": [new_code_cell(MOVES)],
        }
        for name, cells in made_up.items():
            notebook = new_notebook(cells=[new_markdown_cell("# Made up"), *cells])
            notebook.metadata.kernelspec = {"name": "python3", "display_name": "python3"}
            nbformat.write(notebook, folder / "nbs" / f"{name}.ipynb")
        with walk.jupyter_lab(folder) as lab:
            yield lab


@pytest.fixture
def page(lab):
    with walk.browser_page() as page:
        yield page
    lab.stop_kernels()


@pytest.mark.parametrize("name", SHORT)
def test_short_notebook_runs_to_its_end(name, lab, page):
    found = walk.walk(page, lab, f"nbs/{name}.ipynb")
    cells = nbformat.read(walk.NBS / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert found.errors == [] and found.cells == len(code)
    assert found.folded == sum("solution" in cell.metadata.get("tags", []) for cell in code)


def test_an_error_is_seen_and_ends_the_walk(lab, page):
    found = walk.walk(page, lab, "nbs/fails.ipynb", timeout=60)
    assert found.cells == 2 and "ZeroDivisionError" in found.errors[0]


def test_an_old_number_is_not_taken_for_a_run(lab, page):
    assert walk.walk(page, lab, "nbs/old.ipynb", timeout=60).seconds >= 3


def test_a_slider_redraws_its_picture_beside_the_still_ones(lab, page):
    assert walk.walk(page, lab, "nbs/moves.ipynb", timeout=60).errors == []
    followed = page.locator(".jupyter-widgets .jp-OutputArea-output pre")
    assert "drawn 1" in followed.inner_text()
    page.locator(".jupyter-widgets .noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    walk.wait_until(lambda: "drawn 2" in followed.inner_text(), 20, "the picture follows")
    pictures = page.locator(".jp-OutputArea-output img")  # the one that moves; the still ones
    walk.wait_until(lambda: pictures.count() == 2, 20, "two pictures")
