"""Training of any detector that is called like torchvision's, with FE or a relative of it behind one of its layers.

The iteration is that of our own detectors (`cmbfe.training.iteration.Run`). A training takes minutes: it is done whole or not at
all, and what is finished with the same settings, data and code is not repeated.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.detector import alternatives, hooks, torchvision_detectors
from cmbfe.detector.alternatives import PLAIN
from cmbfe.detector.weights import WEIGHTS_FILE
from cmbfe.files import sha256_of, whole_file, write_json
from cmbfe.params import Training
from cmbfe.training.batches import LabelledImages, content_hash, list_labelled, load_labelled
from cmbfe.training.devices import Compute, make_compute
from cmbfe.training.iteration import Row, Run, learning_rate_factor
from cmbfe.training.loader import parts_of_iteration
from cmbfe.training.loop import FINISHED_FILE, WHERE_IT_RUNS, code_hash, is_trained


@dataclass(frozen=True)
class Spec:
    """What one training is a training of."""

    detector: str
    """Of `cmbfe.detector.torchvision_detectors`."""
    relative: str
    """Of `cmbfe.detector.alternatives`, or `PLAIN`."""
    layer: str
    """Behind which the relative stands."""
    seed: int
    """Of initial weights, order of the images and what the detector draws."""
    size: int
    """Side of the images, px."""
    schedule: Training

    def belongs_to(self, data: LabelledImages, compute: Compute) -> dict[str, Any]:
        """What a finished training must equal in order not to be repeated; JSON.

        Raises:
            InputError: no relative of that name.
        """
        schedule = self.schedule.model_dump(exclude={*WHERE_IT_RUNS, "longer", "validate_every"}, mode="json")
        what = {"detector": self.detector, "relative": self.relative, "layer": self.layer, "seed": self.seed}
        hashes = {"data_sha256": content_hash(data), "code_sha256": [code_hash(), sha256_of(self._code())]}
        return {**what, "size": self.size, "schedule": schedule, "precision": compute.precision, **hashes}

    def _code(self) -> list[Path]:
        """The modules of this training beyond those of every training; other relatives are none of it."""
        modules = [sys.modules[__name__], torchvision_detectors, hooks, alternatives]
        if self.relative != PLAIN:
            alternatives.find(self.relative)
        return [Path(module.__file__) for module in modules]


class GuidedRun(Run):
    """A training whose ground truth may guide a layer by hooks; all else is that of our own detectors."""

    def __init__(
        self, model: nn.Module, schedule: Training, compute: Compute, attached: hooks.Enhancement | None
    ) -> None:
        model.fe = None  # the loop's own FE is that of our detectors; here it comes by hooks
        super().__init__(model, schedule, "constant", compute)
        self.attached = attached
        if attached and (weights := attached.parameters()):
            self.optimiser.optimizer.add_param_group({"params": weights})
            self.schedule = LambdaLR(self.optimiser, lambda iteration: learning_rate_factor(schedule, iteration))

    def step(self, parts: list[Any]) -> Row:
        """One iteration, see `Run.step`; what fades does so before."""
        if self.attached:
            self.attached.set_progress(self.iteration, self.settings.iterations)
        return super().step(parts)


def train_any(spec: Spec, data: Path, out: Path, compute: Compute | None = None, progress: bool = True) -> nn.Module:
    """Train a detector on an augmented set and write its weights to `out`; the detector, bare, in evaluation mode.

    Twins, with a relative and without, begin with the same weights and draw the same numbers.

    Args:
        data: folder with annotations.json and the images that it names.

    Raises:
        InputError: no such detector, relative or layer; unreadable data; a loss or gradient that is not finite.
    """
    compute = compute or make_compute(spec.schedule.accelerator, spec.schedule.precision)
    labels = read_labels(data / LABELS_FILE)
    belongs_to = spec.belongs_to(list_labelled(labels, data), compute)
    torch.manual_seed(spec.seed)
    model = torchvision_detectors.build(spec.detector, spec.size)
    if is_trained(out, belongs_to):
        model.load_state_dict(load_file(out / WEIGHTS_FILE))
        # In the training's memory format, or the sums come out in another order.
        return model.to(compute.device, memory_format=torch.channels_last).eval()
    attached = None if spec.relative == PLAIN else alternatives.attach(spec.relative, model, spec.layer)
    _loop(GuidedRun(model, spec.schedule, compute, attached), load_labelled(labels, data), spec, progress)
    if attached:
        attached.remove()
    (out / FINISHED_FILE).unlink(missing_ok=True)
    with whole_file(out / WEIGHTS_FILE) as temporary:
        save_file({name: one.contiguous() for name, one in model.state_dict().items()}, temporary)
    write_json(out / FINISHED_FILE, belongs_to)
    return model.eval()


def _loop(run: GuidedRun, images: LabelledImages, spec: Spec, progress: bool) -> None:
    torch.manual_seed(spec.seed)  # Faster R-CNN draws proposals: the same for twins, whatever was built before
    run.model.train()
    name = f"{spec.detector} {spec.relative} {spec.seed}"
    batch, accumulate = spec.schedule.batch, spec.schedule.accumulate
    for iteration in tqdm(range(spec.schedule.iterations), desc=name, unit="iteration", disable=not progress):
        run.step(parts_of_iteration(images, spec.seed, batch, accumulate, (0, 1), iteration))
