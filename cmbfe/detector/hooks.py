"""Feature enhancement (paper section 2.3) behind a named layer of any detector, by hooks.

with_fe = enhance_during_training(model, "backbone")  # a torchvision detector, or one that is called like it
losses = model(images, targets)                       # features inside the ground truth's boxes are enhanced
detections = model.eval()(images)                     # those of the bare detector
with_fe.remove()
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import clip_boxes_to_image

from cmbfe.detector.fe import FeatureEnhancement, strength
from cmbfe.errors import InputError


class GuidedLayer(Protocol):
    """An nn.Module that the ground truth guides, such as `FeatureEnhancement`."""

    def mask(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Of images Tensor[N, C, H, W] in [0, 1] and their boxes (N tensors [K, 4], xyxy px): Tensor[N, 1, H, W]."""

    def __call__(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w] of the same shape, changed by the mask."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights of its own, which training alone uses."""


@runtime_checkable
class SideTask(Protocol):
    """A guided layer with losses of its own."""

    def losses(self) -> dict[str, Tensor]:
        """Name -> scalar of the batch that has just passed; they join the detector's."""


def enhance_during_training(
    model: nn.Module, layer: str | Sequence[str], fe: GuidedLayer | None = None, schedule: str = "constant"
) -> "Enhancement":
    """Put FE behind one layer of a detector, or several, in training mode only.

    The detector is called as torchvision's are: `model(images, targets)`, images a list of Tensor[C, H, W] in [0, 1]
    or one Tensor[N, C, H, W], targets a list of {"boxes": Tensor[K, 4], xyxy px, ...}. Where the detector resizes,
    normalises and pads the images by torchvision's `GeneralizedRCNNTransform`, the mask is that of the images and
    boxes that come out of it. Without one, the images must be of one size, and the features must span all of it.

    Parameters, state dict and evaluation are those of the bare detector. A deep copy has FE of its own. Hooks are no
    part of a state dict: call this again after building a detector anew, and remove it before TorchScript.

    Args:
        layer: name as in `model.named_modules()`, such as "backbone" or "backbone.body.layer2". It gives a Tensor
            [N, C, h, w], or a dict, list or tuple of them, all of which are enhanced.
        fe: what stands there; default: the paper's `FeatureEnhancement()`. Its weights are no part of the detector's
            (`Enhancement.parameters`); its losses (`SideTask`) join those that the detector gives in training.
        schedule: how its strength falls where `Enhancement.set_progress` is called: "constant" (not) or "cosine".

    Raises:
        InputError: no such layer or schedule; later, in a call in training: no targets, images of several sizes
            without a torchvision transform, or a layer that gives no feature maps.
    """
    names = [layer] if isinstance(layer, str) else layer
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            near = ", ".join(name for name in modules if name and "." not in name)
            raise InputError(f"no layer {name!r} in {type(model).__name__}; its outermost layers: {near}")
    return Enhancement(model, {name: modules[name] for name in names}, fe or FeatureEnhancement(), schedule)


class Enhancement:
    """FE behind layers of a detector, see `enhance_during_training`; `remove` it, or use it as a context manager.

    A class, since what hooks remember must be copied and pickled with the detector, which a closure is not.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], fe: GuidedLayer, schedule: str) -> None:
        strength(schedule, 0, 1)  # an unknown schedule is refused now
        transforms = [module for module in model.modules() if isinstance(module, GeneralizedRCNNTransform)]
        self.fe, self.schedule = fe, schedule
        self.is_resized_inside = bool(transforms)
        self.is_in_call = False
        self.mask: Tensor | None = None
        self.handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            *(transform.register_forward_hook(self._after_transform) for transform in transforms),
            *(layer.register_forward_hook(partial(self._after_layer, name)) for name, layer in layers.items()),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def remove(self) -> None:
        """Take FE out of the detector."""
        for handle in self.handles:
            handle.remove()
        self.mask = None

    def set_progress(self, iteration: int, iterations: int) -> None:
        """Set the strength of what fades, in an iteration counted from 0."""
        if self.schedule != "constant":
            fading: Any = self.fe  # only what fades has a strength
            fading.strength = strength(self.schedule, iteration, iterations)

    def parameters(self) -> list[nn.Parameter]:
        """Weights of what stands there; FE has none."""
        return list(self.fe.parameters())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        """What goes with a copy or a pickle of the detector: not the mask of the last batch."""
        return self.__dict__ | {"mask": None, "is_in_call": False}

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask, self.is_in_call = None, model.training
        if model.training:
            given = dict(zip(("images", "targets"), args, strict=False)) | kwargs
            boxes = _boxes_of(given.get("targets"))
            if not self.is_resized_inside:
                self.mask = self.fe.mask(_one_batch(given.get("images")), boxes)

    def _after_transform(
        self, transform: GeneralizedRCNNTransform, args: tuple[Any, ...], made: tuple[ImageList, Any]
    ) -> None:
        if self.is_in_call:
            images, targets = made
            boxes = [
                clip_boxes_to_image(of_image, size)  # the padding beyond is no part of the image
                for of_image, size in zip(_boxes_of(targets), images.image_sizes, strict=True)
            ]
            self.mask = self.fe.mask(_before_normalisation(images.tensors, transform), boxes)

    def _after_layer(self, name: str, layer: nn.Module, args: tuple[Any, ...], features: Any) -> Any:
        # Activation checkpointing calls a layer once more in the backward pass, after the detector's call has ended.
        is_in_backward = torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks it
        if not (self.is_in_call or (self.mask is not None and is_in_backward)):
            return None
        if self.mask is None:
            raise InputError(f"layer {name!r} comes before the detector has resized the images; FE needs a later one")
        return _on_every_map(partial(self.fe, mask=self.mask), features, name)

    def _end(self, model: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
        was_in_call, self.is_in_call = self.is_in_call, False
        if was_in_call and isinstance(self.fe, SideTask) and isinstance(made, Mapping):
            return {**made, **self.fe.losses()}
        return None


def _boxes_of(targets: Any) -> list[Tensor]:
    try:
        return [target["boxes"] for target in targets]
    except (KeyError, TypeError, IndexError):
        raise InputError(
            "FE needs the ground truth in training: call the detector as model(images, targets), targets a list of "
            '{"boxes": Tensor[K, 4] in xyxy px, ...}'
        ) from None


def _one_batch(images: Any) -> Tensor:
    """Images of one size as Tensor[N, C, H, W]."""
    if isinstance(images, Tensor) and images.ndim == 4:
        return images
    shapes = {tuple(image.shape) for image in images} if isinstance(images, list | tuple) else set()
    if len(shapes) != 1:
        raise InputError(
            "FE needs images of one size, as a Tensor[N, C, H, W] or a list of Tensor[C, H, W], where the detector "
            f"does not resize them by torchvision's transform; shapes: {sorted(shapes) or type(images).__name__}"
        )
    return torch.stack(list(images))


def _before_normalisation(images: Tensor, transform: GeneralizedRCNNTransform) -> Tensor:
    """Images [N, 3, H, W] in [0, 1] again, as FE's mask compares grey values with their mean."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
    return images * std + mean


def _on_every_map(change: Callable[[Tensor], Tensor], features: Any, name: str) -> Any:
    """A layer's feature maps, each changed; dicts, lists and tuples keep their type."""
    kind: Any = type(features)
    if isinstance(features, Tensor) and features.ndim == 4:
        return change(features)
    if isinstance(features, Mapping):
        return kind((key, _on_every_map(change, value, name)) for key, value in features.items())
    if isinstance(features, list | tuple):
        changed = [_on_every_map(change, value, name) for value in features]
        return kind(*changed) if hasattr(features, "_fields") else kind(changed)
    what = f"a tensor of shape {list(features.shape)}" if isinstance(features, Tensor) else kind.__name__
    raise InputError(f"layer {name!r} gives {what}; FE needs feature maps [N, C, h, w], or a dict or list of them")
