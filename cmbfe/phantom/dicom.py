"""Simulated patients as DICOM MR series of magnitude and filtered phase, one file per slice, with the acquisition
values of the paper's SWAN scan. UIDs depend only on seed and patient, and headers hold no time of writing, so that
equal patients give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cmbfe.files import whole_file
from cmbfe.phantom.simulate import SimulatedPatient
from cmbfe.phantom.tissue import FIELD_STRENGTH_T, FLIP_ANGLE_DEGREES, REPETITION_TIME_MS

ECHO_TIME_MS = 45.0
ECHO_TRAIN_LENGTH = 32  # the paper's "TL 32"
BANDWIDTH_KHZ = 62.5
STUDY_DATE = "20210101"  # the same for all simulated patients


@dataclass(frozen=True)
class SeriesKind:
    """Values that distinguish a patient's two series."""

    name: str  # goes into the UIDs
    number: int
    description: str
    image_type: tuple[str, str]
    """Values 3 and 4 of ImageType: the standard's term (PS3.3 C.8.3.1.1.1), then M or P, as in files of scanners."""
    file_suffix: str


MAGNITUDE = SeriesKind("magnitude", 1, "SWAN", ("OTHER", "M"), "")
PHASE = SeriesKind("phase", 2, "SWAN filtered phase, mrad", ("PHASE MAP", "P"), "_phase")


def uid(*parts: object) -> str:
    """Return a DICOM UID that depends on `parts` alone, so that the same seed gives the same UIDs."""
    return generate_uid(entropy_srcs=["cmbfe phantom", *(str(part) for part in parts)])


def slice_position_mm(patient: SimulatedPatient, index: int) -> list[float]:
    """Centre of the first pixel of a slice in patient coordinates (LPS); the series is centred on x = y = 0."""
    row, column = np.array(patient.orientation).reshape(2, 3)
    normal = np.cross(row, column)
    _, rows, columns = patient.magnitude.shape
    corner = -((columns - 1) * row + (rows - 1) * column) / 2 * patient.pixel_spacing_mm
    return [round(float(mm), 4) for mm in corner + index * patient.slice_spacing_mm * normal]


def _of_patient(patient: SimulatedPatient, patient_id: str, seed: int) -> Dataset:
    """Header fields that all files of a patient share: patient, study, acquisition and geometry."""
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    header.PatientName = f"Phantom^{patient_id}"
    header.PatientID = patient_id
    header.StudyInstanceUID = uid(seed, patient_id, "study")
    header.StudyDate = STUDY_DATE
    header.StudyTime = "000000"
    header.StudyID = "1"
    header.StudyDescription = "Simulated head"
    for unknown in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber", "ScanOptions"):
        setattr(header, unknown, "")
    header.BodyPartExamined = "HEAD"  # not a paired body part, so Laterality stays absent
    header.PatientPosition = "HFS"
    header.Modality = "MR"
    header.Manufacturer = "cmbfe phantom"
    header.MagneticFieldStrength = FIELD_STRENGTH_T
    header.ScanningSequence = "GR"
    header.SequenceVariant = "SP"
    header.MRAcquisitionType = "3D"
    header.EchoTime = ECHO_TIME_MS
    header.RepetitionTime = REPETITION_TIME_MS
    header.EchoTrainLength = ECHO_TRAIN_LENGTH
    header.FlipAngle = FLIP_ANGLE_DEGREES
    header.NumberOfAverages = 1
    header.FrameOfReferenceUID = uid(seed, patient_id, "frame of reference")
    header.PositionReferenceIndicator = ""
    header.Rows, header.Columns = patient.magnitude.shape[1:]
    header.PixelBandwidth = round(2 * BANDWIDTH_KHZ * 1000 / header.Columns, 3)
    header.PixelSpacing = [patient.pixel_spacing_mm] * 2
    header.SliceThickness = patient.slice_thickness_mm
    header.SpacingBetweenSlices = patient.slice_spacing_mm
    header.ImageOrientationPatient = [round(value, 8) for value in patient.orientation]
    return header


def _pixels(header: Dataset, image: np.ndarray) -> None:
    """Store unscaled pixels in the header: magnitude as uint16, or phase as int16 (marked as signed)."""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 16
    header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(image.dtype.kind == "i")
    header.PixelData = image.astype(image.dtype.newbyteorder("<")).tobytes()


def _write_one(
    folder: Path, patient: SimulatedPatient, images: np.ndarray, kind: SeriesKind, patient_id: str, seed: int
) -> tuple[str, list[str]]:
    """Write one series of a patient. Returns its UID and the SOP instance UIDs of its slices."""
    series_uid = uid(seed, patient_id, kind.name)
    sop_uids = [uid(seed, patient_id, kind.name, index) for index in range(len(images))]
    for index, image in enumerate(images):
        header = _of_patient(patient, patient_id, seed)
        header.SeriesInstanceUID = series_uid
        header.SeriesNumber = kind.number
        header.SeriesDescription = kind.description
        header.ImageType = ["ORIGINAL", "PRIMARY", *kind.image_type]
        header.SOPInstanceUID = sop_uids[index]
        header.InstanceNumber = index + 1
        header.ImagePositionPatient = slice_position_mm(patient, index)
        header.SliceLocation = round(index * patient.slice_spacing_mm, 4)
        _pixels(header, image)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        with whole_file(folder / f"slice{index + 1:04d}{kind.file_suffix}.dcm") as temporary:
            header.save_as(temporary, enforce_file_format=True)
    return series_uid, sop_uids


def write_series(folder: Path, patient: SimulatedPatient, patient_id: str, seed: int) -> tuple[str, list[str]]:
    """Write the magnitude series (slice0001.dcm, ...) and the phase (slice0001_phase.dcm, ...).

    Phase pixels are signed integers in mrad without rescaling, because the MR image IOD does not define rescaling.

    Returns:
        UID of the magnitude series, and the SOP instance UIDs of its slices from feet to head.
    """
    _write_one(folder, patient, patient.phase, PHASE, patient_id, seed)
    return _write_one(folder, patient, patient.magnitude, MAGNITUDE, patient_id, seed)
