"""The steps of one slice are those of the patient whose series was made."""

from functools import lru_cache

import numpy as np

from cmbfe.phantom.chain import Chain, scan_chain
from cmbfe.phantom.cohort import simulate
from cmbfe.phantom.physics import ECHO_TIMES_MS
from cmbfe.phantom.simulate import SimulatedPatient

PLAN = {"seed": [7, 0], "matrix_px": 128, "slices": 8, "cmbs_per_patient": 3.0}


@lru_cache
def steps_and_patient() -> tuple[Chain, SimulatedPatient]:
    return scan_chain(PLAN), simulate(PLAN)


def test_the_mean_of_the_echoes_is_the_series_magnitude_but_for_noise():
    steps, patient = steps_and_patient()
    swan = patient.magnitude[steps.slice_index, steps.rows, steps.columns]
    mean = np.mean(list(steps.magnitude.values()), axis=0)
    assert list(steps.magnitude) == list(steps.phase) == list(ECHO_TIMES_MS)
    assert np.corrcoef(mean.ravel(), swan.ravel())[0, 1] > 0.98


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


def test_later_echoes_are_darker():
    steps, _ = steps_and_patient()
    means = [echo.mean() for echo in steps.magnitude.values()]
    assert means == sorted(means, reverse=True)
