"""List all error messages and notes of the package for proofreading: each should say what, where, and what to do.

Example: python -m tools.sentences
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "cmbfe"


def sentences(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each error that a module raises for bad input, and of each constant that is a sentence."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("InputError", "NoStack", "NoObject")):
            yield node.lineno, " ".join(map(_text, node.args))
        elif isinstance(node, ast.Assign) and (text := _text(node.value)).endswith(".") and " " in text:
            yield node.lineno, text


def _text(node: ast.expr) -> str:
    """The text of an expression, with inserted values as `{code}`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return f"{{{ast.unparse(node)}}}"


if __name__ == "__main__":
    for module in sorted(PACKAGE.rglob("*.py")):
        for line, text in sorted(sentences(module)):
            print(f"{module.relative_to(PACKAGE)}:{line}: {text}")
