"""Heads: the template deformed to a patient, with skull, scalp, air and iron, as maps for the signal equation."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from cmbfe.phantom.scan import Axes
from cmbfe.phantom.template import Template, iron_volume
from cmbfe.phantom.tissue import (
    AIR,
    BONE,
    CHI_PPM_PER_IRON,
    CSF,
    GREY_MATTER,
    MARROW,
    MUSCLE,
    R2STAR_PER_IRON,
    SCALP,
    WHITE_MATTER,
    Tissue,
    spoiled_amplitude,
)

WARP_ORIGIN_MM = np.array([-110.0, -145.0, -100.0])
WARP_STEP_MM = 25.0
WARP_SHAPE = (10, 12, 9)
SCAN_TO_TEMPLATE_AXES = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
"""Scan (up, back, left) to template (right, front, up)."""


@dataclass(frozen=True)
class Build:
    """What makes one head differ from the template; drawn by `draw_build`, applied by `template_position`."""

    age_years: float
    scale: np.ndarray
    """Size against the template along x, y, z; ICBM-152 is larger than a mean head."""
    angles_degrees: np.ndarray
    """Pitch, roll and yaw of the head against the slices."""
    ventricle_growth_mm: float
    atrophy: float
    """0: young, 1: wide sulci and a wide gap under the skull."""
    skull_mm: float
    scalp_mm: float
    warp_mm: np.ndarray
    """Displacements [3, *WARP_SHAPE] on a grid over the head."""


def draw_build(rng: np.random.Generator) -> Build:
    """Draw a head of 45 to 85 years, as in populations with microbleeds; sizes around published adult ranges."""
    age = rng.uniform(45, 85)
    aged = (age - 45) / 40
    rough = rng.standard_normal((3, *WARP_SHAPE))
    warp = ndimage.gaussian_filter(rough, (0, 0.7, 0.7, 0.7), mode="wrap")
    return Build(
        age_years=age,
        scale=rng.normal(0.91, 0.02) * rng.normal(1, 0.02, 3),
        angles_degrees=rng.normal(0, (4, 2.5, 2.5)),
        ventricle_growth_mm=float(np.clip(rng.normal(0.5 + 2.0 * aged, 0.8), -0.5, 4)),
        atrophy=float(np.clip(rng.normal(0.2 + 0.5 * aged, 0.15), 0, 1)),
        skull_mm=rng.uniform(5.5, 8.0),
        scalp_mm=rng.uniform(4.0, 7.5),
        warp_mm=(2.2 * warp / warp.std()).astype(np.float32),
    )


def _rotation(angles_degrees: np.ndarray) -> np.ndarray:
    (cp, cr, cy), (sp, sr, sy) = np.cos(np.deg2rad(angles_degrees)), np.sin(np.deg2rad(angles_degrees))
    pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    roll = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return yaw @ roll @ pitch


def scan_to_template(build: Build) -> np.ndarray:
    """Linear part [3, 3] of the way from scan to template coordinates."""
    return np.diag(1 / build.scale) @ _rotation(build.angles_degrees) @ SCAN_TO_TEMPLATE_AXES


def template_position(build: Build, points: np.ndarray, template: Template) -> np.ndarray:
    """Template coordinates mm of scan positions [3, ...] mm: affine, smooth warp, widened ventricles."""
    place = (scan_to_template(build) @ points.reshape(3, -1)).astype(np.float32)
    index = (place - WARP_ORIGIN_MM[:, None].astype(np.float32)) / np.float32(WARP_STEP_MM)
    warped = place + np.stack(
        [ndimage.map_coordinates(w, index, order=3, mode="nearest", output=np.float32) for w in build.warp_mm]
    )
    # A point outside the wall takes the tissue that lay `growth` mm nearer to the ventricle; fades over 12 mm.
    distance = template.ventricle.at(warped)
    pull = np.float32(-build.ventricle_growth_mm) * np.exp(-np.maximum(distance, 0) / np.float32(12))
    moved = warped + pull * template.ventricle.gradient_at(warped, 2.0)
    return moved.astype(np.float32).reshape(points.shape)


def scan_position(build: Build, points: np.ndarray, template: Template) -> np.ndarray:
    """Scan positions mm of template points [3, n] mm: `template_position` inverted by fixed-point iteration."""
    inverse = np.linalg.inv(scan_to_template(build))
    place = inverse @ points
    for _ in range(8):
        place = place + 0.9 * inverse @ (points - template_position(build, place, template))
    return place


def covering(axis: np.ndarray, step_mm: float) -> np.ndarray:
    """Coordinates at most `step_mm` apart from the first to the last value of `axis`."""
    return np.linspace(axis[0], axis[-1], max(int(np.ceil((axis[-1] - axis[0]) / step_mm)), 3) + 1)


def refine(values: np.ndarray, axes: Axes, finer: Axes, degree: int = 3) -> np.ndarray:
    """Interpolate `values` [z, y, x] from one grid to another by splines along each axis, float32."""
    for axis, (given, wanted) in enumerate(zip(axes, finer, strict=True)):
        if len(given) == len(wanted) and np.allclose(given, wanted):
            continue
        weights = make_interp_spline(given, np.eye(len(given)), k=degree)(np.clip(wanted, given[0], given[-1]))
        values = np.moveaxis(np.tensordot(weights.astype(np.float32), values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def refine_linearly(values: np.ndarray, axes: Axes, finer: Axes) -> np.ndarray:
    """As `refine` with degree 1, faster for large grids."""
    for axis, (given, wanted) in enumerate(zip(axes, finer, strict=True)):
        if len(given) == len(wanted) and np.allclose(given, wanted):
            continue
        place = np.interp(wanted, given, np.arange(len(given)))
        low = np.minimum(place.astype(int), len(given) - 2)
        weight = np.expand_dims((place - low).astype(np.float32), tuple(a for a in range(3) if a != axis))
        lower = np.take(values, low, axis)
        lower += weight * (np.take(values, low + 1, axis) - lower)
        values = lower
    return values


@dataclass(frozen=True)
class Head:
    """Shapes on a grid in scan coordinates [z, y, x], float32."""

    position: np.ndarray
    """Template coordinates mm, [3, z, y, x]."""
    t1: np.ndarray
    white: np.ndarray
    iron: np.ndarray
    """mg per 100 g beyond ordinary grey matter."""
    hull: np.ndarray
    cavity: np.ndarray
    eye: np.ndarray
    face: np.ndarray


def make_head(build: Build, axes: Axes, template: Template) -> Head:
    """Evaluate a head's shapes at the points of a grid.

    The deformation is evaluated every 4 mm and the smooth shapes every 2.5 mm, and interpolated from there.
    """
    sparse = tuple(covering(axis, 4.0) for axis in axes)
    grid = np.stack(np.meshgrid(*sparse, indexing="ij")).astype(np.float32)
    deformed = template_position(build, grid, template)
    medium = tuple(covering(axis, 2.5) for axis in axes)
    smooth_position = np.stack([refine(part, sparse, medium) for part in deformed])
    smooth = {
        name: refine_linearly(getattr(template, name).at(smooth_position), medium, axes)
        for name in ("hull", "cavity", "eye", "face")
    }
    position = np.stack([refine_linearly(part, medium, axes) for part in smooth_position])
    iron = iron_volume(template, build.age_years)
    return Head(position, template.t1.at(position), template.white.at(position), iron.at(position), **smooth)


def tissue_shares(head: Head, build: Build, edge_mm: float = 2.0) -> dict[Tissue, np.ndarray]:
    """Share of each tissue in each voxel, float32; they sum to 1. Edges of bone and skin are `edge_mm` wide."""
    csf = np.clip((0.55 + 0.05 * build.atrophy - head.t1) / 0.12, 0, 1)
    white = np.clip((head.white - 0.5) * 2.5 + 0.5, 0, 1)
    inner = 0.6 + 2.0 * build.atrophy  # the subarachnoid space widens with atrophy
    outer = inner + build.skull_mm
    in_skull, in_bone, in_diploe, in_head, in_muscle = (
        np.clip(distance / edge_mm + 0.5, 0, 1)
        for distance in (
            inner - head.hull,
            outer - head.hull,
            np.minimum(head.hull - inner - 1.8, outer - 1.8 - head.hull),
            -np.minimum(head.hull - outer - build.scalp_mm, head.face),
            -head.face - 6.0,
        )
    )
    bone = in_bone * (1 - in_skull)
    soft = in_head * (1 - in_bone)
    cavity = head.cavity * (1 - in_skull)
    eye = head.eye * soft
    solid = 1 - cavity
    return {
        WHITE_MATTER: in_skull * (1 - csf) * white,
        GREY_MATTER: in_skull * (1 - csf) * (1 - white),
        CSF: in_skull * csf + eye * solid,
        BONE: bone * (1 - in_diploe) * solid,
        MARROW: bone * in_diploe * solid,
        MUSCLE: (soft - eye) * in_muscle * solid,
        SCALP: (soft - eye) * (1 - in_muscle) * solid,
        AIR: 1 - in_skull - bone - soft + cavity * (bone + soft),
    }


@dataclass(frozen=True)
class Maps:
    """What the signal equation needs, on a grid [z, y, x], float32."""

    amplitude: np.ndarray
    """Transverse magnetisation after the pulse, relative to water's M0."""
    r2star: np.ndarray
    """1/s."""
    chi: np.ndarray
    """ppm relative to CSF; air and bone count as CSF here, their field is simulated apart."""


def tissue_maps(
    shares: dict[Tissue, np.ndarray], iron: np.ndarray, repetition_time_ms: float, flip_angle_degrees: float
) -> Maps:
    """Turn shares into the maps of the signal equation; partial volumes and iron (mg per 100 g) add linearly."""
    amplitude, r2star, chi = (np.zeros(iron.shape, np.float32) for _ in range(3))
    for tissue, share in shares.items():
        amplitude += share * np.float32(spoiled_amplitude(tissue, repetition_time_ms, flip_angle_degrees))
        r2star += share * np.float32(tissue.r2star_per_s)
        if tissue not in (AIR, BONE):
            chi += share * np.float32(tissue.chi_ppm)
    return Maps(amplitude, r2star + np.float32(R2STAR_PER_IRON) * iron, chi + np.float32(CHI_PPM_PER_IRON) * iron)
