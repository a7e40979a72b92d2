"""The three trunks, split where SSD takes its feature maps: a stem up to the first map, then a block per further map.

`width` multiplies the channels of every layer, rounded to multiples of 8; map sizes do not depend on it. Weights
pretrained on ImageNet fill a trunk of full width (`load_trunk`).
"""

import json
import pickle
from collections import OrderedDict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, ResNet34_Weights, VGG16_Weights, mobilenetv2, vgg
from torchvision.models.resnet import BasicBlock
from torchvision.ops.misc import Conv2dNormActivation

from cmbfe.errors import InputError

IMAGENET = {
    "vgg16": VGG16_Weights.IMAGENET1K_FEATURES,
    "resnet34": ResNet34_Weights.IMAGENET1K_V1,
    "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V1,
}
CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
"""SSD's pretrained VGG-16 takes images in 0..255 minus their mean. For images in [0, 1] this is a std of 1/255."""
COMPRESSED = {trunk: Path(__file__).with_name(f"{trunk}-compressed.safetensors") for trunk in IMAGENET}
"""Weight files of narrow trunks from VGG-16 on ImageNet: a compressed VGG-16 (`cmbfe.detector.compress`), and the other
trunks distilled from VGG-16 (`cmbfe.detector.distil`). Origin and licence are in compressed.md."""
COMPRESSED_WIDTH = {"vgg16": 0.25, "resnet34": 0.25, "mobilenet_v2": 1.0}
MADE = "made"
"""The only metadata key of a compressed file. Its value is JSON, since safetensors writes several keys in any order."""
STEM_LAYERS = {"vgg16": 23, "mobilenet_v2": 14}
"""Number of torchvision's `features` in the stem; the rest are the start of the first block."""
COUNTER = "num_batches_tracked"
"""The batch counter of batch normalisation. It is not needed, and older ResNet files on the web lack it."""


class Trunk(NamedTuple):
    """A feature extractor; `channels` holds the channels of the first map and of each block's map."""

    stem: nn.Sequential
    blocks: list[nn.Sequential]
    channels: list[int]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def vgg16(input_size: int, width: float = 1.0) -> Trunk:
    """VGG-16 up to conv4_3, then conv7 and the extra layers of SSD-300 or SSD-512 (Liu et al. 2016, figure 2).

    fc6 and fc7 are convolutions, fc6 with dilation 6. At 300 px the last two extra layers are unpadded (5, 3, 1 cells).
    At 512 px all extra layers have stride 2, except the last: a 4x4 convolution with padding 1, from 2 cells to 1.
    """
    plan = [c if c == "M" else scaled(c, width) for c in vgg.cfgs["D"]]
    layers = vgg.make_layers(plan)
    layers[16].ceil_mode = True  # 75 -> 38 px, as in Caffe
    c128, c256, c512, c1024 = (scaled(c, width) for c in (128, 256, 512, 1024))
    fully_connected = nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(c512, c1024, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(c1024, c1024, 1),
        nn.ReLU(inplace=True),
    )
    halving: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}
    extras = [_extra(c1024, c256, c512, **halving), _extra(c512, c128, c256, **halving)]
    if input_size == 300:
        extras += [_extra(c256, c128, c256, kernel_size=3) for _ in range(2)]
    else:
        extras += [_extra(c256, c128, c256, **halving) for _ in range(2)]
        extras += [_extra(c256, c128, c256, kernel_size=4, padding=1)]
    blocks = [nn.Sequential(*layers[23:30], fully_connected), *extras]
    return Trunk(layers[:23], blocks, [c512, c1024, c512] + [c256] * (len(extras) - 1))


def _extra(inputs: int, middle: int, outputs: int, **convolution: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, **convolution),
        nn.ReLU(inplace=True),
    )


def resnet34(width: float = 1.0) -> Trunk:
    """ResNet-34 up to layer3 at stride 8, as in NVIDIA's SSD300 (MLPerf), where layer3 keeps 38x38 cells.

    The layers have torchvision's names, so that its weights fit. Torchvision itself offers only one width.
    """
    c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
    stem = OrderedDict(
        conv1=nn.Conv2d(3, c64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(c64),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        layer1=_residual_layer(c64, c64, blocks=3),
        layer2=_residual_layer(c64, c128, blocks=4, stride=2),
        layer3=_residual_layer(c128, c256, blocks=6),
    )
    channels = [c256, c512, c512, c256, c256, c256]
    middles = [c256, c256, c128, c128, c128]
    blocks = [
        nn.Sequential(
            Conv2dNormActivation(inputs, middle, kernel_size=1),
            Conv2dNormActivation(middle, outputs, stride=2 if k < 3 else 1, padding=1 if k < 3 else 0),
        )
        for k, ((inputs, outputs), middle) in enumerate(zip(pairwise(channels), middles, strict=True))
    ]
    return Trunk(nn.Sequential(stem), blocks, channels)


def _residual_layer(inputs: int, outputs: int, blocks: int, stride: int = 1) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def mobilenet_v2(width: float = 1.0) -> Trunk:
    """MobileNet-V2 with the 96-channel layer at stride 16, the last layer at stride 32 and four inverted residuals.

    Torchvision's `width_mult` narrows the trunk, but leaves the last layer at 1280 channels.
    """
    layers = mobilenetv2.MobileNetV2(width_mult=width).features
    channels = [layers[13].out_channels, layers[18].out_channels, *(scaled(c, width) for c in (512, 256, 256, 64))]
    extras = [
        nn.Sequential(mobilenetv2.InvertedResidual(inputs, outputs, 2, expand_ratio=ratio))
        for (inputs, outputs), ratio in zip(pairwise(channels[1:]), (0.2, 0.25, 0.5, 0.25), strict=True)
    ]
    # Unpacked so that the layer numbers of every block start at 0; a slice of a Sequential keeps the old numbers.
    return Trunk(layers[:14], [nn.Sequential(*layers[14:]), *extras], channels)


def load_trunk(model: nn.Module, trunk: str, weights: str | Path) -> str:
    """Load pretrained weights into a detector's trunk; extra layers, heads and VGG's conv6 and conv7 stay fresh.

    Args:
        model: a detector with a `Trunk` as `stem` and `blocks`.
        trunk: "vgg16" (of the Caffe kind, see `CAFFE_MEAN`), "resnet34" or "mobilenet_v2" (of torchvision's kind).
        weights: "imagenet" (torchvision downloads them), "compressed" (`COMPRESSED`) or a .safetensors or .pth file
            with torchvision's names.

    Returns:
        The source of the weights, as text.

    Raises:
        InputError: a file that cannot be read, lacks a layer or has a layer of another shape.
    """
    if file := weights_file(trunk, weights):
        source, state = str(file), read_state(file)
    else:
        source, state = f"torchvision's {IMAGENET[trunk]}", IMAGENET[trunk].get_state_dict(check_hash=True)
    state = {ours: tensor for name, tensor in state.items() if (ours := _trunk_name(name, trunk))}
    check_state(state, _trunk_layers(model, trunk), source)
    model.load_state_dict(state, strict=False)
    return source


def weights_file(trunk: str, weights: str | Path | None) -> Path | None:
    """The file with the initial weights of a trunk; None if the weights are fresh or downloaded."""
    if weights in (None, "imagenet"):
        return None
    return COMPRESSED[trunk] if weights == "compressed" else Path(weights)


def input_std(weights: str | Path) -> tuple[float, ...]:
    """The std by which images are divided for VGG-16: from the metadata of the weight file, otherwise `CAFFE_STD`."""
    file = weights_file("vgg16", weights)
    if file is None or file.suffix != ".safetensors":
        return CAFFE_STD
    with (
        suppress(OSError, SafetensorError),
        safe_open(file, "pt") as content,
    ):  # `load_trunk` raises for an unreadable file
        return (json.loads((content.metadata() or {}).get(MADE, "{}")).get("std", CAFFE_STD[0]),) * 3
    return CAFFE_STD


def freeze(stem: nn.Sequential, blocks: int) -> None:
    """Freeze the first `blocks` blocks of VGG-16, each up to its pooling: no gradient is computed for their weights."""
    ends = [index for index, layer in enumerate(stem, 1) if isinstance(layer, nn.MaxPool2d)]
    stem[: [0, *ends][blocks]].requires_grad_(False)


def _trunk_name(name: str, trunk: str) -> str | None:
    """Our name of a layer of torchvision's classifier; None if SSD does not use the layer or files may lack it."""
    if name.endswith(COUNTER):
        return None
    if trunk == "resnet34":
        return None if name.startswith(("layer4.", "fc.")) else f"stem.{name}"
    kind, _, layer = name.partition(".")
    if kind != "features":
        return None
    index, _, rest = layer.partition(".")
    if not index.isdigit():
        return None
    beyond = int(index) - STEM_LAYERS[trunk]
    return f"stem.{index}.{rest}" if beyond < 0 else f"blocks.0.{beyond}.{rest}"


def _trunk_layers(model: nn.Module, trunk: str) -> dict[str, Tensor]:
    """The part of our state dict that a pretrained trunk has to fill."""
    first_block = () if trunk == "resnet34" else ("blocks.0.",)
    fresh = "blocks.0.7." if trunk == "vgg16" else "\0"
    state = model.state_dict()
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("stem.", *first_block)) and not name.startswith(fresh) and not name.endswith(COUNTER)
    }


def trunk_state(model: nn.Module, trunk: str) -> dict[str, Tensor]:
    """The weights of a detector's trunk under torchvision's names, as `load_trunk` reads them."""

    def theirs(name: str) -> str:
        if trunk == "resnet34":
            return name.removeprefix("stem.")
        first = 0 if name.startswith("stem.") else STEM_LAYERS[trunk]
        index, _, rest = name.removeprefix("stem.").removeprefix("blocks.0.").partition(".")
        return f"features.{first + int(index)}.{rest}"

    return {theirs(name): tensor for name, tensor in _trunk_layers(model, trunk).items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a .safetensors or .pth file to the CPU; only tensors are unpickled.

    Raises:
        InputError: no such file, or a file without a state dict.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; correct the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: cannot be read as weights: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict (names of layers with their tensors)")
    return state


def check_state(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raise `InputError` naming `source` and the first layer that is missing, surplus or of another shape."""
    for name, tensor in wanted.items():
        if name not in state:
            raise InputError(f"{source}: layer {name} is missing")
        shape, expected = list(state[name].shape), list(tensor.shape)
        if shape != expected:
            raise InputError(f"{source}: layer {name} has shape {shape}, expected {expected}")
    if surplus := sorted(set(state) - set(wanted)):
        raise InputError(f"{source}: layer {surplus[0]} does not belong to the model")
