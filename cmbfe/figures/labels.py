"""What a detector is asked to find: examples of labelled boxes, and their sizes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import Labels
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


def sizes_figure(sizes_mm: pd.Series) -> Figure:
    """A histogram of box sizes over the range of `LITERATURE_MM`."""
    with style.new_figure(figsize=(6.4, 3)) as (figure, axis):
        axis.hist(sizes_mm, bins=20, color="0.5")
        axis.axvspan(*LITERATURE_MM, color="0.9", zorder=0)
        axis.set(xlabel="longer side of the box, mm", ylabel="boxes", title="Size of the microbleeds' boxes")
    return figure
