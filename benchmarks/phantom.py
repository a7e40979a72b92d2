"""Time and memory of simulating patients, one process per patient.

    OMP_NUM_THREADS=1 python benchmarks/phantom.py [--matrix 512] [--slices 114] [--patients 1] [--workers 2]

The target is a full-size patient (114 slices of 512 x 512) in 25 s and 4 GiB on two idle cores. CPU seconds
stand beside wall-clock seconds: on a busy machine only they mean something. The template is loaded once per
process, so a cohort pays for it once per worker, not once per patient.
"""

import argparse
import multiprocessing
import resource
import time
from collections import Counter

from cmbfe.data.simulate import simulate_patient
from cmbfe.data.template import load_template
from cmbfe.data.veins import load_terrain

GIB = 2**20  # ru_maxrss is in KiB


def measure(seed: int, matrix: int, slices: int, workers: int) -> dict[str, float | Counter]:
    """Simulate one patient; seconds of loading and of simulating, and the process's peak memory."""
    started, cpu_started = time.perf_counter(), time.process_time()
    load_template()
    load_terrain()
    loaded, cpu_loaded = time.perf_counter(), time.process_time()
    patient = simulate_patient(seed, matrix=matrix, slices=slices, workers=workers)
    return {
        "load_wall": loaded - started,
        "load_cpu": cpu_loaded - cpu_started,
        "wall": time.perf_counter() - loaded,
        "cpu": time.process_time() - cpu_loaded,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "kinds": Counter(finding.kind for finding in patient.findings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", type=int, default=512)
    parser.add_argument("--slices", type=int, default=114)
    parser.add_argument("--patients", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="threads of the Fourier transforms")
    given = parser.parse_args()
    print(f"{given.slices} slices of {given.matrix} x {given.matrix} px, {given.workers} threads")
    for seed in range(given.patients):
        # A fresh process each, so that one patient's peak memory does not hide another's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            one = pool.apply(measure, (seed, given.matrix, given.slices, given.workers))
        print(
            f"patient {seed}: {one['wall']:.1f} s ({one['cpu']:.1f} s CPU), peak {one['peak']:.2f} GiB; "
            f"template once {one['load_wall']:.1f} s ({one['load_cpu']:.1f} s CPU); {dict(one['kinds'])}"
        )


if __name__ == "__main__":
    main()
