"""Drawing of a gallery's view for the viewer: images as PNG, with boxes and FROC points over them as SVG."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from cmbfe.data.labelled.images import read_image
from cmbfe.figures import evidence, style
from cmbfe.figures.gallery import GROUND_TRUTH, LAYER_MEANING, Gallery, View, boxes_of, froc_point, image_of, layer_of
from cmbfe.figures.html import templates
from cmbfe.metrics.curves import X_MAX

LAYER_COLOUR = "#009E73"
"""A colour of the figures' palette that neither arm uses."""


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each detector. The first detector of an arm has the arm's colour; others have remaining colours."""
    chosen: dict[str, str] = {}
    others = iter(style.PRESET_COLOURS * 100)
    for name in names:
        of_arm = style.COLOURS[style.arm(name)]
        chosen[name] = next(others) if of_arm in chosen.values() else of_arm
    return chosen


def _box_colours(gallery: Gallery) -> dict[str, str]:
    return colours(gallery.detections) | {GROUND_TRUTH: style.GROUND_TRUTH_COLOUR}


def png(pixels: np.ndarray) -> bytes:
    """uint8 [rows, columns] or [rows, columns, 3] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


def with_layer(image: np.ndarray, layer: np.ndarray | None) -> np.ndarray:
    """A grey image with a layer over it in colour, opaque where the layer is largest: uint8 [rows, columns, 3].

    Args:
        image: uint8 [rows, columns].
        layer: float of any size, 0 or more, see `cmbfe.figures.gallery.layer_of`; None leaves the image unchanged.
    """
    if layer is None:
        return image
    opacity = Image.fromarray((layer / (layer.max() or 1)).astype(np.float32))
    share = np.asarray(opacity.resize(image.shape[::-1], Image.Resampling.NEAREST))[..., None]
    colour = 255 * np.array(to_rgb(LAYER_COLOUR))
    return np.rint(image[..., None] * (1 - share) + colour * share).astype(np.uint8)


def image_png(gallery: Gallery, view: View) -> bytes:
    """The image with its layer as a PNG file."""
    pixels = read_image(gallery.folder / image_of(gallery, view)["file_name"])
    return png(with_layer(pixels, layer_of(gallery, view)))


def image_overlay(gallery: Gallery, view: View) -> str:
    """The boxes with their scores and the scale bar as SVG elements, in px of the image."""
    image, colour_of, macros = image_of(gallery, view), _box_colours(gallery), _macros()
    below = list(gallery.detections)[1::2]  # the scores of twins would overlap
    drawn = []
    for name, shown in boxes_of(gallery, view).items():
        labelled = [*zip_longest(shown.boxes, [f"{score:.2f}" for score in shown.scores])]
        drawn.append(macros.boxes(labelled, colour_of[name], image["width"] / 40, name in below))
    return "".join([*drawn, macros.scale_bar(image)])


def _macros() -> Any:
    return templates("cmbfe.figures").get_template("drawing.svg.jinja").module


@dataclass(frozen=True)
class FrocImage:
    """The FROC curves as a PNG, drawn once, with a method for the position of a point."""

    png: bytes
    size: tuple[int, int]  # columns and rows, px
    corners: np.ndarray
    """px (x, y from the upper left corner) of the points (0, 0) and (x_max, 1), float64 [2, 2]."""
    x_max: float

    def place(self, false_positives: float, sensitivity: float) -> np.ndarray:
        """Position of a FROC point in px of the image. Points beyond the right edge are placed on the edge."""
        share = np.array([min(false_positives / self.x_max, 1), sensitivity])
        return self.corners[0] + share * (self.corners[1] - self.corners[0])


def froc_image(gallery: Gallery, x_max: float = X_MAX, dots_per_inch: int = 160) -> FrocImage:
    """Draw the FROC of every detector as an image."""
    file = io.BytesIO()
    with style.new_figure(figsize=(5, 3.6), dpi=dots_per_inch) as (figure, axes):
        draw_froc(axes, gallery, x_max)
        axes.legend(loc="lower right", fontsize=9)
        figure.savefig(file, format="png", dpi=dots_per_inch)
    columns, rows = (int(side) for side in figure.bbox.size)
    corners = axes.transData.transform([(0, 0), (x_max, 1)])
    return FrocImage(file.getvalue(), (columns, rows), np.abs([0, rows] - corners), x_max)


def draw_froc(axes: Axes, gallery: Gallery, x_max: float = X_MAX) -> None:
    """Draw the FROC of every detector on axes."""
    for name, colour in colours(gallery.curves).items():
        evidence.draw_froc(axes, gallery.curves[name], name, colour, x_max)


def froc_overlay(gallery: Gallery, view: View, froc: FrocImage) -> str:
    """A dot on each curve at the threshold, as SVG elements, in px of the FROC image."""
    curves = gallery.curves
    dots = [
        (*froc.place(*froc_point(curves[name], view.threshold)), colour) for name, colour in colours(curves).items()
    ]
    return str(_macros().dots(dots, froc.size[1] / 50))


def caption(gallery: Gallery, view: View) -> str:
    """A description of the view as HTML."""
    colour_of = _box_colours(gallery)
    lines = [(None, f"{view.series}, slice {view.position + 1} of {len(gallery.series[view.series])}")]
    if gallery.truth is not None and image_of(gallery, view)["id"] not in gallery.truth:
        lines.append((None, "not among the images on which the FROC rests"))
    lines += [(colour_of[name], f"{name}: {len(shown.boxes)}") for name, shown in boxes_of(gallery, view).items()]
    if view.layer in LAYER_MEANING:
        lines.append((None, LAYER_MEANING[view.layer]))
    return str(_macros().caption(lines))


def froc_caption(gallery: Gallery, view: View) -> str:
    """A description of the points on the FROC as HTML."""
    text = "{2}: sensitivity {1:.3f} at {0:.2f} false positives per image"
    lines = [text.format(*froc_point(curve, view.threshold), name) for name, curve in gallery.curves.items()]
    return str(_macros().caption([(None, line) for line in lines]))


def view_figure(gallery: Gallery, view: View) -> Figure:
    """A static figure of the view: the image with its boxes and, if there is ground truth, the FROC with its points."""
    image, colour_of = image_of(gallery, view), _box_colours(gallery)
    panels = 2 if gallery.curves else 1
    shape = {"figsize": (5 * panels, 5.2), "squeeze": False}
    with style.new_figure(1, panels, **shape) as (figure, axes):
        drawn = style.inside_each_other({colour_of[name]: boxes_of(gallery, view)[name].boxes for name in view.shown})
        spacing = image.get("pixel_spacing_mm", (None, None))[1]
        title = f"{view.series}, slice {view.position + 1}, scores from {view.threshold:.2f} on"
        style.show_image(axes[0, 0], read_image(gallery.folder / image["file_name"]), drawn, spacing, title)
        if gallery.curves:
            draw_froc(axes[0, 1], gallery)
        for name, curve in gallery.curves.items():
            x, y = froc_point(curve, view.threshold)
            axes[0, 1].plot(min(x, X_MAX), y, "o", color=colour_of[name], markersize=9, clip_on=False)
        key = [Patch(fill=False, edgecolor=colour_of[name], label=name) for name in view.shown]
        figure.legend(handles=key, loc="outside lower center", ncols=max(1, len(key)), frameon=False)
    return figure
