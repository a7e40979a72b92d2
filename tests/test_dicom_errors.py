"""Bad DICOM input: one line that names the file and the reason, and never anything else."""

import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import PYDICOM_FILES, mr_series, mr_slice, one_decoder, positions, random_volume, recompress, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import DECODER_CRASHED, read_volume
from cmbfe.errors import InputError


def read_everything(source: Path) -> list[np.ndarray]:
    return [read_volume(series) for series in find_series(source)]


def outcome(source: Path) -> str:
    """Shapes of the images, or the one line that says what is wrong; anything else raises."""
    try:
        return f"images {[volume.shape for volume in read_everything(source)]}"
    except InputError as error:
        return str(error)


def error_of(source: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_everything(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def rewrite(**attributes: object) -> Callable[[list[Path]], object]:
    """Write the second file of a series again with other attributes."""
    return lambda paths: write(paths[1].parent, [mr_slice(random_volume(1)[0], **attributes)], [paths[1].name])


SECOND = {"ImagePositionPatient": positions(2)[1]}
BROKEN = {
    "pixel data cut off": (lambda paths: cut(paths[1], -10), "truncated"),
    "header cut off": (lambda paths: cut(paths[1], 500), "no pixel data"),
    "cut off within the first bytes": (lambda paths: cut(paths[1], 140), "DICOM header|SOP Class UID"),
    "empty file": (lambda paths: cut(paths[1], 0), "empty"),
    "text named .dcm": (lambda paths: paths[1].write_text("hello"), "not a DICOM file"),
    "long text named .dcm": (lambda paths: paths[1].write_text("hello " * 1000), "not a DICOM file"),
    "pixel data too short": (rewrite(PixelData=b"\0" * 100), "too short"),
    "more bits than BitsStored": (rewrite(BitsStored=11, HighBit=10, **SECOND), "the 11 of BitsStored"),
    "no pixel data": (rewrite(PixelData=None), "no pixel data"),
    "pixel spacing 0": (rewrite(PixelSpacing=[0.0, 0.0]), "PixelSpacing"),
    "orientation 0": (rewrite(ImageOrientationPatient=[0.0] * 6), "ImageOrientationPatient"),
    **{
        f"no {keyword}": (rewrite(**{keyword: None}), keyword)
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SeriesInstanceUID")
    },
    "colour": (
        rewrite(PhotometricInterpretation="RGB", SamplesPerPixel=3, PixelData=b"\0" * 1152, PlanarConfiguration=0),
        "greyscale",
    ),
    "palette": (rewrite(PhotometricInterpretation="PALETTE COLOR"), "greyscale"),
    "frames without places": (rewrite(NumberOfFrames=2, PixelData=b"\0" * 768), "2 frames"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_reason(tmp_path, case):
    paths = write(tmp_path, mr_series(random_volume()))
    break_it, reason = BROKEN[case]
    break_it(paths)
    message = error_of(tmp_path)
    assert message.startswith(f"{paths[1]}: ")
    assert re.search(reason, message)


@pytest.mark.parametrize(("heights", "attributes", "reason"), [
    ((-7, -5, -3, 1, 3), {}, r"missing at -1\.00 mm.* 002\.dcm \(-3\.00 mm\) and 003\.dcm \(1\.00 mm\)"),
    ((0, 2, 4, 5, 6, 8), {}, "slices too close"),
    ((0, 2, 2, 4), {}, r"two slices at one position: .*00[12]\.dcm"),
    ((0,), {"SliceThickness": None}, "SliceThickness"),
    ((0,), {"RescaleSlope": "1e300", "RescaleIntercept": "0"}, "not finite"),
])  # fmt: skip
def test_slices_that_are_no_stack_or_of_unknown_thickness_or_brightness_are_named(
    tmp_path, heights, attributes, reason
):
    write(tmp_path, [mr_slice(random_volume(1, n)[0], (0, 0, z), **attributes) for n, z in enumerate(heights)])
    assert re.search(reason, error_of(tmp_path))


def test_sources_without_dicom_images_are_errors_and_copies_of_one_image_are_named(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        assert error_of(source).startswith(f"{source}: ")
    (tmp_path / "README.txt").write_text("hello")
    write(tmp_path / "in", [mr_slice(random_volume(1)[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")], ["report"])
    for source in (tmp_path, tmp_path / "README.txt", tmp_path / "in" / "report"):
        assert error_of(source).startswith(f"{source}: ")
    paths = write(tmp_path / "copies", mr_series(random_volume()))
    shutil.copy(paths[1], tmp_path / "copies" / "copy.dcm")
    assert "copies of one image" in error_of(tmp_path / "copies")


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_file_cut_anywhere_is_an_error_before_pixels_are_decoded(tmp_path, syntax):
    (path,) = write(tmp_path, [mr_slice(random_volume(1)[0])])
    if syntax:
        recompress(path, syntax)
    whole = path.read_bytes()
    end = len(whole) - (8 if syntax else 0)  # the closing delimiter carries nothing
    for size in [*range(0, end, 29), end - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            find_series(tmp_path)


@pytest.mark.parametrize(("syntax", "start", "place", "wrong"), [
    (JPEG2000Lossless, b"\xff\x4f", 20, bytes(60)),
    (JPEGLSLossless, b"\xff\xd8", 20, bytes(60)),
    (JPEGLSLossless, b"\xff\xf7", 5, b"\x04\x00\x04\x00"),  # rows and columns in the stream: the decoder crashes
])  # fmt: skip
def test_broken_compressed_pixels_are_an_error_and_print_nothing(tmp_path, capfd, syntax, start, place, wrong):
    paths = write(tmp_path, mr_series(random_volume(2)))
    for path in paths:
        recompress(path, syntax)
    content = bytearray(paths[1].read_bytes())
    first = content.index(start) + place
    content[first : first + len(wrong)] = wrong
    paths[1].write_bytes(content)
    assert error_of(tmp_path).startswith(f"{paths[1]}: pixel data cannot be decoded")
    assert capfd.readouterr() == ("", "")


@settings(max_examples=40, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_image_or_one_line(flips):
    with tempfile.TemporaryDirectory() as folder:
        (path,) = write(Path(folder), [mr_slice(random_volume(1)[0])])
        content = bytearray(path.read_bytes())
        for place, change in flips:
            content[place % len(content)] ^= change
        path.write_bytes(content)
        assert "\n" not in outcome(Path(folder))


@pytest.fixture(scope="module")
def decoder():
    with one_decoder():
        yield


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda path: path.name)
def test_each_file_of_pydicoms_collection_gives_images_or_one_line(path, capfd):
    filters = list(warnings.filters)
    result = outcome(path)
    assert result.startswith((str(path), "images"))
    assert "\n" not in result
    assert DECODER_CRASHED not in result
    assert capfd.readouterr() == ("", "")
    assert warnings.filters == filters
