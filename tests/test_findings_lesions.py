"""Microbleeds in three dimensions: joined as an evaluation joins them, at a known place in the patient."""

import numpy as np
import pytest

from cmbfe.findings.lesions import COLUMNS, find_lesions, lesions_table
from cmbfe.findings.series import Place
from cmbfe.metrics.lesions import match_lesions

AXIAL = Place(
    orientation=(1, 0, 0, 0, 1, 0),
    positions_mm=tuple((-100.0, -90.0, 5.0 + 2 * index) for index in range(6)),
    pixel_spacing_mm=(0.5, 0.75),
    slice_spacing_mm=2.0,
)
COMMON = {"patient_id": "p", "series_uid": "s", "pixel_spacing_mm": [0.5, 0.75]}
IMAGES = [{"id": 10 + index, "slice_index": index, "file_name": f"p/{index:03d}.png", **COMMON} for index in range(6)]


def box(index: int, x: float, y: float, score: float, side: float = 4) -> dict:
    return {"image_id": 10 + index, "category_id": 1, "bbox": [x, y, side, side], "score": score}


def test_boxes_of_one_dot_on_neighbouring_slices_are_one_lesion_at_its_place_in_the_patient():
    boxes = [box(1, 20, 30, 0.6), box(2, 20, 30, 0.8), box(3, 20, 30, 0.6), box(2, 50, 50, 0.7)]
    first, second = find_lesions(IMAGES, boxes, AXIAL, 0.5)
    # Middle at px 22, 32: 21.5 columns of 0.75 mm and 31.5 rows of 0.5 mm from the first pixel's centre.
    assert first.centre_mm == pytest.approx((-100 + 21.5 * 0.75, -90 + 31.5 * 0.5, 5 + 2 * 2))
    assert (first.number, first.score, first.best_slice, first.slices) == (1, 0.8, 2, (1, 3))
    assert first.size_mm == pytest.approx(np.sqrt(3 * 2))
    assert first.extent_mm == pytest.approx((3, 2, 6))
    assert (second.number, second.score, second.slices, second.extent_mm[2]) == (2, 0.7, (2, 2), 2)


def test_the_place_is_the_mean_of_the_boxes_by_their_scores():
    (lesion,) = find_lesions(IMAGES, [box(0, 20, 30, 0.6), box(1, 22, 30, 0.9)], AXIAL, 0.5)
    assert lesion.centre_mm[0] == pytest.approx(-100 + (21.5 * 0.6 + 23.5 * 0.9) / 1.5 * 0.75)
    assert lesion.centre_mm[2] == pytest.approx(5 + 2 * 0.9 / 1.5)
    (lesion,) = find_lesions(IMAGES, [box(0, 20, 30, 0.0), box(1, 22, 30, 0.0)], AXIAL, 0.0)
    assert lesion.centre_mm[0] == pytest.approx(-100 + 22.5 * 0.75)  # scores of 0 have one weight


def test_a_tilted_series_has_its_places_along_its_own_directions():
    coronal = Place((1, 0, 0, 0, 0, -1), ((0.0, 10.0, 80.0), (0.0, 12.0, 80.0)), (0.5, 0.75), 2.0)
    (lesion,) = find_lesions(IMAGES[:2], [box(1, 20, 30, 0.6)], coronal, 0.5)
    assert lesion.centre_mm == pytest.approx((21.5 * 0.75, 12, 80 - 31.5 * 0.5))


def test_a_box_below_the_threshold_joins_two_slices_and_is_no_part_of_the_lesion():
    boxes = [box(1, 20, 30, 0.8), box(2, 20, 30, 0.1), box(3, 20, 30, 0.6), box(4, 20, 30, 0.1)]
    (lesion,) = find_lesions(IMAGES, boxes, AXIAL, 0.5)
    assert sorted(lesion.boxes) == [1, 3]
    apart = find_lesions(IMAGES, [boxes[0], boxes[2]], AXIAL, 0.5)
    assert [each.slices for each in apart] == [(1, 1), (3, 3)]


def test_lesions_are_those_that_an_evaluation_counts():
    rng = np.random.default_rng(3)
    boxes = [
        box(index, *rng.integers(0, 12, 2).tolist(), float(score))
        for index, score in zip(rng.integers(0, 6, 120).tolist(), rng.random(120).round(3), strict=True)
    ]
    counted = match_lesions({"images": IMAGES, "annotations": []}, boxes).score
    for threshold in (0.2, 0.5, 0.9):
        lesions = find_lesions(IMAGES, boxes, AXIAL, threshold)
        assert [lesion.score for lesion in lesions] == counted[counted >= threshold].tolist()


def test_nothing_found_makes_no_lesion_and_a_table_with_its_columns_only():
    assert find_lesions(IMAGES, [], AXIAL, 0.5) == []
    assert find_lesions(IMAGES, [box(0, 1, 1, 0.4)], AXIAL, 0.5) == []
    assert list(lesions_table([], []).columns) == COLUMNS


def test_the_table_names_patient_series_and_the_best_slice():
    lesions = find_lesions(IMAGES, [box(2, 20, 30, 0.8)], AXIAL, 0.5)
    row = lesions_table(IMAGES, lesions).iloc[0]
    assert row[["patient_id", "series_uid", "lesion", "best_slice"]].tolist() == ["p", "s", 1, 2]
    assert row[["file_name", "size_mm", "z_mm"]].tolist() == ["p/002.png", 2.45, 9.0]
