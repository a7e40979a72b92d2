"""Folders of a source: what cannot be looked into must not pass for empty."""

import os
from collections.abc import Iterator
from pathlib import Path

from cmbfe.errors import InputError


def folders_below(source: Path) -> Iterator[Path]:
    """A folder and every one below it that is not hidden, sorted; links are followed, each folder once.

    Raises:
        InputError: a folder that may not be read: patients would be left out without a word.
    """
    visited = set()
    for place, folders, _ in os.walk(source, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place)


def look_into(source: Path) -> None:
    """Raise `InputError` for a folder that may not be read, as `folders_below`: other ways of looking pass it over."""
    for _ in folders_below(source):
        pass


def files_below(source: Path) -> Iterator[Path]:
    """Whatever is no folder, in `folders_below`; hidden files and DICOMDIR are left out."""
    for folder in folders_below(source):
        for path in folder.iterdir():
            if path.name != "DICOMDIR" and not path.name.startswith(".") and not path.is_dir():
                yield path


def files_named(source: Path, suffix: str) -> list[Path]:
    """Files with a suffix, whatever its case, of `files_below`, sorted."""
    return sorted(path for path in files_below(source) if path.suffix.lower() == suffix and path.is_file())


def resolved(path: Path) -> Path:
    """The path without links; raises `InputError` where a link leads to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{path}: its links lead to themselves; give another path") from None


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}; the folder must be readable, or not lie in the source")
