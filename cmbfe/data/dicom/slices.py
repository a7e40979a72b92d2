"""Read and check the header of one DICOM file: one `Slice` per frame. Objects that are not images, and unusable images
of other modalities than MR, yield no slice. `cmbfe.data.inventory` decides which files are DICOM."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, RLELossless

from cmbfe.data.dicom.kinds import GE_RAW_DATA_TYPE, SLICES_IN_MOSAIC, kind_of
from cmbfe.data.dicom.pixels import PIXEL_TAGS, check_all_there, frame_header, input_errors, number_of_frames, parse
from cmbfe.data.inventory import BARE_STARTS, DICOM_SUFFIXES
from cmbfe.errors import InputError

DIRECTION_TOLERANCE = 1e-2
"""Tolerance for direction vectors, which must have unit length and be perpendicular."""
CUT_OFF = "the file is cut off, or holds no image; copy it again, or remove it"
ACQUISITION_KEYS = (
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "FrameAcquisitionNumber"),
    *("DiffusionBValue", "TriggerTime", "AcquisitionTime"),
)
"""Attributes that may distinguish repeated acquisitions of a slice position, in the order of trial."""
LARGEST_FIELD_T = 20.0
"""Largest plausible field strength; larger numbers are in gauss, or wrong."""
PERSON = ("PatientBirthDate", "PatientSex", "IssuerOfPatientID")
"""Attributes that reveal different people with the same PatientID."""
HEADER_KEYWORDS = (
    *("ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription", "PatientID"),
    *("StudyInstanceUID", "SeriesInstanceUID", "ComplexImageComponent", "EchoTime", "EchoNumbers"),
    *("SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("FrameOfReferenceUID", "VolumeBasedCalculationTechnique", "RescaleSlope", "RescaleType"),
    *("RealWorldValueMappingSequence", "BitsAllocated", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "MagneticFieldStrength", "ScanningSequence", "EchoPulseSequence"),
    *(*ACQUISITION_KEYS, *PERSON),
)
PRIVATE_TAGS = tuple(
    tag
    for group, _, element in (SLICES_IN_MOSAIC, GE_RAW_DATA_TYPE)
    for block in range(0x10, 0x20)
    for tag in (group << 16 | block, group << 16 | block << 8 | element)
)
"""Private creators and tags, in any block, of the number of slices in Siemens mosaics and GE's complex component."""
HEADER_TAGS = (*(int(Tag(keyword)) for keyword in HEADER_KEYWORDS), *PRIVATE_TAGS)


class Coloured(InputError):
    """Error for a colour image, such as a map or report. A series with colour images only is passed over."""


@dataclass(frozen=True)
class Slice:
    """One image of a series as its header describes it; lengths in mm, times in ms."""

    path: Path
    frame: int
    """0-based number within the file."""
    sop_instance_uid: str
    patient_id: str
    study_uid: str
    series_uid: str
    description: str
    kind: str
    """See `SeriesHeaders`, also for the other fields of the same names."""
    image_type: tuple[str, ...]
    photometric: str
    rows: int
    columns: int
    pixel_spacing_mm: tuple[float, float]
    orientation: tuple[float, ...]
    position_mm: tuple[float, float, float]
    """x, y, z of the centre of the first pixel."""
    echo_number: float
    echo_time_ms: float
    field_strength_t: float
    is_spin_echo: bool
    nominal_spacing_mm: float | None
    """SpacingBetweenSlices, else SliceThickness, else None."""
    is_compressed: bool
    frame_of_reference: str
    slope: float
    """RescaleSlope; 1 if the header has none."""
    acquisition: tuple[str, ...]
    """Values of `ACQUISITION_KEYS`, empty where absent."""
    scan: str
    """AcquisitionNumber if the header has SpacingBetweenSlices, else "": SliceThickness does not separate scans."""
    person: tuple[str, ...]
    """Values of `PERSON`, empty where absent. They are compared, but never written."""

    @property
    def name(self) -> str:
        """File name, and the frame number from the second frame on."""
        return f"{self.path.name} frame {self.frame + 1}" if self.frame else self.path.name


def read_slices(path: Path, named: bool = False) -> list[Slice]:
    """Read the header of a DICOM file; an empty list if it is no image. `named`: the user gave this file, no folder.

    Raises:
        InputError: the file looks like an MR image but is cut off, damaged, without pixel data or geometry, or in
            colour (`Coloured`).
    """
    with input_errors(path, "damaged DICOM header"), path.open("rb") as file:
        start = file.read(132)
        has_magic = start[128:] == b"DICM"
        if not has_magic and start[:2] not in BARE_STARTS:
            what = "not a DICOM file, though named like one" if start else "an empty file"
            raise InputError(f"{path}: {what}; get it again, or remove it")
        file.seek(0)
        return _slices(path, file, strict=has_magic or named or path.suffix.lower() in DICOM_SUFFIXES)


def _slices(path: Path, file: BinaryIO, strict: bool) -> list[Slice]:
    pixels: list[int] = []

    def stop_at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag in PIXEL_TAGS:
            pixels.extend((file.tell(), length))
        return bool(pixels)

    header = parse(file, stop_at_pixels, HEADER_TAGS)
    if not _is_image(path, header, strict):
        return []
    try:
        return _checked(path, file, header, pixels)
    except InputError:
        if "MR" in (_sop_class(header).keyword or "MR"):
            raise
        return []  # a screen capture or X-ray: the MR series is complete without it


def _checked(path: Path, file: BinaryIO, header: FileDataset, pixels: list[int]) -> list[Slice]:
    samples, colours = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation", "")
    if not pixels:
        raise InputError(f"{path}: no pixel data: {CUT_OFF}")
    if samples != 1 or colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise Coloured(f"{path}: not greyscale ({colours}, {samples} samples); remove it, or export it as greyscale")
    if not (header.get("Rows") and header.get("Columns") and header.get("BitsAllocated")):
        raise InputError(f"{path}: Rows, Columns or BitsAllocated is missing or 0; export it again")
    check_all_there(path, file, header, *pixels)
    frames = number_of_frames(header)
    if frames != len(header.get("PerFrameFunctionalGroupsSequence", [None])):
        raise InputError(f"{path}: {frames} frames but no position for each; export one file per slice")
    syntax = UID(header.file_meta.TransferSyntaxUID)
    is_compressed = syntax.is_encapsulated and syntax != RLELossless
    return [_slice(path, frame, frame_header(header, frame), is_compressed) for frame in range(frames)]


def _is_image(path: Path, header: FileDataset, strict: bool) -> bool:
    sop_class = _sop_class(header)
    if not sop_class and strict:
        raise InputError(f"{path}: no SOP Class UID: {CUT_OFF}")
    if not sop_class or (not strict and sop_class.type != "SOP Class"):
        return False
    # A class that pydicom does not know is private; it is an image if it has Rows.
    return "ImageStorage" in sop_class.keyword if sop_class.keyword else "Rows" in header


def _sop_class(header: FileDataset) -> UID:
    return UID(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")


def _slice(path: Path, frame: int, header: Dataset, is_compressed: bool) -> Slice:
    def text(keyword: str) -> str:
        return str(header.get(keyword) or "").strip()

    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        if not text(keyword):
            raise InputError(f"{path}: {keyword} is missing; export it again with its UIDs")
    spacing, orientation, position = _geometry(path, header)
    thickness = [_number(header, keyword) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    strength = _number(header, "MagneticFieldStrength") or 0
    said, slope = header.get("FrameType") or header.get("ImageType") or (), _number(header, "RescaleSlope")
    image_type = tuple(str(value).upper() for value in ([said] if isinstance(said, str) else said))
    return Slice(
        path=path,
        frame=frame,
        sop_instance_uid=text("SOPInstanceUID"),
        patient_id=text("PatientID"),
        study_uid=text("StudyInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        description=text("SeriesDescription"),
        kind=kind_of(header, image_type),
        image_type=image_type,
        photometric=text("PhotometricInterpretation"),
        rows=int(header.Rows),
        columns=int(header.Columns),
        pixel_spacing_mm=spacing,
        orientation=orientation,
        position_mm=position,
        echo_number=_number(header, "EchoNumbers") or 0,
        echo_time_ms=_number(header, "EffectiveEchoTime") or _number(header, "EchoTime") or 0,
        field_strength_t=strength if 0 < strength <= LARGEST_FIELD_T else 0,
        is_spin_echo=_is_spin_echo(header),
        nominal_spacing_mm=next((value for value in thickness if value and value > 0), None),
        is_compressed=is_compressed,
        frame_of_reference=text("FrameOfReferenceUID"),
        slope=1.0 if slope is None else slope,
        acquisition=tuple(text(keyword) for keyword in ACQUISITION_KEYS),
        scan=text("AcquisitionNumber") if (thickness[0] or 0) > 0 else "",
        person=tuple(text(keyword) for keyword in PERSON),
    )


def _is_spin_echo(header: Dataset) -> bool:
    """Whether the header says spin echo, but not gradient echo as well; enhanced objects use EchoPulseSequence."""
    said = header.get("ScanningSequence") or ()
    sequences = {str(value).upper() for value in ([said] if isinstance(said, str) else said)}
    return ("SE" in sequences and "GR" not in sequences) or header.get("EchoPulseSequence") == "SPIN"


def _geometry(path: Path, header: Dataset) -> list[tuple[float, ...]]:
    """Pixel spacing, orientation and position; raises `InputError` if one of them is missing or malformed."""
    no_place = "the image has no place in the patient"
    checks = (
        ("PixelSpacing", 2, lambda mm: min(mm) > 0, "two positive numbers: sizes in mm are unknown"),
        ("ImageOrientationPatient", 6, _are_perpendicular, f"two perpendicular directions: {no_place}"),
        ("ImagePositionPatient", 3, lambda mm: True, f"three numbers: {no_place}"),
    )
    values = []
    for keyword, count, is_sound, what in checks:
        numbers = _numbers(header, keyword, count)
        if numbers is None or not is_sound(numbers):
            raise InputError(f"{path}: {keyword} is missing or not {what}; export it again")
        values.append(numbers)
    return values


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    values = header.get(keyword)
    if values is None or isinstance(values, str) or np.size(values) != count:
        return None
    numbers = tuple(float(value) for value in values)
    return numbers if all(isfinite(number) for number in numbers) else None


def _number(header: Dataset, keyword: str) -> float | None:
    """The first value of an attribute; None if it is missing, not finite, or not a number (such as "20,0")."""
    try:
        number = float(np.ravel(header.get(keyword))[0])
    except (IndexError, TypeError, ValueError):
        return None
    return number if isfinite(number) else None


def _are_perpendicular(orientation: tuple[float, ...]) -> bool:
    directions = np.reshape(orientation, (2, 3))
    return bool(np.allclose(directions @ directions.T, np.eye(2), rtol=0, atol=DIRECTION_TOLERANCE))
