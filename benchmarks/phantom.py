"""Time, memory and disk space of simulating patients, one process per patient, and the cost of a cohort.

    OMP_NUM_THREADS=1 python benchmarks/phantom.py [--profile paper] [--patients 1] [--workers 2]

The target is a full-size patient (114 slices of 512 x 512) in 25 s and 4 GiB on two idle cores. CPU seconds are
printed beside wall-clock seconds. On a busy machine, only the CPU seconds are meaningful. The template is loaded once
per process, so that a cohort needs this time once per worker and not once per patient.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from cmbfe.params import load_params, profile_file
from cmbfe.phantom.cohort import simulate
from cmbfe.phantom.dicom import write_series
from cmbfe.phantom.plan import patient_plan
from cmbfe.phantom.template import load_template

GIB = 2**20  # ru_maxrss is in KiB


def clocks() -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    return time.perf_counter(), time.process_time()


def measure(patient_id: str, plan: Mapping, workers: int) -> dict[str, float | tuple | Counter]:
    """Make one patient; returns seconds of each step, peak memory, megabytes of the series, and kinds of findings."""
    steps = [clocks()]
    load_template()
    steps.append(clocks())
    patient = simulate(plan, workers)
    steps.append(clocks())
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder), patient, patient_id, plan["seed"][0])
        steps.append(clocks())
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    spent = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(steps)]
    return {
        **dict(zip(("template", "simulation", "dicom"), spent, strict=True)),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "megabytes": size / 1e6,
        "kinds": Counter(finding.kind for finding in patient.findings),
    }


def show(patient_id: str, one: Mapping) -> None:
    """Print time, memory and disk space of one patient."""
    steps = ", ".join(f"{name} {wall:.1f} s ({cpu:.1f} s CPU)" for name, (wall, cpu) in list(one.items())[1:3])
    print(f"{patient_id}: {steps}; peak {one['peak']:.2f} GiB; {one['megabytes']:.0f} MB; {dict(one['kinds'])}")
    print(f"       template, once a process: {one['template'][0]:.1f} s ({one['template'][1]:.1f} s CPU)")


def show_cohort(patients: int, made: list[Mapping], cores: int = 2) -> None:
    """Print the cost of the whole cohort, estimated from the mean over the patients that were made."""
    cpu = sum(one["simulation"][1] + one["dicom"][1] for one in made) / len(made)
    size = sum(one["megabytes"] for one in made) / len(made)
    total = patients * cpu + cores * made[0]["template"][1]
    print(
        f"{patients} patients: {cpu:.1f} s of CPU each, {total / 60:.0f} min in all, {total / 60 / cores:.0f} min on "
        f"{cores} cores with a patient on each; {size * patients / 1e3:.2f} GB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", help="size of the series and of the cohort")
    parser.add_argument("--patients", type=int, default=1, help="how many of the cohort are made")
    parser.add_argument("--workers", type=int, default=2, help="threads of the Fourier transforms")
    given = parser.parse_args()
    params = load_params(profile_file(given.profile))
    plans = patient_plan(params.phantom, params.seed)
    matrix = params.phantom.matrix_px
    print(f"{params.phantom.slices} slices of {matrix} x {matrix} px, {given.workers} threads")
    made = []
    for patient_id, plan in list(plans.items())[: given.patients]:
        # A fresh process for each patient, so that one patient's peak memory does not hide another's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            made.append(pool.apply(measure, (patient_id, plan, given.workers)))
        show(patient_id, made[-1])
    show_cohort(len(plans), made)


if __name__ == "__main__":
    main()
