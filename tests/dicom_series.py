"""Small valid MR series for the tests, written with pydicom alone and not with the project's own writer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import gdcm
import numpy as np
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cmbfe.data.dicom import series
from cmbfe.data.dicom.pixels import read_frames
from cmbfe.data.own_process import own_process

PYDICOM_FILES = sorted(path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file())
"""Odd, old, compressed and broken."""
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


def mr_slice(
    pixels: np.ndarray, position: Sequence[float] = (0, 0, 0), ge: int | list[int] | None = None, **attributes: object
) -> Dataset:
    """One MR image; `attributes` replace or, where None, delete what the defaults say. `ge`: GE's raw data type."""
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
    if ge is not None:
        image.private_block(0x43, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", ge)
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


def item(**attributes: object) -> Dataset:
    """A dataset for a sequence."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def multi_frame(volume: np.ndarray, frames: list[Dataset], shared: Dataset, **attributes: object) -> Dataset:
    """A multi-frame MR object of functional groups."""
    of_frames = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    return mr_slice(
        volume,
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=len(volume),
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **dict.fromkeys(of_frames),
        **attributes,
    )


def enhanced(volume: np.ndarray, kinds: list[str]) -> Dataset:
    """A multi-frame MR object: for each kind all slices, from the head down."""
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=place)],
            PixelValueTransformationSequence=[item(RescaleSlope="2", RescaleIntercept="1", RescaleType="US")],
            MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "OTHER"], ComplexImageComponent=kind)],
        )
        for kind in kinds
        for place in positions(len(volume) // len(kinds))[::-1]
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(AXIAL))],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2.0)],
    )
    return multi_frame(volume, frames, shared)


def write(folder: Path, images: Sequence[Dataset], names: Sequence[str] | None = None) -> list[Path]:
    """Write images as files of a folder; returns the paths in the order of the images."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in names or [f"{number:03d}.dcm" for number in range(len(images))]]
    for path, image in zip(paths, images, strict=True):
        image.save_as(path, enforce_file_format=True)
    return paths


@contextmanager
def one_decoder() -> Iterator[None]:
    """One process decodes all that is read within the block: it takes a second to start."""
    with own_process(read_frames, series.DECODER_CRASHED) as read, pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "own_process", lambda *_: nullcontext(read))
        yield


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
