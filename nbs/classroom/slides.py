"""Makes the slides of six lectures out of the notebooks' own cells: those whose metadata names a `slide_type`.

    python nbs/classroom/slides.py slides      # or: make slides

No cell is run: pictures and numbers are the stored ones. A slide shows the gist of its cell's text (see `gist`); the whole text is in the speaker's notes (press S). A cell that draws shows its picture only.
"""

import base64
import io
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert.exporters import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
NBS, MODULES = HERE.parent, HERE.parent.parent / "node_modules"
LECTURES = {  # file of the lecture -> its title, and the notebooks it draws on
    "1-denoising": ("Noise, and the best guess", ["01_denoising", "02_precond"]),
    "2-sampling": ("Training and sampling", ["03_loss", "04_sampling"]),
    "3-sequences": (
        "Sequences, and networks that read them",
        ["05_data", "06_blocks", "07_frames"],
    ),
    "4-split": ("The split: one static code, many dynamic ones", ["08_encoder", "09_model"]),
    "5-measuring": ("Did it split?", ["14_verification", "12_judges", "13_probes", "17_capacity"]),
    "6-new": ("New sequences, and what codes are good for", ["11_prior", "18_tasks"]),
}
PARTS = ("reveal.js/dist", "reveal.js/plugin/notes", "mathjax/es5/tex-svg.js")  # of node_modules
ASIDES = ("**Builds on**", "**Runtime**")
WIDE = 1.9  # a picture that is wider than this, by its height, stands below its text


def sections(text: str) -> list:
    """The parts of a markdown text, as pairs: a heading line, or "" for what stands before the first, and the text below it."""
    parts = re.split(r"^(#{1,3} .+)$", text, flags=re.M)
    pairs = [("", parts[0]), *zip(parts[1::2], parts[2::2])]
    return [(heading, body.strip()) for heading, body in pairs if heading or body.strip()]


def sentences(paragraph: str) -> list:
    """The sentences of a paragraph; no formula and no code is cut."""
    whole = re.findall(
        r"(?:\$[^$]*\$|`[^`]*`|[^.!?:]|[.!?:](?!\**\s+[A-Z$*`\"(]))+[.!?:]*\**", paragraph
    )
    return [sentence.strip() for sentence in whole if sentence.strip()]


def gist(text: str, keep: int) -> str:
    """What of a text is shown: of each paragraph the first `keep` sentences and bold ones; all formulas, lists, tables and code."""
    text = re.sub(r"\s*(\$\$.+?\$\$)\s*", r"\n\n\1\n\n", text, flags=re.S)
    blocks = [b for b in re.split(r"\n\s*\n(?=\S)", text.strip()) if not b.startswith(ASIDES)]
    whole = [bool(re.match(r"\$\$|[-*>|] |\||\d+\. |```", block)) for block in blocks]
    shown = []
    for block, as_it_is, next_whole in zip(blocks, whole, [*whole[1:], False]):
        spoken = [block] if as_it_is else sentences(block)
        kept = [s for i, s in enumerate(spoken[:-1]) if i < keep or "**" in s]
        last = spoken[-1]
        # a last sentence that leads to something is shown if that is, too
        if next_whole if last.endswith((":", ",")) else len(spoken) <= keep or "**" in last:
            kept.append(last)
        shown.append(" ".join(kept))
    return "\n\n".join(filter(None, shown))


def shown_code(cell, kind: str):
    """The code cell for a slide: without its code if it draws or makes a table, its picture tagged and sized."""
    copy = new_code_cell(cell.source, outputs=[], id=cell.id)
    copy.metadata = {"mystnb": cell.metadata.get("mystnb", {}), "slideshow": {"slide_type": kind}}
    tags = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "image/png" in data:
            width, height = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).size
            output.metadata = {"width": min(1100, round(1.6 * width))}
            tags = ["wide" if width > WIDE * height else "tall", "remove-input"]
        elif "text/html" in data or "image/gif" in data:
            tags = ["remove-input"]
        copy.outputs.append(output)
    copy.source = re.sub(r"^#\| .*\n", "", copy.source, flags=re.M)
    copy.metadata["tags"] = tags
    return copy


def lecture(title: str, notebooks: list) -> nbformat.NotebookNode:
    """One notebook of the tagged cells of several."""
    names = ", ".join(f"[{name}](../nbs/{name}.ipynb)" for name in notebooks)
    cells = [
        new_markdown_cell(
            f"# {title}\n\n> DiffSDA: sequential disentanglement with diffusion models\n\nFrom {names}",
            metadata={"slideshow": {"slide_type": "slide"}},
        )
    ]

    def text(source, kind, notes):
        cells.append(new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}}))
        if notes:
            cells.append(new_markdown_cell(notes, metadata={"slideshow": {"slide_type": "notes"}}))

    for name in notebooks:
        heading = ""
        own = nbformat.read(NBS / f"{name}.ipynb", as_version=4).cells
        kinds = [cell.metadata.get("slideshow", {}).get("slide_type", "skip") for cell in own]
        for i, (cell, kind) in enumerate(zip(own, kinds)):
            starts = kind in ("slide", "subslide")
            if cell.cell_type == "code" and kind != "skip":
                if starts:
                    text(heading, kind, "")
                cells.append(shown_code(cell, "-" if starts else kind))
            following = next((j for j in range(i + 1, len(own)) if kinds[j] != "skip"), i)
            pictured = own[following].cell_type == "code" and kinds[following] == "-"
            parts = sections(cell.source) if cell.cell_type == "markdown" else []
            for above, body in parts:
                heading = above or heading
                if kind == "skip" or not body or above == "## Exercises" or (above and not starts):
                    continue
                # what stands before a heading belongs to the slide before
                fresh = starts and (above or len(parts) == 1)
                if fresh:
                    text(f"{heading}\n\n{gist(body, 2 if pictured else 5)}", kind, body)
                else:
                    text(gist(body, 1), "-" if starts else kind, body)
    return new_notebook(cells=cells, metadata={"title": title, "language_info": {"name": "python"}})


def write(folder: Path) -> list:
    """The pages of all lectures, written to `folder` with all that they load. Raises FileNotFoundError if a package is missing."""
    for part in PARTS:
        if not (MODULES / part).exists():
            raise FileNotFoundError(f"node_modules/{part} is missing: run npm install first")
        copy = shutil.copytree if (MODULES / part).is_dir() else shutil.copy
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        copy(
            MODULES / part,
            folder / part,
            **({"dirs_exist_ok": True} if copy is shutil.copytree else {}),
        )
    hidden = {"enabled": True, "remove_input_tags": ["remove-input"]}
    exporter = SlidesExporter(
        config=Config({"TagRemovePreprocessor": hidden}),
        template_name="lecture",
        extra_template_basedirs=[str(HERE)],
        reveal_url_prefix="reveal.js",
        mathjax_url="mathjax/es5/tex-svg.js",
        reveal_width="1280",
        reveal_height="720",
        reveal_theme="white",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    pages = []
    for file, (title, notebooks) in LECTURES.items():
        page, _ = exporter.from_notebook_node(lecture(title, notebooks))
        pages.append(folder / f"{file}.html")
        pages[-1].write_text(page, encoding="utf-8")
    return pages


if __name__ == "__main__":
    for page in write(Path(sys.argv[1] if len(sys.argv) > 1 else "slides")):
        print(page)
