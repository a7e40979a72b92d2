"""Pixels of DICOM files: modality LUT, sign and depth, compression, several frames in one file."""

import numpy as np
import pytest
from dicom_series import AXIAL, mr_series, mr_slice, positions, random_volume, recompress, write
from pydicom import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cmbfe.data.dicom.series import find_series, read_volume


@pytest.mark.parametrize("intercept", ["-100", None])
def test_rescale_of_each_slice_is_applied(tmp_path, intercept):
    volume = random_volume(2)
    images = mr_series(volume, RescaleIntercept=intercept)
    for image, slope in zip(images, ["0.5", "3"], strict=True):
        image.RescaleSlope = slope
    write(tmp_path, images)
    pixels = read_volume(find_series(tmp_path)[0])
    np.testing.assert_array_equal(pixels, volume * np.array([0.5, 3.0])[:, None, None] + float(intercept or 0))
    assert pixels.dtype == np.float32


def test_modality_lookup_table_is_applied(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4, 10, 16]
    table.ModalityLUTType = "US"
    table.LUTData = np.array([7, 70, 700, 7000], "<u2").tobytes()
    pixels = np.array([[0, 10, 11], [12, 13, 99]], np.uint16)
    write(tmp_path, [mr_slice(pixels, ModalityLUTSequence=[table])])
    expected = [[[7, 7, 70], [700, 7000, 7000]]]
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), expected)


def test_monochrome1_is_inverted_within_the_range_of_the_volume(tmp_path):
    volume = random_volume()
    write(tmp_path, mr_series(volume, PhotometricInterpretation="MONOCHROME1"))
    expected = float(volume.min()) + volume.max() - volume
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int8, np.uint32])
def test_signs_and_depths_of_pixels_are_kept(tmp_path, dtype):
    limits = np.iinfo(dtype)
    volume = np.random.default_rng(1).integers(limits.min, limits.max, (2, 16, 12), dtype=dtype, endpoint=True)
    write(tmp_path, mr_series(volume))
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume.astype(np.float32))


def test_bits_above_the_stored_ones_are_ignored(tmp_path):
    volume = random_volume()
    write(tmp_path, mr_series(volume | 0x8000, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("sign", [1, -1])
def test_losslessly_compressed_series_equal_the_uncompressed(tmp_path, syntax, sign):
    volume = random_volume() if sign == 1 else random_volume().astype(np.int16) - 2048
    for path in write(tmp_path, mr_series(volume)):
        recompress(path, syntax)
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_uncompressed_syntaxes_are_read(tmp_path, syntax):
    volume = random_volume(1)
    image = mr_slice(volume[0].byteswap() if syntax == ExplicitVRBigEndian else volume[0])
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)


def enhanced(volume: np.ndarray, kinds: list[str]) -> Dataset:
    """A multi-frame MR object: for each kind all slices, from the head down."""
    frames = []
    for kind in kinds:
        for place in positions(len(volume) // len(kinds))[::-1]:
            frame, plane, values, frame_type = Dataset(), Dataset(), Dataset(), Dataset()
            plane.ImagePositionPatient = place
            values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "2", "1", "US"
            frame_type.FrameType, frame_type.ComplexImageComponent = ["ORIGINAL", "PRIMARY", "OTHER"], kind
            frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [plane], [values]
            frame.MRImageFrameTypeSequence = [frame_type]
            frames.append(frame)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.75], 2.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    image = mr_slice(volume, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    image.NumberOfFrames = len(volume)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
    return image


def test_multi_frame_files_are_split_and_ordered_like_single_ones(tmp_path):
    volume = random_volume(6)
    write(tmp_path, [enhanced(volume, ["MAGNITUDE", "PHASE"])])
    magnitude, phase = find_series(tmp_path)
    assert (magnitude.kind, magnitude.frames) == ("magnitude", (2, 1, 0))
    assert (phase.kind, phase.frames) == ("phase", (5, 4, 3))
    assert magnitude.slice_spacing_mm == pytest.approx(2.0)
    np.testing.assert_array_equal(read_volume(magnitude), 2.0 * volume[2::-1] + 1)
    np.testing.assert_array_equal(read_volume(phase), 2.0 * volume[:2:-1] + 1)


def test_bytes_after_the_pixel_data_do_not_matter(tmp_path):
    volume = random_volume(2)
    for path in write(tmp_path, mr_series(volume)):
        path.write_bytes(path.read_bytes() + bytes(range(256)) * 10)
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)
