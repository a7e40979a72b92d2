"""Explanation of feature enhancement (FE) inside a detector: its steps on one image and its effect on each map."""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from cmbfe.detector.fe import box_mask, enhance, enhancement_mask
from cmbfe.detector.ssd import PLACEMENTS, SSD


@torch.no_grad()
def enhancement_steps(model: SSD, image: Tensor, boxes: Tensor) -> dict[str, Tensor]:
    """The quantities of the paper's Figure 1, in the order of its section 2.3, each [rows, columns].

    Args:
        model: any variant, trained with or without FE; its first map is enhanced.
        image: Tensor[3, S, S] in [0, 1]; S is the model's input size in px.
        boxes: Tensor[K, 4] xyxy px.

    Returns:
        `image` P, `inside` (P in the boxes, 0 elsewhere), `mask` M and `resized` (M on the feature map). For the
        channel that FE changes most: `features` X, `enhanced` X + M X and their `difference`.
    """
    mask = enhancement_mask(image[None], [boxes], model.config.beta)
    features, difference = enhancement_difference(model, image, boxes)
    resized = enhance(torch.ones_like(features[None, :1]), mask, model.config.resize) - 1
    channel = int(difference.abs().sum((1, 2)).argmax())
    pixels = image.mean(dim=0)
    return {
        "image": pixels,
        "inside": pixels * box_mask(image[None], [boxes])[0, 0],
        "mask": mask[0, 0],
        "resized": resized[0, 0],
        "features": features[channel],
        "enhanced": (features + difference)[channel],
        "difference": difference[channel],
    }


@torch.no_grad()
def enhancement_difference(model: SSD, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The first map before FE, and what FE adds to it (paper Figure 3 b), both Tensor[C, h, w].

    Arguments as in `enhancement_steps`. The map that the first head gets may differ, see `change_by_map`.
    """
    config = model.config
    mask = enhancement_mask(image[None], [boxes], config.beta)
    features = model.eval().stem(model.prepare(image[None]))
    return features[0], (enhance(features, mask, config.resize, config.weighting) - features)[0]


def change_by_channel(features: Tensor, difference: Tensor) -> pd.DataFrame:
    """How much FE changes each channel: a row per channel, indexed by rank from 1, the most changed channel first.

    Columns: `channel` (its index), `relative_change` (norm of the difference over the norm without FE) and
    `share_of_difference` (share of the squared norm of the whole difference; 0 without any difference).

    Args:
        features, difference: Tensor[C, h, w], from `enhancement_difference`.
    """
    squares = difference.square().sum((1, 2))
    share = squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
    change = [_relative_change(*pair) for pair in zip(features + difference, features, strict=True)]
    columns = {"channel": range(len(features)), "relative_change": change, "share_of_difference": share.tolist()}
    table = pd.DataFrame(columns).sort_values("share_of_difference", ascending=False, kind="stable")
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="rank"))


@torch.no_grad()
def change_by_map(model: SSD, image: Tensor, boxes: Tensor) -> pd.DataFrame:
    """How much FE changes the input of each head: a row per placement (A4), a column per map, named by its cell count.

    The value is the norm of the difference over the norm without FE. Arguments as in `enhancement_steps`. The model's
    weights are used at every placement.
    """
    inputs, mask = model.prepare(image[None]), enhancement_mask(image[None], [boxes], model.config.beta)
    rows = {}
    for placement in PLACEMENTS:
        variant = model.config.variant.removesuffix("-fe") + "-fe"
        twin = SSD(replace(model.config, variant=variant, placement=placement)).train()
        twin.load_state_dict(model.state_dict())
        for module in twin.modules():  # FE works in training mode only, but batch norms must not change
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        pairs = zip(twin.feature_maps(inputs, mask), twin.feature_maps(inputs), strict=True)
        rows[placement] = [_relative_change(enhanced, plain) for enhanced, plain in pairs]
    columns = [f"{cells}x{cells}" for cells in model.map_sizes]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("placement")


def _relative_change(enhanced: Tensor, plain: Tensor) -> float:
    # In a narrow network a coarse map can be zero everywhere, so that FE does not change it.
    tiny = torch.finfo(plain.dtype).tiny
    return float((enhanced - plain).norm() / plain.norm().clamp(min=tiny))
