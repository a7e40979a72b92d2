"""DICOM series of a scanner: the magnitude series among all others, with labels as COCO or Pascal VOC, or without.

Images are the slices as the scanner shows them, never turned: labels, `cmbfe detect` and DICOM SR name their pixels.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cmbfe.data.conversion import magnitude_among, volume_images
from cmbfe.data.dicom.pixels import refuse_burned_in
from cmbfe.data.dicom.series import SeriesHeaders, find_series, read_volume
from cmbfe.data.labelled.images import ZERO_PHASE
from cmbfe.data.phase import phase_images, phase_of
from cmbfe.data.sources.dicom_labels import Labelled, labels_of_series
from cmbfe.data.sources.labelled import records
from cmbfe.data.sources.series import Found, Frame, Loaded
from cmbfe.data.sources.volumes import AXES, RAS_TO_LPS, refuse_lines

NO_PATIENT = "series without a PatientID: all of them count as one patient"
UNLABELLED_SLICES = "slices that no label names, in series that labels name: taken to have no microbleeds"
OTHER_VIEW = "series whose columns, rows and slices do not run to left, back and head: shown as the scanner does"
OTHER_SERIES = "magnitude series that no label names, of patients that labels name"


@dataclass(frozen=True)
class DicomSeries:
    """A magnitude series with its boxes; see `Series`."""

    headers: SeriesHeaders
    labelled: Labelled | None
    """None: no label names a slice of it."""
    split: str | None = None
    phase: SeriesHeaders | None = None
    """The series of its phase, where images carry it."""

    @property
    def patient(self) -> str:
        return self.headers.patient_id

    @property
    def name(self) -> str:
        return self.headers.series_uid

    @property
    def files(self) -> Sequence[Path]:
        return list(dict.fromkeys([*self.headers.files, *(self.phase.files if self.phase else ())]))

    @property
    def is_labelled(self) -> bool:
        return self.labelled is not None

    def load(self, size: int | None) -> Loaded:
        """See `Series`. The volume stays in memory as long as the result does."""
        refuse_burned_in(self.files)
        headers, count = self.headers, len(self.headers.files)
        refuse_lines(headers.files[0], headers.rows, headers.columns)
        frame = Frame(headers.rows, headers.columns, *headers.pixel_spacing_mm, size)
        frames, nothing = [frame] * count, Labelled(((),) * count, ((),) * count, count)
        labelled = self.labelled or nothing
        affine = affine_of(headers)
        axes = "".join(nib.aff2axcodes(RAS_TO_LPS @ affine))
        unnamed = labelled.unnamed if self.labelled else 0
        notes = {UNLABELLED_SLICES: unnamed, NO_PATIENT: int(not self.patient), OTHER_VIEW: int(axes != AXES)}
        volume, spacing_mm = read_volume(headers), (headers.slice_spacing_mm, *headers.pixel_spacing_mm)
        phases = None if self.phase is None else phase_images(self.phase)
        height, width = frame.shape
        image = {"width": width, "height": height, "pixel_spacing_mm": list(frame.spacing_mm)}
        return Loaded(
            images=[
                {**image, "slice_index": index, "sop_instance_uid": uid}
                for index, uid in enumerate(headers.sop_instance_uids)
            ],
            boxes=records(labelled.boxes, frames),
            mimics=records(labelled.mimics, frames),
            place={
                "axes": axes,
                "affine": frame.affine(affine).tolist(),
                "slice_spacing_mm": headers.slice_spacing_mm,
            },
            notes={note: number for note, number in notes.items() if number},
            draw=lambda settings: _framed(frame, volume_images(volume, spacing_mm, settings), phases),
            has_phase=phases is not None,
        )


def _framed(frame: Frame, images: np.ndarray, phases: np.ndarray | None) -> Iterator[np.ndarray]:
    """Images scaled and centred; with their phases [rows, columns, 2]."""
    if phases is None:
        return (frame.image(image) for image in images)
    pairs = zip(images, phases, strict=True)
    return (np.stack([frame.image(image), frame.image(phase, ZERO_PHASE)], axis=-1) for image, phase in pairs)


def find_dicom(source: Path, labels: Path | None, phase: bool = False) -> Found:
    """Find the magnitude series under a folder, and the boxes of their slices.

    Args:
        labels: COCO file, or folder with Pascal VOC XML; None: what lies in `source` (`dicom_labels`).
        phase: whether each needs the series of its phase.

    Raises:
        InputError: whatever `dicom.find_series` finds wrong, no magnitude series, one without phase where that is asked
            for, or labels that do not fit.
    """
    found = find_series(source, progress=True)
    magnitude = magnitude_among(found, source)
    of_series = labels_of_series(magnitude, source, labels)
    known = {headers.patient_id for headers, own in zip(magnitude, of_series.labelled, strict=True) if own}
    pairs = list(zip(magnitude, of_series.labelled, strict=True))
    # An echo or a copy that nobody labelled shows the same microbleeds: it must not teach that there are none.
    kept = [(headers, own) for headers, own in pairs if own or headers.patient_id not in known]
    phases = [phase_of(headers, found) if phase else None for headers, _ in kept]
    unused = [headers for headers in found if headers.kind != "magnitude" and headers not in phases]
    left_out = Counter(f"series of kind {headers.kind}" for headers in unused)
    left_out.update({OTHER_SERIES: len(pairs) - len(kept), **of_series.left_out})
    series = tuple(
        DicomSeries(headers, own, of_series.splits.get(headers.patient_id), its_phase)
        for (headers, own), its_phase in zip(kept, phases, strict=True)
    )
    return Found(series, {what: count for what, count in left_out.items() if count}, of_series.mimic_kinds)


def affine_of(series: SeriesHeaders) -> np.ndarray:
    """float64 [4, 4]: (column, row, slice, 1) to mm in DICOM's patient coordinates; whole numbers at pixel centres."""
    along_row, along_column = np.reshape(series.orientation, (2, 3))
    row_mm, column_mm = series.pixel_spacing_mm
    positions = np.array(series.positions_mm)
    count = len(positions)
    alone = np.cross(along_row, along_column) * series.slice_spacing_mm
    step = (positions[-1] - positions[0]) / (count - 1) if count > 1 else alone
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_row * column_mm, along_column * row_mm, step, positions[0]])
    return affine
