"""Save and load detectors as folders, and import torchvision's SSD-300."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import safe_open, save
from torch import Tensor, nn

from cmbfe.detector import torchvision_detectors
from cmbfe.detector.backbones import CAFFE_MEAN, CAFFE_STD, check_state, read_state
from cmbfe.detector.ssd import SSD, Config
from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_file, write_json

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
TORCHVISION_NAMES = {
    "backbone.features.": "stem.",
    "backbone.scale_weight": "l2norm.scale",
    "backbone.extra.": "blocks.",
    "head.classification_head.module_list.": "classification.",
    "head.regression_head.module_list.": "regression.",
}
"""Prefixes of layer names, torchvision's ssd300_vgg16 -> ours. Layers, default boxes and outputs keep their order."""


def from_torchvision(state_dict: dict[str, Tensor]) -> SSD:
    """Our SSD-300 with the weights of torchvision's `ssd300_vgg16`, such as its COCO checkpoint; default boxes "coco".

    The number of classes is that of the state dict (91 for COCO; 0 is background). `InputError` for another model.
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
    check_state(state, model.state_dict(), "torchvision's ssd300_vgg16")
    model.load_state_dict(state)
    return model


def save_model(model: nn.Module, folder: Path | str) -> None:
    """Write model.safetensors and config.json of a detector, ours or torchvision's; each file is written atomically."""
    folder = Path(folder)
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the detector
    made_from: Any = model.config
    config = asdict(made_from)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole_file(folder / WEIGHTS_FILE) as path:
        # Both files contain the configuration, so that a mismatched pair is noticed.
        # save_file is not used, since it makes files readable only by their owner, regardless of the umask.
        path.write_bytes(save(state, metadata={"config": json.dumps(config, sort_keys=True)}))
    write_json(folder / CONFIG_FILE, config)


def load_model(folder: Path | str) -> SSD:
    """Load an SSD that `save_model` wrote, on the CPU in evaluation mode; `InputError` names a faulty file."""
    model = load_detector(folder)
    if not isinstance(model, SSD):
        raise InputError(f"{Path(folder) / CONFIG_FILE}: is of one of torchvision's detectors; expected one of ours")
    return model


def load_detector(folder: Path | str) -> nn.Module:
    """Load any detector that `save_model` wrote, ours or torchvision's, in the same way as `load_model`."""
    config_path, weights_path = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    content = read_json(config_path)
    model = _built(content, config_path)
    state = read_state(weights_path)
    with safe_open(weights_path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("config") != json.dumps(content, sort_keys=True):
        raise InputError(f"{weights_path}: was not saved together with {config_path.name}; restore the pair")
    check_state(state, model.state_dict(), str(weights_path))
    model.load_state_dict(state)
    return model.eval()


def _built(content: Any, path: Path) -> nn.Module:
    """Build the detector that a config.json describes, with fresh weights."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}")
    try:
        if "detector" in content:
            return torchvision_detectors.build(**content)
        settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
        return SSD(Config(**settings))
    except (TypeError, ValueError, RuntimeError) as error:  # such as sizes that no tensor can have
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
