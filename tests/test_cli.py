"""The runner, on tiny notebooks: what is refused, what is kept, what a report holds."""

import json
import re
import shlex
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from diffsda import cli

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("forked_kernels")
FORM = 'data = "bump"  # one of: bump, rotor\nsteps = 4  # training steps\nfast = True'
FIGURE = """import matplotlib.pyplot as plt
plt.plot([0, 1]);"""


def maker(folder):
    """What writes a notebook there: the parameters cell, then one code cell for each source."""

    def write(name, *sources, form=FORM, alt="A line."):
        cells = [new_markdown_cell("# A title\n\nSome prose, $x^2$ & more.")]
        cells.append(new_code_cell(form, metadata={"tags": ["parameters"]}))
        alternative = {"mystnb": {"image": {"alt": alt}}}
        cells += [new_code_cell(source, metadata=alternative) for source in sources]
        path = folder / "nbs" / name
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


@pytest.fixture
def make(tmp_path):
    return maker(tmp_path)


def run(notebook, tmp_path, parameters=None, **options):
    return cli.run_notebook(
        notebook, tmp_path / "out" / "o.ipynb", parameters, progress=False, **options
    )


def stdout_of(executed):
    outputs = [
        o for c in nbformat.read(executed, 4).cells if c.cell_type == "code" for o in c.outputs
    ]
    return "".join(o.text for o in outputs if o.get("name") == "stdout")


def test_parameters_reach_the_notebook(make, tmp_path):
    executed = run(
        make("a.ipynb", "print(data, steps * 2)"), tmp_path, {"data": "rotor", "steps": 5}
    )
    assert stdout_of(executed) == "rotor 10\n"


def test_kernel_works_where_the_notebook_lies_or_where_told(make, tmp_path):
    notebook = make("a.ipynb", "from pathlib import Path\nprint(Path.cwd().name)")
    assert stdout_of(run(notebook, tmp_path)) == "nbs\n"
    (tmp_path / "elsewhere").mkdir()
    assert stdout_of(run(notebook, tmp_path, cwd=tmp_path / "elsewhere")) == "elsewhere\n"


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"stepz": 3}, "no parameter 'stepz'; did you mean 'steps'"),
        ({"data": "rotr"}, "data cannot be 'rotr'; did you mean 'rotor'"),
        ({"steps": "many"}, "steps must be a whole number .*got 'many'"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"fast": 1}, "fast must be True or False"),
    ],
)
def test_wrong_parameters_are_refused_before_work(make, tmp_path, parameters, message):
    notebook = make("a.ipynb", "open('started', 'w').close()")
    with pytest.raises(ValueError, match=message):
        run(notebook, tmp_path, parameters)
    assert not (tmp_path / "out").exists() and not (tmp_path / "nbs" / "started").exists()


def test_a_whole_number_is_a_number(make):
    notebook = make("a.ipynb", form="share = 0.5")
    cli.check_parameters(notebook, {"share": 1})
    with pytest.raises(ValueError, match="share must be a number .*got 'half'"):
        cli.check_parameters(notebook, {"share": "half"})


def test_every_list_of_values_in_a_form_is_read():
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        forms = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
        listed = [entry for entry in cli.parameters_of(path).values() if entry.choices]
        assert sum(form.count("# one of:") for form in forms) == len(listed), path.name


def test_executed_notebook_is_kept_on_error(make, tmp_path):
    notebook = make("a.ipynb", "print('before')", "1 / 0", "print('after')")
    with pytest.raises(
        RuntimeError, match=r"a\.ipynb: ZeroDivisionError: division by zero\n.*o\.ipynb"
    ):
        run(notebook, tmp_path)
    assert stdout_of(tmp_path / "out" / "o.ipynb") == "before\n"


def test_time_is_for_the_whole_notebook(make, tmp_path):
    pause = "import time\ntime.sleep(1.5)"  # no cell alone takes the 3 seconds
    notebook = make("a.ipynb", "print('before')", *[pause] * 4)
    with pytest.raises(TimeoutError, match=r"longer than 3 s\n.*o\.ipynb"):
        run(notebook, tmp_path, timeout=3)
    assert stdout_of(tmp_path / "out" / "o.ipynb") == "before\n"


def test_a_killed_kernel_is_reported(make, tmp_path):
    notebook = make("a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RuntimeError, match="kernel died"):
        run(notebook, tmp_path)


def test_a_notebook_without_kernelspec_or_parameters_runs(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("print(1)")]), tmp_path / "bare.ipynb")
    assert stdout_of(run(tmp_path / "bare.ipynb", tmp_path)) == "1\n"
    with pytest.raises(ValueError, match="known: none"):
        run(tmp_path / "bare.ipynb", tmp_path, {"seed": 1})


def test_experiments_are_found_by_any_of_their_names(make, tmp_path):
    demo = make("16_demo.ipynb")
    other = make("41_more.ipynb", form='data = "hill"  # one of: hill, dale (both made up)')
    make("05_lesson.ipynb", form='fast = True\ndata = "bump"')
    folder = tmp_path / "nbs"
    assert [(e.notebook, e.data) for e in cli.experiments(folder)] == [
        (demo, ("bump", "rotor")),
        (other, ("hill", "dale")),
    ]
    for name, notebook, parameters in [
        ("demo", demo, {}),
        ("16_demo", demo, {}),
        ("rotor", demo, {"data": "rotor"}),
        ("dale", other, {"data": "dale"}),
    ]:
        experiment, stands_for = cli.find_experiment(name, folder)
        assert (experiment.notebook, stands_for) == (notebook, parameters)
    with pytest.raises(ValueError, match="did you mean 'dale'.*known: .*16_demo, 41_more"):
        cli.find_experiment("dael", folder)
    with pytest.raises(ValueError, match="no experiment 'lesson'"):
        cli.find_experiment("lesson", folder)


def test_a_set_is_that_of_its_own_experiments_whatever_else_asks_about_it(make, tmp_path):
    earlier = make("35_distil.ipynb", form='data = "dale"  # one of: dale, moor')
    own = make("42_hills_experiments.ipynb", form='data = "hill"  # one of: hill, dale')
    found = lambda name: cli.find_experiment(name, tmp_path / "nbs")
    assert found("dale") == (cli.Experiment(own, ("hill", "dale")), {"data": "dale"})
    assert found("moor")[0].notebook == found("distil")[0].notebook == earlier


def test_folder_without_notebooks(tmp_path):
    with pytest.raises(ValueError, match="--notebooks"):
        cli.notebooks_folder(tmp_path)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a notebook with a figure, a table, sound, an animation and things from the network."""
    folder = tmp_path_factory.mktemp("report")
    notebook = maker(folder)(
        "14_show.ipynb",
        FIGURE,
        "import pandas as pd\npd.DataFrame({'loss': [0.25]})",
        "import numpy as np\nfrom IPython.display import Audio\nAudio(np.zeros(100), rate=8000)",
        """import io
from IPython.display import Image
from PIL import Image as Frame
frames = [Frame.new("L", (4, 4), 80 * i) for i in range(3)]
gif = io.BytesIO()
frames[0].save(gif, format="GIF", save_all=True, append_images=frames[1:])
Image(gif.getvalue())""",
        """from IPython.display import HTML
HTML('<link rel="stylesheet" href="https://x.org/a.css"><script src="//x.org/a.js"></script>'
     '<style>@import "https://x.org/b.css"; p { background: url(https://x.org/c.png) }</style>'
     '<img src="http://x.org/d.png"><a href="https://x.org/page">to read</a>')""",
        "import sys\nprint('a progress bar', file=sys.stderr)\nprint('a result')",
        alt='A line from 0 to 1 & "up".',
    )
    executed = run(notebook, folder, {"steps": 7})
    return cli.write_report(executed, folder / "report.html").read_text(encoding="utf-8")


def test_report_needs_nothing_but_itself(report):
    from bs4 import BeautifulSoup

    page = BeautifulSoup(report, "html.parser")
    for tag in page.find_all(True):
        for name in ("src", "srcset", "poster", "data") + (() if tag.name == "a" else ("href",)):
            if name in tag.attrs:
                assert tag[name].startswith("data:"), f"{tag.name} fetches {tag[name]}"
    assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", report)
    assert page.find("a", href="https://x.org/page")


def test_report_holds_results_and_hides_code(report):
    from bs4 import BeautifulSoup

    page = BeautifulSoup(report, "html.parser")
    assert page.title.text == "A title" and "Some prose" in page.text
    images = page.find_all("img", src=True)
    assert [image["src"].split(";")[0] for image in images] == ["data:image/png", "data:image/gif"]
    assert {image["alt"] for image in images} == {'A line from 0 to 1 & "up".'}
    assert "0.25" in page.find("table").text
    assert page.find("audio") or page.find("source")
    assert "a result" in page.text and "a progress bar" not in page.text
    assert "plt.plot" not in report and "import pandas" not in report
    assert "steps = 7" in page.text and "data = 'bump'" in page.text


def test_refresh_stores_outputs_and_nothing_else(make, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    notebook = make(
        "a.ipynb", FIGURE, "import sys\nprint('bar', file=sys.stderr)\nprint(steps, fast)\nsteps"
    )
    content = notebook.read_text(encoding="utf-8").replace("fast = True", "fast = False")
    content = content.replace('"execution_count": null', '"execution_count": 9')
    notebook.write_text(content, encoding="utf-8")
    before = nbformat.read(notebook, 4)
    cli.refresh(notebook, progress=False)
    after = nbformat.read(notebook, 4)
    assert [(c.id, c.source, c.metadata) for c in after.cells] == [
        (c.id, c.source, c.metadata) for c in before.cells
    ]
    assert after.metadata == before.metadata
    assert "image/png" in after.cells[2].outputs[0].data
    printed, shown = after.cells[3].outputs
    assert printed.text == "4 True\n" and shown.data["text/plain"] == "4"
    assert 'execution_count": 1' not in notebook.read_text(encoding="utf-8")
    assert shown.execution_count is None and after.cells[3].execution_count is None

    assert [p.name for p in tmp_path.iterdir()] == ["nbs"], "nothing is left lying about"

    once = notebook.read_bytes()
    cli.refresh(notebook, progress=False)
    assert notebook.read_bytes() == once


@pytest.mark.parametrize(
    "source, message",
    [
        ("import warnings\nwarnings.warn('old')", "a warning: UserWarning: old"),
        ("from pathlib import Path\nprint(Path.cwd())", "a path of this machine"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_refresh_refuses_what_must_not_be_committed(make, source, message):
    notebook = make("a.ipynb", source)
    before = notebook.read_bytes()
    with pytest.raises((ValueError, RuntimeError), match=message) as caught:
        cli.refresh(notebook, progress=False)
    assert Path(str(caught.value).split()[-1]).exists(), "the run is kept to look at"
    assert notebook.read_bytes() == before and list(notebook.parent.iterdir()) == [notebook]


def test_command_writes_notebook_and_report(make, tmp_path, monkeypatch, capsys):
    make("16_demo.ipynb", "print(data, steps)")
    monkeypatch.chdir(tmp_path)
    folder = ["--notebooks", "nbs", "--quiet"]
    assert cli.main(["run", "rotor", "-p", "steps", "7", *folder]) == 0
    said = capsys.readouterr().out
    assert said.split() == [
        "notebook:",
        "reports/rotor/16_demo.ipynb",
        "report:",
        "reports/rotor/report.html",
    ]
    assert "rotor 7" in (tmp_path / "reports" / "rotor" / "report.html").read_text(encoding="utf-8")
    assert cli.main(["run", "demo", "-p", "data", "rotor", *folder]) == 0
    pages = [tmp_path / "reports" / name / "report.html" for name in ("rotor", "rotor-demo")]
    assert [page in tmp_path.rglob("*") for page in pages] == [True, True]
    assert cli.main(["run", "demo", "-o", "mine", *folder]) == 0
    assert (tmp_path / "mine" / "report.html").exists()


def test_command_says_what_is_wrong(make, tmp_path, monkeypatch, capsys):
    make("16_demo.ipynb", "assert steps > 3, 'too few'")
    monkeypatch.chdir(tmp_path)
    folder = ["--notebooks", "nbs", "--quiet"]
    assert cli.main(["run", "bmup", *folder]) == 2
    assert "did you mean 'bump'" in capsys.readouterr().err
    assert cli.main(["run", "bump", "-p", "step", "3", *folder]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()

    assert cli.main(["run", "bump", *folder]) == 0
    report = tmp_path / "reports" / "bump" / "report.html"
    assert cli.main(["run", "bump", "-p", "step", "3", *folder]) == 2
    assert report.exists(), "a refused call touches nothing"
    assert cli.main(["run", "bump", "-p", "steps", "3", *folder]) == 1
    said = capsys.readouterr().err
    assert "too few" in said and "reports/bump/16_demo.ipynb" in said
    assert not report.exists(), "an older report must not pass for this run's"


def test_command_refreshes_all_it_can(make, tmp_path, capsys):
    make("01_bad.ipynb", "1 / 0")
    good = make("02_good.ipynb", "print(steps)")
    assert cli.main(["refresh", "--notebooks", str(good.parent), "--quiet"]) == 1
    said = capsys.readouterr()
    assert "01_bad.ipynb: ZeroDivisionError" in said.err and "refreshed 02_good.ipynb" in said.out
    assert stdout_of(good) == "4\n"


def test_missing_tools_say_how_to_get_them(monkeypatch, make, capsys):
    notebook = make("16_demo.ipynb")
    monkeypatch.setitem(sys.modules, "papermill.translators", None)
    assert cli.main(["run", "bump", "--notebooks", str(notebook.parent)]) == 1
    assert "pip install 'diffsda[dev]'" in capsys.readouterr().err


@given(st.integers() | st.booleans() | st.floats(allow_nan=False))
def test_values_survive_the_command_line(value):
    parsed = cli.parse_value(str(value))
    assert parsed == value and type(parsed) is type(value)
    assert cli.parse_value("bump") == "bump"


def test_the_commands_of_stored_numbers_would_run(monkeypatch):
    files = [*ROOT.glob("results/*.json"), *ROOT.glob("diffsda/zoo_models/*/card.json")]
    told = "\n".join(path.read_text(encoding="utf-8") for path in files)
    commands = {
        json.loads(f'"{words}"') for words in re.findall(r'diffsda run (?:[^;("\\]|\\.)*', told)
    }
    known, parser = cli.experiments(ROOT / "nbs"), cli.command_line()
    monkeypatch.setattr(cli, "experiments", lambda folder: known)  # read once
    for command in commands:
        args = parser.parse_args(shlex.split(command)[1:])
        experiment, parameters = cli.find_experiment(args.experiment, ROOT / "nbs")
        told = {
            name: cli.parse_value(value.replace("$seed", "0")) for name, value in args.parameter
        }
        cli.check_parameters(experiment.notebook, parameters | told)
    assert len(commands) > 100


def test_command_tries_all_notebooks_also_after_one_that_is_not_there(make, capsys):
    good = make("a.ipynb", "print(steps)")
    assert cli.main(["refresh", "nowhere.ipynb", str(good), "--quiet"]) == 1
    told = capsys.readouterr()
    assert "nowhere.ipynb" in told.err and "refreshed a.ipynb" in told.out
