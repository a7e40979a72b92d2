"""Reading DICOM series: which there are, of what kind, in which order their slices lie, and their pixels."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    item,
    mr_series,
    mr_slice,
    one_decoder,
    random_volume,
    recompress,
    uid,
    write,
)
from pydicom import uid as syntaxes

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume, to_patient_mm
from cmbfe.errors import InputError

PHASE = ["ORIGINAL", "PRIMARY", "P"]
REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL, OBLIQUE])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_slices_come_in_order_of_the_slice_normal_whatever_the_files_are_called(tmp_path, orientation, order):
    volume = random_volume()
    images = mr_series(volume, orientation)
    for number, image in zip(order, images, strict=True):
        image.InstanceNumber = number
    paths = write(tmp_path, images, [f"{number}.dcm" for number in order])

    (series,) = find_series(tmp_path)

    assert series.files == tuple(paths)
    assert series.sop_instance_uids == tuple(image.SOPInstanceUID for image in images)
    assert series.slice_spacing_mm == pytest.approx(2.0)
    np.testing.assert_array_equal(read_volume(series), volume)
    if orientation == AXIAL:  # from feet to head
        assert series.positions_mm == tuple(sorted(series.positions_mm, key=lambda place: place[2]))


def test_place_in_the_patient_agrees_with_simpleitk(tmp_path):
    paths = write(tmp_path, mr_series(random_volume(2), OBLIQUE))
    (series,) = find_series(tmp_path)
    image = sitk.ReadImage(str(paths[1]))
    expected = image.TransformContinuousIndexToPhysicalPoint((7.25, 3.5, 0.0))
    assert to_patient_mm(series, 1, 7.75, 4.0) == pytest.approx(expected)


def test_a_single_file_is_a_series_of_one_slice_and_positions_rounded_by_the_scanner_are_no_gap(tmp_path):
    paths = write(tmp_path, mr_series(random_volume()))
    (series,) = find_series(paths[2])
    assert series.files == (paths[2],)
    assert series.slice_spacing_mm == 2.0  # SliceThickness
    write(tmp_path, [mr_slice(random_volume(1)[0], SpacingBetweenSlices=3.0)], ["one"])
    assert find_series(tmp_path / "one")[0].slice_spacing_mm == 3.0
    heights = np.round(np.arange(12) * 1.36, 1)
    write(tmp_path / "rounded", [mr_slice(random_volume(1)[0], (0, 0, height)) for height in heights])
    assert find_series(tmp_path / "rounded")[0].slice_spacing_mm == pytest.approx(1.36, abs=0.05)


PER_SECOND = item(MeasurementUnitsCodeSequence=[item(CodeValue="/s")])


def typed(kind: str, image_type: str | None, **attributes: object) -> tuple[str, dict[str, object]]:
    """A kind, and the attributes that say it; the values of ImageType stand apart by commas."""
    return kind, {"ImageType": image_type and image_type.split(","), **attributes}


@pytest.mark.parametrize(("kind", "attributes"), [
    typed("magnitude", "ORIGINAL,PRIMARY,SW_M_FFE,SW_M,FFE"),
    typed("magnitude", None),
    typed("magnitude", "ORIGINAL,PRIMARY"),
    typed("magnitude", "ORIGINAL,PRIMARY,MPR"),
    typed("magnitude", "ORIGINAL,PRIMARY,MAG"),
    typed("magnitude", "ORIGINAL,PRIMARY,M,SWI,NORM,DIS3D,FM3_2,FIL"),
    typed("magnitude", "DERIVED,PRIMARY,M,SWI", SeriesDescription=""),
    typed("magnitude", "DERIVED,SECONDARY,OTHER", SeriesDescription="Ax SWAN"),
    typed("magnitude", "ORIGINAL,PRIMARY,M_FFE,M", SeriesDescription="QSM_7echo"),
    typed("magnitude", "ORIGINAL,PRIMARY,M,RETRO,DL", SeriesDescription="SWI"),
    typed("magnitude", "ORIGINAL,PRIMARY,OTHER", SeriesDescription="SWAN hemiparesis R2"),
    typed("magnitude", "ORIGINAL,PRIMARY,M", siemens=0),
    ("magnitude", {"ge": 0}),
    ("magnitude", {"ge": []}),
    ("magnitude", {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "SIGNAL INTENSITY (UNITLESS)"}),
    typed("phase", "ORIGINAL,PRIMARY,SW_P_FFE,SW_P,FFE"),
    typed("phase", "ORIGINAL,PRIMARY,P,ND"),
    typed("phase", "ORIGINAL,PRIMARY,PHASE MAP,P,FFE"),
    ("phase", {"ComplexImageComponent": "PHASE"}),
    ("phase", {"SeriesDescription": "FILT_PHA: SWAN"}),
    ("phase", {"ge": 1}),
    ("imaginary", {"ge": 3}),
    typed("real", "ORIGINAL,PRIMARY,R,FFE"),
    typed("projection", "DERIVED,PRIMARY,MNIP,ND"),
    typed("projection", "DERIVED,PRIMARY,MIN_IP,NONE"),
    typed("projection", None, SeriesDescription="mIP_Images(SW)"),
    typed("projection", "ORIGINAL,PRIMARY,M,ND,NORM", SeriesDescription="mIP_Images(SW)"),
    ("projection", {"VolumeBasedCalculationTechnique": "MIN_IP"}),
    *(
        typed("projection", "DERIVED,SECONDARY,OTHER", SeriesDescription=said)
        for said in ("AX SWAN MIN IP", "SWI Min-IP", "SWI minIP8", "MinIP10mm SWI", "SWAN MIPs", "Ax SWI + MIP")
    ),
    typed("projection", "DERIVED,SECONDARY", SeriesDescription="SWI minimum intensity projection"),
    typed("magnitude", "ORIGINAL,PRIMARY,M", SeriesDescription="Ax SWI + MIP"),
    typed("localizer", "ORIGINAL,PRIMARY,LOCALIZER"),
    typed("localizer", "ORIGINAL,PRIMARY,M,ND", SeriesDescription="AAHead_Scout"),
    typed("mosaic", "ORIGINAL,PRIMARY,M,ND,NORM,MOSAIC"),
    typed("mosaic", "ORIGINAL,PRIMARY,M,ND", siemens=12),
    typed("map", "DERIVED,PRIMARY,T2 MAP"),
    typed("map", "DERIVED,PRIMARY,M,QSM"),
    typed("map", "DERIVED,PRIMARY,R2_STAR,M"),
    typed("map", "ORIGINAL,PRIMARY,B0,UNSPECIFIED"),
    typed("map", "ORIGINAL,PRIMARY,DIFFUSION,TRACEW,ND"),
    typed("map", "DERIVED,SECONDARY", SeriesDescription="ADC (10^-6 mm2/s)"),
    typed("map", "DERIVED,SECONDARY,OTHER", SeriesDescription="SWI R2"),
    typed("map", "DERIVED,SECONDARY,OTHER", SeriesDescription="SWI mask"),
    ("CT", {"Modality": "CT"}),
    ("unclear", {"SeriesDescription": "Ax QSM"}),
    typed("unclear", "DERIVED,SECONDARY,OTHER", SeriesDescription="results"),
    typed("unclear", "ORIGINAL,PRIMARY,FANCY"),
    typed("unclear", "DERIVED,PRIMARY,M", SeriesDescription="QSM"),
    typed("unclear", "DERIVED,SECONDARY,MPR,M,ND"),
    ("unclear", {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "HZ"}),
    ("unclear", {"ComplexImageComponent": "MIXED"}),
    ("unclear", {"PerFrameFunctionalGroupsSequence": [item(RealWorldValueMappingSequence=[PER_SECOND])]}),
])  # fmt: skip
def test_kind_is_read_from_each_vendors_attributes(tmp_path, kind, attributes):
    own = {key: value for key, value in attributes.items() if key != "siemens"}
    image = mr_slice(random_volume(1)[0], **own)
    if own != attributes:
        image.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", attributes["siemens"])
    write(tmp_path, [image])
    assert find_series(tmp_path)[0].kind == kind


@pytest.mark.parametrize(("group", "creator", "element", "kind"), [
    (0x43, "GEMS_PARM_01", 0x2F, "phase"), (0x19, "SIEMENS MR HEADER", 0x0A, "mosaic"),
])  # fmt: skip
def test_private_elements_count_in_any_block(tmp_path, group, creator, element, kind):
    image = mr_slice(random_volume(1)[0])
    image.private_block(group, "OTHER", create=True)  # takes block 10
    image.private_block(group, creator, create=True).add_new(element, "US", 1 if kind == "phase" else 20)
    write(tmp_path, [image])
    assert find_series(tmp_path)[0].kind == kind


@pytest.mark.parametrize(("suffixes", "differences"), [
    (["-magnitude", "-phase"], [{}, {"ImageType": PHASE}]),
    (["-magnitude", "-magnitude-2"], [{"EchoTime": 20.0}, {"EchoTime": 40.0}]),
    (["-magnitude", "-magnitude-2"], [{"EchoNumbers": 1}, {"EchoNumbers": 2}]),
    (["-magnitude", "-magnitude-2"], [{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}]),
    (["-magnitude", "-magnitude-2"], [{"AcquisitionNumber": 9}, {"AcquisitionNumber": 10}]),
    (["-magnitude", "-magnitude-2"], [{"PixelSpacing": [0.5, 0.5]}, {"PixelSpacing": [0.5, 0.6]}]),
    (["-localizer", "-localizer-2"], [{"orientation": CORONAL}, {"orientation": SAGITTAL}]),
])  # fmt: skip
def test_one_series_uid_is_split_where_its_slices_do_not_form_one_stack(tmp_path, suffixes, differences):
    volumes = [random_volume(3, seed) for seed in range(2)]
    for number, (volume, difference) in enumerate(zip(volumes, differences, strict=True)):
        write(tmp_path / str(number), mr_series(volume, **difference))
    found = find_series(tmp_path)
    assert [series.series_uid for series in found] == [uid("series") + suffix for suffix in suffixes]
    assert {read_volume(series).tobytes() for series in found} == {v.astype(np.float32).tobytes() for v in volumes}


def test_matrices_of_one_series_uid_are_told_apart(tmp_path):
    write(tmp_path / "a", mr_series(random_volume(2)))
    write(tmp_path / "b", mr_series(np.zeros((2, 20, 20), np.uint16)))
    assert [read_volume(series).shape for series in find_series(tmp_path)] == [(2, 16, 12), (2, 20, 20)]


def test_files_without_preamble_are_read_whatever_their_names_and_what_is_no_dicom_image_is_passed_over(tmp_path):
    volume = random_volume()
    paths = write(tmp_path, mr_series(volume), ["1.2.840.1", "IM2", "scan.IMA", "scan.txt"])
    for path, image in zip(paths[:3], mr_series(volume), strict=False):
        image.preamble, image.file_meta = None, type(image.file_meta)()
        image.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    for name in ["README.txt", "labels.json", "a.png", ".DS_Store", "._IM3", "DICOMDIR", "LICENSE", "empty"]:
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"not an image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "broken.dcm").write_text("hidden")
    report = mr_slice(volume[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", PixelData=None, Rows=None)
    segmentation = mr_slice(volume[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", PixelSpacing=None)
    write(tmp_path, [report, segmentation], ["report.dcm", "segmentation.dcm"])
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)


def test_real_ge_series_comes_in_anatomical_order_and_equals_simpleitks_reading():
    folder = REAL / "ge_signa_pd"
    if not folder.exists():
        pytest.skip("the real GE series does not lie beside the project")
    (series,) = find_series(folder)
    volume = read_volume(series)
    heights = [place[2] for place in series.positions_mm]
    assert (series.kind, volume.shape, heights) == ("magnitude", (20, 256, 256), sorted(heights))
    assert series.slice_spacing_mm == pytest.approx(7.0, abs=0.1)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    assert series.files == tuple(Path(name) for name in names)
    # In the middle: ITK takes seconds over the private elements of the first file.
    np.testing.assert_array_equal(volume[10:11], sitk.GetArrayFromImage(sitk.ReadImage(names[10])))


def test_real_philips_series_is_told_apart_into_magnitude_and_phase():
    folder = REAL / "philips_swi_headers"
    if not folder.exists():
        pytest.skip("the real Philips headers do not lie beside the project")
    magnitude, phase = find_series(folder)
    assert (magnitude.kind, phase.kind) == ("magnitude", "phase")
    assert [path.name for path in magnitude.files] == ["004.dcm", "003.dcm", "002.dcm", "001.dcm"]
    assert magnitude.positions_mm == phase.positions_mm
    assert magnitude.slice_spacing_mm == pytest.approx(1.0, abs=1e-3)
    assert read_volume(magnitude).shape == (4, 768, 768)
    assert read_volume(phase).min() < 0


@pytest.mark.parametrize("intercept", ["100", None])
def test_rescale_of_each_slice_is_applied(tmp_path, intercept):
    volume = random_volume(2)
    images = mr_series(volume, RescaleIntercept=intercept)
    for image, slope in zip(images, ["0.5", "3"], strict=True):
        image.RescaleSlope = slope
    write(tmp_path, images)
    pixels = read_volume(find_series(tmp_path)[0])
    np.testing.assert_array_equal(pixels, volume * np.array([0.5, 3.0])[:, None, None] + float(intercept or 0))
    assert pixels.dtype == np.float32


VOLUME, FEW_BELOW_0 = random_volume(), random_volume().astype(np.int16) + 100
FEW_BELOW_0[1, 2, 3] = -20
EIGHT_BITS = VOLUME.astype(np.uint8)
LUT = item(LUTDescriptor=[4, 10, 16], ModalityLUTType="US", LUTData=np.array([7, 70, 700, 7000], "<u2").tobytes())
TO_LOOK_UP = np.array([[0, 10, 11], [12, 13, 99]], np.uint16)
SIGNED = VOLUME.astype(np.int16)
SIGNED[0, :3] = -2000
PADDED = mr_series(SIGNED)
for padded in PADDED:
    padded.add_new("PixelPaddingValue", "US", 63536)  # -2000 by its bits
OVERLAID = mr_series(VOLUME | (VOLUME & 1) << 12, BitsStored=12, HighBit=11)
for overlaid in OVERLAID:
    overlaid.add_new(0x60000102, "US", 12)
WRITTEN = {
    "padding of a signed image": (PADDED, SIGNED.clip(min=0)),
    "modality lookup table": ([mr_slice(TO_LOOK_UP, ModalityLUTSequence=[LUT])], [[[7, 7, 70], [700, 7000, 7000]]]),
    "MONOCHROME1, inverted within the range of the volume": (
        mr_series(VOLUME, PhotometricInterpretation="MONOCHROME1"),
        float(VOLUME.min()) + VOLUME.max() - VOLUME,
    ),
    "a few values below 0, which interpolation leaves": (mr_series(FEW_BELOW_0), FEW_BELOW_0.clip(min=0)),
    "padding that 8 bits cannot hold": (mr_series(EIGHT_BITS, PixelPaddingValue=63536), EIGHT_BITS),
    "bits above the stored ones": (mr_series(VOLUME | 0x8000, BitsStored=12, HighBit=11), VOLUME),
    "an overlay above the stored bits": (OVERLAID, VOLUME),
    "signed, of 12 bits": (
        mr_series(VOLUME.astype(np.int16) - 2048 & 0xFFF, RescaleIntercept=2048, BitsStored=12, HighBit=11),
        VOLUME,
    ),
}


@pytest.mark.parametrize(("images", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_pixels_are_read_as_their_header_means_them(tmp_path, images, expected):
    write(tmp_path, images)
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int8, np.uint32])
def test_signs_and_depths_of_pixels_are_kept(tmp_path, dtype):
    limits = np.iinfo(dtype)
    volume = np.random.default_rng(1).integers(limits.min, limits.max, (2, 16, 12), dtype=dtype, endpoint=True)
    write(tmp_path, mr_series(volume, ImageType=PHASE))
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume.astype(np.float32))


SHIFTED = random_volume().astype(np.int16) - 2000
BELOW_0 = r"values down to -\d+, but a magnitude has none below 0"
WRAPPED = "values from 49152 on beside ones up to 16384, and none between"


@pytest.mark.parametrize(("volume", "reason"), [
    (SHIFTED, BELOW_0),
    (-random_volume().astype(np.int16), BELOW_0),
    (SHIFTED.astype(np.uint16), WRAPPED),
    (np.where(SHIFTED < -1500, -1, SHIFTED + 2000).astype(np.uint16), WRAPPED),
])  # fmt: skip
def test_a_magnitude_with_values_below_0_is_refused_also_where_they_are_written_as_unsigned(tmp_path, volume, reason):
    write(tmp_path, mr_series(volume))
    with pytest.raises(InputError, match=reason):
        read_volume(find_series(tmp_path)[0])


@pytest.mark.parametrize("strength", [b"1.5T", b"15e3"])
def test_numbers_that_no_image_needs_are_unknown_where_they_cannot_be_read(tmp_path, strength):
    said = {"EchoTime": "20.75", "MagneticFieldStrength": "1.25", "NumberOfFrames": 0}
    (path,) = write(tmp_path, [mr_slice(VOLUME[0], **said)])
    path.write_bytes(path.read_bytes().replace(b"20.75", b"20,75").replace(b"1.25", strength))
    (series,) = find_series(tmp_path)
    assert (series.echo_time_ms, series.field_strength_t) == (0, 0)
    np.testing.assert_array_equal(read_volume(series), VOLUME[:1])


@pytest.mark.parametrize(("padding", "attributes"), [
    ([9000], {}),
    ([9000, 9500, 9999], {"PixelPaddingValue": 9999, "PixelPaddingRangeLimit": 9000}),
    ([9000], {"PhotometricInterpretation": "MONOCHROME1"}),
    ([9000], {"RescaleSlope": 2, "RescaleIntercept": 100}),
])  # fmt: skip
def test_padding_is_background_whatever_its_value(tmp_path, padding, attributes):
    attributes, volume = {"PixelPaddingValue": 9000} | attributes, random_volume() + 10
    write(tmp_path / "whole", mr_series(volume, **attributes))
    expected = read_volume(find_series(tmp_path / "whole")[0])
    places = np.random.default_rng(5).random(volume.shape) < 0.3
    places[np.isin(volume, [volume.min(), volume.max()])] = False
    expected[places] = 0
    volume[places] = np.random.default_rng(6).choice(padding, places.sum())
    write(tmp_path / "padded", mr_series(volume, **attributes))
    np.testing.assert_array_equal(read_volume(find_series(tmp_path / "padded")[0]), expected)


COMPRESSED = [syntaxes.RLELossless, syntaxes.JPEG2000Lossless, syntaxes.JPEGLSLossless, syntaxes.JPEGLosslessSV1]


COMPRESSED = [syntaxes.RLELossless, syntaxes.JPEG2000Lossless, syntaxes.JPEGLSLossless, syntaxes.JPEGLosslessSV1]


@pytest.mark.parametrize(
    "syntax", [syntaxes.RLELossless, syntaxes.JPEG2000Lossless, syntaxes.JPEGLSLossless, syntaxes.JPEGLosslessSV1]
)
def test_losslessly_compressed_series_equal_the_uncompressed(tmp_path, syntax):
    with one_decoder():
        for volume in (random_volume(), random_volume().astype(np.int16) - 2048):
            for path in write(tmp_path, mr_series(volume, ImageType=PHASE)):
                recompress(path, syntax)
            np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)


@pytest.mark.parametrize("syntax", [syntaxes.ImplicitVRLittleEndian, syntaxes.ExplicitVRBigEndian])
def test_other_uncompressed_syntaxes_are_read_also_with_bytes_after_the_pixel_data(tmp_path, syntax):
    volume = random_volume(1)
    image = mr_slice(volume[0].byteswap() if syntax == syntaxes.ExplicitVRBigEndian else volume[0])
    image.file_meta.TransferSyntaxUID = syntax
    (path,) = write(tmp_path, [image])
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)
    path.write_bytes(path.read_bytes() + bytes(range(256)) * 10)
    np.testing.assert_array_equal(read_volume(find_series(tmp_path)[0]), volume)
