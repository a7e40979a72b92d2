"""Simulate one patient from a seed: SWAN images, filtered phase and labels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from cmbfe.errors import InputError
from cmbfe.phantom.anatomy import Body, make_body
from cmbfe.phantom.lesions import Finding, Lesion, Places, draw_location, draw_microbleed, draw_mimics, open_places
from cmbfe.phantom.physics import acquire, echo_signal, filtered_phase, receiver_noise
from cmbfe.phantom.plan import Quota, band_of, pick_exactly
from cmbfe.phantom.scan import Scan, draw_scan
from cmbfe.phantom.template import load_template
from cmbfe.phantom.tissue import ECHO_TIMES_MS, WHITE_MATTER, spoiled_amplitude
from cmbfe.phantom.visibility import Footprint, footprint_of, vein_findings, visible_boxes, with_and_without

MEAN_CMBS = 5.0
"""Mean of the Poisson distribution of a patient's visible microbleeds, if no number is given. At least 1 is drawn."""
WHITE_MATTER_UNITS = 1000.0
"""Brightness of white matter in the middle of the head, in the scanner's arbitrary units."""
ECHO_SNR = 17.0
"""Ratio of white matter's signal (mean echo time, middle of the head) to the noise of one echo per channel."""
VOID_BELOW = 0.5
"""Share of white matter's brightness below which the surroundings of a lesion count as a signal void."""
MOST_CANDIDATES = 400


@dataclass(frozen=True)
class SimulatedPatient:
    """One patient's series in scan geometry: slices from feet to head, rows from front to back."""

    magnitude: np.ndarray  # uint16 [slices, rows, columns], arbitrary units as on a scanner
    findings: tuple[Finding, ...]
    pixel_spacing_mm: float
    slice_thickness_mm: float
    phase: np.ndarray  # int16 [slices, rows, columns], filtered phase in mrad
    slice_spacing_mm: float  # distance between slice centres: half the thickness where slices overlap
    orientation: tuple[float, float, float, float, float, float]
    """Directions of rows and columns in the patient (DICOM ImageOrientationPatient): a few degrees off axial."""


def white_matter_signal(echo_time_ms: float) -> float:
    """Signal of white matter at an echo time, where the coil's sensitivity is 1."""
    return float(spoiled_amplitude(WHITE_MATTER) * np.exp(-echo_time_ms * 1e-3 * WHITE_MATTER.r2star_per_s))


Measured = tuple[Finding, Footprint]


def measure(lesion: Lesion, body: Body, number: int) -> Measured:
    """Measure a lesion by simulating its surroundings with and without it. Returns the finding and the footprint."""
    footprint = footprint_of(lesion, body.scan, ECHO_TIMES_MS)
    changed, unchanged, first = with_and_without(body.scene, footprint, body.scan, ECHO_TIMES_MS)
    least = VOID_BELOW * np.mean([white_matter_signal(echo_time) for echo_time in ECHO_TIMES_MS])
    boxes, diameter = visible_boxes(changed, unchanged, first, body.scan.pixel_mm, least)
    name = f"{lesion.kind.replace(' ', '-')}-{number:03d}"
    return Finding(name, lesion.kind, lesion.location, lesion.true_diameter_mm, diameter, boxes), footprint


def _band(rng: np.random.Generator, places: Places, scan: Scan, quota: Quota) -> Places:
    """Places in a band of slices at a random height; it is so thick that the boxes fall on about the quota's images."""
    half = band_of(quota, scan.slices) / 2 * scan.spacing_mm
    lowest, highest = scan.lowest_mm, scan.lowest_mm + (scan.slices - 1) * scan.spacing_mm
    middle = places.find(rng, draw_location(rng, places))
    if middle is None or 2 * half >= highest - lowest:
        return places
    height = float(np.clip(middle[0], lowest + half, highest - half))
    return places.within(height - half, height + half)


def draw_microbleeds(
    rng: np.random.Generator, body: Body, places: Places, count: int, quota: Quota | None
) -> list[Measured]:
    """Draw microbleeds until `count` are visible or, with a quota, until a subset fills the quota exactly.

    Raises:
        InputError: the microbleeds do not fit into the slab.
    """
    if quota is not None:
        places = _band(rng, places, body.scan, quota)
    drawn: list[Measured] = []
    for number in range(1, MOST_CANDIDATES + 1):
        if quota is None and sum(bool(finding.boxes) for finding, _ in drawn) == count:
            return drawn
        location = draw_location(rng, places)
        centre = places.take(rng, location)
        if centre is not None:
            drawn.append(measure(draw_microbleed(rng, centre, location), body, number))
        if quota is not None and sum(len(finding.boxes) for finding, _ in drawn) >= quota.boxes:
            chosen = pick_exactly(rng, [sorted(finding.boxes) for finding, _ in drawn], *quota)
            if chosen is not None:
                return [pair for pair, taken in zip(drawn, chosen, strict=True) if taken or not pair[0].boxes]
    wanted = f"{count} visible microbleeds" if quota is None else f"{quota.boxes} boxes on {quota.images} images"
    raise InputError(f"{wanted} do not fit into {body.scan.slices} slices; ask for fewer, or for more slices")


def clean_echo(body: Body, footprints: Sequence[Footprint], echo: int) -> np.ndarray:
    """Noise-free image of one echo of a body with lesions, complex [slices, rows, columns]."""
    signal = echo_signal(body.scene, ECHO_TIMES_MS[echo])
    for footprint in footprints:
        signal[footprint.window] *= footprint.factors[echo]
    return acquire(signal, body.scan.fine_spacing_mm, body.scan.voxel_mm)[body.scan.kept]


def _scan_echo(
    body: Body, footprints: Sequence[Footprint], echo: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scan an echo. Returns magnitude of whole images, noise-free magnitude of the measured window, and filtered phase.
    Only the first echo gives a phase, because the phase of veins stays within half a turn at this echo."""
    signal = clean_echo(body, footprints, echo)
    image = receiver_noise(rng, body.scan)
    image *= np.float32(white_matter_signal(float(np.mean(ECHO_TIMES_MS))) / ECHO_SNR)
    image[body.scan.measured_window] += signal
    return np.abs(image), np.abs(signal), filtered_phase(image) if echo == 0 else None


def render(
    body: Body, footprints: Sequence[Footprint], rng: np.random.Generator, workers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan a body with lesions, `workers` echoes at a time. More workers need more memory and give the same images.

    Returns:
        SWAN magnitude [slices, rows, columns] in units where white matter is WHITE_MATTER_UNITS; filtered phase in
        rad; noise-free SWAN magnitude of the scan's measured window.
    """
    echoes = range(len(ECHO_TIMES_MS))
    with ThreadPoolExecutor(workers) as pool:
        scanned = pool.map(partial(_scan_echo, body, footprints), echoes, rng.spawn(len(echoes)))
        magnitude, clean, phase = next(scanned)
        for noisy, without_noise, _ in scanned:
            magnitude += noisy
            clean += without_noise
    units = np.float32(WHITE_MATTER_UNITS / sum(white_matter_signal(echo_time) for echo_time in ECHO_TIMES_MS))
    return magnitude * units, phase, clean * units


@dataclass(frozen=True)
class Drawn:
    """A patient with all lesions, before the scan."""

    rng: np.random.Generator  # draws the scan's noise next
    body: Body
    microbleeds: list[Measured]
    mimics: list[Measured]  # without the veins, which are part of the body

    @property
    def footprints(self) -> list[Footprint]:
        return [footprint for _, footprint in self.microbleeds + self.mimics]


def draw_patient(
    seed: int | Sequence[int] | np.random.SeedSequence | np.random.Generator,
    *,
    matrix: int,
    slices: int,
    field_of_view_mm: float = 240.0,
    slice_thickness_mm: float = 2.0,
    cmb_count: int | None = None,
    quota: tuple[int, int] | None = None,
    workers: int = 1,
) -> Drawn:
    """Draw the patient of `simulate_patient` without scanning. Arguments and errors are described there."""
    quota = None if quota is None else Quota(*quota)
    if cmb_count is not None and cmb_count < 0:
        raise InputError(f"{cmb_count} microbleeds: give 0 or more")
    if quota is not None and not 0 <= quota.images <= min(slices, quota.boxes):
        raise InputError(
            f"{quota.boxes} boxes on {quota.images} images do not fit into {slices} slices; "
            "give at most as many images as there are slices, and at least one box for each"
        )
    rng = np.random.default_rng(seed)
    scan = draw_scan(rng, matrix, slices, field_of_view_mm, slice_thickness_mm)
    body = make_body(rng, scan, load_template(), workers)
    places = open_places(body)
    count = max(int(rng.poisson(MEAN_CMBS)), 1) if cmb_count is None else cmb_count
    microbleeds = draw_microbleeds(rng, body, places, count, quota)
    mimics = [measure(lesion, body, number) for number, lesion in enumerate(draw_mimics(rng, places), 1)]
    return Drawn(rng, body, microbleeds, mimics)


def simulate_patient(
    seed: int | Sequence[int] | np.random.SeedSequence | np.random.Generator,
    workers: int = 1,
    **request: object,
) -> SimulatedPatient:
    """Simulate one patient's SWAN series; equal arguments give equal arrays on the same machine.

    Args:
        workers: number of threads; does not change the arrays.
        request: arguments of `draw_patient`. `matrix`: rows and columns, px. `slices`: number of slices, placed by
            `draw_scan`. `field_of_view_mm` (default 240) and `slice_thickness_mm` (default 2). `cmb_count`: visible
            microbleeds; None draws a Poisson number with mean MEAN_CMBS, at least one. `quota`: (images with
            microbleeds, boxes) that the patient must have exactly; replaces `cmb_count`.

    Raises:
        InputError: sizes out of range, or more microbleeds than fit into the slab.
    """
    drawn = draw_patient(seed, workers=workers, **request)
    body, scan = drawn.body, drawn.body.scan
    magnitude, phase, clean = render(body, drawn.footprints, drawn.rng, workers)
    seen = tuple(finding for finding, _ in drawn.microbleeds + drawn.mimics if finding.boxes)
    tilt = np.deg2rad(scan.tilt_degrees)
    return SimulatedPatient(
        magnitude=np.clip(np.round(magnitude), 0, 65535).astype(np.uint16),
        findings=seen + tuple(vein_findings(body, clean, seen, VOID_BELOW * WHITE_MATTER_UNITS)),
        pixel_spacing_mm=scan.pixel_mm,
        slice_thickness_mm=scan.thickness_mm,
        phase=np.round(phase * 1000).astype(np.int16),
        slice_spacing_mm=scan.spacing_mm,
        orientation=(1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt))),
    )
