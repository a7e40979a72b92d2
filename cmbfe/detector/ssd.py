"""The eight detectors: four SSDs (Liu et al. 2016) on three trunks, each with and without feature enhancement (FE)."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.ops.misc import Conv2dNormActivation

from cmbfe.detector.alternatives import LAYERS, AssistedExcitation
from cmbfe.detector.backbones import (
    CAFFE_MEAN,
    COMPRESSED_WIDTH,
    Trunk,
    input_std,
    load_trunk,
    mobilenet_v2,
    resnet34,
    vgg16,
)
from cmbfe.detector.boxes import GRIDS, SIZES, corners, decode, default_boxes
from cmbfe.detector.fe import RESIZES, WEIGHTINGS, FeatureEnhancement
from cmbfe.detector.loss import ssd_loss, usable_targets
from cmbfe.errors import InputError

log = logging.getLogger(__name__)


class Variant(NamedTuple):
    """Trunk, input size and FE of a detector, as given by its name."""

    trunk: str
    input_size: int  # side of the square that every image is resized to, px
    fe: bool


TRUNKS = {
    "ssd512": ("vgg16", 512),
    "ssd300": ("vgg16", 300),
    "mobilenet320": ("mobilenet_v2", 320),
    "resnet34-300": ("resnet34", 300),
}
SPECS = {name + suffix: Variant(*trunk, fe=bool(suffix)) for name, trunk in TRUNKS.items() for suffix in ("", "-fe")}
VARIANTS = tuple(SPECS)
PLACEMENTS = ("trunk", "source", "both")
MAKE: dict[str, Callable[[int, float], Trunk]] = {
    "vgg16": vgg16,
    "resnet34": lambda input_size, width: resnet34(width),
    "mobilenet_v2": lambda input_size, width: mobilenet_v2(width),
}
CANDIDATES_PER_CLASS = 400
"""Largest number of boxes of each class that enter non-maximum suppression, best first; torchvision's value."""


@dataclass(frozen=True)
class Config:
    """The complete definition of a detector, except its weights.

    Raises:
        InputError: an unknown name, or a number out of bounds.
    """

    variant: str
    num_classes: int = 2  # background and microbleed; other numbers only for imported weights
    default_boxes: str = "voc"  # preset "voc", "coco" or "cmb" (A10)
    width: float = 1.0  # factor on all channels; map sizes stay
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Images in [0, 1] enter the trunk as (image - mean) / std, per channel."""
    beta: float = 1.5
    """`beta`, `resize`, `placement` and `weighting` are FE's readings A6, A2, A4 and A5. Other variants ignore them."""
    resize: str = "bilinear"
    placement: str = "trunk"
    weighting: str = "equation"
    layer: str = "enhancement"  # or "assisted_excitation" instead of FE, without beta and weighting
    l2_norm: bool = True  # normalise VGG-16's first map before the head; no effect on other trunks
    minimum_negatives: int = 0  # negatives per image in the loss even without a match
    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    detections_per_image: int = 200

    @property
    def spec(self) -> Variant:
        """Trunk, input size and FE of the variant."""
        return SPECS[self.variant]

    def __post_init__(self) -> None:
        for key, known in (
            ("variant", VARIANTS),
            ("default_boxes", SIZES),
            ("resize", RESIZES),
            ("placement", PLACEMENTS),
            ("weighting", WEIGHTINGS),
            ("layer", LAYERS),
        ):
            if getattr(self, key) not in known:
                raise InputError(f"{key} {getattr(self, key)!r}: expected one of {', '.join(known)}")
        for key, is_valid, expected in (
            ("num_classes", lambda number: 0 <= number <= 1000, "0 to 1000"),
            ("width", lambda number: 0 < number <= 1, "a number above 0, at most 1"),
            ("beta", lambda number: 0 < number < float("inf"), "a number above 0"),
            ("mean", lambda numbers: len(numbers) == 3, "three numbers"),
            ("std", lambda numbers: len(numbers) == 3 and min(numbers) > 0, "three numbers above 0"),
            ("score_threshold", lambda number: 0 <= number < 1, "0 to 1"),
            ("nms_threshold", lambda number: 0 <= number <= 1, "0 to 1"),
            ("detections_per_image", lambda number: number >= 1 and number == int(number), "an integer, at least 1"),
            ("minimum_negatives", lambda number: number >= 0, "at least 0"),
        ):
            with suppress(TypeError):  # the value is not a number
                if is_valid(getattr(self, key)):
                    continue
            raise InputError(f"{key} {getattr(self, key)!r}: expected {expected}")


class L2Norm(nn.Module):
    """Scale each position of a map to unit length over its channels, then each channel by a learnt factor.

    Initial scale 20 (Liu et al. 2016, section 3.1, after ParseNet). Computed in float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, features: Tensor) -> Tensor:
        """Normalised features Tensor[N, C, h, w], with unchanged shape and dtype."""
        with torch.autocast(features.device.type, enabled=False):
            unit = F.normalize(features.float(), dim=1)
            return (self.scale.float().view(1, -1, 1, 1) * unit).to(features.dtype)


class SSD(nn.Module):
    """Single-shot detector that is called like torchvision's detectors.

    Training: `model(images, targets)` returns the losses "classification" and "box_regression". Evaluation:
    `model(images)` returns "boxes" (Tensor[D, 4], xyxy px of the image), "scores" and "labels" of each image, best
    detection first; targets are ignored. images: list of float Tensor[3, H, W] in [0, 1] of any size, or one
    Tensor[N, 3, H, W]. targets: per image a dict of "boxes" (Tensor[K, 4], xyxy px) and "labels" (int64 [K], 1 for
    a microbleed). Under autocast, losses, mask, normalisation and decoding stay in float32.
    """

    default_boxes: Tensor  # Tensor[P, 4]: cx, cy, w, h as fractions of the input
    mean: Tensor
    std: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        spec = config.spec
        self.config = config
        self.input_size = spec.input_size
        self.map_sizes = GRIDS[spec.input_size].maps
        trunk = MAKE[spec.trunk](spec.input_size, config.width)
        self.stem, self.blocks = trunk.stem, nn.ModuleList(trunk.blocks)
        self.l2norm = L2Norm(trunk.channels[0]) if spec.trunk == "vgg16" and config.l2_norm else nn.Identity()
        heads = list(zip(trunk.channels, GRIDS[spec.input_size].boxes_per_cell, self.map_sizes, strict=True))
        self.classification, self.regression = (
            nn.ModuleList(_head(spec.trunk, channels, boxes * values, cells) for channels, boxes, cells in heads)
            for values in (config.num_classes, 4)
        )
        self.fe = _training_layer(config) if spec.fe else None
        boxes = default_boxes(config.default_boxes, spec.input_size)
        self.register_buffer("default_boxes", boxes, persistent=False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self._initialise()

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode; `InputError` for unusable images or targets."""
        sizes = _checked_sizes(images)
        inputs = self.prepare(images)
        if not self.training:
            return self.detections(*self.predict(inputs), sizes)
        if len(sizes) * self._normalised_together() == 1 and self.config.spec.trunk != "vgg16":
            raise InputError("images: batch normalisation of the 1x1 map needs at least 2 images to train on; got 1")
        boxes, labels = usable_targets(targets, sizes, self.input_size, self.config.num_classes)
        mask = None if self.fe is None else self.fe.mask(self.resize(_grey(images)), boxes)
        logits, regression = self.predict(inputs, mask)
        default = corners(self.default_boxes, self.input_size)
        return ssd_loss(logits, regression, default, boxes, labels, self.config.minimum_negatives)

    def _normalised_together(self) -> int:
        """Number of processes over which batch norm averages: all if the model has `SyncBatchNorm`, otherwise 1."""
        shared = any(isinstance(module, nn.SyncBatchNorm) for module in self.modules())
        together = shared and torch.distributed.is_available() and torch.distributed.is_initialized()
        return torch.distributed.get_world_size() if together else 1

    def prepare(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """The trunk's input Tensor[N, 3, S, S]: images are normalised and then resized, in torchvision's order."""
        if isinstance(images, Tensor):
            return self.resize((images - self.mean) / self.std)
        return self.resize([(image - self.mean) / self.std for image in images])

    def resize(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Resize images bilinearly to the input size, Tensor[N, C, S, S]; images of that size stay unchanged."""
        size = (self.input_size, self.input_size)
        batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        return torch.cat([x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear") for x in batches])

    def predict(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits Tensor[N, P, classes] and box regressions Tensor[N, P, 4] of prepared images."""
        maps = self.feature_maps(inputs, mask)
        logits = per_box(self.classification, maps, self.config.num_classes)
        return logits, per_box(self.regression, maps, 4)

    def feature_maps(self, inputs: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The input maps of the heads, finest first; a mask enhances them at the `placement` (A4)."""
        fe = None if mask is None else self.fe
        features = self.stem(inputs)
        if fe is not None and self.config.placement in ("trunk", "both"):
            features = fe(features, mask)
        source = self.l2norm(features)
        if fe is not None and self.config.placement in ("source", "both"):
            source = fe(source, mask)
        maps = [source]
        for block in self.blocks:
            features = block(features)
            maps.append(features)
        return maps

    def detections(
        self, logits: Tensor, regression: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Detections per image after score threshold and non-maximum suppression, scaled to the `sizes` (H, W)."""
        with torch.autocast(logits.device.type, enabled=False):
            default = corners(self.default_boxes, self.input_size)
            boxes = clip_boxes_to_image(decode(regression.float(), default), (self.input_size,) * 2)
            scores = logits.float().softmax(dim=-1)[..., 1:].transpose(1, 2)
            return [self._best(*of_image) for of_image in zip(boxes, scores, sizes, strict=True)]

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Detections of an image of size (H, W); boxes [P, 4] px of the input, scores [classes but background, P]."""
        of_classes = []
        for label, of_class in enumerate(scores, start=1):
            likely = (of_class > self.config.score_threshold).nonzero().squeeze(1)
            best, order = of_class[likely].topk(min(CANDIDATES_PER_CLASS, len(likely)))
            of_classes.append((boxes[likely[order]], best, torch.full_like(order, label)))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*of_classes, strict=True))
        keep = batched_nms(boxes, scores, labels, self.config.nms_threshold)[: self.config.detections_per_image]
        height, width = size
        to_image = boxes.new_tensor([width, height, width, height]) / self.input_size
        return {"boxes": boxes[keep] * to_image, "scores": scores[keep], "labels": labels[keep]}

    def _initialise(self) -> None:
        """Initialise the trunk by Kaiming, so that it trains from scratch without batch norm, and the heads by Xavier.
        Separable heads start with a standard deviation of 0.03, as in torchvision's SSDLite. With Xavier, their large
        logits would make the initial loss of hard negatives three times higher."""
        for part in (self.stem, self.blocks, self.classification, self.regression):
            for convolution in (module for module in part.modules() if isinstance(module, nn.Conv2d)):
                if part in (self.stem, self.blocks):
                    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                elif self.config.spec.trunk == "mobilenet_v2":
                    nn.init.normal_(convolution.weight, std=0.03)
                else:
                    nn.init.xavier_uniform_(convolution.weight)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)


def build(variant: str, *, weights: str | Path | None = None, **settings: Any) -> SSD:
    """Build the detector `variant` (one of VARIANTS) with one class, microbleed.

    Args:
        weights: initial weights of the trunk: None (Kaiming), "imagenet" (downloaded by torchvision), "compressed" (in
            the package, for one width per trunk) or a .safetensors or .pth file with torchvision's names.
            VGG-16 needs weights of the Caffe kind, for images less `CAFFE_MEAN`; `settings` may give a mean and std.
        settings: fields of `Config`, such as default_boxes="cmb".

    Raises:
        InputError: a setting that `Config` refuses, or a file that does not fill the trunk.
    """
    config = Config(variant, **settings)
    if weights is None:
        return SSD(config)
    trunk = config.spec.trunk
    if weights == "compressed" and config.width != COMPRESSED_WIDTH[trunk]:
        given = f"{COMPRESSED_WIDTH[trunk]:g}, not {config.width:g}"
        raise InputError(f"weights compressed: those of {trunk} are of width {given}; give others")
    of_weights = {"mean": CAFFE_MEAN, "std": input_std(weights)} if trunk == "vgg16" else {}
    model = SSD(replace(config, **of_weights | settings))
    source = load_trunk(model, trunk, weights)
    fresh = "conv6, conv7, the extra layers and the heads" if trunk == "vgg16" else "the extra layers and the heads"
    log.warning("%s: trunk from %s; %s start afresh", variant, source, fresh)
    return model


def _training_layer(config: Config) -> FeatureEnhancement | AssistedExcitation:
    if config.layer == "assisted_excitation":
        return AssistedExcitation(config.resize)
    return FeatureEnhancement(config.beta, config.resize, config.weighting)


def _head(trunk: str, channels: int, outputs: int, cells: int) -> nn.Module:
    """A head. MobileNet has SSDLite's (Sandler et al. 2018, section 6.2), without its depthwise layer on 1x1 maps."""
    if trunk != "mobilenet_v2":
        return nn.Conv2d(channels, outputs, 3, padding=1)
    pointwise = nn.Conv2d(channels, outputs, 1)
    if cells == 1:
        return pointwise
    depthwise = Conv2dNormActivation(channels, channels, 3, groups=channels, activation_layer=nn.ReLU6)
    return nn.Sequential(depthwise, pointwise)


def per_box(heads: nn.ModuleList, maps: Sequence[Tensor], values: int) -> Tensor:
    """Outputs of the heads per default box, Tensor[N, P, values]. len() is not used: tracing makes it a constant."""
    outputs = [head(features).permute(0, 2, 3, 1).flatten(1) for head, features in zip(heads, maps, strict=True)]
    return torch.cat([output.unflatten(1, (-1, values)) for output in outputs], dim=1)


def _grey(images: Sequence[Tensor] | Tensor) -> Sequence[Tensor] | Tensor:
    """Mean over the channels (A1), as one channel. Resizing is linear, so averaging first is three times cheaper."""
    if isinstance(images, Tensor):
        return images.mean(dim=1, keepdim=True)
    return [image.mean(dim=0, keepdim=True) for image in images]


def _checked_sizes(images: Sequence[Tensor] | Tensor) -> list[tuple[int, int]]:
    """The (H, W) of each image; `InputError` names the first entry that is not a valid image."""
    if len(images) == 0:
        raise InputError("images: no image given")
    for index, image in enumerate(images):
        is_float = image.is_floating_point() and image.dtype != torch.float64
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape or not is_float:
            raise InputError(
                f"image {index}: expected a float tensor [3, H, W] in [0, 1], float32 or shorter, got {image.dtype} "
                f"{list(image.shape)}"
            )
    return [tuple(image.shape[1:]) for image in images]
