"""PostScript is a program: what is read as an image must never run it."""

from pathlib import Path

from cmbfe.errors import InputError

BEGINNINGS = b"%!PS", b"\xc5\xd0\xd3\xc6"
"""Of a PostScript file, and of one with a preview."""


def refuse_postscript(file: Path) -> None:
    """Raise `InputError` for a PostScript file under whatever name: Pillow would have Ghostscript run it."""
    with file.open("rb") as opened:
        if opened.read(4) in BEGINNINGS:
            raise InputError(f"{file}: not a readable image, but PostScript, which is a program; export it as PNG")
