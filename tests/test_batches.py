"""From files to batches, made ahead; the AP on the validation patients."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import BOX, SIDE, labelled_images, refused
from torch import nn

from cmbfe.data.labelled.images import read_image, save_image
from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.errors import InputError
from cmbfe.training.batches import (
    LabelledImages,
    MadeAhead,
    batch_indices,
    content_hash,
    decode_to_file,
    fits,
    list_labelled,
    load_labelled,
    mapped_from_file,
    parts_of_iteration,
)
from cmbfe.training.devices import make_compute
from cmbfe.training.validation import validation_ap, validation_labels


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_batches_cover_every_image_once_per_pass_in_orders_of_the_pass_and_the_seed(images, batch, seed):
    iterations = -(-3 * images // batch)
    order = np.concatenate([batch_indices(images, batch, i, seed) for i in range(iterations)])
    for start in range(0, 3 * images, images):
        assert sorted(order[start : start + images]) == list(range(images))
    first, again, later, other = (batch_indices(50, 50, *key).tolist() for key in ((0, 1), (0, 1), (1, 1), (0, 2)))
    assert first == again
    assert first not in (later, other)


def test_images_come_in_the_labels_order_with_their_own_boxes(tmp_path):
    labels = labelled_images(tmp_path, 3)
    labels["images"].reverse()
    labels["annotations"] = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": BOX},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 4]},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 4, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "ignore": 1},
    ]
    loaded = load_labelled(labels, tmp_path)
    assert loaded.names == ("P3/000.png", "P2/000.png", "P1/000.png")
    assert [len(boxes) for boxes in loaded.boxes] == [2, 0, 1]
    np.testing.assert_array_equal(loaded.boxes[0][1], [1, 2, 4, 6])
    np.testing.assert_array_equal(loaded.boxes[2], [[0, 0, 5, 4]])
    assert loaded.boxes[1].shape == (0, 4)
    np.testing.assert_array_equal(loaded.images[2], read_image(tmp_path / "P1" / "000.png"))


def test_images_that_are_missing_or_of_another_size_are_refused_and_named(tmp_path):
    labels, second = labelled_images(tmp_path, 3), tmp_path / "P2" / "000.png"
    labels["images"][1]["width"] = 2 * SIDE  # boxes drawn on larger images would lie beside what they mark
    with pytest.raises(InputError, match=r"P2.000\.png: its labels are of 128 x 64 px, the first image has 64 x 64"):
        load_labelled(labels, tmp_path)
    labels["images"][1]["width"] = SIDE
    save_image(second, np.zeros((SIDE, SIDE + 1), np.uint8))
    with pytest.raises(InputError, match=r"P2.000\.png: 65 x 64 px, but .*P1.000\.png has 64 x 64 px"):
        load_labelled(labels, tmp_path)
    second.unlink()
    with pytest.raises(InputError, match=r"P2.000\.png: no such image"):
        load_labelled(labels, tmp_path)
    with pytest.raises(InputError, match="name no image"):
        load_labelled({"images": [], "annotations": [], "categories": []}, tmp_path)


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
    gib = 4 * SIDE * SIDE / 2**30
    assert [fits(listed, budget) for budget in (gib, gib * 0.999, 0.0)] == [True, False, False]
    third = tmp_path / "P3" / "000.png"
    third.write_bytes(third.read_bytes()[:200])
    with refused(tmp_path, r"P3.000\.png"):
        decode_to_file(listed, tmp_path / "again.npy")


def test_the_content_hash_changes_with_pixels_boxes_and_order_only(tmp_path):
    labels = labelled_images(tmp_path, 3)
    first, *others = labels["annotations"]
    moved = {**labels, "annotations": [{**first, "bbox": [1, 2, 3, 4]}, *others]}
    elsewhere = {**labels, "annotations": [{**first, "image_id": 2}, *others]}
    turned = {**labels, "images": labels["images"][::-1]}
    hashes = [content_hash(list_labelled(each, tmp_path)) for each in (labels, labels, moved, elsewhere, turned)]
    save_image(tmp_path / "P2" / "000.png", read_image(tmp_path / "P2" / "000.png") // 2)
    hashes.append(content_hash(list_labelled(labels, tmp_path)))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5


@given(
    st.integers(1, 30), st.integers(0, 20), st.sampled_from([(4, 1, 1), (4, 2, 1), (4, 1, 2), (6, 3, 2), (2, 2, 2)])
)
def test_the_shares_of_all_processes_are_the_batch_and_images_keep_their_boxes(images, iteration, sizes):
    batch, accumulate, processes = sizes
    # Images of one pixel that holds their number, with one box whose x is the number.
    boxes = tuple(np.array([[number, 0, number + 1, 1]], np.float32) for number in range(images))
    pixels = np.arange(images, dtype=np.uint8)[:, None, None]
    data = LabelledImages(tuple(map(str, range(images))), pixels, boxes)
    seen = []
    for number in range(processes):
        parts = parts_of_iteration(data, 7, batch, accumulate, (number, processes), iteration)
        assert [len(part.names) for part in parts] == [batch // processes] * accumulate
        for part in parts:
            assert part.names == [str(pixel) for pixel in part.images[:, 0, 0]]
            assert [boxes[0, 0] for boxes in part.boxes] == part.images[:, 0, 0].tolist()
            seen += map(int, part.names)
    assert sorted(seen) == sorted(batch_indices(images, batch * accumulate, iteration, seed=7).tolist())


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 10))
def test_everything_comes_once_and_in_order_and_no_more_is_made_ahead_than_asked_for(count, ahead):
    assert list(MadeAhead(lambda number: number**2, range(count), ahead)) == [n**2 for n in range(count)]
    made: list[int] = []
    batches = iter(MadeAhead(made.append, range(100), ahead))
    next(batches)
    batches.close()
    assert max(made) <= ahead


def test_an_error_comes_where_its_batch_is_asked_for():
    def make(number: int) -> int:
        if number == 2:
            raise InputError("image 2: cannot be read")
        return number

    batches = iter(MadeAhead(make, range(5), ahead=4))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(InputError, match="image 2"):
        next(batches)


def folder_with(tmp_path, splits: str, boxes_on: tuple[int, ...]):
    """An image for each letter, t or v (training, validation), with boxes on those of the numbers (from 1)."""
    labels = labelled_images(tmp_path, len(splits))
    for image, split in zip(labels["images"], splits, strict=True):
        image["split"] = {"t": "train", "v": "validation"}[split]
    labels["annotations"] = [box for box in labels["annotations"] if box["image_id"] in boxes_on]
    (tmp_path / LABELS_FILE).write_text(json.dumps(labels))
    return tmp_path


def chosen(folder, seed: int = 1) -> list[int]:
    return [image["id"] for image in validation_labels(folder, seed)["images"]]


def test_images_with_microbleeds_and_as_many_without_are_drawn(tmp_path):
    folder = folder_with(tmp_path, "tvvvvvvvt", boxes_on=(1, 3, 5))
    drawn = [chosen(folder, seed) for seed in (*range(10), 0)]
    assert all({3, 5} <= set(ids) <= {2, 3, 4, 5, 6, 7, 8} and len(ids) == 4 for ids in drawn)
    assert drawn[0] == drawn[-1]
    assert len(set(map(tuple, drawn))) > 1
    few = folder_with(tmp_path / "few without", "vvvt", boxes_on=(1, 2))
    assert chosen(few) == [1, 2, 3]


@pytest.mark.parametrize(("splits", "message"), [("ttt", "split 'validation'"), ("tvv", "split has no microbleed")])
def test_a_set_that_measures_nothing_is_refused(tmp_path, splits, message):
    with pytest.raises(InputError, match=message):
        validation_labels(folder_with(tmp_path, splits, boxes_on=(1,)), seed=1)


class Finder(nn.Module):
    """Finds the dark dot, and in every second image something else with more certainty."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        x, y, width, height = BOX
        dot, other = [x, y, x + width, y + height], [0.0, 0.0, 5.0, 5.0]
        outputs = [([dot], [0.5]) if number % 2 == 0 else ([other, dot], [0.9, 0.4]) for number in range(len(images))]
        return [{"boxes": torch.tensor(boxes), "scores": torch.tensor(scores)} for boxes, scores in outputs]


def test_the_ap_is_that_of_the_detections(tmp_path):
    folder = folder_with(tmp_path, "vv", boxes_on=(1, 2))
    labels = validation_labels(folder, seed=1)
    # Scores .9 (false), .5 (hit), .4 (hit): precision 1/2 and 2/3 at sensitivity 1/2 and 1, envelope 2/3 throughout.
    images = load_labelled(labels, folder).images
    ap = validation_ap(Finder().train(), labels, images, 0.5, make_compute("cpu", "32-true"))
    assert ap == pytest.approx(2 / 3)
