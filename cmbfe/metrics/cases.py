"""Where two detectors differ, case by case: false positives of one only, and microbleeds that one alone finds.

Both detectors run at thresholds (score >= threshold) chosen by one rule, so that neither wins by being run more
cautiously: at the same sensitivity to compare false positives, at the same false positives to compare what is found.
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
"""Two detections that overlap by this mark the same thing; TIDE's bound of what is background (Bolya et al. 2020)."""
POOR_BOX = "microbleed, poor or second box"
NOTHING = "nothing labelled"


def threshold_at_common_sensitivity(matches: Matches, sensitivity: float) -> float:
    """The highest threshold whose sensitivity is at least `sensitivity`; inf where none reaches it."""
    threshold = threshold_at_sensitivity(matches, sensitivity)
    return np.inf if np.isnan(threshold) else threshold


def false_positives(matches: Matches, detections: Detections, threshold: float) -> Detections:
    """The detections at `threshold` or more that hit nothing, best first; `matches` are those of `detections`."""
    chosen = (matches.outcome == FALSE_POSITIVE) & (matches.score >= threshold)
    return [detections[index] for index in matches.detection[chosen]]


def without_counterpart(chosen: Detections, others: Detections, labels: Labels) -> Detections:
    """Those of `chosen` at whose place there is none of `others` (IoU of at least `SAME_PLACE_IOU`), in their order.

    Args:
        labels: the images of both.
    """
    near = overlaps(with_boxes(labels, others), of_one_category(chosen), SAME_PLACE_IOU)
    met = set(near.order[near.detection].tolist())
    return [detection for index, detection in enumerate(chosen) if index not in met]


def kinds(chosen: Detections, labels: Labels, mimics: Labels) -> list[str]:
    """What each of `chosen` is on: the mimic or microbleed whose middle lies in its box, the most central one.

    A false positive on a microbleed has too poor a box to hit it, or comes second (`POOR_BOX`); one without any middle
    in it is on `NOTHING`.

    Args:
        labels: images and microbleeds. mimics: the phantom's mimics, also on other images; categories are kinds.
    """
    images = {image["id"] for image in labels["images"]}
    names = {category["id"]: category["name"] for category in mimics["categories"]}
    decoys = [box for box in mimics["annotations"] if box["image_id"] in images]
    kind_of = [*(names[box["category_id"]] for box in decoys), *[POOR_BOX] * len(labels["annotations"])]
    things = of_one_category([*decoys, *labels["annotations"]])
    # In the roles of `overlaps`, the things' middles are looked for in the boxes of the false positives.
    near = overlaps(with_boxes(labels, chosen), things, hit="centre")
    kinds_of_chosen = [NOTHING] * len(chosen)
    for pair in np.argsort(near.nearness, kind="stable"):  # the nearest comes last and stays
        kinds_of_chosen[near.truth[pair]] = kind_of[near.order[near.detection[pair]]]
    return kinds_of_chosen


def false_positives_table(of_kind: Mapping[str, Sequence[str]], known: Sequence[str]) -> pd.DataFrame:
    """How many false positives are of each kind: a row per kind and `all`, a column per group.

    Args:
        of_kind: group -> what `kinds` gives for its false positives.
        known: kinds that have a row also where no false positive is of them.
    """
    rows = [*known, POOR_BOX, NOTHING]
    table = pd.DataFrame({name: pd.Series(list(kinds)).value_counts() for name, kinds in of_kind.items()})
    table = table.reindex(rows).fillna(0).astype(int)
    table.loc["all"] = table.sum()
    return table.rename_axis("kind")


def microbleeds_table(
    labels: Labels, matches: Matches, twin: Matches, thresholds: tuple[float, float]
) -> pd.DataFrame:
    """Every microbleed box of `labels` with its size, and who finds it: `matches` without FE, `twin` with.

    By annotation id: `image_id`, `bbox` [x, y, w, h] px, `size_mm` (longer side), `score` and `score_fe` (-inf where
    nothing hits it), `found` and `found_fe` at the `thresholds` of the two.
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
    """How many microbleeds are found by both, by one only and by neither: rows `small`, `larger` and `all`.

    Args:
        microbleeds: what `microbleeds_table` gives. small_mm: sizes below are small.
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
