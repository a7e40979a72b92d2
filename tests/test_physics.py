"""The physics of the phantom against closed forms and against finer simulations."""

from dataclasses import replace

import numpy as np
import pytest

from cmbfe.phantom import physics
from cmbfe.phantom.looks import block_scan, uniform_scene
from cmbfe.phantom.scan import Scan

CUBE = (1.0, 1.0, 1.0)
OBLIQUE = np.array([0.9, 0.3, np.sqrt(1 - 0.81 - 0.09)])


def offsets(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)


def ball_share(places: np.ndarray, radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Volume share of a ball in each voxel, by 5 x 5 x 5 samples."""
    steps = (np.arange(5) - 2) / 5
    total = np.zeros(places.shape[:-1])
    for step in np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3):
        total += np.linalg.norm(places + step * spacing, axis=-1) < radius
    return (total / 125).astype(np.float32)


@pytest.mark.parametrize("direction", [np.array([1.0, 0, 0]), OBLIQUE])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.5, 0.5)])
def test_field_of_a_sphere_is_the_closed_form_dipole_beyond_two_voxels(direction, spacing):
    places, radius = offsets((64, 88, 88), spacing), 5.0
    field = physics.field_from_susceptibility(
        ball_share(places, radius, spacing), spacing, direction, padding_mm=50.0
    )
    exact = physics.ball_field(places, radius, 1.0, direction)
    distance = np.linalg.norm(places, axis=-1)
    outside = (distance > radius + 2 * max(spacing)) & (distance < 20)
    error = (field - exact)[outside]
    assert np.abs(error - error.mean()).max() < 0.02 * np.abs(exact).max()  # the mean field is not defined


def test_field_inside_a_sphere_is_nil_by_the_sphere_of_lorentz():
    places = offsets((80, 80, 80), CUBE)
    field = physics.field_from_susceptibility(ball_share(places, 8.0, CUBE), CUBE, OBLIQUE, padding_mm=60.0)
    assert abs(field[np.linalg.norm(places, axis=-1) < 5].mean()) < 0.005


@pytest.mark.parametrize(("direction", "inside"), [([1.0, 0, 0], 1 / 3), ([0, 1.0, 0], -1 / 6)])
def test_field_inside_a_long_cylinder_depends_on_its_angle_to_the_field(direction, inside):
    _, y, x = np.moveaxis(offsets((16, 128, 128), CUBE), -1, 0)
    cylinder = (np.hypot(y, x) < 8).astype(np.float32)
    field = physics.field_from_susceptibility(cylinder, CUBE, np.array(direction), padding_mm=0.0)
    # Chi / 2 (cos^2 - 1/3), less the mean field of the periodic box, which the scanner tunes away.
    assert field[np.hypot(y, x) < 4].mean() == pytest.approx(inside * (1 - cylinder.mean()), abs=0.01)


def test_field_is_linear_and_translates_with_the_susceptibility():
    chi = np.zeros((24, 24, 24), np.float32)
    chi[8:14, 8:14, 8:14] = np.random.default_rng(0).standard_normal((6, 6, 6))
    field, shifted, doubled = (
        physics.field_from_susceptibility(part, CUBE, OBLIQUE) for part in (chi, np.roll(chi, 3, axis=1), 2 * chi)
    )
    np.testing.assert_allclose(np.roll(field, 3, axis=1)[:, 3:-3], shifted[:, 3:-3], atol=1e-5)
    np.testing.assert_allclose(doubled, 2 * field, atol=1e-5)


def test_variance_inside_a_voxel_is_that_of_a_linear_field():
    z, y, x = np.meshgrid(np.arange(6.0), np.arange(7.0), np.arange(8.0), indexing="ij")
    field = (0.3 * z - 0.2 * y + 0.1 * x).astype(np.float32)
    assert physics.gradient_spread(field)[1:-1, 1:-1, 1:-1] == pytest.approx((0.09 + 0.04 + 0.01) / 12, rel=1e-4)


@pytest.mark.parametrize("turns", [0.05, 0.2, 0.35, 0.5])
def test_dephasing_agrees_with_the_exact_sinc_up_to_half_a_turn_per_voxel(turns):
    scene = uniform_scene(block_scan(matrix=32, slices=6))
    echo_time = 45.0
    step = 2 * np.pi * turns / (physics.RADIANS_PER_PPM_MS * echo_time)
    field = step * np.arange(scene.field.shape[2]) * np.ones(scene.field.shape)
    bent = replace(scene, field=field.astype(np.float32), spread=physics.gradient_spread(field))
    ratio = np.abs(physics.echo_signal(bent, echo_time)) / np.abs(physics.echo_signal(scene, echo_time))
    assert ratio[2:-2, 2:-2, 2:-2] == pytest.approx(np.sinc(turns), abs=0.03)


def test_signal_decays_with_r2star_and_turns_with_the_field():
    scene = uniform_scene(block_scan(matrix=32, slices=4))
    turned = replace(scene, field=np.full_like(scene.field, 0.05))
    early, late = physics.echo_signal(turned, 25.0), physics.echo_signal(turned, 65.0)
    assert np.abs(late / early) == pytest.approx(np.exp(-0.040 * scene.r2star[0, 0, 0]), rel=1e-4)
    assert np.angle(early) == pytest.approx(0.05 * physics.RADIANS_PER_PPM_MS * 25.0, abs=1e-4)


def test_a_vein_across_part_of_a_voxel_darkens_it_more_than_its_share_of_volume():
    scene = uniform_scene(block_scan(matrix=32, slices=4))
    share = 0.3
    veined = replace(scene, blood=np.full_like(scene.blood, share), along=np.ones_like(scene.along))
    # Blood along the field turns by chi / 2 (1 - 1/3) (1 - share): half a turn against tissue at about this time.
    echo_time = np.pi / (physics.RADIANS_PER_PPM_MS * 0.5 / 3 * (1 - share))
    lost = 1 - np.abs(physics.echo_signal(veined, echo_time)) / np.abs(physics.echo_signal(scene, echo_time))
    assert (lost > share).all()


def test_acquisition_keeps_coarse_detail_and_loses_what_the_voxels_cannot_hold():
    z = np.arange(64)[:, None, None] * np.ones((1, 16, 16))
    coarse, fine = (np.exp(2j * np.pi * cycles * z / 64).astype(np.complex64) for cycles in (4, 24))
    np.testing.assert_allclose(physics.acquire(coarse.copy(), CUBE, (2.0, 1.0, 1.0)), coarse, atol=1e-3)
    np.testing.assert_allclose(physics.acquire(fine, CUBE, (2.0, 1.0, 1.0)), 0, atol=1e-3)


def test_noise_has_unit_deviation_and_overlapping_slices_share_it():
    rng = np.random.default_rng(0)
    apart = physics.receiver_noise(rng, Scan(64, 12, 240, 2, 2, 0, 0, 0))
    overlapping = physics.receiver_noise(rng, Scan(64, 12, 240, 2, 1, 0, 0, 0))
    for noise in (apart, overlapping):
        assert noise.shape == (12, 64, 64)
        assert noise.real.std() == pytest.approx(1, abs=0.05)
        assert noise.imag.std() == pytest.approx(1, abs=0.05)

    def neighbours(noise):
        return np.corrcoef(noise.real[:-1].ravel(), noise.real[1:].ravel())[0, 1]

    assert abs(neighbours(apart)) < 0.03
    assert neighbours(overlapping) == pytest.approx(2 / np.pi, abs=0.05)  # sinc(1/2)


def test_shim_removes_what_second_order_coils_can():
    axes = tuple(np.linspace(-60, 60, 13) for _ in range(3))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    smooth = (0.01 * z - 0.02 * x + 1e-4 * (x**2 - y**2) + 0.3).astype(np.float32)
    mask = z**2 + y**2 + x**2 < 50**2
    assert np.abs(physics.shim(smooth, axes, mask)).max() < 1e-3
    assert np.abs(physics.shim((z**3 * 1e-4).astype(np.float32), axes, mask)).max() > 0.1


def test_phase_filter_removes_a_slow_ramp_and_keeps_a_small_object():
    rows, columns = np.meshgrid(np.arange(128), np.arange(128), indexing="ij")
    phase = 0.02 * rows + 0.8 * (np.hypot(rows - 64, columns - 64) < 2)
    filtered = physics.filtered_phase(np.exp(1j * phase)[None].astype(np.complex64))[0]
    assert filtered[64, 64] > 0.5
    assert np.abs(filtered[30:50, 30:50]).max() < 0.1


def test_swi_darkens_where_the_field_is_lower_and_nowhere_else():
    swi = physics.susceptibility_weighted(np.full(3, 100.0), np.array([-np.pi / 2, 0.0, np.pi / 2]))
    np.testing.assert_allclose(swi, [100 / 16, 100, 100])
