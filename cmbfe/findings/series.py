"""Series of a user's own files, as `cmbfe detect` takes them one by one: DICOM, or images.

NIfTI volumes are series as well, see `cmbfe.findings.nifti`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from cmbfe.data.conversion import series_images
from cmbfe.data.dicom.series import SeriesHeaders, to_patient_mm
from cmbfe.data.folders import folders_below, resolved
from cmbfe.data.labelled.images import is_phase_file, phase_file, read_with_phase
from cmbfe.data.labelled.labels import Detections
from cmbfe.data.postscript import refuse_postscript
from cmbfe.data.sources.burned_in import refuse_burned_in
from cmbfe.data.sources.volumes import refuse_lines
from cmbfe.errors import InputError
from cmbfe.params import Images
from cmbfe.training.detection import BATCH

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_COLUMNS = ["patient_id", "series_uid", "slice_index", "file_name"]
"""What a table says of an image."""


@dataclass(frozen=True)
class Place:
    """Where the slices of a series lie in the patient: mm, x to the left, y to the back, z to the head (LPS)."""

    orientation: tuple[float, ...]
    """Directions along a row (px x), then along a column (px y)."""
    positions_mm: tuple[tuple[float, float, float], ...]
    """Centre of the first pixel of each slice."""
    pixel_spacing_mm: tuple[float, float]
    """Row spacing (along y), column spacing (along x)."""
    slice_spacing_mm: float

    def to_mm(self, slice_index: int, x: float, y: float) -> tuple[float, float, float]:
        """Patient coordinates of a point x, y (px) of a slice; a pixel's centre is at + 0.5."""
        return to_patient_mm(self, slice_index, x, y)


@dataclass(frozen=True)
class Loaded:
    """A series read: what is known of its slices, and their images, a batch at a time."""

    images: list[dict[str, Any]]
    """COCO `images` without id and names: `width`, `height`, `slice_index` and, where known, more."""
    batches: Iterator[np.ndarray]
    """uint8 [n, rows, columns] (with phase [n, rows, columns, 2]) each, n at most `BATCH`, in the order of `images`."""
    place: Place | None = None
    """None for images: nobody knows where they lie."""


class Series(Protocol):
    """A series of one patient, named as the source names it: small, and it can be sent to another process."""

    patient: str
    name: str

    @property
    def slices(self) -> int:
        """How many images it has."""

    def load(self, settings: Images) -> Loaded:
        """Read it; raises `InputError`. The volume is in memory as long as `batches` is."""


@dataclass(frozen=True)
class DicomSeries:
    """A magnitude series of DICOM files."""

    headers: SeriesHeaders
    phase: SeriesHeaders | None = None
    """The series of its phase, for a detector that sees phase."""

    @property
    def patient(self) -> str:
        """The PatientID; all series without one count as one patient, as in an import."""
        return self.headers.patient_id

    @property
    def name(self) -> str:
        """The SeriesInstanceUID, see `SeriesHeaders`."""
        return self.headers.series_uid

    @property
    def slices(self) -> int:
        """See `Series`."""
        return len(self.headers.files)

    def load(self, settings: Images) -> Loaded:
        """See `Series`; `BurnedInAnnotation` where a header says so."""
        headers = self.headers
        refuse_lines(headers.files[0], headers.rows, headers.columns)
        refuse_burned_in(sorted({*headers.files, *(self.phase.files if self.phase else ())}))
        images = series_images(headers, settings, self.phase)
        image = {"width": headers.columns, "height": headers.rows, "pixel_spacing_mm": list(headers.pixel_spacing_mm)}
        return Loaded(
            images=[
                {**image, "slice_index": index, "sop_instance_uid": uid}
                for index, uid in enumerate(headers.sop_instance_uids)
            ],
            batches=in_batches(images),
            place=Place(
                headers.orientation, headers.positions_mm, headers.pixel_spacing_mm, headers.slice_spacing_mm
            ),
        )


@dataclass(frozen=True)
class ImageSeries:
    """The images of one folder, which stands for the patient."""

    patient: str
    root: Path
    names: tuple[str, ...]
    """Paths below `root`."""
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each."""
    first_index: int = 0
    """Slice index of the first."""
    name: str = ""
    has_phase: bool = False
    """Whether the phase of each is read with it."""

    @property
    def slices(self) -> int:
        """See `Series`."""
        return len(self.names)

    def load(self, settings: Images) -> Loaded:
        """See `Series`; `settings` do not matter, as the images are made."""
        images = [
            {"file_name": name, "width": columns, "height": rows, "slice_index": index}
            for index, (name, (rows, columns)) in enumerate(
                zip(self.names, self.shapes, strict=True), self.first_index
            )
        ]
        return Loaded(images, self._batches())

    def _batches(self) -> Iterator[np.ndarray]:
        """Neighbours of one size together."""
        batch: list[np.ndarray] = []
        for name in self.names:
            file = self.root / name
            image = read_with_phase(file, phase_file(file) if self.has_phase else None)
            if batch and (len(batch) == BATCH or batch[0].shape != image.shape):
                yield np.stack(batch)
                batch = []
            batch.append(image)
        if batch:
            yield np.stack(batch)


def in_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    """Images [N, ...], `BATCH` at a time."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def image_files(source: Path, out: Path) -> list[Path]:
    """PNG and JPG files under a folder (or the one file given), sorted by path; hidden ones and `out` are left out.

    So are NAME.phase.png, which belong to the images beside them.

    Raises:
        InputError: two that differ in their suffix only, or DICOM files beside them.
    """
    files = visible_files(source, out)
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and not is_phase_file(file)]
    if images:
        refuse_beside(source, f"images ({images[0].name})", "DICOM", filter(is_dicom, files))
    for one, other in pairwise(sorted(images, key=lambda file: file.with_suffix(""))):
        if one.with_suffix("") == other.with_suffix(""):
            raise InputError(f"{other}: differs from {one.name} in its suffix only; keep one")
    return images


def refuse_beside(source: Path, what: str, other: str, files: Iterable[Path]) -> None:
    """Raise `InputError` where there are `files` of another kind than `what` is."""
    if (file := next(iter(files), None)) is not None:
        raise InputError(f"{source}: holds {what} and {other} ({file.name}); give a folder of one of the two")


def visible_files(source: Path, out: Path) -> list[Path]:
    """Files under a folder (or the one file given), sorted by path, without hidden ones and those of `out`."""
    if not source.is_dir():
        return [source]
    below = (file for folder in folders_below(source) for file in folder.iterdir())
    return sorted(file for file in below if _is_visible(file, out))


def _is_visible(file: Path, out: Path) -> bool:
    if file.name.startswith("."):
        return False
    own = resolved(file)
    return own.is_file() and not own.is_relative_to(out.resolve())


def is_dicom(file: Path) -> bool:
    """Whether the file has the letters that begin a DICOM file."""
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def image_series(files: Sequence[Path], root: Path, phase: bool = False) -> list[ImageSeries]:
    """Neighbouring files of one folder, which stands for the patient; all are decoded to check them.

    The order of the files is kept: by it images are numbered.

    Args:
        phase: whether each needs its phase beside it.

    Raises:
        InputError: an image that cannot be read, or has no phase where that is asked for.
    """
    for file in files if phase else ():
        if not phase_file(file).is_file():
            raise InputError(f"{file}: {phase_file(file).name} is not beside it; the detector sees the phase as well")
    for file in files:
        refuse_postscript(file)
    bar = tqdm(files, desc="checking images", unit="image", delay=1)
    shapes = [read_with_phase(file, phase_file(file) if phase else None).shape[:2] for file in bar]
    before: dict[Path, int] = defaultdict(int)
    series = []
    for folder, run in groupby(zip(files, shapes, strict=True), key=lambda pair: pair[0].relative_to(root).parent):
        own = list(run)
        series.append(
            ImageSeries(
                patient=folder.as_posix() if folder.name else root.resolve().name,
                root=root,
                names=tuple(file.relative_to(root).as_posix() for file, _ in own),
                shapes=tuple(shape for _, shape in own),
                first_index=before[folder],
                has_phase=phase,
            )
        )
        before[folder] += len(own)
    return series


def detections_table(images: Sequence[dict], detections: Detections) -> pd.DataFrame:
    """One row per detection: patient, series, slice, box in px and in mm from the image's corner, score.

    Millimetres are missing where the pixel spacing is not known.
    """
    by_id = {image["id"]: image for image in images}
    own = [by_id[detection["image_id"]] for detection in detections]
    spacing_mm = np.array([image.get("pixel_spacing_mm", (np.nan, np.nan)) for image in own]).reshape(-1, 2)
    boxes_px = np.array([detection["bbox"] for detection in detections]).reshape(-1, 4)
    boxes_mm = (boxes_px * spacing_mm[:, [1, 0, 1, 0]]).round(3)
    table = pd.DataFrame({key: [image[key] for image in own] for key in IMAGE_COLUMNS})
    for unit, boxes in (("px", boxes_px), ("mm", boxes_mm)):
        table[[f"{side}_{unit}" for side in ("x", "y", "width", "height")]] = boxes
    return table.assign(score=[detection["score"] for detection in detections])
