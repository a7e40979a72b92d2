"""Default boxes: their positions, the encoding of a box relative to them, and the boxes that they can match.

Corners (xyxy) are in px: pixel (row i, column j) covers [j, j + 1] x [i, i + 1]. Default boxes are stored as
cx, cy, w, h in fractions of the input, as published tables give them.
"""

import math
import tomllib
from importlib.resources import files
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from cmbfe.errors import InputError

OFFSET_WEIGHT, SIZE_WEIGHT = 10.0, 5.0
"""Regression targets are centre offsets times 10 and log sizes times 5: SSD's "variances" of 0.1 and 0.2."""
LARGEST_LOG_GROWTH = math.log(1000 / 16)
"""Bound on predicted log sizes, so that exp stays finite; torchvision's value."""


class Grid(NamedTuple):
    """Centres and shapes of the default boxes of an input size; one entry per feature map."""

    maps: tuple[int, ...]  # cells per side
    steps: tuple[float, ...]  # distance between the centres of neighbouring cells, px
    ratios: tuple[tuple[int, ...], ...]  # aspect ratios besides 1; each r gives two boxes, r:1 and 1:r

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Default boxes per cell of each map: two squares, and two boxes for every aspect ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


GRIDS = {
    300: Grid((38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))),
    320: Grid((20, 10, 5, 3, 2, 1), (16, 32, 64, 320 / 3, 160, 320), ((2, 3),) * 6),
    512: Grid(
        (64, 32, 16, 8, 4, 2, 1),
        (8, 16, 32, 64, 128, 256, 512),
        ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    ),
}
_SIZES_FILE = files("cmbfe.detector") / "default_boxes.toml"
SIZES: dict[str, dict[str, list[float]]] = tomllib.loads(_SIZES_FILE.read_text(encoding="utf-8"))
"""Sides of the default squares in px, by preset and by side of the input in px. The TOML file names the sources."""


def default_boxes(preset: str, input_size: int) -> Tensor:
    """Default boxes Tensor[P, 4] (cx, cy, w, h, fractions of the input) in the order of the predictions.

    Map k has squares of size s_k and sqrt(s_k s_{k+1}), and s_k stretched to every aspect ratio (Liu et al. 2016,
    section 2.2). Boxes are ordered by map, row, column and shape. No box exceeds the input's size; some cross its edge.
    """
    if preset not in SIZES:
        raise InputError(f"default boxes {preset!r}: expected one of {', '.join(SIZES)}")
    grid, sizes = GRIDS[input_size], SIZES[preset][str(input_size)]
    maps = zip(grid.maps, grid.steps, grid.ratios, sizes[:-1], sizes[1:], strict=True)
    return torch.cat([_boxes_of_map(input_size, *of_map) for of_map in maps])


def _boxes_of_map(
    input_size: int, cells: int, step: float, ratios: tuple[int, ...], size: float, next_size: float
) -> Tensor:
    shapes = [(size, size), (math.sqrt(size * next_size),) * 2]
    for ratio in ratios:
        long, short = size * math.sqrt(ratio), size / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    sides = (torch.tensor(shapes, dtype=torch.float64) / input_size).clamp(max=1).float()
    centres = (torch.arange(cells) + 0.5) / (input_size / step)
    cy, cx = torch.meshgrid(centres, centres, indexing="ij")
    cell = torch.stack([cx, cy], dim=-1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)
    return torch.cat([cell, sides.expand(cells * cells, -1, 2)], dim=-1).reshape(-1, 4)


def corners(default: Tensor, input_size: int) -> Tensor:
    """Convert default boxes Tensor[P, 4] from fractions (cx, cy, w, h) to corners xyxy in px of the input."""
    return box_convert(default, "cxcywh", "xyxy") * input_size


def encode(boxes: Tensor, default: Tensor) -> Tensor:
    """Regression targets of `boxes` relative to the default boxes `default` (xyxy, [..., 4], broadcastable)."""
    centre, size = _centre_and_size(boxes)
    default_centre, default_size = _centre_and_size(default)
    offset = (centre - default_centre) / default_size
    return torch.cat([OFFSET_WEIGHT * offset, SIZE_WEIGHT * (size / default_size).log()], dim=-1)


def decode(regression: Tensor, default: Tensor) -> Tensor:
    """Boxes xyxy [..., 4] from regressions and default boxes xyxy, the inverse of `encode`."""
    default_centre, default_size = _centre_and_size(default)
    centre = regression[..., :2] / OFFSET_WEIGHT * default_size + default_centre
    size = (regression[..., 2:] / SIZE_WEIGHT).clamp(max=LARGEST_LOG_GROWTH).exp() * default_size
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def coverage(boxes: Tensor, default: Tensor, input_size: int) -> pd.DataFrame:
    """How well default boxes can match ground truth: a row per box of `boxes` (Tensor[K, 4], xyxy px of the input).

    default: Tensor[P, 4] fractions. Columns: `size_px` (square root of the area), `best_iou` with any default box, and
    `reachable` (best IoU at least 0.5). A box that is not reachable is learnt from its forced match only.
    """
    placed = corners(default, input_size)
    best = torch.cat([box_iou(part, placed).amax(dim=1) for part in boxes.split(256)])  # bounds memory
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    return pd.DataFrame({"size_px": size, "best_iou": best, "reachable": best >= 0.5})


def coverage_of_presets(boxes: Tensor) -> pd.DataFrame:
    """`coverage` of every preset at every input size, in one table.

    boxes: Tensor[K, 4] xyxy as fractions of the image, since each detector resizes images to its own input. Columns:
    `box` (row in `boxes`), `input_px`, `default_boxes` (the preset) and the columns of `coverage`.
    """
    parts = {
        (size, preset): coverage(boxes * size, default_boxes(preset, size), size)
        for size in GRIDS
        for preset in SIZES
    }
    table = pd.concat(parts, names=["input_px", "default_boxes", "box"]).reset_index()
    return table[["box", *table.columns.drop("box")]]
