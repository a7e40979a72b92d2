"""The radial symmetry transform on discs and balls of known radius, and the detector around it on small volumes."""

import numpy as np
import pytest
from baseline_world import SETTINGS, SHAPE, SPACING_MM, ball, volume

from cmbfe.baselines.radial_symmetry import radial_symmetry, train

RADII_MM = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0)


def peak(response: np.ndarray) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(response.argmax(), response.shape))


@pytest.mark.parametrize("radius_mm", [3.0, 4.0, 5.0, 6.0])
@pytest.mark.parametrize("pixel_mm", [1.0, 0.5])
def test_a_dark_disc_peaks_at_its_centre_at_its_radius(radius_mm, pixel_mm):
    side = round(41 / pixel_mm)
    middle = (side // 2, side // 2 - 3)
    image = 0.9 - 0.7 * ball((side, side), middle, radius_mm, (pixel_mm, pixel_mm))
    response = radial_symmetry(image, (pixel_mm, pixel_mm), RADII_MM)
    assert peak(response) == (RADII_MM.index(radius_mm), *middle)


@pytest.mark.parametrize("radius_mm", [4.0, 6.0])
def test_a_dark_ball_in_thick_slices_peaks_at_its_centre_at_its_radius(radius_mm):
    image = 0.9 - 0.7 * ball((15, 41, 41), (7, 20, 18), radius_mm)
    assert peak(radial_symmetry(image, SPACING_MM, RADII_MM)) == (RADII_MM.index(radius_mm), 7, 20, 18)


def test_contrast_does_not_matter_and_brightness_does_not_either():
    dot = ball((41, 41), (20, 20), 4.0, (1.0, 1.0))
    faint, strong = (radial_symmetry(0.9 - depth * dot, (1.0, 1.0), RADII_MM) for depth in (0.1, 0.8))
    np.testing.assert_allclose(faint, strong, atol=1e-3)


def test_a_bright_disc_is_nothing_to_it():
    dot = ball((41, 41), (20, 20), 5.0, (1.0, 1.0))
    dark, bright = (radial_symmetry(0.5 + sign * 0.4 * dot, (1.0, 1.0), RADII_MM).max() for sign in (-1, 1))
    assert bright < 0.02 * dark


def test_a_plain_volume_has_no_symmetry():
    assert not radial_symmetry(np.full(SHAPE, 0.5, np.float32), SPACING_MM, RADII_MM).any()


def test_a_single_slice_is_transformed_as_a_image():
    image = 0.9 - 0.7 * ball((31, 31), (15, 15), 4.0, (1.0, 1.0))
    response = radial_symmetry(image[None], (2.0, 1.0, 1.0), (4.0,))
    assert peak(response) == (0, 0, 15, 15)


def test_the_detector_tells_balls_from_tubes_and_finds_the_same_each_time():
    detectors = [train(lambda: (volume(seed) for seed in range(3)), SETTINGS, seed=1) for _ in range(2)]
    unseen = volume(9)
    found, again = (detector(unseen) for detector in detectors)
    np.testing.assert_array_equal(found.scores, again.scores)
    best = np.argsort(-found.scores)[:2]
    for index in best:
        truth = unseen.boxes[found.slices[index]]
        middle = (found.boxes[index, :2] + found.boxes[index, 2:]) / 2
        assert ((truth[:, :2] < middle) & (middle < truth[:, 2:])).all(axis=1).any()
