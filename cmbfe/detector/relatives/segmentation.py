"""Segmentation of the boxes as a side task of training, after Brazil et al. 2017 (SDS-RCNN)."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmbfe.detector.fe import box_mask
from cmbfe.detector.relatives.registry import Channels, register

WEIGHT = 1.0
"""Of the side task's loss among the detector's; not tuned."""
PRIOR_LOGIT = -4.6
"""With which the side task begins, 0.01: boxes are that rare, and from 0.5 they would be drowned at first (Lin et al.
2017, section 4.1)."""


class BoxSegmentation(nn.Module):
    """Predicts from a feature map which share of each cell lies inside boxes; the features stay what they are.

    It has the interface of `FeatureEnhancement`, and a loss: a 1x1 convolution gives a logit per cell, whose binary
    cross-entropy with the boxes' mask, averaged over the map's cells, teaches the trunk where the boxes are. Maps with
    as many channels share a convolution. These weights are of no use at test time, and no part of the detector.
    """

    def __init__(self, channels: Iterable[int], weight: float = WEIGHT) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({str(one): nn.Conv2d(one, 1, 1) for one in sorted(set(channels))})
        for head in self.heads.values():
            nn.init.constant_(head.bias, PRIOR_LOGIT)
        self.weight = weight
        self.of_maps: list[Tensor] = []

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The boxes' mask, Tensor[N, 1, H, W], see `box_mask`; a new batch begins."""
        self.of_maps = []
        return box_mask(images, boxes)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], untouched; what their map lost is kept for `losses`."""
        logits = self.heads[str(features.shape[1])](features)
        with torch.autocast(features.device.type, enabled=False):
            share = F.adaptive_avg_pool2d(mask, features.shape[-2:])
            self.of_maps.append(F.binary_cross_entropy_with_logits(logits.float(), share))
        return features

    def losses(self) -> dict[str, Tensor]:
        """The side task's loss: its weight times the mean over the batch's maps."""
        return {"segmentation": self.weight * torch.stack(self.of_maps).mean()}


@register("segmentation", "a side task after Brazil et al. 2017 (the paper's reference 34)")
def segmentation(channels: Channels) -> BoxSegmentation:
    """A head for each number of channels among the layer's maps."""
    return BoxSegmentation(channels())
