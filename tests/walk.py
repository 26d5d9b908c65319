"""Walks through the course as a student does: opens notebooks in JupyterLab in Chromium, and presses "Run All Cells".

    python tests/walk.py                    # every notebook of nbs/
    python tests/walk.py 01_denoising ...   # some
    python tests/walk.py --keep             # and what each showed becomes its stored outputs

For each it prints the seconds, the number of code cells and the errors; pictures of the page and walk.json go to
reports/walk/. It needs Chromium and the `browser` extra; the exit status is 1 if a notebook showed an error.
"""

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import nbformat

from diffsda.cli import store_outputs

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LINKED = ("data", "data_scripts", "results", "README.md", "settings.ini", "nbs/classroom/source")
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --disable-component-update
    --disable-background-networking --autoplay-policy=no-user-gesture-required""".split()
LAB_SETTINGS = {
    # cells that are not on the screen stay in the page, so that they can be counted
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
OUTPUT = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.{}']"
# JupyterLab shows an error as such, or as text on stderr
ERROR = f"{OUTPUT.format('error')}, {OUTPUT.format('stderr')}:has-text('Traceback (most recent')"
FOLDED = ".jp-CodeCell .jp-InputPlaceholder"
RUN_ALL = "Run", "runmenu:run-all"
OPEN_ALL = "View", "notebook:show-all-cell-code"
# the prompt of each code cell that has something to run: "[ ]:", "[*]:" while it runs, "[7]:" after
PROMPTS = """() => [...document.querySelectorAll(".jp-CodeCell")]
    .filter(cell => cell.querySelector(".cm-content").innerText.trim())
    .map(cell => cell.querySelector(".jp-InputPrompt").innerText)"""


class Walk(NamedTuple):
    notebook: str  # stem
    seconds: float  # from "Run All Cells" until the kernel rests
    cells: int  # code cells that ran
    folded: int  # code cells that were folded when it opened
    errors: list  # text of each error shown in the page


def missing() -> str:
    """What a walk lacks on this machine; empty if nothing."""
    if not chromium():
        return f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the path"
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is missing: pip install 'diffsda[browser]'"
    return ""


def chromium() -> str | None:
    """The path of a Chromium; none if there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@contextmanager
def browser_page(width: int = 1280, height: int = 720, **options):
    """A page of a headless Chromium, `width` times `height` pixels large."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        try:
            viewport = {"width": width, "height": height}
            yield browser.new_page(viewport=viewport, **options)
        finally:
            browser.close()


class Lab(NamedTuple):
    """A running JupyterLab."""

    port: int
    token: str

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}?token={self.token}"

    def ask(self, path: str):
        """What the server's API answers; None for an error, as while a kernel comes or goes."""
        try:
            with urllib.request.urlopen(self.url(path), timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            return None

    def resting(self) -> bool:
        """Is there a kernel, a page that listens to it, and nothing to do?"""
        kernels = self.ask("/api/kernels")
        return bool(kernels) and all(
            kernel["execution_state"] == "idle" and kernel["connections"] > 0 for kernel in kernels
        )

    def stop_kernels(self):
        """Ends all sessions; a server that is busy may need to be asked twice."""

        def none_left():
            for session in self.ask("/api/sessions") or []:
                url = self.url(f"/api/sessions/{session['id']}")
                with suppress(urllib.error.HTTPError):
                    delete = urllib.request.Request(url, method="DELETE")
                    urllib.request.urlopen(delete, timeout=30).close()
            return self.ask("/api/sessions") == []

        wait_until(none_left, 60, "all kernels stop")


def wait_until(true, seconds: float, what: str, every: float = 0.2):
    """Returns as soon as `true()` is. Raises TimeoutError that says `what` did not happen."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


@contextmanager
def jupyter_lab(folder: Path):
    """A JupyterLab that serves `folder`, with settings and files of its own, and is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        lab = Lab(free.getsockname()[1], secrets.token_hex())
    own = Path(tempfile.mkdtemp(prefix="lab-"))
    for name, values in LAB_SETTINGS.items():
        path = own / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": own / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces",
        "JUPYTER_CONFIG_DIR": own / "config",
        "JUPYTER_RUNTIME_DIR": own / "runtime",
        "IPYTHONDIR": own / "ipython",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={lab.port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder}"]
    log = own / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command,
            env=os.environ | {name: str(path) for name, path in folders.items()},
            stdout=out,
            stderr=out,
        )

    def up():
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
        try:
            return bool(lab.ask("/api/status"))
        except OSError:
            return False

    try:
        wait_until(up, 60, "JupyterLab answers")
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(own, ignore_errors=True)


def choose(page, menu: str, command: str):
    """Clicks on an entry of one of JupyterLab's menus."""
    page.click(f".lm-MenuBar-itemLabel:text-is('{menu}')")
    page.click(f".lm-Menu-item[data-command='{command}']")


def walk(page, lab: Lab, path: str, timeout: float = 300) -> Walk:
    """What a run of the notebook at `path`, seen from the server's folder, showed in the page."""
    page.goto(lab.url(f"/lab/tree/{path}") + "&reset")
    page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    # the page calls its kernel idle too early, and what is run before it listens is lost
    wait_until(lab.resting, 60, f"a kernel for {path}")
    page.wait_for_timeout(1000)
    if folded := page.locator(FOLDED).count():  # a folded cell shows no number
        choose(page, *OPEN_ALL)
        page.wait_for_selector(FOLDED, state="detached")

    start = time.monotonic()
    before = page.evaluate(PROMPTS)
    for _ in range(3):  # a click that came too early is lost without a word
        choose(page, *RUN_ALL)
        with suppress(TimeoutError):
            wait_until(lambda: page.evaluate(PROMPTS) != before, 5, "the first cell starts")
            break

    def done():
        prompts = page.evaluate(PROMPTS)
        ran = all(prompt.strip("[]: \n").isdigit() for prompt in prompts)
        # after an error the cells behind it do not run
        return (ran or page.locator(ERROR).count()) and lab.resting()

    wait_until(done, timeout, f"{path} runs to its end")
    seconds = time.monotonic() - start
    ran = [prompt for prompt in page.evaluate(PROMPTS) if prompt.strip("[]: \n").isdigit()]
    errors = page.locator(ERROR).all_inner_texts()
    return Walk(Path(path).stem, round(seconds, 1), len(ran), folded, errors)


@contextmanager
def course(notebooks: list):
    """A folder like the repository, with copies of `notebooks` (of nbs/) whose stored outputs are gone.

    Without old outputs and old numbers of cells, whatever the page shows comes from this run."""
    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        for name in LINKED:
            if (ROOT / name).exists():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).symlink_to(ROOT / name)
        for path in notebooks:
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
            copy = Path(folder) / Path(path).resolve().relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, copy)
        yield Path(folder)


def photograph(page, path: Path):
    """Writes pictures of the notebook in the page, from its top to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.locator(".jp-NotebookPanel .jp-Cell").first.scroll_into_view_if_needed()
    page.screenshot(path=path.with_name(f"{path.stem}-top.png"))
    pictures = page.locator(".jp-OutputArea-output img")
    if pictures.count():
        pictures.last.scroll_into_view_if_needed()
        page.screenshot(path=path.with_name(f"{path.stem}-picture.png"))
    page.locator(".jp-NotebookPanel .jp-Cell").last.scroll_into_view_if_needed()
    page.screenshot(path=path.with_name(f"{path.stem}-end.png"))


def save(page, copy: Path):
    """Saves the notebook in the page, and returns once its outputs are in the file."""
    choose(page, "File", "docmanager:save")

    def written():
        cells = nbformat.read(copy, as_version=4).cells
        return all(cell.execution_count for cell in cells if cell.cell_type == "code")

    wait_until(written, 60, f"{copy.name} is saved")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="stems of notebooks; none: all")
    parser.add_argument("--output", default="reports/walk", help="folder for pictures")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a notebook")
    parser.add_argument("--keep", action="store_true", help="store what each showed as outputs")
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    from playwright.sync_api import Error as PageError

    every = sorted(NBS.glob("*.ipynb")) + sorted((NBS / "classroom").glob("*.ipynb"))
    chosen = [path for path in every if not options.names or path.stem in options.names]
    if unknown := set(options.names) - {path.stem for path in chosen}:
        raise SystemExit(f"no such notebook in nbs/: {', '.join(sorted(unknown))}")

    output, walks = Path(options.output), []
    with course(chosen) as folder:
        for path in chosen:  # a server each, so that none has to live with another's kernels
            with jupyter_lab(folder) as lab, browser_page() as page:
                name, found = path.relative_to(ROOT).as_posix(), Walk(path.stem, 0.0, 0, 0, [])
                try:
                    found = walk(page, lab, name, options.timeout)
                    if options.keep and not found.errors:
                        save(page, folder / name)
                        store_outputs(folder / name, path)
                    photograph(page, output / path.stem)
                except (TimeoutError, ValueError, PageError) as error:
                    found = found._replace(errors=[*found.errors, str(error)])
                lab.stop_kernels()
            walks.append(found)
            first = found.errors[0].strip().splitlines()[-1] if found.errors else "no error"
            print(
                f"{found.notebook:24s}{found.seconds:7.1f} s {found.cells:4d} cells   {first}",
                flush=True,
            )
            report = json.dumps([w._asdict() for w in walks], indent=1)
            (output / "walk.json").write_text(report, encoding="utf-8")
    sys.exit(any(found.errors for found in walks))


if __name__ == "__main__":
    main()
