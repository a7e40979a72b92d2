"""Lesions as drawn: sizes, places, shares."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from cmbfe.phantom import lesions
from cmbfe.phantom.anatomy import Body, make_body
from cmbfe.phantom.scan import draw_scan
from cmbfe.phantom.template import load_template
from cmbfe.phantom.visibility import find_crossings, vein_findings


@lru_cache
def body() -> Body:
    """A slab of twelve slices through the middle of a head."""
    scan = draw_scan(np.random.default_rng(8), 128, 40, 240.0, 2.0)
    return make_body(np.random.default_rng(0), scan, load_template())


def test_true_diameter_of_one_ball_is_its_own_and_of_a_cluster_more():
    one = lesions.Lesion("cmb", "lobar", np.zeros(3), np.zeros((1, 3)), np.array([1.5]), 1.0, 100.0, 1.0)
    assert one.true_diameter_mm == pytest.approx(3.0, rel=0.02)
    two = replace(one, offsets_mm=np.array([[0, 0, 0], [0, 4.0, 0]]), radii_mm=np.array([1.5, 1.5]))
    assert two.true_diameter_mm == pytest.approx(3.0 * 2 ** (1 / 3), rel=0.02)


@pytest.mark.parametrize(
    ("draw", "sign"),
    [
        (lesions.draw_microbleed, 1),
        (lesions.draw_calcification, -1),
        (lesions.draw_iron, 1),
        (lesions.draw_flow_void, 0),
    ],
)
def test_signs_of_susceptibility_tell_the_kinds_apart(draw, sign):
    drawn = [draw(np.random.default_rng(seed), np.zeros(3), "lobar") for seed in range(20)]
    assert all(np.sign(lesion.chi_ppm) == sign for lesion in drawn)
    assert all((lesion.radii_mm > 0).all() and 0 <= lesion.density <= 1 for lesion in drawn)
    assert all(0.5 < lesion.true_diameter_mm < 8 for lesion in drawn)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((0, -25, -30), "infratentorial"),
        ((20, -60, -40), "infratentorial"),
        ((18, -5, 3), "deep"),
        ((40, 30, 30), "lobar"),
    ],
)
def test_template_places_have_the_location_of_the_rating_scale(place, name):
    assert lesions.LOCATIONS[int(lesions.location_at(np.array(place, float)))] == name


def test_regions_of_microbleeds_do_not_overlap_and_lie_in_the_kept_slices():
    masks = lesions.regions(body())
    assert (sum(masks[name].astype(int) for name in lesions.LOCATIONS) <= 1).all()
    scan = body().scan
    kept = (body().axes[0] > scan.lowest_mm - 1) & (body().axes[0] < scan.lowest_mm + 39 * 2 + 1)
    for mask in masks.values():
        assert not mask[~kept].any()
        assert body().head.hull[mask].max(initial=-1.0) < 1


def test_places_keep_findings_apart_and_inside_their_region():
    rng = np.random.default_rng(0)
    places = lesions.open_places(body())
    lobar = lesions.regions(body())["lobar"]
    for number in range(30):
        place = places.take(rng, "lobar")
        assert lobar[tuple(int(np.argmin(np.abs(axis - p))) for axis, p in zip(body().axes, place, strict=True))]
        assert all(np.linalg.norm(place - other) > lesions.APART_MM for other in places.taken[:number])
    assert lesions.Places(body(), {"lobar": np.array([], int)}, []).find(rng, "lobar") is None


def test_locations_come_in_their_shares_where_the_slab_holds_each_in_proportion():
    rng = np.random.default_rng(0)
    places = lesions.open_places(body())
    drawn = [lesions.draw_location(rng, places) for _ in range(2000)]
    weights = np.array(
        [s * places.share(name) for s, name in zip(lesions.LOCATION_SHARES, lesions.LOCATIONS, strict=True)]
    )
    for name, weight in zip(lesions.LOCATIONS, weights / weights.sum(), strict=True):
        assert drawn.count(name) / 2000 == pytest.approx(weight, abs=0.04)


def test_mimics_come_in_the_stated_mean_numbers():
    rng = np.random.default_rng(0)
    inside = lesions.open_places(body()).inside
    numbers = [len(lesions.draw_mimics(rng, lesions.Places(body(), inside, []))) for _ in range(40)]
    expected = sum(mean * lesions.open_places(body()).share(region) for region, mean, _ in lesions.MIMICS)
    assert np.mean(numbers) == pytest.approx(expected, rel=0.2)


def test_crossings_are_one_per_vein_and_slice_near_the_vein():
    crossings = find_crossings(body())
    assert len(crossings) > 50
    assert len({(crossing.vein, crossing.slice_index) for crossing in crossings}) == len(crossings)
    scan, veins = body().scan, body().veins
    _, y, x = (axis[kept] for axis, kept in zip(scan.fine_axes_mm, scan.kept, strict=True))
    for crossing in crossings[::20]:
        place = [
            scan.lowest_mm + crossing.slice_index * scan.spacing_mm,
            np.interp(crossing.row, np.arange(len(y)), y),
            np.interp(crossing.column, np.arange(len(x)), x),
        ]
        own = veins.points[:, veins.vein == crossing.vein]
        assert np.linalg.norm(own - np.array(place)[:, None], axis=0).min() < 1.1


def test_a_bright_uniform_image_has_no_vein_and_a_dot_at_a_crossing_is_one():
    scan = body().scan
    _, rows, columns = scan.measured_window
    image = np.full((scan.slices, rows.stop - rows.start, columns.stop - columns.start), 1000.0)
    assert vein_findings(body(), image, (), least=500.0) == []
    crossing = find_crossings(body())[0]
    row, column = round(crossing.row), round(crossing.column)
    image[crossing.slice_index, row : row + 2, column : column + 2] = 100.0
    (finding,) = vein_findings(body(), image, (), least=500.0)
    left, top = float(column + columns.start), float(row + rows.start)
    assert finding.boxes == {crossing.slice_index: (left, top, left + 2, top + 2)}
    assert finding.kind == "vein"
    assert vein_findings(body(), image, (finding,), least=500.0) == []
