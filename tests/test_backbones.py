"""The three trunks: published channels and maps at full width, the same maps and torchvision's layers at any."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from cmbfe.detector.backbones import Trunk, mobilenet_v2, resnet34, scaled, vgg16

PUBLISHED = {
    "ssd512": (partial(vgg16, 512), 512, [512, 1024, 512, 256, 256, 256, 256], [64, 32, 16, 8, 4, 2, 1]),
    "ssd300": (partial(vgg16, 300), 300, [512, 1024, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]),
    "resnet34-300": (resnet34, 300, [256, 512, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]),
    "mobilenet320": (mobilenet_v2, 320, [96, 1280, 512, 256, 256, 64], [20, 10, 5, 3, 2, 1]),
}
trunks = pytest.mark.parametrize(("make", "input_size", "channels", "cells"), PUBLISHED.values(), ids=PUBLISHED)
Make = Callable[..., Trunk]


def map_shapes(trunk: Trunk, input_size: int) -> list[tuple[int, ...]]:
    """Channels, rows and columns of each map, from a forward pass without values."""
    features = trunk.stem.to("meta").eval()(torch.empty(1, 3, input_size, input_size, device="meta"))
    maps = [features]
    for block in trunk.blocks:
        features = block.to("meta").eval()(features)
        maps.append(features)
    return [tuple(x.shape[1:]) for x in maps]


@trunks
def test_full_width_has_the_published_channels_and_maps(make: Make, input_size, channels, cells):
    trunk = make()
    assert trunk.channels == channels
    assert map_shapes(trunk, input_size) == [(c, n, n) for c, n in zip(channels, cells, strict=True)]


@trunks
@pytest.mark.parametrize("width", [0.1, 0.25, 0.6])
def test_narrow_trunks_have_the_same_maps_and_channels_in_multiples_of_8(
    make: Make, input_size, channels, cells, width
):
    trunk = make(width=width)
    assert all(c % 8 == 0 for c in trunk.channels)
    assert all(narrow <= full for narrow, full in zip(trunk.channels, channels, strict=True))
    assert map_shapes(trunk, input_size) == [(c, n, n) for c, n in zip(trunk.channels, cells, strict=True)]


def test_channels_round_to_multiples_of_8():
    assert [scaled(512, 1.0), scaled(64, 0.3), scaled(64, 0.01), scaled(100, 1)] == [512, 16, 8, 96]


def test_the_last_layer_of_ssd512_is_4x4_with_padding_1():
    last = [layer for layer in vgg16(512, width=0.1).blocks[-1] if isinstance(layer, nn.Conv2d)][-1]
    assert (last.kernel_size, last.padding, last.stride) == ((4, 4), (1, 1), (1, 1))


def test_resnet34s_middle_channels_and_strides_are_nvidias():
    convolutions = [[x for x in block.modules() if isinstance(x, nn.Conv2d)] for block in resnet34().blocks]
    assert [first.out_channels for first, _ in convolutions] == [256, 256, 128, 128, 128]
    assert [second.stride[0] for _, second in convolutions] == [2, 2, 2, 1, 1]
    assert [second.padding[0] for _, second in convolutions] == [1, 1, 1, 0, 0]


@torch.no_grad()
def test_resnet34s_stem_is_torchvisions_with_layer3_at_stride_1():
    torch.manual_seed(0)
    theirs, stem = models.resnet34().eval(), resnet34().stem.eval()
    missing, surplus = stem.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[0] for name in surplus} == {"layer4", "fc"}
    theirs.layer3[0].conv1.stride = theirs.layer3[0].downsample[0].stride = (1, 1)
    image = torch.rand(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    torch.testing.assert_close(stem(image), theirs.layer3(theirs.layer2(theirs.layer1(x))))
