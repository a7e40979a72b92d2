"""N4 removes a smooth field and nothing else: dark dots keep their contrast, odd volumes come through."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from cmbfe.data.n4 import correct_bias, head_mask

SPACING_MM = (2.0, 1.0, 1.0)
ITERATIONS = (30, 30)


def head(slices: int = 12, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid of two tissues in black air with noise, and where the ellipsoid is."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (slices, side, side)), indexing="ij")
    inside = (z / 1.3) ** 2 + (y / 0.85) ** 2 + (x / 0.75) ** 2 < 1
    tissue = np.where((y / 0.85) ** 2 + (x / 0.75) ** 2 < 0.4, 600.0, 500.0)
    noise = np.random.default_rng(0).normal(0, 8, inside.shape)
    return np.where(inside, tissue + noise, np.abs(noise)), inside


def smooth_field(shape: tuple[int, int, int]) -> np.ndarray:
    """A coil's field as surface coils make it: brighter to one side and up, 3:1 over the volume."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(0.35 * x - 0.25 * y**2 + 0.1 * z)


def variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


def test_a_known_field_is_found_and_removed():
    volume, inside = head()
    field = smooth_field(volume.shape)
    corrected = correct_bias(volume * field, SPACING_MM, 2, ITERATIONS)
    estimated = np.log((volume * field)[inside] / corrected[inside])
    assert np.corrcoef(estimated, np.log(field[inside]))[0, 1] > 0.95
    residual = variation(corrected[inside] / volume[inside])
    assert residual < variation(field[inside]) / 2


def test_a_dark_dot_keeps_its_contrast_to_its_surroundings():
    volume, _ = head()
    dot, ring = (slice(5, 7), slice(30, 33), slice(40, 43)), (slice(5, 7), slice(27, 36), slice(37, 46))
    volume[dot] *= 0.2
    biased = volume * smooth_field(volume.shape)
    corrected = correct_bias(biased, SPACING_MM, 2, ITERATIONS)
    before, after = (v[dot].mean() / np.median(v[ring]) for v in (biased, corrected))
    assert before < 0.3
    assert after == pytest.approx(before, rel=0.03)


def test_the_mask_is_the_head_with_its_dark_holes_filled():
    volume, inside = head()
    volume[4:8, 30:36, 28:34] = 0
    assert (head_mask(volume) == inside).mean() > 0.99
    assert head_mask(volume)[4:8, 30:36, 28:34].all()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7])
def test_holes_in_the_mask_are_what_scipy_calls_holes(share):
    speckled = (np.random.default_rng(0).random((4, 40, 50)) < share).astype(float)
    filled = [ndimage.binary_fill_holes(image) for image in speckled]
    np.testing.assert_array_equal(head_mask(speckled), filled)


def test_the_last_bit_does_not_depend_on_how_many_cores_there_are():
    volume, _ = head()
    biased = volume * smooth_field(volume.shape)
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    corrected = []
    try:
        for cores in (1, 2, 5):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(cores)
            corrected.append(correct_bias(biased, SPACING_MM, 2, ITERATIONS))
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == cores
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    np.testing.assert_array_equal(corrected[1], corrected[0])
    np.testing.assert_array_equal(corrected[2], corrected[0])


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_thin_series_are_corrected_too(slices):
    volume, inside = head()
    volume, inside = volume[4 : 4 + slices], inside[4 : 4 + slices]
    field = smooth_field(volume.shape)
    corrected = correct_bias(volume * field, SPACING_MM, 2, ITERATIONS)
    assert corrected.shape == volume.shape
    assert variation(corrected[inside] / volume[inside]) < variation(field[inside]) / 2


@pytest.mark.parametrize("value", [0, 7])
def test_a_volume_without_contrast_comes_back_unchanged(value):
    volume = np.full((3, 8, 8), value, np.uint16)
    np.testing.assert_array_equal(correct_bias(volume, SPACING_MM), volume)


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 3, 3), (1, 5, 90), (3, 64, 3)])
def test_tiny_and_narrow_volumes_give_finite_values(shape):
    volume = np.random.default_rng(0).random(shape) * 100
    assert np.isfinite(correct_bias(volume, SPACING_MM, 4, (5,))).all()


@pytest.mark.parametrize("spot", [np.s_[0, 0, 0], np.s_[1], np.s_[:, 8:24, 8:24]])
def test_volumes_of_two_values_give_finite_values(spot):
    volume = np.zeros((4, 32, 32))
    volume[spot] = 100
    assert np.isfinite(correct_bias(volume, SPACING_MM, 4, (5,))).all()


def test_black_voxels_inside_the_head_stay_black_and_finite():
    volume, _ = head()
    volume[5, 30:34, 30:34] = 0
    corrected = correct_bias(volume, SPACING_MM, 2, (10,))
    assert np.isfinite(corrected).all()
    assert not corrected[5, 30:34, 30:34].any()
