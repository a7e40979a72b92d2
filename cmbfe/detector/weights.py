"""Weights in and out: trunks pretrained on ImageNet, torchvision's SSD-300, and our own detectors as a folder."""

import json
import logging
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights, ResNet34_Weights, VGG16_Weights

from cmbfe.detector.ssd import SPECS, SSD, Config
from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_file, write_json

log = logging.getLogger(__name__)

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"

IMAGENET = {
    "vgg16": VGG16_Weights.IMAGENET1K_FEATURES,
    "resnet34": ResNet34_Weights.IMAGENET1K_V1,
    "mobilenet_v2": MobileNet_V2_Weights.IMAGENET1K_V1,
}
CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
"""The VGG-16 that SSD starts from takes images in 0..255 less their mean: in [0, 1] that is a std of 1/255."""

STEM_LAYERS = {"vgg16": 23, "mobilenet_v2": 14}
"""How many of torchvision's `features` are the stem; the rest open the first block."""

COUNTER = "num_batches_tracked"
"""A batch normalisation's count of batches, which teaches nothing; older ResNet files on the web lack it."""

TORCHVISION_NAMES = {
    "backbone.features.": "stem.",
    "backbone.scale_weight": "l2norm.scale",
    "backbone.extra.": "blocks.",
    "head.classification_head.module_list.": "classification.",
    "head.regression_head.module_list.": "regression.",
}
"""torchvision's ssd300_vgg16 against ours, by prefix: same layers, same order of default boxes and outputs."""


def with_trunk_weights(config: Config, weights: str | Path) -> SSD:
    """A detector whose trunk holds pretrained weights; extras, heads and, on VGG, conv6 and conv7 are fresh.

    weights: "imagenet" (torchvision downloads them) or a .safetensors or .pth file with torchvision's names. A VGG-16
    has to be of the Caffe kind (inputs 0..255 less the mean), ResNet-34 and MobileNet-V2 of torchvision's kind; the
    detector's normalisation is set accordingly. `InputError` names a file that lacks a layer or has another shape.
    """
    trunk = SPECS[config.variant].trunk
    if weights == "imagenet":
        source, state = f"torchvision's {IMAGENET[trunk]}", IMAGENET[trunk].get_state_dict(check_hash=True)
    else:
        source, state = str(weights), _read_state(Path(weights))
    if trunk == "vgg16":
        config = replace(config, mean=CAFFE_MEAN, std=CAFFE_STD)
    model = SSD(config)
    state = {ours: tensor for name, tensor in state.items() if (ours := _trunk_name(name, trunk))}
    wanted = _trunk_layers(model, trunk)
    _check_state(state, wanted, source)
    model.load_state_dict(state, strict=False)
    fresh = "conv6, conv7, the extra layers and the heads" if trunk == "vgg16" else "the extra layers and the heads"
    log.warning("%s: trunk from %s; %s start afresh", config.variant, source, fresh)
    return model


def from_torchvision(state_dict: dict[str, Tensor]) -> SSD:
    """Our SSD-300 with the weights of torchvision's `ssd300_vgg16`, such as its COCO checkpoint; default boxes "coco".

    Number of classes as in the state dict (91 for COCO; 0 is background). `InputError` if it is of another model.
    """
    state = {}
    for name, tensor in state_dict.items():
        prefix = next((p for p in TORCHVISION_NAMES if name.startswith(p)), None)
        if prefix is None:
            raise InputError(f"{name}: no layer of torchvision's ssd300_vgg16")
        state[TORCHVISION_NAMES[prefix] + name.removeprefix(prefix)] = tensor
    bias = state.get("classification.0.bias", torch.empty(0))
    config = Config("ssd300", num_classes=len(bias) // 4, default_boxes="coco", mean=CAFFE_MEAN, std=CAFFE_STD)
    model = SSD(config)
    _check_state(state, model.state_dict(), "torchvision's ssd300_vgg16")
    model.load_state_dict(state)
    return model


def save_model(model: SSD, folder: Path | str) -> None:
    """Write model.safetensors and config.json into `folder`, each whole or not at all; other files there stay."""
    folder = Path(folder)
    config = asdict(model.config)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole_file(folder / WEIGHTS_FILE) as path:
        # The configuration travels in both files, so that a mismatched pair is noticed.
        # Not save_file: what that writes nobody but its owner may read, whatever the umask.
        path.write_bytes(save(state, metadata={"config": json.dumps(config, sort_keys=True)}))
    write_json(folder / CONFIG_FILE, config)


def load_model(folder: Path | str) -> SSD:
    """The detector that `save_model` wrote, on the CPU, in evaluation mode; `InputError` names a file at fault."""
    config_path, weights_path = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    content = read_json(config_path)
    model = SSD(_config(content, config_path))
    state = _read_state(weights_path)
    with safe_open(weights_path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("config") != json.dumps(content, sort_keys=True):
        raise InputError(f"{weights_path}: was not saved together with {config_path.name}; restore the pair")
    _check_state(state, model.state_dict(), str(weights_path))
    model.load_state_dict(state)
    return model.eval()


def _config(content: Any, path: Path) -> Config:
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}")
    try:
        return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})
    except (TypeError, InputError) as error:
        raise InputError(f"{path}: {error}") from None


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: cannot be read as weights: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds no state dict (names of layers with their tensors)")
    return state


def _trunk_name(name: str, trunk: str) -> str | None:
    """Our name of a layer of torchvision's classifier; None for what SSD does not use or a file may lack."""
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


def _trunk_layers(model: SSD, trunk: str) -> dict[str, Tensor]:
    """The part of our state dict that a pretrained trunk has to fill."""
    first_block = () if trunk == "resnet34" else ("blocks.0.",)
    fresh = "blocks.0.7." if trunk == "vgg16" else "\0"
    state = model.state_dict()
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("stem.", *first_block)) and not name.startswith(fresh) and not name.endswith(COUNTER)
    }


def _check_state(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    for name, tensor in wanted.items():
        if name not in state:
            raise InputError(f"{source}: layer {name} is missing")
        if state[name].shape != tensor.shape:
            raise InputError(
                f"{source}: layer {name} has shape {list(state[name].shape)}, expected {list(tensor.shape)}"
            )
    surplus = sorted(set(state) - set(wanted))
    if surplus:
        raise InputError(f"{source}: layer {surplus[0]} does not belong to the model")
