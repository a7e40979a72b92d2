"""Figures and the one-page HTML of an evaluation; the numbers come from `cmbfe.evaluation.evaluate`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cmbfe.data.labelled.labels import Detections
from cmbfe.figures import evidence
from cmbfe.figures.html import templates
from cmbfe.figures.style import COLOURS, new_figure, save
from cmbfe.metrics import curves
from cmbfe.metrics.agreement import bland_altman, counts_per_patient
from cmbfe.metrics.calibration import has_probabilities, reliability
from cmbfe.metrics.matching import Matches

PAGE_FILE = "report.html"
ARM_COLOURS = (COLOURS["SSD-FE"], COLOURS["SSD"])
"""Colours of the first and of the second detector."""
PER_PATIENT_X_MAX = 50.0
"""Right end of the x axis of the FROC per patient, in false positives per patient."""
SENSITIVITY = 0.9
"""Sensitivity at which the paper gives precision and false positives (Tables 3 and 4)."""


class Metric(NamedTuple):
    """A metric that is reported with a 95 % CI."""

    of: Callable[..., Any]
    title: str
    meaning: str


_AP = curves.average_precision
_PRECISION = partial(curves.precision_at_sensitivity, sensitivity=SENSITIVITY)
_PER_CMB = partial(curves.false_positives_per_cmb, sensitivity=SENSITIVITY)
_MEAN = "mean precision at sensitivities"
_FPS = "1/8, 1/4, 1/2, 1, 2, 4, 8 false positives per image"
METRICS = {
    "ap": Metric(_AP, "AP", "area under the precision-sensitivity curve (all points)"),
    "ap_11_point": Metric(partial(_AP, points=11), "AP, 11-point", f"{_MEAN} 0, 0.1, …, 1 (VOC 2007)"),
    "ap_101_point": Metric(partial(_AP, points=101), "AP, 101-point", f"{_MEAN} 0, 0.01, …, 1 (COCO)"),
    "precision_at_90_sensitivity": Metric(
        _PRECISION, "precision at 90 % sensitivity", "at the first threshold that reaches it"
    ),
    "false_positives_per_cmb": Metric(_PER_CMB, "false positives per CMB", "at the same threshold"),
    "froc_auc": Metric(curves.froc_auc, "FROC area", "mean sensitivity from 0 to 8 false positives per image"),
    "cpm": Metric(curves.cpm, "CPM, per image", f"mean sensitivity at {_FPS}"),
    "cpm_per_patient": Metric(partial(curves.cpm, per="patient"), "CPM, per patient", "the same per patient"),
}
"""Name in `curves.summary` -> metric."""


@dataclass(frozen=True)
class Detector:
    """A detector's boxes on the evaluated images, matched per image and per lesion."""

    name: str
    detections: Detections
    images: Matches
    lesions: Matches | None
    """Matches per lesion, or None if the labels do not say which boxes belong to the same microbleed."""
    threshold: float
    """Score of the operating point; NaN without an operating point."""

    @property
    def has_operating_point(self) -> bool:
        return not np.isnan(self.threshold)


def write_page(
    folder: Path,
    detectors: Sequence[Detector],
    result: Mapping[str, Any],
    groups: Sequence[Mapping[str, pd.DataFrame]],
) -> None:
    """Write the figures as PNG and SVG, and report.html, which holds everything in one file."""
    figures = _draw_figures(folder, detectors)
    columns = [{"name": result["detector"], "levels": result["intervals"]}]
    if "against" in result:
        columns.append({"name": result["against"]["detector"], "levels": result["against"]["intervals"]})
        columns.append({"name": "difference", "levels": result["difference"]})
    environment = templates("cmbfe.evaluation")
    environment.filters["number"] = _number
    page = environment.get_template("report.html.jinja").render(
        title=" against ".join(detector.name for detector in detectors),
        result=result,
        columns=columns,
        metrics=METRICS,
        figures=[(figure.stem, figure.read_bytes()) for figure in figures],
        operating_points=_operating_points(result),
        groups=[(detector.name, tables) for detector, tables in zip(detectors, groups, strict=True)],
    )
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def _draw_figures(folder: Path, detectors: Sequence[Detector]) -> list[Path]:
    """Draw the curves and, if all detectors have the data, the figures per lesion and of calibration."""
    drawings = {"pr": _draw_precision_sensitivity, "froc": _draw_froc}
    if all(detector.lesions for detector in detectors):
        drawings["froc_lesions"] = _draw_lesion_froc
        if all(detector.has_operating_point for detector in detectors):
            drawings["bland_altman"] = _draw_bland_altman
    if all(has_probabilities(detector.images) for detector in detectors):
        drawings["reliability"] = _draw_reliability
    paths = []
    for name, draw in drawings.items():
        with new_figure(figsize=(5.6, 4.4)) as (figure, axes):
            for detector, colour in zip(detectors, ARM_COLOURS, strict=False):
                draw(axes, detector, colour)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(fontsize="small")
        paths.append(folder / f"{name}.png")
        with warnings.catch_warnings():  # the font may lack characters of a name; the page also writes the name
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            save(figure, paths[-1])
    return paths


def _legend_name(name: str) -> str:
    """A detector's name, escaped for matplotlib, where `$` starts a formula and a leading `_` hides a legend entry."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _draw_precision_sensitivity(axes: Axes, detector: Detector, colour: str) -> None:
    curve = curves.precision_sensitivity(detector.images)
    evidence.draw_precision_sensitivity(axes, curve, _legend_name(detector.name), colour)
    if detector.has_operating_point:
        point = curves.at_threshold(detector.images, detector.threshold)
        axes.plot(point["sensitivity"], point["precision"], "o", color=colour)
    axes.set_title("Precision against sensitivity (dot: operating point)", fontsize="medium")


def _draw_froc(axes: Axes, detector: Detector, colour: str) -> None:
    evidence.draw_froc(axes, curves.froc(detector.images), _legend_name(detector.name), colour, curves.X_MAX)
    axes.set_title("FROC, per image", fontsize="medium")


def _draw_lesion_froc(axes: Axes, detector: Detector, colour: str) -> None:
    curve = curves.froc(detector.lesions, "patient")
    evidence.draw_froc(axes, curve, _legend_name(detector.name), colour, PER_PATIENT_X_MAX, "patient")
    axes.set_title("FROC, microbleeds in 3-D, per patient", fontsize="medium")


def _draw_reliability(axes: Axes, detector: Detector, colour: str) -> None:
    evidence.draw_reliability(axes, reliability(detector.images), _legend_name(detector.name), colour)


def _draw_bland_altman(axes: Axes, detector: Detector, colour: str) -> None:
    """Draw each patient's difference of the two counts against their mean, with the bias and limits of agreement."""
    counts = counts_per_patient(detector.lesions, detector.threshold)
    mean, difference = counts[["detected", "truth"]].mean(axis=1), counts["detected"] - counts["truth"]
    axes.plot(mean, difference, "o", color=colour, label=_legend_name(detector.name))
    agreement = bland_altman(counts["truth"].to_numpy(), counts["detected"].to_numpy())
    for height in (agreement.bias, agreement.lower_limit, agreement.upper_limit):
        axes.axhline(height, color=colour, linestyle="-" if height == agreement.bias else "--", linewidth=1)
    axes.set(xlabel="mean of detected and true count", ylabel="detected - true")
    axes.set_title("Microbleeds per patient (Bland-Altman)", fontsize="medium")


def _operating_points(result: Mapping[str, Any]) -> list[list[str]]:
    """A row per detector with its values at its operating point."""
    rows = []
    for values in (result, *([result["against"]] if "against" in result else [])):
        point = values.get("at_threshold", {})
        names = ("sensitivity", "precision", "false_positives_per_cmb", "false_positives_per_picture")
        agreement = values.get("counts_per_patient", {}).get("icc", {}).get("value", np.nan)
        numbers = [values["threshold"], *(point.get(name, np.nan) for name in names)]
        numbers += [agreement, values["expected_calibration_error"]]
        rows.append([values["detector"], *map(_number, numbers)])
    return rows


def _number(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}"
