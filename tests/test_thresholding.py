"""Statistical thresholding on a volume made by hand, and the detector around it on small volumes."""

import numpy as np
from baseline_world import SETTINGS, SPACING_MM, volume

from cmbfe.baselines.thresholding import LARGEST_MM, dark_mask, regions, train
from cmbfe.baselines.volumes import Volume


def by_hand() -> Volume:
    """A checkerboard of 0.6 and 0.8 with a dark square of 3 x 4 px and a dark band across the slice."""
    row, column = np.mgrid[:40, :40]
    slices = np.tile((0.6 + 0.2 * ((row + column) % 2)).astype(np.float32), (3, 1, 1))
    slices[1, 10:13, 20:24] = 0.1
    slices[1, 30:32, :] = 0.1
    return Volume(slices, SPACING_MM, tuple(np.zeros((0, 4)) for _ in range(3)))


def test_what_is_darker_than_its_window_by_some_deviations_is_marked_and_nothing_else():
    mask = dark_mask(by_hand(), window_mm=15.0, deviations=2.0)
    expected = np.zeros_like(mask)
    expected[1, 10:13, 20:24] = True
    expected[1, 30:32, :] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_pixel_as_dark_as_the_threshold_by_hand():
    # A window of 3 x 3 with eight pixels of 1 and one of 0: mean 8/9, deviation sqrt(8)/9, so it is 2.83 below.
    slices = np.ones((1, 9, 9), np.float32)
    slices[0, 4, 4] = 0
    dot = Volume(slices, (2.0, 1.0, 1.0), (np.zeros((0, 4)),))
    assert np.argwhere(dark_mask(dot, window_mm=3.0, deviations=2.8)).tolist() == [[0, 4, 4]]
    assert not dark_mask(dot, window_mm=3.0, deviations=2.9).any()


def test_the_square_is_a_region_and_the_band_is_too_wide_for_one():
    places, features = regions(by_hand(), SETTINGS)
    assert LARGEST_MM < 40
    assert len(places) == len(features) == 1
    assert places[0, 0] == 1
    assert (10 <= places[0, 1] < 13, 20 <= places[0, 2] < 24) == (True, True)
    assert np.isclose(features[0, 0], np.log(12))
    # Standard deviations of 4 and of 3 places in a row: sqrt(15 / 12) and sqrt(8 / 12), and none across slices.
    np.testing.assert_allclose(features[0, 1:4], [np.sqrt(15 / 12), np.sqrt(8 / 12), 0], atol=1e-6)


def test_a_volume_without_anything_dark_gives_no_detection():
    detector = train(lambda: (volume(seed) for seed in range(3)), SETTINGS, seed=1)
    plain = Volume(np.full((4, 40, 40), 0.5, np.float32), SPACING_MM, tuple(np.zeros((0, 4)) for _ in range(4)))
    found = detector(plain)
    assert (len(found.slices), found.boxes.shape, found.scores.shape) == (0, (0, 4), (0,))


def test_the_detector_tells_balls_from_tubes_and_finds_the_same_each_time():
    detectors = [train(lambda: (volume(seed) for seed in range(4)), SETTINGS, seed=1) for _ in range(2)]
    unseen = volume(9)
    found, again = (detector(unseen) for detector in detectors)
    np.testing.assert_array_equal(found.scores, again.scores)
    best = int(found.scores.argmax())
    middle = (found.boxes[best, :2] + found.boxes[best, 2:]) / 2
    truth = unseen.boxes[found.slices[best]]
    assert ((truth[:, :2] < middle) & (middle < truth[:, 2:])).all(axis=1).any()
