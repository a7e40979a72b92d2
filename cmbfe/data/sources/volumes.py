"""Read NIfTI volumes in LPS orientation, with the affine to patient coordinates.

Axes are permuted and flipped, never resampled. Columns then run to the patient's left, rows to the back and slices to
the head (LPS, as in axial DICOM; NIfTI's mm run to the right, front and head). `affine` maps (column, row, slice) to
mm. Whole numbers are voxel centres: the centre of a box x, y, w, h px has the column x + w / 2 - 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from cmbfe.data.magnitude import ANYWAY, TAKEN, to_magnitude
from cmbfe.data.sources.opening import millimetres, open_volume, says_spacing, voxels_of
from cmbfe.data.sources.sidecars import why_no_magnitude
from cmbfe.errors import InputError

AXES = "LPS"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAME_PLACE_VOXELS = 0.5
"""Largest distance between the corners of a volume and the corners of its label."""
LARGEST_CONDITION = 1e4
"""Largest condition number of an affine; voxels 10,000 times as long as wide or axes in a plane (0.01°) exceed it."""
LARGEST_SHEAR = 0.05
"""Largest cosine between two axes (3 degrees from perpendicular), which should be 0."""
VOXEL_MM, HEAD_MM = (0.1, 20.0), (10.0, 500.0)
"""Plausible sides of a voxel, and plausible longest side of a volume, in images of heads."""
SAME_SIZE, SAME_DIRECTION, SAME_PLACE_MM = 0.02, 0.7, 1.0
"""Tolerances between sform and qform: in voxel size, in the cosine between axes, and at the corners."""
BACKGROUND = "Voxels that are no finite number are background."
NO_PLACE = "The header gives no place (sform and qform codes 0): left, right and mm follow nibabel's rule."
OTHER_PLANE = "Pixels are over twice as long as wide: the volume was acquired in another plane than its axial images."
TWO_PLACES = "The header holds two places, sform and qform, which differ: the sform is taken."
STATISTICS = range(2, 25)
"""Values of NIfTI's `intent_code` for statistical maps."""
LABEL_INTENT = 1002


@dataclass(frozen=True)
class Volume:
    """A volume in LPS orientation."""

    voxels: np.ndarray
    """float32 [slices, rows, columns]."""
    affine: np.ndarray
    """float64 [4, 4]: (column, row, slice, 1) to mm, LPS."""
    from_file: np.ndarray
    """float64 [4, 4]: 0-based voxel index of the file (i, j, k, 1) to (column, row, slice, 1)."""
    has_place: bool
    """Whether the header gives a position; if not, nibabel's default holds (LAS, centred)."""
    notes: tuple[str, ...] = ()
    """Assumptions and changes, one sentence each, without names of patients or files."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns."""
        columns, rows, slices = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def apply(affine: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Map points [N, 3] by an affine [4, 4].

    >>> apply(np.diag([2.0, 2.0, 3.0, 1.0]), np.array([[1, 0, 1]])).tolist()
    [[2.0, 0.0, 3.0]]
    """
    return places @ affine[:3, :3].T + affine[:3, 3]


def read_volume(path: Path, as_magnitude: bool = False) -> Volume:
    """Read a magnitude volume of a head in LPS orientation; voxels are 0 or above, and NaN becomes 0. `as_magnitude`
    accepts a volume that does not look like a magnitude.

    Raises:
        InputError: like `read_turned`; an impossible size of a head, axes that are not perpendicular, or a volume that
            is not a magnitude by name, sidecar, header or values (see `magnitude`).
    """
    image = open_volume(path)
    why = why_no_magnitude(path) or _intent(image.header)
    if why and not as_magnitude:
        raise InputError(f"{path}: {why}; {ANYWAY}")
    volume = _turned(path, image)
    _refuse_size(path, volume, image.header)
    _refuse_shear(path, volume)
    voxels, notes = to_magnitude(volume.voxels, path, as_magnitude)
    _, row_mm, column_mm = volume.spacing_mm
    said = {
        NO_PLACE: not volume.has_place,
        OTHER_PLANE: max(row_mm, column_mm) > 2 * min(row_mm, column_mm),
        TAKEN: bool(why) and TAKEN not in notes,
    }
    notes = (*volume.notes, *(note for note, is_so in said.items() if is_so), *notes)
    return replace(volume, voxels=voxels, notes=notes)


def read_turned(path: Path, affine_if_none: np.ndarray | None = None) -> Volume:
    """Read any NIfTI volume in LPS orientation; voxels that are not finite become NaN. Only shape and affine of
    the header are used. `affine_if_none` ([4, 4], voxel indices to mm, RAS) replaces a missing position.

    Raises:
        InputError: a missing or damaged file, or another format; no three-dimensional volume of real numbers; no finite
            voxel, voxel size or valid affine; or an sform and a qform that contradict each other.
    """
    return _turned(path, open_volume(path), affine_if_none)


def read_mask(path: Path, volume: Volume, volume_path: Path) -> Volume:
    """Read the mask of a volume, aligned with it voxel by voxel; a mask without position takes that of the volume.
    Raises `InputError` like `read_turned`, or if shape or position differ from those of the volume."""
    mask = read_turned(path, RAS_TO_LPS @ volume.affine @ volume.from_file)
    if mask.voxels.shape != volume.voxels.shape:
        shapes = _by(reversed(mask.voxels.shape)), _by(reversed(volume.voxels.shape))
        raise InputError(f"{path}: {shapes[0]} voxels, but {volume_path.name} has {shapes[1]}; draw it on that")
    if mask.has_place:
        corners = _corners(volume.voxels.shape[::-1])
        moved = np.abs(apply(np.linalg.inv(volume.affine) @ mask.affine, corners) - corners).max()
        if moved > SAME_PLACE_VOXELS:
            raise InputError(
                f"{path}: lies {moved:.1f} voxels away from {volume_path.name}; resample it, or mend its header"
            )
    return replace(mask, voxels=np.nan_to_num(mask.voxels))


def refuse_lines(path: Path, rows: int, columns: int) -> None:
    """Raise `InputError` for slices of one row or column, which are not images and which N4 cannot process."""
    if min(rows, columns) < 2:
        raise InputError(f"{path}: slices of {rows} × {columns} px (rows × columns) are no image; remove it")


def _turned(path: Path, image: nib.Nifti1Pair, affine_if_none: np.ndarray | None = None) -> Volume:
    shape = _shape(path, image)
    has_place = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    affine, notes = affine_if_none, ()
    if has_place or affine_if_none is None:
        affine, notes = _affine(path, image, shape)
    turn = _turn(path, affine)
    voxels = voxels_of(path, image).reshape(shape)
    finite = np.isfinite(voxels)
    if not finite.any():
        raise InputError(f"{path}: no voxel is a finite number; export the volume again")
    turned = apply_orientation(np.where(finite, voxels, np.float32(np.nan)), turn).transpose(2, 1, 0)
    to_file = inv_ornt_aff(turn, shape)
    return Volume(
        voxels=np.ascontiguousarray(turned),
        affine=RAS_TO_LPS @ affine @ to_file,
        from_file=np.linalg.inv(to_file),
        has_place=has_place,
        notes=notes if finite.all() else (*notes, BACKGROUND),
    )


def _shape(path: Path, image: nib.Nifti1Pair) -> tuple[int, ...]:
    """Shape of the volume in a file, which must be a single volume of real numbers."""
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: {_by(image.shape)} voxels are no volume; give one a file (nibabel: four_to_three)")
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: {image.get_data_dtype()} voxels are no real numbers; give a magnitude image")
    return shape


def _affine(path: Path, image: nib.Nifti1Pair, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Affine of the header (voxel indices to mm, RAS), and notes."""
    if not says_spacing(image):
        raise InputError(f"{path}: its header gives no size of voxels (pixdim is 0); correct it")
    unit_mm, unit = millimetres(image.header)
    affine = image.affine * np.array([[unit_mm], [unit_mm], [unit_mm], [1.0]])
    notes = (f"The header gives sizes in {unit}: they are taken as such.",) if unit else ()
    return affine, (*notes, *_two_places(path, image, shape, unit_mm))


def _two_places(path: Path, image: nib.Nifti1Pair, shape: tuple[int, ...], unit_mm: float) -> tuple[str, ...]:
    """A note if sform and qform differ in position; raises `InputError` if they differ in voxel size or direction."""
    try:
        places = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # an invalid qform
        return ()
    if any(place is None or not np.isfinite(place).all() for place in places):
        return ()
    sizes = [np.linalg.norm(place[:3, :3], axis=0) for place in places]
    if not np.all(sizes):
        return ()
    directions = [place[:3, :3] / size for place, size in zip(places, sizes, strict=True)]
    is_turned = (directions[0] * directions[1]).sum(axis=0).min() < SAME_DIRECTION
    if is_turned or not np.allclose(*sizes, rtol=SAME_SIZE):
        what = "directions (left and right may be swapped)" if is_turned else "sizes of voxels"
        raise InputError(f"{path}: its sform and qform give different {what}; correct the one that is wrong")
    sform, qform = (apply(place, _corners(shape)) for place in places)
    return (TWO_PLACES,) if np.abs(sform - qform).max() * unit_mm > SAME_PLACE_MM else ()


def _corners(shape: Sequence[int]) -> np.ndarray:
    """Indices [8, 3] of the voxels at the corners."""
    return np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * np.subtract(shape, 1)


def _turn(path: Path, affine: np.ndarray) -> np.ndarray:
    """nibabel's orientation transform from the file's axes to LPS."""
    axes = affine[:3, :3]
    is_place = np.isfinite(affine).all() and np.linalg.cond(axes) < LARGEST_CONDITION
    if not is_place or np.isnan(orientation := io_orientation(affine)).any():
        raise InputError(f"{path}: its affine gives no place in the patient; repair sform or qform in the header")
    return ornt_transform(orientation, axcodes2ornt(tuple(AXES)))


def _intent(header: nib.Nifti1Header) -> str:
    """Why a volume is no image by its header (label or statistical map); "" if the header does not say so."""
    code = int(header["intent_code"])
    what = "a label" if code == LABEL_INTENT else "a statistical map" if code in STATISTICS else ""
    return what and f"{what}, by intent_code in its header"


def _refuse_size(path: Path, volume: Volume, header: nib.Nifti1Header) -> None:
    """Raise `InputError` for sizes that are impossible for a head; usually, the unit in the header is wrong."""
    sides = volume.spacing_mm
    longest = max(np.multiply(volume.voxels.shape, sides))
    is_voxel = VOXEL_MM[0] <= min(sides) and max(sides) <= VOXEL_MM[1]
    if not is_voxel or not HEAD_MM[0] <= longest <= HEAD_MM[1]:
        unit = millimetres(header)[1] or "mm, or no unit"
        size = f"voxels of {' × '.join(f'{side:.3g}' for side in reversed(sides))} mm, {longest:.3g} mm in all"
        raise InputError(f"{path}: {size}, are no head's; correct sizes or unit (xyzt_units: {unit}) in its header")


def _refuse_shear(path: Path, volume: Volume) -> None:
    """Raise `InputError` for axes that are not perpendicular: slices would not lie above each other."""
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosine > LARGEST_SHEAR:
        degrees = 90 - np.degrees(np.arccos(min(cosine, 1)))
        raise InputError(f"{path}: its axes are {degrees:.0f} degrees from perpendicular; resample it to such axes")


def _by(shape: object) -> str:
    return " × ".join(map(str, shape))
