"""The ICBM-152 template and the maps derived from it: hull, ventricles, nuclei, air at the skull base.

Template coordinates are ICBM-152 millimetres (x right, y front, z up). The maps by V. Fonov et al.,
NeuroImage 54:313 (2011), are bundled with nilearn, so that no network is needed.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.special import expit

from cmbfe.phantom.scan import Window
from cmbfe.phantom.tissue import iron

COARSE_MM = 2.0
PADDING = 20  # coarse voxels added around the template, which ends at the brain


@dataclass(frozen=True)
class Volume:
    """Values on an isotropic grid in template coordinates."""

    values: np.ndarray
    origin_mm: np.ndarray
    spacing_mm: float

    def at(self, points: np.ndarray) -> np.ndarray:
        """Interpolate linearly at points [3, ...] in template mm; outside the grid, take the nearest value."""
        origin = self.origin_mm.reshape(3, *(1,) * (points.ndim - 1)).astype(np.float32)
        index = (points - origin) * np.float32(1 / self.spacing_mm)
        return ndimage.map_coordinates(self.values, index, order=1, mode="nearest", output=np.float32)

    def gradient_at(self, points: np.ndarray, reach_mm: float) -> np.ndarray:
        """Gradient per mm at points [3, n], by central differences over +-`reach_mm`."""
        steps = reach_mm * np.eye(3, dtype=np.float32)[:, :, None]
        return np.stack([self.at(points + step) - self.at(points - step) for step in steps]) / (2 * reach_mm)

    @property
    def axes_mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(
            o + self.spacing_mm * np.arange(n) for o, n in zip(self.origin_mm, self.values.shape, strict=True)
        )


@dataclass(frozen=True)
class Template:
    """The template from which every patient is made."""

    t1: Volume
    """T1-weighted brightness, at most 1; about 0.27 in CSF, 0.65 in grey, 0.87 in white matter."""
    white: Volume  # share of white matter in the brain's tissue, 0 to 1
    hull: Volume  # distance from the brain's smooth hull, mm, negative inside
    ventricle: Volume  # distance from the lateral ventricles, mm, negative inside
    nuclei: list[tuple[str, Window, np.ndarray]]  # iron-rich nuclei: name, box in t1, membership 0 to 1 in the box
    cavity: Volume  # 1 in the air of sinuses and mastoid cells
    eye: Volume
    face: Volume  # distance from the surface of face and neck, mm, negative inside
    fluid: Volume  # smoothed share of cerebrospinal fluid, which cortical veins follow
    depth: np.ndarray  # `hull` on the 1 mm grid of t1
    from_ventricle: np.ndarray  # `ventricle` on the 1 mm grid of t1


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Load nilearn's bundled maps and derive the other maps; takes a few seconds, once per process."""
    from nilearn import datasets  # slow to import, and only simulations need it

    images = (
        datasets.load_mni152_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
    )
    brightness, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    origin = images[0].affine[:3, 3]
    t1 = Volume(brightness, origin, 1.0)
    coarse = Volume(ndimage.zoom(brightness, 0.5, order=1, grid_mode=True, mode="nearest"), origin + 0.5, COARSE_MM)
    hull = Volume(_hull_distance(coarse.values > 0.05), coarse.origin_mm - PADDING * COARSE_MM, COARSE_MM)
    ventricle = ndimage.gaussian_filter(_signed_distance(_lateral_ventricles(coarse)), 1.0).astype(np.float32)
    ventricle = Volume(ventricle, coarse.origin_mm, COARSE_MM)
    x, y, z = np.meshgrid(*hull.axes_mm, indexing="ij", sparse=True)
    cavity = np.max([ellipsoid(x, y, z, *shape) for shape in CAVITIES], axis=0)
    points = np.stack(np.meshgrid(*t1.axes_mm, indexing="ij")).astype(np.float32)
    return Template(
        t1=t1,
        white=Volume(white / np.maximum(white + grey, 0.05), origin, 1.0),
        hull=hull,
        ventricle=ventricle,
        nuclei=_nuclei(t1),
        cavity=replace(hull, values=cavity.astype(np.float32)),
        eye=replace(hull, values=ellipsoid(x, y, z, *EYE).astype(np.float32)),
        face=replace(hull, values=_face_distance(x, y, z).astype(np.float32)),
        fluid=_fluid(t1, brightness),
        depth=hull.at(points),
        from_ventricle=ventricle.at(points),
    )


CORTEX_MM = 2.6  # thickness; 1-4.5 mm, 2.5 mm on average: B. Fischl, A. M. Dale, PNAS 97:11050 (2000)
GYRUS_MM = 11.0  # about the distance from one sulcus to the next
DEEPEST_MM = 26.0  # depth under the hull down to which each head gets new folds
FLUID, GREY, WHITE = 0.27, 0.65, 0.87  # brightness in the template


def folded(rng: np.random.Generator, template: Template) -> Template:
    """Replace the average brain's sulci and gyri by a random pattern.

    Sulci are sheets perpendicular to the hull, at the zeros of a smooth random function of the hull's nearest point.
    Their depth also varies smoothly and at random. Fluid of the template (fissures and cisterns), brainstem, cerebellum
    and everything deeper than DEEPEST_MM stay unchanged.
    """
    t1, depth = template.t1, -template.depth
    axes = t1.axes_mm
    low = np.broadcast_to(axes[2] < -20 - 0.3 * np.clip(-axes[1], 0, 60)[:, None], depth.shape)
    zone = (depth < DEEPEST_MM) & (depth > -3) & (t1.values > 0) & ~low & (template.from_ventricle > 4)
    place = np.stack([axis[index] for axis, index in zip(axes, np.nonzero(zone), strict=True)]).astype(np.float32)
    outward = template.hull.gradient_at(place, 2.0)
    at_hull = place + 0.7 * depth[zone] * outward / np.maximum(np.linalg.norm(outward, axis=0), 0.1)
    fold = np.zeros_like(depth)
    fold[zone] = _smooth_noise(rng, GYRUS_MM / 2.5).at(at_hull)
    steep = np.sqrt(sum(part[zone] ** 2 for part in np.gradient(fold)))
    sheet_mm = np.abs(fold[zone]) / np.maximum(steep, 1e-6)
    floor_mm = 14.0 + 4.0 * _smooth_noise(rng, GYRUS_MM).at(at_hull)
    from_sulcus = np.hypot(sheet_mm, np.maximum(depth[zone] - floor_mm, 0))
    fluid = np.clip((1.1 - from_sulcus) / 0.9, 0, 1)
    white = np.clip(np.minimum(from_sulcus, depth[zone]) - CORTEX_MM, 0, 1)
    brightness = fluid * FLUID + (1 - fluid) * (GREY + white * (WHITE - GREY))
    weight = np.clip((DEEPEST_MM - depth[zone]) / 5, 0, 1)
    plain = np.clip((0.5 - t1.values[zone]) / 0.1, 0, 1)  # fluid in the average brain
    bright, share = t1.values.copy(), template.white.values.copy()
    weight *= 1 - plain
    bright[zone] += weight * (brightness - bright[zone])
    share[zone] += weight * (white - share[zone])
    return replace(
        template, t1=replace(t1, values=bright), white=replace(template.white, values=share), fluid=_fluid(t1, bright)
    )


def _smooth_noise(rng: np.random.Generator, scale_mm: float) -> Volume:
    """Gaussian noise of unit variance, smooth over `scale_mm`, over the whole template."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal((110, 130, 110), np.float32), scale_mm / COARSE_MM, mode="wrap"
    )
    return Volume(noise / noise.std(), np.array([-110.0, -145.0, -90.0]), COARSE_MM)


def _fluid(t1: Volume, brightness: np.ndarray) -> Volume:
    return replace(t1, values=ndimage.gaussian_filter(np.clip((0.62 - brightness) / 0.25, 0, 1), 0.8))


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    return COARSE_MM * (ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask))


def _hull_distance(brain: np.ndarray) -> np.ndarray:
    """Signed distance in mm from the brain after a closing by 14 mm, which fills the fissures."""
    padded = np.pad(brain, PADDING)
    dilated = ndimage.distance_transform_edt(~padded) * COARSE_MM < 14
    closed = ndimage.distance_transform_edt(dilated) * COARSE_MM > 14
    return ndimage.gaussian_filter(_signed_distance(closed | padded), 2.0).astype(np.float32)


def _lateral_ventricles(t1: Volume) -> np.ndarray:
    """Mask of the dark voxels connected to the two frontal horns, inside a box around the ventricles."""
    x, y, z = np.meshgrid(*t1.axes_mm, indexing="ij", sparse=True)
    region = (np.abs(x) < 36) & (y > -52) & (y < 36) & (z > -14) & (z < 34)
    labels, _ = ndimage.label((t1.values < 0.5) & region & (t1.values > 0))
    seeds = [
        tuple(np.round((np.array(place) - t1.origin_mm) / t1.spacing_mm).astype(int))
        for place in ((-8, 10, 16), (8, 10, 16))
    ]
    return np.isin(labels, [labels[seed] for seed in seeds if labels[seed]])


Triple = tuple[float, float, float]


def ellipsoid(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: Triple, axes: Triple, rotation: float = 0.0
) -> np.ndarray:
    """Soft membership (0 to 1) in an ellipsoid and its mirror image across x = 0, with edges about 1 mm wide.

    Args:
        centre: mm, on the side x > 0.
        axes: semi-axes, mm.
        rotation: degrees about z; positive turns the front end towards the midline.
    """
    turn = np.deg2rad(rotation)
    side, front, up = np.abs(x) - centre[0], y - centre[1], z - centre[2]
    along, across = np.cos(turn) * front - np.sin(turn) * side, np.cos(turn) * side + np.sin(turn) * front
    radius = np.sqrt((across / axes[0]) ** 2 + (along / axes[1]) ** 2 + (up / axes[2]) ** 2)
    return expit((1 - radius) * min(axes) / 0.5)


NUCLEI = (
    # name, centre, semi-axes mm, rotation in degrees, T1 brightness above which a voxel is white matter
    ("putamen", (26.5, 1.0, 1.0), (4.8, 16.0, 10.5), 12.0, 0.795),
    ("pallidum", (19.0, -4.0, -1.0), (4.2, 9.5, 6.0), 26.0, 1.0),
    ("caudate", (12.5, 14.0, 6.0), (5.5, 10.0, 10.0), 8.0, 0.79),
    ("caudate", (16.0, -3.0, 20.0), (4.0, 14.0, 4.5), 12.0, 0.79),
    ("thalamus", (12.0, -19.0, 7.0), (9.0, 14.0, 8.5), 20.0, 1.0),
    ("subthalamic", (11.0, -13.5, -7.0), (5.0, 3.0, 2.2), 30.0, 1.0),
    ("red nucleus", (5.0, -20.5, -9.0), (3.4, 3.6, 4.2), 0.0, 1.0),
    ("substantia nigra", (9.5, -17.5, -13.0), (6.8, 2.6, 4.0), -38.0, 1.0),
    ("dentate", (14.5, -58.0, -35.0), (6.5, 9.5, 5.5), 25.0, 1.0),
)
"""Positions and sizes were set by eye on the template and checked against its T1 contrast, without an atlas."""


def _nuclei(t1: Volume) -> list[tuple[str, Window, np.ndarray]]:
    """Membership of each nucleus: an ellipsoid, trimmed where the template shows white matter or fluid."""
    nuclei = []
    for name, centre, axes, rotation, white_above in NUCLEI:
        reach = max(axes) + 4
        low, high = np.array(centre) * (-1, 1, 1) - reach, np.array(centre) + reach
        first, last = (np.round(corner - t1.origin_mm).astype(int) for corner in (low, high))
        window = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        x, y, z = np.meshgrid(
            *(axis[w] for axis, w in zip(t1.axes_mm, window, strict=True)), indexing="ij", sparse=True
        )
        member = ellipsoid(x, y, z, centre, axes, rotation)
        if name == "dentate":  # a folded sheet, not a ball
            core = ellipsoid(x, y, z, (centre[0] - 1.5, *centre[1:]), tuple(0.6 * a for a in axes), rotation)
            member = member * (1 - core)
        brightness = t1.values[window]
        member = member * expit((white_above - brightness) / 0.012) * expit((brightness - 0.5) / 0.03)
        nuclei.append((name, window, member.astype(np.float32)))
    return nuclei


def iron_volume(template: Template, age_years: float) -> Volume:
    """Iron at an age, in mg per 100 g above the 3 mg of ordinary grey matter."""
    total = np.zeros_like(template.t1.values)
    for name, window, member in template.nuclei:
        total[window] = np.maximum(total[window], np.float32(iron(name, age_years) - 3.0) * member)
    return replace(template.t1, values=total)


CAVITIES = (
    # air at the skull base: centre, semi-axes mm
    ((6.0, 14.0, -45.0), (9.0, 11.0, 9.0)),  # sphenoid sinus
    ((6.0, 45.0, -42.0), (7.0, 20.0, 13.0)),  # ethmoid cells
    ((10.0, 82.0, -14.0), (13.0, 5.0, 12.0)),  # frontal sinus
    ((58.0, -36.0, -48.0), (9.0, 12.0, 13.0)),  # mastoid cells
    ((30.0, 45.0, -75.0), (14.0, 16.0, 15.0)),  # maxillary sinus
)
EYE = ((34.0, 62.0, -43.0), (13.0, 13.0, 13.0))


def _face_distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Approximate distance in mm from the surface of the face (ellipsoid) and the neck (cylinder)."""
    face = (np.sqrt((x / 68) ** 2 + ((y - 22) / 74) ** 2 + ((z + 62) / 78) ** 2) - 1) * 70
    neck = np.maximum(np.sqrt((x / 62) ** 2 + ((y + 25) / 68) ** 2) * 62 - 62, z + 40)
    return np.minimum(face, neck)
