"""Composition, shape and location of simulated microbleeds and their mimics.

References:
    [Greenberg 2009] S. M. Greenberg et al., Lancet Neurol 8:165: microbleeds are round, 2-10 mm on T2*-weighted MRI.
    [Schrag 2010] M. Schrag et al., Acta Neuropathol 119:291: microbleeds look larger on MRI than in histology.
    [Liu 2012] T. Liu et al., Radiology 262:269: size by echo time, susceptibility by QSM.
    [Chen 2014] W. Chen et al., Radiology 270:496: QSM tells calcifications from haemorrhages.
    [Vernooij 2008] M. W. Vernooij et al., Neurology 70:1208: locations of microbleeds in the population.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cmbfe.data.labelled.labels import LOCATIONS
from cmbfe.phantom.anatomy import Body

LOCATION_SHARES = (0.7, 0.15, 0.15)
"""Shares of lobar, deep and infratentorial microbleeds. Slabs cut the cerebellum, so their shares are the 73, 13 and
13 % of five data sets (`cmbfe.patients.published`). Hospital cohorts with hypertension have more deep microbleeds."""
MEDIAN_RADIUS_MM = 0.54
"""Median radius of a microbleed's hemosiderin as a ball. The ball looks 2.5 times as large in images (Schrag 2010)."""
RADIUS_SPREAD = 0.47  # standard deviation of the logarithm
BULGING = 0.55  # share of lesions that are bulging balls; the others are rods or C-shaped
Box = tuple[float, float, float, float]
"""Corners x_min, y_min, x_max, y_max in px; pixel (row i, column j) covers [j, j + 1] x [i, i + 1]."""


@dataclass(frozen=True)
class Lesion:
    """A lesion as a cluster of balls. Overlapping balls add their susceptibility, so that the field stays exact."""

    kind: str
    location: str
    centre_mm: np.ndarray  # scan coordinates (up, back, left)
    offsets_mm: np.ndarray  # [balls, 3] from the centre
    radii_mm: np.ndarray  # [balls]
    chi_ppm: float  # against the surrounding tissue
    r2star_per_s: float  # beyond the surrounding tissue's
    density: float  # signal-giving water inside, relative to the surroundings

    @property
    def true_diameter_mm(self) -> float:
        """Diameter of a ball with the cluster's volume, estimated on a grid; for a flow void, the vessel's diameter."""
        if self.kind == "flow void":
            return float(2 * self.radii_mm[0])
        low = (self.offsets_mm - self.radii_mm[:, None]).min(0)
        extent = (self.offsets_mm + self.radii_mm[:, None]).max(0) - low
        grid = np.moveaxis(np.indices((40, 40, 40)), 0, -1).reshape(-1, 1, 3) + 0.5
        distance = np.linalg.norm(low + grid / 40 * extent - self.offsets_mm, axis=-1)
        volume = float((distance < self.radii_mm).any(1).mean() * extent.prod())
        return float((6 / np.pi * volume) ** (1 / 3))


@dataclass(frozen=True)
class Finding:
    """A dark spot of known origin: a microbleed (`kind` "cmb") or a mimic."""

    finding_id: str  # unique within the patient; the `lesion_id` of the labels
    kind: str
    """"cmb", or the mimic's kind: "vein", "calcification", "iron", "flow void"."""
    location: str
    """"lobar", "deep" or "infratentorial"."""
    true_diameter_mm: float
    visible_diameter_mm: float
    """Diameter of the dark area in the image; larger than the true diameter where the signal blooms."""
    boxes: dict[int, Box]  # slice index -> box px around the dark area on that slice


def _bulging(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres [n, 3] and radii [n] of a ball and up to three smaller balls that bulge out of it."""
    satellites = int(rng.integers(0, 4))
    direction = rng.standard_normal((satellites, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    offsets = direction * rng.uniform(0.6, 1.1, (satellites, 1))
    return np.vstack([np.zeros((1, 3)), offsets]), np.concatenate([[1.0], rng.uniform(0.4, 0.8, satellites)])


def _row(rng: np.random.Generator, count: int, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres [n, 3] and radii [n] of balls in a row that turns by `bend` rad at each ball: a rod or a C shape."""
    first, across = np.linalg.qr(rng.standard_normal((3, 2)))[0].T
    angles = bend * np.arange(count)[:, None]
    offsets = np.cumsum(np.cos(angles) * first + np.sin(angles) * across, axis=0)
    return offsets * rng.uniform(1.0, 2.2), rng.uniform(0.6, 1.2, count)


def draw_shape(rng: np.random.Generator, radius_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw a bulging ball, a rod or a C shape with the volume of a ball of `radius_mm`; overlaps count twice."""
    kind = rng.random()
    if kind < BULGING:
        offsets, radii = _bulging(rng)
    else:
        offsets, radii = _row(rng, int(rng.integers(2, 6)), float(rng.uniform(0.0, 0.9)))
    size = radius_mm / (radii**3).sum() ** (1 / 3)
    return (offsets - np.average(offsets, axis=0, weights=radii**3)) * size, radii * size


def draw_microbleed(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw an irregular deposit of hemosiderin with the volume of a ball 1.1 mm wide (median; 0.5 to 4 mm).

    Its susceptibility is 0.5-3 ppm. In-vivo QSM gives 0.3-1.5 ppm (Liu 2012), because it averages over the bloomed
    region, a larger volume with the same moment. R2* of 100-300 1/s leaves no signal at TE 45 ms.
    """
    radius = float(np.clip(rng.lognormal(np.log(MEDIAN_RADIUS_MM), RADIUS_SPREAD), 0.25, 2.0))
    offsets, radii = draw_shape(rng, radius)
    chi = float(np.clip(rng.lognormal(np.log(1.1), 0.35), 0.5, 3.0))
    return Lesion("cmb", location, centre_mm, offsets, radii, chi, rng.uniform(100, 300), 0.9)


def draw_calcification(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw a diamagnetic grain of 0.6-3 mm with little water, -0.8 to -2.5 ppm against tissue."""
    offsets, radii = draw_shape(rng, float(np.clip(rng.lognormal(np.log(0.6), 0.4), 0.3, 1.5)))
    return Lesion(
        "calcification", location, centre_mm, offsets, radii, -rng.uniform(0.8, 2.5), rng.uniform(40, 120), 0.5
    )


def draw_iron(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw a mineralised vessel wall of the basal ganglia as an irregular cluster of paramagnetic grains."""
    offsets, radii = draw_shape(rng, float(np.clip(rng.lognormal(np.log(0.75), 0.3), 0.4, 1.4)))
    return Lesion("iron", location, centre_mm, offsets, radii, rng.uniform(0.3, 1.2), 50.0, 1.0)


def draw_vein_knot(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw a bead of venous blood (0.35-0.65 ppm against tissue), as found where small veins meet or turn back."""
    offsets, radii = draw_shape(rng, float(np.clip(rng.lognormal(np.log(0.5), 0.35), 0.3, 1.0)))
    return Lesion("vein", location, centre_mm, offsets, radii, rng.uniform(0.35, 0.65), 50.0, 1.0)


def _draw_void(rng: np.random.Generator, centre_mm: np.ndarray, location: str, radius: float, most: int) -> Lesion:
    """Draw a piece of an artery with fast flow, without signal or susceptibility, at any angle to the slices."""
    axis, bend = rng.standard_normal((2, 3))
    courses = axis / np.linalg.norm(axis) + 0.06 * bend * np.arange(int(rng.integers(3, most)))[:, None]
    courses /= np.linalg.norm(courses, axis=1, keepdims=True)
    offsets = 0.8 * radius * np.cumsum(courses, axis=0)  # balls overlap, so that no gaps show
    return Lesion(
        "flow void", location, centre_mm, offsets - offsets.mean(0), np.full(len(offsets), radius), 0.0, 0.0, 0.0
    )


def draw_flow_void(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw an artery of the brain's surface, 1-2.4 mm wide."""
    return _draw_void(rng, centre_mm, location, rng.uniform(0.5, 1.2), 16)


def draw_perforator(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Draw a perforating artery, 0.5-1.2 mm wide."""
    return _draw_void(rng, centre_mm, location, rng.uniform(0.25, 0.6), 12)


def location_at(position: np.ndarray) -> np.ndarray:
    """Location of brain points [3, ...] in template mm, as an index into LOCATIONS.

    Infratentorial: brainstem and cerebellum. Deep: basal ganglia, thalamus, capsules and the white matter between
    them (the microbleed rating scale of S. M. Gregoire et al., Neurology 73:1759, 2009). Lobar: the rest.
    """
    x, y, z = position
    side = np.abs(x)
    below = (side < 15) & (y > -40) & (y < -6) & (z < -12) | (y < -36) & (z < -24)
    central = (side < 34) & (y > -34) & (y < 24) & (z > -9) & (z < 24)
    return np.where(below, 2, np.where(central, 1, 0))


def regions(body: Body) -> dict[str, np.ndarray]:
    """Masks [z, y, x] of the regions where findings may lie, on the body's grid and inside the kept slices.

    Microbleeds lie in the three LOCATIONS. The other regions hold mimics only.
    """
    head = body.head
    x, y, z = head.position
    side = np.abs(x)
    height = body.axes[0][:, None, None]
    last = body.scan.lowest_mm + (body.scan.slices - 1) * body.scan.spacing_mm
    within = (height > body.scan.lowest_mm - 1) & (height < last + 1)
    brain = (head.hull < -1.0) & (body.fluid < 0.4) & within
    location = location_at(head.position)
    fluid = within & (body.fluid > 0.8)
    sulcus = within & (body.fluid > 0.4) & (head.hull < -0.5) & (head.hull > -25) & (location == 0) & (z > -20)
    deep = brain & (location == 1) & (side > 6)
    nuclei = deep & (side > 12) & (side < 32) & (y > -20) & (y < 20) & (z > -9) & (z < 14)
    return {
        # low voxels count only in front and to the side; the others may be tentorium
        "lobar": brain & (location == 0) & ((z > -22) | (y > -10) & (side > 20)),
        "deep": deep,
        "infratentorial": brain & (location == 2),
        "basal ganglia": nuclei,
        "pallidum": nuclei & (head.iron > 4.0),
        "choroid plexus": fluid & (side > 12) & (side < 34) & (y > -50) & (y < -22) & (z > -12) & (z < 26),
        "pineal": within & (side < 4) & (y > -36) & (y < -26) & (z > -6) & (z < 4),
        "falx": within & (side < 2) & (z > 25) & (head.hull < -2) & (body.fluid > 0.4),
        "cistern": fluid & (head.hull < 0.5) & ((z < -5) | (side > 28) & (z < 20)),
        "sulcus": sulcus,
    }


WHOLE_BRAIN_MM3 = {
    "lobar": 900_000,
    "deep": 72_000,
    "infratentorial": 106_000,
    "basal ganglia": 26_000,
    "pallidum": 8_000,
    "choroid plexus": 6_000,
    "pineal": 500,
    "falx": 7_800,
    "cistern": 92_000,
    "sulcus": 89_000,
}
"""Volume of each region in a whole head, measured on two heads. A slab gets findings in proportion to its part."""
MIMICS: tuple[tuple[str, float, Callable[..., Lesion]], ...] = (
    # region, mean number in a whole head, function that draws the mimic
    ("basal ganglia", 0.5, draw_calcification),
    ("choroid plexus", 1.0, draw_calcification),
    ("pineal", 1.0, draw_calcification),
    ("falx", 0.5, draw_calcification),
    ("lobar", 0.2, draw_calcification),
    ("pallidum", 2.0, draw_iron),
    ("deep", 0.5, draw_iron),
    ("cistern", 14.0, draw_flow_void),
    ("sulcus", 8.0, draw_perforator),
    ("deep", 3.0, draw_perforator),
    ("lobar", 1.0, draw_vein_knot),
    ("sulcus", 5.0, draw_vein_knot),
    ("infratentorial", 0.5, draw_vein_knot),
)
APART_MM = 3.0  # least distance between findings; closer findings merge into one dark spot
TRIES = 60
LOCATION_OF_REGION = {
    **dict.fromkeys(("basal ganglia", "pallidum", "choroid plexus", "pineal"), "deep"),
    **dict.fromkeys(("cistern", "falx", "sulcus"), "lobar"),
}


@dataclass(frozen=True)
class Places:
    """Positions that are still free for findings."""

    body: Body
    inside: dict[str, np.ndarray]  # flat indices of each region's voxels on the body's grid
    taken: list[np.ndarray]  # centres mm of the findings placed so far; grows

    def within(self, lowest_mm: float, highest_mm: float) -> "Places":
        """The places between two heights in mm. The result shares this object's list of taken positions."""
        height = self.body.axes[0]
        voxels = self.body.fluid[0].size  # of one slice
        kept = (height >= lowest_mm) & (height <= highest_mm)
        return replace(self, inside={name: flat[kept[flat // voxels]] for name, flat in self.inside.items()})

    def share(self, region: str) -> float:
        """Share of a whole head's region that lies in this slab."""
        voxel = np.prod([axis[1] - axis[0] for axis in self.body.axes])
        return float(len(self.inside[region]) * voxel / WHOLE_BRAIN_MM3[region])

    def find(self, rng: np.random.Generator, region: str) -> np.ndarray | None:
        """Draw a point (mm) in a region, more than APART_MM from all findings; None if there is no room."""
        inside = self.inside[region]
        step = [axis[1] - axis[0] for axis in self.body.axes]
        for _ in range(TRIES if len(inside) else 0):
            index = np.unravel_index(inside[rng.integers(len(inside))], self.body.fluid.shape)
            place = np.array([axis[i] for axis, i in zip(self.body.axes, index, strict=True)])
            place = place + rng.uniform(-0.5, 0.5, 3) * step
            if all(np.linalg.norm(place - other) > APART_MM for other in self.taken):
                return place
        return None

    def take(self, rng: np.random.Generator, region: str) -> np.ndarray | None:
        """Draw a point like `find`, and mark it as taken."""
        place = self.find(rng, region)
        if place is not None:
            self.taken.append(place)
        return place


def open_places(body: Body) -> Places:
    """All free positions of a body, before any finding is placed."""
    return Places(body, {name: np.flatnonzero(mask) for name, mask in regions(body).items()}, [])


def draw_location(rng: np.random.Generator, places: Places) -> str:
    """Draw one of LOCATIONS, weighted by LOCATION_SHARES and by each location's share in the slab."""
    weights = np.array([share * places.share(name) for name, share in zip(LOCATIONS, LOCATION_SHARES, strict=True)])
    return str(rng.choice(LOCATIONS, p=weights / weights.sum()))


def draw_mimics(rng: np.random.Generator, places: Places) -> list[Lesion]:
    """Draw Poisson numbers of calcifications, iron, flow voids and vein knots. Other veins are part of the body."""
    mimics = []
    for region, mean, draw in MIMICS:
        for _ in range(rng.poisson(mean * places.share(region))):
            centre = places.take(rng, region)
            if centre is not None:
                mimics.append(draw(rng, centre, LOCATION_OF_REGION.get(region, region)))
    return mimics
