"""Whole simulated patients: determinism, labels that fit the images, exact numbers, and how hard they are."""

from collections import Counter

import numpy as np
import pytest
from phantom_cases import patient
from scipy import ndimage

from cmbfe.errors import InputError
from cmbfe.phantom.simulate import WHITE_MATTER_UNITS, SimulatedPatient, simulate_patient


def laptop_patient() -> SimulatedPatient:
    return patient(seed=5, matrix=256, slices=16, cmb_count=5)


def of_kind(simulated: SimulatedPatient, kind: str):
    return [finding for finding in simulated.findings if finding.kind == kind]


def test_same_seed_gives_the_same_arrays_and_labels_and_another_seed_others():
    first = patient(seed=1)
    again = simulate_patient(np.random.SeedSequence(1), matrix=128, slices=10, cmb_count=3)
    np.testing.assert_array_equal(first.magnitude, again.magnitude)
    np.testing.assert_array_equal(first.phase, again.phase)
    assert first.findings == again.findings
    assert (first.magnitude != patient(seed=2).magnitude).mean() > 0.5


def test_series_has_the_sizes_and_types_of_a_scan():
    simulated = patient(seed=1)
    assert simulated.magnitude.shape == simulated.phase.shape == (10, 128, 128)
    assert simulated.magnitude.dtype == np.uint16
    assert simulated.phase.dtype == np.int16
    assert simulated.pixel_spacing_mm == 240 / 128
    assert np.abs(simulated.phase).max() <= 3142
    rows, columns = np.array(simulated.orientation).reshape(2, 3)
    assert rows @ columns == pytest.approx(0)
    assert np.linalg.norm(columns) == pytest.approx(1)


def test_white_matter_is_near_its_units_and_air_is_near_the_noise():
    magnitude = laptop_patient().magnitude
    assert 0.6 * WHITE_MATTER_UNITS < np.median(magnitude[8, 96:160, 96:160]) < 1.6 * WHITE_MATTER_UNITS
    assert 20 < np.median(magnitude[:, :10, :10]) < 250


def test_every_visible_microbleed_asked_for_is_labelled_inside_the_images():
    assert len(of_kind(patient(seed=1), "cmb")) == 3
    assert of_kind(simulate_patient(1, matrix=128, slices=4, cmb_count=0), "cmb") == []
    simulated = laptop_patient()
    assert len(of_kind(simulated, "cmb")) == 5
    assert len({finding.finding_id for finding in simulated.findings}) == len(simulated.findings)
    for finding in simulated.findings:
        assert finding.boxes
        assert finding.location in ("lobar", "deep", "infratentorial")
        for number, (left, top, right, bottom) in finding.boxes.items():
            assert 0 <= number < 16
            assert 0 <= left < right <= 256
            assert 0 <= top < bottom <= 256


def test_microbleeds_are_dark_dots_of_two_to_about_ten_millimetres_larger_than_their_deposits():
    for finding in of_kind(laptop_patient(), "cmb"):
        assert 2.0 <= finding.visible_diameter_mm < 13.0
        assert finding.visible_diameter_mm > finding.true_diameter_mm
        slices = sorted(finding.boxes)
        assert slices == list(range(slices[0], slices[-1] + 1))


def test_mimics_of_each_kind_are_recorded_and_veins_lead():
    counts = Counter(
        finding.kind for simulated in (laptop_patient(), patient(seed=1)) for finding in simulated.findings
    )
    assert set(counts) >= {"cmb", "vein", "flow void"}
    assert set(counts) <= {"cmb", "vein", "flow void", "calcification", "iron"}
    assert counts["vein"] > 3 * counts["cmb"]


def test_quota_of_images_and_boxes_is_met_exactly():
    simulated = simulate_patient(3, matrix=128, slices=24, quota=(7, 11))
    boxes = [number for finding in of_kind(simulated, "cmb") for number in finding.boxes]
    assert len(boxes) == 11
    assert len(set(boxes)) == 7


def test_more_than_the_slab_can_hold_is_refused():
    with pytest.raises(InputError, match="do not fit into 2 slices"):
        simulate_patient(0, matrix=128, slices=2, quota=(3, 3))


def blobs(image: np.ndarray, pixel_mm: float, threshold: float) -> np.ndarray:
    """Rows and columns [n, 2] of round dark blobs: the smaller principal curvature, best of four scales."""
    level = np.maximum(ndimage.gaussian_filter(image, 8 / pixel_mm), 300.0)
    relative = image / level
    best = np.zeros_like(relative)
    for scale_mm in (0.7, 1.0, 1.4, 2.0):
        scale = scale_mm / pixel_mm
        rows, columns, mixed = (
            ndimage.gaussian_filter(relative, scale, order=order) for order in ((2, 0), (0, 2), (1, 1))
        )
        smaller = (rows + columns) / 2 - np.hypot((rows - columns) / 2, mixed)
        best = np.maximum(best, smaller * scale**2)
    return np.argwhere((best == ndimage.maximum_filter(best, 5)) & (best > threshold))


def near(box: tuple[float, float, float, float], places: np.ndarray) -> np.ndarray:
    """Whether each row and column [n, 2] lies in a box, or at most 1 px beside it."""
    rows, columns = places.T + 0.5
    return (rows >= box[1] - 1) & (rows <= box[3] + 1) & (columns >= box[0] - 1) & (columns <= box[2] + 1)


def test_a_blob_detector_finds_the_microbleeds_only_among_many_mimics():
    simulated = laptop_patient()
    hits, wrong = [], 0
    for number, image in enumerate(simulated.magnitude.astype(np.float32)):
        boxes = [finding.boxes[number] for finding in of_kind(simulated, "cmb") if number in finding.boxes]
        places = blobs(image, simulated.pixel_spacing_mm, threshold=0.11)
        inside = [set(np.flatnonzero(near(box, places))) for box in boxes]
        hits += [bool(blob) for blob in inside]
        wrong += len(places) - len(set().union(*inside))
    assert np.mean(hits) > 0.9
    assert wrong > 50
