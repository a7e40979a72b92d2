"""A patient's head before the lesions: deformed template, skull, scalp, air, iron, veins, static field and coil."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from cmbfe.phantom.physics import Scene, coil_sensitivity, field_from_susceptibility, gradient_spread, shim
from cmbfe.phantom.scan import Axes, Scan
from cmbfe.phantom.template import Template, folded, iron_volume
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
    blood_chi,
    spoiled_amplitude,
)
from cmbfe.phantom.veins import Veins, grow_veins, rasterise, unit

WARP_ORIGIN_MM = np.array([-110.0, -145.0, -100.0])
WARP_STEP_MM = 25.0
WARP_SHAPE = (10, 12, 9)
SCAN_TO_TEMPLATE_AXES = np.array([[0.0, 0.0, -1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
"""Matrix that turns scan axes (up, back, left) into template axes (right, front, up)."""
BODY_MM = 1.0  # in-plane spacing of the grid on which tissues are evaluated; the template itself has 1 mm
AIR_MM = 2.5  # spacing of the grid over the whole head on which the field of air and bone is simulated


@dataclass(frozen=True)
class Build:
    """Differences between a head and the template, drawn by `draw_build` and applied by `template_position`."""

    age_years: float
    scale: np.ndarray  # size against the template along x, y, z; ICBM-152 is larger than a mean head
    angles_degrees: np.ndarray  # pitch, roll and yaw of the head against the slices
    ventricle_growth_mm: float
    atrophy: float  # 0: young, 1: wide sulci and a wide gap under the skull
    skull_mm: float
    scalp_mm: float
    warp_mm: np.ndarray  # displacements [3, *WARP_SHAPE] on a grid over the head


def draw_build(rng: np.random.Generator) -> Build:
    """Draw a head aged 45 to 85 years, as in populations with microbleeds, with sizes near published adult ranges."""
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
    """Linear part [3, 3] of the transform from scan to template coordinates."""
    return np.diag(1 / build.scale) @ _rotation(build.angles_degrees) @ SCAN_TO_TEMPLATE_AXES


def template_position(build: Build, points: np.ndarray, template: Template) -> np.ndarray:
    """Map scan positions [3, ...] in mm to template positions by an affine map, a smooth warp and ventricle growth."""
    place = (scan_to_template(build) @ points.reshape(3, -1)).astype(np.float32)
    index = (place - WARP_ORIGIN_MM[:, None].astype(np.float32)) / np.float32(WARP_STEP_MM)
    warped = place + np.stack(
        [ndimage.map_coordinates(w, index, order=3, mode="nearest", output=np.float32) for w in build.warp_mm]
    )
    # Tissue outside a ventricle moves away from it by the growth at the wall, which fades over 12 mm.
    distance = template.ventricle.at(warped)
    pull = np.float32(-build.ventricle_growth_mm) * np.exp(-np.maximum(distance, 0) / np.float32(12))
    moved = warped + pull * template.ventricle.gradient_at(warped, 2.0)
    return moved.astype(np.float32).reshape(points.shape)


def scan_position(build: Build, points: np.ndarray, template: Template) -> np.ndarray:
    """Scan positions of template points [3, n], both in mm, by fixed-point inversion of `template_position`."""
    inverse = np.linalg.inv(scan_to_template(build))
    place = inverse @ points
    for _ in range(8):
        place = place + 0.9 * inverse @ (points - template_position(build, place, template))
    return place


def covering(axis: np.ndarray, step_mm: float) -> np.ndarray:
    """Evenly spaced coordinates from the first to the last value of `axis`, at most `step_mm` apart."""
    return np.linspace(axis[0], axis[-1], max(int(np.ceil((axis[-1] - axis[0]) / step_mm)), 3) + 1)


def refine(values: np.ndarray, axes: Axes, finer: Axes) -> np.ndarray:
    """Interpolate `values` [z, y, x] from one grid to another by cubic splines along each axis, float32."""
    for axis, (given, wanted) in enumerate(zip(axes, finer, strict=True)):
        if len(given) == len(wanted) and np.allclose(given, wanted):
            continue
        weights = make_interp_spline(given, np.eye(len(given)), k=3)(np.clip(wanted, given[0], given[-1]))
        values = np.moveaxis(np.tensordot(weights.astype(np.float32), values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def refine_linearly(values: np.ndarray, axes: Axes, finer: Axes) -> np.ndarray:
    """Interpolate linearly from one grid to another; faster than `refine` for large grids."""
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
    """A head's shapes on a grid in scan coordinates, float32 [z, y, x]."""

    position: np.ndarray  # template coordinates mm, [3, z, y, x]
    t1: np.ndarray
    white: np.ndarray
    iron: np.ndarray  # mg per 100 g beyond ordinary grey matter
    hull: np.ndarray
    cavity: np.ndarray
    eye: np.ndarray
    face: np.ndarray


def make_head(build: Build, axes: Axes, template: Template) -> Head:
    """Interpolate a head's shapes to a grid. Computes the deformation every 4 mm and smooth shapes every 2.5 mm."""
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
    """Share of each tissue in each voxel, float32; the shares sum to 1. Edges of bone and skin are `edge_mm` wide."""
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


def tissue_maps(shares: dict[Tissue, np.ndarray], iron: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn tissue shares into maps for the signal equation. Partial volumes and iron (mg per 100 g) add linearly.

    Returns:
        Three maps, float32 [z, y, x]: amplitude after the pulse, relative to water's M0; R2* in 1/s; susceptibility in
        ppm relative to CSF. Air and bone count as CSF here, because `air_field` simulates their field.
    """
    amplitude, r2star, chi = (np.zeros(iron.shape, np.float32) for _ in range(3))
    for tissue, share in shares.items():
        amplitude += share * np.float32(spoiled_amplitude(tissue))
        r2star += share * np.float32(tissue.r2star_per_s)
        if tissue not in (AIR, BONE):
            chi += share * np.float32(tissue.chi_ppm)
    return amplitude, r2star + np.float32(R2STAR_PER_IRON) * iron, chi + np.float32(CHI_PPM_PER_IRON) * iron


@dataclass(frozen=True)
class Body:
    """A patient's head, veins and signal maps before lesions are added."""

    build: Build
    scan: Scan
    axes: Axes  # grid of `head` and `fluid`: the scan's fine slices, at most BODY_MM apart in the plane
    head: Head
    fluid: np.ndarray  # share of cerebrospinal fluid, [z, y, x]
    veins: Veins  # in scan coordinates
    scene: Scene


def _measured_window(scan: Scan, build: Build, template: Template) -> Scan:
    """The scan, narrowed to the rows and columns that contain the head."""
    axes = tuple(covering(axis, 4.0) for axis in scan.fine_axes_mm)
    head = make_head(build, axes, template)
    solid = tissue_shares(head, build, 8.0)[AIR] < 0.9
    parts = []
    for axis, other in ((1, 2), (2, 1)):
        used = axes[axis][solid.any(axis=(0, other))]
        centre = scan.row_centre_mm if axis == 1 else 0.0
        pixels = (np.array([used[0] - 8, used[-1] + 8]) - centre) / scan.pixel_mm + scan.matrix / 2
        low, high = int(np.clip(pixels[0], 0, scan.matrix)), int(np.clip(np.ceil(pixels[1]), 0, scan.matrix))
        parts.append((low, high - (high - low) % 2))
    return replace(scan, rows=parts[0], columns=parts[1])


def air_field(build: Build, scan: Scan, template: Template) -> tuple[np.ndarray, Axes]:
    """Field in ppm that air and bone cause in the whole head, shimmed on the brain, and the axes of its grid.

    A Gaussian of one voxel smooths edges, because sharp edges ring on such a coarse grid.
    """
    axes = (np.arange(-130, 131, AIR_MM), np.arange(-125, 156, AIR_MM), np.arange(-110, 111, AIR_MM))
    head = make_head(build, axes, template)
    shares = tissue_shares(head, build, 2 * AIR_MM)
    chi = ndimage.gaussian_filter(shares[AIR] * AIR.chi_ppm + shares[BONE] * BONE.chi_ppm, 1.0)
    field = field_from_susceptibility(chi, (AIR_MM,) * 3, scan.field_direction, padding_mm=100.0)
    fine = scan.fine_axes_mm
    within = (axes[0] >= fine[0][0]) & (axes[0] <= fine[0][-1])
    return shim(field, axes, (head.hull < 0) & within[:, None, None]), axes


def _veins_of(build: Build, rng: np.random.Generator, template: Template) -> Veins:
    """Grow veins in the template and transform them to scan coordinates."""
    veins = grow_veins(rng, template)
    directions = np.linalg.inv(scan_to_template(build)) @ veins.directions
    return replace(
        veins,
        points=scan_position(build, veins.points, template),
        directions=unit(directions),
        length_mm=veins.length_mm * np.linalg.norm(directions, axis=0),
    )


def susceptibility(body: Body) -> np.ndarray:
    """Susceptibility in ppm of tissue and veins on the scene's grid, as in `make_body`, without air and bone."""
    _, _, chi = tissue_maps(tissue_shares(body.head, body.build), body.head.iron)
    fine = refine_linearly(chi, body.axes, body.scan.fine_axes_mm)
    return fine + body.scene.blood * np.float32(body.scene.blood_chi)


def _tissue(build: Build, axes: Axes, fine: Axes, template: Template) -> tuple[Head, np.ndarray, list[np.ndarray]]:
    """Compute the head and its share of fluid on `axes`, and amplitude, R2* and susceptibility on the fine grid."""
    head = make_head(build, axes, template)
    shares = tissue_shares(head, build)
    return head, shares[CSF], [refine_linearly(part, axes, fine) for part in tissue_maps(shares, head.iron)]


def make_body(rng: np.random.Generator, scan: Scan, template: Template, workers: int = 1) -> Body:
    """Build a patient's head, veins, static field and coil, before lesions and noise."""
    build, template = draw_build(rng), folded(rng, template)
    scan = _measured_window(scan, build, template)
    fine = scan.fine_axes_mm
    axes = (fine[0], covering(fine[1], BODY_MM), covering(fine[2], BODY_MM))
    # These three steps are independent. Only the veins draw random numbers, so threads do not change the result.
    with ThreadPoolExecutor(workers) as pool:
        tissue = pool.submit(_tissue, build, axes, fine, template)
        far = pool.submit(air_field, build, scan, template)
        veins = _veins_of(build, rng, template)
        blood, along = rasterise(veins, fine, scan.field_direction)
    head, fluid, (amplitude, r2star, chi) = tissue.result()
    venous = blood_chi(saturation=np.clip(rng.normal(0.64, 0.04), 0.5, 0.75), haematocrit=rng.normal(0.42, 0.02))
    chi += blood * np.float32(venous)
    field = field_from_susceptibility(chi, scan.fine_spacing_mm, scan.field_direction, workers=workers)
    field += refine(*far.result(), fine)
    sparse = tuple(covering(axis, 10.0) for axis in fine)
    coil = refine(coil_sensitivity(rng, sparse), sparse, fine)
    scene = Scene(amplitude, r2star, field, gradient_spread(field), blood, along, coil, float(venous))
    return Body(build, scan, axes, head, fluid, veins, scene)
