"""The phantom to look at: steps of the patient whose series was made, sizes by echo time, contrast of each lesion."""

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

from cmbfe.phantom import looks
from cmbfe.phantom.cohort import simulate
from cmbfe.phantom.simulate import SimulatedPatient
from cmbfe.phantom.tissue import ECHO_TIMES_MS

PLAN = {"seed": [7, 0], "matrix_px": 128, "slices": 8, "cmbs_per_patient": 3.0}


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


def test_the_slice_is_the_one_with_most_microbleeds():
    steps, patient = steps_and_patient()
    cmbs = [finding for finding in patient.findings if finding.kind == "cmb"]
    shown = [sum(number in finding.boxes for finding in cmbs) for number in range(8)]
    assert shown[steps.slice_index] == max(shown) > 0


def test_susceptibility_and_field_lie_on_the_same_pixels_in_plausible_ranges():
    steps, _ = steps_and_patient()
    assert steps.susceptibility.shape == steps.field.shape == steps.magnitude[ECHO_TIMES_MS[0]].shape
    assert 0.1 < steps.susceptibility.max() < 1.0  # veins and iron, ppm
    assert np.abs(steps.field[steps.magnitude[ECHO_TIMES_MS[0]] > 0.05]).max() < 5


def test_a_line_for_each_diameter_and_echo_time_that_grows_with_both():
    table = looks.blooming_table(diameters_mm=(2.0, 3.0), echo_times_ms=(20.0, 40.0))
    sizes = table.pivot(index="true_mm", columns="echo_time_ms", values="visible_mm")
    assert (sizes[40.0] > sizes[20.0]).all()
    assert (sizes.loc[3.0] > sizes.loc[2.0]).all()
    assert (sizes[40.0] > sizes.index).all()


def test_darkening_is_a_share_on_the_block_and_fades_away_from_the_ball():
    lost = looks.darkening(looks.ball(2.0, 1.0), (45.0,))
    assert len(lost) == looks.block_scan().slices
    assert 0.8 < lost.max() <= 1
    assert np.abs(lost[0]).max() < 0.05


def test_volume_and_diameter_are_those_of_the_darkened_voxels():
    """Without susceptibility nothing blooms; slices of 2 mm see the ball from up to 1 mm above and below it."""
    diameter, volume = looks.visible_size(looks.ball(6.0, 0.0, r2star_per_s=1000.0), (45.0,))
    assert diameter == pytest.approx(6.0, abs=0.6)
    assert np.pi / 6 * 6.0**3 < volume < np.pi / 6 * 6.0**3 + np.pi / 4 * 6.0**2 * 2


def test_the_darkest_pixel_is_compared_with_what_lies_around_the_box():
    image = np.full((30, 30), 200, np.uint16)
    image[10:14, 10:14] = 150
    image[11, 12] = 50
    image[0:3, 0:3] = 60
    assert looks.darkest_share(image, [10.0, 10.0, 4.0, 4.0], pixel_mm=1.0) == pytest.approx(0.25)
    assert looks.darkest_share(image, [0.0, 0.0, 3.0, 3.0], pixel_mm=1.0) == pytest.approx(0.3)


def test_a_lesion_on_two_slices_has_one_row_with_its_clearest_slice(monkeypatch):
    volume = np.full((2, 20, 20), 100, np.float32)
    volume[0, 8:11, 8:11], volume[1, 8:11, 8:11] = 60, 20
    monkeypatch.setattr(looks, "read_volume", lambda series: volume)
    images = [{"id": number, "patient_id": "P0001", "slice_index": number - 1} for number in (1, 2)]
    lesion = {"lesion_id": "P0001/cmb-001", "true_diameter_mm": 2.0, "visible_diameter_mm": 5.0}
    boxes = [{"id": n, "image_id": n, "bbox": [8.0, 8.0, 3.0, 3.0], **lesion} for n in (1, 2)]
    table = looks.microbleed_traits(
        {"images": images, "annotations": boxes}, {"P0001": SimpleNamespace(pixel_spacing_mm=(1.0, 1.0))}
    )
    (row,) = table.itertuples()
    assert (row.Index, row.true_mm, row.visible_mm, row.blooming) == ("P0001/cmb-001", 2.0, 5.0, 2.5)
    assert row.darkest == pytest.approx(0.2)
    published = looks.against_published(table)
    assert list(published["ours, median"]) == [5.0, 2.5, 0.2]
    assert published["source"].str.len().min() > 0
