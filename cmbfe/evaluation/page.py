"""Figures and the one-page HTML of an evaluation; the numbers come from `cmbfe.evaluation.evaluate`."""

import base64
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cmbfe.data.labelled.labels import Detections
from cmbfe.figures import evidence
from cmbfe.figures.style import COLOURS, save, theme
from cmbfe.metrics import curves
from cmbfe.metrics.agreement import bland_altman, counts_per_patient
from cmbfe.metrics.calibration import has_probabilities, reliability
from cmbfe.metrics.matching import Matches

PAGE_FILE = "report.html"
ARM_COLOURS = (COLOURS["SSD-FE"], COLOURS["SSD"])
"""Of the first and of the second detector."""

PER_PATIENT_X_MAX = 50.0
"""Right end of the FROC per patient, false positives per patient."""

MEANING = {
    "ap": ("AP", "area under the precision-sensitivity curve (all points)"),
    "ap_11_point": ("AP, 11-point", "mean precision at sensitivities 0, 0.1, …, 1 (VOC 2007)"),
    "ap_101_point": ("AP, 101-point", "mean precision at sensitivities 0, 0.01, …, 1 (COCO)"),
    "precision_at_90_sensitivity": ("precision at 90 % sensitivity", "at the first threshold that reaches it"),
    "false_positives_per_cmb": ("false positives per CMB", "at the same threshold"),
    "froc_auc": ("FROC area", "mean sensitivity from 0 to 8 false positives per image"),
    "cpm": ("CPM, per image", "mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4, 8 false positives per image"),
    "cpm_per_patient": ("CPM, per patient", "the same per patient"),
}

STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #ddd; }
thead tr { border-bottom: 2px solid #888; } small { color: #666; } img { max-width: 49%; } .note { color: #933; }
"""


@dataclass(frozen=True)
class Detector:
    """One detector's detections of the evaluated images, matched at both levels."""

    name: str
    detections: Detections
    images: Matches
    lesions: Matches | None
    """None where the labels do not say which boxes are of one microbleed."""
    threshold: float
    """Operating point; NaN where there is none."""

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
    images = draw_figures(folder, detectors)
    (folder / PAGE_FILE).write_text(page(detectors, result, groups, images), encoding="utf-8")


def draw_figures(folder: Path, detectors: Sequence[Detector]) -> list[Path]:
    """Draw what the detectors allow: curves always, the lesion level and calibration where there are any."""
    drawings = {"pr": draw_precision_sensitivity, "froc": draw_froc}
    if all(detector.lesions for detector in detectors):
        drawings["froc_lesions"] = draw_lesion_froc
        if all(detector.has_operating_point for detector in detectors):
            drawings["bland_altman"] = draw_bland_altman
    if all(has_probabilities(detector.images) for detector in detectors):
        drawings["reliability"] = draw_reliability
    paths = []
    for name, draw in drawings.items():
        with theme():
            figure, axes = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
            for detector, colour in zip(detectors, ARM_COLOURS, strict=False):
                draw(axes, detector, colour)
            if axes.get_legend_handles_labels()[1]:
                axes.legend(fontsize="small")
        paths.append(folder / f"{name}.png")
        with warnings.catch_warnings():  # a detector's name may hold what the font lacks; the page writes it out
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            save(figure, paths[-1])
        plt.close(figure)
    return paths


def legend_name(name: str) -> str:
    """A detector's name as matplotlib shows it as it stands: `$` begins no formula, a leading `_` hides no entry."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def draw_precision_sensitivity(axes: Axes, detector: Detector, colour: str) -> None:
    """Precision against sensitivity, with the operating point as a dot."""
    curve = curves.precision_sensitivity(detector.images)
    axes.plot(curve["sensitivity"], curve["precision"], color=colour, label=legend_name(detector.name))
    if detector.has_operating_point:
        point = curves.at_threshold(detector.images, detector.threshold)
        axes.plot(point["sensitivity"], point["precision"], "o", color=colour)
    axes.set(xlabel="sensitivity", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))
    axes.set_title("Precision against sensitivity (dot: operating point)", fontsize="medium")


def draw_froc(axes: Axes, detector: Detector, colour: str) -> None:
    """FROC per image, boxes."""
    _plot_froc(axes, curves.froc(detector.images), detector.name, colour, curves.X_MAX)
    axes.set_title("FROC, per image", fontsize="medium")
    axes.set_xlabel("false positives per image")


def draw_lesion_froc(axes: Axes, detector: Detector, colour: str) -> None:
    """FROC per patient, three-dimensional microbleeds."""
    _plot_froc(axes, curves.froc(detector.lesions, "patient"), detector.name, colour, PER_PATIENT_X_MAX)
    axes.set_title("FROC, microbleeds in 3-D, per patient", fontsize="medium")
    axes.set_xlabel("false positives per patient")


def _plot_froc(axes: Axes, curve: pd.DataFrame, name: str, colour: str, x_max: float) -> None:
    # The curve keeps its last sensitivity where the detector has nothing more to say.
    x = np.append(curve["false_positives"], max(x_max, curve["false_positives"].max()))
    y = np.append(curve["sensitivity"], curve["sensitivity"].iloc[-1])
    axes.plot(x, y, color=colour, label=legend_name(name))
    axes.set(ylabel="sensitivity", xlim=(0, x_max), ylim=(0, 1.02))


def draw_reliability(axes: Axes, detector: Detector, colour: str) -> None:
    """Share of microbleeds among the detections of each score."""
    evidence.draw_reliability(axes, reliability(detector.images), legend_name(detector.name), colour)


def draw_bland_altman(axes: Axes, detector: Detector, colour: str) -> None:
    """Difference of the counts per patient against their mean, with bias and limits of agreement."""
    counts = counts_per_patient(detector.lesions, detector.threshold)
    difference = counts["detected"] - counts["truth"]
    axes.plot(
        counts[["detected", "truth"]].mean(axis=1), difference, "o", color=colour, label=legend_name(detector.name)
    )
    agreement = bland_altman(counts["truth"].to_numpy(), counts["detected"].to_numpy())
    for height in (agreement.bias, agreement.lower_limit, agreement.upper_limit):
        axes.axhline(height, color=colour, linestyle="-" if height == agreement.bias else "--", linewidth=1)
    axes.set(xlabel="mean of detected and true count", ylabel="detected - true")
    axes.set_title("Microbleeds per patient (Bland-Altman)", fontsize="medium")


def page(
    detectors: Sequence[Detector],
    result: Mapping[str, Any],
    groups: Sequence[Mapping[str, pd.DataFrame]],
    images: Sequence[Path],
) -> str:
    """The HTML of the whole report, figures inside."""
    settings = result["settings"]
    names = " against ".join(escape(detector.name) for detector in detectors)
    parts = [
        f"<h1>{names}</h1>",
        f"<p>{result['patients']} patients, {result['pictures']} images, {result['cmbs']} microbleed boxes. A "
        f"detection hits at IoU of at least {settings['iou']:g}; a microbleed is hit once, further detections are "
        f"false positives. Intervals: 95 %, {settings['resamples']} bootstrap resamples of patients (percentile, "
        f"widened for few patients), seed {settings['seed']}. Dashes stand for values that do not exist.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in result["notes"]),
        "<h2>Per image</h2>",
        metric_table(result, "pictures"),
    ]
    if "lesions" in result:
        parts += [
            "<h2>Per microbleed in three dimensions</h2>",
            f"<p>{result['lesions']['cmbs']} microbleeds. Boxes on neighbouring slices within "
            f"{settings['link_mm']:g} mm of the best one are one detection.</p>",
            metric_table(result, "lesions"),
        ]
    parts += ["<h2>Curves</h2>", *map(embedded, images), operating_points(detectors, result)]
    for detector, tables in zip(detectors, groups, strict=True):
        for title, table in tables.items():
            parts += [f"<h3>{escape(detector.name)}: {escape(title)}</h3>", _html(table)]
    head = f'<meta charset="utf-8"><title>{names}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>" + "\n".join(parts) + "</body></html>\n"


def metric_table(result: Mapping[str, Any], level: str) -> str:
    """Metrics with their intervals: the first detector, the second, the paired difference."""
    columns = [(result["detector"], result["intervals"][level])]
    if "against" in result:
        columns.append((result["against"]["detector"], result["against"]["intervals"][level]))
        columns.append(("difference", result["difference"][level]))
    rows = [
        [f"{name}<br><small>{meaning}</small>", *(with_interval(values[key]) for _, values in columns)]
        for key, (name, meaning) in MEANING.items()
    ]
    return html_table(["", *(escape(title) for title, _ in columns)], rows)


def with_interval(value: Mapping[str, float]) -> str:
    """A value and its percentile interval as text, dashes for what does not exist."""
    return f"{_number(value['value'])} [{_number(value['low'])}, {_number(value['high'])}]"


def operating_points(detectors: Sequence[Detector], result: Mapping[str, Any]) -> str:
    """What each detector does at its operating point."""
    described = [result, *([result["against"]] if "against" in result else [])]
    rows = []
    for detector, values in zip(detectors, described, strict=True):
        point = values.get("at_threshold", {})
        names = ("sensitivity", "precision", "false_positives_per_cmb", "false_positives_per_picture")
        agreement = values.get("counts_per_patient", {})
        numbers = [values["threshold"], *(point.get(name, np.nan) for name in names)]
        numbers += [agreement.get("icc", {}).get("value", np.nan), values["expected_calibration_error"]]
        rows.append([escape(detector.name), *map(_number, numbers)])
    columns = ["", "threshold", "sensitivity", "precision", "FP per CMB", "FP per image", "ICC of counts", "ECE"]
    how = escape(result["settings"]["operating_point"])
    return f"<h2>Operating point</h2><p>Threshold: {how}.</p>" + html_table(columns, rows)


def embedded(image: Path) -> str:
    """A PNG file as an HTML image that holds its own bytes."""
    data = base64.b64encode(image.read_bytes()).decode("ascii")
    return f'<img alt="{escape(image.stem)}" src="data:image/png;base64,{data}">'


def _html(table: pd.DataFrame) -> str:
    return table.to_html(float_format="{:.3f}".format, na_rep="–", border=0)


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}"
