"""The shape of the package: what may import what, where words belong, and that diffsda/ is what the notebooks export."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffsda"
FIRST_MODALITY = 22  # notebooks from this number on may know a modality by name
EQUATIONS = {"denoising", "precond", "loss", "sampling"}

NUMBERS = {p.stem[3:]: int(p.stem[:2]) for p in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")}
MODULES = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_"))
by_module = pytest.mark.parametrize("module", MODULES)

WORDS = """video audio speech speaker music voice phoneme spectrogram mel timeseries etth etth1 etth2 ett mug taichi vox
    voxceleb celebv timit librispeech ravdess fsdd sprites physionet airq air_quality ecg icu har""".split()
PHRASES = ("time series", "time-series", "time_series", "air quality")


def imports_of(tree):
    """The modules of this package that a module imports anywhere, and the first names of all others."""
    own, others = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = "diffsda." if node.level else ""
            full = [(prefix + (node.module or "")).rstrip(".")]
            if full == ["diffsda"]:
                full = [f"diffsda.{alias.name}" for alias in node.names]
        else:
            continue
        for name in full:
            first, _, rest = name.partition(".")
            if first == "diffsda":
                own.add(rest.split(".")[0])
            else:
                others.add(first)
    return own, others


def words_of(text):
    """The words of a source, with snake_case and CamelCase taken apart."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*", text)
    return {part.lower() for part in parts} | set(re.findall(r"[a-z0-9_]+", text.lower()))


def parse(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def test_reading_the_ast():
    tree = ast.parse(
        "from .a import f\nfrom diffsda.b import g\nfrom diffsda import c\nimport diffsda.d\nimport os.path"
    )
    assert imports_of(tree) == ({"a", "b", "c", "d"}, {"os"})
    assert "video" in words_of("load_video") and "video" in words_of("VideoClip")
    assert "etth1" in words_of("dataset = 'ETTh1'") and "har" not in words_of("share")


@by_module
def test_module_comes_from_the_notebook_of_its_name(module):
    assert module in NUMBERS, f"no notebook exports {module}.py; is it a leftover?"
    header = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert f"nbs/{NUMBERS[module]:02d}_{module}.ipynb" in header


@pytest.mark.parametrize("stem", sorted(NUMBERS))
def test_notebook_exports_the_module_of_its_name(stem):
    text = (ROOT / "nbs" / f"{NUMBERS[stem]:02d}_{stem}.ipynb").read_text(encoding="utf-8")
    exported = re.findall(r"#\| *default_exp +(\w+)", text)
    assert exported in ([], [stem])


@by_module
def test_imports_only_earlier_modules(module):
    own, _ = imports_of(parse(module))
    late = {name for name in own if NUMBERS.get(name, -1) >= NUMBERS[module]}
    assert not late, f"{module} (notebook {NUMBERS[module]}) imports {late}, which come later"


@by_module
def test_equations_and_data_stand_alone(module):
    own, others = imports_of(parse(module))
    if module in EQUATIONS:
        assert own <= EQUATIONS
        assert others <= {"torch", "numpy"} | set(sys.stdlib_module_names)
    if module == "data":
        assert not own


@by_module
def test_only_modalities_name_a_modality(module):
    if NUMBERS[module] >= FIRST_MODALITY:
        pytest.skip("a modality, or above one")
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    found = words_of(text) & set(WORDS) | {phrase for phrase in PHRASES if phrase in text.lower()}
    assert not found, f"{module}.py names {found}; that belongs to a modality's own module"


def test_there_is_no_utils_module():
    assert not {"utils", "helpers", "common", "misc"} & set(MODULES)


def snapshot(folder):
    files = [p for room in ("nbs", "diffsda") for p in (folder / room).rglob("*.*")]
    kept = [
        p for p in files if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts
    ]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def test_export_is_a_fixed_point(tmp_path):
    """Cleaning and exporting a copy changes nothing: the notebooks are clean, diffsda/ is what they export."""
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.egg-info")
    for room in ("nbs", "diffsda"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=ignore)
    shutil.copy(ROOT / "settings.ini", tmp_path)
    for stale in (tmp_path / "diffsda").glob("*.py"):
        if stale.stem in MODULES:
            stale.unlink()  # a module whose notebook is gone must not come back
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    home = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }  # not the user's nbdev settings
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run(
            [command], cwd=tmp_path, env={**os.environ, **home, "PATH": tools}, check=True
        )
    before, after = snapshot(ROOT), snapshot(tmp_path)
    differ = sorted(name for name in before | after if before.get(name) != after.get(name))
    assert not differ, f"run 'make fmt' and commit; it changes {', '.join(differ)}"


def run_python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


@pytest.mark.parametrize("module", ["diffsda", "diffsda.cli"])
def test_import_needs_no_notebook_tools(module):
    tools = ["papermill", "nbconvert", "nbformat", "nbdev", "fastcore", "IPython", "matplotlib"]
    done = run_python(f"import sys, {module}; print([t for t in {tools} if t in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"import {module} brings in {done.stdout}"


HEAVY = ["torch", "numpy", "pandas", "sklearn", "scipy", "PIL"]  # seconds to load


@pytest.mark.parametrize("words", [["--help"], ["swap", "--help"], ["run", "--help"], []])
def test_a_command_line_that_only_says_what_it_can_do_loads_nothing_heavy(words):
    ask = f"import sys; from diffsda.cli import main\ntry: main({words})\nexcept SystemExit: pass\n"
    done = run_python(ask + f"print([name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", f"{words} brings in {done.stdout}"


def test_names_of_the_package_are_there_before_they_are_loaded():
    see = "import sys, diffsda; print(set(diffsda.__all__) <= set(dir(diffsda)), 'torch' in sys.modules)"
    use = "from diffsda import *; print(DiffSDA.mlp, Factors._fields, distilled, fit, load, pretrained())"
    done = run_python(f"{see}\n{use}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True False\n")
    missing = run_python("import diffsda; diffsda.no_such_name")
    assert "has no attribute 'no_such_name'" in missing.stderr


def test_readme_example_runs(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    assert examples, "the README shows no Python example"
    done = run_python("\n".join(examples), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
