"""Figures 6 and 7: cut-outs around single cases, a block of rows for each group of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cmbfe.figures.style import cut_out, show_image

COLUMNS = (5, 8)
"""Fewest and most in a row."""
INCHES = 1.55
"""Side of a cut-out."""
Box = Mapping[str, Any]
"""With `image_id` and `bbox` [x, y, w, h] px, as COCO has annotations and results."""


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
    columns = int(np.clip(max(map(len, groups.values())), *COLUMNS))
    shown = {heading: list(cases)[: rows * columns] for heading, cases in groups.items()}
    heights = [max(1, -(-len(cases) // columns)) for cases in shown.values()]
    inches = [
        (height * (INCHES + 0.4) if cases else 0.4) + 0.4
        for height, cases in zip(heights, shown.values(), strict=True)
    ]
    figure = plt.figure(figsize=(columns * INCHES, sum(inches) + 0.4), layout="constrained")
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
            side_px = round(side_mm / pixel_mm)
            cut = cut_out(images[case["image_id"]], case["bbox"], side_px)
            show_image(axis, cut, boxes_in_cut_out(case, drawn, side_px), pixel_mm, bar_mm=10)
            axis.set_title(case["title"], fontsize=8)
    plt.close(figure)
    return figure


def boxes_in_cut_out(
    case: Box, drawn: Mapping[str, tuple[str, Sequence[Box]]], side_px: int
) -> dict[str, list[list[float]]]:
    """Colour -> the boxes whose middle lies in the case's `cut_out` of `side_px`, moved to its corner.

    Arguments as in `cases_figure`.
    """
    x, y, width, height = case["bbox"]
    left, top = int(x + width / 2) - side_px // 2, int(y + height / 2) - side_px // 2
    moved = {}
    for colour, boxes in drawn.values():
        here = [box["bbox"] for box in boxes if box["image_id"] == case["image_id"]]
        of_cut_out = [[x - left, y - top, width, height] for x, y, width, height in here]
        moved[colour] = [
            box for box in of_cut_out if 0 <= box[0] + box[2] / 2 < side_px and 0 <= box[1] + box[3] / 2 < side_px
        ]
    return moved
