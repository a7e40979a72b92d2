"""8-bit grey images on disk. The phase of an image, if any, is the file NAME.phase.png beside it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT

from cmbfe.errors import InputError
from cmbfe.files import whole_file

PHASE_SUFFIX = ".phase.png"
ZERO_PHASE = 128
"""Grey value of zero phase; positive and negative phase have the same step size."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, whatever the suffix. PostScript is excluded, because Pillow would run it as a program."""
HALF_TURN = 127
"""Grey levels between `ZERO_PHASE` and a phase of half a turn; one level is 24.7 mrad."""
TURNED = "Images are turned or mirrored as their EXIF says, as viewers show them."
COLOURED = "Images are in colour: of each pixel its brightness is read."
LARGEST_TINT = 20
"""Largest difference between red, green and blue of a grey pixel, caused by the rounding of JPG."""
MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
"""Pillow modes with known grey values. Grey values of ink modes (CMYK) depend on the printer."""


def read_image(path: Path) -> np.ndarray:
    """Read one image as uint8 grey [rows, columns], rotated or mirrored by its EXIF orientation, as viewers do.

    Raises:
        InputError: a missing file, a format outside `FORMATS`, several images in one file, or pixels whose grey value
            is unclear: more than 8 bits (the window is unknown), 1 bit, ink colours, or transparency.
    """
    with _opened(path) as image:
        if reason := _unfit(image):
            raise InputError(f"{path}: {reason}")
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(image.convert("L"))


def is_turned(path: Path) -> bool:
    """Whether `read_image` rotates or mirrors this image by its EXIF. Raises `InputError` if it cannot be opened."""
    with _opened(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)


def image_notes(files: Iterable[Path]) -> dict[str, int]:
    """Numbers of rotated and of coloured images, by note. Raises `InputError` if an image cannot be opened."""
    files = list(files)
    return {TURNED: sum(map(is_turned, files)), COLOURED: sum(map(_is_coloured, files))}


def _is_coloured(path: Path) -> bool:
    with _opened(path) as image:
        channels = (
            np.asarray(image.convert("RGB")) if image.mode not in ("L", "LA") else np.zeros((1, 1, 3), np.uint8)
        )
        return int((channels.max(axis=-1) - channels.min(axis=-1)).max()) > LARGEST_TINT


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:  # not by path: Pillow 13 would memory-map a rotated TIFF with rows and columns swapped
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; get it, or correct what names it") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable image: none of {', '.join(FORMATS)} with 8 bits") from None
    except Exception as error:  # damaged files make Pillow raise anything: struct.error, KeyError, EOFError
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable image: {said}") from None


def _unfit(image: Image.Image) -> str:
    """Why an opened image cannot be read as a grey image, and what to do about it; "" if it can be read."""
    if (count := getattr(image, "n_frames", 1)) > 1:
        return f"holds {count} images; save each in a file of its own"
    if _has_more_than_8_bits(image):
        return f"has more than 8 bits (mode {image.mode}); window it to 8 bits first"
    if image.mode == "1":
        return "is black and white without greys (1 bit); save the image itself, with 8 bits"
    if image.mode not in MODES:
        return f"is in the colours {image.mode}, whose greys are not known; save it as grey or RGB"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        return "has transparent pixels, whose grey is not known; save it without transparency"
    return ""


def _has_more_than_8_bits(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, or values other than unsigned integers. Pillow converts such colour
    images to 8 bits without a warning, some of them to black."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF":
        bits, kinds = (image.tag_v2.get(tag, (1,)) for tag in (BITSPERSAMPLE, SAMPLEFORMAT))
        return max(bits) > 8 or max(kinds) > 1
    if image.format == "JPEG2000":
        return _jpeg2000_bits(image) > 8
    how = image.tile[0].args if image.tile else ""  # PNG: "RGB;16B"; PPM: "RGB", or ("RGB", the largest value)
    is_png_of_16 = image.format == "PNG" and ";16" in how
    return is_png_of_16 or (image.format == "PPM" and not isinstance(how, str) and how[-1] > 255)


def _jpeg2000_bits(image: Image.Image) -> int:
    """Largest bit depth of the channels, from the SIZ segment of the code stream (3 bytes per channel)."""
    image.fp.seek(0)
    content = image.fp.read()
    start = content.index(b"\xff\x4f\xff\x51") + 42
    return max((bits & 0x7F) + 1 for bits in content[start : start + 3 * len(image.getbands()) : 3])


def natural_key(path: PurePath) -> tuple:
    """Sort key of a path: folder by folder, and numbers by value, so that slice2 comes before slice10.

    >>> names = ["P1/slice10.png", "P1/slice2.png", "P10/1.png", "P2/1.png"]
    >>> [path.as_posix() for path in sorted(map(PurePath, names), key=natural_key)]
    ['P1/slice2.png', 'P1/slice10.png', 'P2/1.png', 'P10/1.png']
    """
    named = path.with_suffix("") if path.suffix[1:].isalpha() else path  # the number in IM.0001 is not a suffix
    split = [re.split(r"([0-9]+)", part.casefold()) for part in named.parts]
    for part in split:
        part[1::2] = [(len(own), own) for own in (digits.lstrip("0") for digits in part[1::2])]  # of any length
    return tuple(map(tuple, split)), path.parts


def save_image(path: Path, image: np.ndarray, jpeg_quality: int = 95) -> None:
    """Write a uint8 image [rows, columns] as JPG or PNG, depending on the suffix of `path`.

    An image with phase [rows, columns, 2] becomes two files: the magnitude, and the phase as a PNG (`phase_file`).
    """
    with whole_file(path) as temporary:
        Image.fromarray(magnitude_of(image)).save(temporary, quality=jpeg_quality)
    if image.ndim == 3:
        save_image(phase_file(path), image[..., 1])


def phase_file(path: Path) -> Path:
    """Path of the phase of an image: P1/000.phase.png for P1/000.jpg."""
    return path.with_suffix(PHASE_SUFFIX)


def phase_entry(file_name: str, has_phase: bool) -> dict[str, str]:
    """The `phase_file_name` entry of a COCO image; empty for an image without phase."""
    return {"phase_file_name": phase_file(Path(file_name)).as_posix()} if has_phase else {}


def read_with_phase(path: Path, phase: Path | None) -> np.ndarray:
    """Read an image as uint8 [rows, columns], or with its phase file as [rows, columns, 2]: magnitude, phase. Raises
    `InputError` like `read_image`, or if image and phase differ in size."""
    magnitude = read_image(path)
    if phase is None:
        return magnitude
    other = read_image(phase)
    if other.shape != magnitude.shape:
        sizes = [f"{columns} x {rows} px" for rows, columns in (other.shape, magnitude.shape)]
        raise InputError(f"{phase}: {sizes[0]}, but the magnitude beside it has {sizes[1]}; make them of one size")
    return np.stack([magnitude, other], axis=-1)


def magnitude_of(image: np.ndarray) -> np.ndarray:
    """The magnitude channel of an image with or without phase: uint8 [rows, columns]."""
    return image[..., 0] if image.ndim == 3 else image
