"""DICOM series of a scanner: the magnitude series among all others, with labels as COCO or Pascal VOC, or without.

Pictures are the slices as the scanner shows them, never turned: labels, `cmbfe detect` and DICOM SR name their pixels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from cmbfe.data.dicom import SeriesHeaders, find_series, read_volume
from cmbfe.data.sources.burned_in import refuse_burned_in
from cmbfe.data.sources.dicom_labels import Labelled, labels_of_series
from cmbfe.data.sources.framing import Frame
from cmbfe.data.sources.labelled import records
from cmbfe.data.sources.series import Found, Loaded, volume_pictures
from cmbfe.data.sources.volumes import AXES, RAS_TO_LPS
from cmbfe.errors import InputError

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

    @property
    def patient(self) -> str:
        """See `Series`."""
        return self.headers.patient_id

    @property
    def name(self) -> str:
        """See `Series`."""
        return self.headers.series_uid

    @property
    def files(self) -> Sequence[Path]:
        """See `Series`."""
        return list(dict.fromkeys(self.headers.files))

    @property
    def is_labelled(self) -> bool:
        """See `Series`."""
        return self.labelled is not None

    def load(self, size: int | None) -> Loaded:
        """See `Series`. The volume stays in memory as long as the result does."""
        refuse_burned_in(self.files)
        headers, count = self.headers, len(self.headers.files)
        frame = Frame(headers.rows, headers.columns, *headers.pixel_spacing_mm, size)
        frames, nothing = [frame] * count, Labelled(((),) * count, ((),) * count, count)
        labelled = self.labelled or nothing
        affine = affine_of(headers)
        axes = "".join(nib.aff2axcodes(RAS_TO_LPS @ affine))
        unnamed = labelled.unnamed if self.labelled else 0
        notes = {UNLABELLED_SLICES: unnamed, NO_PATIENT: int(not self.patient), OTHER_VIEW: int(axes != AXES)}
        volume, spacing_mm = read_volume(headers), (headers.slice_spacing_mm, *headers.pixel_spacing_mm)
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
            draw=lambda settings: (frame.picture(one) for one in volume_pictures(volume, spacing_mm, settings)),
        )


def find_dicom(source: Path, labels: Path | None) -> Found:
    """Find the magnitude series under a folder, and the boxes of their slices.

    Args:
        labels: COCO file, or folder with Pascal VOC XML; None: what lies in `source` (`dicom_labels`).

    Raises:
        InputError: whatever `dicom.find_series` finds wrong, no magnitude series, or labels that do not fit.
    """
    found = find_series(source, progress=True)
    magnitude = [one for one in found if one.kind == "magnitude"]
    if not magnitude:
        kinds = ", ".join(sorted({one.kind for one in found}))
        raise InputError(f"{source}: no magnitude series; found {len(found)} series of kind {kinds}")
    left_out = Counter(f"series of kind {one.kind}" for one in found if one.kind != "magnitude")
    of_series = labels_of_series(magnitude, source, labels)
    known = {one.patient_id for one, own in zip(magnitude, of_series.labelled, strict=True) if own}
    pairs = list(zip(magnitude, of_series.labelled, strict=True))
    # An echo or a copy that nobody labelled shows the same microbleeds: it must not teach that there are none.
    kept = [(one, own) for one, own in pairs if own or one.patient_id not in known]
    left_out.update({OTHER_SERIES: len(pairs) - len(kept), **of_series.left_out})
    series = tuple(DicomSeries(one, own, of_series.splits.get(one.patient_id)) for one, own in kept)
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
