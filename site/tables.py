"""Pages of results: every row of results/*.json, with the command that made it, and every picture."""

import json
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PICTURE = re.compile(r"!\[([^\]]+)\]\(results/([^)]+)\)")

# pictures that the README does not show
ALT = {
    "swap.png": "Swap grid: donors of the static code on the left, donors of the dynamic codes on top; inside, thickness follows the row and motion the column",
    "faults.png": "For each number a dot for the correct protocol, for each fault alone and for the published protocol, and a line at the paper's value",
    "gap.png": "Gap against reconstruction error for sizes of d, levels of noise on it and chunk lengths",
    "swap_stations.png": "Days of stations: each curve has the static code of one station and the hours of another's day",
    "workflow.png": "Data sets lead to kinds of runs, these to tables, and tables to the picture of all recipes",
    "app.png": "A page with a file of stations in each of two boxes, hill and harbour chosen, buttons to swap and reconstruct, sliders, and the lines of the table that was made over those of its donors",
}


def pictures() -> list[Path]:
    "All pictures of results/."
    return sorted(
        path for path in RESULTS.glob("*.*") if path.suffix in (".png", ".gif", ".svg", ".jpg")
    )


def alternative_texts() -> dict[str, str]:
    """What each picture of results/ shows, in words: from the README, else from `ALT`.

    Raises ValueError for a picture that is described in neither."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = ALT | {name: alt for alt, name in PICTURE.findall(readme)}
    for path in pictures():
        if path.name not in known:
            raise ValueError(
                f"results/{path.name} has no alternative text; show it in README.md as "
                f"![what it shows](results/{path.name}), or add a line to ALT in site/tables.py"
            )
    return known


def shown(value) -> str:
    "A value as it stands in a cell of a table."
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def line(cells: list[str], cell: str = "td") -> str:
    "Cells as a row of an HTML table, in the form that the theme gives its own."
    return "<tr>" + "".join(f"<{cell}><p>{escape(text)}</p></{cell}>" for text in cells) + "</tr>"


def table(
    rows: list[dict],  # with any keys
) -> str:
    "Rows as an HTML table, which Sphinx takes as it is: of thousands of rows in Markdown it would be half of the build. What all rows share stands above it, once."
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shared = {k for k in keys if len({json.dumps(row.get(k)) for row in rows}) == 1}
    shared -= {"metric", "value", "std", "name"}
    above = [f"{k} {shown(rows[0].get(k))}" for k in keys if k in shared - {"command", "data"}]
    above = [said for said in above if not said.endswith("–")]
    columns = [k for k in keys if k not in shared and any(row.get(k) is not None for row in rows)]
    first = [k for k in ("metric", "name", "protocol", "value", "std", "paper") if k in columns]
    columns = first + [k for k in columns if k not in first]
    lines = [
        "; ".join(above) + ("." if above else ""),
        "",
        '<div class="table-wrapper docutils container"><table class="docutils align-default">',
        f"<thead>{line(columns, 'th')}</thead>",
        "<tbody>",
        *(line([shown(row.get(k)) for k in columns]) for row in rows),
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def page(
    path: Path,  # results/NAME.json
) -> str:
    """All rows of one file, by data set and command.

    Raises ValueError for a row that does not name its command."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    groups: dict[str, dict[str, list]] = {}
    for row in rows:
        if not row.get("command"):
            raise ValueError(f"a row of results/{path.name} names no command: {row}")
        groups.setdefault(row.get("data") or path.stem, {}).setdefault(row["command"], []).append(
            row
        )
    lines = [
        f"# Numbers: {path.stem}",
        "",
        f"All {len(rows)} rows of `results/{path.name}`, each under the command that made it. "
        "`paper` is the published number where there is one; a dash means that there is none.",
    ]
    for data, commands in groups.items():
        lines += ["", f"## {data}"]
        for command, group in commands.items():
            lines += ["", f"```sh\n{command}\n```", "", table(group)]
    return "\n".join(lines) + "\n"


def overview() -> str:
    "What the README says was measured, then every picture of results/."
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = re.search(
        r"^## What was measured\n(.*?)(?=^## |\Z)", readme, re.DOTALL | re.MULTILINE
    )
    if not measured:
        raise ValueError(
            "README.md has no section `## What was measured`, from which the page of results is made"
        )
    alts = alternative_texts()
    gallery = "\n\n".join(
        f"![{alts[p.name]}](results/{p.name})\n\n*{alts[p.name]}*" for p in pictures()
    )
    return f"# What was measured\n{measured[1]}\n## All pictures\n\n{gallery}\n"


def pages() -> dict[str, str]:
    "Every page of results by its name."
    files = sorted(RESULTS.glob("*.json"))
    return {"index": overview()} | {path.stem: page(path) for path in files}
