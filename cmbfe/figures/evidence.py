"""Figures of the evidence: curves, gains, reliability, folds, and cut-outs around single cases."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cmbfe.figures.style import (
    COLOURS,
    GROUND_TRUTH_COLOUR,
    arm,
    colour,
    cut_out,
    image_grid,
    inside_each_other,
    label_ends,
    new_figure,
    show_image,
)

PRINTED = {"color": "0.3", "markerfacecolor": "none", "markersize": 9}
"""Marker style of the paper's values: hollow."""
CASE_COLUMNS, CASE_INCHES = (5, 6), 1.5  # fewest and most cut-outs in a row, and their side
SHOWN_FROM = 0.1
"""Below this sensitivity, the precision depends on a handful of detections."""
FEW = 10
"""Bins with fewer detections are too noisy, so the line leaves them out."""
Box = Mapping[str, Any]  # COCO annotation or result, with `image_id` and `bbox` [x, y, w, h] px


def precision_sensitivity_figure(
    curves: Mapping[str, pd.DataFrame],
    marks: Mapping[str, tuple[float, float]],
    sensitivity: float,
    bands: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """Precision against sensitivity, from `SHOWN_FROM` on (paper Figure 4).

    Args:
        curves: variant -> columns `sensitivity` and `precision`.
        marks: variant -> the point (sensitivity, precision) in the paper.
        sensitivity: the value at which the paper gives the precision.
        bands: variant -> result of `cmbfe.metrics.intervals.precision_band`.
    """
    with new_figure(figsize=(7.4, 4.6)) as (figure, axes):
        ends = {}
        for variant, curve in curves.items():
            shown = curve[curve["sensitivity"] >= SHOWN_FROM]
            draw_precision_sensitivity(axes, shown, variant, COLOURS[arm(variant)])
            ends[variant] = (curve["precision"].iloc[-1], COLOURS[arm(variant)])
        _draw_bands(axes, bands or {})
        for variant, point in marks.items():
            axes.plot(*point, "o", **PRINTED | {"color": COLOURS[arm(variant)], "label": f"{variant}, paper"})
            ends[f"{variant}, paper\n(other patients)"] = (point[1], COLOURS[arm(variant)])
        axes.axvline(sensitivity, color="0.4", linestyle=":", linewidth=1)
        axes.set_title("Precision against sensitivity, test images")
        label_ends(axes, ends, gap=0.11)
    return figure


def draw_precision_sensitivity(axes: Axes, curve: pd.DataFrame, label: str, colour: str) -> None:
    """Draw one detector's precision (column `precision`) against its sensitivity (`sensitivity`).

    As in PASCAL VOC, COCO and AP, each point is the highest precision at this or any larger sensitivity.
    """
    highest = curve["precision"][::-1].cummax()[::-1]
    axes.plot(curve["sensitivity"], highest, color=colour, label=label)
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
        areas: variant -> normalised area up to `x_max`, for the labels (A15).
        bands: variant -> result of `cmbfe.metrics.intervals.froc_band`.
    """
    with new_figure(figsize=(7.4, 4.6)) as (figure, axes):
        ends = {}
        for variant, curve in curves.items():
            draw_froc(axes, curve, variant, colour(variant), x_max)
            reached = curve.loc[curve["false_positives"] <= x_max, "sensitivity"].max()
            ends[f"{variant}, {areas[variant]:.3f}"] = (reached, colour(variant))
        _draw_bands(axes, bands or {})
        axes.set_title(f"Free-response ROC, test images; area to {x_max:g}")
        label_ends(axes, ends)
    return figure


def draw_froc(axes: Axes, curve: pd.DataFrame, label: str, colour: str, x_max: float, per: str = "image") -> None:
    """Draw column `sensitivity` against `false_positives` per image or patient; the last value extends to the edge."""
    x = [*curve["false_positives"], max(x_max, curve["false_positives"].max())]
    y = [*curve["sensitivity"], curve["sensitivity"].max()]
    axes.plot(x, y, color=colour, label=label)
    axes.set(xlabel=f"false positives per {per}", ylabel="sensitivity", xlim=(0, x_max), ylim=(0, 1.02))


def _draw_bands(axes: Axes, bands: Mapping[str, pd.DataFrame]) -> None:
    """Shade the interval around each curve. NaN values leave a gap."""
    for variant, band in bands.items():
        axes.fill_between(band.index, band["low"], band["high"], color=colour(variant), alpha=0.15, linewidth=0)
    if bands:
        axes.text(0.02, 0.03, "shaded: 95 % CI at each point", transform=axes.transAxes, fontsize=10, color="0.3")


def reliability_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of microbleeds among the detections of each score. On the diagonal, a score is the probability of a hit.

    `curves`: variant -> result of `cmbfe.metrics.calibration.reliability`.
    """
    with new_figure(figsize=(6.4, 4.4)) as (figure, axes):
        for variant, table in curves.items():
            draw_reliability(axes, table, variant, COLOURS[arm(variant)])
        axes.legend(loc="upper left", fontsize=11)
    return figure


def draw_reliability(axes: Axes, table: pd.DataFrame, name: str, colour: str) -> None:
    """Draw the diagonal and one detector's `table` (see `reliability_figure`). Bins with few detections are hollow."""
    known = table.dropna()
    few = known["detections"] < FEW
    look = {"marker": "o", "color": colour, "clip_on": False}
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes.plot(known["mean_score"][~few], known["precision"][~few], label=name, linewidth=1, **look)
    axes.plot(known["mean_score"][few], known["precision"][few], linestyle="none", markerfacecolor="white", **look)
    axes.text(
        0.98, 0.03, f"hollow: under {FEW} detections", transform=axes.transAxes, ha="right", fontsize=10, color="0.3"
    )
    axes.set(xlabel="score", ylabel="share that hit a microbleed", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability of the scores", fontsize="medium")


def cases_figure(
    groups: Mapping[str, Sequence[Box]],
    images: Mapping[Any, np.ndarray],
    drawn: Mapping[str, tuple[str, Sequence[Box]]],
    pixel_mm: float,
    side_mm: float = 30,
) -> Figure:
    """Cut-outs around the first cases of each group, as many as fit. A group without cases shows the word none.

    Args:
        groups: heading -> cases, which are boxes with a `title`.
        images: image id -> uint8 [rows, columns].
        drawn: name in the legend -> colour and boxes. A cut-out shows the boxes inside it, later boxes on top.
        pixel_mm: size of a pixel. side_mm: side of a cut-out.
    """
    side_px = round(side_mm / pixel_mm)
    columns = int(np.clip(max(map(len, groups.values())), *CASE_COLUMNS))
    shown = {heading: list(cases)[:columns] for heading, cases in groups.items()}
    inches = [(CASE_INCHES + 0.85 if cases else 0.8) for cases in shown.values()]
    figure = plt.figure(figsize=(columns * CASE_INCHES, sum(inches) + 0.4), layout="constrained")
    *parts, last = figure.subfigures(len(shown) + 1, 1, height_ratios=[*inches, 0.4])
    seen = set()
    for part, (heading, cases) in zip(parts, shown.items(), strict=True):
        part.suptitle(heading, fontsize=11, x=0.01, ha="left")
        axes = part.subplots(1, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        if not cases:
            axes[0].text(0, 0.5, "none", fontsize=11, transform=axes[0].transAxes)
        for axis, case in zip(axes, cases, strict=False):
            cut = cut_out(images[case["image_id"]], case["bbox"], side_px)
            boxes = boxes_in_cut_out(case, drawn, side_px)
            seen |= {colour for colour, there in boxes.items() if there}
            show_image(axis, cut, boxes, pixel_mm, bar_mm=10)
            axis.set_title("\n".join(fill(line, 20) for line in case["title"].splitlines()), fontsize=9)
    legend = [Patch(fill=False, edgecolor=hue, label=name) for name, (hue, _) in drawn.items() if hue in seen]
    last.legend(handles=legend, loc="center left", ncols=max(1, len(legend)), frameon=False, fontsize=9)
    plt.close(figure)
    return figure


def candidates_figure(
    pixels: np.ndarray, truth: Sequence[Sequence[float]], candidates: Mapping[str, np.ndarray]
) -> Figure:
    """A slice with its ground truth, drawn once per method with a dot on each candidate of that method.

    Args:
        pixels: uint8 [S, S]. truth: boxes [x, y, w, h] px.
        candidates: title -> places [N, 2], row and column.
    """
    figure, axes = image_grid(1 + len(candidates), size_inches=3)
    for axis, (title, places) in zip(axes, {"ground truth": np.zeros((0, 2)), **candidates}.items(), strict=True):
        show_image(axis, pixels, {GROUND_TRUTH_COLOUR: truth}, title=title, head_only=True)
        axis.plot(places[:, 1] + 0.5, places[:, 0] + 0.5, "o", color=COLOURS["SSD-FE"], markersize=2.5)
    plt.close(figure)
    return figure


def forest_figure(rings_mm: Sequence[float], profiles: Mapping[str, np.ndarray], importance: pd.Series) -> Figure:
    """Microbleeds against other candidates: brightness in rings around them, and the feature importance in a forest.

    Args:
        rings_mm: edges of the rings. profiles: name -> brightness divided by that of the background, [N, rings].
        importance: name of a group of features -> its share of the total gain of the trees' splits.
    """
    middles = (np.array(rings_mm[1:]) + rings_mm[:-1]) / 2
    with new_figure(1, 2, figsize=(9, 3.4)) as (figure, (left, right)):
        for place, (name, profile) in enumerate(profiles.items()):
            low, middle, high = np.quantile(profile, (0.25, 0.5, 0.75), axis=0)
            hue = ("black", "#CC79A7")[place]
            left.fill_between(middles, low, high, color=hue, alpha=0.15, linewidth=0)
            left.plot(middles, middle, "o-", color=hue)
            left.text(0.96, 0.16 - 0.1 * place, name, color=hue, ha="right", fontsize=11, transform=left.transAxes)
        left.set(xlabel="distance from the middle, mm", ylabel="brightness / background")
        left.set_title("Around candidates: median, quartiles")
        shares = importance.sort_values()
        right.barh(shares.index, shares, color="0.6")
        right.set(xlabel="feature importance", title="What the forest looks at")
    return figure


def found_figure(
    rows: Mapping[str, Mapping[str, tuple[str, Sequence[Box]]]],
    cases: Sequence[Box],
    images: Mapping[Any, np.ndarray],
    pixel_mm: float,
    side_mm: float = 30,
) -> Figure:
    """Cut-outs around the same cases in every row. Each row shows the boxes of one detector.

    Args:
        rows: name of a detector -> `drawn` as in `cases_figure`, with the same names in every row.
        cases, images, pixel_mm, side_mm: as in `cases_figure`.
    """
    side_px, size = round(side_mm / pixel_mm), (CASE_INCHES * len(cases) + 1.2, CASE_INCHES * len(rows) + 0.5)
    with new_figure(len(rows), len(cases), figsize=size, squeeze=False) as (figure, grid):
        for axes, (name, drawn) in zip(grid, rows.items(), strict=True):
            for axis, case in zip(axes, cases, strict=True):
                cut, boxes = (
                    cut_out(images[case["image_id"]], case["bbox"], side_px),
                    boxes_in_cut_out(case, drawn, side_px),
                )
                show_image(axis, cut, inside_each_other(boxes), pixel_mm, bar_mm=10)
            look = {"ha": "right", "va": "center", "fontsize": 11}
            axes[0].text(-0.05, 0.5, name.replace("-small", "\n(small)"), transform=axes[0].transAxes, **look)
        legend = [Patch(fill=False, edgecolor=edge, label=name) for name, (edge, _) in drawn.items()]
        figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), frameon=False, fontsize=11)
    return figure


def boxes_in_cut_out(
    case: Box, drawn: Mapping[str, tuple[str, Sequence[Box]]], side_px: int
) -> dict[str, list[list[float]]]:
    """Colour -> boxes whose centre lies in the case's `cut_out`, in px of the cut-out. `drawn`: see `cases_figure`."""
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
