"""NIfTI volumes as series to detect in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from cmbfe.data.sources.series import volume_images
from cmbfe.data.sources.volumes import Volume, open_volume, read_volume, refuse_lines
from cmbfe.errors import InputError
from cmbfe.findings.series import Loaded, Place, in_batches
from cmbfe.params import Images

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class NiftiSeries:
    """A NIfTI volume; turned to LPS, see `cmbfe.data.sources.volumes`."""

    patient: str
    name: str
    """Path below the source."""
    path: Path
    slices: int
    """0 where the file cannot be read."""

    def load(self, settings: Images) -> Loaded:
        """See `cmbfe.findings.series.Series`."""
        volume = read_volume(self.path)
        place, (slices, rows, columns) = place_of(volume), volume.voxels.shape
        refuse_lines(self.path, rows, columns)
        images = volume_images(volume.voxels, volume.spacing_mm, settings)
        image = {"width": columns, "height": rows, "pixel_spacing_mm": list(place.pixel_spacing_mm)}
        return Loaded([{**image, "slice_index": index} for index in range(slices)], in_batches(images), place)


def place_of(volume: Volume) -> Place:
    """Where the slices of a volume lie."""
    slice_mm, row_mm, column_mm = volume.spacing_mm
    along_row, along_column = volume.affine[:3, 0] / column_mm, volume.affine[:3, 1] / row_mm
    indices = np.arange(len(volume.voxels))
    positions = volume.affine[:3, 3] + indices[:, None] * volume.affine[:3, 2]
    return Place(
        orientation=(*along_row.tolist(), *along_column.tolist()),
        positions_mm=tuple(tuple(position) for position in positions.tolist()),
        pixel_spacing_mm=(row_mm, column_mm),
        slice_spacing_mm=slice_mm,
    )


def nifti_series(files: Sequence[Path], root: Path) -> list[NiftiSeries]:
    """Volumes below `root`: the first folder of a path names the patient, or the file where there is none."""
    return [
        NiftiSeries(
            patient=relative.parts[0] if len(relative.parts) > 1 else stem(relative),
            name=relative.as_posix(),
            path=file,
            slices=_slices(file),
        )
        for file in files
        for relative in [file.relative_to(root)]
    ]


def stem(path: Path) -> str:
    """The file's name without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _slices(path: Path) -> int:
    """How many slices the volume has once it is turned, by its header alone."""
    try:
        image = open_volume(path)
    except InputError:  # whoever reads it says why
        return 0
    if not np.isfinite(image.affine).all():
        return 0
    to_head = 2
    return next(
        (
            size
            for size, axis in zip(image.shape, io_orientation(image.affine)[:, 0], strict=False)
            if axis == to_head
        ),
        0,
    )
