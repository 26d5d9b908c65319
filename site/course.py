"""What Sphinx reads: the course's notebooks as pages, and pages made of what the repository holds.

    python site/course.py FOLDER

No notebook is run. The table of contents follows the files: a notebook belongs to the last part of `PARTS`
whose number is not above its own, so a new notebook needs no line here.
"""

import copy
import json
import re
import shutil
import sys
import tarfile
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from urllib.parse import quote

import nbformat
import reference
import tables
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# first number, heading, extras that its notebooks need
PARTS = [
    (0, "Part I: diffusion", ""),
    (5, "Part II: sequences", ""),
    (12, "Did it split?", ""),
    (20, "Part III: sets and one door", ""),
    (22, "Part III: video", "video"),
    (29, "Part III: sound", "audio"),
    (35, "Part III: one call, any set", "audio,video"),
    (40, "Part III: time series", ""),
    (44, "Part III: all of them", "audio,video"),
    (50, "Tools", "audio,video"),
]
ALSO = {
    "52": "app",
    "55": "classroom",
    "56": "dev",
}  # number: what that notebook needs beside its part
CLASSROOM = "For teachers"
DROPPED_OUTPUTS = {
    "application/vnd.jupyter.widget-view+json",
    "application/vnd.jupyter.widget-state+json",
}
PROGRESS = re.compile(r"\d+%\|.*\||it/s|s/it")
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


@cache
def facts() -> dict:
    "The package's own facts, from settings.ini."
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def part_of(
    path: Path,  # a notebook of the course
) -> tuple[str, str]:  # the heading of its part, and the extras that it needs
    """The part that a notebook belongs to, by the number that its name begins with.

    Raises ValueError if the name begins with no number."""
    if path.parent.name == "classroom":
        return CLASSROOM, "classroom"
    number = re.match(r"\d+", path.stem)
    if not number:
        raise ValueError(
            f"{path.name} begins with no number, so its place in the course is unknown; "
            "name it NN_topic.ipynb"
        )
    heading, extras = [part[1:] for part in PARTS if part[0] <= int(number[0])][-1]
    return heading, ",".join(filter(None, (extras, ALSO.get(number[0]))))


def notebooks() -> list[Path]:
    "All notebooks that become pages, in reading order: the course, then the pages for teachers."
    course = [path for path in sorted((ROOT / "nbs").glob("*.ipynb")) if path.stem != "index"]
    return course + sorted((ROOT / "nbs" / "classroom").glob("*.ipynb"))


def page_of(
    path: Path,  # a notebook
) -> str:  # its page's name, without an ending
    "The name of a notebook's page on the site."
    folder = "classroom" if path.parent.name == "classroom" else "course"
    return f"{folder}/{path.stem}"


@cache
def places() -> dict[Path, str]:
    "The prepared source of each file of the repository that has a page."
    pages = {path: f"{page_of(path)}.ipynb" for path in notebooks()}
    pages |= {
        ROOT / "README.md": "index.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "data_scripts" / "README.md": "data.md",
        ROOT / "CITATION.cff": "cite.md",
        ROOT / "nbs" / "index.ipynb": "index.md",
    }
    pages |= {path: f"results/{path.stem}.md" for path in (ROOT / "results").glob("*.json")}
    return pages


def relinked(
    text: str,  # Markdown
    source: Path,  # the file it is from
    page: str,  # the page it goes to
) -> str:
    "Markdown whose relative links lead to pages of this site, or to the repository where there is none."
    pages = places()
    up = "../" * page.count("/")

    def target(match: re.Match) -> str:
        text, link = match.groups()
        name, hash_, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or not name:
            return match[0]
        path = (source.parent / name).resolve()
        if text.startswith("!"):
            return f"{text}({up}pictures/{path.name})"
        if path in pages:
            return f"{text}({up}{pages[path]}{hash_}{anchor.lower()})"
        if path.exists() and path.is_relative_to(ROOT):
            kind = "tree" if path.is_dir() else "blob"
            known = facts()
            return f"{text}({known['git_url']}/{kind}/{known['branch']}/{path.relative_to(ROOT)})"
        return match[0]

    return LINK.sub(target, text)


def set_up_cell(
    path: Path,  # a notebook
) -> str:
    "Code that installs the package where a notebook was opened alone, as in Colab; elsewhere it does nothing."
    known, extras = facts(), part_of(path)[1]
    name = f"{known['lib_name']}[{extras}]" if extras else known["lib_name"]
    folder = path.parent.relative_to(ROOT)
    return (
        "# Set-up, for Colab: installs the package and goes to a copy of the repository. Elsewhere it does nothing.\n"
        "import importlib.util\n\n"
        f'if importlib.util.find_spec("{known["lib_name"]}") is None:\n'
        f"    !git clone --quiet --depth 1 --branch {known['branch']} {known['git_url']} {known['repo']}-course\n"
        f'    %pip install --quiet "{name} @ git+{known["git_url"]}@{known["branch"]}"\n'
        f"    %cd {known['repo']}-course/{folder}"
    )


def alone(
    path: Path,  # a notebook of the repository
) -> nbformat.NotebookNode:
    "The notebook to download or to open in Colab: as it is in the repository, with a set-up cell after its title."
    notebook = nbformat.read(path, as_version=4)
    cell = nbformat.v4.new_code_cell(set_up_cell(path), id="set-up")
    notebook.cells.insert(1, cell)
    for cell in notebook.cells:  # a notebook that is handed over begins unrun
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def opening_line(
    path: Path,  # a notebook
) -> str:
    "The links of a page with which a reader gets the notebook: Colab, Binder, a file."
    known = facts()
    owner = known["git_url"].removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{owner}/blob/gh-pages/notebooks/{path.name}"
    place = quote(f"lab/tree/{path.relative_to(ROOT)}", safe="")
    binder = f"https://mybinder.org/v2/gh/{owner}/{known['branch']}?urlpath={place}"
    return (
        '<p class="open-in">'
        f'<a href="{colab}">Open in Colab</a> '
        f'<a href="{binder}">Open in Binder</a> '
        f'<a href="../notebooks/{path.name}" download>Download the notebook</a></p>'
    )


def shown_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    "An output as the site shows it, or None: no widgets, which need a kernel, and no progress bars."
    if output.output_type == "stream":
        lines = [line for line in output.text.splitlines() if not PROGRESS.search(line)]
        if not "".join(lines).strip():
            return None
        return nbformat.from_dict(output | {"text": "\n".join(lines) + "\n"})
    data = output.get("data", {})
    if DROPPED_OUTPUTS & set(data):
        data = {k: v for k, v in data.items() if k.startswith(("image/", "text/html"))}
        return nbformat.from_dict(output | {"data": data}) if data else None
    return output


def as_page(
    path: Path,  # a notebook
) -> nbformat.NotebookNode:
    "A notebook as a page: directives stripped, hidden cells left out, solutions folded, links that lead somewhere."
    notebook = nbformat.read(path, as_version=4)
    page, cells = page_of(path), []
    for number, cell in enumerate(notebook.cells):
        cell = copy.deepcopy(cell)
        directives = re.findall(r"^#\|\s*([\w-]+)", cell.source, re.MULTILINE)
        if cell.cell_type == "code":
            if {"hide", "default_exp"} & set(directives):
                continue
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
            cell.outputs = [o for o in map(shown_output, cell.outputs) if o is not None]
            if not cell.source and not cell.outputs:
                continue
            if "export" in directives or "exports" in directives:
                anchor = f'<span id="cell-{cell.id}"></span>'
                cells.append(nbformat.v4.new_markdown_cell(anchor, id=f"to-{cell.id}"))
            if "solution" in cell.metadata.get("tags", []):
                cell.metadata.tags = [*cell.metadata.tags, "hide-cell"]
                cell.metadata.setdefault("mystnb", {}).update(
                    code_prompt_show="Show the solution", code_prompt_hide="Hide the solution"
                )
        elif cell.cell_type == "markdown":
            cell.source = relinked(cell.source, path, page)
            if "solution" in cell.metadata.get("tags", []):
                cell.source = (
                    f"<details><summary>Show the solution</summary>\n\n{cell.source}\n\n</details>"
                )
            if number == 0:
                cell.source += f"\n\n{opening_line(path)}"
        cells.append(cell)
    notebook.cells = cells
    return notebook


def toc() -> str:
    "The table of contents: the course by its parts, then the pages beside it."
    groups: dict[str, list[str]] = {}
    for path in notebooks():
        groups.setdefault(part_of(path)[0], []).append(page_of(path))
    groups["Results"] = [
        "results/index",
        *(f"results/{p.stem}" for p in sorted((ROOT / "results").glob("*.json"))),
    ]
    groups["Look up"] = ["paper", "glossary", "data", "api/index", "cite", "changelog"]
    return "\n".join(
        f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n:titlesonly:\n:hidden:\n\n"
        + "\n".join(pages)
        + "\n```\n"
        for caption, pages in groups.items()
    )


def contents() -> str:
    "The course on one page: for each part a list of its notebooks with their one-line summaries."
    lines, last = [], None
    for path in notebooks():
        first = nbformat.read(path, as_version=4).cells[0].source.splitlines()
        part = part_of(path)[0]
        if part != last:
            lines += [f"\n**{part}**\n"]
            last = part
        summary = next((line[1:].strip() for line in first if line.startswith(">")), "")
        lines.append(f"- [{first[0].lstrip('# ')}]({page_of(path)}.ipynb): {summary}")
    return "\n".join(lines)


def citation() -> str:
    "How to cite, from CITATION.cff."
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cff = yaml.safe_load(text)
    references = "\n".join(
        f"- {r['title']} ({r['collection-title']}), <{r['url']}>. {r.get('notes', '')}"
        for r in cff["references"]
    )
    year = re.search(r"\d{4}", facts()["copyright"])[0]
    authors = " and ".join(a.get("name", a.get("family-names", "")) for a in cff["authors"])
    return (
        f"# How to cite\n\n{cff['message']}\n\n## The paper\n\n{references}\n\n## This course and package\n\n"
        f"{authors}: {cff['title']}, version {cff['version']}, {year}. Licence: {cff['license']}.\n\n"
        f"```bibtex\n@software{{diffsda_course,\n  title = {{{cff['title']}}},\n  author = {{{{{authors}}}}},\n"
        f"  version = {{{cff['version']}}},\n  year = {{{year}}},\n  url = {{{facts()['git_url']}}}\n}}\n```\n\n"
        f"## The file itself\n\n```yaml\n{text}```\n"
    )


def showcase() -> dict[str, str]:
    "A page for each thing that a browser is tried on, the first that has it: pages have no fixed numbers."
    has = {
        "formula": lambda cell: cell.cell_type == "markdown" and "$$" in cell.source,
        "animation": lambda cell: any(
            "image/gif" in o.get("data", {}) for o in cell.get("outputs", [])
        ),
        "recording": lambda cell: any(
            "<audio" in o.get("data", {}).get("text/html", "") for o in cell.get("outputs", [])
        ),
        "solution": lambda cell: (
            cell.cell_type == "code" and "solution" in cell.metadata.get("tags", [])
        ),
    }
    cells = {path: nbformat.read(path, as_version=4).cells for path in notebooks()}
    found = {
        what: next((f"{page_of(p)}.html" for p in cells if any(map(test, cells[p]))), "")
        for what, test in has.items()
    }
    return found | {"results": "results/index.html"}


def write(path: Path, text: str):
    "A page on disk, its folder made where it is missing."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def prepare(
    out: Path,  # folder for the prepared sources; replaced
):
    "Everything that Sphinx needs, in one folder."
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("conf.py", "mathjax.js"):
        shutil.copy(HERE / name, out)
    config = (out / "conf.py").read_text(encoding="utf-8")
    root = "ROOT = Path(__file__).resolve().parent.parent"
    write(out / "conf.py", config.replace(root, f"ROOT = Path({str(ROOT)!r})"))
    shutil.copytree(HERE / "static", out / "static")
    with tarfile.open(HERE / "mathjax.tar.xz") as archive:
        archive.extractall(out / "static", filter="data")
    for path in notebooks():
        target = out / f"{page_of(path)}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(as_page(path), target)
        write(out / "extra" / "notebooks" / path.name, json.dumps(alone(path), indent=1))
    write(out / "static" / "showcase.json", json.dumps(showcase()))
    (out / "pictures").mkdir()
    for path in tables.pictures():
        shutil.copy(path, out / "pictures")
    for path in (HERE / "pages").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("<!-- contents -->", contents()).replace("<!-- toc -->", toc())
        write(out / path.name, text)
    copies = {"changelog.md": ROOT / "CHANGELOG.md", "data.md": ROOT / "data_scripts" / "README.md"}
    for name, path in copies.items():
        text = relinked(path.read_text(encoding="utf-8"), path, name)
        write(out / name, text.replace("# Data scripts", "# Data sets", 1))
    write(out / "cite.md", citation())
    for name, text in tables.pages().items():
        write(out / "results" / f"{name}.md", relinked(text, ROOT / "README.md", f"results/{name}"))
    anchors = {path.stem: page_of(path) for path in notebooks()}
    for name, text in reference.pages(anchors).items():
        write(out / "api" / f"{name}.md", text)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
