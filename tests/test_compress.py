"""VGG-16 in fewer channels: what can be kept is kept, twice the same, and a detector starts from it."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tiny_world import labelled_images
from torch import nn

from cmbfe.detector.backbones import CAFFE_MEAN, CAFFE_STD, COMPRESSED, MADE, load_trunk
from cmbfe.detector.compress import INPUT_STD, compress
from cmbfe.detector.ssd import SSD, Config, build
from cmbfe.errors import InputError
from tools import compress_trunk

WIDE, NARROW, HELD_OUT = 0.25, 0.125, 2
CONV4_3 = "features.21"


def inputs(count: int = 8, side: int = 96) -> list[torch.Tensor]:
    """Smooth noise, as a trunk of Caffe's kind sees it: numbers up to some tens."""
    noise = torch.rand(count, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(noise, (side, side), mode="bilinear")
    return list(((smooth - torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1)) * 255).split(1))


def layers(model: SSD) -> list[nn.Module]:
    """conv1_1 to relu5_3."""
    return [*model.stem, *list(model.blocks[0])[:-1]]


def teacher(repeats: int) -> SSD:
    """Every channel is there so many times, each time with another scale: narrower by that, it would know the same."""
    torch.manual_seed(3)
    model = SSD(Config("ssd300", width=WIDE, mean=CAFFE_MEAN, std=CAFFE_STD))
    with torch.no_grad():
        for layer in (layer for layer in layers(model) if isinstance(layer, nn.Conv2d)):
            layer.bias.normal_()
            for weight in (layer.weight, layer.bias):
                first = weight[: layer.out_channels // repeats].clone()
                weight.copy_(torch.cat([first * (0.5 + number) for number in range(repeats)]))
    return model


def test_what_fewer_channels_can_hold_is_held():
    unexplained = compress(teacher(2), inputs(), NARROW, HELD_OUT)[1]
    assert max(list(unexplained.values())[: list(unexplained).index(CONV4_3) + 1]) < 0.03


@torch.no_grad()
def test_it_repeats_bit_for_bit_and_its_activations_are_of_order_1(tmp_path):
    (state, _), (again, _) = (compress(teacher(1), inputs(), NARROW, HELD_OUT) for _ in range(2))
    assert all(torch.equal(state[name], again[name]) for name in state)
    save_file(state, tmp_path / "trunk.safetensors")
    model = SSD(Config("ssd300", width=NARROW))
    load_trunk(model, "vgg16", tmp_path / "trunk.safetensors")
    features = torch.cat(inputs()[:-HELD_OUT]) * CAFFE_STD[0] / INPUT_STD
    for layer in layers(model):
        features = layer(features)
        if isinstance(layer, nn.ReLU):
            assert float(features.square().mean()) == pytest.approx(1, rel=0.1)


def test_a_file_from_the_command_line_starts_a_detector_and_says_what_it_is(tmp_path, monkeypatch, capsys):
    labelled_images(tmp_path / "images", count=4)
    wide, out = tmp_path / "wide.safetensors", tmp_path / "out.safetensors"
    state = nn.Sequential(*layers(SSD(Config("ssd300")))).state_dict()
    save_file({f"features.{name}": weight for name, weight in state.items()}, wide)
    options = {"--weights": wide, "--out": out, "--width": 0.125}
    command = ["compress_trunk", tmp_path / "images", *(word for pair in options.items() for word in pair)]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(InputError, match=r"images: 4 training slices"):
        compress_trunk.main()
    monkeypatch.setattr(compress_trunk, "SLICES", 4)
    monkeypatch.setattr(compress_trunk, "HELD_OUT", 1)
    compress_trunk.main()
    assert CONV4_3 in capsys.readouterr().out
    model = build("ssd300", width=0.125, weights=out)
    assert (model.config.mean, model.config.std) == (CAFFE_MEAN, (INPUT_STD,) * 3)
    assert torch.equal(model.stem[0].weight, load_file(out)["features.0.weight"].float())


def test_the_file_of_the_package_is_small_keeps_most_and_is_of_one_width():
    assert COMPRESSED.stat().st_size < 4e6
    assert COMPRESSED.with_suffix(".md").is_file()
    with safe_open(COMPRESSED, "pt") as file:
        made = json.loads(file.metadata()[MADE])
    assert made["unexplained"][CONV4_3] <= 0.12
    assert build("ssd512", width=0.25, weights="compressed").config.std == (INPUT_STD,) * 3
    for variant, width in (("ssd300", 0.125), ("mobilenet320", 0.25)):
        with pytest.raises(InputError, match=r"compressed: [^\n]*width 0\.25"):
            build(variant, width=width, weights="compressed")
