"""VGG-16 in fewer channels: what can be kept is kept, twice the same, and a detector starts from it."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tiny_world import labelled_images
from torch import nn

from cmbfe.detector import distil
from cmbfe.detector.backbones import (
    CAFFE_MEAN,
    CAFFE_STD,
    COMPRESSED,
    COMPRESSED_WIDTH,
    MADE,
    load_trunk,
    trunk_state,
)
from cmbfe.detector.compress import DISTILLED_FROM, INPUT_STD, compress
from cmbfe.detector.ssd import SSD, TRUNKS, Config, build
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
def test_activations_are_of_order_1(tmp_path):
    save_file(compress(teacher(1), inputs(), NARROW, HELD_OUT)[0], tmp_path / "trunk.safetensors")
    model = SSD(Config("ssd300", width=NARROW))
    load_trunk(model, "vgg16", tmp_path / "trunk.safetensors")
    features = torch.cat(inputs()[:-HELD_OUT]) * CAFFE_STD[0] / INPUT_STD
    for layer in layers(model):
        features = layer(features)
        if isinstance(layer, nn.ReLU):
            assert float(features.square().mean()) == pytest.approx(1, rel=0.1)


def test_distillation_teaches_the_maps_at_the_ends_of_blocks_and_repeats_bit_for_bit():
    (few, before), (many, after), (again, _) = (
        compress(teacher(1), inputs(), NARROW, HELD_OUT, steps=range(steps)) for steps in (1, 60, 60)
    )
    assert after[CONV4_3] < before[CONV4_3] / 2
    assert all(torch.equal(many[name], again[name]) for name in many)
    taught = {int(name.split(".")[1]) for name in few if not torch.equal(few[name], many[name])}
    assert min(taught) == DISTILLED_FROM


@pytest.mark.parametrize("trunk", COMPRESSED)
def test_a_file_from_the_command_line_starts_a_detector_and_says_what_it_is(trunk, tmp_path, monkeypatch, capsys):
    labelled_images(tmp_path / "images", count=4)
    wide, out = tmp_path / "wide.safetensors", tmp_path / "out.safetensors"
    state = nn.Sequential(*layers(SSD(Config("ssd300", width=WIDE)))).state_dict()
    save_file({f"features.{name}": weight for name, weight in state.items()}, wide)
    options = {"--out": out, "--width": 0.125} | ({"--weights": wide} if trunk == "vgg16" else {})
    command = ["compress_trunk", trunk, tmp_path / "images", *(word for pair in options.items() for word in pair)]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(InputError, match=r"images: 4 training slices"):
        compress_trunk.main()
    quick = {"SLICES": 4, "HELD_OUT": 1, "STEPS": dict.fromkeys(COMPRESSED, 2)}
    for name, value in {**quick, "build": lambda name, width=WIDE, **own: build(name, width=width, **own)}.items():
        monkeypatch.setattr(compress_trunk, name, value)
    compress_trunk.main()
    assert "unexplained" in capsys.readouterr().out
    variant = next(variant for variant, (of_variant, _) in TRUNKS.items() if of_variant == trunk)
    model = build(variant, width=0.125, weights=out)
    assert (model.config.std == (INPUT_STD,) * 3) == (trunk == "vgg16")
    for name, weight in load_file(out).items():
        assert torch.equal(trunk_state(model, trunk)[name], weight.float())


def test_a_taught_trunk_knows_more_of_its_teacher_than_before(monkeypatch):
    monkeypatch.setattr(distil, "BATCH", 2)
    images = [(image / 255 + 0.45).clamp(0, 1) for image in inputs(6, 64)]

    def left_after(steps: int) -> float:
        student = build("resnet34-300", width=0.125)
        student.input_size = 96  # px, where 300 take ten times as long
        return distil.distil(student, teacher(1), images, HELD_OUT, range(steps))["conv4_3"]

    assert left_after(40) < left_after(2) / 2


@pytest.mark.parametrize(
    ("trunk", "variant"), [("vgg16", "ssd512"), ("resnet34", "resnet34-300"), ("mobilenet_v2", "mobilenet320")]
)
def test_the_files_of_the_package_are_small_keep_most_and_are_of_one_width(trunk, variant):
    assert COMPRESSED[trunk].stat().st_size < 5e6
    with safe_open(COMPRESSED[trunk], "pt") as file:
        made = json.loads(file.metadata()[MADE])
    assert made["unexplained"]["features.21" if trunk == "vgg16" else "conv4_3"] <= {"vgg16": 0.1}.get(trunk, 0.5)
    width = COMPRESSED_WIDTH[trunk]
    assert (build(variant, width=width, weights="compressed").config.std == (INPUT_STD,) * 3) == (trunk == "vgg16")
    with pytest.raises(InputError, match=f"compressed: .*width {width:g}"):
        build(variant, width=0.125, weights="compressed")
