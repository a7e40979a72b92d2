"""Microbleeds and their mimics: what they are made of and where they lie.

References:
    [Greenberg 2009] S. M. Greenberg et al., Lancet Neurol 8:165: microbleeds are 2-10 mm on T2*-weighted MRI, round.
    [Schrag 2010] M. Schrag et al., Acta Neuropathol 119:291: they look larger than in histology.
    [Liu 2012] T. Liu et al., Radiology 262:269: size by echo time, susceptibility by QSM.
    [Chen 2014] W. Chen et al., Radiology 270:496: calcifications against haemorrhages by QSM.
    [Vernooij 2008] M. W. Vernooij et al., Neurology 70:1208: where microbleeds lie in the population.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cmbfe.data.labelled.labels import LOCATIONS
from cmbfe.phantom.anatomy import Body

LOCATION_SHARES = (0.55, 0.28, 0.17)
"""Lobar lesions lead in the population (Vernooij 2008); hospital cohorts with hypertension hold more deep ones."""
Box = tuple[float, float, float, float]
"""Corners x_min, y_min, x_max, y_max in px; pixel (row i, column j) covers [j, j + 1] x [i, i + 1]."""


@dataclass(frozen=True)
class Lesion:
    """A cluster of balls; overlapping balls add their susceptibility, so that the field stays exact."""

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
        """Diameter of the ball with the volume of the cluster, by samples; of a flow void, the vessel's calibre."""
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
    """A dark spot that is known: a microbleed (`kind` "cmb") or one of its mimics."""

    finding_id: str  # unique within the patient; the `lesion_id` of the labels
    kind: str
    """"cmb", or the mimic's kind: "vein", "calcification", "iron", "flow void"."""
    location: str
    """"lobar", "deep" or "infratentorial"."""
    true_diameter_mm: float
    visible_diameter_mm: float
    """Diameter of what is dark in the image; larger than the true one where the signal blooms."""
    boxes: dict[int, Box]  # slice index -> box px around what is dark on that slice


def _cluster(rng: np.random.Generator, radius: float, satellites: int) -> tuple[np.ndarray, np.ndarray]:
    """A main ball at the origin with smaller ones that bulge out of it."""
    direction = rng.standard_normal((satellites, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radii = radius * rng.uniform(0.4, 0.7, satellites)
    offsets = direction * (radius * rng.uniform(0.6, 0.95, (satellites, 1)))
    return np.vstack([np.zeros((1, 3)), offsets]), np.concatenate([[radius], radii])


def draw_microbleed(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Hemosiderin in a ball of 1.2-4.6 mm with up to two bulges.

    Susceptibility 0.6-3 ppm: in-vivo QSM gives 0.3-1.5 ppm as a mean over the bloomed region (Liu 2012), which
    spreads the same moment over a larger volume. R2* of 100-300 1/s leaves no signal at TE 45 ms.
    """
    radius = float(np.clip(rng.lognormal(np.log(1.45), 0.3), 0.6, 2.3))
    offsets, radii = _cluster(rng, radius, int(rng.integers(0, 3)))
    chi = float(np.clip(rng.lognormal(np.log(1.1), 0.35), 0.5, 3.0))
    return Lesion("cmb", location, centre_mm, offsets, radii, chi, rng.uniform(100, 300), 0.9)


def draw_calcification(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Diamagnetic grain of 0.8-3 mm: -1 to -3 ppm against tissue, little water."""
    offsets, radii = _cluster(rng, rng.uniform(0.4, 1.2), int(rng.integers(0, 4)))
    return Lesion(
        "calcification", location, centre_mm, offsets, radii, -rng.uniform(0.8, 2.5), rng.uniform(40, 120), 0.5
    )


def draw_iron(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """Mineralised vessel walls in the basal ganglia: a short irregular row of weak paramagnetic grains."""
    count = int(rng.integers(2, 6))
    step = rng.standard_normal(3)
    step *= rng.uniform(0.6, 1.1) / np.linalg.norm(step)
    offsets = np.arange(count)[:, None] * step + rng.normal(0, 0.25, (count, 3))
    radii = rng.uniform(0.4, 0.9, count)
    return Lesion("iron", location, centre_mm, offsets - offsets.mean(0), radii, rng.uniform(0.25, 0.6), 50.0, 1.0)


def draw_flow_void(rng: np.random.Generator, centre_mm: np.ndarray, location: str) -> Lesion:
    """A stretch of a fast-flowing artery: no signal, no susceptibility, at any angle to the slices."""
    radius = rng.uniform(0.5, 1.2)
    axis, bend = rng.standard_normal((2, 3))
    courses = axis / np.linalg.norm(axis) + 0.06 * bend * np.arange(int(rng.integers(6, 16)))[:, None]
    courses /= np.linalg.norm(courses, axis=1, keepdims=True)
    offsets = 0.8 * radius * np.cumsum(courses, axis=0)  # balls overlap, so that no gaps show
    return Lesion(
        "flow void", location, centre_mm, offsets - offsets.mean(0), np.full(len(offsets), radius), 0.0, 0.0, 0.0
    )


def location_at(position: np.ndarray) -> np.ndarray:
    """Index into LOCATIONS at template points [3, ...] mm of the brain.

    Infratentorial: brainstem and cerebellum. Deep: basal ganglia, thalamus, capsules and the white matter between
    them (the microbleed rating scale of S. M. Gregoire et al., Neurology 73:1759, 2009). Lobar: the rest.
    """
    x, y, z = position
    side = np.abs(x)
    below = (side < 15) & (y > -40) & (y < -6) & (z < -12) | (y < -36) & (z < -24)
    central = (side < 34) & (y > -34) & (y < 24) & (z > -9) & (z < 24)
    return np.where(below, 2, np.where(central, 1, 0))


def regions(body: Body) -> dict[str, np.ndarray]:
    """Masks [z, y, x] on the body's grid, inside the kept slices, of where findings may lie.

    The three LOCATIONS are places of microbleeds, the others places of mimics.
    """
    head = body.head
    x, y, z = head.position
    side = np.abs(x)
    height = body.axes[0][:, None, None]
    last = body.scan.lowest_mm + (body.scan.slices - 1) * body.scan.spacing_mm
    within = (height > body.scan.lowest_mm - 1) & (height < last + 1)
    brain = (head.hull < -3.0) & (body.fluid < 0.2) & within
    location = location_at(head.position)
    fluid = within & (body.fluid > 0.8)
    deep = brain & (location == 1) & (side > 6)
    return {
        # what lies low and far back, but beside the brainstem, may be tentorium
        "lobar": brain & (location == 0) & ((z > -22) | (y > -10) & (side > 20)),
        "deep": deep,
        "infratentorial": brain & (location == 2),
        "basal ganglia": deep & (side > 12) & (side < 30) & (y > -16) & (y < 16) & (z > -8) & (z < 12),
        "choroid plexus": fluid & (side > 12) & (side < 34) & (y > -50) & (y < -22) & (z > -12) & (z < 26),
        "cistern": fluid & (head.hull < 0.5) & ((z < -5) | (side > 28) & (z < 20)),
    }


WHOLE_BRAIN_MM3 = {
    "lobar": 815_000,
    "deep": 77_000,
    "infratentorial": 120_000,
    "basal ganglia": 17_000,
    "choroid plexus": 12_000,
    "cistern": 94_000,
}
"""Volume of each region in a whole head (one head, measured); a slab holds findings in proportion."""
MIMICS: tuple[tuple[str, float, Callable[..., Lesion]], ...] = (
    # region, mean number in a whole head, what
    ("basal ganglia", 0.7, draw_calcification),
    ("choroid plexus", 1.5, draw_calcification),
    ("lobar", 0.6, draw_calcification),
    ("basal ganglia", 2.0, draw_iron),
    ("deep", 1.0, draw_iron),
    ("cistern", 14.0, draw_flow_void),
    ("deep", 3.0, draw_flow_void),
)
APART_MM = 9.0  # least distance between findings, so that each can be measured on its own
TRIES = 60
LOCATION_OF_REGION = {"basal ganglia": "deep", "choroid plexus": "deep", "cistern": "lobar"}


@dataclass(frozen=True)
class Places:
    """Where findings may still be put."""

    body: Body
    inside: dict[str, np.ndarray]  # flat indices on the body's grid of each region's voxels
    taken: list[np.ndarray]  # centres mm of what lies there already; grows

    def within(self, lowest_mm: float, highest_mm: float) -> "Places":
        """The same places between two heights; what is taken in one is taken in the other."""
        height = self.body.axes[0]
        voxels = self.body.fluid[0].size  # of one slice
        kept = (height >= lowest_mm) & (height <= highest_mm)
        return replace(self, inside={name: flat[kept[flat // voxels]] for name, flat in self.inside.items()})

    def share(self, region: str) -> float:
        """Part of a whole head's region that lies in this slab."""
        voxel = np.prod([axis[1] - axis[0] for axis in self.body.axes])
        return float(len(self.inside[region]) * voxel / WHOLE_BRAIN_MM3[region])

    def find(self, rng: np.random.Generator, region: str) -> np.ndarray | None:
        """A point mm in a region, APART_MM from all others; None where there is no room."""
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
        """As `find`, and the place is taken."""
        place = self.find(rng, region)
        if place is not None:
            self.taken.append(place)
        return place


def open_places(body: Body) -> Places:
    """All regions of a body, with nothing in them."""
    return Places(body, {name: np.flatnonzero(mask) for name, mask in regions(body).items()}, [])


def draw_location(rng: np.random.Generator, places: Places) -> str:
    """One of LOCATIONS, by LOCATION_SHARES and by how much of each lies in the slab."""
    weights = np.array([share * places.share(name) for name, share in zip(LOCATIONS, LOCATION_SHARES, strict=True)])
    return str(rng.choice(LOCATIONS, p=weights / weights.sum()))


def draw_mimics(rng: np.random.Generator, places: Places) -> list[Lesion]:
    """Calcifications, iron and flow voids in Poisson numbers; veins are part of the body."""
    mimics = []
    for region, mean, draw in MIMICS:
        for _ in range(rng.poisson(mean * places.share(region))):
            centre = places.take(rng, region)
            if centre is not None:
                mimics.append(draw(rng, centre, LOCATION_OF_REGION.get(region, region)))
    return mimics
