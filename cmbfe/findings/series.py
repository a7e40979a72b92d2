"""Series of a user's own files, as `cmbfe detect` takes them one by one: DICOM, NIfTI, or images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cmbfe.data.conversion import series_images, volume_images
from cmbfe.data.dicom.pixels import refuse_burned_in
from cmbfe.data.dicom.series import SeriesHeaders
from cmbfe.data.labelled.images import image_notes, phase_file, read_with_phase
from cmbfe.data.sources.opening import files_of
from cmbfe.data.sources.volumes import read_volume, refuse_lines
from cmbfe.params import Images
from cmbfe.training.detection import BATCH


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


@dataclass(frozen=True)
class Loaded:
    """A series as read, a batch of images at a time."""

    images: list[dict[str, Any]]
    """COCO `images` without id and names: `width`, `height`, `slice_index` and, where known, more."""
    batches: Iterator[np.ndarray]
    """uint8 [n, rows, columns] (with phase [n, rows, columns, 2]) each, n at most `BATCH`, in the order of `images`."""
    place: Place | None = None
    """None for images, which do not say where they lie."""
    notes: tuple[str, ...] = ()
    """What was assumed or changed, a sentence each, without names."""


class Series(Protocol):
    """A series of one patient, named as the source names it; small enough to be sent to another process."""

    patient: str
    name: str
    slices: int
    """How many images it has."""

    @property
    def files(self) -> Sequence[Path]:
        """What it is read from."""

    def load(self, settings: Images) -> Loaded:
        """Read it; raises `InputError`. The volume is in memory as long as `batches` is."""


@dataclass(frozen=True)
class DicomSeries:
    """A magnitude series of DICOM files."""

    patient: str
    """The PatientID; all series without one count as one patient, as in an import."""
    name: str
    """The SeriesInstanceUID, see `SeriesHeaders`."""
    slices: int
    headers: SeriesHeaders
    phase: SeriesHeaders | None = None
    """The series of its phase, for a detector that sees phase."""

    @property
    def files(self) -> Sequence[Path]:
        return (*self.headers.files, *(self.phase.files if self.phase else ()))

    def load(self, settings: Images) -> Loaded:
        """See `Series`; raises `BurnedInAnnotation` where a header says so."""
        headers = self.headers
        refuse_lines(headers.files[0], headers.rows, headers.columns)
        refuse_burned_in(sorted(set(self.files)))
        images = series_images(headers, settings, self.phase)
        place = Place(headers.orientation, headers.positions_mm, headers.pixel_spacing_mm, headers.slice_spacing_mm)
        entries = _entries(headers.rows, headers.columns, place)
        for entry, uid in zip(entries, headers.sop_instance_uids, strict=True):
            entry["sop_instance_uid"] = uid
        return Loaded(entries, _in_batches(images), place, headers.notes)


@dataclass(frozen=True)
class NiftiSeries:
    """A NIfTI volume; turned to LPS, see `cmbfe.data.sources.volumes`."""

    patient: str
    name: str
    """Path below the source."""
    path: Path
    slices: int
    """0 where the file cannot be read."""
    as_magnitude: bool = False
    """See `read_volume`."""

    @property
    def files(self) -> Sequence[Path]:
        return files_of(self.path)

    def load(self, settings: Images) -> Loaded:
        """See `Series`."""
        volume = read_volume(self.path, as_magnitude=self.as_magnitude)
        slices, rows, columns = volume.voxels.shape
        refuse_lines(self.path, rows, columns)
        slice_mm, row_mm, column_mm = volume.spacing_mm
        along_row, along_column = volume.affine[:3, 0] / column_mm, volume.affine[:3, 1] / row_mm
        positions = volume.affine[:3, 3] + np.arange(slices)[:, None] * volume.affine[:3, 2]
        place = Place(
            orientation=(*along_row.tolist(), *along_column.tolist()),
            positions_mm=tuple(map(tuple, positions.tolist())),
            pixel_spacing_mm=(row_mm, column_mm),
            slice_spacing_mm=slice_mm,
        )
        images = volume_images(volume.voxels, volume.spacing_mm, settings, self.path)
        return Loaded(_entries(rows, columns, place), _in_batches(images), place, volume.notes)


@dataclass(frozen=True)
class ImageSeries:
    """The images of one folder, which stands for the patient."""

    patient: str
    slices: int
    images: list[dict[str, Any]]
    """As in `Loaded`, their `file_name` below `root`."""
    root: Path
    has_phase: bool = False
    """Whether the phase of each is read with it."""
    name: str = ""

    @property
    def files(self) -> Sequence[Path]:
        files = [self.root / image["file_name"] for image in self.images]
        return files + [phase_file(file) for file in files if self.has_phase]

    def load(self, settings: Images) -> Loaded:
        """See `Series`; `settings` do not matter, as the images are made."""
        count = len(self.images)
        said = image_notes(self.root / image["file_name"] for image in self.images)
        notes = tuple(f"{note[:-1]} ({times} of {count})." for note, times in said.items() if times)
        return Loaded(self.images, self._batches(), notes=notes)

    def _batches(self) -> Iterator[np.ndarray]:
        """Neighbours of one size together."""
        batch: list[np.ndarray] = []
        for file in self.files[: len(self.images)]:
            image = read_with_phase(file, phase_file(file) if self.has_phase else None)
            if batch and (len(batch) == BATCH or batch[0].shape != image.shape):
                yield np.stack(batch)
                batch = []
            batch.append(image)
        if batch:
            yield np.stack(batch)


def _in_batches(images: np.ndarray) -> Iterator[np.ndarray]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def _entries(rows: int, columns: int, place: Place) -> list[dict[str, Any]]:
    """`Loaded.images` of a volume."""
    image = {"width": columns, "height": rows, "pixel_spacing_mm": list(place.pixel_spacing_mm)}
    return [{**image, "slice_index": index} for index in range(len(place.positions_mm))]
