"""MkDocs hook: a page of the API for every module, so that a new one appears by itself.

A page shows the module's docstring and its public names: `__all__`, or else every class and function without an underscore. What
a package re-exports stands on the package's page, not again on the module's. Modules are read, not imported. The modules within
`INSIDE` are how these packages are made, and have no page; nor has a module that only keeps a former name.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.structure.files import File

PACKAGE = "jaxpose"
INSIDE = ("jaxpose.data.synthetic", "jaxpose.view.figures", "jaxpose.view.report")
FORMER = "Former name of"  # how the docstring of a module begins that only keeps one
INTRODUCTION = """# API

Every module, made of its docstrings. A module imports only modules of its own layer and lower ones, so that a loss costs `jax`
alone.

"""


def modules(root: Path) -> dict[str, tuple[str, list[str]]]:
    """{"jaxpose.flow": (first line of the docstring, public names)}, in alphabetical order, packages before their modules."""
    sources = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        name = ".".join(parts)
        if (
            len(parts) == 1
            or any(part.startswith("_") for part in parts)
            or name.startswith(tuple(f"{p}." for p in INSIDE))
        ):
            continue
        tree = ast.parse(path.read_text())
        if not (ast.get_docstring(tree) or "").startswith(FORMER):
            sources[name] = tree
    found = {}
    for name in sorted(sources):
        tree, package = sources[name], sources.get(name.rpartition(".")[0])
        shown_there = exported(package) or [] if package else []
        # A name that is also a module's (`jaxpose.tasks.regression`, the function and its file) stands on the module's page.
        shown_there = [n for n in shown_there if f"{name.rpartition('.')[0]}.{n}" not in sources]
        names = [n for n in exported(tree) or defined(tree) if n not in shown_there and f"{name}.{n}" not in sources]
        found[name] = ((ast.get_docstring(tree) or "").partition("\n")[0], names)
    return found


def exported(tree: ast.Module) -> list[str] | None:
    """`__all__`; None where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return ast.literal_eval(node.value)
    return None


def defined(tree: ast.Module) -> list[str]:
    """Public classes and functions, in the order of the file."""
    return [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and not n.name.startswith("_")]


def page(name: str, names: list[str], inside: dict[str, str]) -> str:
    """The Markdown of a module's page, for mkdocstrings to fill; `inside`: first lines of the modules of a package."""
    head = f"# `{name}`\n\n::: {name}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}\n"
    body = "".join(f"\n::: {name}.{each}\n" for each in names)
    return head + body + ("\n## Modules\n\n" + listing(inside) if inside else "")


def listing(summaries: dict[str, str]) -> str:
    return "".join(f"- [`{name}`]({name}.md): {summary}\n" for name, summary in summaries.items())


def root_of(config) -> Path:
    return Path(config.config_file_path).parent


def on_config(config):
    pages = [{name.removeprefix(f"{PACKAGE}."): f"api/{name}.md"} for name in modules(root_of(config))]
    config.nav = [*config.nav, {"API": ["api/index.md", *pages]}]
    return config


def on_files(files, config):
    found = modules(root_of(config))
    summaries = {name: summary for name, (summary, _) in found.items()}
    for name, (_, names) in found.items():
        inside = {other: summary for other, summary in summaries.items() if other.startswith(f"{name}.")}
        files.append(File.generated(config, f"api/{name}.md", content=page(name, names, inside)))
    files.append(File.generated(config, "api/index.md", content=INTRODUCTION + listing(summaries)))
    return files
