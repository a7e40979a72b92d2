"""What the baselines share: volumes, peaks, extents, boxes learnt from them, and which candidates are microbleeds."""

import numpy as np
import pytest
from baseline_world import SHAPE, SPACING_MM, ball, volume, write_images

from cmbfe.baselines import candidates
from cmbfe.errors import InputError

NOWHERE = np.zeros((0, 3), np.int64)


def flat(shape=(3, 41, 41), boxes=()) -> candidates.Volume:
    by_slice = [np.array(of, float).reshape(-1, 4) for of in boxes] or [np.zeros((0, 4))] * shape[0]
    return candidates.Volume(np.full(shape, 0.8, np.float32), SPACING_MM, tuple(by_slice))


def test_neighbourhoods_repeat_the_edge():
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    corner, inside = candidates.cubes(voxels, np.array([(0, 0, 0), (1, 1, 2)]), (1, 1, 1))
    assert corner[1, 1, 1] == corner[0, 0, 0] == 0
    np.testing.assert_array_equal(inside[1], voxels[1, 0:3, 1:4])
    assert candidates.cubes(voxels, NOWHERE, (1, 1, 1)).shape == (0, 3, 3, 3)


def test_the_largest_peaks_of_each_slice_from_the_best_down():
    response = np.zeros((2, 9, 9))
    response[0, 2, 2], response[0, 2, 6], response[0, 6, 2], response[0, 6, 3] = 1, 3, 2, 1.5
    response[1, 4, 4] = -1
    assert candidates.peaks_per_slice(response, most=2, separation_px=1).tolist() == [[0, 2, 6], [0, 6, 2]]
    assert candidates.peaks_per_slice(response, most=9, separation_px=1).tolist() == [[0, 2, 6], [0, 6, 2], [0, 2, 2]]


def test_a_place_moves_to_the_darkest_voxel_near_it_and_two_that_meet_become_one():
    dark = flat()
    dark.voxels[1, 20, 23] = 0.1
    moved = candidates.darkest_near(dark.voxels, np.array([(1, 21, 22), (1, 19, 24)]), 2)
    assert moved.tolist() == [[1, 20, 23]]
    assert candidates.darkest_near(dark.voxels, NOWHERE, 2).shape == (0, 3)


def test_the_darkest_voxel_of_a_region():
    dark = flat()
    dark.voxels[2, 5:8, 5:8] = 0.3
    dark.voxels[2, 6, 6] = 0.1
    label = (dark.voxels < 0.5).astype(int)
    assert candidates.darkest_in(dark.voxels, label, np.array([1])).tolist() == [[2, 6, 6]]
    assert candidates.darkest_in(dark.voxels, label, np.array([], int)).shape == (0, 3)


def test_the_extent_of_a_dark_rectangle_is_its_own_at_every_level():
    dark = flat()
    dark.voxels[1, 18:23, 19:22] = 0.2
    dark.voxels[1, 21:23, 25] = 0.2  # as dark, but not joined to it
    # From the middle of voxel (20, 20): 1.5 px left, 2.5 up, 1.5 right, 2.5 down.
    assert candidates.extents(dark, np.array([(1, 20, 20)])).tolist() == [
        [1.5, 2.5, 1.5, 2.5] * len(candidates.LEVELS)
    ]
    assert candidates.extents(dark, NOWHERE).shape == (0, 4 * len(candidates.LEVELS))


def test_a_place_no_darker_than_its_background_has_a_finite_extent():
    assert np.isfinite(candidates.extents(flat(), np.array([(1, 20, 20), (0, 0, 0)]))).all()


def test_boxes_are_learnt_from_the_training_boxes():
    model = candidates.fit_boxes(volume(seed) for seed in range(4))
    unseen = volume(9)
    places, boxes = candidates.true_places(unseen)
    assert len(places) == 6
    drawn = candidates.boxes_around(model, unseen, places)
    assert np.abs(drawn - boxes).max() < 1.0
    assert candidates.classes(unseen, places[:, 0], drawn).tolist() == [1] * 6
    assert candidates.boxes_around(model, unseen, NOWHERE).shape == (0, 4)


def test_boxes_stay_in_the_image():
    model = candidates.fit_boxes(volume(seed) for seed in range(3))
    corner = flat()
    corner.voxels[1] -= (0.6 * ball((41, 41), (0, 40), 3.0, (1.0, 1.0))).astype(np.float32)
    x_min, y_min, x_max, y_max = candidates.boxes_around(model, corner, np.array([(1, 0, 40)]))[0]
    assert 0 == y_min < y_max
    assert x_min < x_max == 41


@pytest.mark.parametrize(
    ("learn", "examples"),
    [
        (candidates.fit_boxes, ([flat()],)),
        (candidates.check_both_kinds, (0, 4)),
        (candidates.check_both_kinds, (3, 0)),
    ],
)
def test_without_both_kinds_there_is_nothing_to_learn(learn, examples):
    with pytest.raises(InputError, match="microbleed"):
        learn(*examples)


def test_a_candidate_whose_box_is_half_right_is_neither_a_microbleed_nor_something_else():
    truth = flat(boxes=[[], [[10, 10, 20, 20]], []])
    boxes = np.array([[10, 10, 20, 20], [10, 10, 20, 14], [30, 30, 34, 34], [10, 10, 20, 20]], float)
    assert candidates.classes(truth, np.array([1, 1, 1, 0]), boxes).tolist() == [1, -1, 0, 0]


def test_overlapping_detections_of_a_slice_leave_the_best_and_no_more_than_allowed():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10]], float)
    found = candidates.Candidates(np.array([0, 0, 0, 1]), boxes, np.array([0.5, 0.9, 0.2, 0.1]))
    kept = candidates.best_of_each_slice(found, 0.45, most=5)
    assert (kept.slices.tolist(), kept.scores.tolist()) == ([0, 0, 1], [0.9, 0.2, 0.1])
    assert candidates.best_of_each_slice(found, 0.45, most=1).scores.tolist() == [0.9, 0.1]
    empty = candidates.Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    assert len(candidates.best_of_each_slice(empty, 0.45, 5).scores) == 0


@pytest.fixture
def labels(tmp_path):
    return write_images(tmp_path, {"train": 2})


def test_a_patients_slices_become_one_volume_in_their_order_with_their_boxes(labels, tmp_path):
    labels["images"].reverse()
    first, second = candidates.stacks_of(labels, tmp_path, slice_mm=2.0)
    assert first.image_ids == tuple(range(1, SHAPE[0] + 1))
    assert (first.spacing_mm, len(second.files)) == (SPACING_MM, SHAPE[0])
    read, made = candidates.read_volume(first), volume(0)
    np.testing.assert_allclose(read.voxels, made.voxels, atol=0.5 / 255 + 1e-6)
    for of_file, of_volume in zip(read.boxes, made.boxes, strict=True):
        np.testing.assert_allclose(of_file, of_volume)


def test_a_missing_slice_ends_a_volume_and_another_series_is_another_volume(labels, tmp_path):
    labels["images"] = [image for image in labels["images"] if image["id"] != 4]
    assert [len(stack.files) for stack in candidates.stacks_of(labels, tmp_path, 2.0)] == [3, 5, 9]
    for image in labels["images"]:
        image["series_uid"] = "1.2" if image["slice_index"] < 2 else "1.3"
    assert [len(stack.files) for stack in candidates.stacks_of(labels, tmp_path, 2.0)] == [2, 1, 5, 2, 7]


@pytest.mark.parametrize("key", ["patient_id", "slice_index", "pixel_spacing_mm"])
def test_labels_that_make_no_volume_are_refused(labels, tmp_path, key):
    del labels["images"][3][key]
    with pytest.raises(InputError, match=f"image 4 has no {key}"):
        candidates.stacks_of(labels, tmp_path, 2.0)
