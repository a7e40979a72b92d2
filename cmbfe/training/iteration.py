"""One iteration of a training, and the state that it changes: model, optimiser, schedule and history."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR

from cmbfe.detector.fe import strength
from cmbfe.detector.hooks import Enhancement
from cmbfe.detector.ssd import SSD
from cmbfe.errors import InputError
from cmbfe.params import Training
from cmbfe.training.batches import Batch, to_input, to_targets
from cmbfe.training.checkpoints import load_checkpoint, restore_random_states, save_checkpoint
from cmbfe.training.devices import Compute

Row = dict[str, float | int | None]


def learning_rate_factor(settings: Training, iteration: int) -> float:
    """Factor on the learning rate in an iteration, counted from 0: warm-up, then gamma per milestone (A7, A9)."""
    passed = sum(iteration >= milestone for milestone in settings.milestones)
    return settings.gamma**passed * min(1.0, (iteration + 1) / max(settings.warm_up_iterations, 1))


class Run:
    """The state of one training, saved and restored together."""

    def __init__(
        self,
        model: nn.Module,
        settings: Training,
        fe_schedule: str,
        compute: Compute,
        attached: Enhancement | None = None,
    ) -> None:
        """fe_schedule: schedule of the detector's own FE layer. attached: FE or an alternative, trained along."""
        self.settings, self.fe_schedule, self.compute, self.attached = settings, fe_schedule, compute, attached
        model = model.to(memory_format=torch.channels_last)
        if compute.processes > 1 and compute.device.type == "cuda":  # SyncBatchNorm does not support CPUs
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        optimiser = torch.optim.Adam(
            [*model.parameters(), *(attached.parameters() if attached else ())],
            lr=settings.learning_rate,
            betas=settings.adam_betas,
            fused=True,
        )
        self.bare_model = model
        self.model, self.optimiser = compute.fabric.setup(model, optimiser)
        self.schedule = LambdaLR(self.optimiser, lambda iteration: learning_rate_factor(settings, iteration))
        self.history: list[Row] = []

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        return len(self.history)

    def step(self, parts: Sequence[Batch]) -> Row:
        """Run one iteration: update the weights by the mean gradient of the batches; returns the history's new row.

        Losses are means over the batches and over all processes.

        Raises:
            InputError: a loss or the gradient is not finite, or a target is unusable. The weights stay unchanged.
        """
        if (own := getattr(self.bare_model, "fe", None)) is not None:
            own.strength = strength(self.fe_schedule, self.iteration, self.settings.iterations)
        if self.attached:
            self.attached.set_progress(self.iteration, self.settings.iterations)
        self.optimiser.zero_grad()
        losses = [self._backward(part, last=part is parts[-1]) for part in parts]
        mean = {name: sum(of_part[name] for of_part in losses) / len(parts) for name in losses[0]}
        norm = self._gradient_norm()
        means = self.compute.fabric.all_reduce(torch.stack(list(mean.values())), reduce_op="mean")
        values = dict(zip(mean, means.tolist(), strict=True)) | {"gradient_norm": float(norm)}
        if not all(math.isfinite(value) for value in values.values()):
            raise InputError(self._not_finite(parts, values))
        if self.settings.clip_gradient_norm is not None:
            clip_grads_with_norm_(self.bare_model.parameters(), self.settings.clip_gradient_norm, norm)
        row: Row = {"iteration": self.iteration + 1, **values, "learning_rate": self.schedule.get_last_lr()[0]}
        self.optimiser.step()
        self.schedule.step()
        self.history.append({**row, "validation_ap": None})
        return self.history[-1]

    def _backward(self, part: Batch, last: bool) -> dict[str, Tensor]:
        """Add a batch's share to the gradient; processes exchange gradients only after the last batch."""
        with nullcontext() if last else self.compute.fabric.no_backward_sync(self.model):
            try:
                losses = self._losses(self.model, part)
            except InputError as error:
                where = f"iteration {self.iteration + 1}, images {', '.join(part.names)}"
                raise InputError(f"training stopped at {where}: {error}") from None
            self.compute.fabric.backward(sum(losses.values()) / self.settings.accumulate)
        return {name: loss.detach() for name, loss in losses.items()}

    def _losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = to_input(batch.images, self.compute.device).contiguous(memory_format=torch.channels_last)
        # SSD checks targets on the CPU and would have to copy them back. Torchvision's detectors need them on the GPU.
        beside = torch.device("cpu") if isinstance(self.bare_model, SSD) else self.compute.device
        with self.compute.autocast():
            return model(images, to_targets(batch.boxes, beside))

    def _gradient_norm(self) -> Tensor:
        return get_total_norm([weight.grad for weight in self.bare_model.parameters() if weight.grad is not None])

    def _not_finite(self, parts: Sequence[Batch], values: dict[str, float]) -> str:
        names = [name for part in parts for name in part.names]
        alone = [name for part in parts for name in self._not_finite_alone(part)]
        if len(alone) == len(names):
            cause = "each of them alone gives such a loss: the weights have diverged; lower training.learning_rate"
        elif alone:
            cause = f"alone, only {', '.join(alone)} does: look at its pixels and boxes"
        else:
            cause = "none of them does so alone; lower training.learning_rate, or set training.clip_gradient_norm"
        process = f" of process {self.compute.number}" if self.compute.processes > 1 else ""
        return (
            f"training stopped: {', '.join(f'{name} {value:g}' for name, value in values.items())} at iteration "
            f"{self.iteration + 1}, learning rate {self.schedule.get_last_lr()[0]:g}, images{process} "
            f"{', '.join(names)}; {cause}. The last checkpoint is intact"
        )

    def _not_finite_alone(self, part: Batch) -> list[str]:
        """Names of the images whose own loss or gradient is not finite."""
        bad = []
        for name, image, boxes in zip(*part, strict=True):
            # The image is used twice, since batch normalisation has no statistics of a single image.
            batch = Batch([name] * 2, image[None].repeat(2, axis=0), [boxes] * 2)
            self.bare_model.zero_grad()
            loss = sum(self._losses(self.bare_model, batch).values())
            loss.backward()
            if not (torch.isfinite(loss) and torch.isfinite(self._gradient_norm())):
                bad.append(name)
        return bad

    def best(self) -> Row | None:
        """The first row with the highest validation AP, or None if no AP was measured."""
        measured = [row for row in self.history if row["validation_ap"] is not None]
        return max(measured, key=lambda row: row["validation_ap"], default=None)

    def save(self, folder: Path, key: dict[str, Any], code: str) -> None:
        """Write a checkpoint atomically."""
        state = {name: part.state_dict() for name, part in self._parts().items()} | {"history": self.history}
        save_checkpoint(folder, self.iteration, key, code, state)

    def restore(self, folder: Path, key: dict[str, Any], code: str) -> str | None:
        """Resume from the newest checkpoint, if there is one; returns a warning if other code wrote the checkpoint."""
        checkpoint = load_checkpoint(folder, key, say=self.compute.fabric.print)
        if checkpoint is None:
            return None
        file, state = checkpoint
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.history = state["history"]
        restore_random_states(state["random"])
        self.compute.fabric.print(f"resumes from {file} after {self.iteration} iterations")
        if state["code"] == code:
            return None
        warning = f"resumed after {self.iteration} iterations from a checkpoint of other code"
        self.compute.fabric.print(f"warning: {warning}; delete {folder} to train with this code alone")
        return warning

    def _parts(self) -> dict[str, Any]:
        """The parts of a checkpoint besides the history."""
        parts = {"model": self.bare_model, "optimiser": self.optimiser, "schedule": self.schedule}
        return parts | ({"attached": self.attached.fe} if self.attached else {})
