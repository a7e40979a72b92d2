"""How large the labelled boxes are, and which default boxes reach them."""

import numpy as np
import pandas as pd
import torch

from cmbfe.data.labelled.labels import Labels, xyxy
from cmbfe.detector.boxes import coverage_of_presets


def box_sizes_mm(labels: Labels) -> pd.Series:
    """The longer side of each box, mm."""
    pixel_mm = {image["id"]: image["pixel_spacing_mm"][0] for image in labels["images"]}
    sizes = [max(box["bbox"][2:]) * pixel_mm[box["image_id"]] for box in labels["annotations"]]
    return pd.Series(sizes, name="mm", dtype=float)


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
