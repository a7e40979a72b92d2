"""The training loop: by iterations, with Adam and the step schedule of the paper's section 2.4."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from cmbfe.data.labelled.labels import LABELS_FILE, Labels, read_labels
from cmbfe.detector import torchvision_detectors
from cmbfe.detector.alternatives import attach
from cmbfe.detector.backbones import freeze, weights_file
from cmbfe.detector.hooks import Enhancement
from cmbfe.detector.ssd import SPECS, SSD, build
from cmbfe.detector.weights import WEIGHTS_FILE, load_detector, save_model
from cmbfe.errors import InputError
from cmbfe.files import check_name, is_partial, read_json, sha256_of, whole_file, write_json
from cmbfe.metrics.matching import is_region
from cmbfe.parallel import threads
from cmbfe.params import Params, Training, save_params
from cmbfe.training import batches
from cmbfe.training.batches import (
    LabelledImages,
    MadeAhead,
    content_hash,
    list_labelled,
    load_labelled,
    without_phase,
)
from cmbfe.training.checkpoints import difference_of, remove_partial_files
from cmbfe.training.curves import live_curves
from cmbfe.training.devices import Compute, make_compute, multiplies_bf16, started_processes
from cmbfe.training.iteration import Run
from cmbfe.training.validation import validation_ap, validation_labels

HISTORY_FILE = "history.csv"
PARAMS_FILE = "params.yaml"
FINISHED_FILE = "finished.json"
CHECKPOINTS = "checkpoints"
BEST = "best"
LIVE = "live"
DECODED_FILE = "decoded.npy"
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
TRAINING_ROOMS = ("data/labelled", "detector", "training")
"""Folders of cmbfe that determine a training's result. A test checks that its pipeline stage depends on them."""
VALIDATION_ROOMS = ("metrics",)
"""Additional folders if the training measures the AP on validation patients, since this AP selects the best model."""
WHERE_IT_RUNS = {"accelerator", "devices", "nodes", "strategy", "precision", "decoded_gib", "checkpoint_every"}
"""Settings of `training` that do not change its result. `Task.key` omits them, but contains the chosen precision."""


def build_from_params(variant: str, params: Params) -> SSD:
    """Build one of our variants with seeded initial weights, the same for a variant and its FE twin.

    Raises:
        InputError: no variant of that name, or unreadable weights.
    """
    if variant not in SPECS:
        raise InputError(f"no variant named {variant!r}; there are: {', '.join(SPECS)}")
    torch.manual_seed(params.seed)
    return build(
        variant,
        weights=getattr(params.detector.weights, SPECS[variant].trunk),
        width=params.detector.width_of(variant),
        **params.detector.model_dump(exclude={"weights", "fe", "width", "wider"}),
        **params.detector.fe.model_dump(exclude={"schedule", "behind"}),
    )


def detector_of(variant: str) -> str:
    """Name of the detector in a variant: the variant itself if it is ours, otherwise torchvision's detector.

    Raises:
        InputError: an unknown detector.
    """
    known = (*SPECS, *torchvision_detectors.DETECTORS)
    name = (
        variant if variant in SPECS else next((name for name in known if f"{variant}-".startswith(f"{name}-")), None)
    )
    if name is None:
        raise InputError(f"no detector named {variant!r}; there are: {', '.join(known)}")
    return name


def _build_any(variant: str, params: Params, size: int) -> tuple[nn.Module, Enhancement | None]:
    """Build one of our variants, or a torchvision detector for images of `size` px with its attached layer.

    Raises:
        InputError: an error of `build_from_params`, or a detector without the layer `detector.fe.behind`.
    """
    if variant in SPECS:
        return build_from_params(variant, params), None
    name = detector_of(variant)
    torch.manual_seed(params.seed)
    model = torchvision_detectors.build(name, size)
    alternative = variant[len(name) + 1 :]
    attached = attach(alternative, model, params.detector.fe.behind) if alternative else None
    torch.manual_seed(params.seed)  # so that Faster R-CNN draws the same proposals with any attached layer
    return model, attached


@dataclass(frozen=True)
class Task:
    """The inputs of a training: variant, settings, device, training images and validation images."""

    variant: str
    params: Params
    compute: Compute
    listed: LabelledImages
    validation: Path | None  # folder of the images for the validation AP
    start: Path | None  # folder of the model with the initial weights

    @property
    def settings(self) -> Training:
        return self.params.training.of(self.variant)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.compute.number == 0

    @cached_property
    def measured_on(self) -> Labels | None:
        if self.validation is None:
            return None
        labels = validation_labels(self.validation, self.params.seed)
        return labels if self.params.images.phase else without_phase(labels)

    @cached_property
    def validation_images(self) -> np.ndarray:
        """The images for the validation AP, decoded once for all measurements: uint8 [N, ...]."""
        return load_labelled(self.measured_on, self.validation).images

    @property
    def threads(self) -> int:
        """Threads of this process: the threads of the settings divided among the processes of this machine."""
        return max(1, self.settings.threads // started_processes()[0])

    @property
    def weights(self) -> str | None:
        """Initial weights of the trunk, as in the settings; None for fresh weights."""
        return getattr(self.params.detector.weights, SPECS[self.variant].trunk) if self.variant in SPECS else None

    @cached_property
    def key(self) -> dict[str, Any]:
        """Settings and data, as JSON. An earlier result or checkpoint is used only if it has the same key."""
        settings = self.params.model_dump(include={"seed", "detector"}, exclude={"detector": {"wider"}}, mode="json")
        settings["detector"]["width"] = self.params.detector.width_of(self.variant)
        settings["training"] = self.settings.model_dump(exclude={*WHERE_IT_RUNS, "longer", "faster"}, mode="json")
        settings["training"]["precision"] = self.compute.precision
        hashes = {"data_sha256": content_hash(self.listed)}
        if self.measured_on:
            hashes["validation_sha256"] = content_hash(list_labelled(self.measured_on, self.validation))
            settings["evaluation"] = {"iou": self.params.evaluation.iou}  # of the validation AP
        file = weights_file(SPECS[self.variant].trunk, self.weights) if self.weights else None
        if file and file.is_file():
            hashes["weights_sha256"] = sha256_of([file])
        if self.start:
            hashes["start_sha256"] = sha256_of([self.start / WEIGHTS_FILE])
        return {"variant": self.variant, **settings, **hashes}

    @cached_property
    def code(self) -> str:
        return code_hash(measures=self.validation is not None)


def train(
    variant: str,
    params: Params,
    data: Path,
    out: Path,
    progress: bool = True,
    validation: Path | None = None,
    live: Path | None = None,
    start: Path | None = None,
) -> pd.DataFrame:
    """Train a detector on an augmented set; write model.safetensors, config.json, params.yaml and history.csv.

    An interrupted training resumes from its last checkpoint and ends with bit-identical weights. A finished training is
    not repeated with the same settings, data and code. Resuming from a checkpoint of other code gives a warning, which
    finished.json keeps. Under torchrun or SLURM the processes share each batch, and the first process writes.

    Args:
        variant: our variant, or a torchvision detector, alone or with an alternative of FE (fcos-small-segmentation).
        data: folder with annotations.json and the images that it names.
        validation: folder like `data`. The model with the best AP on its validation split (FE off) goes to `best`.
        live: folder for DVCLive's curves; default: `live` in `out`.
        start: folder of a trained model of the same kind, whose weights are the initial weights.

    Returns:
        The history: iteration, the losses, the gradient's norm, the learning rate and, where measured, the AP.

    Raises:
        InputError: an unknown variant, unreadable data or weights, a loss or gradient that is not finite, a
            checkpoint of another training, or an `out` with other content.
    """
    earlier = _earlier(out, variant)
    task = _task(variant, params, data, validation, start)
    say = task.compute.fabric.print
    if (earlier.get("key"), earlier.get("code_sha256")) == (task.key, task.code):
        say(f"{out}: trained already with these settings, data and code; delete {out} to train again")
    else:
        run, warning = _begun(task, out)
        images = _prepared(task, out)
        if earlier:
            say(f"{out}: replaces a finished training: {difference_of(earlier['key'], task.key) or 'other code'}")
        threaded = f"{task.threads} thread{'s' if task.threads > 1 else ''}"
        say(f"{variant}: {len(images)} images, {task.compute}, {threaded}{_idle_gpus(task)}")
        _warn_of_slow_precision(task.compute)
        with threads(task.threads):
            _loop(run, task, images, out, live or out / LIVE, progress)
        if run.attached:
            run.attached.remove()
        if task.writes:
            _finish(run, task, out, [warning] if warning else [])
    if task.writes:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # also after a training that was killed at its end
    task.compute.fabric.barrier()
    return pd.read_csv(out / HISTORY_FILE)


def _loop(run: Run, task: Task, images: LabelledImages, out: Path, live: Path, progress: bool) -> None:
    """Run the remaining iterations."""
    settings, begin, stepping = task.settings, run.iteration, 0.0
    share = (task.compute.number, task.compute.processes)
    draw = partial(batches.parts_of_iteration, images, task.params.seed, settings.batch, settings.accumulate, share)
    ahead = MadeAhead(draw, range(begin, settings.iterations))
    bar = tqdm(ahead, desc=task.variant, initial=begin, total=settings.iterations, unit="iteration",
               disable=not (progress and task.writes), mininterval=1, bar_format=BAR)  # fmt: skip
    run.model.train()
    with live_curves(live if task.writes else None, run.history, settings.iterations) as log:
        for parts in bar:
            begun = time.perf_counter()
            row = run.step(parts)
            stepping += time.perf_counter() - begun
            if task.writes:
                _measure_and_save(run, task, out)
            log()
            bar.set_postfix({name: f"{row[name]:.3g}" for name in row if name != "iteration" and row[name] is not None},
                            refresh=False)  # fmt: skip
    if done := run.iteration - begin:
        task.compute.fabric.print(_pace(done, stepping, ahead.waited))


def _pace(iterations: int, stepping: float, waiting: float) -> str:
    """Text on the time per iteration, from the total seconds spent on steps and on waiting for images."""
    whole = stepping + waiting
    return f"{whole / iterations:.3f} s per iteration, and {waiting / whole:.1%} of that waiting for images"


def _measure_and_save(run: Run, task: Task, out: Path) -> None:
    """Measure the validation AP, save the best model and write a checkpoint, each if it is due."""
    settings, row = task.settings, run.history[-1]
    is_last = run.iteration == settings.iterations
    if task.measured_on and (is_last or run.iteration % settings.validate_every == 0):
        iou = task.params.evaluation.iou
        row["validation_ap"] = validation_ap(
            run.bare_model, task.measured_on, task.validation_images, iou, task.compute
        )
        run.model.train()
        if run.best() is row:
            save_model(run.bare_model, out / CHECKPOINTS / BEST)
    if not is_last and run.iteration % settings.checkpoint_every == 0:
        run.save(out / CHECKPOINTS, task.key, task.code)


def code_hash(measures: bool) -> str:
    """Hash of the code that a training runs. measures: whether the training measures the AP on validation patients."""
    package = Path(__file__).resolve().parent.parent
    rooms = TRAINING_ROOMS + (VALIDATION_ROOMS if measures else ())
    return sha256_of(
        file for room in rooms for kind in ("py", "toml") for file in (package / room).rglob(f"*.{kind}")
    )


def trained_in(folder: Path) -> dict[str, Any]:
    """Precision and threads of a finished training, which affect its weights; None if they are not recorded."""
    settings = read_json(folder / FINISHED_FILE)["key"]["training"]
    return {name: settings.get(name) for name in ("precision", "threads")}


def _earlier(out: Path, variant: str) -> dict[str, Any]:
    """The content of finished.json of an earlier training in `out`; empty without such a file.

    Raises:
        InputError: `out` is a file, or a folder with other content or another detector.
    """
    check_name(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    is_ours = (out / PARAMS_FILE).is_file() or (out / CHECKPOINTS).is_dir()
    others = [file for file in out.iterdir() if not is_partial(file)] if out.is_dir() else []
    if others and not is_ours:
        raise InputError(f"{out}: holds other things and no earlier training; give an empty folder")
    finished = read_json(out / FINISHED_FILE) if (out / FINISHED_FILE).is_file() else {}
    earlier = finished if isinstance(finished, dict) and isinstance(finished.get("key"), dict) else {}
    if earlier and earlier["key"].get("variant") != variant:
        raise InputError(
            f"{out}: holds a trained {earlier['key'].get('variant')}, not {variant}; give another folder"
        )
    return earlier


def _task(variant: str, params: Params, data: Path, validation: Path | None, start: Path | None) -> Task:
    """Prepare the task of a training and check its files; `InputError` if it cannot run."""
    own = params.training
    compute = make_compute(own.accelerator, own.precision, own.devices, own.nodes, own.strategy)
    if own.batch % compute.processes:
        raise InputError(
            f"training.batch: {own.batch} images cannot be shared equally by {compute.processes} processes"
        )
    labels = read_labels(data / LABELS_FILE)
    _check_taught(labels, data / LABELS_FILE)
    listed = list_labelled(labels if params.images.phase else without_phase(labels), data)
    return Task(variant, params, compute, listed, validation, start)


def _check_taught(labels: Labels, file: Path) -> None:
    """Raise `InputError` if there are images of other splits, or if the boxes are not of exactly one category."""
    if others := sorted({str(image.get("split", "train")) for image in labels["images"]} - {"train"}):
        raise InputError(f"{file}: has images of the split {others[0]!r}; give those of training alone")
    kinds = {box["category_id"] for box in labels["annotations"] if not is_region(box)}
    if len(kinds) != 1:
        raise InputError(f"{file}: {len(kinds)} categories have boxes; leave the microbleeds' alone")


def _begun(task: Task, out: Path) -> tuple[Run, str | None]:
    """Start a training, or resume it from the newest checkpoint in `out`; also returns the warning, if any."""
    model, attached = _build_any(task.variant, task.params, task.listed.images.shape[1])
    if attached and task.compute.processes > 1 and list(attached.parameters()):
        # DDP exchanges gradients of the model only.
        raise InputError(f"{task.variant}: has weights beside the detector's; train it in one process")
    if task.start:
        model.load_state_dict(load_detector(task.start).state_dict())
    if isinstance(model, SSD) and model.config.spec.trunk == "vgg16":
        _freeze(model, task)
    run = Run(model, task.settings, task.params.detector.fe.schedule, task.compute, attached)
    warning = run.restore(out / CHECKPOINTS, task.key, task.code)
    if run.best() and not (out / CHECKPOINTS / BEST).is_dir():
        raise InputError(f"{out / CHECKPOINTS / BEST}: gone; delete {out / CHECKPOINTS} to begin anew")
    return run, warning


def _freeze(model: SSD, task: Task) -> None:
    blocks = task.settings.frozen_blocks
    if blocks and not (task.weights or task.start):
        hint = "give weights to detector.weights.vgg16, or 0"
        raise InputError(f"training.frozen_blocks: {blocks} blocks of fresh weights would never learn; {hint}")
    freeze(model.stem, blocks)


def _idle_gpus(task: Task) -> str:
    """A hint if more GPUs of this machine than started processes can share the batch, otherwise empty."""
    here = torch.cuda.device_count() if task.compute.device.type == "cuda" else 0
    most = max((count for count in range(1, here + 1) if task.params.training.batch % count == 0), default=0)
    hint = f"; this machine has {here} GPUs: torchrun --nproc-per-node {most} -m cmbfe train … uses {most}"
    return hint if most > started_processes()[0] else ""


def _warn_of_slow_precision(compute: Compute) -> None:
    if compute.precision == "bf16-mixed" and not multiplies_bf16(compute.device.type):
        hint = "say training.precision: 32-true if that takes too long"
        compute.fabric.print(f"warning: this {compute.device.type} emulates bf16-mixed, which is slow; {hint}")


def _prepared(task: Task, out: Path) -> LabelledImages:
    """Create and tidy `out`, and decode the images into it if they fit the budget; else they stay in their files."""
    checkpoints, budget, barrier = out / CHECKPOINTS, task.settings.decoded_gib, task.compute.fabric.barrier
    decoded = checkpoints / DECODED_FILE if batches.fits(task.listed, budget) else None
    if task.writes:
        new = [folder for folder in (checkpoints, *checkpoints.parents) if not folder.exists()]
        checkpoints.mkdir(parents=True, exist_ok=True)  # fails now if the folder is not writable
        for folder in (out, checkpoints, checkpoints / BEST):
            remove_partial_files(folder)
        try:
            if decoded:
                batches.decode_to_file(task.listed, decoded)
        except InputError:
            for folder in new:
                folder.rmdir()
            raise
    barrier()
    if decoded is None:
        task.compute.fabric.print(f"images take more than {budget:g} GiB: decoded anew for each batch")
        return task.listed
    mapped = batches.mapped_from_file(task.listed, decoded)
    barrier()
    if task.writes:
        with suppress(OSError):  # Windows keeps the file; elsewhere the mapping survives its removal
            decoded.unlink()
    return mapped


def _finish(run: Run, task: Task, out: Path, warnings: list[str]) -> None:
    """Write the result of a training. `train` removes the checkpoints afterwards."""
    (out / FINISHED_FILE).unlink(missing_ok=True)  # the files of the result change from here on
    save_params(task.params, out / PARAMS_FILE)
    save_model(run.bare_model, out)
    with whole_file(out / HISTORY_FILE) as temporary:
        pd.DataFrame(run.history).to_csv(temporary, index=False)
    shutil.rmtree(out / BEST, ignore_errors=True)
    if best := run.best():
        shutil.copytree(out / CHECKPOINTS / BEST, out / BEST)
        save_params(task.params, out / BEST / PARAMS_FILE)
        write_json(out / BEST / "validation.json", {"iteration": best["iteration"], "ap": best["validation_ap"]})
    write_json(out / FINISHED_FILE, {"key": task.key, "code_sha256": task.code, "warnings": warnings})
