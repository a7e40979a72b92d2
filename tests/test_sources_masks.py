"""Masks and points that are not what they seem: interpolated, of the brain, touching, doubled."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cmbfe.data.sources.lesions import (
    BELOW_HALF,
    EMPTY,
    INTERPOLATED,
    LARGE,
    NO_MICROBLEED,
    OTHER_VALUES,
    SMALL,
    TOUCHING,
    lesions_of_mask,
    without_repeated,
)
from cmbfe.errors import InputError

FILE = Path("label.nii")
SPACING = (2.0, 0.9, 0.9)
SIZE = (12, 64, 64)
LESIONS = (np.s_[4:7, 28:32, 22:26], np.s_[7:10, 18:22, 38:42])


def two(first: float = 1, second: float = 1) -> np.ndarray:
    voxels = np.zeros(SIZE, np.float32)
    voxels[LESIONS[0]], voxels[LESIONS[1]] = first, second
    return voxels


def lesions(voxels: np.ndarray) -> tuple[list, dict[str, int]]:
    """And the notes that are said."""
    found, notes = lesions_of_mask(voxels.astype(np.float32), SPACING, FILE)
    return found, {note: count for note, count in notes.items() if count}


EXACT, _ = lesions(two())
INTERPOLATIONS = {
    "spline, to half and back": ndimage.zoom(ndimage.zoom(two(), 0.5, order=3), 2, order=3),
    "spline, moved and back": ndimage.shift(ndimage.shift(two(), (0.3, 0.4, 0.2)), (-0.3, -0.4, -0.2)),
    "linear, moved by half a voxel": ndimage.shift(two(), (0, 0.5, 0.5), order=1),
    "linear, in 8 bits": np.rint(255 * ndimage.zoom(ndimage.zoom(two(), 0.5, order=1), 2, order=1)),
    "linear, across slices, in 8 bits": np.rint(255 * ndimage.shift(two(), (0.3, 0, 0), order=1)),
    "linear, in percent": 100 * ndimage.shift(two(), (0, 0.4, 0.3), order=1),
}


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_an_interpolated_mask_is_cut_at_half_of_the_value_of_its_label(name):
    found, notes = lesions(INTERPOLATIONS[name])
    assert len(found) == 2
    for own, exact in zip(found, EXACT, strict=True):
        for box in own.values():
            assert np.abs(np.array(box) - next(iter(exact.values()))).max() <= 2
    assert notes.keys() >= {INTERPOLATED, BELOW_HALF}


@pytest.mark.parametrize("scale", [1, 255, 1 / 255, 0.5, 1.0000001])
def test_a_mask_of_one_value_is_a_mask_whatever_the_value(scale):
    assert lesions(two(scale, scale))[0] == EXACT


@pytest.mark.parametrize("scale", [1, 1.00001])
def test_other_values_are_microbleeds_too(scale):
    assert lesions(two(2, 3) * scale) == (EXACT, {OTHER_VALUES: 1})


SEVERAL = {
    "two labels, linear": ndimage.shift(two(1, 2), (0, 0.5, 0.5), order=1),
    "ten labels, spline": ndimage.zoom(ndimage.zoom(two(1, 10), 0.5, order=3), 2, order=3),
    "one too small to be kept": ndimage.shift(two() + (np.indices(SIZE).sum(axis=0) == 20), (0.5, 0.5, 0.5), order=1),
    "probabilities": two(1, 0.3) + 0.001,
}


@pytest.mark.parametrize("name", SEVERAL)
def test_an_interpolated_mask_that_would_lose_a_microbleed_is_refused(name):
    with pytest.raises(InputError, match=rf"^{FILE}: .*nearest neighbour$"):
        lesions(SEVERAL[name])


def test_a_label_below_0_is_refused():
    with pytest.raises(InputError, match=f"^{FILE}: a label of -1"):
        lesions(two(1, -1))


TOUCHING_PAIRS = {
    "beside each other": (np.s_[4:7, 28:32, 22:26], np.s_[4:7, 28:32, 26:30]),
    "across slices": (np.s_[3:5, 28:32, 22:26], np.s_[5:8, 28:32, 22:26]),
    "with a corner": (np.s_[3:5, 28:32, 22:26], np.s_[5:8, 32:36, 26:30]),
}


@pytest.mark.parametrize("name", TOUCHING_PAIRS)
@pytest.mark.parametrize("values", [(1, 2), (7, 3), (1, 255), (200, 90)])
def test_labels_that_touch_are_kept_apart_and_said(name, values):
    voxels = np.zeros(SIZE)
    for place, value in zip(TOUCHING_PAIRS[name], values, strict=True):
        voxels[place] = value
    found, notes = lesions(voxels)
    assert notes == {OTHER_VALUES: 1, TOUCHING: 1}
    boxes = [next(iter(own.values())) for own in found]
    slices = [(min(own), max(own) + 1) for own in found]
    for place, box, own in zip(TOUCHING_PAIRS[name], boxes, slices, strict=True):
        assert box == [place[2].start, place[1].start, 4, 4]
        assert own == (place[0].start, place[0].stop)


def test_solid_areas_that_touch_are_never_interpolated_and_thin_ones_of_a_large_number_are_refused():
    voxels = two()
    for number in range(4):
        voxels[1:3, 3:6, 2 + 3 * number : 5 + 3 * number] = number + 1
    assert (len(lesions(voxels)[0]), lesions(voxels)[1][TOUCHING]) == (6, 3)
    voxels[1, 50:52, 50:52], voxels[1, 50:52, 52:54] = 3, 120
    with pytest.raises(InputError, match=f"^{FILE}: 3 and 120 lie beside each other; number microbleeds from 1 on"):
        lesions(voxels)


@pytest.mark.parametrize(("place", "count", "note"), [
    (np.s_[:, :, :], 0, NO_MICROBLEED),
    (np.s_[2:3, 5:55, 10:12], 2, NO_MICROBLEED),
    (np.s_[:, 50:52, 50:52], 3, LARGE),
    (np.s_[5:6, 10:40, 10:12], 3, LARGE),
])  # fmt: skip
def test_what_is_larger_than_a_microbleed_is_counted_and_the_brain_is_none(place, count, note):
    voxels = two()
    voxels[place] = 1
    found, notes = lesions(voxels)
    assert (len(found), notes) == (count, {note: 1})


def test_a_label_of_the_brain_beside_one_of_microbleeds_does_not_matter():
    brain = np.zeros(SIZE)
    brain[:, 4:60, 4:60] = 3
    found, notes = lesions(np.where(two() > 0, two(), brain))
    assert found == EXACT
    assert notes.keys() == {OTHER_VALUES, NO_MICROBLEED, TOUCHING}


def test_small_and_missing_microbleeds_are_counted():
    voxels = np.zeros(SIZE)
    voxels[3, 5, 5] = voxels[6, 20, 20] = 1
    assert lesions_of_mask(voxels, (1, 0.9, 0.9), FILE)[1][SMALL] == 2
    assert lesions(np.zeros(SIZE)) == ([], {EMPTY: 1})


def test_of_points_at_one_place_the_largest_is_kept():
    places = np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3.001], [1, 2, 3.5]])
    assert without_repeated(places, [3, 4, 5, 6]) == [1, 2, 3]
    assert without_repeated(np.zeros((0, 3)), []) == []
