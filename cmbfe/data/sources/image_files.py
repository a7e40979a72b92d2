"""Find the image files that labels refer to.

Labelling tools keep images in their own folders, and labels may write file names with another case or suffix.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from cmbfe.data.inventory import IMAGE, SUFFIXES, take_inventory
from cmbfe.errors import InputError
from cmbfe.files import resolved

IMAGE_SUFFIXES = SUFFIXES[IMAGE]
Place = PurePosixPath
"""Possible path of a file, relative to a folder."""


class ImageFiles:
    """Finds the files below a folder by their names in labels."""

    def __init__(self, root: Path) -> None:
        self.root = resolved(root)
        self.elsewhere = 0
        """Number of images that were found only with another case or suffix, or in a later round."""

    def find(self, name: str, where: object, *rounds: Iterable[Place]) -> Path:
        """The file of the image `name`: the first place if it exists, else the file that the earliest round finds. A
        round compares exact names, then ignores case, then also the suffix. `where` (the labels) begins each error.

        Raises:
            InputError: no file matches, several match, or the first place is outside the folder.
        """
        places = [list(places) for places in rounds]
        first = resolved(self.root / places[0][0])
        is_inside = first.is_relative_to(self.root)
        if is_inside and _is_file(first):
            return first
        if not is_inside or PureWindowsPath(name).drive:
            raise InputError(f"{where}: {name} leads out of the folder; file names must be relative to it")
        for of_round in places:
            way, found = self._at(of_round)
            if found:
                self.elsewhere += way > 0 or of_round is not places[0]
                return _only(found, f"{where}: {name}")
        folders = dict.fromkeys(str(self.root / place.parent) for place in places[0] if not place.is_absolute())
        raise InputError(f"{where}: {name}: no such image in {', '.join(folders)}; get it, or correct the name")

    def _at(self, places: Iterable[Place]) -> tuple[int, set[Path]]:
        """The number of the strictest comparison that finds a file at one of the places, and the files it finds."""
        for way, keys in enumerate(zip(*map(_keys, places), strict=True)):
            if found := {file for key in keys for file in self._by_key.get(key, ())}:
                return way, found
        return 0, set()

    @cached_property
    def _by_key(self) -> dict[tuple[int, str], set[Path]]:
        files = defaultdict(set)
        for path in take_inventory(self.root).named(*IMAGE_SUFFIXES):
            if (file := resolved(path)).is_relative_to(self.root):
                for key in _keys(PurePosixPath(path.relative_to(self.root))):
                    files[key].add(file)
        return files


def _only(found: set[Path], said: str) -> Path:
    if len(found) > 1:
        files = ", ".join(sorted(map(str, found)))
        raise InputError(f"{said}: may be any of {files}; give its path from the labels, or keep one")
    return found.pop()


def composed(text: str) -> str:
    """Text in the Unicode form NFC, with ü as one character; in names from macOS it may be two."""
    return unicodedata.normalize("NFC", text)


def _keys(place: Place) -> list[tuple[int, str]]:
    """Keys to compare a path in three ways: exactly (`composed`), without case, and without case and image suffix."""
    name = composed(place.as_posix())
    folded = name.casefold()
    suffix = PurePosixPath(folded).suffix
    ways = (name, folded, folded.removesuffix(suffix) if suffix in IMAGE_SUFFIXES else folded)
    return list(enumerate(ways))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long for a file name
        return False
