"""Atomic checkpoints, of which the newest two are kept. A training resumes only with the same settings and data."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmbfe.errors import InputError
from cmbfe.files import is_partial, whole_file
from cmbfe.params import by_key_path

KEPT = 2


def save_checkpoint(folder: Path, iteration: int, key: dict[str, Any], code: str, state: dict[str, Any]) -> None:
    """Write a checkpoint and remove all but the newest two.

    Args:
        key: settings and data of the training, as JSON.
        code: hash of the training code.
        state: tensors, numbers, texts, lists and dicts. The states of all random generators are saved too.
    """
    content = {**state, "key": json.dumps(key), "code": code, "random": random_states()}
    with whole_file(folder / f"iteration{iteration:09d}.pt") as temporary:
        torch.save(content, temporary)
    for old in sorted(folder.glob("iteration*.pt"))[:-KEPT]:
        old.unlink()


def load_checkpoint(
    folder: Path, key: dict[str, Any], say: Callable[[str], None] = print
) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint and its state, or None; unreadable checkpoints are reported and skipped.

    Raises:
        InputError: the checkpoint belongs to a training with other settings or data; the message states the difference.
    """
    for file in sorted(folder.glob("iteration*.pt"), reverse=True):
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
            theirs = json.loads(state["key"])
        except Exception as error:
            say(f"{file}: unreadable checkpoint passed over ({type(error).__name__})")
            continue
        if difference := difference_of(theirs, key):
            hint = f"Restore these settings to resume it, or delete {folder} to begin anew"
            raise InputError(f"{file}: checkpoint of another training: {difference}. {hint}")
        return file, state
    return None


def remove_partial_files(folder: Path) -> None:
    """Remove temporary files that an interrupted writer left behind."""
    for file in folder.glob(".*") if folder.is_dir() else ():
        if is_partial(file):
            file.unlink()


def random_states() -> dict[str, Any]:
    """The state of every random generator that a training could draw from."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global generator is what libraries draw from)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore all random generators from `random_states`; those of GPUs only if the number of GPUs is unchanged."""
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])


def difference_of(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The differences of two nested dicts as text, such as "a.b: 1 there, 2 here"; empty if they are equal."""
    old, new = by_key_path(theirs), by_key_path(ours)
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} here" for key in differing)
