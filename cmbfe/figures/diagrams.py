"""Figures 1, 2 and 3 of the paper, drawn from a real image, the real layer and the real model."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from cmbfe.figures.style import COLOURS, GROUND_TRUTH_COLOUR, draw_scale_bar, head_square, show_image

STEPS = {
    "image": "image P,\nground truth",
    "inside": "P inside the boxes",
    "mask": "mask M: large where P\nis dark, 0 where bright",
    "resized": "M on the feature map",
    "features": "features X\n(one channel)",
    "enhanced": "X + M·X",
    "difference": "what FE added",
}
LAYER_NAMES = {
    "vgg16": ("conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2", "conv12_2"),
    "resnet34": ("layer3", "extra 1", "extra 2", "extra 3", "extra 4", "extra 5"),
    "mobilenet_v2": ("layer 13", "layer 18", "extra 1", "extra 2", "extra 3", "extra 4"),
}


def enhancement_figure(
    steps: Mapping[str, np.ndarray], boxes: np.ndarray, centre: int = 0, side: int = 64, pixel_mm: float | None = None
) -> Figure:
    """The FE process step by step (paper Figure 1), zoomed to one box.

    Args:
        steps: the result of `cmbfe.detector.explain.enhancement_steps`, as arrays [rows, columns].
        boxes: [K, 4] xyxy px of the image; `centre` is the row of the box in the middle.
        side: width of the zoom, px of the image. pixel_mm: size of a pixel; no scale bar without it.
    """
    size = steps["image"].shape[0]
    middle = boxes[centre].reshape(2, 2).mean(axis=0)
    left, top = np.clip(middle - side / 2, 0, size - side)
    on_map = ("features", "enhanced")
    figure = plt.figure(figsize=(8.8, 5), layout="constrained")
    axes = [figure.add_subplot(2, 4, number) for number in range(1, len(STEPS) + 1)]
    for axis, (name, title) in zip(axes, STEPS.items(), strict=True):
        same_scale = on_map if name in on_map else (name,)
        high = 1 if name in ("mask", "resized") else max(1e-6, *(steps[key].max() for key in same_scale))
        colours = "gray" if name in ("image", "inside") else "magma"
        axis.imshow(steps[name], cmap=colours, vmin=0, vmax=high, extent=(0, size, size, 0), interpolation="nearest")
        for x_min, y_min, x_max, y_max in boxes:
            look = {"fill": False, "edgecolor": GROUND_TRUTH_COLOUR, "linewidth": 1.2}
            axis.add_patch(Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, **look))
        axis.set(xlim=(left, left + side), ylim=(top + side, top))
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    if pixel_mm:
        draw_scale_bar(axes[0], left + 0.05 * side, top + 0.94 * side, 5, pixel_mm, 0.02 * side)
    plt.close(figure)
    return figure


def difference_figure(
    image: np.ndarray, boxes: np.ndarray, differences: Mapping[str, np.ndarray], pixel_mm: float, title: str = ""
) -> Figure:
    """Draw what FE adds to single channels of the feature map, all in one colour scale (paper Figure 3).

    Part (a) is the input with ground truth. Part (b), above, is a channel after FE minus before FE. Part (c), below, is
    the same difference over the input. The air around the head is cropped.

    Args:
        image: uint8 [S, S]. boxes: [K, 4] xyxy px of the image.
        differences: name of a channel -> [h, w], zero or above.
        pixel_mm: size of a pixel of the image.
    """
    size, columns = len(image), len(differences)
    left, top, side = head_square(image)
    image, boxes = image[top : top + side, left : left + side], boxes - np.tile([left, top], 2)
    highest = max(1e-6, *(float(values.max()) for values in differences.values()))
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    figure = plt.figure(figsize=(3.4 + 1.8 * columns, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, columns + 2)
    first = figure.add_subplot(grid[:, :2])
    show_image(first, image, {GROUND_TRUTH_COLOUR: sides}, pixel_mm, "(a) input, ground truth")
    how = {"cmap": "magma", "vmin": 0, "vmax": highest, "interpolation": "nearest"}
    how["extent"] = (-left, size - left, size - top, -top)
    below = []
    for column, (name, values) in enumerate(differences.items(), 2):
        above, over = (figure.add_subplot(grid[row, column]) for row in (0, 1))
        drawn = above.imshow(values, **how)
        above.set(xlim=(0, side), ylim=(side, 0))
        above.set_title(f"(b) {name}", fontsize=10)
        above.set_axis_off()
        show_image(over, image, pixel_mm=pixel_mm, title="(c) over the input")
        over.imshow(values, alpha=np.sqrt((values / highest).clip(0, 1)), **how)
        over.set(xlim=(0, side), ylim=(side, 0))
        below += [above, over]
    figure.colorbar(drawn, ax=below, shrink=0.6, label="difference of the feature map")
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure


def strongest_box(mask: np.ndarray, boxes: np.ndarray) -> int:
    """Row of the box (xyxy px, [K, 4]) that holds the largest value of the mask [rows, columns]."""
    rows, columns = mask.shape
    corners = boxes.round().astype(int).clip(0, [columns - 1, rows - 1, columns - 1, rows - 1])
    return int(np.argmax([mask[top : bottom + 1, left : right + 1].max() for left, top, right, bottom in corners]))


def architecture_figure(
    trunk: str, input_px: int, cells: Sequence[int], channels: Sequence[int], boxes_per_cell: Sequence[int],
    placement: str = "trunk",
) -> Figure:  # fmt: skip
    """Draw SSD with FE (paper Figure 2): feature maps from left to right, heads below, FE in training only.

    Args:
        trunk: key of LAYER_NAMES. cells, channels, boxes_per_cell: sizes of each feature map that the heads use.
        placement: where FE is applied (A4).
    """
    figure, axes = plt.subplots(figsize=(9.6, 4.6), layout="constrained")
    names = LAYER_NAMES[trunk][: len(cells)]
    heights = [0.35 + 2.2 * np.log2(side + 1) / np.log2(cells[0] + 1) for side in cells]
    axes.set(xlim=(-0.2, 13.7), ylim=(-2.3, 3.9), aspect="auto")
    axes.set_axis_off()
    _block(axes, 0, 1.5, 1.4, 3, f"image P\n{input_px}×{input_px}×3", "0.85")
    starts, width, fe = np.array([2.3, *np.linspace(5.7, 12.4, len(cells) - 1)]), 1.1, COLOURS["SSD-FE"]
    for x, height, name, side, depth in zip(starts, heights, names, cells, channels, strict=True):
        _block(axes, x, 1.5, width, height, f"{name}\n{side}×{side}\n×{depth}", "#CFE3F2")
    for begin, end in zip([1.4, *(starts[:-1] + width)], starts, strict=True):
        _arrow(axes, (begin, 1.5), (end, 1.5))
    fork = 4.95  # from here the first map goes to its head and to the deeper maps
    _block(
        axes, 3.6, 3.2, 3.2, 1.1, "FE, in training only:\nX + M·X, with M from P\nand the ground truth", "white", fe
    )
    _arrow(axes, (0.7, 3.2), (3.6, 3.2), fe, "dashed")
    axes.plot([0.7, 0.7], [3, 3.2], color=fe, linestyle="dashed", linewidth=1.2)
    axes.plot([fork, fork], [1.5, -0.75], color="0.3", linewidth=1.2)
    if trunk == "vgg16":
        _block(axes, fork - 0.45, 0.6, 0.9, 0.4, "L2 norm", "white")
    if placement in ("trunk", "both"):
        _arrow(axes, (4.2, 2.65), (4.2, 1.7), fe, "dashed")
        _block(axes, 3.95, 1.5, 0.5, 0.4, "FE", "white", fe)
    if placement in ("source", "both"):
        axes.plot([3.7, 3.7], [2.65, -0.1], color=fe, linestyle="dashed", linewidth=1.2)
        _arrow(axes, (3.7, -0.1), (fork - 0.25, -0.1), fe, "dashed")
        _block(axes, fork - 0.25, -0.1, 0.5, 0.4, "FE", "white", fe)
    downwards = np.array([fork, *(starts[1:] + width / 2)])
    for x, height, side, shapes in zip(downwards, [3, *heights[1:]], cells, boxes_per_cell, strict=True):
        if x != fork:
            axes.plot([x, x], [1.5 - height / 2, -0.75], color="0.3", linewidth=1.2)
        count = f"{side}·{side}·{shapes} =\n{side * side * shapes:,} boxes"
        axes.text(x, -1.05, count, ha="center", va="center", fontsize=8.5)
        _arrow(axes, (x, -1.35), (x, -1.7))
    total = sum(side * side * shapes for side, shapes in zip(cells, boxes_per_cell, strict=True))
    heads = f"heads: class and box of {total:,} default boxes, then non-maximum suppression"
    _block(axes, 4.3, -2.0, starts[-1] + width - 4.3, 0.5, heads, "#E8E8E8")
    plt.close(figure)
    return figure


def _block(
    axes: Axes, left: float, middle: float, width: float, height: float, text: str, fill: str, edge: str = "0.3"
) -> None:
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": fill, "edgecolor": edge, "linewidth": 1.2}
    axes.add_patch(FancyBboxPatch((left, middle - height / 2), width, height, zorder=3, **look))
    axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=9, zorder=4)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "0.3", line: str = "solid"
) -> None:
    style = {"arrowstyle": "->", "color": colour, "linestyle": line, "linewidth": 1.2}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
