"""Folds the solutions of the exercises: JupyterLab shows three dots in place of each, until a reader opens it.

python nbs/classroom/fold.py                  # all notebooks of nbs/; a part of make fmt
python nbs/classroom/fold.py nbs/01_denoising.ipynb ...
"""

import json
import sys
from pathlib import Path


def fold(path: Path) -> bool:
    """Whether a solution of the notebook was open and is now folded."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    open_ones = [
        cell["metadata"]
        for cell in notebook["cells"]
        if "solution" in cell["metadata"].get("tags", [])
        and not cell["metadata"].get("jupyter", {}).get("source_hidden")
    ]
    for metadata in open_ones:
        metadata["jupyter"] = {"source_hidden": True}
    if open_ones:
        text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    return bool(open_ones)


if __name__ == "__main__":
    everything = Path(__file__).resolve().parent.parent.glob("*.ipynb")
    for path in map(Path, sys.argv[1:] or sorted(everything)):
        if fold(path):
            print(f"folded the solutions of {path.name}")
