"""Geometry of the simulated slab."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmbfe.errors import InputError
from cmbfe.phantom.scan import Scan, draw_scan, slab_spacing


@pytest.mark.parametrize(("matrix", "slices"), [(512, 114), (256, 24), (128, 10), (96, 7)])
def test_every_kept_pixel_lies_on_the_fine_grid(matrix, slices):
    scan = draw_scan(np.random.default_rng(0), matrix, slices, 240.0, 2.0)
    z, y, x = (axis[kept] for axis, kept in zip(scan.fine_axes_mm, scan.kept, strict=True))
    assert (len(z), len(y), len(x)) == (slices, matrix, matrix)
    np.testing.assert_allclose(z, scan.lowest_mm + scan.spacing_mm * np.arange(slices))
    np.testing.assert_allclose(x, (np.arange(matrix) - (matrix - 1) / 2) * 240 / matrix)
    np.testing.assert_allclose(y - x, scan.row_centre_mm)


def test_coarse_images_are_simulated_on_a_finer_grid_of_the_measured_rows_and_columns():
    scan = replace(draw_scan(np.random.default_rng(0), 128, 10, 240.0, 2.0), rows=(10, 60), columns=(20, 80))
    assert scan.oversampling == 2
    assert scan.fine_spacing_mm == (1.0, 0.9375, 0.9375)
    _, y, x = (axis[kept] for axis, kept in zip(scan.fine_axes_mm, scan.kept, strict=True))
    assert (len(y), len(x)) == (50, 60)
    assert x[0] == pytest.approx((20 - 63.5) * 1.875)


def test_slices_overlap_only_where_they_would_pass_the_brain():
    assert slab_spacing(114, 2.0) == 1.0
    assert slab_spacing(24, 2.0) == 2.0
    assert [Scan(64, 4, 240, 2, spacing, 0, 0, 0).slice_step for spacing in (1, 2)] == [1, 2]


def test_a_full_slab_covers_the_brain_and_a_thin_one_moves():
    full = [draw_scan(np.random.default_rng(seed), 512, 114, 240.0, 2.0) for seed in range(20)]
    assert all(abs(scan.lowest_mm + 46.5) < 4 for scan in full)
    thin = [draw_scan(np.random.default_rng(seed), 128, 10, 240.0, 2.0) for seed in range(40)]
    lowest = [scan.lowest_mm for scan in thin]
    assert min(lowest) < -25
    assert max(lowest) > 25
    assert all(-46 <= low <= 66 - 18 for low in lowest)


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
