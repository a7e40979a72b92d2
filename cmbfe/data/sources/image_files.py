"""Which file an image of some labels is.

Labelling tools keep images in folders of their own, and labels may name them with another case or suffix.
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
"""Where a file may lie below a folder."""


class ImageFiles:
    """The files below a folder, to be found by their names in labels."""

    def __init__(self, root: Path) -> None:
        self.root = resolved(root)
        self.elsewhere = 0
        """How many images were found by another case or suffix, or in a later round only."""

    def find(self, name: str, where: object, *rounds: Iterable[Place]) -> Path:
        """The file that `name` means: at the first place, else the one file at any place of a round, else with another
        case, else with another suffix; else that of the next round. Errors begin with `where`, the labels.

        Raises:
            InputError: no such file, several, or a first place outside the folder.
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
        """Files at any of the places, by the strictest comparison of names that finds one."""
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
    """Text with ü as one character; names from macOS may have two."""
    return unicodedata.normalize("NFC", text)


def _keys(place: Place) -> list[tuple[int, str]]:
    """A place as it is (`composed`), in another case, and with another suffix."""
    name = composed(place.as_posix())
    folded = name.casefold()
    suffix = PurePosixPath(folded).suffix
    ways = (name, folded, folded.removesuffix(suffix) if suffix in IMAGE_SUFFIXES else folded)
    return list(enumerate(ways))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no name of a file: too long
        return False
