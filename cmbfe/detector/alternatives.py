"""FE and its alternatives by name; each can be attached behind a layer of any detector, see docs/detectors.md."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from cmbfe.detector.fe import FeatureEnhancement, box_mask, resized_mask
from cmbfe.detector.hooks import Enhancement, GuidedLayer, enhance_during_training
from cmbfe.errors import InputError

LAYERS = ("enhancement", "assisted_excitation")
"""Training layers that our own detectors can contain: FE, or Assisted Excitation instead."""
PLAIN = "plain"  # the bare detector in comparisons of alternatives; no alternative can have this name
WEIGHT = 1.0  # weight of the segmentation loss relative to the detector's losses; not tuned
PRIOR_LOGIT = -4.6
"""Initial logit of the segmentation: a probability of 0.01, since boxes are rare. With 0.5, the background would
dominate the loss at first (Lin et al. 2017, section 4.1)."""


class AssistedExcitation(nn.Module):
    """Assisted Excitation (Derakhshani et al. 2019), with the interface of `FeatureEnhancement`.

    Inside the boxes the mean over the channels is added to every channel: X + strength * G * mean(X). The mask G of the
    boxes does not depend on grey values. It is made at the image's size and resized like FE's mask (A2).
    """

    def __init__(self, resize: str = "bilinear") -> None:
        super().__init__()
        self.resize = resize
        self.strength = 1.0

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The mask of the boxes (`box_mask`), times the layer's strength."""
        return box_mask(images, boxes) * self.strength

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], excited in training mode and unchanged in evaluation mode."""
        if not self.training:
            return features
        mask = resized_mask(mask, features.shape[-2:], self.resize).to(features.dtype)
        return features + mask * features.mean(dim=1, keepdim=True)


class BoxSegmentation(nn.Module):
    """A side task that predicts which share of each feature-map cell lies inside boxes; features stay unchanged.

    It follows Brazil et al. 2017 (SDS-RCNN) and has the interface of `FeatureEnhancement`. A 1x1 convolution, shared by
    maps with the same number of channels, gives a logit per cell. The loss is the binary cross-entropy with the mask of
    the boxes.
    """

    def __init__(self, channels: Iterable[int], weight: float = WEIGHT) -> None:
        super().__init__()
        heads = {str(count): nn.Conv2d(count, 1, 1) for count in sorted(set(channels))}
        for head in heads.values():
            nn.init.constant_(head.get_parameter("bias"), PRIOR_LOGIT)
        self.heads = nn.ModuleDict(heads)
        self.weight = weight
        self.of_maps: list[Tensor] = []

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The mask of the boxes (`box_mask`), Tensor[N, 1, H, W]; clears the losses of the previous batch."""
        self.of_maps = []
        return box_mask(images, boxes)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the features Tensor[N, C, h, w] unchanged, and store the loss of this map for `losses`."""
        logits = self.heads[str(features.shape[1])](features)
        with torch.autocast(features.device.type, enabled=False):
            share = F.adaptive_avg_pool2d(mask, (features.shape[2], features.shape[3]))
            self.of_maps.append(F.binary_cross_entropy_with_logits(logits.float(), share))
        return features

    def losses(self) -> dict[str, Tensor]:
        """The loss of the side task: its weight times the mean over the maps of the batch."""
        of_maps, self.of_maps = self.of_maps, []  # kept, they would prevent copies of the detector
        return {"segmentation": self.weight * torch.stack(of_maps).mean()}


class Alternative(NamedTuple):
    make: Callable[[Callable[[], tuple[int, ...]]], GuidedLayer]
    """Makes the layer. The argument is a function that runs a forward pass and returns the channels of the maps."""
    source: str  # paper or section
    schedule: str = "constant"  # how the strength changes during training, see `cmbfe.detector.fe.strength`


ALTERNATIVES = {
    "assisted-excitation": Alternative(
        lambda channels: AssistedExcitation(), "Derakhshani et al. 2019 (the paper's reference 35)", "cosine"
    ),
    "fading-fe": Alternative(
        lambda channels: FeatureEnhancement(),
        "FE of Li et al. 2021 with the schedule of Derakhshani et al. 2019, section 3",
        "cosine",
    ),
    "fe": Alternative(lambda channels: FeatureEnhancement(), "Li et al. 2021, section 2.3"),
    "segmentation": Alternative(
        lambda channels: BoxSegmentation(channels()),
        "a side task after Brazil et al. 2017 (the paper's reference 34)",
    ),
}


def find(name: str) -> Alternative:
    """The alternative of this name; `InputError` for an unknown name."""
    if name not in ALTERNATIVES:
        raise InputError(f"no alternative of FE named {name!r}; there are: {', '.join(ALTERNATIVES)}")
    return ALTERNATIVES[name]


def attach(name: str, model: nn.Module, layer: str | Sequence[str]) -> Enhancement:
    """Attach an alternative behind layers of a detector in training, with `enhance_during_training`.

    The detector's state dict and its sequence of random numbers do not change.

    Raises:
        InputError: an unknown name, or an error of `enhance_during_training`.
    """
    alternative = find(name)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        guided: Any = alternative.make(lambda: channels_of(model, layer))
    return enhance_during_training(model, layer, guided.to(device), alternative.schedule)


@torch.no_grad()
def channels_of(model: nn.Module, layer: str | Sequence[str]) -> tuple[int, ...]:
    """Channel counts of all maps that the layers output for a black image in evaluation mode."""
    channels: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], maps: Any) -> None:
        channels.extend(leaf.shape[1] for leaf in _pytree.tree_leaves(maps) if isinstance(leaf, Tensor))

    modules = dict(model.named_modules(remove_duplicate=False))
    names = [layer] if isinstance(layer, str) else layer
    handles = [modules[name].register_forward_hook(note) for name in names if name in modules]
    modes = {module: module.training for module in model.modules()}  # frozen layers may be in evaluation mode
    try:
        model.eval()(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return tuple(channels)
