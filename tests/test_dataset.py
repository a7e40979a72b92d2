"""From files to batches: boxes exact, order seeded, every image once per pass, input in [0, 1]."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import BOX, SIDE, labelled_images

from cmbfe.data.labelled.images import read_image, save_image
from cmbfe.errors import InputError
from cmbfe.training.batches import (
    batch_indices,
    content_hash,
    decode_to_file,
    fits,
    list_labelled,
    load_labelled,
    mapped_from_file,
    to_input,
    to_targets,
)

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_batches_cover_every_image_once_per_pass(images, batch, seed):
    iterations = -(-3 * images // batch)
    order = np.concatenate([batch_indices(images, batch, i, seed) for i in range(iterations)])
    for start in range(0, 3 * images, images):
        assert sorted(order[start : start + images]) == list(range(images))


def test_passes_and_seeds_differ_in_their_order_and_an_iteration_is_a_function_of_its_number():
    first, second = (batch_indices(50, 50, i, seed=1).tolist() for i in range(2))
    assert first != second
    assert first != batch_indices(50, 50, 0, seed=2).tolist()
    assert second == batch_indices(50, 50, 1, seed=1).tolist()


def test_images_come_in_the_labels_order_with_their_own_boxes(tmp_path):
    labels = labelled_images(tmp_path, 3)
    labels["images"].reverse()
    labels["annotations"] = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": BOX},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 4]},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ]
    loaded = load_labelled(labels, tmp_path)
    assert loaded.names == ("P3/000.png", "P2/000.png", "P1/000.png")
    assert [len(boxes) for boxes in loaded.boxes] == [2, 0, 1]
    np.testing.assert_array_equal(loaded.boxes[0][1], [1, 2, 4, 6])
    np.testing.assert_array_equal(loaded.boxes[2], [[0, 0, 5, 4]])
    assert loaded.boxes[1].shape == (0, 4)
    np.testing.assert_array_equal(loaded.images[2], read_image(tmp_path / "P1" / "000.png"))


def test_images_of_different_sizes_are_refused(tmp_path):
    labels = labelled_images(tmp_path, 3)
    save_image(tmp_path / "P2" / "000.png", np.zeros((SIDE, SIDE + 1), np.uint8))
    with pytest.raises(InputError, match=r"P2.000\.png: 65 x 64 px, but .*P1.000\.png has 64 x 64 px"):
        load_labelled(labels, tmp_path)


def test_labels_of_another_image_size_are_refused(tmp_path):
    """Boxes drawn on larger images would silently lie beside what they mark."""
    labels = labelled_images(tmp_path, 2)
    labels["images"][1]["width"] = 2 * SIDE
    with pytest.raises(InputError, match=r"P2.000\.png: 64 x 64 px, but its labels are of 128 x 64 px"):
        load_labelled(labels, tmp_path)


def test_no_image_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="name no image"):
        load_labelled({"images": [], "annotations": [], "categories": []}, tmp_path)


def test_a_missing_image_is_named(tmp_path):
    labels = labelled_images(tmp_path, 2)
    (tmp_path / "P2" / "000.png").unlink()
    with pytest.raises(InputError, match=r"P2.000\.png: no such image"):
        load_labelled(labels, tmp_path)


def test_the_input_is_three_equal_channels_from_0_to_1():
    images = to_input(np.array([[[0, 51], [102, 255]]], np.uint8), CPU)
    assert images.shape == (1, 3, 2, 2)
    assert images.dtype == torch.float32
    for channel in images[0]:
        torch.testing.assert_close(channel, torch.tensor([[0, 0.2], [0.4, 1]]))


def test_targets_hold_the_boxes_and_the_label_of_microbleeds():
    boxes = [np.array([[1, 2, 3, 4.5]], np.float32), np.empty((0, 4), np.float32)]
    one, none = to_targets(boxes, CPU)
    assert one["boxes"].tolist() == [[1, 2, 3, 4.5]]
    assert one["labels"].tolist() == [1]
    assert none["boxes"].shape == (0, 4)
    assert none["labels"].shape == (0,)


def test_images_come_the_same_from_memory_from_a_mapped_file_and_from_their_own_files(tmp_path):
    labels = labelled_images(tmp_path, 4)
    listed = list_labelled(labels, tmp_path)
    decode_to_file(listed, tmp_path / "decoded.npy")
    mapped = mapped_from_file(listed, tmp_path / "decoded.npy")
    assert isinstance(mapped.images, np.memmap)
    loaded = load_labelled(labels, tmp_path)
    order = np.array([2, 0, 2])
    for data in (listed, mapped):
        assert data.names == loaded.names
        np.testing.assert_array_equal(data.images[order], loaded.images[order])


def test_a_image_that_cannot_be_decoded_leaves_no_file(tmp_path):
    labels = labelled_images(tmp_path, 3)
    (tmp_path / "P3" / "000.png").write_bytes((tmp_path / "P3" / "000.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"P3.000\.png"):
        decode_to_file(list_labelled(labels, tmp_path), tmp_path / "decoded.npy")
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".*"))


def test_the_budget_is_in_bytes_of_decoded_images(tmp_path):
    listed = list_labelled(labelled_images(tmp_path, 4), tmp_path)
    gib = 4 * SIDE * SIDE / 2**30
    assert fits(listed, gib)
    assert not fits(listed, gib * 0.999)
    assert not fits(listed, 0.0)


def test_the_content_hash_changes_with_pixels_boxes_and_order_only(tmp_path):
    labels = labelled_images(tmp_path, 3)
    before = content_hash(list_labelled(labels, tmp_path))
    assert content_hash(list_labelled(labels, tmp_path)) == before
    moved = {
        **labels,
        "annotations": [{**labels["annotations"][0], "bbox": [1, 2, 3, 4]}, *labels["annotations"][1:]],
    }
    assert content_hash(list_labelled(moved, tmp_path)) != before
    turned = {**labels, "images": labels["images"][::-1]}
    assert content_hash(list_labelled(turned, tmp_path)) != before
    save_image(tmp_path / "P2" / "000.png", np.zeros((SIDE, SIDE), np.uint8))
    assert content_hash(list_labelled(labels, tmp_path)) != before
