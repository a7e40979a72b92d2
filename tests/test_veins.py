"""Veins: that they are where veins are, that their volume is right, and that many cross slices as dots."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from cmbfe.phantom.template import load_template
from cmbfe.phantom.veins import STEP_MM, Veins, grow_veins, rasterise

UP = np.array([1.0, 0.0, 0.0])


@lru_cache
def tree() -> Veins:
    return grow_veins(np.random.default_rng(0), load_template())


def straight_vein(radius: float, tilt_degrees: float) -> Veins:
    """A vein of 16 mm through the origin, tilted from the first axis towards the second."""
    tilt = np.deg2rad(tilt_degrees)
    along = np.arange(-8, 8, STEP_MM) + STEP_MM / 2
    same = np.ones(len(along))
    direction = np.outer([np.cos(tilt), np.sin(tilt), 0.0], same)
    return Veins(direction * along, direction, radius * same, STEP_MM * same, np.zeros(len(along), int))


AXES = (np.arange(-12.0, 13.0, 1.0), np.arange(-12.0, 12.1, 0.5), np.arange(-5.0, 5.1, 0.5))


@pytest.mark.parametrize("radius", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("tilt", [0.0, 30.0, 90.0])
def test_rastered_volume_is_the_cylinders(radius, tilt):
    share = rasterise(straight_vein(radius, tilt), AXES, UP)[0]
    assert share.sum() * 1.0 * 0.5 * 0.5 == pytest.approx(np.pi * radius**2 * 16.0, rel=0.08)
    assert share.min() >= 0
    assert share.max() <= 1


def test_a_wide_vein_fills_voxels_and_a_thin_one_a_share_of_them():
    assert rasterise(straight_vein(2.0, 0.0), AXES, UP)[0][12, 24, 10] == pytest.approx(1, abs=0.1)
    thin = rasterise(straight_vein(0.2, 0.0), AXES, UP)[0][12, 24, 10]
    assert 0.05 < thin < 0.6


@pytest.mark.parametrize("tilt", [0.0, 45.0, 90.0])
def test_squared_cosine_to_the_field_is_kept(tilt):
    share, along = rasterise(straight_vein(0.5, tilt), AXES, UP)
    assert along[share > 0.1] == pytest.approx(np.cos(np.deg2rad(tilt)) ** 2, abs=1e-5)


def test_veins_outside_the_grid_are_left_out():
    vein = straight_vein(0.5, 0.0)
    moved = replace(vein, points=vein.points + 100.0)
    assert rasterise(moved, AXES, UP)[0].sum() == 0


def test_directions_are_unit_vectors_along_the_veins():
    veins = tree()
    np.testing.assert_allclose(np.linalg.norm(veins.directions, axis=0), 1, atol=1e-6)
    same = np.diff(veins.vein) == 0
    step = np.diff(veins.points, axis=1)
    near = same & (np.linalg.norm(step, axis=0) < 2 * STEP_MM)
    cosine = np.abs((step * veins.directions[:, 1:]).sum(0) / np.linalg.norm(step, axis=0))[near]
    assert np.median(cosine) > 0.9


def test_radii_span_the_anatomical_range_and_veins_cross_slices_at_all_angles():
    radii = tree().radii_mm
    assert radii.min() < 0.2
    assert 2 < radii.max() < 5
    cosine = np.abs(tree().directions[2, radii < 1.5])
    counts, _ = np.histogram(cosine, bins=5, range=(0, 1))
    assert counts.min() > 0.08 * counts.sum()


def test_small_veins_stay_in_or_near_the_brain_and_the_sagittal_sinus_in_the_midline():
    veins = tree()
    hull = load_template().hull.at(veins.points.astype(np.float32))
    assert np.mean(hull[veins.radii_mm < 1.5] < 3) > 0.97
    top = (veins.radii_mm > 2) & (veins.points[2] > 30)
    assert top.any()
    assert np.abs(veins.points[0, top]).max() < 5
