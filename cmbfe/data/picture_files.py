"""8-bit grey pictures on disk."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cmbfe.errors import InputError
from cmbfe.files import whole_file


def read_picture(path: Path) -> np.ndarray:
    """Read one picture as uint8 grey [rows, columns].

    Raises:
        InputError: no such file, no picture, or one of more than 8 bits, whose window nobody knows.
    """
    try:
        with Image.open(path) as opened:
            mode, picture = opened.mode, np.array(opened.convert("L"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture: {error}") from None
    if mode.startswith(("I", "F")):  # PIL has made everything above 255 white
        raise InputError(f"{path}: has more than 8 bits (mode {mode}); window it to 8 bits first")
    return picture


def save_picture(path: Path, picture: np.ndarray, jpeg_quality: int = 95) -> None:
    """Write one uint8 picture [rows, columns]; the suffix of `path` chooses JPG or PNG."""
    with whole_file(path) as temporary:
        Image.fromarray(picture).save(temporary, quality=jpeg_quality)
