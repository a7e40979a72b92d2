"""Performance in subgroups: microbleeds by size and location, and false positives by kind of mimic."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from cmbfe.metrics.lesions import lesion_of
from cmbfe.metrics.matching import (
    Detections,
    Labels,
    Matches,
    is_region,
    of_one_category,
    overlaps,
    pixel_spacings,
    tight_box,
    with_boxes,
)

SIZE_EDGES_MM = (0.0, 3.0, 5.0, np.inf)  # edges of the size classes of microbleeds


def lesion_table(labels: Labels, matches: Matches) -> pd.DataFrame:
    """One row per microbleed: its location and size, and the score of the 3-D detection that hits it.

    `matches` comes from `match_lesions` with the same labels. Columns `patient_id`, `lesion_id`, `slices`,
    `size_mm` (the longer side of its largest tight box), `location` (NaN if the labels give none) and `score`
    (NaN if no detection hits it).
    """
    images = {image["id"]: image for image in labels["images"]}
    boxes = [box for box in labels["annotations"] if not is_region(box)]
    spacing = pixel_spacings([images[box["image_id"]] for box in boxes])
    sides_mm = np.array([tight_box(box)[2:] for box in boxes], float).reshape(-1, 2) * spacing[:, ::-1]
    keys = [lesion_of(images[box["image_id"]], box) for box in boxes]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    rows = pd.DataFrame(boxes, columns=["lesion_id", "location"])
    rows["patient_id"] = [images[box["image_id"]]["patient_id"] for box in boxes]
    rows["size_mm"] = sides_mm.max(axis=1)
    ground_truth = np.array([number_of[key] for key in keys], np.int64)  # in the order of `matches`
    table = rows.groupby(ground_truth, sort=False).agg(
        patient_id=("patient_id", "first"),
        lesion_id=("lesion_id", "first"),
        slices=("size_mm", "size"),
        size_mm=("size_mm", "max"),
        location=("location", "first"),
    )
    table["score"] = np.where(np.isinf(matches.truth_score), np.nan, matches.truth_score)
    return table.reset_index(drop=True)


def sensitivity_by_size(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Sensitivity at a score threshold by size class, from a `lesion_table`; columns as in `sensitivity_by`."""
    edges = pairwise(SIZE_EDGES_MM)
    names = [f"{low:g} mm and more" if high == np.inf else f"{low:g} to {high:g} mm" for low, high in edges]
    sizes = pd.cut(table["size_mm"], SIZE_EDGES_MM, right=False, labels=names)
    return sensitivity_by(table, threshold, sizes)


def sensitivity_by(table: pd.DataFrame, threshold: float, groups: pd.Series) -> pd.DataFrame:
    """Sensitivity at a score threshold in groups of the rows of a `lesion_table`.

    Columns `cmbs`, `hits`, `sensitivity`; groups without microbleeds, and microbleeds without a group, are
    left out.
    """
    hit = (table["score"] >= threshold).groupby(groups, observed=True)
    return pd.DataFrame({"cmbs": hit.size(), "hits": hit.sum(), "sensitivity": hit.mean()})


def false_positives_by_mimic(
    labels: Labels, mimics: Labels, detections: Detections, false_positives: Sequence[int], iou: float = 0.5
) -> pd.DataFrame:
    """False positives by the kind of the mimic that they overlap most.

    `mimics` are COCO labels whose categories are the kinds; images that `labels` does not have are left out.
    `false_positives` are indices into `detections`. Columns: `mimics` (boxes of the kind), `false_positives`
    (those with an IoU of at least `iou` with such a box) and `share` of all false positives. The last row,
    "none", counts the false positives that overlap no mimic.
    """
    images = {image["id"] for image in labels["images"]}
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    boxes = [box for box in mimics["annotations"] if box["image_id"] in images and not is_region(box)]
    kind_of_box = np.array([kinds[box["category_id"]] for box in boxes], dtype=object)
    chosen = of_one_category([detections[index] for index in false_positives])
    near = overlaps(with_boxes(labels, boxes), chosen, iou)
    order = np.lexsort((-near.nearness, near.detection))
    _, nearest = np.unique(near.detection[order], return_index=True)
    fooled = kind_of_box[near.truth[order][nearest]]
    rows = {kind: [(kind_of_box == kind).sum(), (fooled == kind).sum()] for kind in sorted(set(kind_of_box))}
    rows["none"] = [0, len(chosen) - len(fooled)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["mimics", "false_positives"])
    table["share"] = table["false_positives"] / len(chosen) if chosen else np.nan
    return table.rename_axis("mimic")
