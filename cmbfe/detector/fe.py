"""Feature enhancement (FE, paper section 2.3): in training, features are amplified where labelled boxes are dark.

Inside a ground-truth box the mask is M = 1 - P / B_mean, with B_mean = beta * mean(P in the box). M is 0 where P is
above B_mean and outside boxes. A feature map X becomes X + M * X. The layer has no weights and is absent at test time.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cmbfe.errors import InputError

RESIZES = ("bilinear", "area", "nearest", "max")
WEIGHTINGS = ("equation", "figure")
SCHEDULES = ("constant", "cosine")


@torch.no_grad()
def enhancement_mask(images: Tensor, boxes: Sequence[Tensor], beta: float = 1.5) -> Tensor:
    """FE mask M, Tensor[N, 1, H, W] in [0, 1], float32 on the images' device.

    images: Tensor[N, C, H, W] in [0, 1]; P is their mean over channels (reading A1). boxes: N tensors [K, 4],
    xyxy px of the images. A pixel is inside a box if its centre is. A box that contains no pixel centre gets the
    pixel at the centre of the box. Where boxes overlap, the larger M applies (A3). In an all-black box M is 0.
    """
    if len(boxes) != len(images):
        raise InputError(f"enhancement mask: {len(boxes)} box tensors for {len(images)} images")
    with torch.autocast(images.device.type, enabled=False):
        # Rounding can make black pixels slightly negative. Outside all boxes these would get a mask above 0.
        image = images.float().mean(dim=1).clamp(min=0)
        rows, columns = _pixels_inside(boxes, image)
        scaled = beta * _mean_inside(image, rows, columns)
        # At one pixel M grows with B_mean, so where boxes overlap the largest B_mean gives the largest M.
        b_mean = torch.zeros_like(image)
        of_each_box = zip(rows.unbind(1), columns.unbind(1), scaled.unbind(1), strict=True)
        for row, column, value in of_each_box:  # the k-th box of every image
            torch.maximum(b_mean, (row * value[:, None])[:, :, None] * column[:, None, :], out=b_mean)
        # 1 - P / B_mean, in a form that is 0 where B_mean is 0: outside boxes and in black boxes.
        mask = (b_mean - image).clamp_(min=0) / b_mean.clamp_(min=torch.finfo(torch.float32).tiny)
        return mask.unsqueeze(1)


def _mean_inside(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean of Tensor[N, H, W] over each box's pixels, [N, K]; 0 for a box without pixels."""
    # In float64, since a user may enable TF32, in which a GPU rounds products of float32 to 10 bits.
    wide = torch.float32 if image.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    sums = (torch.bmm(rows.to(wide), image.to(wide)) * columns).sum(-1)
    return (sums / (rows.sum(-1) * columns.sum(-1)).clamp(min=1)).to(image.dtype)


def _pixels_inside(boxes: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, K, H] and columns [N, K, W] of each box's pixels, as 0 or 1; K is the largest box count of an image."""
    height, width = image.shape[-2:]
    # NaN pads the shorter lists. Comparisons with NaN are false, so padding contains no pixel.
    padded = pad_sequence([b.float() for b in boxes], batch_first=True, padding_value=math.nan)
    x1, y1, x2, y2 = padded.to(image.device).unbind(-1)
    rows, columns = _centres_between(y1, y2, height), _centres_between(x1, x2, width)
    holds_centre = (rows.any(-1) & columns.any(-1))[..., None]
    own_row, own_column = ((y1 + y2) / 2).floor(), ((x1 + x2) / 2).floor()
    rows = rows.where(holds_centre, _centres_between(own_row, own_row + 1, height))
    columns = columns.where(holds_centre, _centres_between(own_column, own_column + 1, width))
    return rows.to(image.dtype), columns.to(image.dtype)


def _centres_between(low: Tensor, high: Tensor, size: int) -> Tensor:
    centre = torch.arange(size, device=low.device) + 0.5
    return (centre >= low[..., None]) & (centre < high[..., None])


def enhance(features: Tensor, mask: Tensor, resize: str = "bilinear", weighting: str = "equation") -> Tensor:
    """Enhanced features with the shape and dtype of `features` (Tensor[N, C, h, w]); mask: Tensor[N, 1, H, W].

    resize (A2): how the mask is resized to h x w. weighting (A5): "equation" gives X + M * X, "figure" gives
    X + M * N(X), where N divides each position by its norm over the channels.
    """
    if len(features) != len(mask):
        raise InputError(f"FE: feature maps of {len(features)} images, but a mask of {len(mask)}")
    if weighting not in WEIGHTINGS:
        raise InputError(f"FE weighting {weighting!r}: expected one of {', '.join(WEIGHTINGS)}")
    mask = resized_mask(mask, features.shape[-2:], resize).to(features.dtype)
    if weighting == "equation":
        return features * (1 + mask)
    return features + mask * F.normalize(features.float(), dim=1).to(features.dtype)


def resized_mask(mask: Tensor, size: torch.Size, resize: str) -> Tensor:
    """Resize a mask Tensor[N, 1, H, W] to the size (h, w) of a feature map; `resize` (A2) as in `enhance`."""
    if resize == "bilinear":
        return F.interpolate(mask, size, mode="bilinear", align_corners=False)
    if resize == "max":
        return F.adaptive_max_pool2d(mask, size)
    if resize in ("area", "nearest"):
        return F.interpolate(mask, size, mode=resize)
    raise InputError(f"FE resize {resize!r}: expected one of {', '.join(RESIZES)}")


def strength(schedule: str, iteration: int, iterations: int) -> float:
    """Factor on the mask in an iteration (from 0): 1 for "constant", from 1 to 0 along half a cosine for "cosine".

    With "cosine" (Derakhshani et al. 2019, section 3), the heads finally train on the same features as at test time.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"FE schedule {schedule!r}: expected one of {', '.join(SCHEDULES)}")
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * min(iteration / iterations, 1))) / 2


@torch.no_grad()
def box_mask(images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Mask of the boxes, Tensor[N, 1, H, W] float32: 1 inside, 0 outside. Arguments as in `enhancement_mask`."""
    rows, columns = _pixels_inside(boxes, images[:, 0].float())
    return torch.einsum("nkh,nkw->nhw", rows, columns).clamp_(max=1).unsqueeze(1)


class FeatureEnhancement(nn.Module):
    """FE as a layer: call `mask` once per batch, then call the layer with every feature map; see `enhance`.

    `strength` (see the function of that name) weakens the mask. `strength` is not a weight and not in the state dict.
    """

    def __init__(self, beta: float = 1.5, resize: str = "bilinear", weighting: str = "equation") -> None:
        super().__init__()
        self.beta, self.resize, self.weighting = beta, resize, weighting
        self.strength = 1.0

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The FE mask of the images times the layer's strength, see `enhancement_mask`."""
        return enhancement_mask(images, boxes, self.beta) * self.strength

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], enhanced in training mode and unchanged in evaluation mode."""
        return enhance(features, mask, self.resize, self.weighting) if self.training else features
