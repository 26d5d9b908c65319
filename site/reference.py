"""Pages of the reference: every public name with its signature, the comments beside its parameters, what is
raised, and the notebook cell it comes from. The modules are read as text, so nothing is imported."""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffsda"
CELL = re.compile(r"^# %% \.\./nbs/(\S+)\.ipynb #([\w-]+)", re.MULTILINE)


def comments_of(source: str) -> dict[int, str]:
    "The comment at the end of each line of code, by line number."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def cells_of(source: str) -> list[tuple[int, str, str]]:
    "The line that each exported cell begins at, its notebook, and its id."
    return [(source[: m.start()].count("\n") + 1, m[1], m[2]) for m in CELL.finditer(source)]


def public_names(tree: ast.Module) -> list[str]:
    "What a module exports, as its `__all__` says."
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def parameters(
    node: ast.FunctionDef,
    comments: dict[int, str],  # by line
) -> list[tuple[str, str, str]]:  # name, annotation, comment
    "The parameters of a function, and what it returns, with the comments beside them."
    arguments = node.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        arguments.vararg,
        *arguments.kwonlyargs,
        arguments.kwarg,
    ]
    rows, defaults = [], {}
    positional = [*arguments.posonlyargs, *arguments.args]
    if arguments.defaults:
        defaults |= dict(zip(positional[-len(arguments.defaults) :], arguments.defaults))
    defaults |= {a: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is not None}
    one_line = node.body[0].lineno > node.lineno and len({a.lineno for a in every if a}) < len(
        [a for a in every if a]
    )
    for argument in every:
        if argument is None or argument.arg in ("self", "cls"):
            continue
        last = defaults.get(argument, argument).end_lineno
        comment = "" if one_line else comments.get(last, "")
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        rows.append((argument.arg, annotation, comment))
    if node.returns is not None:
        rows.append(
            ("returns", ast.unparse(node.returns), comments.get(node.returns.end_lineno, ""))
        )
    return rows


def rows_of(rows: list[tuple[str, str, str]]) -> list[str]:
    "Parameters as a Markdown table."
    if not rows:
        return []

    def cell(text: str) -> str:
        return (
            text.replace("|", "\\|")
            .replace("*", "\\*")
            .replace("<", "&lt;")
            .replace("$", "\\$")
            .strip()
        )

    def code(text: str) -> str:
        return f"`{text}`".replace("|", "\\|") if text else ""

    lines = ["| parameter | type | what it is |", "|---|---|---|"]
    for name, annotation, comment in rows:
        name = "*returns*" if name == "returns" else f"`{name}`"
        lines.append(f"| {name} | {code(annotation)} | {cell(comment)} |")
    return [*lines, ""]


def signature(node: ast.FunctionDef, method: bool) -> str:
    "A function's parameters on one line, without annotations, which the table shows."
    arguments = node.args
    plain = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in arguments.posonlyargs],
        args=[ast.arg(a.arg) for a in arguments.args],
        vararg=ast.arg(arguments.vararg.arg) if arguments.vararg else None,
        kwonlyargs=[ast.arg(a.arg) for a in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=ast.arg(arguments.kwarg.arg) if arguments.kwarg else None,
        defaults=arguments.defaults,
    )
    if method and plain.args and plain.args[0].arg in ("self", "cls"):
        plain.args = plain.args[1:]
    return ast.unparse(plain)


def prose(node) -> str:
    "A docstring as Markdown; what is raised stands in a paragraph of its own."
    text = ast.get_docstring(node) or ""
    text = re.sub(r"\s*(?<![`\w])(Raises [A-Z]\w+)", r"\n\n**\1**", text)
    return text.replace("$", "\\$")


def entry(node, comments: dict[int, str], fence: str = "````", method: bool = False) -> list[str]:
    "A class, a function or a method as a directive of Sphinx's Python domain."
    if isinstance(node, ast.ClassDef):
        methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
        init = next((m for m in methods if m.name == "__init__"), None)
        fields = [
            (f.target.id, ast.unparse(f.annotation), comments.get(f.end_lineno, ""))
            for f in node.body
            if isinstance(f, ast.AnnAssign)
        ]
        inside = [m for m in methods if not m.name.startswith("_") or m.name == "__call__"]
        arguments = signature(init, True) if init else ", ".join(name for name, _, _ in fields)
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        lines = [f"{fence}{{py:class}} {node.name}({arguments})", "", prose(node), ""]
        if bases:
            lines += [f"Made from `{bases}`.", ""]
        lines += rows_of(parameters(init, comments) if init else fields)
        for m in inside:
            lines += entry(m, comments, fence[:-1], method=True)
        return [*lines, fence, ""]
    kind = "method" if method else "function"
    flags = [ast.unparse(d) for d in node.decorator_list]
    head = f"{fence}{{py:{kind}}} {node.name}({signature(node, method)})"
    options = []
    if "property" in flags or "cached_property" in " ".join(flags):
        head = f"{fence}{{py:property}} {node.name}"
    elif "classmethod" in flags:
        options = [":classmethod:"]
    elif "staticmethod" in flags:
        options = [":staticmethod:"]
    return [head, *options, "", prose(node), "", *rows_of(parameters(node, comments)), fence, ""]


def page(
    path: Path,  # a module of the package
    anchors: dict[str, str],  # page of each notebook, by the notebook's name
) -> str:
    "The reference of one module."
    source = path.read_text(encoding="utf-8")
    tree, comments, cells = ast.parse(source), comments_of(source), cells_of(source)
    nodes = {n.name: n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    values = {
        target.id: node
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    lines = [
        f"# `diffsda.{path.stem}`",
        "",
        prose(tree),
        "",
        f"```{{py:module}} diffsda.{path.stem}\n```",
        "",
    ]
    for name in public_names(tree):
        node = nodes.get(name) or values[name]
        lines += [f"## `{name}`", ""]
        begun = [cell for cell in cells if cell[0] <= node.lineno]
        if begun and begun[-1][1] in anchors:
            _, notebook, identity = begun[-1]
            lines += [
                f'<p class="from-cell"><a href="../{anchors[notebook]}.html#cell-{identity}">'
                f"Its cell in {notebook}</a></p>",
                "",
            ]
        if name in nodes:
            lines += entry(node, comments)
        else:
            text = ast.unparse(node.value)
            shown = text if len(text) < 300 else text[:300] + " ..."
            comment = comments.get(node.lineno, "")
            lines += [
                f"````{{py:data}} {name}",
                "",
                comment,
                "",
                f"```python\n{name} = {shown}\n```",
                "````",
                "",
            ]
    return "\n".join(lines)


def pages(
    anchors: dict[str, str],  # page of each notebook, by the notebook's name
) -> dict[str, str]:
    "Every page of the reference by its name."
    modules = [p for p in sorted(PACKAGE.glob("*.py")) if not p.stem.startswith("_")]
    made = {path.stem: page(path, anchors) for path in modules}
    rows = []
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about = (ast.get_docstring(tree) or "").splitlines()
        rows.append(f"| [{path.stem}]({path.stem}.md) | {about[0] if about else ''} |")
    doors = public_names(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    index = [
        "# Reference",
        "",
        "Each module is exported from the notebook of its name. `import diffsda` offers "
        + ", ".join(f"`{name}`" for name in doors)
        + ".",
        "",
        "| module | what it is about |",
        "|---|---|",
        *rows,
        "",
        "```{toctree}\n:titlesonly:\n:hidden:\n\n" + "\n".join(made) + "\n```",
        "",
    ]
    return {"index": "\n".join(index)} | made
