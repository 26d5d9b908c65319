"""What must hold of a built site; each finding is one line that says where and what.

python site/check.py FOLDER            # links, pictures, hosts, errors, contrast, solutions
python site/check.py FOLDER --outside  # asks every other host whether its page is still there
"""

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {  # what a browser fetches by itself when a page opens
    ("script", "src"), ("img", "src"), ("iframe", "src"), ("audio", "src"), ("video", "src"), ("source", "src"),
    ("video", "poster"), ("embed", "src"), ("object", "data"), ("image", "href"), ("use", "href"),
}  # fmt: skip
LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch"}
ERROR = re.compile(r"Traceback \(most recent call last\)")
CSS_LOAD = re.compile(r"(?:url\(|@import\s+)\s*['\"]?((?:https?:)?//[^'\")\s;]+)")


class Page(HTMLParser):
    "One page: its anchors, its links, what it loads, its pictures, its stored outputs."

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loads, self.silent = set(), [], [], []
        self.open_solutions, self.errors, self._inside = [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[k] for k in ("id", "name") if given.get(k)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag == "link" and set((given.get("rel") or "").split()) & LINKS:
            self.loads.append(given.get("href") or "")
        self.loads += [given[k] for t, k in LOADS if t == tag and given.get(k)]
        self.loads += CSS_LOAD.findall(given.get("style") or "")
        if tag == "img":
            alt = (given.get("alt") or "").strip()
            if not alt or re.search(r"\.(png|gif|svg|jpe?g)$", alt) or alt.startswith("_images"):
                self.silent.append(given.get("src") or "")
        if tag == "details" and "open" in given:
            self.open_solutions.append(given.get("class") or "")
        if "tag_solution" in (given.get("class") or "") and "tag_hide-cell" not in given["class"]:
            self.open_solutions.append(given["class"])
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if self._inside == ["style"]:
            self.loads += CSS_LOAD.findall(data)
        elif not self._inside and ERROR.search(data):
            self.errors += 1


def pages_of(
    folder: Path,  # a built site
) -> dict[Path, Page]:
    """Every page of a site, read once.

    Raises ValueError if the folder holds none."""
    paths = sorted(folder.resolve().rglob("*.html"))
    if not paths:
        raise ValueError(f"{folder} holds no page; build the site first: make site")
    return {path: Page(path.read_text(encoding="utf-8")) for path in paths}


def elsewhere(address: str) -> bool:
    "Whether an address leads to another host."
    return bool(urlsplit(address).netloc)


def broken_links(folder: Path, pages: dict[Path, Page]) -> list[str]:
    "Links and loaded files inside the site that lead nowhere."
    found = []
    for path, page in pages.items():
        for link in {*page.links, *page.loads}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                found.append(f"{path.relative_to(folder.resolve())}: {link} is no file of the site")
            elif parts.fragment and target in pages:
                if unquote(parts.fragment) not in pages[target].anchors:
                    found.append(f"{path.relative_to(folder.resolve())}: {link} has no such anchor")
    return found


def other_hosts(folder: Path, pages: dict[Path, Page]) -> list[str]:
    "What pages and style sheets load from another host."
    found = [
        f"{path.name}: loads {x}"
        for path, page in pages.items()
        for x in page.loads
        if elsewhere(x)
    ]
    for path in folder.rglob("*.css"):
        found += [
            f"{path.name}: loads {x}" for x in CSS_LOAD.findall(path.read_text(encoding="utf-8"))
        ]
    return found


def luminance(colour: str) -> float:
    "Relative luminance of #rgb or #rrggbb (WCAG 2)."
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits[:6]
    linear = []
    for i in (0, 2, 4):
        c = int(digits[i : i + 2], 16) / 255
        linear.append(c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    "Contrast of two colours, from 1 to 21 (WCAG 2)."
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# (colour of the text, colour behind it), as the site's own style sheet names them
PAIRS = [("--course-text", "--course-ground"), ("--course-quiet", "--course-ground"), ("--course-link", "--course-ground"),
         ("--course-text", "--course-raised"), ("--course-link", "--course-raised")]  # fmt: skip


def pale_text(css: str) -> list[str]:
    "Pairs of our own colours with a contrast below 4.5, in the light or in the dark."
    light = dict(re.findall(r"(--course-[\w]+):\s*(#[0-9a-fA-F]+)", css.split("/* dark */")[0]))
    dark = dict(re.findall(r"(--course-[\w]+):\s*(#[0-9a-fA-F]+)", css.split("/* dark */")[1]))
    found = []
    for name, colours in {"light": light, "dark": dark}.items():
        for text, ground in PAIRS:
            ratio = contrast(colours[text], colours[ground])
            if ratio < 4.5:
                found.append(
                    f"site.css, {name}: {text} on {ground} has a contrast of {ratio:.1f}, below 4.5"
                )
    return found


def findings(
    folder: Path,  # a built site
) -> list[str]:
    "All that is wrong with a site, a line each; empty if nothing is."
    pages = pages_of(folder)
    name = {path: str(path.relative_to(folder.resolve())) for path in pages}
    found = broken_links(folder, pages) + other_hosts(folder, pages)
    found += [
        f"{name[p]}: picture {src[:60]} has no alternative text"
        for p, page in pages.items()
        for src in page.silent
    ]
    found += [
        f"{name[p]}: a stored output holds a Python error"
        for p, page in pages.items()
        if page.errors
    ]
    found += [
        f"{name[p]}: a solution is not folded ({c})"
        for p, page in pages.items()
        for c in page.open_solutions
    ]
    return found + pale_text((folder / "_static" / "site.css").read_text(encoding="utf-8"))


def answers(address: str) -> str:
    "What a host says about one address: nothing if the page is there."
    request = urllib.request.Request(
        address, method="GET", headers={"User-Agent": "Mozilla/5.0 (link check)"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except urllib.error.HTTPError as error:
        # 403, 429 and 999 are hosts that turn programs away: the page may well be there
        return "" if error.code in (403, 429, 999) else f"answers {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be reached: {error}"


def dead_links(
    folder: Path,  # a built site
    ask: Callable[[str], str] = answers,  # what is wrong with an address, or nothing
) -> list[str]:
    "Links to other hosts whose page is gone, each with the first page that has it. Each address is asked once."
    places: dict[str, str] = {}
    for path, page in pages_of(folder).items():
        for link in page.links:
            if link.startswith(("http://", "https://")):
                places.setdefault(link.partition("#")[0], path.name)
    return [f"{places[link]}: {link} {wrong}" for link in sorted(places) if (wrong := ask(link))]


if __name__ == "__main__":
    site = Path(sys.argv[1])
    found = dead_links(site) if "--outside" in sys.argv else findings(site)
    print("\n".join(found) or "nothing is wrong")
    sys.exit(bool(found))
