"""Small valid MR series for the tests, written with pydicom alone and not with the project's own writer."""

from collections.abc import Sequence
from pathlib import Path

import gdcm
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
ROWS, COLUMNS = 16, 12


def uid(*parts: object) -> str:
    """The same UID for the same parts, in every run."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def random_volume(slices: int = 4, seed: int = 0) -> np.ndarray:
    """uint16 [slices, 16, 12], 12 bits used."""
    return np.random.default_rng(seed).integers(0, 4096, (slices, ROWS, COLUMNS), dtype=np.uint16)


def mr_slice(pixels: np.ndarray, position: Sequence[float] = (0, 0, 0), **attributes: object) -> Dataset:
    """One MR image; `attributes` replace or, where None, delete what the defaults say."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta, image.preamble = meta, b"\0" * 128
    defaults = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": uid(pixels.tobytes(), position, sorted(attributes.items())),
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "PatientID": "P001",
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SeriesDescription": "SWAN",
        "EchoTime": 45.0,
        "SliceThickness": 2.0,
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": [float(value) for value in position],
        "PixelSpacing": [0.5, 0.75],
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    for keyword, value in (defaults | attributes).items():
        if value is not None:
            setattr(image, keyword, value)
    if "PixelData" in image:
        image["PixelData"].VR = "OW"
    if "SOPClassUID" in image:
        meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.get("SOPInstanceUID", uid("none"))
    return image


def positions(count: int, orientation: Sequence[float] = AXIAL, spacing: float = 2.0) -> list[list[float]]:
    """Positions that step by `spacing` mm along the slice normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [list(np.array([-100.0, 20.0, -7.0]) + index * spacing * normal) for index in range(count)]


def mr_series(
    volume: np.ndarray, orientation: Sequence[float] = AXIAL, spacing: float = 2.0, **attributes: object
) -> list[Dataset]:
    """The slices of a series in anatomical order."""
    places = positions(len(volume), orientation, spacing)
    attributes = {"ImageOrientationPatient": list(orientation), **attributes}
    return [mr_slice(pixels, place, **attributes) for pixels, place in zip(volume, places, strict=True)]


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


def write(folder: Path, images: Sequence[Dataset], names: Sequence[str] | None = None) -> list[Path]:
    """Write images as files of a folder; returns the paths in the order of the images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names or [f"{number:03d}.dcm" for number in range(len(images))]]
    for path, image in zip(paths, images, strict=True):
        image.save_as(path, enforce_file_format=True)
    return paths


def recompress(path: Path, syntax: UID) -> None:
    """Compress a file in place with GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
