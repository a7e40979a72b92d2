"""FE and its alternatives by name, each put behind a layer of any detector in the same way; see docs/detectors.md."""

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
"""What our own detectors can have inside: FE, or Assisted Excitation in its place."""
PLAIN = "plain"  # stands for the bare detector where alternatives are compared; none can have this name
WEIGHT = 1.0  # of the segmentation's loss among the detector's; not tuned
PRIOR_LOGIT = -4.6
"""With which the segmentation begins, 0.01: boxes are that rare, and from 0.5 they would be drowned at first (Lin et
al. 2017, section 4.1)."""


class AssistedExcitation(nn.Module):
    """Assisted Excitation (Derakhshani et al. 2019), with the interface of `FeatureEnhancement`.

    Inside the boxes the mean over the channels is added to every channel: X + strength * G * mean(X), G the boxes'
    mask. It does not look at the image. G is made at the image's size and resized as FE's mask is (A2).
    """

    def __init__(self, resize: str = "bilinear") -> None:
        super().__init__()
        self.resize = resize
        self.strength = 1.0

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The boxes' mask times the layer's strength, see `box_mask`."""
        return box_mask(images, boxes) * self.strength

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], excited in training mode, untouched in evaluation mode."""
        if not self.training:
            return features
        mask = resized_mask(mask, features.shape[-2:], self.resize).to(features.dtype)
        return features + mask * features.mean(dim=1, keepdim=True)


class BoxSegmentation(nn.Module):
    """Predicts from a feature map which share of each cell lies inside boxes; the features stay what they are.

    A side task after Brazil et al. 2017 (SDS-RCNN) with the interface of `FeatureEnhancement`. A 1x1 convolution,
    shared by maps with as many channels, gives a logit per cell; the loss is its binary cross-entropy with the boxes'
    mask.
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
        """The boxes' mask, Tensor[N, 1, H, W], see `box_mask`; a new batch begins."""
        self.of_maps = []
        return box_mask(images, boxes)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w], untouched; their map's loss is kept for `losses`."""
        logits = self.heads[str(features.shape[1])](features)
        with torch.autocast(features.device.type, enabled=False):
            share = F.adaptive_avg_pool2d(mask, (features.shape[2], features.shape[3]))
            self.of_maps.append(F.binary_cross_entropy_with_logits(logits.float(), share))
        return features

    def losses(self) -> dict[str, Tensor]:
        """The side task's loss: its weight times the mean over the batch's maps."""
        return {"segmentation": self.weight * torch.stack(self.of_maps).mean()}


class Alternative(NamedTuple):
    make: Callable[[Callable[[], tuple[int, ...]]], GuidedLayer]
    """Gives the layer. Its argument asks the detector for the channels of its maps, which costs a forward pass."""
    source: str  # paper or section
    schedule: str = "constant"  # of its strength over a training, see `cmbfe.detector.fe.strength`


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
    """What a name stands for; `InputError` where it stands for nothing."""
    if name not in ALTERNATIVES:
        raise InputError(f"no alternative of FE named {name!r}; there are: {', '.join(ALTERNATIVES)}")
    return ALTERNATIVES[name]


def attach(name: str, model: nn.Module, layer: str | Sequence[str]) -> Enhancement:
    """Put an alternative behind layers of a detector in training, as `enhance_during_training` puts FE there.

    The detector's state dict and the random numbers that it draws stay as they are.

    Raises:
        InputError: no alternative of that name, or as `enhance_during_training`.
    """
    alternative = find(name)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        guided: Any = alternative.make(lambda: channels_of(model, layer))
    return enhance_during_training(model, layer, guided.to(device), alternative.schedule)


@torch.no_grad()
def channels_of(model: nn.Module, layer: str | Sequence[str]) -> tuple[int, ...]:
    """Channels of all maps that the layers give for a black image, in evaluation mode."""
    channels: list[int] = []

    def note(module: nn.Module, args: tuple[Any, ...], maps: Any) -> None:
        channels.extend(leaf.shape[1] for leaf in _pytree.tree_leaves(maps) if isinstance(leaf, Tensor))

    modules = dict(model.named_modules(remove_duplicate=False))
    names = [layer] if isinstance(layer, str) else layer
    handles = [modules[name].register_forward_hook(note) for name in names if name in modules]
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return tuple(channels)
