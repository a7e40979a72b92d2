"""Simulated patients as DICOM MR series: one file a slice, with the acquisition values of the paper's SWAN scan."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cmbfe.data.patient import SimulatedPatient
from cmbfe.files import whole_file

# Paper section 2.1. TL 32 is read as the echo train length.
ECHO_TIME_MS = 45.0
REPETITION_TIME_MS = 77.3
ECHO_TRAIN_LENGTH = 32
BANDWIDTH_KHZ = 62.5
FLIP_ANGLE_DEGREES = 15
FIELD_STRENGTH_T = 3.0


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


def _patient_and_study(patient_id: str, study_uid: str) -> Dataset:
    header = Dataset()
    header.PatientName = f"Phantom^{patient_id}"
    header.PatientID = patient_id
    header.PatientBirthDate = ""
    header.PatientSex = ""
    header.StudyInstanceUID = study_uid
    header.StudyDate = ""
    header.StudyTime = ""
    header.ReferringPhysicianName = ""
    header.StudyID = "1"
    header.AccessionNumber = ""
    return header


def _acquisition(header: Dataset, columns: int) -> None:
    header.Modality = "MR"
    header.Manufacturer = "cmbfe phantom"
    header.MagneticFieldStrength = FIELD_STRENGTH_T
    header.ScanningSequence = "GR"
    header.SequenceVariant = "SP"
    header.ScanOptions = ""
    header.MRAcquisitionType = "3D"
    header.EchoTime = ECHO_TIME_MS
    header.RepetitionTime = REPETITION_TIME_MS
    header.EchoTrainLength = ECHO_TRAIN_LENGTH
    header.FlipAngle = FLIP_ANGLE_DEGREES
    header.NumberOfAverages = 1
    header.PixelBandwidth = round(2 * BANDWIDTH_KHZ * 1000 / columns, 3)


def _geometry(header: Dataset, patient: SimulatedPatient, index: int) -> None:
    header.Rows, header.Columns = patient.magnitude.shape[1:]
    header.PixelSpacing = [patient.pixel_spacing_mm] * 2
    header.SliceThickness = patient.slice_thickness_mm
    header.SpacingBetweenSlices = patient.slice_spacing_mm
    header.ImageOrientationPatient = [round(value, 8) for value in patient.orientation]
    header.ImagePositionPatient = slice_position_mm(patient, index)
    header.SliceLocation = round(index * patient.slice_spacing_mm, 4)
    header.PositionReferenceIndicator = ""


def _pixels(header: Dataset, picture: np.ndarray) -> None:
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 16
    header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 0
    header.PixelData = picture.astype("<u2").tobytes()


def write_series(folder: Path, patient: SimulatedPatient, patient_id: str, seed: int) -> tuple[str, list[str]]:
    """Write the magnitude series, one file a slice, and return its series UID and the slices' SOP instance UIDs."""
    study_uid, series_uid = uid(seed, patient_id, "study"), uid(seed, patient_id, "magnitude")
    sop_uids = [uid(seed, patient_id, "magnitude", index) for index in range(len(patient.magnitude))]
    for index, picture in enumerate(patient.magnitude):
        header = _patient_and_study(patient_id, study_uid)
        header.SOPClassUID = MRImageStorage
        header.SOPInstanceUID = sop_uids[index]
        header.SeriesInstanceUID = series_uid
        header.SeriesNumber = 1
        header.SeriesDescription = "SWAN"
        header.FrameOfReferenceUID = uid(seed, patient_id, "frame of reference")
        header.InstanceNumber = index + 1
        header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        _acquisition(header, picture.shape[1])
        _geometry(header, patient, index)
        _pixels(header, picture)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        with whole_file(folder / f"slice{index + 1:04d}.dcm") as temporary:
            header.save_as(temporary, enforce_file_format=True)
    return series_uid, sop_uids
