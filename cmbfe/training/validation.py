"""AP on the validation patients during training. The detector gets no ground truth there, so FE is off."""

from pathlib import Path

import numpy as np
from torch import nn

from cmbfe.data.labelled.labels import LABELS_FILE, Labels, labels_of_split, read_labels
from cmbfe.errors import InputError
from cmbfe.metrics.curves import average_precision
from cmbfe.metrics.matching import is_region, match
from cmbfe.training.detection import detect
from cmbfe.training.devices import Compute


def validation_labels(folder: Path, seed: int) -> Labels:
    """Validation images in `folder`: all images with microbleeds, and at most as many without, drawn at random.

    Raises:
        InputError: no labels in `folder`, no validation split, or no microbleed in the split.
    """
    split = labels_of_split(read_labels(folder / LABELS_FILE), "validation")
    shown = {box["image_id"] for box in split["annotations"] if not is_region(box)}
    if not shown:
        raise InputError(
            f"{folder / LABELS_FILE}: the validation split has no microbleed, so there is no AP; give other splits"
        )
    others = sorted({image["id"] for image in split["images"]} - shown)
    drawn = np.random.default_rng([seed, 0x7A11]).permutation(others)[: len(shown)]
    chosen = shown | set(drawn.tolist())
    return {**split, "images": [image for image in split["images"] if image["id"] in chosen]}


def validation_ap(model: nn.Module, labels: Labels, images: np.ndarray, iou: float, compute: Compute) -> float:
    """AP (all-point, A13) of a detector on decoded images, uint8 [N, ...]; the detector stays in evaluation mode."""
    detections = detect(model, images, [image["id"] for image in labels["images"]], compute)
    return float(average_precision(match(labels, detections, iou=iou)))
