"""A venous tree grown in template space (sinuses, cortical veins in sulci, deep and medullary veins), and its volume
shares on a grid.

Radii follow anatomy: medullary veins 0.1-0.5 mm, cortical veins 0.2-2 mm, deep veins 0.5-1.5 mm, sinuses 2-4 mm
(R. B. Okudera et al., Neuroradiol J 12:73 (1999); P. Stoquart-ElSankari et al., J Cereb Blood Flow Metab 29:1208
(2009)). For readers, it matters that veins of every size cross the slices at every angle.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from cmbfe.phantom.scan import Axes
from cmbfe.phantom.template import Template, Volume

STEP_MM = 0.4  # distance between the points of a vein, in template mm
SAMPLE_MM2 = 0.16
"""Cross-section in mm^2 that a sample point of a vein represents, so that samples lie about 0.4 mm apart."""
CALIBRE_CHANGES_MM, CALIBRE_SPREAD = 2.0, 0.25  # length of changes, standard deviation of the logarithm
JUNCTIONS_APART_MM = 12.0
WIDEST_VEIN_MM = 1.9  # radius; wider vessels are sinuses
WIDEST_MM = 6.0  # points farther outside a grid do not reach into it; exceeds the radius of every sinus


@dataclass(frozen=True)
class Veins:
    """All veins as points along their axes."""

    points: np.ndarray  # [3, n] mm
    directions: np.ndarray  # [3, n], unit vectors along the vein
    radii_mm: np.ndarray  # [n]
    length_mm: np.ndarray  # [n], length of the piece that a point represents
    vein: np.ndarray  # [n], number of each point's vein


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [3, ...] scaled to length 1; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-6)


def _grow(rng: np.random.Generator, starts: np.ndarray, steer: Callable, steps: int, wander: float) -> np.ndarray:
    """Grow paths [steps, 3, n] from `starts` [3, n] that turn towards `steer(points)` and a little at random."""
    path = [starts]
    heading = unit(steer(starts) + 0.3 * rng.standard_normal(starts.shape))
    drift = np.zeros_like(starts)
    for _ in range(steps - 1):
        drift = 0.85 * drift + wander * rng.standard_normal(starts.shape)
        heading = unit(0.75 * heading + 0.25 * steer(path[-1]) + 0.25 * drift)
        path.append(path[-1] + STEP_MM * heading)
    return np.stack(path)


def uneven(rng: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    """Radii [steps, n] of veins that narrow and widen over a few mm and swell where other veins join."""
    wave = ndimage.gaussian_filter1d(rng.standard_normal(radii.shape), CALIBRE_CHANGES_MM / STEP_MM, axis=0)
    joined = rng.random(radii.shape) < STEP_MM / JUNCTIONS_APART_MM
    swelling = ndimage.gaussian_filter1d(joined.astype(float), 1.5, axis=0) * 3.7  # 1 in the middle
    return np.minimum(radii * np.exp(CALIBRE_SPREAD * wave / wave.std()) * (1 + 0.4 * swelling), WIDEST_VEIN_MM)


def _from_paths(path: np.ndarray, alive: np.ndarray, radii: np.ndarray) -> Veins:
    """Flatten paths [steps, 3, n] with masks and radii [steps, n] to `Veins`; directions are path differences."""
    points = np.moveaxis(path, 1, 0)[:, alive]
    directions = unit(np.moveaxis(np.gradient(path, axis=0), 1, 0))[:, alive]
    number = np.broadcast_to(np.arange(path.shape[2]), alive.shape)
    return Veins(points, directions, radii[alive], np.full(points.shape[1], STEP_MM), number[alive])


def join(parts: list[Veins]) -> Veins:
    """Join `Veins` and renumber them so that no two veins share a number."""
    offsets = np.cumsum([0] + [int(part.vein.max(initial=-1)) + 1 for part in parts[:-1]])
    numbered = [replace(part, vein=part.vein + offset) for part, offset in zip(parts, offsets, strict=True)]
    joined = zip(*(vars(part).values() for part in numbered), strict=True)
    return Veins(*(np.concatenate(values, axis=-1) for values in joined))


def _draw_where(rng: np.random.Generator, mask: np.ndarray, grid: Volume, count: int) -> np.ndarray:
    """Random points [3, count] mm inside a mask on the grid of a volume."""
    chosen = rng.choice(np.flatnonzero(mask), count)
    index = np.stack(np.unravel_index(chosen, mask.shape)) + rng.uniform(-0.5, 0.5, (3, count))
    return grid.origin_mm[:, None] + index * grid.spacing_mm


def _at_paths(volume: Volume, path: np.ndarray) -> np.ndarray:
    """Values [steps, n] of a volume along paths [steps, 3, n]."""
    return volume.at(np.moveaxis(path, 1, 0).reshape(3, -1)).reshape(path.shape[0], -1)


def cortical_veins(rng: np.random.Generator, template: Template, count: int) -> Veins:
    """Veins that start in sulci, climb to the surface and run over it towards the nearest sinus."""
    fluid = template.fluid
    mask = (fluid.values > 0.3) & (template.depth < -1) & (template.depth > -32) & (template.t1.values > 0)
    mask &= template.from_ventricle > 6
    starts = _draw_where(rng, mask, fluid, count)
    above = starts[2] > -12

    def steer(points: np.ndarray) -> np.ndarray:
        outward = unit(template.hull.gradient_at(points, 2.0))
        distance = template.hull.at(points)
        surface = np.clip((distance + 4.0) / 3.0, 0, 1)  # 0 deep in a sulcus, 1 on the brain's surface
        # Veins above the temporal lobe run to the superior sagittal sinus, lower veins to the transverse sinuses.
        side, back = np.where(above, 0.0, np.sign(points[0]) * 45.0), np.where(above, points[1] - 8.0, -75.0)
        goal = unit(np.stack([side, back, np.where(above, 85.0, -25.0)]) - points)
        goal = unit(goal - outward * (goal * outward).sum(0))
        lift = outward * np.where(distance < -1.0, 1 - surface, -np.clip(distance + 1.0, 0, 2))
        return lift + surface * goal + 2.0 * fluid.gradient_at(points, 1.0)

    steps = 220
    path = _grow(rng, starts, steer, steps, 0.4)
    order = np.arange(steps)[:, None]
    near = (np.abs(path[:, 0]) < 3.0) & (_at_paths(template.hull, path) > -4.0) & above
    alive = (order < rng.integers(40, steps, count)) & np.logical_and.accumulate(~near, axis=0)
    calibre = np.clip(rng.lognormal(np.log(0.35), 0.5, count), 0.15, 0.9)
    return _from_paths(path, alive, uneven(rng, calibre * (0.7 + 0.9 * order / steps)))


def medullary_veins(rng: np.random.Generator, template: Template, count: int) -> Veins:
    """Thin veins of the deep white matter that converge on the walls of the lateral ventricles."""
    far = template.from_ventricle
    mask = (template.white.values > 0.8) & (far > 6) & (far < 28) & (template.depth < -8) & (template.t1.values > 0.7)
    mask[:, :, template.t1.axes_mm[2] < 0] = False
    starts = _draw_where(rng, mask, template.t1, count)
    steps = 75
    path = _grow(rng, starts, lambda points: -unit(template.ventricle.gradient_at(points, 3.0)), steps, 0.2)
    alive = np.logical_and.accumulate(_at_paths(template.ventricle, path) > 0.5, axis=0)
    radii = np.clip(rng.lognormal(np.log(0.2), 0.45, count), 0.1, 0.4) * (
        0.8 + 0.6 * np.arange(steps)[:, None] / steps
    )
    return _from_paths(path, alive, uneven(rng, radii))


def superficial_medullary_veins(rng: np.random.Generator, template: Template, count: int) -> Veins:
    """Short veins from the white matter under the cortex out to the surface."""
    mask = (template.white.values > 0.6) & (template.depth > -18) & (template.depth < -5) & (template.t1.values > 0.6)
    starts = _draw_where(rng, mask, template.t1, count)
    steps = 50
    path = _grow(rng, starts, lambda points: unit(template.hull.gradient_at(points, 3.0)), steps, 0.3)
    alive = (np.arange(steps)[:, None] < rng.integers(20, steps, count)) & (_at_paths(template.hull, path) < -1)
    radii = np.broadcast_to(np.clip(rng.lognormal(np.log(0.2), 0.4, count), 0.1, 0.3), alive.shape)
    return _from_paths(path, alive, uneven(rng, radii))


DEEP_VEINS = (
    # name, control points mm (x > 0 side), radius mm at the first and last point; mirrored unless on the midline
    ("internal cerebral", ((2.5, 2, 13), (3, -8, 15), (2.5, -20, 14), (2, -32, 9), (1, -39, 6)), (0.5, 1.2)),
    ("thalamostriate", ((17, -26, 22), (17, -16, 20), (13, -6, 18), (7, 0, 15), (2.5, 2, 13)), (0.3, 0.7)),
    ("septal", ((9, 26, 10), (5, 18, 14), (2.5, 8, 15), (2.5, 2, 13)), (0.25, 0.6)),
    ("atrial", ((26, -44, 12), (20, -42, 12), (11, -39, 10), (3, -37, 8)), (0.3, 0.8)),
    ("basal", ((14, -2, -18), (17, -10, -16), (19, -20, -10), (14, -31, -3), (6, -38, 2), (1, -40, 4)), (0.4, 1.1)),
    ("anterior caudate", ((20, 14, 18), (15, 8, 19), (10, 1, 17)), (0.2, 0.4)),
    ("inferior striate", ((24, 2, -8), (22, 2, 2), (20, 0, 12), (18, -4, 20)), (0.15, 0.35)),
    ("inferior striate", ((27, -8, -8), (25, -8, 3), (21, -9, 13), (18, -12, 20)), (0.15, 0.35)),
    ("cerebellar hemisphere", ((24, -66, -46), (20, -68, -38), (12, -66, -28), (4, -62, -18)), (0.3, 0.7)),
    ("lateral mesencephalic", ((12, -24, -22), (14, -26, -14), (14, -30, -4)), (0.25, 0.5)),
    ("pontine", ((7, -14, -40), (5, -13, -30), (6, -12, -20)), (0.25, 0.5)),
)
MIDLINE_VEINS = (
    ("great cerebral", ((0, -38, 5), (0, -43, 6), (0, -47, 3)), (1.8, 2.3)),
    ("straight sinus", ((0, -47, 3), (0, -62, -4), (0, -80, -12), (0, -96, -16)), (2.0, 2.6)),
    ("vermian", ((0, -68, -34), (0, -72, -22), (0, -66, -8), (0, -52, 0)), (0.3, 0.8)),
    ("inferior sagittal", ((0, 20, 26), (0, -5, 32), (0, -30, 24), (0, -46, 8)), (0.5, 0.9)),
)
TRANSVERSE_SIGMOID = ((45, -78, -24), (58, -55, -30), (52, -42, -42), (36, -40, -58))
"""Control points in mm (side x > 0) of the transverse and sigmoid sinus, starting beside the torcula."""


def _smooth(points: np.ndarray, radii: tuple[float, float]) -> Veins:
    """A smooth vein through control points [n, 3] mm, with `radii` mm at the first and last point."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    along = np.arange(0, length[-1], STEP_MM)
    curve = make_interp_spline(length, points, k=min(3, len(points) - 1))(along)
    directions, steps = unit(np.gradient(curve, axis=0).T), np.full(len(curve), STEP_MM)
    return Veins(curve.T, directions, np.interp(along, (0, length[-1]), radii), steps, np.zeros(len(curve), int))


def deep_veins(rng: np.random.Generator) -> Veins:
    """The named deep veins, each moved and resized a little at random, so that left and right differ."""
    veins = []
    for _, points, radii in DEEP_VEINS:
        for side in (-1, 1):
            moved = np.array(points, float) * (side, 1, 1) + rng.normal(0, 1.0, (len(points), 3))
            veins.append(_smooth(moved, tuple(np.array(radii) * rng.uniform(0.7, 1.3))))
    for _, points, radii in MIDLINE_VEINS:
        moved = np.array(points, float) + rng.normal(0, 0.7, (len(points), 3))
        veins.append(_smooth(moved, tuple(np.array(radii) * rng.uniform(0.8, 1.2))))
    return join(veins)


def dural_sinuses(rng: np.random.Generator, template: Template) -> Veins:
    """The superior sagittal sinus under the midline of the vault, and the transverse and sigmoid sinuses."""
    angles = np.linspace(np.deg2rad(15), np.deg2rad(196), 40)  # from the forehead over the vertex to the torcula
    rays = np.stack([np.zeros_like(angles), np.cos(angles), np.sin(angles)])
    reach = np.arange(40.0, 120.0, 0.5)
    along = np.array([0, -17.0, 8.0])[:, None, None] + rays[:, :, None] * reach
    outside = template.hull.at(along.reshape(3, -1)).reshape(len(angles), -1) > -2.0
    surface = along[:, np.arange(len(angles)), outside.argmax(1)].T
    veins = [_smooth(surface, (1.5 * rng.uniform(0.8, 1.2), 3.8))]
    torcula = surface[-1]
    for side in (-1, 1):
        size = rng.uniform(0.6, 1.3)
        lateral = np.array([(22, torcula[1] + 6, torcula[2] - 1), *TRANSVERSE_SIGMOID]) * (side, 1, 1)
        veins.append(_smooth(np.vstack([torcula, lateral]), (3.0 * size, 2.6 * size)))
    return join(veins)


def grow_veins(rng: np.random.Generator, template: Template) -> Veins:
    """Grow a complete venous tree in template coordinates, with Poisson numbers of small veins."""
    return join(
        [
            dural_sinuses(rng, template),
            deep_veins(rng),
            cortical_veins(rng, template, int(rng.poisson(800))),
            medullary_veins(rng, template, int(rng.poisson(400))),
            superficial_medullary_veins(rng, template, int(rng.poisson(700))),
        ]
    )


def rasterise(veins: Veins, axes: Axes, field_direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put veins on a grid. Each point becomes a short cylinder of samples, shared linearly among eight voxels.

    Args:
        veins: in the coordinates of `axes`, mm; parts outside the grid are left out.

    Returns:
        Two maps, float32 [z, y, x]: volume share of blood, 0 to 1; and mean squared cosine between the vein and the
        static field, 0 where there is no vein.
    """
    origin, second, last = (np.array([axis[number] for axis in axes])[:, None] for number in (0, 1, -1))
    spacing = second - origin
    shape = tuple(len(axis) for axis in axes)
    near = np.all((veins.points > origin - WIDEST_MM) & (veins.points < last + WIDEST_MM), axis=0)
    veins = Veins(*(values[..., near] for values in vars(veins).values()))
    samples, volumes, source = _fill(veins)
    index = (samples - origin) / spacing
    inside = np.all((index >= 0) & (index < np.array(shape)[:, None] - 1), axis=0)
    index, source = index[:, inside], source[inside]
    weight = volumes[inside] / spacing.prod()
    squared = (veins.directions * field_direction[:, None]).sum(0)[source] ** 2
    share, along = _splat(index, (weight, weight * squared), shape)
    np.divide(along, share, out=along, where=share > 0)
    return np.minimum(share, 1), along


def _fill(veins: Veins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample points [3, m] mm inside the veins, the volume of each in mm^3, and the index of its vein point."""
    section = np.pi * veins.radii_mm**2
    counts = np.maximum(np.ceil(section / SAMPLE_MM2), 1).astype(int)
    source = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Any number of points in a sunflower pattern fills a disc evenly; a single point lies on the axis.
    radius = veins.radii_mm[source] * np.sqrt((rank + 0.5) / counts[source]) * (counts[source] > 1)
    angle = rank * np.pi * (3 - np.sqrt(5)) + source
    axis = veins.directions[:, source]
    helper = np.where(np.abs(axis[0]) < 0.9, [[1.0], [0], [0]], [[0], [1.0], [0]])
    first = unit(np.cross(axis, helper, axis=0))
    second = np.cross(axis, first, axis=0)
    samples = veins.points[:, source] + radius * (np.cos(angle) * first + np.sin(angle) * second)
    return samples, (section * veins.length_mm / counts)[source], source


def _splat(index: np.ndarray, weights: tuple[np.ndarray, ...], shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Add weights to grids, shared linearly among the eight voxels around each index [3, m]."""
    low = np.floor(index).astype(np.int64)
    upper = index - low
    places, parts = [], []
    for corner in np.ndindex(2, 2, 2):
        places.append(np.ravel_multi_index(tuple(low + np.array(corner)[:, None]), shape))
        z, y, x = (part if c else 1 - part for part, c in zip(upper, corner, strict=True))
        parts.append(z * y * x)
    flat = np.concatenate(places)
    share = np.concatenate(parts)
    grids = []
    for weight in weights:
        total = np.bincount(flat, share * np.tile(weight, 8), minlength=int(np.prod(shape)))
        grids.append(total.reshape(shape).astype(np.float32))
    return grids
