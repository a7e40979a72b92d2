"""Lesions as drawn, what they do to the signal (blooming, look-alikes), and their boxes measured from images."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from cmbfe.phantom import lesions, looks, physics
from cmbfe.phantom.anatomy import Body, make_body
from cmbfe.phantom.cohort import simulate
from cmbfe.phantom.lesions import Lesion
from cmbfe.phantom.looks import ball, block_scan, darkening, uniform_scene, visible_size
from cmbfe.phantom.scan import draw_scan
from cmbfe.phantom.simulate import SimulatedPatient
from cmbfe.phantom.template import load_template
from cmbfe.phantom.tissue import ECHO_TIMES_MS
from cmbfe.phantom.visibility import (
    DARKENED,
    NOTICED,
    find_crossings,
    footprint_of,
    vein_findings,
    visible_boxes,
    with_and_without,
)

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


PLAN = {"seed": [7, 0], "matrix_px": 96, "slices": 4, "cmbs": 3}


@lru_cache
def steps_and_patient() -> tuple[looks.Chain, SimulatedPatient]:
    return looks.scan_chain(PLAN), simulate(PLAN)


def test_the_mean_of_the_darkening_echoes_is_the_series_magnitude_but_for_noise():
    steps, patient = steps_and_patient()
    swan = patient.magnitude[steps.slice_index, steps.rows, steps.columns]
    mean = np.mean(list(steps.magnitude.values()), axis=0)
    assert list(steps.magnitude) == list(steps.phase) == list(ECHO_TIMES_MS)
    assert np.mean(ECHO_TIMES_MS) == 45  # the paper's
    assert np.corrcoef(mean.ravel(), swan.ravel())[0, 1] > 0.98
    means = [echo.mean() for echo in steps.magnitude.values()]
    assert means == sorted(means, reverse=True)


def test_the_darkest_pixel_is_compared_with_what_lies_around_the_box():
    image = np.full((30, 30), 200, np.uint16)
    image[10:14, 10:14] = 150
    image[11, 12] = 50
    image[0:3, 0:3] = 60
    assert looks.darkest_share(image, [10.0, 10.0, 4.0, 4.0], pixel_mm=1.0) == pytest.approx(0.25)
    assert looks.darkest_share(image, [0.0, 0.0, 3.0, 3.0], pixel_mm=1.0) == pytest.approx(0.3)


def test_a_lesion_on_two_slices_has_one_row():
    traits = {"true_diameter_mm": 2.0, "visible_diameter_mm": 5.0, "contrast": 0.8}
    boxes = [{"id": n, "image_id": n, "lesion_id": "P0001/cmb-001", **traits} for n in (1, 2)]
    table = looks.microbleed_traits({"annotations": boxes})
    (row,) = table.itertuples()
    assert (row.Index, row.true_mm, row.visible_mm, row.blooming) == ("P0001/cmb-001", 2.0, 5.0, 2.5)
    assert row.darkest == pytest.approx(0.2)
    published = looks.against_published(table)
    assert list(published["ours, median"]) == [5.0, 2.5, 0.2]
    assert published["source"].str.len().min() > 0


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


SIGNS = {"microbleed": 1, "calcification": -1, "iron": 1, "vein_knot": 1, "flow_void": 0, "perforator": 0}


@pytest.mark.parametrize(("kind", "sign"), SIGNS.items())
def test_signs_of_susceptibility_tell_the_kinds_apart(kind, sign):
    draw = getattr(lesions, f"draw_{kind}")
    drawn = [draw(np.random.default_rng(seed), np.zeros(3), "lobar") for seed in range(20)]
    assert all(np.sign(lesion.chi_ppm) == sign for lesion in drawn)
    assert all((lesion.radii_mm > 0).all() and 0 <= lesion.density <= 1 for lesion in drawn)
    assert all(0.4 < lesion.true_diameter_mm < 8 for lesion in drawn)


def test_a_lesion_of_any_shape_holds_as_much_as_the_ball_it_is_drawn_as():
    rng = np.random.default_rng(0)
    shapes = [lesions.draw_shape(rng, 0.7) for _ in range(200)]
    volumes = [(radii**3).sum() for _, radii in shapes]
    assert np.allclose(volumes, 0.7**3)
    assert all(np.allclose(np.average(offsets, axis=0, weights=radii**3), 0) for offsets, radii in shapes)
    lengths = np.array([np.linalg.norm(np.ptp(offsets, axis=0)) for offsets, _ in shapes])
    assert (lengths < 0.7).any()
    assert (lengths > 4 * 0.7).any()


@pytest.mark.parametrize(("place", "name"), [
    ((0, -25, -30), "infratentorial"),
    ((20, -60, -40), "infratentorial"),
    ((18, -5, 3), "deep"),
    ((40, 30, 30), "lobar"),
])  # fmt: skip
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
