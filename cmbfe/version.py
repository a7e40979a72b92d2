"""Which version of cmbfe this is, installed or run from its source."""

import tomllib
from importlib import metadata
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def version() -> str:
    """The installed version; of a source that is not installed that of pyproject.toml with "+source".

    "unknown" where neither is there: a file that names its maker must not fail for it.
    """
    try:
        return metadata.version("cmbfe")
    except metadata.PackageNotFoundError:
        if not PYPROJECT.is_file():
            return "unknown"
        return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["version"] + "+source"
