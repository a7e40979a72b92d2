"""The training loop: by iterations, with Adam and the step schedule of the paper's section 2.4."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from tqdm import tqdm

from cmbfe.data.dataset import LabelledPictures, batch_indices, load_labelled, to_input, to_targets
from cmbfe.data.labels import LABELS_FILE, read_labels
from cmbfe.detector.ssd import SPECS, build
from cmbfe.detector.weights import save_model
from cmbfe.devices import Compute, make_compute
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, whole_file, write_json
from cmbfe.params import Params, save_params

KEPT_CHECKPOINTS = 2
HISTORY_FILE = "history.csv"
PARAMS_FILE = "params.yaml"
FINISHED_FILE = "finished.json"
CHECKPOINTS = "checkpoints"


def build_from_params(variant: str, params: Params) -> nn.Module:
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
        **settings.fe.model_dump(),
    )


def fingerprint(variant: str, params: Params, data: LabelledPictures) -> dict[str, Any]:
    """What a training belongs to: its result or checkpoint is used only where all of this is equal."""
    settings = params.model_dump(include={"seed", "detector"}, mode="json")
    settings["training"] = params.training.of(variant).model_dump(exclude={"longer"}, mode="json")
    content = hashlib.sha256(data.pictures.data)
    content.update(str(data.pictures.shape).encode())
    for boxes in data.boxes:
        content.update(f"{len(boxes)} boxes".encode() + boxes.tobytes())
    return {"variant": variant, **settings, "data_sha256": content.hexdigest(), "code_sha256": code_hash()}


def code_hash() -> str:
    """Hash of the code that a training runs through: this module, the data path and the detector."""
    package = Path(__file__).parent
    files = [
        *(package / name for name in ("train.py", "devices.py", "data/dataset.py")),
        *package.glob("detector/*.py"),
    ]
    return sha256_of(files)


def is_trained(out: Path, belongs_to: dict[str, Any]) -> bool:
    """Whether `out` holds the finished result of this very training."""
    return (out / FINISHED_FILE).is_file() and read_json(out / FINISHED_FILE) == belongs_to


def _refuse_foreign(out: Path) -> None:
    """Raise `InputError` where `out` is a file, or a folder of something else than an earlier training."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder")
    is_ours = (out / PARAMS_FILE).is_file() or (out / CHECKPOINTS).is_dir()
    if out.is_dir() and any(out.iterdir()) and not is_ours:
        raise InputError(f"{out}: holds other things and no earlier training; give an empty folder")


class Run:
    """The state of one training: model, optimiser, schedule and history, saved and restored together."""

    def __init__(self, variant: str, params: Params, compute: Compute, belongs_to: dict[str, Any]) -> None:
        self.belongs_to = belongs_to
        model = build_from_params(variant, params).to(memory_format=torch.channels_last)
        settings = params.training.of(variant)
        optimiser = torch.optim.Adam(
            model.parameters(), lr=settings.learning_rate, betas=settings.adam_betas, fused=True
        )
        self.bare_model = model
        self.model, self.optimiser = compute.fabric.setup(model, optimiser)
        self.schedule = MultiStepLR(self.optimiser, list(settings.milestones), settings.gamma)
        self.history: list[dict[str, float]] = []

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self.history)

    def save(self, folder: Path) -> None:
        """Write a checkpoint, whole or not at all, and keep the newest two of this training."""
        belongs_to = json.dumps(self.belongs_to, sort_keys=True)
        # Without this in the name, checkpoints of other settings with more iterations would push out our own.
        ours = hashlib.sha256(belongs_to.encode()).hexdigest()[:8]
        state = {
            "belongs_to": belongs_to,
            "model": self.bare_model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "history": self.history,
        }
        with whole_file(folder / f"iteration{self.iteration:07d}-{ours}.pt") as temporary:
            torch.save(state, temporary)
        for old in sorted(folder.glob(f"iteration*-{ours}.pt"))[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def restore(self, folder: Path) -> None:
        """Go on from the newest checkpoint of these very settings, if there is one; say what was done."""
        for file in sorted(folder.glob("iteration*.pt"), reverse=True):
            try:
                state = torch.load(file, weights_only=True)
            except Exception as error:
                print(f"{file}: unreadable checkpoint passed over ({type(error).__name__})")
                continue
            if difference := _difference(json.loads(state["belongs_to"]), self.belongs_to):
                print(f"{file}: checkpoint of other settings passed over: {difference}")
                continue
            self.bare_model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
            self.history = state["history"]
            print(f"going on from {file} after {self.iteration} iterations")
            return


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    old, new = dict(_flat(theirs)), dict(_flat(ours))
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} here" for key in keys)


def _step(run: Run, compute: Compute, data: LabelledPictures, indices: Any) -> None:
    """One iteration: forward with targets (FE included), backward, update, history.

    Raises:
        InputError: the loss is not finite; the message names iteration, learning rate and pictures.
    """
    learning_rate = run.schedule.get_last_lr()[0]
    images = to_input(data.pictures[indices], compute.device).contiguous(memory_format=torch.channels_last)
    targets = to_targets([data.boxes[i] for i in indices], compute.device)
    with compute.autocast():
        losses = run.model(images, targets)
    loss = sum(losses.values())
    run.optimiser.zero_grad()
    compute.fabric.backward(loss)
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not torch.isfinite(loss.detach()):
        names = ", ".join(data.names[i] for i in indices)
        raise InputError(
            f"training stopped: loss {values} at iteration {run.iteration + 1}, learning rate {learning_rate:g}, "
            f"pictures {names}; the last checkpoint is intact. Lower training.learning_rate or look at these pictures"
        )
    run.optimiser.step()
    run.schedule.step()
    run.history.append({"iteration": run.iteration + 1, **values, "learning_rate": learning_rate})


def train(variant: str, params: Params, data: Path, out: Path, progress: bool = True) -> pd.DataFrame:
    """Train a variant on an augmented set; write model.safetensors, config.json, params.yaml and history.csv.

    A killed training goes on from its last checkpoint and ends with the same weights, bit for bit; when it is done,
    the checkpoints go.

    A training that is finished already, with the same settings, data and code, is not repeated.

    Args:
        data: folder with annotations.json and the pictures that it names.

    Returns:
        The history: iteration, the losses and the learning rate.

    Raises:
        InputError: an unknown variant, unreadable data or weights, a loss that is not finite, or an `out` that holds
            something else than an earlier training.
    """
    settings = params.training.of(variant)
    _refuse_foreign(out)
    labelled = load_labelled(read_labels(data / LABELS_FILE), data)
    belongs_to = fingerprint(variant, params, labelled)
    if is_trained(out, belongs_to):
        print(f"{out}: trained already with these settings, data and code; delete {out} to train again")
        return pd.read_csv(out / HISTORY_FILE)
    compute = make_compute(settings.accelerator, settings.precision)
    run = Run(variant, params, compute, belongs_to)
    checkpoints = out / CHECKPOINTS
    run.restore(checkpoints)
    run.model.train()
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written to is noticed now, not in hours
    print(f"{variant}: {len(labelled)} pictures, {compute.device}, precision {compute.precision}")
    bar = tqdm(range(run.iteration, settings.iterations), initial=run.iteration, total=settings.iterations,
               desc=variant, unit="iteration", disable=not progress, mininterval=1)  # fmt: skip
    for iteration in bar:
        _step(run, compute, labelled, batch_indices(len(labelled), settings.batch, iteration, params.seed))
        bar.set_postfix(
            {key: f"{value:.3g}" for key, value in run.history[-1].items() if key != "iteration"},
            refresh=False,
        )
        if run.iteration % settings.checkpoint_every == 0 and run.iteration < settings.iterations:
            run.save(checkpoints)
    return _finish(run, params, out)


def _finish(run: Run, params: Params, out: Path) -> pd.DataFrame:
    """Write the result, then remove the checkpoints: what is finished is never gone on from."""
    history = pd.DataFrame(run.history)
    (out / FINISHED_FILE).unlink(missing_ok=True)  # an earlier result is finished no more once its files change
    save_params(params, out / PARAMS_FILE)
    save_model(run.bare_model, out)
    with whole_file(out / HISTORY_FILE) as temporary:
        history.to_csv(temporary, index=False)
    write_json(out / FINISHED_FILE, run.belongs_to)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return history
