"""Peak memory and time of a training iteration of every variant, each in a separate process.

    python benchmarks/variants.py [--batch 4] [--width 1.0] [--iterations 7] [--write]

An iteration is that of the training loop (`cmbfe.training.iteration.Run.step`), on images of the variant's input size
in memory with three boxes each, in the precision that training chooses here. Seconds are the median after two warm-up
iterations. Memory is the peak of the process, including Python and PyTorch, or on a GPU the peak of PyTorch's tensors.
`--write` puts the table into docs/cluster.md.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from train_step import random_images, run_on_noise

from cmbfe.detector.ssd import SPECS, VARIANTS
from cmbfe.errors import InputError
from cmbfe.paper import tables
from cmbfe.training.devices import make_compute
from cmbfe.training.timing import in_turn, machine

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cluster.md"
GIB = 2**30


class Cost(NamedTuple):
    """Memory and time of an iteration of a variant."""

    peak_gib: float
    seconds: float
    machine: str


def peak_gib(device: torch.device) -> float:
    """Peak memory so far of this process or, on a GPU, of PyTorch's tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def measure(variant: str, batch: int, width: float, iterations: int, threads: int) -> Cost:
    """Measure some iterations of a variant in this process, which must be fresh."""
    torch.set_num_threads(threads)
    compute = make_compute()
    run = run_on_noise(variant, width, compute)
    images = random_images(batch, SPECS[variant].input_size)
    timed = in_turn([partial(run.step, [images])], iterations, compute.device)
    return Cost(peak_gib(compute.device), statistics.median(seconds for (seconds,) in timed), machine(compute))


def in_own_process(variant: str, batch: int, width: float, iterations: int, threads: int) -> Cost:
    """`measure` in a fresh process; raises `InputError` if this process is killed, as it is without enough memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, variant, batch, width, iterations, threads).result()
        except BrokenProcessPool:
            raise InputError(
                f"{variant}: its process was killed, perhaps for memory; give a smaller --batch"
            ) from None


def as_markdown(costs: dict[str, Cost], batch: int, width: float, iterations: int) -> str:
    """A line with machine and settings, then the table."""
    where = next(iter(costs.values())).machine
    rows = [
        (name, str(SPECS[name].input_size), f"{cost.peak_gib:.2f}", f"{cost.seconds:.3f}")
        for name, cost in costs.items()
    ]
    table = tables.markdown(["detector", "input, px", "peak memory, GiB", "s per iteration"], rows)
    return f"{where}; batch {batch}, width {width:g}, median of {iterations} iterations:\n\n{table}"


def main() -> None:
    """Measure all variants, print the table, put it into docs/cluster.md if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0, help="channels of the trunk, as a share of the paper's")
    parser.add_argument("--iterations", type=int, default=7, help="timed, after two of warm-up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cluster.md")
    given = parser.parse_args()
    if given.iterations < 1:
        raise InputError(f"--iterations {given.iterations}: give at least 1")
    costs = {
        variant: in_own_process(variant, given.batch, given.width, given.iterations, given.threads)
        for variant in tqdm(VARIANTS, desc="variants", unit="variant")
    }
    table = as_markdown(costs, given.batch, given.width, given.iterations)
    print(table)
    if given.write:
        text = tables.with_block(PAGE.read_text(encoding="utf-8"), "variants", table)
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
