"""The viewer's widgets without a browser: controls move the view, the view moves the controls and the drawing."""

from dataclasses import replace

import pytest
from gallery_world import PAIR, tiny_workspace

from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.figures.gallery import GROUND_TRUTH, MASK
from cmbfe.figures.viewer import show


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_workspace(tmp_path_factory.mktemp("viewer"))


@pytest.fixture
def viewer(root):
    found = {variant: root / "results" / variant / DETECTIONS_FILE for variant in PAIR}
    return show(root / "data" / "pictures", found, model=root / "models" / "ssd512-fe")


def test_the_threshold_slider_moves_boxes_and_points_and_sends_no_image(viewer):
    before = viewer.image.overlay, viewer.froc.overlay, viewer.image.png
    viewer.threshold.value = 0.95
    assert viewer.view.threshold == 0.95
    assert viewer.image.overlay != before[0]
    assert viewer.froc.overlay != before[1]
    assert viewer.image.png is before[2]
    assert "ssd512: 0" in viewer.caption.value


def test_the_wheel_steps_through_the_series_and_the_slider_follows(viewer):
    before = viewer.image.png
    viewer.image.wheel = 1
    assert (viewer.view.position, viewer.slice.value) == (1, 2)
    assert viewer.image.png != before
    viewer.image.wheel = 9
    assert (viewer.view.position, viewer.slice.value) == (2, 3)
    viewer.slice.value = 1
    assert viewer.view.position == 0
    assert viewer.image.png is before  # kept, not drawn again


def test_another_patient_is_shown_at_the_same_height(viewer):
    viewer.slice.value = 3
    viewer.series.value = "B"
    assert (viewer.view.series, viewer.view.position) == ("B", 2)
    assert "B, slice 3 of 3" in viewer.caption.value


def test_layers_and_boxes_are_switched(viewer):
    before = viewer.image.png
    viewer.layer.value = MASK
    assert viewer.image.png != before
    viewer.boxes["ssd512"].value = False
    assert viewer.view.shown == (GROUND_TRUTH, "ssd512-fe")
    assert "ssd512:" not in viewer.caption.value


def test_a_view_that_is_set_sets_the_controls(viewer):
    viewer.view = replace(viewer.view, series="B", position=2, layer=MASK, threshold=0.25, shown=("ssd512",))
    controls = (viewer.series, viewer.slice, viewer.layer, viewer.threshold)
    assert [control.value for control in controls] == ["B", 3, MASK, 0.25]
    assert [name for name, box in viewer.boxes.items() if box.value] == ["ssd512"]
    assert viewer.view.threshold == 0.25


def test_where_no_widget_can_be_shown_there_is_a_figure(viewer):
    shown = viewer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert shown["image/png"].startswith(b"\x89PNG")


def test_without_ground_truth_there_is_no_froc(root):
    labels = {**read_labels(root / "data" / "pictures" / LABELS_FILE), "annotations": []}
    viewer = show(root / "data" / "pictures", {"mine": []}, labels=labels)
    assert viewer.froc.png == b""
    viewer.threshold.value = 0.1
    assert list(viewer.boxes) == ["mine"]
