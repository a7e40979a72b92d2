"""What lesions do to the signal: blooming, look-alikes, and boxes measured from images."""

from dataclasses import replace

import numpy as np
import pytest

from cmbfe.phantom import physics
from cmbfe.phantom.lesions import Lesion
from cmbfe.phantom.looks import ball, block_scan, darkening, uniform_scene, visible_size
from cmbfe.phantom.visibility import DARKENED, NOTICED, footprint_of, visible_boxes, with_and_without

ECHOES = (25.0, 45.0, 65.0)


@pytest.mark.parametrize("diameter", [1.5, 2.5, 4.0])
def test_visible_diameter_exceeds_the_true_one_and_grows_with_echo_time_and_susceptibility(diameter):
    lesion = ball(diameter, 1.0)
    diameters = [visible_size(lesion, (echo_time,))[0] for echo_time in (15.0, 25.0, 45.0, 65.0)]
    assert diameters == sorted(diameters)
    assert diameters[-1] > diameters[0]
    assert diameters[2] > diameter
    of_strength = [visible_size(ball(diameter, chi), ECHOES)[0] for chi in (0.5, 1.0, 2.0)]
    assert of_strength == sorted(set(of_strength))


def test_volume_grows_from_20_to_40_ms_as_published():
    """By a factor 2.30 (standard deviation 1.20) on T2*-weighted images: T. Liu et al., Radiology 262:269, 2012."""
    factors = [
        visible_size(ball(d, 1.0), (40.0,))[1] / visible_size(ball(d, 1.0), (20.0,))[1] for d in (2.0, 2.5, 3.0)
    ]
    assert 2.30 - 1.20 < np.mean(factors) < 2.30 + 1.20


def test_a_calcification_of_the_same_size_looks_alike_in_magnitude():
    bleed, chalk = darkening(ball(2.5, 1.2), ECHOES), darkening(ball(2.5, -1.2, "calcification"), ECHOES)
    np.testing.assert_allclose(bleed, chalk, atol=0.02)


def test_a_calcification_has_the_opposite_sign_in_phase():
    scan = block_scan()
    scene = uniform_scene(scan)
    phases = []
    for chi in (0.6, -0.6):
        footprint = footprint_of(ball(2.0, chi), scan, (25.0,))
        signal = physics.echo_signal(scene, 25.0)
        signal[footprint.window] *= footprint.factors[0]
        phases.append(
            physics.filtered_phase(
                physics.acquire(signal, scan.fine_spacing_mm, scan.voxel_mm)[scan.kept], low_pass=128
            )
        )
    # Beside the ball on its central slice, across the field, a paramagnetic one lowers the field.
    centre = np.array(phases[0].shape) // 2
    beside = (slice(centre[0] - 1, centre[0] + 1), centre[1], [centre[2] - 4, centre[2] + 3])
    assert phases[0][beside].mean() < -0.1
    np.testing.assert_allclose(phases[0], -phases[1], atol=0.02)


def test_closed_form_agrees_with_a_finer_simulation_of_field_and_signal():
    """The same ball on an eightfold finer grid: k-space dipole, signal of each fine voxel, mean over scan voxels."""
    radius, chi, echo_time = 1.25, 1.0, 45.0
    scan = block_scan(matrix=48, slices=16)
    lesion = ball(2 * radius, chi, r2star_per_s=200.0)
    footprint = footprint_of(lesion, scan, (echo_time,))
    spacing = (0.125, 0.46875 / 4, 0.46875 / 4)
    axes = [(np.arange(96) - 47.5) * mm for mm in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    inside = z**2 + y**2 + x**2 < radius**2
    field = physics.field_from_susceptibility(
        chi * inside.astype(np.float32), spacing, np.array([1.0, 0, 0]), padding_mm=8.0
    )
    left = np.where(inside, lesion.density * np.exp(-0.2 * echo_time), 1.0)
    fine = left * np.exp(1j * physics.RADIANS_PER_PPM_MS * echo_time * field)
    coarse = fine.reshape(12, 8, 24, 4, 24, 4).mean(axis=(1, 3, 5))
    grid = [np.array(axis).reshape(-1, size).mean(1) for axis, size in zip(axes, (8, 4, 4), strict=True)]
    picked = [
        [int(np.argmin(np.abs(fine_axis[part] - place))) for place in wanted]
        for fine_axis, part, wanted in zip(scan.fine_axes_mm, footprint.window, grid, strict=True)
    ]
    closed = footprint.factors[0][np.ix_(*picked)]
    assert np.corrcoef(np.abs(closed).ravel(), np.abs(coarse).ravel())[0, 1] > 0.98
    assert np.abs(np.abs(closed) - np.abs(coarse)).mean() < 0.03


def test_a_cluster_of_balls_has_the_field_of_their_sum():
    scan = block_scan()
    single = Lesion("cmb", "lobar", np.zeros(3), np.zeros((1, 3)), np.array([0.8]), 0.5, 0.0, 1.0)
    offsets = np.array([[0, -2.0, 0], [0, 2.0, 0]])
    together = footprint_of(replace(single, offsets_mm=offsets, radii_mm=np.array([0.8, 0.8])), scan, (5.0,))
    product = np.ones_like(together.factors)
    for offset in offsets:
        part = footprint_of(replace(single, offsets_mm=offset[None]), scan, (5.0,))
        inner = tuple(
            slice(p.start - t.start, p.stop - t.start) for p, t in zip(part.window, together.window, strict=True)
        )
        product[(slice(None), *inner)] *= part.factors
    # Where the phase is small the mean of a product is nearly the product of the means.
    assert np.abs(together.factors - product).max() < 0.1
    assert np.abs(together.factors - product).mean() < 0.002


def test_flow_void_takes_signal_without_blooming():
    void = Lesion("flow void", "lobar", np.zeros(3), np.zeros((1, 3)), np.array([1.5]), 0.0, 0.0, 0.0)
    assert visible_size(void, (15.0,)) == visible_size(void, (65.0,))
    assert visible_size(void, ECHOES)[0] == pytest.approx(3.0, abs=0.6)


def test_box_holds_the_voxels_darkened_beyond_the_threshold_and_no_others():
    unchanged = np.full((3, 20, 30), 100.0)
    changed = unchanged.copy()
    changed[1, 5:12, 8:14] = 10.0
    changed[1, 5:12, 14] = 100 * (1 - DARKENED) + 1  # darkened, but less than DARKENED
    changed[2, 8, 10] = 10.0  # too small to count
    boxes, diameter = visible_boxes(changed, unchanged, (10, 100, 200), 0.5, least=50.0)
    assert boxes == {11: (208.0, 105.0, 214.0, 112.0)}
    assert diameter == pytest.approx(2 * np.sqrt(42 / np.pi) * 0.5)


def test_faint_lesion_and_lesion_in_a_signal_void_have_no_box():
    for around, inside in ((100.0, 100 * (1 - NOTICED) + 1), (10.0, 0.0)):
        unchanged = np.full((1, 20, 20), around)
        changed = unchanged.copy()
        changed[0, 5:12, 5:12] = inside
        assert visible_boxes(changed, unchanged, (0, 0, 0), 0.5, least=50.0)[0] == {}


def test_lesion_at_the_edge_of_the_grid_is_cut_not_lost():
    scan = block_scan()
    lesion = Lesion("cmb", "lobar", np.array([-11.0, 14.0, 0.0]), np.zeros((1, 3)), np.array([1.2]), 1.0, 150.0, 0.9)
    footprint = footprint_of(lesion, scan, ECHOES)
    changed, unchanged, first = with_and_without(uniform_scene(scan), footprint, scan, ECHOES)
    boxes, _ = visible_boxes(changed, unchanged, first, scan.pixel_mm, least=0.0)
    assert 0 in boxes
    assert all(0 <= box[0] < box[2] <= 64 and 0 <= box[1] < box[3] <= 64 for box in boxes.values())
