"""Which modules of cmbfe a notebook or module imports, directly or not: the code that a stage depends on."""

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISCOVERED_BY = {"cmbfe/detector/relatives/registry.py": "cmbfe.detector.relatives"}
"""Modules that import all others of a package, without naming them."""


def imported_names(source: str) -> set[str]:
    """Dotted names under cmbfe that Python code imports; `from cmbfe.x import y` gives cmbfe.x and cmbfe.x.y."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "cmbfe"}


def module_file(name: str) -> Path | None:
    """The file of a dotted name, or None where it names a function or a package."""
    file = ROOT / Path(*name.split(".")).with_suffix(".py")
    return file if file.exists() else None


def notebook_source(notebook: Path) -> str:
    """The code cells of a notebook, one after another."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def discovered_names(file: Path) -> set[str]:
    """Dotted names of the modules that a module finds by looking into a package."""
    package = DISCOVERED_BY.get(file.relative_to(ROOT).as_posix())
    if package is None:
        return set()
    return {f"{package}.{one.stem}" for one in ROOT.joinpath(*package.split(".")).glob("[!_]*.py")}


def dependencies(start: Path) -> set[str]:
    """Every module file that a notebook or module imports, through any number of steps, relative to the root."""
    is_notebook = start.suffix == ".ipynb"
    source = notebook_source(start) if is_notebook else start.read_text(encoding="utf-8")
    waiting, found = imported_names(source), set() if is_notebook else {start.resolve()}
    while waiting:
        file = module_file(waiting.pop())
        if file and file not in found:
            found.add(file)
            waiting |= imported_names(file.read_text(encoding="utf-8")) | discovered_names(file)
    return {file.relative_to(ROOT).as_posix() for file in found}


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(argument, *sorted(dependencies(Path(argument))), sep="\n  - ")
