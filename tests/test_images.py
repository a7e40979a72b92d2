"""Images on disk, 8-bit grey in and out, and the folders of a source: what cannot be read is refused in one line."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from unittest import mock

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, ExifTags, Image

from cmbfe.data.labelled.images import COLOURED, TURNED, image_notes, is_turned, natural_key, read_image, save_image
from cmbfe.errors import InputError
from cmbfe.files import resolved

RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)


STORED = {
    # EXIF orientation -> how an image that is shown upright is stored
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: np.transpose,
    6: np.rot90,
    7: lambda shown: np.rot90(shown, 2).T,
    8: lambda shown: np.rot90(shown, -1),
}


def test_a_jpg_comes_back_nearly_and_its_quality_counts(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    errors = []
    for quality in (95, 20):
        save_image(tmp_path / f"{quality}.jpg", noise, quality)
        errors.append(np.abs(read_image(tmp_path / f"{quality}.jpg").astype(float) - noise).mean())
    assert errors[0] < 5 < errors[1]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_read_as_viewers_show_it(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = np.ascontiguousarray(STORED[orientation](RAMP))
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=100, lossless=True)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.shape == RAMP.shape
    assert np.abs(image.astype(int) - RAMP).max() < 16
    assert is_turned(tmp_path / f"a.{suffix}") == (orientation > 1)


@pytest.mark.parametrize(
    ("mode", "colour", "coloured"),
    [("RGB", (90, 90, 90), 0), ("RGB", (200, 0, 0), 1), ("P", (0, 0, 200), 1), ("RGBA", (0, 90, 0), 1), ("L", 7, 0)],
)
def test_images_in_colour_are_counted(tmp_path, mode, colour, coloured):
    image = Image.fromarray(RAMP).convert("RGB" if mode == "P" else mode)
    image.paste(colour, (3, 2, 5, 4))
    image.convert(mode).save(tmp_path / "a.png")
    assert image_notes([tmp_path / "a.png"]) == {TURNED: 0, COLOURED: coloured}
    if mode == "RGB":
        image.save(tmp_path / "a.jpg")
        assert image_notes([tmp_path / "a.jpg"])[COLOURED] == coloured


def twelve_bits(file: str) -> None:
    """A JPEG whose frame header (FFC0, length, precision) says so."""
    Image.fromarray(RAMP).save(file)
    content = Path(file).read_bytes()
    Path(file).write_bytes(content.replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c"))


def saved(image: Image.Image, **options: object) -> Callable[[str], None]:
    return lambda file: image.save(file, **options)


def tiff(content: np.ndarray, **options: object) -> Callable[[str], None]:
    return lambda file: tifffile.imwrite(file, content, **options)


DEEP = np.full((64, 70, 3), 60_000, np.uint16)
DEEPER = "has more than 8 bits"
HALF_CLEAR = Image.fromarray(np.stack([np.full((4, 4), 90), np.full((4, 4), 128)], -1).astype(np.uint8))
FRAMES = saved(Image.fromarray(RAMP), save_all=True, append_images=[Image.fromarray(255 - RAMP)])
UNFIT = {
    # what an image is -> how such a file is written, and what is said of it
    "no image": ("a.png", lambda file: None, "no such image"),
    "16-bit PNG": ("a.png", lambda file: cv2.imwrite(file, DEEP[..., 0]), DEEPER),
    "16-bit colour PNG": ("a.png", lambda file: cv2.imwrite(file, DEEP), DEEPER),
    "16-bit planes": ("a.tif", tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"), DEEPER),
    "16-bit colour JPEG 2000": ("a.jp2", lambda file: cv2.imwrite(file, DEEP), DEEPER),
    "12-bit JPEG": ("a.jpg", twelve_bits, "8 bits"),
    "signed TIFF": ("a.tif", tiff(RAMP.astype(np.int8)), DEEPER),
    "1 bit": ("a.png", saved(Image.new("1", (4, 4))), "1 bit"),
    "inks": ("a.jpg", saved(Image.new("CMYK", (4, 4))), "CMYK"),
    "half transparent": ("a.png", saved(HALF_CLEAR), "transparent"),
    "one transparent colour": ("a.png", saved(Image.new("L", (4, 4)), transparency=0), "transparent"),
    "a transparent colour of a palette": ("a.gif", saved(Image.new("P", (4, 4)), transparency=0), "transparent"),
    "pages": ("a.tif", tiff(np.stack([RAMP] * 3), photometric="minisblack"), "3 images"),
    "frames": ("a.gif", FRAMES, "2 images"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_image_of_unknown_greys_or_several_in_a_file_are_refused(tmp_path, case):
    name, write, named = UNFIT[case]
    write(str(tmp_path / name))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name)) + ": .*" + named):
        read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "jp2"])
def test_what_is_not_transparent_is_grey_whatever_the_mode(tmp_path, mode, suffix):
    Image.fromarray(RAMP).convert("L" if (mode, suffix) == ("P", "jp2") else mode).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), RAMP)


@pytest.mark.parametrize("names", [
    ("slice1.png", "slice2.png", "slice10.png"),
    ("P2/9.png", "P2/10.png", "P10/1.png"),
    ("IM.0009", "IM.0010", "im.10000"),
    ("a.png", "a2.png", "a10b1.jpg", "a10b12.png"),
    ("1.2.840.9.png", "1.2.840.10.png", "1.2.840." + "9" * 5000 + ".png"),
    ("07.png", "7.png", "8.png"),
])  # fmt: skip
def test_numbers_in_names_are_in_their_order(names):
    assert [path.as_posix() for path in sorted(map(PurePosixPath, reversed(names)), key=natural_key)] == list(names)


def test_a_image_too_large_to_be_one_is_refused(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", RAMP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL's guard against files that unpack to gigabytes
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6\0\0", b"", b"%PDF"]
)
def test_postscript_is_no_image_whatever_its_name(tmp_path, content, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", mock.Mock(side_effect=AssertionError))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["png", "jpg", "tif", "gif", "bmp", "webp", "ppm", "jp2"]))
def test_a_damaged_image_is_read_or_refused_but_nothing_else(tmp_path_factory, data, suffix):
    file = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    save_image(file, RAMP)
    content = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        outcome = str(read_image(file).dtype)
    except InputError as error:
        outcome = str(error)
    assert outcome == "uint8" or outcome.startswith(str(file))


def test_a_link_to_itself_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop/x: its links lead to themselves"):
        resolved(tmp_path / "loop" / "x")
    assert resolved(tmp_path / "a" / ".." / "b") == tmp_path / "b"
