"""The brain region of a lesion, by registration of its series to the ICBM-152 template that nilearn includes.

Regions are those of BOMBS [C. Cordonnier et al., Stroke 40:94, 2009]: infratentorial is brainstem and cerebellum; deep
is basal ganglia, thalamus and the internal and external capsules; lobar is the rest, cortex and white matter under it.
nilearn includes no atlas of these regions, and other atlases need a download: `region_at` uses three smooth shapes,
drawn by eye on the template. If the registration fails or is implausible, the regions are unknown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import entr

from cmbfe.data.dicom.series import to_patient_mm
from cmbfe.findings.lesions import REGIONS, Lesion
from cmbfe.findings.search import Place

PIXEL_MM = 2.0
"""Slices are kept with pixels of about this width, which is enough for a registration."""
COARSE_MM, FINE_MM = 6.0, 4.0
"""Voxel sizes for the similarity and for the affine registration."""
HEAD_SIZE = 0.92
"""Size of an average head relative to the template."""
BRAIN_SHARE, NEAR_MM, BRIDGE_MM = 0.75, 30.0, 9.0
"""A brain voxel has at least this share of the mean brightness of the head within about `NEAR_MM`. Erosion by
`BRIDGE_MM` cuts the bridges to scalp, face and neck."""
AROUND_MM = 10.0
"""The metric includes this margin around the brain, because its dark bone shows where the brain ends."""
BINS = 16
ANGLES = (-20, -10, 0, 10, 20)
"""Starting rotations, degrees about each axis of the patient."""
BACK_MM, HEAD_MM = (5, 17, 29), range(-64, 73, 8)
"""Starting positions of the centre of the visible brain in the template (LPS)."""
FOLLOWED, APART = 5, 9.0
"""Number of starts that are optimised, and their smallest distance in mm; 2 degrees count as 1 mm."""
HALF_TURNS = [np.diag(signs) for signs in ((-1, -1, 1), (-1, 1, -1), (1, -1, -1))]
"""If a series fits better after a half turn, its header may give a wrong orientation."""
POINTS = 3000
"""Number of voxels of a series on which starts are compared."""
OUTSIDE, ALONG_A_VEIN = "outside the brain", "along a vein"
THREADS = 2
"""Number of SimpleITK threads. It is the same on every machine, because the metric is summed per thread."""
LEAST_HEIGHT_MM = 30.0
"""A series with less height would fit the template in several places."""
FEWEST_VOXELS = 4
"""Smallest number of voxels per side that can be smoothed."""
SCALES, MOST_STRETCHED = (0.8, 1.5), 1.5
"""Allowed scale factors from head to template, and the largest allowed ratio between them."""
LEAST_OVERLAP, LEAST_INFORMATION = 0.85, 0.035
"""Dice coefficient of the brains, and mutual information within them in nats. Phantom heads have at least 0.93 and 0.07
(0.05 in slabs of 48 mm). A real head with face and neck has 0.89 and 0.17, and noise has 0.2 and 0.004."""
NO_HEAD = "it does not look like a head on the template"
OUTSIDE_MM, ELONGATED = 4.0, 1.2
"""A rule strikes out lesions that are farther from the template's brain or more elongated. The error of a registration
is 3 to 5 mm. The largest elongation of 149 phantom microbleeds is 1.0; of 20,094 stretches of veins, 22 % exceed
1.2."""


class NotRegistered(Exception):
    """Raised if a series cannot be registered to the template. The text gives the reason without patient names."""


@dataclass(frozen=True)
class Template:
    """ICBM-152 with voxels of 2 mm, in patient coordinates (LPS)."""

    t1: sitk.Image
    binned: np.ndarray
    """t1, smoothed for the coarse grid and `_binned`, [z, y, x]."""
    outside_mm: np.ndarray
    """Distance from the brain, [z, y, x]; 0 inside."""

    def at(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Voxels of `values` (an array on the grid of t1) nearest to points [3, n] mm; points outside use the edge."""
        index = np.rint((points - np.reshape(self.t1.GetOrigin(), (3, 1))) / self.t1.GetSpacing()[0]).astype(int)
        x, y, z = np.clip(index, 0, np.reshape(self.t1.GetSize(), (3, 1)) - 1)
        return values[z, y, x]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Load the template that nilearn includes. Needs no network."""
    from nilearn import datasets  # slow to import

    image = datasets.load_mni152_template(resolution=2)
    x, y, z = image.affine[:3, 3]
    (columns, rows, _), step = image.shape, float(image.affine[0, 0])
    brightness = np.asarray(image.dataobj, np.float32)[::-1, ::-1].T  # x to the left, y to the back
    t1 = sitk.GetImageFromArray(np.ascontiguousarray(brightness))
    t1.SetSpacing([step] * 3)
    t1.SetOrigin([-x - (columns - 1) * step, -y - (rows - 1) * step, float(z)])
    brain = sitk.BinaryMorphologicalClosing(t1 > 0.05, [3] * 3)  # includes the fissures
    outside_mm = ndimage.distance_transform_edt(sitk.GetArrayViewFromImage(brain) == 0) * step
    binned = _binned(ndimage.gaussian_filter(brightness, COARSE_MM / 2 / step))
    return Template(t1, binned, outside_mm.astype(np.float32))


def region_at(points: np.ndarray) -> np.ndarray:
    """Index into `REGIONS` at template points [3, ...] mm, LPS. The regions' shapes extend beyond the brain."""
    side, front, up = np.abs(points[0]), -points[1], points[2]
    tentorium = -24 + 17 * np.exp(-((side / 20) ** 2) - ((front + 52) / 18) ** 2)
    cerebellum = (front < -36) & (up < tentorium)
    brainstem = (side < 15) & (front > -40) & (front < -6) & (up < -10)
    central = (side / 36) ** 4 + ((front + 5) / 31) ** 4 + ((up - 8) / 19) ** 4 < 1
    return np.where(cerebellum | brainstem, 2, np.where(central, 1, 0))


def shrunk(image: np.ndarray, place: Place) -> np.ndarray:
    """A slice resized for registration, to pixels of about `PIXEL_MM`, so that all slices fit in memory."""
    rows, columns = (
        max(round(n * mm / PIXEL_MM), 1) for n, mm in zip(image.shape, place.pixel_spacing_mm, strict=True)
    )
    return cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)


def series_image(slices: Sequence[np.ndarray], shape: tuple[int, int], place: Place) -> sitk.Image:
    """The `shrunk` slices of a series as a volume in patient coordinates. `shape`: rows, columns before shrinking."""
    image = sitk.GetImageFromArray(np.stack(slices).astype(np.float32))
    along_row, along_column = np.reshape(place.orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    first, last = np.array(place.positions_mm[0]), np.array(place.positions_mm[-1])
    if (last - first) @ normal < 0:
        normal = -normal
    small, old_mm = np.array(slices[0].shape), np.array(place.pixel_spacing_mm)
    row_mm, column_mm = old_mm * shape / small
    corner = first + along_column * (row_mm - old_mm[0]) / 2 + along_row * (column_mm - old_mm[1]) / 2
    image.SetSpacing([column_mm, row_mm, place.slice_spacing_mm])
    image.SetOrigin(corner.tolist())
    image.SetDirection(np.column_stack([along_row, along_column, normal]).ravel().tolist())
    return image


def register(image: sitk.Image) -> sitk.AffineTransform:
    """The transform from a series to the template, mm to mm (LPS).

    Raises:
        NotRegistered: too little or no brain is visible, or the result does not look like a head.
    """
    sides_mm = np.multiply(image.GetSize(), image.GetSpacing())
    if min(sides_mm) < LEAST_HEIGHT_MM or min(image.GetSize()) < FEWEST_VOXELS:
        raise NotRegistered(f"it is less than {LEAST_HEIGHT_MM:g} mm high, or has under {FEWEST_VOXELS} slices")
    template = load_template()
    coarse, fine = _regridded(image, COARSE_MM), _regridded(image, FINE_MM)
    brain = _brain(coarse)
    metric, way = _similarity(coarse, brain, template, ANGLES, FOLLOWED)
    if any(_similarity(_turned(coarse, half), brain, template, (0,), 1)[0] < metric for half in HALF_TURNS):
        raise NotRegistered("it fits the template better after half a turn: its header may be wrong")
    affine = sitk.AffineTransform(way.GetMatrix(), way.GetTranslation(), way.GetCenter())
    brain = _brain(fine)
    _improve(affine, fine, _around(fine, brain), template, steps=100, step=1.0)
    _refuse(affine, fine, brain, template)
    return affine


def _regridded(image: sitk.Image, step_mm: float) -> sitk.Image:
    """The image resampled to cubic voxels, smoothed first to avoid aliasing."""
    spacing_mm, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    smooth = sitk.SmoothingRecursiveGaussian(image, np.maximum(0.4 * step_mm, spacing_mm / 2).tolist())
    wanted = np.maximum(np.rint(size * spacing_mm / step_mm), 1).astype(int)
    first = image.TransformContinuousIndexToPhysicalPoint(
        ((size - 1 - (wanted - 1) * step_mm / spacing_mm) / 2).tolist()
    )
    grid = (first, [step_mm] * 3, image.GetDirection())
    return sitk.Resample(smooth, wanted.tolist(), sitk.Transform(), sitk.sitkLinear, *grid)


def _brain(image: sitk.Image) -> np.ndarray:
    """Mask of the largest bright part, [slices, rows, columns]. Raises `NotRegistered` if none is large enough."""
    values, step_mm = sitk.GetArrayFromImage(image), image.GetSpacing()[0]
    head = sitk.GetArrayFromImage(sitk.OtsuThreshold(image, 0, 1)) > 0
    near, total = (ndimage.gaussian_filter(each * 1.0, NEAR_MM / step_mm) for each in (head, head * values))
    bright = head & (values * near > BRAIN_SHARE * total)
    parts, count = ndimage.label(ndimage.distance_transform_edt(bright, sampling=step_mm) > BRIDGE_MM)
    if not count:
        raise NotRegistered("no brain is seen in it")
    core = parts == np.bincount(parts[parts > 0]).argmax()
    brain = bright & (ndimage.distance_transform_edt(~core, sampling=step_mm) < BRIDGE_MM + step_mm / 2)
    if min(np.ptp(np.nonzero(brain), axis=1) + 1) * step_mm < LEAST_HEIGHT_MM:
        raise NotRegistered(f"less than {LEAST_HEIGHT_MM:g} mm of a brain are seen in it")
    return brain


def _around(image: sitk.Image, brain: np.ndarray) -> sitk.Image:
    """Mask of the voxels on which the metric is computed: the brain with a margin of `AROUND_MM`."""
    near = ndimage.distance_transform_edt(~brain, sampling=image.GetSpacing()[0]) < AROUND_MM
    mask = sitk.GetImageFromArray(near.astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _points(image: sitk.Image) -> np.ndarray:
    """Positions of all voxels, [3, n] mm."""
    index = np.indices(image.GetSize()[::-1]).reshape(3, -1)[::-1]
    axes = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return axes @ index + np.reshape(image.GetOrigin(), (3, 1))


def _binned(values: np.ndarray) -> np.ndarray:
    return np.clip(values * (BINS / max(np.percentile(values, 99), 1e-6)), 0, BINS - 1).astype(int)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two arrays of `_binned` values, in nats."""
    shares = np.bincount(one * BINS + other, minlength=BINS**2).reshape(BINS, BINS) / len(one)
    return float(entr(shares.sum(0)).sum() + entr(shares.sum(1)).sum() - entr(shares).sum())


def _turned(image: sitk.Image, half: np.ndarray) -> sitk.Image:
    """The image as if the patient had made a half turn; `half` is the rotation matrix."""
    turned = sitk.Image(image)
    turned.SetOrigin((half @ image.GetOrigin()).tolist())
    turned.SetDirection((half @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return turned


def _similarity(
    image: sitk.Image, brain: np.ndarray, template: Template, angles: Sequence[int], followed: int
) -> tuple[float, sitk.Similarity3DTransform]:
    """Optimise a similarity transform from the best starts. Returns its metric (lower is better) and the transform."""
    mask, points = _around(image, brain), _points(image)
    near, middle = np.flatnonzero(sitk.GetArrayViewFromImage(mask)), points[:, brain.ravel()].mean(axis=1)
    near = near[:: max(len(near) // POINTS, 1)]
    values = _binned(sitk.GetArrayViewFromImage(image).ravel()[near])
    centred = (points[:, near] - middle[:, None]) / HEAD_SIZE
    tried = []
    for degrees in product(angles, repeat=3):
        turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
        turned = turn @ centred
        for place in product([0.0], BACK_MM, HEAD_MM):
            there = template.at(template.binned, turned + np.reshape(place, (3, 1)))
            tried.append((_information(values, there), np.array([*np.divide(degrees, 2), *place]), turn))
    found = []
    for where, turn in _apart(sorted(tried, key=lambda each: -each[0]), followed):
        way = sitk.Similarity3DTransform()
        way.SetCenter(middle.tolist())
        way.SetMatrix((turn / HEAD_SIZE).ravel().tolist())
        way.SetTranslation((where[3:] - middle).tolist())
        found.append((_improve(way, image, mask, template, steps=60, step=4.0), way))
    return min(found, key=lambda each: each[0])


def _apart(tried: Iterable[tuple[float, np.ndarray, np.ndarray]], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first `count` starts that lie more than `APART` from each other."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for _, where, turn in tried:
        if all(np.linalg.norm(where - other) > APART for other, _ in kept):
            kept.append((where, turn))
        if len(kept) == count:
            break
    return kept


def _improve(
    way: sitk.Transform, image: sitk.Image, mask: sitk.Image, template: Template, steps: int, step: float
) -> float:
    """Optimise the transform `way` in place; returns Mattes' metric (lower is better)."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(THREADS)
    method.SetMetricAsMattesMutualInformation(2 * BINS)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.02, steps, 0.6, 1e-5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(way, inPlace=True)
    try:
        method.Execute(image, sitk.SmoothingRecursiveGaussian(template.t1, image.GetSpacing()[0] / 2))
    except RuntimeError:  # ITK: all voxels lie outside the template
        return np.inf
    return method.GetMetricValue()


def _refuse(way: sitk.AffineTransform, image: sitk.Image, brain: np.ndarray, template: Template) -> None:
    """Raise `NotRegistered` unless scale, overlap and mutual information are those of a head."""
    matrix = np.reshape(way.GetMatrix(), (3, 3))
    centre, shift = np.reshape(way.GetCenter(), (3, 1)), np.reshape(way.GetTranslation(), (3, 1))
    there = matrix @ (_points(image) - centre) + centre + shift
    in_template = template.at(template.outside_mm, there) == 0
    both = np.count_nonzero(in_template & brain.ravel())
    overlap = 2 * both / (np.count_nonzero(in_template) + np.count_nonzero(brain))
    sides = np.linalg.svd(matrix, compute_uv=False)
    is_head = SCALES[0] < sides[2] and sides[0] < SCALES[1] and sides[0] < MOST_STRETCHED * sides[2]
    if not is_head or overlap < LEAST_OVERLAP:
        raise NotRegistered(f"{NO_HEAD} (overlap {overlap:.2f}, sides × {sides.round(2).tolist()})")
    values = _binned(sitk.GetArrayViewFromImage(image).ravel()[in_template])
    information = _information(values, template.at(template.binned, there[:, in_template]))
    if information < LEAST_INFORMATION:
        raise NotRegistered(f"{NO_HEAD} (mutual information {information:.2f})")


def placed(lesions: Sequence[Lesion], to_template: sitk.Transform) -> list[Lesion]:
    """The lesions with their region and side."""
    found = []
    for lesion in lesions:
        point = np.array(to_template.TransformPoint(lesion.centre_mm))
        side = "left" if point[0] > 0 else "right"
        found.append(replace(lesion, region=REGIONS[int(region_at(point))], side=side))
    return found


def struck_out(lesions: Sequence[Lesion], place: Place, to_template: sitk.Transform | None) -> list[Lesion]:
    """Lesions, each with the rule of anatomy it breaks, if any. Without registration, only the vein rule is used."""

    def rule(lesion: Lesion) -> str:
        if to_template is not None and _is_outside(lesion, place, to_template):
            return OUTSIDE
        return ALONG_A_VEIN if lesion.elongation > ELONGATED else ""

    return [replace(lesion, struck_out=rule(lesion)) for lesion in lesions]


def _is_outside(lesion: Lesion, place: Place, to_template: sitk.Transform) -> bool:
    """Whether most box centres of a lesion lie more than `OUTSIDE_MM` outside the template's brain."""
    middles = (to_patient_mm(place, index, x + w / 2, y + h / 2) for index, ((x, y, w, h), _) in lesion.boxes.items())
    template = load_template()
    points = np.transpose([to_template.TransformPoint(middle) for middle in middles])
    return bool(np.mean(template.at(template.outside_mm, points) > OUTSIDE_MM) > 0.5)
