"""The cascade's networks: shapes, what a place in the screening map means, overfitting, the same weights each time."""

import numpy as np
import pytest
import torch
from baseline_world import SETTINGS, SHAPE, SPACING_MM, volume

from cmbfe.baselines.candidates import cubes
from cmbfe.baselines.cascade import (
    CLASSIFIED,
    SCREENED,
    classifier_network,
    fit,
    probabilities,
    screen,
    screening_network,
    train,
)
from cmbfe.baselines.volumes import Volume


@pytest.mark.parametrize(("depth", "side", "expected"), [(5, 12, (1, 1)), (5, 13, (1, 1)), (9, 24, (5, 7))])
def test_the_screening_network_is_fully_convolutional(depth, side, expected):
    out = screening_network()(torch.zeros(2, 1, depth, side, side))
    assert out.shape == (2, 1, expected[0], expected[1], expected[1])


def test_the_classifier_takes_its_neighbourhood():
    assert classifier_network()(torch.zeros(2, 1, *(2 * half + 1 for half in CLASSIFIED))).shape == (2, 1)


@pytest.mark.parametrize("shape", [(20, 14, 18), (3, 15, 17)])
def test_the_map_holds_what_the_network_says_of_each_neighbourhood(shape):
    # 20 slices are more than are screened at a time.
    voxels = np.random.default_rng(0).random(shape, np.float32)
    torch.manual_seed(0)
    network = screening_network()
    whole = screen(network, voxels)
    assert whole.shape == (shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2)
    places = np.array([(0, 0, 0), (2, 4, 6), (shape[0] - 1, 6, 8)])
    single = probabilities(network, cubes(voxels, places * [1, 2, 2], SCREENED))
    np.testing.assert_allclose(whole[tuple(places.T)], single, atol=1e-6)


def test_a_network_learns_what_it_is_shown_and_leaves_the_examples_alone():
    rng = np.random.default_rng(3)
    side = [2 * half + 1 for half in SCREENED]
    wide = (side[0], side[1] + 2, side[2] + 2)
    others = 0.6 + 0.05 * rng.standard_normal((40, *wide), np.float32)
    hits = others[:20].copy()
    hits[:, 1:4, 5:10, 5:10] -= 0.4
    before = hits.copy()
    torch.manual_seed(0)
    network = screening_network()
    fit(network, hits, others, 80, rng, "test")
    middle = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert probabilities(network, hits[middle]).min() > 0.9
    assert probabilities(network, others[middle]).max() < 0.1
    np.testing.assert_array_equal(hits, before)


def test_the_cascade_overfits_a_tiny_volume_and_is_the_same_each_time():
    torch.manual_seed(5)
    seen = volume(0)
    state = torch.get_rng_state()
    found, again = (train(lambda: iter([seen]), SETTINGS, seed=1)(seen) for _ in range(2))
    np.testing.assert_array_equal(found.scores, again.scores)
    assert torch.equal(state, torch.get_rng_state())  # whoever draws beside it is not disturbed
    truths = sum(map(len, seen.boxes))
    best = np.argsort(-found.scores)[:truths]
    hit = 0
    for index in best:
        truth = seen.boxes[found.slices[index]]
        middle = (found.boxes[index, :2] + found.boxes[index, 2:]) / 2
        hit += ((truth[:, :2] < middle) & (middle < truth[:, 2:])).all(axis=1).any()
    assert hit == truths == 6


def test_a_volume_of_a_single_slice_is_screened_too():
    one = Volume(volume(0).voxels[:1], SPACING_MM, (np.zeros((0, 4)),))
    assert screen(screening_network(), one.voxels).shape == (1, SHAPE[1] // 2, SHAPE[2] // 2)
