"""Time and memory of `cmbfe detect` on full-size series, beside the bare network on the same slices.

    python benchmarks/detect.py [--variant ssd512] [--width 1.0] [--slices 114] [--matrix 512] [--series 1 4]
                                [--rounds 3] [--workers 1 2] [--work FOLDER]

A phantom patient of that size is made once in FOLDER and copied under other UIDs for the runs with several series.

1. One series, in this process: the steps before the network (headers, pixels, N4, window), then the whole command and
   the bare network in turn. The bare network is the same model on the same 8-bit slices in memory, in batches of the
   same size, without decoding of boxes. Each round gives two ratios: whole / bare, and whole less N4 / bare.
2. Peak memory of `cmbfe detect` in a separate process, for each number of series.
3. Seconds for the same series on each number of single-threaded dask workers, if the package distributed is installed.

CPU seconds are printed beside wall-clock seconds. On a busy machine, only the CPU seconds are meaningful.

N4 (`images.bias_correction`) must finish before the network can start on a series, and cannot overlap with it. Its
time is therefore printed separately.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydicom import dcmread
from pydicom.uid import generate_uid

from cmbfe.data import conversion as making
from cmbfe.data.conversion import to_8_bit
from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume
from cmbfe.data.n4 import correct_bias
from cmbfe.detector.ssd import build
from cmbfe.detector.weights import save_model
from cmbfe.errors import InputError
from cmbfe.files import whole_folder, write_json
from cmbfe.findings.model import Detector, load_detector
from cmbfe.findings.run import Options, detect_files
from cmbfe.params import Params, load_params, profile_file, save_params
from cmbfe.phantom.cohort import simulate
from cmbfe.phantom.dicom import write_series
from cmbfe.phantom.plan import patient_plan
from cmbfe.training.batches import to_input
from cmbfe.training.detection import BATCH, detect
from cmbfe.training.timing import machine

MADE_FILE = "made.json"
BOXES_SHOWN = 3
"""Boxes per slice. Scores of an untrained detector mean nothing, but drawing and linking its boxes takes time."""


def patient(work: Path, params: Params, slices: int, matrix: int) -> Path:
    """Folder with a phantom patient's magnitude and phase as DICOM. It is made if absent."""
    folder = work / f"patient-{slices}x{matrix}"
    if not (folder / MADE_FILE).exists():
        size = {"slices": slices, "matrix_px": matrix}
        anyone = load_params(profile_file("laptop")).phantom.model_copy(update=size)
        plan = next(iter(patient_plan(anyone, params.seed).values()))
        with whole_folder(folder, MADE_FILE) as temporary:
            write_series(temporary, simulate(plan, os.cpu_count() or 1), "P0001", params.seed)
            write_json(temporary / MADE_FILE, size)
    return folder


def several(source: Path, work: Path, series: int) -> Path:
    """Folder with `series` patients. All have the same images, each under different ids and UIDs."""
    folder = work / f"{source.name}-{series}-series"
    if not folder.exists():
        for number in range(series):
            for path in source.glob("*.dcm"):
                image = dcmread(path)
                for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
                    setattr(image, keyword, generate_uid(entropy_srcs=[str(number), str(image[keyword].value)]))
                image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
                image.PatientID = f"P{number:04d}"
                (folder / image.PatientID).mkdir(parents=True, exist_ok=True)
                image.save_as(folder / image.PatientID / path.name)
    return folder


def model_folder(work: Path, params: Params, variant: str, width: float) -> Path:
    """Folder of an untrained detector. It costs as much time as a trained detector, apart from its many boxes."""
    folder = work / f"{variant}-{width:g}"
    if not (folder / "params.yaml").exists():
        torch.manual_seed(0)
        save_model(build(variant, width=width).eval(), folder)
        save_params(params, folder / "params.yaml")
    return folder


class Spent(NamedTuple):
    """Seconds of wall clock, and of CPU in all threads of this process."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s CPU)"


def now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


@contextmanager
def timed(name: str, into: dict[str, Spent]) -> Iterator[None]:
    begin = now()
    yield
    into[name] = now() - begin


@contextmanager
def n4_timed(into: dict[str, Spent]) -> Iterator[None]:
    """Record in `into` the seconds that N4 takes inside the block, in this process."""

    def spy(*arguments: object, **options: object) -> np.ndarray:
        with timed("N4", into):
            return correct_bias(*arguments, **options)

    making.correct_bias = spy
    try:
        yield
    finally:
        making.correct_bias = correct_bias


def parts(source: Path, params: Params) -> tuple[dict[str, Spent], np.ndarray]:
    """Seconds of each step before the network, and the 8-bit slices."""
    seconds: dict[str, Spent] = {}
    with timed("headers", seconds):
        series = next(one for one in find_series(source) if one.kind == "magnitude")
    with timed("pixels", seconds):
        volume = read_volume(series).clip(min=0)
    spacing = (series.slice_spacing_mm, *series.pixel_spacing_mm)
    with timed("N4", seconds):
        corrected = correct_bias(volume, spacing, **params.images.bias_correction.model_dump())
    with timed("window", seconds):
        images = to_8_bit(corrected, params.images.window_percentiles)
    return seconds, images


def bare(detector: Detector, pixels: np.ndarray) -> Spent:
    """Time of the network alone, for logits and box regressions of all slices."""
    begin = now()
    detector.model.to(memory_format=torch.channels_last)
    for start in range(0, len(pixels), BATCH):
        images = to_input(pixels[start : start + BATCH], detector.compute.device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            detector.model.predict(detector.model.prepare(images))
    if detector.compute.device.type == "cuda":
        torch.cuda.synchronize()
    return now() - begin


def usual_threshold(detector: Detector, images: np.ndarray) -> float:
    """The threshold at which a detector shows about as many boxes as after training: `BOXES_SHOWN` per slice."""
    middle = images[len(images) // 2 :][:BATCH]
    found = detect(detector.model, middle, range(len(middle)), detector.compute)
    scores = sorted((one["score"] for one in found), reverse=True)
    return scores[min(BOXES_SHOWN * len(middle), len(scores) - 1)]


def one_series(source: Path, model: Path, params: Params, rounds: int) -> float:
    """Print the parts and the ratios of one series; returns the threshold that was used."""
    detector = load_detector(model)
    print(machine(detector.compute))
    seconds, images = parts(source, params)
    print(", ".join(f"{name} {value}" for name, value in seconds.items()), f"({len(images)} slices)")
    threshold = usual_threshold(detector, images)
    bare(detector, images[: 2 * BATCH])
    ratios: dict[str, list[tuple[float, float]]] = {"whole": [], "whole less N4": []}
    for number in range(rounds):
        alone = bare(detector, images)
        with tempfile.TemporaryDirectory() as folder:
            spent: dict[str, Spent] = {}
            with timed("whole", spent), n4_timed(spent):
                detect_files(source, lambda: detector, Path(folder) / "out", params.images, Options(threshold))
        whole, n4 = spent["whole"], spent["N4"]
        print(f"round {number + 1}: whole {whole}, of it N4 {n4}; bare network {alone}", flush=True)
        for name, one in (("whole", whole), ("whole less N4", whole - n4)):
            ratios[name].append((one.wall / alone.wall, one.cpu / alone.cpu))
            print("  {} / bare: {:.3f}, CPU {:.3f}".format(name, *ratios[name][-1]), flush=True)
    for name, values in ratios.items():
        if rounds > 1:
            print("mean of the rounds: {} / bare {:.3f}, CPU {:.3f}".format(name, *np.mean(values, axis=0)))
    return threshold


def memory(source: Path, model: Path, threshold: float) -> tuple[float, float]:
    """Seconds and peak memory in GiB of `cmbfe detect` in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cmbfe", "detect", str(source), "--model", str(model)]
        command += ["--out", f"{folder}/out", "--threshold", str(threshold)]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise InputError(f"cmbfe detect {source} ended with status {os.waitstatus_to_exitcode(status)}")
        unit = 1 if sys.platform == "darwin" else 1024
        return time.perf_counter() - begin, usage.ru_maxrss * unit / 2**30


def on_dask(source: Path, model: Path, params: Params, threshold: float, workers: int) -> float:
    """Seconds on `workers` dask workers with one thread each, after all of them have loaded the model."""
    from distributed import Client, LocalCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client, tempfile.TemporaryDirectory() as folder:
        client.run(torch.set_num_threads, 1)
        client.run(load_detector, model)
        begin = time.perf_counter()
        settings = (params.images, Options(threshold), workers, cluster.scheduler_address)
        detect_files(source, partial(load_detector, model), Path(folder) / "out", *settings)
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ssd512")
    parser.add_argument("--width", type=float, default=1.0, help="factor on all channels")
    parser.add_argument("--slices", type=int, default=114)
    parser.add_argument("--matrix", type=int, default=512, help="rows and columns")
    parser.add_argument("--series", type=int, nargs="*", default=[1, 4], help="numbers of series for the memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of dask workers")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "cmbfe-benchmark-detect")
    given = parser.parse_args()
    params = load_params(profile_file("paper"))
    source = patient(given.work, params, given.slices, given.matrix)
    model = model_folder(given.work, params, given.variant, given.width).resolve()
    threshold = one_series(source, model, params, given.rounds)
    for number in given.series:
        seconds, gib = memory(several(source, given.work, number), model, threshold)
        print(f"{number} series: {seconds:.1f} s with start, peak {gib:.2f} GiB", flush=True)
    most = max(given.series, default=1)
    for workers in given.workers:
        try:
            seconds = on_dask(several(source, given.work, most), model, params, threshold, workers)
        except ImportError:
            print("dask workers: the package distributed is not installed")
            break
        print(f"{most} series on {workers} dask workers of one thread: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
