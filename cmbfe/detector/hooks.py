"""Attach feature enhancement (FE, paper section 2.3) behind named layers of any detector; see docs/detectors.md."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from threading import get_ident
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

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
        """The mask Tensor[N, 1, H, W] of images Tensor[N, C, H, W] in [0, 1] and boxes (N tensors [K, 4], xyxy px)."""

    def __call__(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features Tensor[N, C, h, w] changed by the mask; the shape stays."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The layer's weights, which are used in training only."""


@runtime_checkable
class SideTask(Protocol):
    """A guided layer whose own losses are added to the detector's losses."""

    def losses(self) -> dict[str, Tensor]:
        """Losses of the latest batch, name -> scalar."""


def enhance_during_training(
    model: nn.Module, layer: str | Sequence[str], fe: GuidedLayer | None = None, schedule: str = "constant"
) -> "Enhancement":
    """Attach FE behind one or several layers of a detector, in training mode only.

    The detector is called like torchvision's: `model(images, targets)`. images: a list of Tensor[C, H, W] in [0, 1]
    or one Tensor[N, C, H, W]; targets: a list of {"boxes": Tensor[K, 4], xyxy px, ...}. If torchvision's
    `GeneralizedRCNNTransform` resizes, normalises and pads the images, the mask is made from its output. Without that
    transform, all images must have the same size, and the features must span the whole image.

    Parameters, state dict and evaluation stay those of the bare detector. A deep copy has its own FE, and each replica
    of `torch.nn.DataParallel` has the mask of its own images. A state dict does not contain hooks: call this function
    again after rebuilding a detector, and remove FE before TorchScript.

    Args:
        layer: name as in `model.named_modules()`, such as "backbone" or "backbone.body.layer2". Its output is a Tensor
            [N, C, h, w], or a dict, list or tuple of tensors, which are all enhanced. Layers must not be nested.
        fe: the attached layer; default: the paper's `FeatureEnhancement()`. Its weights (`Enhancement.parameters`) stay
            separate from the detector's. Its losses (`SideTask`) join the detector's training losses.
        schedule: how `Enhancement.set_progress` changes the strength: "constant" (not at all) or "cosine" (down to 0).

    Raises:
        InputError: an unknown layer or schedule; a layer inside a `DataParallel`; a detector with its own FE;
            a layer that has FE already, or that is inside or around a layer with FE. Training raises it for
            missing targets; for images of several sizes without a torchvision transform; and for a layer that is not
            called, or whose output is not feature maps of whole images.
    """
    names = [layer] if isinstance(layer, str) else layer
    if not names:
        raise InputError("no layer is named; FE needs one at least")
    modules = dict(model.named_modules(remove_duplicate=False))  # a module may have several names
    for name in names:
        if name not in modules or not name:
            near = ", ".join(name for name in modules if name and "." not in name)
            raise InputError(f"no layer {name!r} in {type(model).__name__}; its outermost layers: {near}")
    _refuse_replicas(names, modules)
    _refuse_twice(names, modules)
    return Enhancement(model, {name: modules[name] for name in names}, fe or FeatureEnhancement(), schedule)


def _refuse_replicas(names: Sequence[str], modules: Mapping[str, nn.Module]) -> None:
    """Raise `InputError` for a layer inside a DataParallel, which calls the layer in threads on parts of the batch."""
    for name in names:
        parts = name.split(".")
        above = (".".join(parts[:depth]) for depth in range(len(parts)))
        if any(isinstance(modules[outer], nn.DataParallel) for outer in above):
            raise InputError(
                f"layer {name!r} is inside a DataParallel; put FE behind it before wrapping the detector"
            )


def _refuse_twice(names: Sequence[str], modules: Mapping[str, nn.Module]) -> None:
    """Raise `InputError` if FE would enhance a layer's features twice, to X (1 + M)^2."""
    if any(isinstance(module, FeatureEnhancement) for module in modules.values()):
        raise InputError(f"{type(modules['']).__name__} has FE of its own; take the detector without it")
    taken = {name: module for name, module in modules.items() if _has_fe(module)}
    for name in names:
        inside = set(modules[name].modules())
        for other, module in taken.items():
            if module in inside or modules[name] in set(module.modules()):
                where = f"layer {name!r}" if module is modules[name] else f"layer {name!r}, around or in {other!r},"
                raise InputError(f"{where} has FE already; remove() that first, or name another layer")
        taken[name] = modules[name]


def _has_fe(layer: nn.Module) -> bool:
    """Whether an `Enhancement` is attached to this layer itself."""
    hooks = (getattr(hook, "func", None) for hook in layer._forward_hooks.values())
    return any(isinstance(getattr(function, "__self__", None), Enhancement) for function in hooks)


@torch.compiler.disable
def _thread() -> int:
    """Number of the current thread; this function is not compiled, because a compiled graph cannot query the number."""
    return get_ident()


class Enhancement(AbstractContextManager["Enhancement"]):
    """FE attached to layers of a detector by `enhance_during_training`; call `remove`, or use a `with` block.

    A class, unlike a closure, lets the state of the hooks be copied and pickled with the detector.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], fe: GuidedLayer, schedule: str) -> None:
        strength(schedule, 0, 1)  # raises for an unknown schedule
        transforms = [module for module in model.modules() if isinstance(module, GeneralizedRCNNTransform)]
        self.fe, self.schedule, self.names = fe, schedule, tuple(layers)
        self.is_resized_inside = bool(transforms)
        self._forget()
        self.handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            *(transform.register_forward_hook(self._after_transform) for transform in transforms),
            *(layer.register_forward_hook(partial(self._after_layer, name)) for name, layer in layers.items()),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def remove(self) -> None:
        """Remove FE from the detector."""
        for handle in self.handles:
            handle.remove()
        self._forget()

    def _forget(self) -> None:
        """Clear the state of all calls."""
        self.calls: dict[int, Tensor | None] = {}
        """Thread -> mask of its current call, None until the mask is made. Replicas of DataParallel run in threads."""
        self.used: set[tuple[int, str]] = set()
        """(thread, layer name) of each layer that the current calls have passed."""
        self.masks: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()
        """Mask of each layer's last call, for the backward pass, which runs in other threads."""

    def set_progress(self, iteration: int, iterations: int) -> None:
        """Set the strength of a fading layer for an iteration; the first iteration is 0."""
        if self.schedule != "constant":
            fading: Any = self.fe  # only a fading layer must have a strength
            fading.strength = strength(self.schedule, iteration, iterations)

    def parameters(self) -> list[nn.Parameter]:
        """Weights of the attached layer; an empty list for FE, which has no weights."""
        return list(self.fe.parameters())

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        """The state in a copy or a pickle of the detector, without the masks of the last batch."""
        return {name: value for name, value in self.__dict__.items() if name not in ("calls", "used", "masks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _close(self) -> None:
        """End this thread's call."""
        self.calls.pop(_thread(), None)
        self.used -= {(_thread(), name) for name in self.names}

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._close()  # a call that Ctrl-C interrupted is still open
        if model.training:
            self.calls[_thread()] = None
            if getattr(model, "_is_replica", False) and self.parameters():
                raise InputError(f"{type(self.fe).__name__} has weights, which replicas do not share: use one GPU")
            given = dict(zip(("images", "targets"), args, strict=False)) | kwargs
            boxes = _boxes_of(given.get("targets"))
            if not self.is_resized_inside:
                self.calls[_thread()] = self.fe.mask(_one_batch(given.get("images")), boxes)

    def _after_transform(
        self, transform: GeneralizedRCNNTransform, args: tuple[Any, ...], made: tuple[ImageList, Any]
    ) -> None:
        if _thread() in self.calls:
            images, targets = made
            boxes = [
                _with_extent(clip_boxes_to_image(of_image, size))  # padding is not part of the image
                for of_image, size in zip(_boxes_of(targets), images.image_sizes, strict=True)
            ]
            self.calls[_thread()] = self.fe.mask(_before_normalisation(images.tensors, transform), boxes)

    def _after_layer(self, name: str, layer: nn.Module, args: tuple[Any, ...], features: Any) -> Any:
        mask = self._mask_for(name, layer)
        return None if mask is None else _on_every_map(partial(self.fe, mask=mask), features, name, len(mask))

    def _mask_for(self, name: str, layer: nn.Module) -> Tensor | None:
        """The mask of the images in a layer's current call; None outside a call of the detector."""
        if _thread() in self.calls:
            mask = self.calls[_thread()]
            if mask is None:
                raise InputError(
                    f"layer {name!r} comes before the detector has resized the images; FE needs a later one"
                )
            self.masks[layer] = mask
            self.used.add((_thread(), name))
            return mask
        # Activation checkpointing calls a layer again in the backward pass, after the detector's call has ended.
        is_in_backward = torch._C._current_graph_task_id() != -1  # the test of torch.utils.checkpoint
        return self.masks.get(layer) if is_in_backward else None

    def _end(self, model: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
        was_under_way = _thread() in self.calls
        unused = [name for name in self.names if (_thread(), name) not in self.used]
        self._close()
        if was_under_way and made is not None and unused:
            raise InputError(f"layer {unused[0]!r} is not called in training, so FE does nothing; name another layer")
        if was_under_way and made is not None and isinstance(self.fe, SideTask):
            losses = self.fe.losses()
            if not isinstance(made, Mapping) or made.keys() & losses.keys():
                names = ", ".join(losses)
                raise InputError(f"the detector has to return a dict of losses, none of them named {names}")
            return {**made, **losses}
        return None


def _with_extent(boxes: Tensor) -> Tensor:
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def _boxes_of(targets: Any) -> list[Tensor]:
    try:
        len(targets)  # an iterator would be empty for the detector
        return [target["boxes"] for target in targets]
    except (KeyError, TypeError, IndexError):
        raise InputError(
            "FE needs the ground truth in training: call the detector as model(images, targets), targets a list of "
            '{"boxes": Tensor[K, 4] in xyxy px, ...}'
        ) from None


def _one_batch(images: Any) -> Tensor:
    """Stack images of one size to Tensor[N, C, H, W]."""
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
    """Undo the normalisation of images [N, 3, H, W], since FE's mask needs grey values in [0, 1]."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
    return (images * std + mean).clamp(min=0)  # rounding can make black negative


def _on_every_map(change: Callable[[Tensor], Tensor], features: Any, name: str, count: int) -> Any:
    """Apply `change` to each of a layer's feature maps of `count` images; dicts, lists and tuples keep their type."""
    kind: Any = type(features)
    if isinstance(features, Tensor) and features.ndim == 4 and len(features) == count:
        return change(features)
    if isinstance(features, Mapping):
        return kind((key, _on_every_map(change, value, name, count)) for key, value in features.items())
    if isinstance(features, list | tuple):
        changed = [_on_every_map(change, value, name, count) for value in features]
        return kind(*changed) if hasattr(features, "_fields") else kind(changed)
    what = f"a tensor of shape {list(features.shape)}" if isinstance(features, Tensor) else kind.__name__
    raise InputError(
        f"layer {name!r} gives {what}; FE needs feature maps [{count}, C, h, w], or a dict or list of them"
    )
