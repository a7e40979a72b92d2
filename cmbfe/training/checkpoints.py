"""Checkpoints: whole or not at all, the newest two kept, gone on from only where the settings are the same."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmbfe.errors import InputError
from cmbfe.files import is_partial, whole_file

KEPT = 2


def save_checkpoint(folder: Path, iteration: int, belongs_to: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint and remove all but the newest two.

    Args:
        belongs_to: what the training is a training of; JSON.
        state: tensors, numbers, texts, lists and dicts. The random states are added.
    """
    whole = {**state, "belongs_to": json.dumps(belongs_to), "random": random_states()}
    with whole_file(folder / f"iteration{iteration:09d}.pt") as temporary:
        torch.save(whole, temporary)
    for old in sorted(folder.glob("iteration*.pt"))[:-KEPT]:
        old.unlink()


def load_checkpoint(
    folder: Path, belongs_to: dict[str, Any], say: Callable[[str], None] = print
) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint and its state, or None; unreadable ones are named and passed over.

    Raises:
        InputError: it belongs to a training with other settings, data or code; the message holds the difference.
    """
    for file in sorted(folder.glob("iteration*.pt"), reverse=True):
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
            theirs = json.loads(state["belongs_to"])
        except Exception as error:
            say(f"{file}: unreadable checkpoint passed over ({type(error).__name__})")
            continue
        if difference := difference_of(theirs, belongs_to):
            raise InputError(
                f"{file}: checkpoint of another training: {difference}. Restore these settings to go on with it, or "
                f"delete {folder} to begin anew"
            )
        return file, state
    return None


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed writer left behind under a temporary name."""
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
    """Set every random generator to what `random_states` gave; GPUs only where there are as many as then."""
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])


def difference_of(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What differs between two nested dicts, "a.b: 1 there, 2 here", or an empty text."""
    old, new = dict(_flat(theirs)), dict(_flat(ours))
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} here" for key in keys)


def _flat(settings: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
