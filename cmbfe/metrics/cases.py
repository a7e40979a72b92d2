"""Case-by-case differences of two detectors: false positives and found microbleeds that only one detector has.

The thresholds (score >= threshold) of both detectors follow the same rule, so that neither gains from a stricter
threshold. False positives are compared at equal sensitivity, found microbleeds at equal false positives.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cmbfe.metrics.curves import threshold_at_sensitivity
from cmbfe.metrics.matching import (
    FALSE_POSITIVE,
    Detections,
    Labels,
    Matches,
    of_one_category,
    overlaps,
    tight_box,
    with_boxes,
)

SAME_PLACE_IOU = 0.1
"""Lowest IoU of two detections that mark the same object: TIDE's bound for background (Bolya et al. 2020)."""
POOR_BOX = "microbleed, poor or second box"
NOTHING = "nothing labelled"


def threshold_at_common_sensitivity(matches: Matches, sensitivity: float) -> float:
    """The highest threshold whose sensitivity is at least `sensitivity`; inf if no threshold reaches it."""
    threshold = threshold_at_sensitivity(matches, sensitivity)
    return np.inf if np.isnan(threshold) else threshold


def false_positives(matches: Matches, detections: Detections, threshold: float) -> Detections:
    """The false positives of `detections` at `threshold`, best first; `matches` is their match table."""
    chosen = (matches.outcome == FALSE_POSITIVE) & (matches.score >= threshold)
    return [detections[index] for index in matches.detection[chosen]]


def without_counterpart(chosen: Detections, others: Detections, labels: Labels) -> Detections:
    """The detections of `chosen` whose IoU with each of `others` is below `SAME_PLACE_IOU`, in unchanged order.

    Args:
        labels: labels with the images of both lists.
    """
    near = overlaps(with_boxes(labels, others), of_one_category(chosen), SAME_PLACE_IOU)
    met = set(near.order[near.detection].tolist())
    return [detection for index, detection in enumerate(chosen) if index not in met]


def kinds(chosen: Detections, labels: Labels, mimics: Labels) -> list[str]:
    """The kind of object in each box of `chosen`: the mimic or microbleed whose centre is nearest to the box centre.

    Only objects with their centre inside the box count. A false positive on a microbleed is a poorly fitting box or a
    second box (`POOR_BOX`). A box without any object is on `NOTHING`.

    Args:
        labels: images and microbleeds. mimics: the phantom's mimics, also on other images; categories are kinds.
    """
    images = {image["id"] for image in labels["images"]}
    names = {category["id"]: category["name"] for category in mimics["categories"]}
    decoys = [box for box in mimics["annotations"] if box["image_id"] in images]
    kind_of = [*(names[box["category_id"]] for box in decoys), *[POOR_BOX] * len(labels["annotations"])]
    things = of_one_category([*decoys, *labels["annotations"]])
    # The roles in `overlaps` are swapped: it looks for the objects' centres in the boxes of the false positives.
    near = overlaps(with_boxes(labels, chosen), things, hit="centre")
    kinds_of_chosen = [NOTHING] * len(chosen)
    for pair in np.argsort(near.nearness, kind="stable"):  # the nearest object comes last and is kept
        kinds_of_chosen[near.truth[pair]] = kind_of[near.order[near.detection[pair]]]
    return kinds_of_chosen


def false_positives_table(of_kind: Mapping[str, Sequence[str]], known: Sequence[str]) -> pd.DataFrame:
    """Number of false positives of each kind: a row per kind and `all`, a column per group.

    Args:
        of_kind: group -> result of `kinds` for its false positives.
        known: kinds that have a row even without false positives.
    """
    rows = [*known, POOR_BOX, NOTHING]
    table = pd.DataFrame({name: pd.Series(list(kinds)).value_counts() for name, kinds in of_kind.items()})
    table = table.reindex(rows).fillna(0).astype(int)
    table.loc["all"] = table.sum()
    return table.rename_axis("kind")


def microbleeds_table(
    labels: Labels, matches: Matches, twin: Matches, thresholds: tuple[float, float]
) -> pd.DataFrame:
    """Every microbleed box of `labels`, its size, and whether it is found without FE (`matches`) and with FE (`twin`).

    Indexed by annotation id. Columns: `image_id`, `bbox` [x, y, w, h] px, `size_mm` (longer side), `score` and
    `score_fe` (-inf if the box is missed), `found` and `found_fe` at the two `thresholds`.
    """
    spacing = {image["id"]: np.array(image["pixel_spacing_mm"]) for image in labels["images"]}
    of_id = {box["id"]: box for box in labels["annotations"]}
    boxes = [of_id[name] for name in matches.truth_ids]
    rows = pd.DataFrame(boxes, columns=["id", "image_id", "bbox"]).set_index("id")
    rows["size_mm"] = [max(tight_box(box)[2:] * spacing[box["image_id"]][::-1]) for box in boxes]
    rows["score"] = matches.truth_score
    rows["score_fe"] = pd.Series(twin.truth_score, twin.truth_ids)
    return rows.assign(found=rows["score"] >= thresholds[0], found_fe=rows["score_fe"] >= thresholds[1])


def found_table(microbleeds: pd.DataFrame, small_mm: float) -> pd.DataFrame:
    """Number of microbleeds found by both detectors, only one, and neither: rows `small`, `larger` and `all`.

    Args:
        microbleeds: result of `microbleeds_table`. small_mm: microbleeds below this size are small.
    """
    groups = {
        (True, True): "both",
        (False, True): "SSD-FE only",
        (True, False): "SSD only",
        (False, False): "neither",
    }
    who = [groups[pair] for pair in zip(microbleeds["found"], microbleeds["found_fe"], strict=True)]
    size = np.where(microbleeds["size_mm"] < small_mm, "small", "larger")
    table = pd.crosstab(size, np.array(who)).reindex(index=["small", "larger"], columns=list(groups.values()))
    table = table.fillna(0).astype(int)
    table.loc["all"] = table.sum()
    table.insert(0, "microbleeds", table.sum(axis=1))
    return table.rename_axis(index="size", columns=None)
