"""What the viewer shows, as functions of a gallery and a view; and its widgets, without a browser."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gallery_world import ELSEWHERE, PAIR, tiny_workspace
from PIL import Image
from tiny_world import BOX, SIDE

from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, read_labels, write_labels
from cmbfe.errors import InputError
from cmbfe.figures.gallery import (
    DIFFERENCE,
    GROUND_TRUTH,
    IMAGE,
    MASK,
    View,
    boxes_of,
    first_view,
    froc_point,
    image_of,
    layer_of,
    open_gallery,
)
from cmbfe.figures.gallery_drawing import view_figure
from cmbfe.figures.viewer import show
from cmbfe.files import read_json
from cmbfe.metrics.curves import at_threshold, match


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_workspace(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def files(root):
    return {variant: root / "results" / variant / DETECTIONS_FILE for variant in PAIR}


@pytest.fixture(scope="module")
def test_labels(root):
    """The images of slices 1 and 2."""
    labels = read_labels(root / "data" / "pictures" / LABELS_FILE)
    return {**labels, "images": [image for image in labels["images"] if image["slice_index"] < 2]}


@pytest.fixture(scope="module")
def gallery(root, files, test_labels):
    return open_gallery(root / "data" / "pictures", files, test_labels, root / "models" / "ssd512-fe")


@pytest.fixture
def view(gallery):
    return View("A", 0, IMAGE, tuple(gallery.drawable), 0.5)


def test_the_static_figure_names_each_colour_and_draws_every_box_and_a_point_per_curve(gallery, view):
    figure = view_figure(gallery, view)
    picture, froc = figure.axes
    (key,) = figure.legends
    named = dict(zip((patch.get_edgecolor() for patch in key.get_patches()), key.get_texts(), strict=True))
    assert [text.get_text() for text in named.values()] == list(view.shown)
    drawn = [frame.get_edgecolor() for frame in picture.patches]
    for (colour, text), shown in zip(named.items(), boxes_of(gallery, view).values(), strict=True):
        assert drawn.count(colour) == len(shown.boxes), text
    points = [line for line in froc.get_lines() if line.get_marker() == "o"]
    assert [(x, y) for line in points for x, y in line.get_xydata()] == [
        pytest.approx(froc_point(curve, view.threshold)) for curve in gallery.curves.values()
    ]
    view_figure(gallery, replace(view, shown=()))


def test_boxes_are_those_of_the_slice_from_the_threshold_on(gallery, view):
    there = {name: found.boxes.tolist() for name, found in boxes_of(gallery, replace(view, series="B")).items()}
    assert there == {GROUND_TRUTH: [BOX], "ssd512": [ELSEWHERE], "ssd512-fe": [ELSEWHERE]}
    all_of_them = boxes_of(gallery, replace(view, series="B", threshold=0.3, shown=("ssd512",)))
    assert all_of_them["ssd512"].scores.tolist() == [0.6, 0.3]
    assert list(all_of_them) == ["ssd512"]
    assert [len(found.boxes) for found in boxes_of(gallery, replace(view, position=2)).values()] == [0, 0, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.25, 0.3, 0.6, 0.65, 0.9, 0.95, 1.0])
def test_the_point_on_the_froc_is_what_matching_gives_at_that_threshold(gallery, files, test_labels, threshold):
    for variant, curve in gallery.curves.items():
        whole = at_threshold(match(test_labels, read_json(files[variant])), threshold)
        expected = (whole["false_positives_per_picture"], whole["sensitivity"])
        assert froc_point(curve, threshold) == pytest.approx(expected)


def test_the_mask_is_in_the_boxes_and_the_difference_on_the_feature_map(gallery, view):
    assert gallery.layers == [IMAGE, MASK, DIFFERENCE]
    assert layer_of(gallery, view) is None
    mask = layer_of(gallery, replace(view, layer=MASK))
    x, y, width, height = BOX
    rows, columns = np.nonzero(mask)
    assert mask.shape == (SIDE, SIDE)
    assert 0 < mask.max() <= 1
    assert x - 1 < columns.min() <= columns.max() < x + width
    assert y - 1 < rows.min() <= rows.max() < y + height
    difference = layer_of(gallery, replace(view, layer=DIFFERENCE))
    assert difference.shape == (gallery.model.map_sizes[0],) * 2
    assert (difference >= 0).all()
    for layer in (MASK, DIFFERENCE):
        assert not layer_of(gallery, replace(view, position=1, layer=layer)).any()


def test_images_without_labels_are_found_by_the_images_file_beside_the_detections(root, tmp_path):
    """As `cmbfe detect` writes it: ids of its own, and PNG names for what may be JPG here."""
    pixels, found = tmp_path / "pictures", tmp_path / "found"
    for source in sorted((root / "data" / "pictures").glob("*/*.png")):
        target = (pixels / source.relative_to(root / "data" / "pictures")).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source) as opened:
            opened.save(target)
    labels = read_labels(root / "data" / "pictures" / LABELS_FILE)
    images = [{**image, "file_name": image["file_name"].replace(".png", ".jpg")} for image in labels["images"]]
    write_labels(pixels / LABELS_FILE, {"images": images, "annotations": [], "categories": CATEGORIES})
    theirs = [{**image, "id": 100 + image["id"]} for image in labels["images"]]
    write_labels(found / "images.json", {"images": theirs, "annotations": [], "categories": CATEGORIES})
    detection = {"image_id": 104, "category_id": 1, "bbox": BOX, "score": 0.7}
    (found / "detections.json").write_text(json.dumps([detection]))

    gallery = open_gallery(pixels, {"mine": found / "detections.json"})
    assert (gallery.truth, gallery.curves, gallery.layers, gallery.drawable) == (None, {}, [IMAGE], ["mine"])
    view = first_view(gallery)
    assert (image_of(gallery, view)["file_name"], view.threshold) == ("B/000.jpg", 0.5)
    assert boxes_of(gallery, view)["mine"].boxes.tolist() == [BOX]


def test_what_is_wrong_with_the_input_is_named(root, files, tmp_path):
    images = root / "data" / "pictures"
    labels = read_labels(images / LABELS_FILE)
    other = {
        **labels,
        "annotations": [],
        "images": [{**labels["images"][0], "file_name": "z.png", "series_uid": "z"}],
    }
    write_labels(tmp_path / "found" / "images.json", other)
    (tmp_path / "found" / "detections.json").write_text("[]")
    unknown = {"image_id": 99, "category_id": 1, "bbox": BOX, "score": 1}
    for reason, folder, detections, options in (
        ("nowhere", tmp_path / "nowhere", files, {}),
        ("no detections", images, {}, {}),
        ("which image has which id", tmp_path, files, {}),
        (r"gone\.json", images, {"mine": tmp_path / "gone.json"}, {}),
        ("99", images, {"mine": [unknown]}, {}),
        (r"000\.png", tmp_path, {"mine": []}, {"labels": labels}),
        ("name no image", images, {"mine": []}, {"labels": {**labels, "images": [], "annotations": []}}),
        (r"config\.json", images, files, {"model": tmp_path}),
        (r"images\.json", images, {"mine": tmp_path / "found" / "detections.json"}, {}),
    ):
        with pytest.raises(InputError, match=reason):
            open_gallery(folder, detections, **options)


@pytest.fixture
def viewer(root, files):
    return show(root / "data" / "pictures", files, model=root / "models" / "ssd512-fe")


def test_the_threshold_slider_moves_boxes_and_points_and_sends_no_image(viewer):
    before = viewer.image.overlay, viewer.froc.overlay, viewer.image.png
    viewer.threshold.value = 0.95
    assert viewer.view.threshold == 0.95
    assert viewer.image.overlay != before[0]
    assert viewer.froc.overlay != before[1]
    assert viewer.image.png is before[2]
    assert "ssd512: 0" in viewer.caption.value
