"""The viewer in JupyterLab: images, detectors' boxes, FE layers and the FROC. Moving the threshold updates them all.

    from cmbfe.figures.viewer import show
    show("images", {"mine": "out/detections.json"})     # as the last line of a cell
    show("images", {"a": ..., "b": ...}, labels="annotations.json", model="models/ssd512-fe")

Where widgets cannot be shown, such as in a notebook on a web page, a figure shows the current view.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from cmbfe.data.labelled.labels import Detections
from cmbfe.figures import gallery_drawing as drawing
from cmbfe.figures.gallery import Gallery, View, first_view, image_of, moved, open_gallery

IMAGES_KEPT = 256  # number of drawn images, with their layers, in the cache
IMAGE_WIDTH, FROC_WIDTH = "34rem", "26rem"


class ImageWidget(anywidget.AnyWidget):
    """An image with an SVG overlay. The widget counts the steps of the mouse wheel."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    png = traitlets.Bytes().tag(sync=True)
    overlay = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(default_value=[1, 1]).tag(sync=True)  # columns and rows, the coordinates of the overlay
    name = traitlets.Unicode().tag(sync=True)  # label for screen readers
    steps = traitlets.Bool(False).tag(sync=True)
    wheel = traitlets.Int(0).tag(sync=True)


def show(images: Path | str, detections: Mapping[str, Path | str | Detections], **options: Any) -> "Viewer":
    """Show detections in a viewer. Arguments, options (`labels`, `model`, `iou`) and errors: see `open_gallery`."""
    return Viewer(open_gallery(images, detections, **options))


class Viewer:
    """The image on the left, with controls on the right. `view` is the current view, and can be set."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self._view = first_view(gallery)
        self._froc = drawing.froc_image(gallery) if gallery.curves else None
        self._image_png = lru_cache(IMAGES_KEPT)(self._drawn)
        self._setting_controls = False
        self._make_controls()
        self.widget = self._arranged()
        self._draw(image_changed=True)
        self._listen()

    @property
    def view(self) -> View:
        """The current view."""
        return self._view

    @view.setter
    def view(self, view: View) -> None:
        old, self._view = self._view, view
        self._set_controls()
        self._draw(image_changed=(old.series, old.position, old.layer) != (view.series, view.position, view.layer))

    def figure(self) -> Any:
        """The current view as a matplotlib figure."""
        return drawing.view_figure(self.gallery, self.view)

    def _make_controls(self) -> None:
        gallery, view = self.gallery, self._view
        low, high = gallery.threshold_range
        wide = {"layout": {"width": "auto"}, "style": {"description_width": "5.5rem"}}
        names, slices = list(gallery.series), len(gallery.series[view.series])
        self.series = ipywidgets.Dropdown(description="patient", options=names, value=view.series, **wide)
        self.slice = ipywidgets.IntSlider(view.position + 1, 1, slices, description="slice", **wide)
        scale = {"min": low, "max": high, "step": (high - low) / 100}
        self.threshold = ipywidgets.FloatSlider(view.threshold, description="threshold", **scale, **wide)
        buttons = {"options": gallery.layers, "style": {"button_width": "7.5rem"}}
        self.layer = ipywidgets.ToggleButtons(value=view.layer, **buttons)
        box = {"indent": False, "layout": {"width": "auto"}}
        self.boxes = {
            name: ipywidgets.Checkbox(name in view.shown, description=name, **box) for name in gallery.drawable
        }
        self.image = ImageWidget(name="image", steps=True)
        self.froc = ImageWidget(name="FROC")
        self.caption, self.froc_caption = ipywidgets.HTML(), ipywidgets.HTML()

    def _arranged(self) -> ipywidgets.Widget:
        """The complete widget: two columns, which are stacked if the window is narrow."""
        controls = [self.series, self.slice, self.threshold, self.layer]
        boxes = ipywidgets.HBox(list(self.boxes.values()), layout={"flex_flow": "row wrap", "grid_gap": "0 1rem"})
        curves = []
        if self._froc is not None:
            self.froc.png, self.froc.size = self._froc.png, list(self._froc.size)
            curves = [self.froc, self.froc_caption]
        left = ipywidgets.VBox([self.image, self.caption], layout={"width": IMAGE_WIDTH})
        right = ipywidgets.VBox([*controls, boxes, *curves], layout={"width": FROC_WIDTH})
        return ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "1rem"})

    def _listen(self) -> None:
        for control in (self.series, self.slice, self.threshold, self.layer, *self.boxes.values()):
            control.observe(self._controls_moved, "value")
        self.image.observe(self._wheel_turned, "wheel")

    def _controls_moved(self, change: Mapping[str, Any]) -> None:
        """Update the view from a control, unless the viewer itself set the control."""
        if self._setting_controls:
            return
        if change["owner"] is self.series:  # keep the relative position in the other series
            old, new = (len(self.gallery.series[name]) - 1 for name in (self._view.series, change["new"]))
            share = self._view.position / max(old, 1)
            self.view = replace(self._view, series=change["new"], position=round(share * new))
            return
        shown = tuple(name for name, box in self.boxes.items() if box.value)
        set_to = {"position": self.slice.value - 1, "layer": self.layer.value, "threshold": self.threshold.value}
        self.view = replace(self._view, shown=shown, **set_to)

    def _wheel_turned(self, change: Mapping[str, Any]) -> None:
        self.view = moved(self.gallery, self._view, change["new"] - change["old"])

    def _set_controls(self) -> None:
        """Set the controls to the current view."""
        view = self._view
        self._setting_controls = True
        try:
            self.series.value = view.series
            self.slice.max = len(self.gallery.series[view.series])
            self.slice.value = view.position + 1
            self.threshold.value, self.layer.value = view.threshold, view.layer
            for name, box in self.boxes.items():
                box.value = name in view.shown
        finally:
            self._setting_controls = False

    def _draw(self, image_changed: bool) -> None:
        gallery, view = self.gallery, self._view
        image = image_of(gallery, view)
        with self.image.hold_sync():
            if image_changed:
                self.image.png = self._image_png(view.series, view.position, view.layer)
                self.image.size = [image["width"], image["height"]]
            self.image.overlay = drawing.image_overlay(gallery, view)
        self.caption.value = drawing.caption(gallery, view)
        if self._froc is not None:
            self.froc.overlay = drawing.froc_overlay(gallery, view, self._froc)
            self.froc_caption.value = drawing.froc_caption(gallery, view)

    def _drawn(self, series: str, position: int, layer: str) -> bytes:
        return drawing.image_png(self.gallery, replace(self._view, series=series, position=position, layer=layer))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and a figure for programs that cannot show widgets."""
        file = io.BytesIO()
        self.figure().savefig(file, format="png", dpi=110)
        return {"image/png": file.getvalue(), **self.widget._repr_mimebundle_(**kwargs)}
