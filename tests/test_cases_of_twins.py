"""Where two detectors differ, on images small enough to count by hand; Figures 6 and 7 show what they are given."""

import numpy as np
import pytest
from metric_examples import detection, labels_of

from cmbfe.figures.evidence import boxes_in_cut_out, cases_figure
from cmbfe.metrics import cases
from cmbfe.metrics.curves import match, threshold_at_false_positives

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


IMAGES = {1: np.full((100, 100), 90, np.uint8)}


def test_cases_are_cut_out_in_their_order_and_a_group_without_any_says_none():
    shown = [{"image_id": 1, "bbox": CMB, "title": f"case {number}"} for number in range(20)]
    drawn = {"microbleed": ("yellow", LABELS["annotations"])}
    figure = cases_figure({"SSD only (20)": shown, "SSD-FE only (0)": []}, IMAGES, drawn, pixel_mm=1.0)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"case {number}" for number in range(16)]  # two rows of eight
    assert [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text() == "none"] == ["none"]
    first = next(axes for axes in figure.axes if axes.get_title())
    assert first.get_images()[0].get_array().shape == (30, 30)
    assert len(first.patches) == 1
    headings = [part.get_suptitle() for part in figure.subfigs[:-1]]
    assert headings == ["SSD only (20)", "SSD-FE only (0)"]
    figure = cases_figure({"SSD only (0)": [], "SSD-FE only (0)": []}, IMAGES, {}, pixel_mm=1.0)
    assert not [axes for axes in figure.axes if axes.get_images()]


@pytest.mark.parametrize("side_px", [30, 31])
def test_boxes_keep_their_place_in_a_cut_out_and_those_elsewhere_are_left_out(side_px):
    boxes = [*LABELS["annotations"], {"image_id": 2, "bbox": CMB}]
    case = {"image_id": 1, "bbox": [50, 50, 10, 10]}
    near = {"image_id": 1, "bbox": [50, 44, 10, 4]}
    moved = boxes_in_cut_out(case, {"a": ("red", [near]), "b": ("blue", boxes)}, side_px)
    assert moved == {"red": [[10, 4, 10, 4]], "blue": []}  # the cut-out begins at 55 - 15 = 40
