"""The style of every figure: SSD and SSD-FE in the same two colours, images in grey, a scale bar in mm."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw

from cmbfe.data.labelled.images import magnitude_of, read_image
from cmbfe.data.labelled.labels import Labels
from cmbfe.files import whole_file

COLOURS = {"SSD": "#0072B2", "SSD-FE": "#D55E00"}
"""Blue and vermilion of Okabe and Ito's colour-blind-safe palette."""
GROUND_TRUTH_COLOUR = "#F0E442"
MIMIC_COLOUR = "#CC79A7"
PRESET_COLOURS = ("#009E73", "#CC79A7", "#E69F00")
BASELINE_COLOURS = dict(zip(("radial-symmetry", "thresholding", "cascade"), PRESET_COLOURS, strict=True))
"""Colours of the same palette, which the default-box presets also use."""
DOTS_PER_INCH, CUT_OUT_PX = 150, 32


@contextmanager
def theme() -> Iterator[None]:
    """Use the project's figure style inside the block."""
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        yield


@contextmanager
def new_figure(*shape: int, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure in the project's style with its axes, to draw on inside the block. Arguments as in `plt.subplots`."""
    with theme():
        figure, axes = plt.subplots(*shape, layout="constrained", **options)
        yield figure, axes
    plt.close(figure)


def arm(variant: str) -> str:
    """The arm of a variant, "SSD" or "SSD-FE"."""
    return "SSD-FE" if variant.endswith("-fe") else "SSD"


def colour(name: str) -> str:
    """The colour of a variant (that of its arm) or of a baseline."""
    return BASELINE_COLOURS.get(name) or COLOURS[arm(name)]


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float = 0.065) -> None:
    """Write the name of each line to the right of the axes, at its end and in its colour. Close names are stacked.

    Args:
        ends: name -> height on the axis, colour. gap: smallest distance between two names, as a share of the axis.
    """
    low, high = axes.get_ylim()
    step, lowest = gap * (high - low), -np.inf
    names = sorted(ends, key=lambda name: ends[name][0])
    for above, name in zip(reversed(range(len(names))), names, strict=True):
        height = max(ends[name][0], lowest)
        lowest = height + step
        place = {"xy": (1.02, min(height, high - above * step)), "xycoords": ("axes fraction", "data")}
        axes.annotate(name, color=ends[name][1], va="center", fontsize=11, annotation_clip=False, **place)


def save(figure: Figure, path: Path, svg: bool = True) -> None:
    """Write a figure as PNG and SVG (`svg=False` for figures of images). Equal figures give equal bytes."""
    how, drawn = {"dpi": DOTS_PER_INCH, "bbox_inches": "tight"}, io.BytesIO()
    figure.savefig(drawn, **how)
    with whole_file(path) as temporary:
        temporary.write_bytes(compact_png(drawn.getvalue()))
    if not svg:
        return
    # By default, ids in an SVG are random, text is outlines of glyphs, and metadata contain date and version.
    settings = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    with whole_file(path.with_suffix(".svg")) as temporary, plt.rc_context(settings):
        figure.savefig(temporary, metadata={"Date": None, "Creator": None}, **how)


def compact_png(png: bytes) -> bytes:
    """A PNG in at most 256 colours, without transparency and metadata. This saves about a third of the bytes."""
    compact = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        compact, "png", optimize=True
    )
    return compact.getvalue()


def show_image(
    axes: Axes,
    image: np.ndarray,
    boxes: Mapping[str, Sequence[Sequence[float]]] | None = None,
    pixel_mm: float | None = None,
    title: str = "",
    bar_mm: float = 20,
    head_only: bool = False,
) -> None:
    """Draw a grey image with thin boxes and a scale bar.

    Args:
        image: uint8 [rows, columns]; with phase [rows, columns, 2], only the magnitude is drawn.
        boxes: colour -> boxes [x, y, w, h] px.
        pixel_mm: size of a pixel; no scale bar without it. bar_mm: length of the bar.
        head_only: show only the `head_square` of the image, which must be square.
    """
    image = magnitude_of(image)
    rows, columns = image.shape
    left, top, side = head_square(image) if head_only else (0, 0, None)
    right, bottom = (left + side, top + side) if side else (columns, rows)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, columns, rows, 0), interpolation="nearest")
    for colour, drawn in (boxes or {}).items():
        for x, y, width, height in drawn:
            frame = plt.Rectangle((x - 1, y - 1), width + 2, height + 2, fill=False, edgecolor=colour, linewidth=1)
            axes.add_patch(frame)
    if pixel_mm:
        gap = 0.02 * (bottom - top)
        draw_scale_bar(axes, left + 0.05 * (right - left), bottom - 2.5 * gap, bar_mm, pixel_mm, gap)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def draw_scale_bar(axes: Axes, left: float, bottom: float, bar_mm: float, pixel_mm: float, gap: float) -> None:
    """Draw a white bar with a dark edge from a point in px, and write its length `gap` px above the bar."""
    edged = {"color": "white", "path_effects": [patheffects.withStroke(linewidth=3, foreground="black")]}
    axes.plot([left, left + bar_mm / pixel_mm], [bottom, bottom], linewidth=2, **edged)
    axes.text(left, bottom - gap, f"{bar_mm:g} mm", fontsize=8, **edged)


def image_grid(columns: int, rows: int = 1, size_inches: float = 3.2) -> tuple[Figure, np.ndarray]:
    """A figure of `rows` x `columns` empty image axes, returned as a flat array."""
    size = (columns * size_inches, rows * size_inches)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, axes.ravel()


def labelled_images_figure(
    arrays: Sequence[np.ndarray], images: Sequence[Mapping], drawn: Mapping[str, Sequence[Mapping]]
) -> Figure:
    """Images of heads, uint8 [S, S], two per row, with the boxes of several label or result files.

    Args:
        images: for each of `arrays` its COCO `images` entry, which has an `id`.
        drawn: colour -> COCO annotations or results of any images; later colours are drawn around earlier ones.
    """
    figure, axes = image_grid(2, max(1, -(-len(images) // 2)), size_inches=4.2)
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    for axis, pixels, image in zip(axes, arrays, images, strict=False):
        by_colour = drawn.items()
        here = {edge: [box["bbox"] for box in boxes if box["image_id"] == image["id"]] for edge, boxes in by_colour}
        show_image(axis, pixels, inside_each_other(here), head_only=True)
    plt.close(figure)
    return figure


def inside_each_other(boxes: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[list[float]]]:
    """Boxes by colour. So that no box hides another, each colour grows by 1.5 px more per side than the one before."""
    return {
        edge: [[x - by, y - by, width + 2 * by, height + 2 * by] for x, y, width, height in of_colour]
        for by, (edge, of_colour) in zip(np.arange(len(boxes)) * 1.5, boxes.items(), strict=True)
    }


def head_square(image: np.ndarray, margin: float = 0.03) -> tuple[int, int, int]:
    """Left, top and side (px) of the square around all pixels brighter than an eighth of the grey scale.

    `image` is uint8 [S, S], and `margin` a share of S.
    """
    bright = [np.flatnonzero((image > 32).any(axis=axis)) for axis in (0, 1)]
    if not len(bright[0]):
        return 0, 0, len(image)
    lowest, highest = (np.array([end(places) for places in bright]) for end in (np.min, np.max))
    side = min(len(image), int(max(highest - lowest) + 1 + 2 * margin * len(image)))
    left, top = np.clip((lowest + highest + 1 - side) // 2, 0, len(image) - side).tolist()
    return left, top, side


def cut_out(image: np.ndarray, box: Sequence[float], side_px: int) -> np.ndarray:
    """The square of `side_px` around the centre of a box [x, y, w, h] px; black outside the image."""
    x, y = int(box[0] + box[2] / 2), int(box[1] + box[3] / 2)
    half = side_px // 2
    return np.pad(magnitude_of(image), half)[y : y + side_px, x : x + side_px]


def examples_figure(labels: Labels, mimics: Labels, folder: Path, seed: int, columns: int = 8) -> Figure:
    """Random microbleeds in the first row, and a row per kind of mimic below. `folder` holds the images."""
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    rows = {"microbleed": labels["annotations"]}
    for number, kind in kinds.items():
        rows[kind] = [box for box in mimics["annotations"] if box["category_id"] == number]
    patients, rng = {image["id"]: image["patient_id"] for image in labels["images"]}, np.random.default_rng(seed)
    drawn = []
    for kind, boxes in rows.items():
        one_each = list({(patients[box["image_id"]], box["lesion_id"]): box for box in boxes}.values())
        chosen = rng.permutation(len(one_each))[:columns]
        drawn += [(kind, one_each[index]) for index in chosen] + [(kind, None)] * (columns - len(chosen))
    files = {image["id"]: folder / image["file_name"] for image in labels["images"]}
    figure, axes = image_grid(columns, len(rows), size_inches=1.3)
    for axis, (kind, box) in zip(axes, drawn, strict=True):
        axis.set_axis_off()
        if box:
            show_image(axis, cut_out(read_image(files[box["image_id"]]), box["bbox"], CUT_OUT_PX), title=kind)
    plt.close(figure)
    return figure


def crops_figure(crops: Sequence[np.ndarray], side_mm: float, names: Sequence[str] = (), columns: int = 10) -> Figure:
    """Numbered crops, uint8 [side, side], at their true size on paper (`side_mm`), with `names` if given."""
    rows = -(-len(crops) // columns)
    figure, axes = image_grid(min(columns, len(crops)), rows, size_inches=side_mm / 25.4)
    figure.set_figheight(figure.get_figheight() + rows * (0.4 if names else 0.25))  # room for the titles
    for axis in axes:
        axis.set_axis_off()
    for number, (axis, crop) in enumerate(zip(axes, crops, strict=False)):
        show_image(axis, crop)
        axis.set_title("\n".join([str(number + 1), *names[number : number + 1]]), fontsize=8, pad=1)
    plt.close(figure)
    return figure


def sizes_figure(sizes_mm: pd.Series) -> Figure:
    """A histogram of the sizes of boxes, with the paper's range for microbleeds, 2 to 10 mm, shaded."""
    with new_figure(figsize=(6.4, 3)) as (figure, axis):
        axis.hist(
            sizes_mm, bins=np.arange(np.ceil(sizes_mm.max()) + 1), color="0.5", ec="0.5"
        )  # bins of 1 mm, two pixels
        axis.axvspan(2, 10, color="0.9", zorder=0)
        axis.set(xlabel="longer side, mm", ylabel="boxes", title="Size of the microbleeds")
    return figure


def map_grid(maps: Mapping[str, tuple[np.ndarray, tuple[float, float]]], columns: int = 4) -> Figure:
    """Grey maps, each with a colour bar. `maps`: title with unit -> map [rows, columns], values of black and white."""
    rows = -(-len(maps) // columns)
    figure, axes = image_grid(columns, rows, size_inches=2.8)
    for axis, (title, (values, (low, high))) in zip(axes, maps.items(), strict=False):
        shown = axis.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        figure.colorbar(shown, ax=axis, shrink=0.7).ax.tick_params(labelsize=7)
    for axis in axes:
        axis.set_axis_off()
    plt.close(figure)
    return figure


def blooming_figure(table: pd.DataFrame) -> Figure:
    """Plot `visible_mm` against `echo_time_ms`: for each `true_mm` a line, and a dotted line at the true size."""
    with new_figure(figsize=(6.4, 3.6)) as (figure, axes):
        by_size = table.groupby("true_mm")
        for (true_mm, part), hue in zip(by_size, sns.color_palette("viridis", len(by_size)), strict=True):
            axes.plot(part["echo_time_ms"], part["visible_mm"], "o-", color=hue, label=f"{true_mm:g} mm")
            axes.axhline(true_mm, color=hue, linestyle=":", linewidth=1.5)
        axes.set(xlabel="echo time, ms", ylabel="visible diameter, mm", ylim=(0, None))
        axes.set_title("Blooming of a microbleed")
        axes.legend(title="true diameter", loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure


def coverage_figure(reachable: pd.DataFrame) -> Figure:
    """Share of boxes that default boxes can match, by size of the microbleed; a panel per input size.

    `reachable`: result of `cmbfe.data.sources.report.coverage_table`.
    """
    shares = reachable.drop(columns="all").melt(ignore_index=False, var_name="size", value_name="share").reset_index()
    presets = sorted(shares["default_boxes"].unique())
    look = {"hue": "default_boxes", "hue_order": presets, "palette": PRESET_COLOURS[: len(presets)]}
    with theme():
        grid = sns.catplot(shares, kind="bar", x="size", y="share", col="input_px", height=3, aspect=1, **look)
    grid.set(ylim=(0, 1)).set_titles("input of {col_name} px")
    grid.set_axis_labels("longer side of the microbleed", "share with IoU ≥ 0.5")
    grid.set_xticklabels(size=9)
    grid.legend.set_title("default boxes")
    plt.close(grid.figure)
    return grid.figure


def learning_curves_figure(histories: Mapping[str, pd.DataFrame], window: int = 20) -> Figure:
    """The training losses of a detector and its twin, as running means over `window` iterations, and the validation AP.

    `histories`: variant -> result of `cmbfe.training.loop.train`.
    """
    with new_figure(1, 2, figsize=(9, 3.6), sharex=True) as (figure, (left, right)):
        ends, losses = {}, {"classification": "-", "box regression": "--"}
        for variant, history in histories.items():
            look = {"color": COLOURS[arm(variant)], "linewidth": 1.2}
            for name, line in losses.items():
                smooth = history[name.replace(" ", "_")].rolling(window, min_periods=1).mean()
                left.plot(history["iteration"], smooth, line, **look)
            measured = history.dropna(subset="validation_ap")
            right.plot(measured["iteration"], measured["validation_ap"], "o-", **look)
            ends[variant] = (measured["validation_ap"].iloc[-1], look["color"])
        for change in history["iteration"][history["learning_rate"].diff() < 0]:
            left.axvline(change, color="0.4", linestyle=":", linewidth=1)
        left.set(xlabel="iteration", ylabel="loss", title="Training loss", yscale="log")
        kinds = [Line2D([], [], color="0.3", linestyle=line, label=name) for name, line in losses.items()]
        left.legend(handles=kinds, fontsize=10)
        right.set(xlabel="iteration", ylabel="AP", title="Validation patients, FE off", ylim=(0, None))
        label_ends(right, ends, gap=0.09)
    return figure


def overlay(pixels: np.ndarray, detections: Sequence[Mapping]) -> Image.Image:
    """Draw a frame and a score for each detection (COCO results) on an image, uint8 [rows, columns]; returns RGB."""
    image = Image.fromarray(pixels).convert("RGB")
    pen = ImageDraw.Draw(image)
    for detection in detections:
        x, y, width, height = detection["bbox"]
        pen.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=COLOURS["SSD-FE"])
        pen.text((x - 2, y - 14), f"{detection['score']:.2f}", fill=COLOURS["SSD-FE"])
    return image
