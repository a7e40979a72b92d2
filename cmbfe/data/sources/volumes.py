"""A NIfTI volume in the one orientation of this project, with the way back to the patient.

Voxels are turned and flipped, never resampled, so that columns run to the patient's left, rows to the back and slices
to the head ("LPS", as axial DICOM images are shown). Places in mm are DICOM's patient coordinates (x to the left, y to
the back, z to the head); NIfTI's own point to the right and to the front. `affine` maps (column, row, slice) to mm;
whole numbers are voxel centres: the centre of a box x, y, w, h px lies at column x + w / 2 - 0.5, row y + h / 2 - 0.5.
"""

import gzip
import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage

from cmbfe.errors import InputError

AXES = "LPS"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_PLACE_VOXELS = 0.5
"""A label belongs to its volume where no corner of the two lies further apart than this."""
PART_BYTES = 2**22
LARGEST_CONDITION = 1e4
"""Of an affine: voxels 10,000 times as long as wide, or axes within 0.01 degrees of one plane, are a damaged header."""
Boxes = dict[int, list[float]]
"""Slice -> box of one microbleed."""


@dataclass(frozen=True)
class Volume:
    """A volume turned to LPS."""

    voxels: np.ndarray
    """float32 [slices, rows, columns]; what was no finite number is 0."""
    affine: np.ndarray
    """float64 [4, 4]: (column, row, slice, 1) to mm, LPS."""
    from_file: np.ndarray
    """float64 [4, 4]: 0-based voxel index of the file (i, j, k, 1) to (column, row, slice, 1)."""
    not_finite: int
    """Voxels that were no finite number."""
    has_place: bool
    """Whether the header says where the volume lies; else nibabel's rule for such files holds (LAS, centred)."""
    notes: tuple[str, ...] = ()
    """What was assumed or changed, a sentence each, without names."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def apply(affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Map places [N, 3] by an affine [4, 4].

    >>> apply(np.diag([2.0, 2.0, 3.0, 1.0]), np.array([[1, 0, 1]])).tolist()
    [[2.0, 0.0, 3.0]]
    """
    return places @ affine[:3, :3].T + affine[:3, 3]


def read_volume(path: Path, affine_if_none: np.ndarray | None = None, as_magnitude: bool = False) -> Volume:
    """Read a NIfTI volume and turn it to LPS; of its header, only shape and affine go on.

    Args:
        affine_if_none: [4, 4], the file's voxel indices to mm, RAS, for a header that gives no place.
        as_magnitude: take a volume as a magnitude that does not look like one.

    Raises:
        InputError: no such file, no NIfTI, one that is damaged or cut off, no three-dimensional volume of real numbers,
            no finite voxel, or an affine that gives no place.
    """
    image = open_volume(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: {_by(image.shape)} voxels are no three-dimensional volume; give one volume a file")
    if image.get_data_dtype().kind not in "iuf":
        kind = image.get_data_dtype()
        raise InputError(f"{path}: voxels of type {kind} are no real numbers; give a magnitude image")
    has_place = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    affine = image.affine if has_place or affine_if_none is None else affine_if_none
    turn = _turn(path, affine)
    voxels = _voxels(path, image).reshape(shape)
    finite = np.isfinite(voxels)
    if not finite.any():
        raise InputError(f"{path}: no voxel is a finite number; export the volume again")
    turned = apply_orientation(np.where(finite, voxels, np.float32(0)), turn).transpose(2, 1, 0)
    to_file = inv_ornt_aff(turn, shape)
    return Volume(
        voxels=np.ascontiguousarray(turned),
        affine=RAS_TO_LPS @ affine @ to_file,
        from_file=np.linalg.inv(to_file),
        not_finite=int(finite.size - np.count_nonzero(finite)),
        has_place=has_place,
    )


def read_mask(path: Path, volume: Volume, volume_path: Path) -> Volume:
    """Read a label that belongs to a volume, turned to lie on it voxel by voxel (as the volume, if it says no place).

    Raises:
        InputError: as `read_volume`; another shape or place than the volume's.
    """
    mask = read_volume(path, RAS_TO_LPS @ volume.affine @ volume.from_file)
    if mask.voxels.shape != volume.voxels.shape:
        shapes = _by(reversed(mask.voxels.shape)), _by(reversed(volume.voxels.shape))
        raise InputError(f"{path}: {shapes[0]} voxels, but {volume_path.name} has {shapes[1]}; draw it on that")
    if mask.has_place:
        corners = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        corners = corners * np.subtract(volume.voxels.shape[::-1], 1)
        moved = np.abs(apply(np.linalg.inv(volume.affine) @ mask.affine, corners) - corners).max()
        if moved > SAME_PLACE_VOXELS:
            reason = f"its header puts it {moved:.1f} voxels away from {volume_path.name}"
            raise InputError(f"{path}: {reason}; resample it, or correct its header")
    return mask


def refuse_lines(path: Path, rows: int, columns: int) -> None:
    """Raise `InputError` for slices of one row or column: no image, and N4 cannot work on them."""
    if min(rows, columns) < 2:
        raise InputError(f"{path}: its slices have {rows} × {columns} px (rows × columns), which is no image")


def _turn(path: Path, affine: np.ndarray) -> np.ndarray:
    """nibabel's orientation transform from the file's axes to LPS."""
    axes = affine[:3, :3]
    is_place = np.isfinite(affine).all() and np.linalg.cond(axes) < LARGEST_CONDITION
    if not is_place or np.isnan(orientation := io_orientation(affine)).any():
        raise InputError(f"{path}: its affine gives no place in the patient; repair sform or qform in the header")
    return ornt_transform(orientation, axcodes2ornt(tuple(AXES)))


@contextmanager
def _silent() -> Iterator[None]:
    """What nibabel logs of headers, we say in one line or not at all."""
    logger = nib.imageglobals.logger
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def open_volume(path: Path) -> nib.Nifti1Pair:
    """A NIfTI file with its header read; `InputError` where it is none."""
    try:
        with _silent():
            image = nib.load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as NIfTI: {error}") from None
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{path}: not a NIfTI file but {type(image).__name__}; convert it to .nii or .nii.gz")
    return image


def _voxels(path: Path, image: nib.Nifti1Pair) -> np.ndarray:
    try:
        _check_all_there(path, image)
        with np.errstate(over="ignore", invalid="ignore"):
            return image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: its voxels cannot be read, the file is damaged or cut off: {error}") from None


def _check_all_there(path: Path, image: nib.Nifti1Pair) -> None:
    """Raise an error unless the file holds what its header announces, and what was packed has not changed since.
    Before memory is taken for it. nibabel stops reading before the checksum at the end of a .gz."""
    voxels = Path(image.file_map["image"].filename)
    wanted = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    size = voxels.stat().st_size
    if voxels.suffix.lower() == ".gz":
        with gzip.open(voxels) as file:
            size = sum(len(part) for part in iter(lambda: file.read(PART_BYTES), b""))
    if size < wanted:
        raise ValueError(f"{wanted} bytes are announced, {size} are there")


def _by(shape: object) -> str:
    return " × ".join(map(str, shape))


def lesions_of_mask(mask: np.ndarray) -> list[Boxes]:
    """Microbleeds of a mask [slices, rows, columns]: voxels above 0 that touch, be it with a corner, are one.

    Returns:
        For each, in the order of its first voxel, the tight box on every slice that it has a voxel on.
    """
    components, _ = ndimage.label(mask > 0, structure=np.ones((3, 3, 3)))
    lesions = []
    for number, (slices, rows, columns) in enumerate(ndimage.find_objects(components), 1):
        part = components[slices, rows, columns] == number
        lesions.append(
            {slices.start + k: _box(plane, rows.start, columns.start) for k, plane in enumerate(part) if plane.any()}
        )
    return lesions


def _box(plane: np.ndarray, row: int, column: int) -> list[float]:
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return [float(column + columns[0]), float(row + rows[0]), float(width), float(height)]


def lesions_of_points(
    places: np.ndarray,
    diameters_mm: Sequence[float],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    where: str,
) -> list[Boxes]:
    """Microbleeds of points: a square of the stated size around each, on every slice within half that size of it.

    The slice that holds the point has a box whatever the size.

    Args:
        places: [N, 3] column, row, slice.
        diameters_mm: of each.
        shape, spacing_mm: slices, rows, columns of the volume.
        where: begins the text of errors.

    Raises:
        InputError: a point that is no finite number or lies outside the volume.
    """
    lesions = []
    for number, (place, diameter) in enumerate(zip(places, diameters_mm, strict=True), 1):
        if not np.isfinite(place).all():
            raise InputError(f"{where}: point {number} is not three finite numbers; correct or remove it")
        if (place < -0.5).any() or (place > np.subtract(shape[::-1], 0.5)).any():
            found = ", ".join(f"{value:.1f}" for value in place)
            size = " × ".join(map(str, shape[::-1]))
            place = f"point {number} lies outside its volume: column, row, slice {found} of {size}"
            raise InputError(f"{where}: {place}; check whether voxels count from 0 or 1, and the order of the axes")
        lesions.append(_ball(place, diameter, shape, spacing_mm))
    return lesions


def _ball(
    place: np.ndarray, diameter: float, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> Boxes:
    (slices, rows, columns), (slice_mm, row_mm, column_mm) = shape, spacing_mm
    left, right = np.clip(place[0] + 0.5 + np.array([-0.5, 0.5]) * diameter / column_mm, 0, columns).tolist()
    top, bottom = np.clip(place[1] + 0.5 + np.array([-0.5, 0.5]) * diameter / row_mm, 0, rows).tolist()
    reach = diameter / 2 / slice_mm
    own = min(max(int(np.floor(place[2] + 0.5)), 0), slices - 1)
    reached = [index for index in range(slices) if index == own or abs(index - place[2]) <= reach]
    return {index: [left, top, right - left, bottom - top] for index in reached}
