"""The site is built once, from stored outputs, and every page of it is read."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

import diffsda

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "site"
sys.path.insert(0, str(SITE))

import check  # noqa: E402
import course  # noqa: E402
import reference  # noqa: E402
import tables  # noqa: E402


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    "The folder of the built site, and what Sphinx complained about."
    pytest.importorskip("myst_nb", reason="the site needs the extra [docs]")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # workers share one build
        shared = shared.parent
    folder = shared / "site"
    complaints = folder / "complaints"
    with FileLock(shared / "site.lock"):
        if not complaints.exists():
            course.prepare(folder / "source")
            command = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
            command += [folder / "source", folder / "html"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, done.stderr[-3000:]
            complaints.write_text(done.stderr, encoding="utf-8")
    return folder / "html", complaints.read_text(encoding="utf-8")


def test_nothing_is_wrong_with_the_site(built):
    folder, complaints = built
    assert check.findings(folder) == []
    assert complaints == ""


def test_a_fault_of_each_kind_is_found(built, tmp_path):
    folder, _ = built
    (tmp_path / "_static").mkdir()
    css = (folder / "_static" / "site.css").read_text(encoding="utf-8")
    (tmp_path / "_static" / "site.css").write_text(
        css.replace("--course-quiet: #59636e", "--course-quiet: #b0b0b0")
    )
    faults = {
        "gone.html is no file": '<a href="gone.html">x</a>',
        "has no such anchor": '<a href="#nowhere">x</a>',
        "has no alternative text": '<img src="data:," alt="">',
        "loads https://example.org/a.js": '<script src="https://example.org/a.js"></script>',
        "loads //example.org/f.woff": "<style>@font-face { src: url(//example.org/f.woff) }</style>",
        "holds a Python error": "<pre>Traceback (most recent call last):</pre>",
        "is not folded": '<div class="cell tag_solution docutils"></div>',
        "below 4.5": "",
    }
    for i, html in enumerate(faults.values()):
        (tmp_path / f"{i}.html").write_text(html)
    found = check.findings(tmp_path)
    for what in faults:
        assert sum(what in line for line in found) == 1, (what, found)
    assert len(found) == len(faults)


def test_every_notebook_and_every_public_name_has_a_place(built):
    folder, _ = built
    front = (folder / "index.html").read_text(encoding="utf-8")
    for path in course.notebooks():
        assert f"{course.page_of(path)}.html" in front
    for path in sorted((ROOT / "diffsda").glob("[!_]*.py")):
        page = check.Page((folder / "api" / f"{path.stem}.html").read_text(encoding="utf-8"))
        names = reference.public_names(reference.ast.parse(path.read_text(encoding="utf-8")))
        missing = [n for n in names if f"diffsda.{path.stem}.{n}" not in page.anchors]
        assert not missing
        assert sum("#cell-" in link for link in page.links) >= len(names)


def test_the_reference_begins_with_all_that_the_package_offers():
    front = reference.pages({path.stem: course.page_of(path) for path in course.notebooks()})
    offered = next(line for line in front["index"].splitlines() if "`import diffsda`" in line)
    assert re.findall(r"`(\w+)`", offered) == diffsda.__all__


def test_the_reference_shows_the_comments_beside_parameters():
    text = reference.page(ROOT / "diffsda" / "precond.py", {"02_precond": "course/02_precond"})
    assert "{py:function} scalings(sigma, sigma_data=0.5)" in text
    assert "| `sigma_data` | `float` | standard deviation of the clean data |" in text
    assert "| *returns* | `Scalings` | each (\\*any) |" in text
    assert "**Raises ValueError**" in text
    assert "| `c_skip` | `Tensor` | how much of the noisy input to pass through |" in text
    assert text.count("../course/02_precond.html#cell-") == 4


def test_every_number_of_the_results_stands_under_its_command():
    for path in sorted((ROOT / "results").glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        text = tables.page(path)
        lines = [line for line in text.splitlines() if line.startswith("<tr>")]
        commands = re.findall(r"^```sh\n(.*)\n```$", text, re.MULTILINE)
        assert set(commands) == {row["command"] for row in rows}
        assert len(lines) == len(rows)  # headings are inside <thead>


def test_solutions_are_folded_and_directives_are_gone():
    folded = 0
    for path in course.notebooks():
        for cell in course.as_page(path).cells:
            if cell.cell_type == "code":
                assert "#|" not in cell.source
                if "solution" in cell.metadata.get("tags", []):
                    assert "hide-cell" in cell.metadata.tags
                    folded += 1
    assert folded > 50


def test_progress_bars_and_widgets_are_dropped():
    bar = nbformat.v4.new_output(
        "stream", text=" 40%|####      | 4/10 [00:01<00:02,  2.9it/s]\nloss 0.5\n"
    )
    assert course.shown_output(bar).text == "loss 0.5\n"
    slider = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntSlider()"}
    assert course.shown_output(nbformat.v4.new_output("display_data", data=slider)) is None
    still = slider | {"image/png": "AA=="}
    assert list(course.shown_output(nbformat.v4.new_output("display_data", data=still)).data) == [
        "image/png"
    ]


def test_a_notebook_opened_alone_installs_the_package_with_its_extras():
    for path in course.notebooks():
        first, second = course.alone(path).cells[:2]
        assert first.cell_type == "markdown" and second.id == "set-up"
        extras = course.part_of(path)[1]
        assert (f"diffsda[{extras}] @ git+" if extras else '"diffsda @ git+') in second.source


@pytest.mark.parametrize(
    "name, needed",
    [("52_app", "app"), ("55_classroom", "classroom"), ("56_cli", "dev"), ("30_audio", "audio")],
)
def test_a_notebook_alone_has_what_its_pages_run_by(name, needed):
    assert needed in course.part_of(ROOT / "nbs" / f"{name}.ipynb")[1].split(",")
    binder = (ROOT / "binder" / "requirements.txt").read_text()
    assert {"dev": "papermill"}.get(needed, needed) in re.split(r"\W", binder)


def test_a_notebook_alone_can_download_its_data():
    assert "import pooch" in (ROOT / "data_scripts" / "fetch.py").read_text()
    assert "pooch" in re.split(r"\W", course.facts()["requirements"])


def test_a_notebook_without_a_number_is_refused():
    with pytest.raises(ValueError, match="begins with no number"):
        course.part_of(ROOT / "nbs" / "topic.ipynb")


def test_a_picture_without_words_is_refused(monkeypatch):
    monkeypatch.setattr(tables, "pictures", lambda: [ROOT / "results" / "new.png"])
    with pytest.raises(ValueError, match="new.png has no alternative text"):
        tables.alternative_texts()


def test_links_to_other_hosts_are_asked_once_and_dead_ones_are_named(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://a.org/x#one">1</a><a href="https://a.org/x#two">2</a>'
    )
    (tmp_path / "b.html").write_text('<a href="https://b.org">3</a><a href="c.html">4</a>')
    asked = []
    found = check.dead_links(
        tmp_path, lambda x: asked.append(x) or ("answers 404" if "b.org" in x else "")
    )
    assert asked == ["https://a.org/x", "https://b.org"]
    assert found == ["b.html: https://b.org answers 404"]
    with pytest.raises(ValueError, match="make site"):
        check.dead_links(tmp_path / "_static")


def playwright():
    "The folder in which node finds playwright-core, or None."
    roots = [os.environ.get("PLAYWRIGHT_CORE", ""), str(ROOT)]
    return next(
        (r for r in roots if r and (Path(r) / "node_modules" / "playwright-core").is_dir()), None
    )


def test_in_a_real_browser(built, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium or not shutil.which("node"):
        pytest.skip("needs Chromium and node: apt-get install chromium nodejs")
    if not playwright():
        pytest.skip(
            "needs playwright-core: npm install playwright-core in a folder, and PLAYWRIGHT_CORE=that folder"
        )
    command = ["node", SITE / "browser.mjs", built[0], chromium, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=playwright())
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 2 * 11
    assert [line for line in lines if not line["ok"]] == []
