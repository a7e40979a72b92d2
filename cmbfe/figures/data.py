"""What a detector is asked to find: examples of labelled boxes, their sizes, and which default boxes reach them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import Labels, xyxy
from cmbfe.detector.boxes import coverage_of_presets
from cmbfe.figures import style

CUT_OUT_PX = 32
LITERATURE_MM = (2, 10)
"""Sizes of microbleeds, as the paper has them."""


def examples_figure(labels: Labels, mimics: Labels, folder: Path, seed: int, columns: int = 8) -> Figure:
    """Drawn microbleeds in the first row, below a row for each kind of mimic that was labelled.

    Args:
        folder: of the images that the labels name.
    """
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    rows = {"microbleed": labels["annotations"]} | {
        name: [box for box in mimics["annotations"] if box["category_id"] == kind] for kind, name in kinds.items()
    }
    rows = {kind: boxes for kind, boxes in rows.items() if boxes}
    rng = np.random.default_rng(seed)
    drawn = [(kind, boxes[i]) for kind, boxes in rows.items() for i in rng.integers(0, len(boxes), columns)]
    files = {image["id"]: folder / image["file_name"] for image in labels["images"]}
    figure, axes = style.image_grid(columns, len(rows), size_inches=1.3)
    for axis, (kind, box) in zip(axes, drawn, strict=True):
        style.show_image(axis, style.cut_out(read_image(files[box["image_id"]]), box["bbox"], CUT_OUT_PX), title=kind)
    plt.close(figure)
    return figure


def box_sizes_mm(labels: Labels) -> pd.Series:
    """The longer side of each box, mm."""
    pixel_mm = {image["id"]: image["pixel_spacing_mm"][0] for image in labels["images"]}
    sizes = [max(box["bbox"][2:]) * pixel_mm[box["image_id"]] for box in labels["annotations"]]
    return pd.Series(sizes, name="mm", dtype=float)


def sizes_figure(sizes_mm: pd.Series) -> Figure:
    """A histogram of box sizes over the range of `LITERATURE_MM`."""
    with style.theme():
        figure, axis = plt.subplots(figsize=(6.4, 3), layout="constrained")
        axis.hist(sizes_mm, bins=20, color="0.5")
        axis.axvspan(*LITERATURE_MM, color="0.9", zorder=0)
        axis.set(xlabel="longer side of the box, mm", ylabel="boxes", title="Size of the microbleeds' boxes")
    plt.close(figure)
    return figure


def coverage_of(labels: Labels) -> pd.DataFrame:
    """Which default boxes reach each labelled box: `cmbfe.detector.boxes.coverage_of_presets`, with `size_mm`."""
    image_px = {image["id"]: (image["width"], image["height"]) for image in labels["images"]}
    sides = np.tile([image_px[box["image_id"]] for box in labels["annotations"]], 2)
    coverage = coverage_of_presets(torch.from_numpy(xyxy(labels["annotations"]) / sides))
    return coverage.assign(size_mm=box_sizes_mm(labels).to_numpy()[coverage["box"]])


def coverage_table(coverage: pd.DataFrame) -> pd.DataFrame:
    """Share of boxes within reach by input size, preset and size in mm, and of `all` boxes; from `coverage_of`."""
    band = pd.cut(coverage["size_mm"], [0, 4, 6, 8, 10, np.inf], labels=["to 4", "4-6", "6-8", "8-10", "over 10"])
    by_detector = ["input_px", "default_boxes"]
    reachable = coverage.pivot_table("reachable", by_detector, band.rename("side, mm"), observed=True)
    reachable.columns = [f"{name} mm" for name in reachable.columns]
    return reachable.assign(all=coverage.groupby(by_detector)["reachable"].mean())
