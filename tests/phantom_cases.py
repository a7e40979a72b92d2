"""A few simulated patients, made once per test run."""

from functools import lru_cache

from cmbfe.phantom.simulate import SimulatedPatient, simulate_patient


@lru_cache(maxsize=4)
def patient(seed: int, matrix: int = 128, slices: int = 10, cmb_count: int | None = 3) -> SimulatedPatient:
    """A simulated patient, made once per test run."""
    return simulate_patient(seed, matrix=matrix, slices=slices, cmb_count=cmb_count)
