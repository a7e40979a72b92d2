"""Heads made from the template, their veins and the slab that is scanned: geometry, tissues, contrast."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from cmbfe.errors import InputError
from cmbfe.phantom import anatomy
from cmbfe.phantom.scan import Scan, draw_scan, slab_spacing
from cmbfe.phantom.template import DEEPEST_MM, folded, load_template
from cmbfe.phantom.tissue import AIR, CSF, GREY_MATTER, WHITE_MATTER, blood_chi, iron, spoiled_amplitude
from cmbfe.phantom.veins import STEP_MM, Veins, grow_veins, rasterise

AXES = (np.arange(-8.0, 24.0, 4.0), np.arange(-90.0, 120.0, 2.0), np.arange(-90.0, 91.0, 2.0))


@lru_cache
def build() -> anatomy.Build:
    return anatomy.draw_build(np.random.default_rng(3))


@lru_cache
def head() -> anatomy.Head:
    return anatomy.make_head(build(), AXES, load_template())


def at_template(place: tuple[float, float, float]) -> np.ndarray:
    """Index on AXES of the voxel nearest to a template place."""
    distance = np.linalg.norm(head().position - np.array(place).reshape(3, 1, 1, 1), axis=0)
    return np.unravel_index(distance.argmin(), distance.shape)


def test_each_head_has_folds_of_its_own_above_what_all_share_and_cortex_lines_its_sulci():
    template = load_template()
    heads = [folded(np.random.default_rng(seed), template) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(heads[0].t1.values, heads[1].t1.values)
    deep = -template.depth > DEEPEST_MM
    for part in ("t1", "white"):
        before, first, _, other = (getattr(head, part).values for head in (template, *heads))
        np.testing.assert_array_equal(first[deep], before[deep])
        moved = np.abs(first - before) > 0.02
        assert np.corrcoef(first[moved], other[moved])[0, 1] < 0.6
        assert 0 <= first.min() <= first.max() <= max(before.max(), 1)
    brain = template.t1.values > 0.6
    own = (heads[0].t1.values < 0.4) & brain  # sulci that the average brain lacks
    around = ndimage.binary_dilation(own, iterations=2) & brain
    assert own.sum() > 1000
    assert heads[0].white.values[around].mean() < template.white.values[around].mean() / 2


def test_scan_and_template_positions_invert_each_other():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (3, 200)).astype(np.float32)
    template = load_template()
    back = anatomy.template_position(build(), anatomy.scan_position(build(), points, template), template)
    assert np.abs(back - points).max() < 0.3


def test_up_in_the_scan_is_up_in_the_template_and_left_is_left():
    template = load_template()
    origin, up, back, left = (
        anatomy.template_position(build(), np.array(p, np.float32).reshape(3, 1), template)[:, 0]
        for p in ((10, 10, 10), (40, 10, 10), (10, 40, 10), (10, 10, 40))
    )
    assert (up - origin)[2] > 25
    assert (back - origin)[1] < -25
    assert (left - origin)[0] < -25


def test_shares_of_tissue_sum_to_one_and_lie_where_they_should_at_signals_of_their_kind():
    shares = anatomy.tissue_shares(head(), build())
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-5)
    assert all((share >= -1e-6).all() for share in shares.values())
    assert (shares[AIR][:, 0] > 0.99).all()
    assert shares[AIR][at_template((30.0, -20.0, 20.0))] < 0.01
    assert shares[WHITE_MATTER][at_template((26.0, -20.0, 26.0))] > 0.9
    assert shares[CSF][at_template((6.0, 8.0, 14.0))] > 0.7
    assert head().iron[at_template((19.0, -4.0, -1.0))] > 10
    assert head().iron[at_template((26.0, -20.0, 26.0))] < 0.01
    amplitude, r2star, _ = anatomy.tissue_maps(shares, head().iron)
    signal = amplitude * np.exp(-0.045 * r2star)  # at the paper's echo time
    places = ((19, -4, -1), (27, 2, 2), (26, -20, 26), (6, 8, 14))
    pallidum, putamen, white, fluid = (signal[at_template(place)] for place in places)
    assert pallidum < putamen < white < fluid


def test_wider_ventricles_and_atrophy_give_more_fluid():
    in_brain = head().hull < -2
    narrow, wide = (
        anatomy.make_head(replace(build(), ventricle_growth_mm=growth), AXES, load_template())
        for growth in (0.0, 4.0)
    )
    few, many = (anatomy.tissue_shares(h, build())[CSF][h.hull < -25].sum() for h in (narrow, wide))
    assert many > 1.15 * few
    aged = anatomy.tissue_shares(head(), replace(build(), atrophy=1.0))
    young = anatomy.tissue_shares(head(), replace(build(), atrophy=0.0))
    assert aged[CSF][in_brain].sum() > 1.1 * young[CSF][in_brain].sum()


def test_spoiled_amplitude_follows_ernst_and_grey_matter_is_brighter_than_white_at_the_papers_timing():
    """M0 sin(a) at full recovery; Ernst's angle maximises the rest."""
    assert spoiled_amplitude(WHITE_MATTER, 1e6, 90.0) == pytest.approx(WHITE_MATTER.proton_density)
    ernst = np.rad2deg(np.arccos(np.exp(-77.3 / WHITE_MATTER.t1_ms)))
    below, best, above = (spoiled_amplitude(WHITE_MATTER, 77.3, ernst + change) for change in (-2, 0, 2))
    assert best > max(below, above)
    grey, white = (spoiled_amplitude(of) * np.exp(-0.045 * of.r2star_per_s) for of in (GREY_MATTER, WHITE_MATTER))
    assert 1.05 < grey / white < 1.3


def test_iron_grows_with_age_as_hallgren_and_sourander_found_and_venous_blood_is_as_published():
    assert iron("pallidum", 0) == pytest.approx(0.37)
    assert iron("pallidum", 70) == pytest.approx(21.41 * (1 - np.exp(-6.3)) + 0.37)
    assert iron("putamen", 80) > iron("putamen", 50) > iron("putamen", 20)
    assert iron("pallidum", 70) > iron("putamen", 70) > iron("caudate", 70) > iron("thalamus", 70)
    assert blood_chi(saturation=0.65, haematocrit=0.42) == pytest.approx(0.499, abs=0.002)
    assert blood_chi(saturation=1.0, haematocrit=0.42) == 0


@pytest.mark.parametrize("refine", [anatomy.refine, anatomy.refine_linearly])
def test_refining_reproduces_a_linear_map_whatever_the_degree(refine):
    coarse = (np.linspace(0, 10, 6), np.linspace(-5, 5, 5), np.linspace(0, 3, 4))
    fine = (np.linspace(0, 10, 21), np.linspace(-5, 5, 5), np.linspace(0, 3, 13))
    of_coarse, of_fine = (np.tensordot((2, -1, 0.5), np.meshgrid(*a, indexing="ij"), 1) for a in (coarse, fine))
    np.testing.assert_allclose(refine(of_coarse.astype(np.float32), coarse, fine), of_fine, atol=1e-4)


UP = np.array([1.0, 0.0, 0.0])


def straight_vein(radius: float, tilt_degrees: float) -> Veins:
    """A vein of 16 mm through the origin, tilted from the first axis towards the second."""
    tilt = np.deg2rad(tilt_degrees)
    along = np.arange(-8, 8, STEP_MM) + STEP_MM / 2
    same = np.ones(len(along))
    direction = np.outer([np.cos(tilt), np.sin(tilt), 0.0], same)
    return Veins(direction * along, direction, radius * same, STEP_MM * same, np.zeros(len(along), int))


GRID = (np.arange(-12.0, 13.0, 1.0), np.arange(-12.0, 12.1, 0.5), np.arange(-5.0, 5.1, 0.5))


@pytest.mark.parametrize("radius", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("tilt", [0.0, 30.0, 90.0])
def test_rastered_volume_is_the_cylinders(radius, tilt):
    share = rasterise(straight_vein(radius, tilt), GRID, UP)[0]
    assert share.sum() * 1.0 * 0.5 * 0.5 == pytest.approx(np.pi * radius**2 * 16.0, rel=0.08)
    assert 0 <= share.min() <= share.max() <= 1


def test_a_wide_vein_fills_voxels_a_thin_one_a_share_of_them_and_one_outside_the_grid_none():
    assert rasterise(straight_vein(2.0, 0.0), GRID, UP)[0][12, 24, 10] == pytest.approx(1, abs=0.1)
    vein = straight_vein(0.2, 0.0)
    assert 0.05 < rasterise(vein, GRID, UP)[0][12, 24, 10] < 0.6
    assert rasterise(replace(vein, points=vein.points + 100.0), GRID, UP)[0].sum() == 0


@pytest.mark.parametrize("tilt", [0.0, 45.0, 90.0])
def test_squared_cosine_to_the_field_is_kept(tilt):
    share, along = rasterise(straight_vein(0.5, tilt), GRID, UP)
    assert along[share > 0.1] == pytest.approx(np.cos(np.deg2rad(tilt)) ** 2, abs=1e-5)


def test_veins_have_anatomical_radii_unit_directions_at_all_angles_to_slices_and_lie_where_veins_do():
    veins = grow_veins(np.random.default_rng(0), load_template())
    assert veins.radii_mm.min() < 0.2
    assert 2 < veins.radii_mm.max() < 5
    small = veins.radii_mm < 1.5
    counts, _ = np.histogram(np.abs(veins.directions[2, small]), bins=5, range=(0, 1))
    assert counts.min() > 0.08 * counts.sum()
    np.testing.assert_allclose(np.linalg.norm(veins.directions, axis=0), 1, atol=1e-6)
    step = np.diff(veins.points, axis=1)
    near = (np.diff(veins.vein) == 0) & (np.linalg.norm(step, axis=0) < 2 * STEP_MM)
    cosine = np.abs((step * veins.directions[:, 1:]).sum(0) / np.linalg.norm(step, axis=0))[near]
    assert np.median(cosine) > 0.9
    assert np.mean(load_template().hull.at(veins.points.astype(np.float32))[small] < 3) > 0.97
    sinus = (veins.radii_mm > 2) & (veins.points[2] > 30)
    assert np.abs(veins.points[0, sinus]).max() < 5  # in the midline


@pytest.mark.parametrize(("matrix", "slices"), [(512, 114), (256, 24), (128, 10), (96, 7)])
def test_every_kept_pixel_of_the_measured_rows_and_columns_lies_on_the_fine_grid(matrix, slices):
    scan = draw_scan(np.random.default_rng(0), matrix, slices, 240.0, 2.0)
    z, y, x = (axis[kept] for axis, kept in zip(scan.fine_axes_mm, scan.kept, strict=True))
    assert (len(z), len(y), len(x)) == (slices, matrix, matrix)
    np.testing.assert_allclose(z, scan.lowest_mm + scan.spacing_mm * np.arange(slices))
    np.testing.assert_allclose(x, (np.arange(matrix) - (matrix - 1) / 2) * 240 / matrix)
    np.testing.assert_allclose(y - x, scan.row_centre_mm)
    measured = replace(scan, rows=(10, 60), columns=(20, 80))
    _, rows, columns = (axis[kept] for axis, kept in zip(measured.fine_axes_mm, measured.kept, strict=True))
    np.testing.assert_allclose(rows, y[10:60])
    np.testing.assert_allclose(columns, x[20:80])


def test_a_full_slab_covers_the_brain_a_thin_one_moves_and_slices_overlap_only_where_they_would_pass_it():
    full = [draw_scan(np.random.default_rng(seed), 512, 114, 240.0, 2.0) for seed in range(20)]
    assert all(abs(scan.lowest_mm + 46.5) < 4 for scan in full)
    lowest = [draw_scan(np.random.default_rng(seed), 128, 10, 240.0, 2.0).lowest_mm for seed in range(40)]
    assert -46 <= min(lowest) < -25
    assert 25 < max(lowest) <= 66 - 18
    assert [slab_spacing(slices, 2.0) for slices in (114, 24)] == [1.0, 2.0]
    assert [Scan(64, 4, 240, 2, spacing, 0, 0, 0).slice_step for spacing in (1, 2)] == [1, 2]


@given(st.integers(32, 600), st.integers(1, 150), st.integers(0, 2**32 - 1))
def test_field_direction_is_a_unit_vector_and_the_number_of_fine_slices_is_even(matrix, slices, seed):
    scan = draw_scan(np.random.default_rng(seed), matrix, slices, 240.0, 2.0)
    assert np.linalg.norm(scan.field_direction) == pytest.approx(1)
    assert len(scan.fine_axes_mm[0]) % 2 == 0
    assert max(scan.fine_spacing_mm[1:]) <= 0.95


@pytest.mark.parametrize(
    ("matrix", "slices", "field_of_view", "thickness"),
    [(8, 10, 240, 2), (128, 0, 240, 2), (128, 10, 20, 2), (128, 10, 240, 40)],
)
def test_sizes_that_no_scan_has_are_refused(matrix, slices, field_of_view, thickness):
    with pytest.raises(InputError, match=r"give"):
        draw_scan(np.random.default_rng(0), matrix, slices, field_of_view, thickness)
