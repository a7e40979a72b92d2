"""Figures show what they are given, in the same bytes; where two detectors differ, on images to count by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from metric_examples import detection, labels_of
from PIL import Image

from cmbfe.figures import evidence, studies, style
from cmbfe.figures.evidence import boxes_in_cut_out
from cmbfe.metrics import cases
from cmbfe.metrics.curves import match, threshold_at_false_positives

CURVE = pd.DataFrame({"sensitivity": [0.2, 0.6, 0.9], "precision": [1.0, 0.9, 0.7], "false_positives": [0, 0.5, 2]})
ORANGE = (213, 94, 0)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_equal_figures_give_equal_bytes_without_a_date_and_no_style_is_left_behind(tmp_path):
    before = dict(plt.rcParams)
    for folder in ("first", "second"):
        figure = evidence.precision_sensitivity_figure({"ssd300": CURVE}, {"ssd300": (0.9, 0.76)}, 0.9)
        style.save(figure, tmp_path / folder / "fig4.png")
    for name in ("fig4.png", "fig4.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert "<dc:date>" not in (tmp_path / "first" / "fig4.svg").read_text()
    assert len(list((tmp_path / "first").iterdir())) == 2
    assert Image.open(tmp_path / "first" / "fig4.png").mode == "P"
    assert dict(plt.rcParams) == before


def test_an_image_is_shown_with_boxes_and_a_scale_bar_of_20_mm():
    grid, axes = style.image_grid(2)
    style.show_image(axes[0], np.zeros((40, 60), np.uint8), {"red": [[10, 20, 4, 6]]}, pixel_mm=0.5)
    (frame,) = axes[0].patches
    assert frame.get_bbox().bounds == (9, 19, 6, 8)  # a pixel outside the box, so that what it marks stays visible
    (bar,) = axes[0].get_lines()
    assert np.ptp(bar.get_xdata()) == 40
    assert (axes[0].get_xlim(), axes[0].get_ylim()) == ((0, 60), (40, 0))
    style.show_image(axes[1], np.zeros((40, 60), np.uint8))
    assert not axes[1].get_lines()
    assert grid.axes == list(axes)


def test_an_image_of_the_head_alone_keeps_boxes_and_scale_bar_in_view():
    image = np.zeros((100, 100), np.uint8)
    image[20:80, 30:70] = 200
    _, (axes,) = style.image_grid(1)
    style.show_image(axes, image, {"red": [[40, 50, 4, 6]]}, pixel_mm=1, head_only=True)
    left, top, side = style.head_square(image)
    assert (axes.get_xlim(), axes.get_ylim()) == ((left, left + side), (top + side, top))
    (frame,), (bar,) = axes.patches, axes.get_lines()
    assert frame.get_bbox().bounds == (39, 49, 6, 8)
    assert left < min(bar.get_xdata()) < max(bar.get_xdata()) < left + side
    assert top < min(bar.get_ydata()) < top + side


def test_gains_by_kind_have_a_panel_per_property_with_its_unit_and_a_marker_per_detector():
    rows = [
        {
            "arm": arm,
            "by": by,
            "from": low,
            "to": low + 1,
            "gain": gain,
            "gain_low": gain - 0.1,
            "gain_high": gain + 0.2,
        }
        for by in ("contrast", "diameter, mm")
        for arm, gain in (("ssd512", 0.0), ("ssd300", 0.1))
        for low in range(3)
    ]
    figure = studies.kinds_figure(pd.DataFrame(rows).set_index(["arm", "by"]))
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "contrast of the microbleeds",
        "diameter of the microbleeds, mm",
    ]
    for axes in figure.axes:
        first, second = axes.containers
        assert second.get_label() == "ssd300"
        np.testing.assert_allclose(second.lines[0].get_ydata(orig=False), [10, 10, 10])
        low, high = second.lines[2][0].get_segments()[0][:, 1]
        assert (low, high) == (pytest.approx(0), pytest.approx(30))
        assert (second.lines[0].get_xdata() > first.lines[0].get_xdata()).all()


def test_an_overlay_frames_detections_from_outside_and_leaves_the_rest_as_it_is():
    image = np.full((60, 60), 90, np.uint8)
    drawn = np.asarray(style.overlay(image, [{"bbox": [20, 30, 6, 5], "score": 0.876}]))
    assert (drawn[30:35, 20:26] == 90).all()
    for row, column in [(28, 18), (28, 27), (36, 18), (36, 27)]:
        assert tuple(drawn[row, column]) == ORANGE
    assert (drawn[40:] == 90).all()
    np.testing.assert_array_equal(np.asarray(style.overlay(image, [])), np.full((60, 60, 3), 90))
    border = [{"bbox": box, "score": 1.0} for box in ([-5, -5, 8, 8], [55, 55, 20, 20], [10, 10, 0, 0])]
    assert style.overlay(image, border).size == (60, 60)


def test_of_an_image_with_phase_the_magnitude_is_drawn():
    image = np.stack([np.full((6, 8), 90, np.uint8), np.full((6, 8), 200, np.uint8)], axis=-1)
    _, axes = style.image_grid(1)
    style.show_image(axes[0], image)
    np.testing.assert_array_equal(axes[0].images[0].get_array(), image[..., 0])
    assert style.cut_out(image, [2, 2, 2, 2], 4).tolist() == [[90] * 4] * 4


def test_figure_4_draws_the_highest_precision_from_a_sensitivity_on_and_the_papers_point_apart():
    spike = pd.DataFrame({"sensitivity": [0, 0.2, 0.6, 0.9], "precision": [0, 0.5, 0.8, 0.7]})
    axes = evidence.precision_sensitivity_figure(
        {"ssd300": CURVE, "ssd300-fe": spike}, {"ssd300-fe": (0.9, 0.797)}, 0.9
    ).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["ssd300"].get_color() != lines["ssd300-fe"].get_color()
    np.testing.assert_array_equal(lines["ssd300"].get_xydata(), [[0.2, 1], [0.6, 0.9], [0.9, 0.7]])
    np.testing.assert_array_equal(lines["ssd300-fe"].get_ydata(), [0.8, 0.8, 0.7])
    np.testing.assert_array_equal(lines["ssd300-fe, paper"].get_xydata(), [[0.9, 0.797]])
    assert any("other patients" in text.get_text() for text in axes.texts)


CMB, OTHER_CMB, VEIN, IRON, EMPTY = [10, 10, 10, 8], [70, 10, 4, 4], [40, 40, 6, 6], [60, 70, 6, 6], [20, 80, 6, 6]
LABELS = labels_of({1: [CMB, OTHER_CMB], 2: []}, pixel_spacing_mm=[0.5, 1.0])
MIMICS = {
    "images": [*LABELS["images"], {"id": 9}],
    "annotations": [
        {"image_id": 1, "category_id": 4, "bbox": VEIN},
        {"image_id": 1, "category_id": 7, "bbox": IRON},
        {"image_id": 9, "category_id": 7, "bbox": EMPTY},
    ],
    "categories": [{"id": 4, "name": "vein"}, {"id": 7, "name": "iron"}],
}


def test_a_threshold_allows_no_more_false_positives_than_are_given():
    found = [detection(1, 0.9, CMB), detection(1, 0.8, VEIN), detection(1, 0.7, IRON), detection(1, 0.6, OTHER_CMB)]
    one = match(LABELS, found)
    assert threshold_at_false_positives(one, 0.5) == 0.8  # one in two images
    assert threshold_at_false_positives(one, 0.4) == 0.9
    assert threshold_at_false_positives(one, 5.0) == 0.6
    assert threshold_at_false_positives(match(LABELS, found[1:]), 0.4) == np.inf


def test_a_threshold_at_a_sensitivity_is_the_highest_one_and_inf_where_it_is_never_reached():
    one = match(LABELS, [detection(1, 0.9, CMB), detection(1, 0.8, VEIN)])
    assert cases.threshold_at_common_sensitivity(one, 0.5) == 0.9
    assert cases.threshold_at_common_sensitivity(one, 0.6) == np.inf
    assert cases.threshold_at_common_sensitivity(match(LABELS, []), 0.0) == np.inf


def test_false_positives_come_best_first_down_to_the_threshold():
    found = [detection(1, 0.3, IRON), detection(1, 0.9, CMB), detection(2, 0.5, VEIN), detection(1, 0.2, EMPTY)]
    assert cases.false_positives(match(LABELS, found), found, 0.3) == [found[2], found[0]]
    assert cases.false_positives(match(LABELS, found), found, np.inf) == []


def test_a_detection_at_the_same_place_of_the_same_image_is_a_counterpart():
    chosen = [detection(1, 0.9, VEIN), detection(1, 0.8, IRON), detection(2, 0.7, VEIN)]
    others = [detection(1, 0.1, [42, 42, 6, 6]), detection(1, 0.1, [65, 75, 6, 6])]  # IoU 16/56 and 1/71
    assert cases.without_counterpart(chosen, others, LABELS) == chosen[1:]
    assert cases.without_counterpart(chosen, [], LABELS) == chosen
    assert cases.without_counterpart([], others, LABELS) == []


def test_a_false_positive_is_of_the_kind_whose_middle_lies_in_it():
    poor_box = [12, 8, 20, 20]  # holds the middle of CMB
    both = [38, 38, 30, 36]  # holds the middles of vein and iron, and its own is nearer to that of the vein
    chosen = [detection(1, 0.9 - i / 10, box) for i, box in enumerate([VEIN, both, EMPTY, poor_box, IRON])]
    chosen.append(detection(2, 0.1, VEIN))
    expected = ["vein", "vein", cases.NOTHING, cases.POOR_BOX, "iron", cases.NOTHING]
    assert cases.kinds(chosen, LABELS, MIMICS) == expected
    assert cases.kinds([], LABELS, MIMICS) == []
    table = cases.false_positives_table({"SSD": expected, "SSD only": []}, ["vein", "iron", "calcification"])
    assert table["SSD"].tolist() == [2, 1, 0, 1, 2, 6]
    assert table["SSD only"].tolist() == [0] * 6
    assert table.index.tolist() == ["vein", "iron", "calcification", cases.POOR_BOX, cases.NOTHING, "all"]


def test_microbleeds_are_counted_by_who_finds_them():
    without = match(LABELS, [detection(1, 0.9, CMB), detection(1, 0.2, OTHER_CMB)])
    with_fe = match(LABELS, [detection(1, 0.4, OTHER_CMB)])
    rows = cases.microbleeds_table(LABELS, without, with_fe, (0.5, 0.3))
    assert rows["size_mm"].tolist() == [10.0, 4.0]  # columns are 1 mm apart, rows 0.5 mm
    assert rows["score"].tolist() == [0.9, 0.2]
    assert rows["score_fe"].tolist() == [-np.inf, 0.4]
    assert rows[["found", "found_fe"]].to_numpy().tolist() == [[True, False], [False, True]]
    table = cases.found_table(rows, small_mm=5.0)
    assert table.loc["small"].tolist() == [1, 0, 1, 0, 0]
    assert table.loc["larger"].tolist() == [1, 0, 0, 1, 0]
    assert table.loc["all"].tolist() == [2, 0, 1, 1, 0]


@pytest.mark.parametrize("side_px", [30, 31])
def test_boxes_keep_their_place_in_a_cut_out_and_those_elsewhere_are_left_out(side_px):
    boxes = [*LABELS["annotations"], {"image_id": 2, "bbox": CMB}]
    case = {"image_id": 1, "bbox": [50, 50, 10, 10]}
    near = {"image_id": 1, "bbox": [50, 44, 10, 4]}
    moved = boxes_in_cut_out(case, {"a": ("red", [near]), "b": ("blue", boxes)}, side_px)
    assert moved == {"red": [[10, 4, 10, 4]], "blue": []}  # the cut-out begins at 55 - 15 = 40
