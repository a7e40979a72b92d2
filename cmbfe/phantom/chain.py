"""The steps from anatomy to echoes of one slice of one patient, for looking at; the series itself holds the rest."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cmbfe.phantom.body import susceptibility
from cmbfe.phantom.physics import ECHO_TIMES_MS
from cmbfe.phantom.plan import request_of
from cmbfe.phantom.simulate import Drawn, clean_echo, draw_patient


@dataclass(frozen=True)
class Chain:
    """One slice, step by step; maps [rows, columns] of the pixels that the head fills."""

    slice_index: int
    """The slice with most microbleeds."""
    rows: slice
    """Of the series' images, where the maps lie."""
    columns: slice
    anatomy: np.ndarray
    """T1-weighted brightness of the deformed template, 1 mm."""
    susceptibility: np.ndarray
    """ppm, tissue and veins."""
    field: np.ndarray
    """ppm, before the lesions."""
    magnitude: dict[float, np.ndarray]
    """Echo time ms -> magnitude with lesions, without noise."""
    phase: dict[float, np.ndarray]
    """Echo time ms -> phase rad, as received."""


def busiest_slice(drawn: Drawn) -> int:
    """The slice that shows most microbleeds; the middle one where there are none."""
    boxes = Counter(number for finding, _ in drawn.microbleeds for number in finding.boxes)
    return min(boxes, key=lambda number: (-boxes[number], number)) if boxes else drawn.body.scan.slices // 2


def scan_chain(plan: Mapping) -> Chain:
    """Draw the patient of a plan (`patient_plan`) again and keep what the scanner does not: the steps of one slice."""
    rng = np.random.default_rng(plan["seed"])
    drawn = draw_patient(rng, **request_of(plan, rng))
    body, scan = drawn.body, drawn.body.scan
    number = busiest_slice(drawn)
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
