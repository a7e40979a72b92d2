"""Feature enhancement (FE, paper section 2.3): in training, features grow where labelled boxes are dark.

Inside a ground-truth box the mask is M = 1 - P / B_mean with B_mean = beta * mean(P in the box), 0 above B_mean
and outside boxes; a feature map X becomes X + M * X. The layer has no weights and is absent at test time.
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
    xyxy px of the images. A pixel is inside a box when its centre is; a box that holds no centre takes the
    pixel that holds the box's own centre. Where boxes overlap, the larger M holds (A3). A black box gives 0.
    """
    if len(boxes) != len(images):
        raise InputError(f"enhancement mask: {len(boxes)} box tensors for {len(images)} images")
    with torch.autocast(images.device.type, enabled=False):
        # Rounding leaves black below 0, which must not count as darker than what lies outside of all boxes.
        image = images.float().mean(dim=1).clamp(min=0)
        rows, columns = _pixels_inside(boxes, image)
        scaled = beta * _mean_inside(image, rows, columns)
        # At one pixel M grows with B_mean, so where boxes overlap the largest B_mean gives the largest M.
        b_mean = torch.zeros_like(image)
        of_each_box = zip(rows.unbind(1), columns.unbind(1), scaled.unbind(1), strict=True)
        for row, column, value in of_each_box:  # the k-th box of every image
            torch.maximum(b_mean, (row * value[:, None])[:, :, None] * column[:, None, :], out=b_mean)
        # 1 - P / B_mean, in a form that is 0 where B_mean is: outside boxes and in black ones.
        mask = (b_mean - image).clamp_(min=0) / b_mean.clamp_(min=torch.finfo(torch.float32).tiny)
        return mask.unsqueeze(1)


def _mean_inside(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean of Tensor[N, H, W] over each box's pixels, [N, K]; 0 where a box holds none."""
    # In float64: on a GPU the user may have allowed products of float32 to be rounded to 10 bits (TF32).
    wide = torch.float32 if image.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    sums = (torch.bmm(rows.to(wide), image.to(wide)) * columns).sum(-1)
    return (sums / (rows.sum(-1) * columns.sum(-1)).clamp(min=1)).to(image.dtype)


def _pixels_inside(boxes: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, K, H] and columns [N, K, W], 1 where the box holds pixels; K: the most boxes of any image."""
    height, width = image.shape[-2:]
    # Rows of NaN pad the shorter lists: no comparison with NaN holds, so they hold no pixel.
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
    """Enhanced features, same shape and dtype as `features` (Tensor[N, C, h, w]); mask: Tensor[N, 1, H, W].

    resize (A2): how the mask comes to h x w. weighting (A5): "equation" X + M * X; "figure" X + M * N(X), where
    N divides each position by its norm over the channels.
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
    """A mask Tensor[N, 1, H, W] at the size (h, w) of a feature map; `resize` (A2) as in `enhance`."""
    if resize == "bilinear":
        return F.interpolate(mask, size, mode="bilinear", align_corners=False)
    if resize == "max":
        return F.adaptive_max_pool2d(mask, size)
    if resize in ("area", "nearest"):
        return F.interpolate(mask, size, mode=resize)
    raise InputError(f"FE resize {resize!r}: expected one of {', '.join(RESIZES)}")


def strength(schedule: str, iteration: int, iterations: int) -> float:
    """Factor on the mask in an iteration, counted from 0: "constant" 1; "cosine" from 1 down to 0 along half a cosine.

    By the cosine (Derakhshani et al. 2019, section 3) the heads end up training on the features of test time.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"FE schedule {schedule!r}: expected one of {', '.join(SCHEDULES)}")
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * iteration / iterations)) / 2


@torch.no_grad()
def box_mask(images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """1 inside the boxes, 0 outside, Tensor[N, 1, H, W] float32; arguments and pixels as in `enhancement_mask`."""
    rows, columns = _pixels_inside(boxes, images[:, 0].float())
    return torch.einsum("nkh,nkw->nhw", rows, columns).clamp_(max=1).unsqueeze(1)


class FeatureEnhancement(nn.Module):
    """FE as a layer: `mask` once per batch, then call it with every feature map to enhance; see `enhance`.

    Set `strength` (see the function) to weaken the mask; it is no weight and not in the state dict.
    """

    def __init__(self, beta: float = 1.5, resize: str = "bilinear", weighting: str = "equation") -> None:
        super().__init__()
        self.beta, self.resize, self.weighting = beta, resize, weighting
        self.strength = 1.0

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The images' mask times the layer's strength, see `enhancement_mask`."""
        return enhancement_mask(images, boxes, self.beta) * self.strength

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], enhanced in training mode, untouched in evaluation mode."""
        return enhance(features, mask, self.resize, self.weighting) if self.training else features
