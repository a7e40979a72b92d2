"""Images to stacks of consecutive slices."""

import numpy as np
import pytest
from baseline_world import SHAPE, SPACING_MM, volume, write_images

from cmbfe.baselines.volumes import read_volume, stacks_of
from cmbfe.errors import InputError


@pytest.fixture
def labels(tmp_path):
    return write_images(tmp_path, {"train": 2})


def test_a_patients_slices_become_one_volume_in_their_order_with_their_boxes(labels, tmp_path):
    labels["images"].reverse()
    first, second = stacks_of(labels, tmp_path, slice_mm=2.0)
    assert first.image_ids == tuple(range(1, SHAPE[0] + 1))
    assert (first.spacing_mm, len(second.files)) == (SPACING_MM, SHAPE[0])
    read, made = read_volume(first), volume(0)
    np.testing.assert_allclose(read.voxels, made.voxels, atol=0.5 / 255 + 1e-6)
    for of_file, of_volume in zip(read.boxes, made.boxes, strict=True):
        np.testing.assert_allclose(of_file, of_volume)


def test_a_missing_slice_ends_a_volume_and_another_series_is_another_volume(labels, tmp_path):
    labels["images"] = [image for image in labels["images"] if image["id"] != 4]
    assert [len(stack.files) for stack in stacks_of(labels, tmp_path, 2.0)] == [3, 5, 9]
    for image in labels["images"]:
        image["series_uid"] = "1.2" if image["slice_index"] < 2 else "1.3"
    assert [len(stack.files) for stack in stacks_of(labels, tmp_path, 2.0)] == [2, 1, 5, 2, 7]


@pytest.mark.parametrize("key", ["patient_id", "slice_index", "pixel_spacing_mm"])
def test_labels_that_make_no_volume_are_refused(labels, tmp_path, key):
    del labels["images"][3][key]
    with pytest.raises(InputError, match=f"image 4 has no {key}"):
        stacks_of(labels, tmp_path, 2.0)


def test_lengths_become_px_in_the_plane(labels, tmp_path):
    for image in labels["images"]:
        image["pixel_spacing_mm"] = [0.5, 0.5]
    assert read_volume(stacks_of(labels, tmp_path, 2.0)[0]).px(3.0) == 6.0
