"""A patient before the lesions: head, veins, field and coil, put together as a scene that gives signal."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from cmbfe.phantom.anatomy import (
    Build,
    Head,
    covering,
    draw_build,
    make_head,
    refine,
    refine_linearly,
    scan_position,
    scan_to_template,
    tissue_maps,
    tissue_shares,
)
from cmbfe.phantom.physics import (
    FLIP_ANGLE_DEGREES,
    REPETITION_TIME_MS,
    Scene,
    coil_sensitivity,
    field_from_susceptibility,
    gradient_spread,
    shim,
)
from cmbfe.phantom.scan import Axes, Scan
from cmbfe.phantom.template import Template
from cmbfe.phantom.tissue import AIR, BONE, CSF, blood_chi
from cmbfe.phantom.veins import Veins, grow_veins, rasterise, unit

BODY_MM = 1.0
"""In-plane spacing of the grid on which tissues are evaluated; the template itself has 1 mm."""
AIR_MM = 2.5
"""Spacing of the grid over the whole head on which the field of air and bone is simulated."""


@dataclass(frozen=True)
class Body:
    """A patient before the lesions."""

    build: Build
    scan: Scan
    axes: Axes
    """Of the grid on which `head` and `fluid` lie: the scan's fine slices, BODY_MM in the plane."""
    head: Head
    fluid: np.ndarray
    """Share of cerebrospinal fluid, [z, y, x]."""
    veins: Veins
    """In scan coordinates."""
    scene: Scene


def _measured_window(scan: Scan, build: Build, template: Template) -> Scan:
    """The scan, narrowed to the rows and columns that hold some of the head."""
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
    """Field ppm of air and bone over the whole head, shimmed on the brain, with its grid's axes.

    Edges are smoothed by one voxel of AIR_MM: sharper ones ring on a grid that coarse.
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
    """Grow veins in the template and carry them into scan coordinates."""
    veins = grow_veins(rng, template)
    directions = np.linalg.inv(scan_to_template(build)) @ veins.directions
    return replace(
        veins,
        points=scan_position(build, veins.points, template),
        directions=unit(directions),
        length_mm=veins.length_mm * np.linalg.norm(directions, axis=0),
    )


def susceptibility(body: Body) -> np.ndarray:
    """Susceptibility ppm of tissue and veins on the scene's grid, as `make_body` took it; air and bone are apart."""
    shares = tissue_shares(body.head, body.build)
    chi = tissue_maps(shares, body.head.iron, REPETITION_TIME_MS, FLIP_ANGLE_DEGREES).chi
    fine = refine_linearly(chi, body.axes, body.scan.fine_axes_mm)
    return fine + body.scene.blood * np.float32(body.scene.blood_chi)


def _tissue(build: Build, axes: Axes, fine: Axes, template: Template) -> tuple[Head, np.ndarray, list[np.ndarray]]:
    """The head and its share of fluid on `axes`; amplitude, R2* and susceptibility on the fine grid."""
    head = make_head(build, axes, template)
    shares = tissue_shares(head, build)
    maps = tissue_maps(shares, head.iron, REPETITION_TIME_MS, FLIP_ANGLE_DEGREES)
    return head, shares[CSF], [refine_linearly(part, axes, fine) for part in (maps.amplitude, maps.r2star, maps.chi)]


def make_body(rng: np.random.Generator, scan: Scan, template: Template, workers: int = 1) -> Body:
    """Build a head, its veins and their field; everything of a patient but lesions and noise."""
    build = draw_build(rng)
    scan = _measured_window(scan, build, template)
    fine = scan.fine_axes_mm
    axes = (fine[0], covering(fine[1], BODY_MM), covering(fine[2], BODY_MM))
    # Side by side, for none needs another; of the three only the veins draw, so that threads change no number.
    with ThreadPoolExecutor(workers) as pool:
        tissue = pool.submit(_tissue, build, axes, fine, template)
        far = pool.submit(air_field, build, scan, template)
        veins = _veins_of(build, rng, template)
        blood = rasterise(veins, fine, scan.field_direction)
    head, fluid, (amplitude, r2star, chi) = tissue.result()
    venous = blood_chi(saturation=np.clip(rng.normal(0.64, 0.04), 0.5, 0.75), haematocrit=rng.normal(0.42, 0.02))
    chi += blood.share * np.float32(venous)
    field = field_from_susceptibility(chi, scan.fine_spacing_mm, scan.field_direction, workers=workers)
    field += refine(*far.result(), fine)
    sparse = tuple(covering(axis, 10.0) for axis in fine)
    coil = refine(coil_sensitivity(rng, sparse), sparse, fine)
    scene = Scene(amplitude, r2star, field, gradient_spread(field), blood.share, blood.along, coil, float(venous))
    return Body(build, scan, axes, head, fluid, veins, scene)
