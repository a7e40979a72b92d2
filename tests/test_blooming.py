"""How large a ball looks: a table that blooming can be read from."""

import numpy as np
import pytest

from cmbfe.phantom.blooming import ball, block_scan, blooming_table, darkening, visible_size


def test_a_line_for_each_diameter_and_echo_time_that_grows_with_both():
    table = blooming_table(diameters_mm=(2.0, 3.0), echo_times_ms=(20.0, 40.0))
    sizes = table.pivot(index="true_mm", columns="echo_time_ms", values="visible_mm")
    assert sizes.shape == (2, 2)
    assert (sizes[40.0] > sizes[20.0]).all()
    assert (sizes.loc[3.0] > sizes.loc[2.0]).all()
    assert (sizes[40.0] > sizes.index).all()


def test_darkening_is_a_share_on_the_block_and_fades_away_from_the_ball():
    lost = darkening(ball(2.0, 1.0), (45.0,))
    assert len(lost) == block_scan().slices
    assert 0.8 < lost.max() <= 1
    assert np.abs(lost[0]).max() < 0.05


def test_volume_and_diameter_are_those_of_the_darkened_voxels():
    """Without susceptibility nothing blooms; slices of 2 mm see the ball from up to 1 mm above and below it."""
    diameter, volume = visible_size(ball(6.0, 0.0, r2star_per_s=1000.0), (45.0,))
    assert diameter == pytest.approx(6.0, abs=0.6)
    assert np.pi / 6 * 6.0**3 < volume < np.pi / 6 * 6.0**3 + np.pi / 4 * 6.0**2 * 2
