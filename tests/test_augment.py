"""Augmentation: the exact number of images, boxes that stay on what they mark, one seed."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from tiny_world import SIDE, labelled_images, tree

from cmbfe.data.augment import augment, augment_training_set, draws, pipeline
from cmbfe.data.imgaug_on_numpy2 import BoundingBox, BoundingBoxesOnImage
from cmbfe.data.labelled.images import read_image
from cmbfe.data.labelled.labels import read_labels
from cmbfe.errors import InputError
from cmbfe.params import load_params, profile_file

PAPER = load_params(profile_file("paper")).augmentation
UNCHANGED = PAPER.model_copy(
    update={
        **{"flip_probability": 0.0, "translation_px": 0.0},
        **dict.fromkeys(("intensity_factor", "scale"), (1.0, 1.0)),
        **dict.fromkeys(("blur_sigma_px", "rotation_degrees"), (0.0, 0.0)),
    }
)


def dot_image(x: int, y: int, radius: int = 6, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on grey and its box xyxy px; the disc's pixels are those whose centres lie within the radius."""
    rows, columns = np.mgrid[:side, :side] + 0.5
    image = np.full((side, side), 100, np.uint8)
    image[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = 0
    return image, np.array([[x - radius, y - radius, x + radius, y + radius]], float)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_boxes_move_with_the_pixels(seed):
    image, boxes = dot_image(140, 110)
    sharp = PAPER.model_copy(update={"blur_sigma_px": (0.0, 0.0), "intensity_factor": (1.2, 1.2)})
    moved, moved_boxes, kept = augment(image, boxes, sharp, seed)
    bright = moved.max()
    head = ndimage.binary_erosion(ndimage.binary_fill_holes(moved > bright / 2), iterations=4)
    row, column = ndimage.center_of_mass(((moved < bright / 2) & head).astype(float))
    assert kept.tolist() == [0]
    middle = (moved_boxes[0, :2] + moved_boxes[0, 2:]) / 2
    assert np.abs(middle - [column + 0.5, row + 0.5]).max() < 0.75  # px; a centre of mass of whole pixels


@pytest.mark.parametrize(("flip", "step", "box"), [(0.0, 1, [44, 54, 56, 66]), (1.0, -1, [200, 190, 212, 202])])
def test_image_and_box_are_the_same_without_any_change_and_mirrored_by_a_flip(flip, step, box):
    image, boxes = dot_image(50, 60)
    moved, moved_boxes, _ = augment(image, boxes, UNCHANGED.model_copy(update={"flip_probability": flip}), 1)
    assert (moved == image[::step, ::step]).all()
    assert np.allclose(moved_boxes, [box], atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_upright_box_around_the_corners_is_imgaugs(seed):
    image, _ = dot_image(140, 110)
    boxes = np.array([[120.0, 90.5, 160.0, 111.25], [60.0, 70.0, 66.0, 75.0]])
    known = BoundingBoxesOnImage([BoundingBox(*box) for box in boxes.tolist()], shape=image.shape)
    theirs = pipeline(PAPER, seed)(image=image, bounding_boxes=known)[1].to_xyxy_array()
    _, ours, kept = augment(image, boxes, PAPER, seed)
    assert kept.tolist() == [0, 1]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_a_turned_dot_keeps_a_tight_box_with_the_ellipse_and_a_loose_one_with_the_corners(seed):
    image, boxes = dot_image(128, 128, radius=20)
    turn = UNCHANGED.model_copy(update={"rotation_degrees": (30.0, 30.0)})
    tight = augment(image, boxes, turn.model_copy(update={"turned_box": "ellipse"}), seed)[1][0]
    loose = augment(image, boxes, turn, seed)[1][0]
    np.testing.assert_allclose(tight[2:] - tight[:2], 40, atol=1e-3)
    np.testing.assert_allclose(loose[2:] - loose[:2], 40 * (np.cos(np.pi / 6) + 0.5), atol=1e-3)


def test_intensity_is_multiplied_within_its_range():
    image, boxes = dot_image(50, 60)
    bright = UNCHANGED.model_copy(update={"intensity_factor": (1.2, 1.5)})
    factors = [augment(image, boxes, bright, seed)[0].max() / 100 for seed in range(30)]
    assert 1.19 <= min(factors) < 1.3
    assert 1.4 < max(factors) <= 1.5


def test_a_box_mostly_outside_is_dropped_one_partly_outside_clipped_and_none_stays_none():
    image, _ = dot_image(50, 60)
    boxes = np.array([[-8.0, 10.0, 2.0, 20.0], [-4.0, 40.0, 6.0, 50.0], [100.0, 100.0, 110.0, 110.0]])
    _, moved, kept = augment(image, boxes, UNCHANGED, 1)
    assert kept.tolist() == [1, 2]
    assert np.allclose(moved[0], [0, 40, 6, 50], atol=1e-3)
    assert [part.shape for part in augment(image, np.empty((0, 4)), PAPER, 3)] == [(256, 256), (0, 4), (0,)]


@given(st.integers(1, 50), st.integers(1, 300), st.integers(0, 99))
@example(467, 4434, 1)  # the paper's
def test_any_target_is_reached_exactly(images, target, seed):
    pairs = draws(images, target, seed)
    uses = np.bincount([image for image, _ in pairs], minlength=images)
    assert len(pairs) == len(set(pairs)) == target
    assert uses.max() - uses.min() <= 1


def test_the_set_is_made_of_training_images_with_microbleeds_and_is_the_same_for_the_same_seed(tmp_path):
    labels = labelled_images(tmp_path / "in", 4)
    labels["images"][2]["split"] = "test"
    labels["annotations"].pop()
    labels["annotations"][0]["tight_bbox"] = [21, 31, 5, 4]  # would be wrong of the moved image
    wanted = PAPER.model_copy(update={"target_images": 7})
    for out in ("a", "b"):
        augment_training_set(labels, tmp_path / "in", tmp_path / out, wanted, seed=3, jobs=1, progress=False)
    made = read_labels(tmp_path / "a" / "annotations.json")
    assert {(image["source_image_id"], image["split"]) for image in made["images"]} == {(1, "train"), (2, "train")}
    assert not [box for box in made["annotations"] if "tight_bbox" in box]
    assert len(made["images"]) == len(list((tmp_path / "a").rglob("*.png"))) == 7
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert read_image(tmp_path / "a" / made["images"][0]["file_name"]).shape == (SIDE, SIDE)
    with pytest.raises(InputError, match="split train"):
        draws(0, 10, 1)
