"""Views of the phantom: the simulation steps of one slice, the visible size of a microbleed by echo time, and the
traits of a cohort's microbleeds beside published values.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cmbfe.data.labelled.labels import Labels
from cmbfe.phantom.anatomy import susceptibility
from cmbfe.phantom.lesions import Lesion
from cmbfe.phantom.physics import Scene
from cmbfe.phantom.plan import request_of
from cmbfe.phantom.scan import Scan
from cmbfe.phantom.simulate import clean_echo, draw_patient
from cmbfe.phantom.tissue import ECHO_TIMES_MS, WHITE_MATTER, spoiled_amplitude
from cmbfe.phantom.visibility import DARKENED, footprint_of, with_and_without

SURROUNDINGS_MM = 4.0  # width of the surroundings of a box
PUBLISHED = {
    "visible_mm": ("visible diameter, mm", "2-10, most below 5", "Greenberg 2009, Lancet Neurol 8:165"),
    "blooming": ("visible over true diameter", "above 1", "Schrag 2010, Acta Neuropathol 119:291"),
    "darkest": ("darkest pixel over surroundings", "hypointense; we ask for < 0.6", "Greenberg 2009"),
}
"""Column of `microbleed_traits` -> name, published value, source."""


@dataclass(frozen=True)
class Chain:
    """The simulation steps of one slice, as maps [rows, columns] of the pixels that the head fills."""

    slice_index: int  # the slice with most microbleeds; without any, the middle slice
    rows: slice  # rows of the series' images that the maps cover
    columns: slice
    anatomy: np.ndarray  # T1-weighted brightness of the deformed template, 1 mm
    susceptibility: np.ndarray  # ppm, tissue and veins
    field: np.ndarray  # ppm, before the lesions
    magnitude: dict[float, np.ndarray]  # echo time ms -> magnitude with lesions, without noise
    phase: dict[float, np.ndarray]  # echo time ms -> phase rad, as received


def scan_chain(plan: Mapping) -> Chain:
    """Draw the patient of a plan (`patient_plan`) again and keep the intermediate steps of one slice."""
    drawn = draw_patient(plan["seed"], **request_of(plan))
    body, scan = drawn.body, drawn.body.scan
    boxes = Counter(number for finding, _ in drawn.microbleeds for number in finding.boxes)
    number = min(boxes, key=lambda number: (-boxes[number], number)) if boxes else scan.slices // 2
    height = scan.kept[0].start + number * scan.kept[0].step
    kept = (height, *scan.kept[1:])
    echoes = {
        time: clean_echo(body, drawn.footprints, echo)[number].copy() for echo, time in enumerate(ECHO_TIMES_MS)
    }
    return Chain(
        slice_index=number,
        rows=scan.measured_window[1],
        columns=scan.measured_window[2],
        anatomy=body.head.t1[height],
        susceptibility=susceptibility(body)[kept],
        field=body.scene.field[kept],
        magnitude={time: np.abs(signal) for time, signal in echoes.items()},
        phase={time: np.angle(signal) for time, signal in echoes.items()},
    )


def block_scan(matrix: int = 64, slices: int = 24) -> Scan:
    """A scan at the origin, perpendicular to the static field, with the paper's pixels and 2 mm slices 1 mm apart."""
    return Scan(matrix, slices, matrix * 0.46875, 2.0, 1.0, -(slices - 1) / 2, 0.0, 0.0)


def uniform_scene(scan: Scan) -> Scene:
    """A scene of white matter only, without veins, in a uniform field and coil."""
    shape = tuple(len(axis) for axis in scan.fine_axes_mm)
    amplitude, r2star, nothing, everywhere = (
        np.full(shape, value, np.float32)
        for value in (spoiled_amplitude(WHITE_MATTER), WHITE_MATTER.r2star_per_s, 0, 1)
    )
    return Scene(amplitude, r2star, nothing, nothing, nothing, nothing, coil=everywhere, blood_chi=0.5)


def ball(diameter_mm: float, chi_ppm: float, kind: str = "cmb", r2star_per_s: float = 150.0) -> Lesion:
    """A lesion that is a single ball at the origin."""
    return Lesion(
        kind, "lobar", np.zeros(3), np.zeros((1, 3)), np.array([diameter_mm / 2]), chi_ppm, r2star_per_s, 0.8
    )


def darkening(lesion: Lesion, echo_times_ms: Sequence[float]) -> np.ndarray:
    """Share of signal that a lesion in uniform white matter removes, [slices, rows, columns] around it."""
    scan = block_scan()
    footprint = footprint_of(lesion, scan, echo_times_ms)
    changed, unchanged, _ = with_and_without(uniform_scene(scan), footprint, scan, echo_times_ms)
    return 1 - changed / unchanged


def visible_size(lesion: Lesion, echo_times_ms: Sequence[float]) -> tuple[float, float]:
    """A lesion's largest visible diameter on a slice (mm) and darkened volume (mm^3), in the mean of the echoes."""
    lost = darkening(lesion, echo_times_ms) > DARKENED
    scan = block_scan()
    diameter = 2 * np.sqrt(lost.sum((1, 2)).max() / np.pi) * scan.pixel_mm
    return float(diameter), float(lost.sum() * scan.pixel_mm**2 * scan.spacing_mm)


def blooming_table(
    diameters_mm: Sequence[float] = (1.5, 2.0, 3.0, 4.0),
    echo_times_ms: Sequence[float] = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    chi_ppm: float = 1.1,
) -> pd.DataFrame:
    """Visible diameter and volume of balls by echo time; columns true_mm, echo_time_ms, visible_mm, volume_mm3."""
    rows = [
        (diameter, echo_time, *visible_size(ball(diameter, chi_ppm), (echo_time,)))
        for diameter in diameters_mm
        for echo_time in echo_times_ms
    ]
    return pd.DataFrame(rows, columns=["true_mm", "echo_time_ms", "visible_mm", "volume_mm3"])


def darkest_share(image: np.ndarray, bbox: list[float], pixel_mm: float) -> float:
    """Brightness of the darkest pixel in a box [x, y, w, h] px, divided by the median of the box's surroundings."""
    x, y, width, height = (round(value) for value in bbox)
    reach = round(SURROUNDINGS_MM / pixel_mm)
    top, left = max(y - reach, 0), max(x - reach, 0)
    around = image[top : y + height + reach, left : x + width + reach].astype(np.float32)
    inside = (slice(y - top, y - top + height), slice(x - left, x - left + width))
    darkest = float(around[inside].min())
    around[inside] = np.nan
    return darkest / float(np.nanmedian(around))


def microbleed_traits(labels: Labels) -> pd.DataFrame:
    """Table with a row per microbleed of the phantom: true and visible diameter in mm, their ratio, and brightness of
    the darkest pixel relative to the surroundings, measured on the simulated scan."""
    known = {"true_diameter_mm": "true_mm", "visible_diameter_mm": "visible_mm", "contrast": "contrast"}
    boxes = pd.DataFrame(labels["annotations"]).rename(columns=known)
    table = boxes.groupby("lesion_id")[list(known.values())].first()
    return table.assign(darkest=1 - table.pop("contrast"), blooming=table["visible_mm"] / table["true_mm"])


def against_published(traits: pd.DataFrame) -> pd.DataFrame:
    """Table with a row per trait: the phantom's median and 5-95 % range, the published value and its source."""
    rows = {}
    for column, (name, published, source) in PUBLISHED.items():
        low, median, high = traits[column].quantile([0.05, 0.5, 0.95])
        rows[name] = {
            "ours, median": round(median, 2),
            "ours, 5-95 %": f"{low:.2f} to {high:.2f}",
            "published": published,
            "source": source,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trait")
