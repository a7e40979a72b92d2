"""What the detector sees on a slice: its feature maps, and what feature enhancement (FE) would add for its detections.

At test time there is no ground truth and no FE. Here the detections stand in its place, as if labelled in training.
"""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch

from cmbfe.data.labelled.labels import Detections, xyxy
from cmbfe.detector.explain import enhancement_steps
from cmbfe.detector.ssd import SPECS, SSD
from cmbfe.figures.diagrams import LAYER_NAMES
from cmbfe.figures.style import COLOURS, map_grid
from cmbfe.findings.model import Detector
from cmbfe.training.batches import to_input

FEWEST_CELLS = 8
"""Maps of fewer cells a side are not drawn: a microbleed is a small part of one of their cells."""


def feature_maps_png(detector: Detector, pixels: np.ndarray, detections: Detections) -> bytes:
    """A figure of one slice as PNG: the image with its detections, M, what FE would add, and the maps of the heads.

    Args:
        pixels: uint8 [rows, columns], with phase [rows, columns, 2].
        detections: COCO results of this image, at least one.
    """
    model, device = detector.model, detector.compute.device
    image = model.resize(to_input(pixels[None], device))[0]
    scale = model.input_size / torch.tensor(pixels.shape[1::-1], device=device).repeat(2)
    boxes = torch.from_numpy(xyxy(detections)).float().to(device) * scale
    steps = {name: values.cpu().numpy() for name, values in enhancement_steps(model, image, boxes).items()}
    added = steps["difference"]
    maps = {
        "image P and what was found": (steps["image"], (0, 1)),
        "mask M of what was found": (steps["mask"], (0, 1)),
        "what FE would add\n(the channel with most)": (added, (0, max(added.max(), 1e-6))),
        **_telling_channels(model, image, boxes),
    }
    figure = map_grid(maps)
    for x_min, y_min, x_max, y_max in boxes.cpu().numpy():
        frame = plt.Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, edgecolor=COLOURS["SSD-FE"])
        figure.axes[0].add_patch(frame)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80, metadata={"Software": None})
    return file.getvalue()


@torch.no_grad()
def _telling_channels(
    model: SSD, image: torch.Tensor, boxes: torch.Tensor
) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """Title -> the channel of each map that tells the boxes from the rest best: difference of their means in SD."""
    names: Sequence[str] = LAYER_NAMES[SPECS[model.config.variant].trunk]
    maps = {}
    for name, (features,) in zip(names, model.feature_maps(model.prepare(image[None])), strict=False):
        cells = features.shape[-1]
        if cells < FEWEST_CELLS:
            break
        inside = _cells_of(boxes * (cells / model.input_size), cells)
        contrast = features[:, inside].mean(dim=1) - features[:, ~inside].mean(dim=1)
        channel = int((contrast / (features.std((1, 2)) + 1e-6)).argmax())
        values = features[channel].float().cpu().numpy()
        maps[f"{name}, {cells}×{cells},\nchannel {channel} of {len(features)}"] = values, (values.min(), values.max())
    return maps


def _cells_of(boxes: torch.Tensor, cells: int) -> torch.Tensor:
    """bool [cells, cells]: which cells the boxes, xyxy in cells, touch."""
    inside = torch.zeros(cells, cells, dtype=torch.bool, device=boxes.device)
    for x_min, y_min, x_max, y_max in boxes.clamp(0, cells - 1e-3).tolist():
        inside[int(y_min) : int(y_max) + 1, int(x_min) : int(x_max) + 1] = True
    return inside
