"""Heads made from the template: geometry, tissues, and the contrast they give."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from cmbfe.phantom.anatomy import (
    Build,
    Head,
    covering,
    draw_build,
    make_head,
    refine,
    refine_linearly,
    scan_position,
    template_position,
    tissue_maps,
    tissue_shares,
)
from cmbfe.phantom.template import load_template
from cmbfe.phantom.tissue import AIR, CSF, GREY_MATTER, WHITE_MATTER, blood_chi, iron, spoiled_amplitude

AXES = (np.arange(-8.0, 24.0, 4.0), np.arange(-90.0, 120.0, 2.0), np.arange(-90.0, 91.0, 2.0))


@lru_cache
def build() -> Build:
    return draw_build(np.random.default_rng(3))


@lru_cache
def head() -> Head:
    return make_head(build(), AXES, load_template())


def at_template(place: tuple[float, float, float]) -> np.ndarray:
    """Index on AXES of the voxel nearest to a template place."""
    distance = np.linalg.norm(head().position - np.array(place).reshape(3, 1, 1, 1), axis=0)
    return np.unravel_index(distance.argmin(), distance.shape)


def test_scan_and_template_positions_invert_each_other():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (3, 200)).astype(np.float32)
    template = load_template()
    back = template_position(build(), scan_position(build(), points, template), template)
    assert np.abs(back - points).max() < 0.3


def test_up_in_the_scan_is_up_in_the_template_and_left_is_left():
    template = load_template()
    origin, up, back, left = (
        template_position(build(), np.array(p, np.float32).reshape(3, 1), template)[:, 0]
        for p in ((10, 10, 10), (40, 10, 10), (10, 40, 10), (10, 10, 40))
    )
    assert (up - origin)[2] > 25
    assert (back - origin)[1] < -25
    assert (left - origin)[0] < -25


def test_shares_of_tissue_sum_to_one_and_lie_where_they_should():
    shares = tissue_shares(head(), build())
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-5)
    assert all((share >= -1e-6).all() for share in shares.values())
    assert (shares[AIR][:, 0] > 0.99).all()
    assert shares[AIR][at_template((30.0, -20.0, 20.0))] < 0.01
    assert shares[WHITE_MATTER][at_template((26.0, -20.0, 26.0))] > 0.9
    assert shares[CSF][at_template((6.0, 8.0, 14.0))] > 0.7
    assert head().iron[at_template((19.0, -4.0, -1.0))] > 10
    assert head().iron[at_template((26.0, -20.0, 26.0))] < 0.01


def test_wider_ventricles_and_atrophy_give_more_fluid():
    in_brain = head().hull < -2
    narrow, wide = (
        make_head(replace(build(), ventricle_growth_mm=growth), AXES, load_template()) for growth in (0.0, 4.0)
    )
    few, many = (tissue_shares(h, build())[CSF][h.hull < -25].sum() for h in (narrow, wide))
    assert many > 1.15 * few
    aged = tissue_shares(head(), replace(build(), atrophy=1.0))
    young = tissue_shares(head(), replace(build(), atrophy=0.0))
    assert aged[CSF][in_brain].sum() > 1.1 * young[CSF][in_brain].sum()


def test_pallidum_is_darker_than_putamen_and_both_than_white_matter_at_the_papers_echo_time():
    amplitude, r2star, _ = tissue_maps(tissue_shares(head(), build()), head().iron)
    signal = amplitude * np.exp(-0.045 * r2star)
    pallidum, putamen, white, fluid = (
        signal[at_template(p)] for p in ((19, -4, -1), (27, 2, 2), (26, -20, 26), (6, 8, 14))
    )
    assert pallidum < putamen < white
    assert fluid > white


def test_grey_matter_is_brighter_than_white_at_the_papers_timing():
    grey, white = (
        spoiled_amplitude(tissue) * np.exp(-0.045 * tissue.r2star_per_s) for tissue in (GREY_MATTER, WHITE_MATTER)
    )
    assert 1.05 < grey / white < 1.3


def test_spoiled_amplitude_follows_ernst():
    """M0 sin(a) at full recovery; Ernst's angle maximises the rest."""
    assert spoiled_amplitude(WHITE_MATTER, 1e6, 90.0) == pytest.approx(WHITE_MATTER.proton_density)
    ernst = np.rad2deg(np.arccos(np.exp(-77.3 / WHITE_MATTER.t1_ms)))
    below, best, above = (spoiled_amplitude(WHITE_MATTER, 77.3, ernst + change) for change in (-2, 0, 2))
    assert best > max(below, above)


def test_iron_grows_with_age_as_hallgren_and_sourander_found():
    assert iron("pallidum", 0) == pytest.approx(0.37)
    assert iron("pallidum", 70) == pytest.approx(21.41 * (1 - np.exp(-6.3)) + 0.37)
    assert iron("putamen", 80) > iron("putamen", 50) > iron("putamen", 20)
    assert iron("pallidum", 70) > iron("putamen", 70) > iron("caudate", 70) > iron("thalamus", 70)


def test_susceptibility_of_venous_blood_is_in_the_published_range():
    assert blood_chi(saturation=0.65, haematocrit=0.42) == pytest.approx(0.499, abs=0.002)
    assert blood_chi(saturation=1.0, haematocrit=0.42) == 0


def test_refining_reproduces_a_linear_map_whatever_the_degree():
    coarse = (np.linspace(0, 10, 6), np.linspace(-5, 5, 5), np.linspace(0, 3, 4))
    fine = (np.linspace(0, 10, 21), np.linspace(-5, 5, 5), np.linspace(0, 3, 13))

    def plane(axes):
        z, y, x = np.meshgrid(*axes, indexing="ij")
        return (2 * z - y + 0.5 * x).astype(np.float32)

    for refined in (refine(plane(coarse), coarse, fine), refine_linearly(plane(coarse), coarse, fine)):
        np.testing.assert_allclose(refined, plane(fine), atol=1e-4)


def test_covering_reaches_both_ends_in_steps_no_longer_than_asked():
    axis = covering(np.array([0.0, 1.0, 11.0]), 4.0)
    assert (axis[0], axis[-1]) == (0, 11)
    assert np.diff(axis).max() <= 4.0
