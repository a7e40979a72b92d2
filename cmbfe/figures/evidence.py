"""Figures of the evidence: curves, gains, reliability, folds, and cut-outs around single cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cmbfe.figures.style import COLOURS, arm, colour, cut_out, new_figure, show_image

PRINTED = {"color": "0.3", "markerfacecolor": "none", "markersize": 9}
"""How a value of the paper is drawn: hollow."""
CASE_COLUMNS, CASE_INCHES = (5, 8), 1.55  # fewest and most cut-outs in a row, and their side
Box = Mapping[str, Any]  # with `image_id` and `bbox` [x, y, w, h] px, as COCO has annotations and results


def precision_sensitivity_figure(
    curves: Mapping[str, pd.DataFrame],
    marks: Mapping[str, tuple[float, float]],
    sensitivity: float,
    bands: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """Precision against sensitivity (paper Figure 4).

    Args:
        curves: variant -> columns `sensitivity` and `precision`.
        marks: variant -> the point (sensitivity, precision) that the paper prints.
        sensitivity: where the paper reads the precision.
        bands: variant -> what `cmbfe.metrics.intervals.precision_band` gives.
    """
    with new_figure(figsize=(6.4, 4.8)) as (figure, axes):
        for variant, curve in curves.items():
            draw_precision_sensitivity(axes, curve, f"{variant}, ours", COLOURS[arm(variant)])
        _draw_bands(axes, bands or {})
        for variant, point in marks.items():
            look = PRINTED | {"color": COLOURS[arm(variant)], "label": f"{variant}, paper (other patients)"}
            axes.plot(*point, "o", **look)
        axes.axvline(sensitivity, color="0.4", linestyle=":", linewidth=1)
        axes.set_title("Precision against sensitivity on the test images")
        axes.legend(loc="lower left")
    return figure


def draw_precision_sensitivity(axes: Axes, curve: pd.DataFrame, label: str, colour: str) -> None:
    """Draw one detector's precision (column `precision`) against its sensitivity (`sensitivity`)."""
    axes.plot(curve["sensitivity"], curve["precision"], color=colour, label=label)
    axes.set(xlabel="sensitivity", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02))


def froc_figure(
    curves: Mapping[str, pd.DataFrame],
    x_max: float,
    areas: Mapping[str, float],
    bands: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """FROC: sensitivity against false positives per image (paper Figure 5).

    Args:
        curves: variant or baseline -> columns `false_positives` and `sensitivity`.
        areas: variant -> normalised area up to `x_max`, for the legend (A15).
        bands: variant -> what `cmbfe.metrics.intervals.froc_band` gives.
    """
    with new_figure(figsize=(6.4, 4.8)) as (figure, axes):
        for variant, curve in curves.items():
            draw_froc(axes, curve, f"{variant}, area to {x_max:g}: {areas[variant]:.3f}", colour(variant), x_max)
        _draw_bands(axes, bands or {})
        axes.set_title("Free-response ROC on the test images (ours)")
        axes.legend(loc="lower right")
    return figure


def draw_froc(axes: Axes, curve: pd.DataFrame, label: str, colour: str, x_max: float, per: str = "image") -> None:
    """Draw column `sensitivity` against `false_positives` per image or patient; the last one is kept to the edge."""
    x = [*curve["false_positives"], max(x_max, curve["false_positives"].max())]
    y = [*curve["sensitivity"], curve["sensitivity"].max()]
    axes.plot(x, y, color=colour, label=label)
    axes.set(xlabel=f"false positives per {per}", ylabel="sensitivity", xlim=(0, x_max), ylim=(0, 1.02))


def _draw_bands(axes: Axes, bands: Mapping[str, pd.DataFrame]) -> None:
    """Shade the interval around each curve; where there is none (NaN) the band has a gap."""
    for number, (variant, band) in enumerate(bands.items()):
        name = "_" if number else "bands: 95 % interval at each point"  # one entry in the legend for all
        look = {"color": colour(variant), "alpha": 0.15, "linewidth": 0}
        axes.fill_between(band.index, band["low"], band["high"], label=name, **look)


def reliability_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of microbleeds among the detections of each score; on the diagonal scores are probabilities.

    `curves`: variant -> what `cmbfe.metrics.calibration.reliability` gives.
    """
    with new_figure(figsize=(4.6, 4.2)) as (figure, axes):
        for variant, table in curves.items():
            draw_reliability(axes, table, variant, COLOURS[arm(variant)])
        figure.legend(loc="outside lower center", ncols=len(curves), frameon=False, fontsize=9)
    return figure


def draw_reliability(axes: Axes, table: pd.DataFrame, name: str, colour: str) -> None:
    """Draw one detector's `table` of `reliability_figure`, larger dots for more detections, and the diagonal."""
    known = table.dropna()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes.plot(known["mean_score"], known["precision"], color=colour, linewidth=1, label=name)
    # A bin with a single detection is at 0 or 1: its dot is small.
    axes.scatter(known["mean_score"], known["precision"], 10 + 25 * np.log10(known["detections"]), color=colour)
    axes.set(xlabel="score", ylabel="share of microbleeds", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability of the scores", fontsize="medium")


def cases_figure(
    groups: Mapping[str, Sequence[Box]],
    images: Mapping[Any, np.ndarray],
    drawn: Mapping[str, tuple[str, Sequence[Box]]],
    pixel_mm: float,
    side_mm: float = 30,
    rows: int = 2,
) -> Figure:
    """Cut-outs around cases, in their order, as many as fit; a group without cases says so.

    Args:
        groups: heading -> cases, boxes with a `title`.
        images: image id -> uint8 [rows, columns].
        drawn: name in the legend -> colour and boxes, drawn where they lie in a cut-out; later ones on top.
        pixel_mm: size of a pixel. side_mm: of a cut-out. rows: at most, in each group.
    """
    side_px = round(side_mm / pixel_mm)
    columns = int(np.clip(max(map(len, groups.values())), *CASE_COLUMNS))
    shown = {heading: list(cases)[: rows * columns] for heading, cases in groups.items()}
    heights = [max(1, -(-len(cases) // columns)) for cases in shown.values()]
    pairs = zip(heights, shown.values(), strict=True)
    inches = [(height * (CASE_INCHES + 0.4) if cases else 0.4) + 0.4 for height, cases in pairs]
    figure = plt.figure(figsize=(columns * CASE_INCHES, sum(inches) + 0.4), layout="constrained")
    *parts, last = figure.subfigures(len(shown) + 1, 1, height_ratios=[*inches, 0.4])
    legend = [Patch(fill=False, edgecolor=colour, label=name) for name, (colour, _) in drawn.items()]
    last.legend(handles=legend, loc="center left", ncols=len(legend), frameon=False, fontsize=9)
    for part, height, (heading, cases) in zip(parts, heights, shown.items(), strict=True):
        part.suptitle(heading, fontsize=11, x=0.01, ha="left")
        axes = part.subplots(height, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        if not cases:
            axes[0].text(0, 0.5, "none", fontsize=11, transform=axes[0].transAxes)
        for axis, case in zip(axes, cases, strict=False):
            cut = cut_out(images[case["image_id"]], case["bbox"], side_px)
            show_image(axis, cut, boxes_in_cut_out(case, drawn, side_px), pixel_mm, bar_mm=10)
            axis.set_title(case["title"], fontsize=8)
    plt.close(figure)
    return figure


def boxes_in_cut_out(
    case: Box, drawn: Mapping[str, tuple[str, Sequence[Box]]], side_px: int
) -> dict[str, list[list[float]]]:
    """Colour -> the boxes of `cases_figure` whose middle lies in the case's `cut_out`, moved to its corner."""
    x, y, width, height = case["bbox"]
    left, top = int(x + width / 2) - side_px // 2, int(y + height / 2) - side_px // 2
    moved = {}
    for edge, boxes in drawn.values():
        here = [box["bbox"] for box in boxes if box["image_id"] == case["image_id"]]
        shifted = [[x - left, y - top, width, height] for x, y, width, height in here]
        moved[edge] = [
            [x, y, w, h] for x, y, w, h in shifted if 0 <= x + w / 2 < side_px and 0 <= y + h / 2 < side_px
        ]
    return moved
