"""FE and its relatives by name, each put behind a layer of any detector in the same way.

    attached = attach("segmentation", model, "backbone")     # any of names()
    optimiser = Adam([*model.parameters(), *attached.parameters()])
    attached.set_progress(iteration, iterations)             # before each iteration; matters to those that fade
    losses = model(images, targets)                          # with the relative's own loss, where it has one
    detections = model.eval()(images)                        # those of the bare detector
    attached.remove()

To add one, write a file in this folder that registers a function; nothing else is to be changed:

    @register("mine", "whose idea it is")
    def mine(channels: Channels) -> GuidedLayer:
        return MyLayer()
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import cmbfe.detector.relatives
from cmbfe.detector.hooks import Enhancement, GuidedLayer, enhance_during_training
from cmbfe.errors import InputError

Channels = Callable[[], tuple[int, ...]]
"""Asks the detector for the channels of the layer's maps, finest first; it costs a forward pass."""
Make = Callable[[Channels], GuidedLayer]


PLAIN = "plain"
"""Stands for the bare detector where relatives are compared; none can have this name."""


@dataclass(frozen=True)
class Relative:
    """What a name stands for."""

    make: Make
    source: str
    """Paper or section."""
    schedule: str
    """Of its strength over a training, see `cmbfe.detector.fe.strength`."""


_ENTERED: dict[str, Relative] = {}


def register(name: str, source: str, schedule: str = "constant") -> Callable[[Make], Make]:
    """Enter a relative: a decorator of the function that makes its layer.

    Raises:
        ValueError: the name is `PLAIN`, or taken by another module.
    """

    def enter(make: Make) -> Make:
        known = _ENTERED.get(name)
        if name == PLAIN:
            raise ValueError(f"{PLAIN!r} is the bare detector, and no relative's name")
        if known and known.make.__module__ != make.__module__:
            raise ValueError(f"relative {name!r} is registered by {known.make.__module__} and {make.__module__}")
        _ENTERED[name] = Relative(make, source, schedule)
        return make

    return enter


def relatives() -> dict[str, Relative]:
    """Every relative by name: the modules of this package are imported, and have registered theirs."""
    for module in pkgutil.iter_modules(cmbfe.detector.relatives.__path__):
        importlib.import_module(f"cmbfe.detector.relatives.{module.name}")
    return dict(sorted(_ENTERED.items()))


def find(name: str) -> Relative:
    """What a name stands for; `InputError` where it stands for nothing."""
    known = relatives()
    if name not in known:
        raise InputError(f"no relative of FE named {name!r}; there are: {', '.join(known)}")
    return known[name]


def attach(name: str, model: nn.Module, layer: str | Sequence[str]) -> Enhancement:
    """Put a relative behind one layer of a detector, or several, in training mode only.

    Neither the detector's parameters nor its state dict change, and no random number is drawn that it would see.

    Args:
        model: called as torchvision's detectors, see `enhance_during_training`.

    Raises:
        InputError: no relative of that name, no such layer, or later as `enhance_during_training`.
    """
    known = find(name)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        guided = known.make(lambda: channels_of(model, layer)).to(device)
    return enhance_during_training(model, layer, guided, known.schedule)


@torch.no_grad()
def channels_of(model: nn.Module, layer: str | Sequence[str]) -> tuple[int, ...]:
    """Channels of all maps that the layers give for a black image, in evaluation mode."""
    found: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], maps: Any) -> None:
        found.extend(one.shape[1] for one in torch.utils._pytree.tree_leaves(maps) if isinstance(one, Tensor))

    modules = dict(model.named_modules())
    names = [layer] if isinstance(layer, str) else layer
    handles = [modules[one].register_forward_hook(note) for one in names if one in modules]
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return tuple(found)
