"""Detection in a batch of images: the loop that both the pipeline and `cmbfe detect` run."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from cmbfe.data.labelled.labels import Detections, Labels
from cmbfe.training.batches import load_labelled, to_input
from cmbfe.training.devices import Compute

BATCH = 8


def detect(
    model: nn.Module, pixels: np.ndarray, image_ids: Sequence[int], compute: Compute, progress: bool = False
) -> Detections:
    """Run a detector over uint8 images [N, rows, columns] and return COCO results, boxes [x, y, w, h] px.

    The order is that of the images and, within an image, of falling scores.
    """
    model.eval()
    results: Detections = []
    starts = tqdm(range(0, len(pixels), BATCH), desc="detecting", unit="batch", disable=not progress, mininterval=1)
    for start in starts:
        images = to_input(pixels[start : start + BATCH], compute.device)
        with torch.inference_mode(), compute.autocast():
            found = model(images)
        for image_id, one in zip(image_ids[start : start + BATCH], found, strict=True):
            results += as_coco(image_id, one["boxes"].float().cpu().numpy(), one["scores"].float().cpu().numpy())
    return results


def detect_in(model: nn.Module, labels: Labels, folder: Path, compute: Compute, progress: bool = False) -> Detections:
    """What a detector finds on the labelled images of a folder, see `detect`; their boxes are not looked at.

    Raises:
        InputError: an image that cannot be read, or images of several sizes.
    """
    images = load_labelled(labels, folder).images
    return detect(model, images, [image["id"] for image in labels["images"]], compute, progress)


def as_coco(image_id: Hashable, boxes: np.ndarray, scores: np.ndarray) -> Detections:
    """Detections of one image, boxes [K, 4] xyxy px, as COCO results."""
    # Rounded to a thousandth of a pixel: what is beyond is noise, and would make the file three times as long.
    corners = np.round(boxes.astype(np.float64), 3)
    sizes = np.round(corners[:, 2:] - corners[:, :2], 3)
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "bbox": [*corner[:2], *size],
            "score": round(float(score), 6),
        }
        for corner, size, score in zip(corners.tolist(), sizes.tolist(), scores, strict=True)
    ]
