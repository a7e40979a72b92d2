"""8-bit grey images on disk; the phase of one, where there is a phase, lies beside it as NAME.phase.png."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cmbfe.errors import InputError
from cmbfe.files import whole_file

PHASE_SUFFIX = ".phase.png"
ZERO_PHASE = 128
"""Value of no phase in an image; the steps to both sides of it are the same."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, whatever its name. PostScript is none of them: it is a program, and Pillow would have it run."""
HALF_TURN = 127
"""Steps from `ZERO_PHASE` to half a turn: a step is 24.7 mrad."""


def read_image(path: Path) -> np.ndarray:
    """Read one image as uint8 grey [rows, columns].

    Raises:
        InputError: no such file, no image of `FORMATS`, or one of more than 8 bits, whose window nobody knows.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            mode, image = opened.mode, np.array(opened.convert("L"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image: {error}") from None
    if mode.startswith(("I", "F")):  # PIL has made everything above 255 white
        raise InputError(f"{path}: has more than 8 bits (mode {mode}); window it to 8 bits first")
    return image


def save_image(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> None:
    """Write one uint8 image [rows, columns]; the suffix of `path` chooses JPG or PNG.

    One with phase [rows, columns, 2] becomes two files: the magnitude, and its phase as PNG beside it (`phase_file`).
    """
    with whole_file(path) as temporary:
        Image.fromarray(magnitude_of(image)).save(temporary, quality=jpeg_quality)
    if image.ndim == 3:
        save_image(phase_file(path), image[..., 1])


def phase_file(path: Path) -> Path:
    """Where the phase of an image lies: P1/000.phase.png for P1/000.jpg."""
    return path.with_suffix(PHASE_SUFFIX)


def phase_entry(file_name: str, has_phase: bool) -> dict[str, str]:
    """What a COCO image of our own says of its phase: the file's name, or nothing where there is none."""
    return {"phase_file_name": phase_file(Path(file_name)).as_posix()} if has_phase else {}


def is_phase_file(path: Path) -> bool:
    """Whether a file holds the phase of the image beside it, and is no image of its own."""
    return path.name.lower().endswith(PHASE_SUFFIX)


def read_with_phase(path: Path, phase: Path | None) -> np.ndarray:
    """An image, uint8 [rows, columns]; with the file of its phase [rows, columns, 2]: magnitude, phase.

    Raises:
        InputError: as `read_image`, or the two differ in size.
    """
    magnitude = read_image(path)
    if phase is None:
        return magnitude
    other = read_image(phase)
    if other.shape != magnitude.shape:
        sizes = [f"{columns} x {rows} px" for rows, columns in (other.shape, magnitude.shape)]
        raise InputError(f"{phase}: {sizes[0]}, but the magnitude beside it has {sizes[1]}")
    return np.stack([magnitude, other], axis=-1)


def magnitude_of(image: np.ndarray) -> np.ndarray:
    """What is to be looked at of an image, with phase or without: uint8 [rows, columns]."""
    return image[..., 0] if image.ndim == 3 else image
