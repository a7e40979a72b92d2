"""The training loop: by iterations, with Adam and the step schedule of the paper's section 2.4."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from cmbfe.checkpoints import remove_partial_files
from cmbfe.data.dataset import (
    LabelledPictures,
    content_hash,
    decode_to_file,
    fits,
    list_labelled,
    mapped_from_file,
)
from cmbfe.data.labels import LABELS_FILE, read_labels
from cmbfe.data.loader import Batch, MadeAhead, parts_of_iteration
from cmbfe.detector.ssd import SPECS, SSD, build
from cmbfe.detector.weights import save_model
from cmbfe.devices import Compute, make_compute, started_processes
from cmbfe.errors import InputError
from cmbfe.files import is_partial, read_json, sha256_of, whole_file, write_json
from cmbfe.iteration import Run
from cmbfe.live import live_curves
from cmbfe.params import Params, Training, save_params
from cmbfe.validation import validation_ap, validation_labels

HISTORY_FILE = "history.csv"
PARAMS_FILE = "params.yaml"
FINISHED_FILE = "finished.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
LIVE = "live"
DECODED_FILE = "decoded.npy"
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
WHERE_IT_RUNS = {"accelerator", "devices", "nodes", "strategy", "precision", "decoded_gib", "checkpoint_every"}
"""Settings of the section `training` that do not change its result; the precision itself is told instead."""


def build_from_params(variant: str, params: Params) -> SSD:
    """Build a variant with the settings of params.yaml and seeded initial weights.

    A variant and its FE twin begin with the same weights.

    Raises:
        InputError: no variant of that name, or unreadable weights.
    """
    if variant not in SPECS:
        raise InputError(f"no variant named {variant!r}; there are: {', '.join(SPECS)}")
    trunk = SPECS[variant].trunk
    settings = params.detector
    torch.manual_seed(params.seed)
    return build(
        variant,
        default_boxes=settings.default_boxes,
        width=settings.width,
        weights=getattr(settings.weights, trunk),
        minimum_negatives=settings.minimum_negatives,
        score_threshold=settings.score_threshold,
        nms_threshold=settings.nms_threshold,
        detections_per_image=settings.detections_per_picture,
        **settings.fe.model_dump(exclude={"schedule"}),
    )


def train(
    variant: str,
    params: Params,
    data: Path,
    out: Path,
    progress: bool = True,
    validation: Path | None = None,
    live: Path | None = None,
) -> pd.DataFrame:
    """Train a variant on an augmented set; write model.safetensors, config.json, params.yaml and history.csv.

    A killed training goes on from its last checkpoint and ends with the same weights, bit for bit; when it is done,
    the checkpoints go. A training that is finished already, with the same settings, data and code, is not repeated.
    Under torchrun or SLURM its processes share each batch, and the first of them writes.

    Args:
        data: folder with annotations.json and the pictures that it names.
        validation: folder of the same kind. The AP on its validation split is measured as the training goes, FE off,
            and the model that did best is kept in `best`.
        live: folder for DVCLive's curves; default: `live` in `out`.

    Returns:
        The history: iteration, the losses, the gradient's norm, the learning rate and, where measured, the AP.

    Raises:
        InputError: an unknown variant, unreadable data or weights, a loss or gradient that is not finite, a
            checkpoint of another training, or an `out` that holds something else than an earlier training.
    """
    settings = params.training.of(variant)
    _refuse_foreign(out)
    compute = make_compute(
        settings.accelerator, settings.precision, settings.devices, settings.nodes, settings.strategy
    )
    _check_shares(settings, compute)
    listed = list_labelled(read_labels(data / LABELS_FILE), data)
    measured_on = validation_labels(validation, params.seed) if validation else None
    belongs_to = fingerprint(variant, params, listed, compute.precision)
    if measured_on:
        belongs_to["validation_sha256"] = content_hash(list_labelled(measured_on, validation))
    if is_trained(out, belongs_to):
        compute.fabric.print(
            f"{out}: trained already with these settings, data and code; delete {out} to train again"
        )
        if compute.number == 0:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # of a training that was killed at its very end
        return pd.read_csv(out / HISTORY_FILE)
    run = Run(build_from_params(variant, params), settings, params.detector.fe.schedule, compute)
    run.restore(out / CHECKPOINTS, belongs_to)
    if run.best() and not (out / CHECKPOINTS / BEST).is_dir():
        raise InputError(f"{out / CHECKPOINTS / BEST}: gone; delete {out / CHECKPOINTS} to begin anew")
    pictures = _prepared(out, listed, settings, compute)
    compute.fabric.print(f"{variant}: {len(listed)} pictures, {compute}{_idle_gpus(compute)}")
    share = (compute.number, compute.processes)
    draw = partial(parts_of_iteration, pictures, params.seed, settings.batch, settings.accumulate, share)
    batches = MadeAhead(draw, range(run.iteration, settings.iterations))
    measure = partial(
        validation_ap, labels=measured_on, folder=validation, iou=params.evaluation.iou, compute=compute
    )
    curves = (live or out / LIVE) if compute.number == 0 else None
    _loop(variant, run, batches, measure if measured_on else None, belongs_to, out, curves, progress)
    if compute.number == 0:
        _finish(run, params, belongs_to, out)
    compute.fabric.barrier()
    return pd.read_csv(out / HISTORY_FILE)


def _loop(
    variant: str,
    run: Run,
    batches: MadeAhead[list[Batch]],
    measure: Callable[[SSD], float] | None,
    belongs_to: dict[str, Any],
    out: Path,
    curves: Path | None,
    progress: bool,
) -> None:
    """Every iteration that is left: step, validation and checkpoint where they are due, curves, bar."""
    settings, writes = run.settings, run.compute.number == 0
    at, stepping = run.iteration, 0.0
    run.model.train()
    bar = tqdm(batches, desc=variant, initial=at, total=settings.iterations, disable=not (progress and writes),
               unit="iteration", mininterval=1, bar_format=BAR)  # fmt: skip
    with live_curves(curves, run.history, settings.iterations) as log:
        for parts in bar:
            begun = time.perf_counter()
            row = run.step(parts)
            stepping += time.perf_counter() - begun
            is_last = run.iteration == settings.iterations
            if measure and writes and (is_last or run.iteration % settings.validate_every == 0):
                row["validation_ap"] = measure(run.bare_model)
                run.model.train()
                if run.best() is row:
                    save_model(run.bare_model, out / CHECKPOINTS / BEST)
            log()
            if writes and not is_last and run.iteration % settings.checkpoint_every == 0:
                run.save(out / CHECKPOINTS, belongs_to)
            shown = {name: f"{value:.3g}" for name, value in row.items() if value is not None}
            bar.set_postfix({name: shown[name] for name in shown if name != "iteration"}, refresh=False)
    if done := run.iteration - at:
        run.compute.fabric.print(
            f"{stepping / done:.3f} s per iteration, and {batches.waited / stepping:.1%} of that waiting for pictures"
        )


def fingerprint(variant: str, params: Params, listed: LabelledPictures, precision: str) -> dict[str, Any]:
    """What a training belongs to: its result or checkpoint is used only where all of this is equal; JSON."""
    settings = params.model_dump(include={"seed", "detector"}, mode="json")
    settings["training"] = params.training.of(variant).model_dump(exclude={*WHERE_IT_RUNS, "longer"}, mode="json")
    settings["training"]["precision"] = precision
    return {"variant": variant, **settings, "data_sha256": content_hash(listed), "code_sha256": code_hash()}


def code_hash() -> str:
    """Hash of the code that a training runs through: the loop, the data path and the detector."""
    package = Path(__file__).parent
    names = ("train.py", "iteration.py", "checkpoints.py", "devices.py", "data/dataset.py", "data/loader.py")
    return sha256_of([*(package / name for name in names), *package.glob("detector/*.py")])


def is_trained(out: Path, belongs_to: dict[str, Any]) -> bool:
    """Whether `out` holds the finished result of this very training."""
    return (out / FINISHED_FILE).is_file() and read_json(out / FINISHED_FILE) == belongs_to


def _refuse_foreign(out: Path) -> None:
    """Raise `InputError` where `out` is a file, or a folder of something else than an earlier training."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    is_ours = (out / PARAMS_FILE).is_file() or (out / CHECKPOINTS).is_dir()
    others = [file for file in out.iterdir() if not is_partial(file)] if out.is_dir() else []
    if others and not is_ours:
        raise InputError(f"{out}: holds other things and no earlier training; give an empty folder")


def _idle_gpus(compute: Compute) -> str:
    """What to say where this machine has more GPUs than processes were started for."""
    here = torch.cuda.device_count() if compute.device.type == "cuda" else 0
    if here <= started_processes()[0]:
        return ""
    return f"; this machine has {here} GPUs: torchrun --nproc-per-node {here} -m cmbfe train … uses them all"


def _check_shares(settings: Training, compute: Compute) -> None:
    if settings.batch % compute.processes:
        raise InputError(
            f"training.batch: {settings.batch} pictures cannot be shared equally by {compute.processes} processes"
        )


def _prepared(out: Path, listed: LabelledPictures, settings: Training, compute: Compute) -> LabelledPictures:
    """Make `out`, tidy it, and decode the pictures into it if they fit the budget; else they stay in their files."""
    checkpoints = out / CHECKPOINTS
    if compute.number == 0:
        new = [folder for folder in (checkpoints, *checkpoints.parents) if not folder.exists()]
        checkpoints.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written to is noticed now
        for folder in (out, checkpoints, checkpoints / BEST):
            remove_partial_files(folder)
        if fits(listed, settings.decoded_gib):
            try:
                decode_to_file(listed, checkpoints / DECODED_FILE)
            except InputError:
                for folder in new:
                    folder.rmdir()
                raise
    compute.fabric.barrier()
    if not fits(listed, settings.decoded_gib):
        compute.fabric.print(f"pictures take more than {settings.decoded_gib:g} GiB: decoded anew for each batch")
        return listed
    mapped = mapped_from_file(listed, checkpoints / DECODED_FILE)
    compute.fabric.barrier()
    if compute.number == 0:
        with suppress(OSError):  # Windows keeps it; elsewhere a mapped file lives on without its name
            (checkpoints / DECODED_FILE).unlink()
    return mapped


def _finish(run: Run, params: Params, belongs_to: dict[str, Any], out: Path) -> None:
    """Write the result, then remove the checkpoints: what is finished is never gone on from."""
    (out / FINISHED_FILE).unlink(missing_ok=True)  # an earlier result is finished no more once its files change
    save_params(params, out / PARAMS_FILE)
    save_model(run.bare_model, out)
    with whole_file(out / HISTORY_FILE) as temporary:
        pd.DataFrame(run.history).to_csv(temporary, index=False)
    shutil.rmtree(out / BEST, ignore_errors=True)
    if best := run.best():
        shutil.copytree(out / CHECKPOINTS / BEST, out / BEST)
        save_params(params, out / BEST / PARAMS_FILE)
        write_json(out / BEST / "validation.json", {"iteration": best["iteration"], "ap": best["validation_ap"]})
    write_json(out / FINISHED_FILE, belongs_to)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
