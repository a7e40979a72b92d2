"""The detections of every variant on the paper's test set, matched: what the tables and figures start from."""

from collections.abc import Iterable
from pathlib import Path

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_detections, read_labels
from cmbfe.data.labelled.splits import paper_test_set
from cmbfe.metrics.matching import Matches, match
from cmbfe.params import Params
from cmbfe.training.detection import DETECTIONS_FILE

VALIDATION_FILE = "validation_detections.json"
"""Beside the detections on the test images: those on the validation images."""


def read_test_set(params: Params, folder: Path | None = None) -> Labels:
    """The test images of `folder` (default: the workspace's): with microbleeds, and as many with mimics only.

    Where nobody has named mimics, as in own data, as many without a microbleed (or all of those): vessels are in most.
    """
    labels, mimics = (read_labels((folder or paths.images()) / name) for name in (LABELS_FILE, MIMICS_FILE))
    if mimics["categories"]:
        return paper_test_set(labels, mimics, params.seed)
    shown = {box["image_id"] for box in labels["annotations"]}
    others = [{"image_id": image["id"]} for image in labels["images"] if image["id"] not in shown]
    return paper_test_set(labels, {**mimics, "annotations": others}, params.seed, fewer=True)


def match_results(
    labels: Labels, variants: Iterable[str], iou: float, file: str = DETECTIONS_FILE
) -> dict[str, Matches]:
    """Variant -> its detections in results/, matched to their images' labels (A14).

    Args:
        labels: of the test set or, with `file` VALIDATION_FILE, of the validation images.

    Raises:
        InputError: a variant has no detections there, or they belong to other images.
    """
    return {
        variant: match(labels, read_detections(paths.result(variant) / file, labels), iou=iou) for variant in variants
    }
