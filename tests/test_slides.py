"""The six lectures are made of the notebooks' own cells, open without a network, and fit on their slides."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import walk

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("slides", ROOT / "nbs/classroom/slides.py")
slides = importlib.util.module_from_spec(spec)
spec.loader.exec_module(slides)

NO_PACKAGES = not all((slides.MODULES / part).exists() for part in slides.PARTS)
needs_packages = pytest.mark.skipif(NO_PACKAGES, reason="no node_modules: run npm install")
needs_browser = pytest.mark.skipif(bool(walk.missing()), reason=walk.missing())
by_lecture = pytest.mark.parametrize("file", slides.LECTURES)

# what stands outside of the page, or under a picture, on the slide that is shown
MISFITS = """() => {
    const slide = Reveal.getCurrentSlide(), found = [];
    const name = e => `${e.tagName.toLowerCase()} "${(e.alt || e.innerText || "").slice(0, 60)}"`;
    const shown = [...slide.querySelectorAll("h1,h2,h3,p,li,pre,table,blockquote,img,mjx-container")]
        .filter(e => !e.closest("aside") && e.getClientRects().length);
    const pictures = shown.filter(e => e.tagName == "IMG").map(e => e.getBoundingClientRect());
    for (const e of shown) {
        const r = e.getBoundingClientRect();
        if (r.left < 0 || r.top < 0 || r.right > innerWidth + 1 || r.bottom > innerHeight + 1)
            found.push(`${name(e)} ends at ${Math.round(r.right)}, ${Math.round(r.bottom)}`);
        if (e.scrollWidth > e.clientWidth + 2 && ["PRE", "TABLE"].includes(e.tagName))
            found.push(`${name(e)} is cut off`);
        if (e.tagName != "IMG" && pictures.some(p =>
                Math.min(r.right, p.right) - Math.max(r.left, p.left) > 3 &&
                Math.min(r.bottom, p.bottom) - Math.max(r.top, p.top) > 3))
            found.push(`${name(e)} runs into a picture`);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    slides.write(folder)
    return folder


def show(page, path):
    """Each slide of the page in turn, as its number and its heading; formulas are set."""
    page.goto(path.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    page.evaluate("MathJax.startup.promise.then(() => 0)")
    for number in range(1, page.evaluate("Reveal.getTotalSlides()") + 1):
        page.wait_for_timeout(50)
        yield number, page.evaluate("Reveal.getCurrentSlide().querySelector('h1,h2,h3')?.innerText")
        page.evaluate("Reveal.next()")


@needs_packages
@needs_browser
@by_lecture
def test_nothing_overflows_and_all_comes_from_the_folder(file, folder):
    asked, errors, misfits = [], [], []
    with walk.browser_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        headings = []
        for number, heading in show(page, folder / f"{file}.html"):
            headings.append(heading)
            misfits += [f"slide {number}, {heading}: {what}" for what in page.evaluate(MISFITS)]
        assert page.locator("mjx-container").count() or file == "5-measuring"
        assert not page.locator("mjx-merror").count(), "a formula that MathJax cannot read"
    assert len(headings) >= 10 and all(headings)
    assert not misfits, "\n".join(misfits)
    assert not errors
    outside = [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not outside


@needs_packages
def test_pictures_have_alternative_text(folder):
    for file in slides.LECTURES:
        page = (folder / f"{file}.html").read_text(encoding="utf-8")
        pictures = re.findall("<img[^>]*>", page)
        alts = [re.search(r'\balt="([^"]*)"', picture)[1] for picture in pictures]
        assert len(alts) > 2
        assert all(len(alt) > 10 and "No description" not in alt for alt in alts)


def test_every_tagged_notebook_belongs_to_one_lecture():
    used = [name for _, notebooks in slides.LECTURES.values() for name in notebooks]
    assert len(used) == len(set(used))
    tagged = {
        path.stem
        for path in slides.NBS.glob("*.ipynb")
        if any("slideshow" in cell.metadata for cell in nbformat.read(path, as_version=4).cells)
    }
    assert tagged == set(used)


def test_a_slide_shows_the_gist_and_the_notes_all():
    text = "First, at $x. A$ (no cut). Second. **Third is bold.** Fourth leads to:\n\n$$a. B$$\n\n- a list. Whole."
    assert (
        slides.gist(text, 1)
        == "First, at $x. A$ (no cut). **Third is bold.** Fourth leads to:\n\n$$a. B$$\n\n- a list. Whole."
    )
    assert slides.gist("One. Two leads to a cell:", 5) == "One."
    made = slides.lecture(*slides.LECTURES["1-denoising"])
    noted = [cell.source for cell in made.cells if cell.metadata.slideshow.slide_type == "notes"]
    own = (slides.NBS / "01_denoising.ipynb").read_text(encoding="utf-8")
    assert sum(note.splitlines()[0][:40].replace("\\", "\\\\") in own for note in noted) > 8


def test_sections_keep_what_stands_before_a_heading():
    assert slides.sections("tail\n\n## A\n\ntext\n\n## B\n") == [
        ("", "tail"),
        ("## A", "text"),
        ("## B", ""),
    ]
