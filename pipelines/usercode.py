"""Which files of the workspace a class of the user's stands in, found without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_OURS = ("pipelines", "flows")


def files(path: str) -> list[str]:
    """Files of the module in a dotted class path and of the modules of the workspace that they import, relative, sorted.

    None where the module is no file of the current directory: an installed package.
    """
    found: set[str] = set()
    todo = _files_of(path.rpartition(".")[0])
    while todo:
        file = todo.pop()
        if file.as_posix() not in found:
            found.add(file.as_posix())
            todo += [other for name in _imports(file) if name.split(".")[0] not in _OURS for other in _files_of(name)]
    return sorted(found)


def _files_of(module: str) -> list[Path]:
    """The module's own file, if it is one of the workspace, and those of the packages around it; of `a.b.C` those of `a.b`."""
    parts = module.split(".")
    places = [Path(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]


def _imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports; none where it is no Python, which importing it will say."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = file.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (".".join(filter(None, (base, alias.name))) for alias in node.names)
