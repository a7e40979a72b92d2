"""Summarise labels: counts, box sizes in mm, and the share of boxes that each preset of default boxes can match."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from cmbfe.data.labelled.labels import Labels, with_margin, xyxy
from cmbfe.detector.boxes import coverage_of_presets
from cmbfe.metrics.matching import tight_box

REPORT_FILE = "report.json"
COVERED_BOXES = 20_000
"""Largest number of boxes, evenly sampled, for coverage. Each of them is compared with every default box."""
GROUPS = ["input_px", "default_boxes"]
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
SIZES_DIFFER = "images differ in size, and training takes one size only: import with --size"


def report(labels: Labels, left_out: Mapping[str, int], notes: Mapping[str, int]) -> dict[str, Any]:
    """Summarise imported labels for report.json.

    Args:
        left_out: reason -> number of items of the source that are left out.
        notes: what was changed or assumed -> how often. Zeros in `left_out` and `notes` are omitted.

    Returns:
        JSON without patient or file names: counts in total and by split; quantiles of `box_size_mm` (√area) and
        `lesion_slices`; `picture_px`; `coverage` (share of boxes that reach IoU 0.5 with some default box, by input
        size and preset); `left_out` and `notes`.
    """
    sizes = Counter((image["width"], image["height"]) for image in labels["images"])
    splits = sorted({image["split"] for image in labels["images"]})
    several = len(sizes) if len(sizes) > 1 else 0
    slices = Counter(box["lesion_id"] for box in labels["annotations"])
    return {
        **_counts(labels, None),
        "splits": {split: _counts(labels, split) for split in splits},
        "picture_px": [{"width": size[0], "height": size[1], "pictures": n} for size, n in sorted(sizes.items())],
        "box_size_mm": _quantiles(_sizes_mm(labels)),
        "lesion_slices": _quantiles(list(slices.values())),
        "coverage": _coverage(labels),
        "left_out": _listed(left_out),
        "notes": _listed({**notes, SIZES_DIFFER: several}),
    }


def _listed(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"what": what, "count": count} for what, count in sorted(counts.items()) if count]


def _counts(labels: Labels, split: str | None) -> dict[str, int]:
    images = [image for image in labels["images"] if split in (None, image["split"])]
    known = {image["id"] for image in images}
    boxes = [box for box in labels["annotations"] if box["image_id"] in known]
    return {
        "patients": len({image["patient_id"] for image in images}),
        "series": len({image["series_uid"] for image in images}),
        "pictures": len(images),
        "pictures_with_cmbs": len({box["image_id"] for box in boxes}),
        "lesions": len({box["lesion_id"] for box in boxes}),
        "boxes": len(boxes),
    }


def _sizes_mm(labels: Labels) -> list[float]:
    spacing = {image["id"]: image.get("pixel_spacing_mm") for image in labels["images"]}
    areas = [
        box["bbox"][2] * box["bbox"][3] * spacing[box["image_id"]][0] * spacing[box["image_id"]][1]
        for box in labels["annotations"]
        if spacing[box["image_id"]]
    ]
    return np.sqrt(areas).tolist()


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Quantiles of the values; empty if there are no values."""
    return {str(q): round(float(np.quantile(values, q)), 3) for q in QUANTILES} if len(values) else {}


def _coverage(labels: Labels) -> list[dict[str, Any]]:
    if not labels["annotations"]:
        return []
    boxes = _relative_boxes(labels).float()
    table = coverage_of_presets(boxes[:: -(-len(boxes) // COVERED_BOXES)]).groupby(GROUPS, sort=False)
    rows = table.agg(median_size_px=("size_px", "median"), reachable_share=("reachable", "mean")).reset_index()
    return rows.astype({"median_size_px": float}).round(3).to_dict("records")


def _relative_boxes(labels: Labels) -> torch.Tensor:
    """Boxes xyxy [K, 4] as fractions of the width and height of their images."""
    size_of = {image["id"]: (image["width"], image["height"]) for image in labels["images"]}
    sizes = [size_of[box["image_id"]] for box in labels["annotations"]]
    return torch.from_numpy(xyxy(labels["annotations"]) / np.tile(sizes, 2))


def box_sizes_mm(labels: Labels) -> pd.Series:
    """The longer side of each tight box, mm."""
    pixel_mm = {image["id"]: image["pixel_spacing_mm"][0] for image in labels["images"]}
    sizes = [max(tight_box(box)[2:]) * pixel_mm[box["image_id"]] for box in labels["annotations"]]
    return pd.Series(sizes, name="mm", dtype=float)


def coverage_of(labels: Labels) -> pd.DataFrame:
    """The table of `cmbfe.detector.boxes.coverage_of_presets` for the labelled boxes, with their `size_mm`."""
    coverage = coverage_of_presets(_relative_boxes(labels))
    return coverage.assign(size_mm=box_sizes_mm(labels).to_numpy()[coverage["box"]])


def coverage_table(coverage: pd.DataFrame) -> pd.DataFrame:
    """Share of boxes (from `coverage_of`) that default boxes can match, by input size, preset and box size in mm."""
    band = pd.cut(coverage["size_mm"], [0, 4, 6, 8, 10, np.inf], labels=["to 4", "4-6", "6-8", "8-10", "over 10"])
    reachable = coverage.pivot_table("reachable", GROUPS, band.rename("side, mm"), observed=True)
    reachable.columns = [f"{name} mm" for name in reachable.columns]
    return reachable.assign(all=coverage.groupby(GROUPS)["reachable"].mean())


def coverage_by_margin(labels: Labels, margins_mm: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0)) -> pd.DataFrame:
    """Share of boxes that default boxes can match, by input size and preset; one column per label margin in mm."""
    images = {image["id"]: image for image in labels["images"]}
    shares = {}
    for margin in margins_mm:
        boxes = [
            {**box, "bbox": with_margin(tight_box(box), margin, images[box["image_id"]])}
            for box in labels["annotations"]
        ]
        coverage = coverage_of_presets(_relative_boxes({**labels, "annotations": boxes}))
        shares[f"{margin:g} mm"] = coverage.groupby(GROUPS)["reachable"].mean()
    return pd.DataFrame(shares)


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines, for the terminal."""
    lines = [f"patients: {report['patients']}, series: {report['series']}, images: {report['pictures']}"]
    for split, counts in report["splits"].items():
        images = f"images: {counts['pictures']}, with microbleeds: {counts['pictures_with_cmbs']}"
        boxes = f"boxes: {counts['boxes']}, microbleeds: {counts['lesions']}"
        lines.append(f"  {split}: patients: {counts['patients']}, {images}, {boxes}")
    if size := report["box_size_mm"]:
        range_mm = f"{size['0.05']:.1f} to {size['0.95']:.1f}"
        lines.append(f"boxes measure {size['0.5']:.1f} mm (median; {range_mm} for 90 %)")
    if report["coverage"]:
        rows = sorted(report["coverage"], key=lambda row: -row["reachable_share"])
        shares = [f"{row['default_boxes']}-{row['input_px']} {row['reachable_share']:.0%}" for row in rows]
        lines.append(f"boxes that default boxes can meet (IoU 0.5): {', '.join(shares)}")
    lines += [f"left out: {entry['count']} {entry['what']}" for entry in report["left_out"]]
    lines += [f"note: {entry['count']}: {entry['what']}" for entry in report["notes"]]
    return "\n".join(lines)
