"""What FE does inside a detector, and Figures 1, 2 and 3, which show what they are given."""

import numpy as np
import pytest
import torch

from cmbfe.detector.explain import change_by_channel, change_by_map, enhancement_difference, enhancement_steps
from cmbfe.detector.ssd import build
from cmbfe.figures.diagrams import STEPS, enhancement_figure, strongest_box
from cmbfe.figures.style import head_square


def test_the_square_around_the_head_leaves_out_air_and_stays_in_the_image():
    head, corner = np.zeros((2, 100, 100), np.uint8)
    head[20:80, 30:70] = corner[95:, 95:] = 200
    assert head_square(head) == (17, 17, 66)  # 60 high, 3 around it, and the same width around the middle
    assert head_square(corner) == (89, 89, 11)
    assert [head_square(np.full((100, 100), value, np.uint8)) for value in (0, 200)] == [(0, 0, 100)] * 2


BOXES = torch.tensor([[100.0, 120.0, 130.0, 150.0]])


def model_and_image(variant: str, **settings) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = build(variant, width=0.125, **settings)
    image = torch.rand(3, model.input_size, model.input_size) * 0.2 + 0.7
    image[:, 128:142, 108:122] = 0.1
    return model, image


def test_the_steps_follow_the_papers_formulas_and_are_drawn_around_the_box_with_the_strongest_mask():
    model, image = model_and_image("ssd300-fe")
    steps = enhancement_steps(model, image, BOXES)
    pixels = image.mean(dim=0)
    inside = torch.zeros(300, 300)
    inside[120:150, 100:130] = 1
    torch.testing.assert_close(steps["inside"], pixels * inside)
    b_mean = 1.5 * pixels[120:150, 100:130].mean()
    expected = (1 - pixels / b_mean).clamp(min=0) * inside
    torch.testing.assert_close(steps["mask"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(steps["enhanced"], steps["features"] * (1 + steps["resized"]))
    torch.testing.assert_close(steps["difference"], steps["enhanced"] - steps["features"])
    assert steps["features"].shape == (38, 38)
    assert steps["difference"].abs().max() > 0
    features, difference = enhancement_difference(model, image, BOXES)
    torch.testing.assert_close(difference, features * steps["resized"], atol=1e-5, rtol=1e-4)
    channel = int(difference.abs().sum((1, 2)).argmax())
    torch.testing.assert_close(difference[channel], steps["difference"])
    shown = {name: values.numpy() for name, values in steps.items()}
    boxes = np.array([[20.0, 30, 32, 42], [100.0, 120, 130, 150]])
    assert strongest_box(shown["mask"], boxes) == 1
    figure = enhancement_figure(shown, boxes, 1, side=40)
    assert len(figure.axes) == len(STEPS)
    for axes in figure.axes:
        assert (axes.get_xlim(), axes.get_ylim()) == ((95, 135), (155, 115))
        assert len(axes.patches) == 2
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), shown["mask"])


def test_channels_are_ranked_by_their_share_of_the_difference():
    features = torch.ones(3, 1, 2)
    difference = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 2.0]]])
    table = change_by_channel(features, difference)
    assert table.index.tolist() == [1, 2, 3]
    assert table["channel"].tolist() == [2, 0, 1]
    assert table["share_of_difference"].tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert table["relative_change"].tolist() == pytest.approx([2**0.5, 0.5**0.5, 0.0])
    assert change_by_channel(features, torch.zeros(3, 1, 2))["share_of_difference"].tolist() == [0, 0, 0]


def test_on_vgg_the_first_head_sees_fe_at_the_source_only_and_a_map_of_zeros_does_not_change():
    model, image = model_and_image("ssd300-fe")
    change = change_by_map(model, image, BOXES)
    assert list(change.index) == ["trunk", "source", "both"]
    assert list(change) == ["38x38", "19x19", "10x10", "5x5", "3x3", "1x1"]
    assert change.loc["trunk", "38x38"] < 1e-6
    assert change.loc["trunk", "19x19"] > 1e-3
    assert change.loc["source", "38x38"] > 1e-3
    assert (change.loc["source"].iloc[1:] == 0).all()
    with torch.no_grad():
        for layer in (model.blocks[-1][2], model.blocks[-1][0]):
            layer.weight.zero_()
            layer.bias.fill_(-1.0)
    assert change_by_map(model, image, BOXES)["1x1"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("variant", ["resnet34-300", "mobilenet320-fe"])
def test_without_l2_normalisation_the_first_head_sees_fe_in_the_trunk(variant):
    model, image = model_and_image(variant)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert change_by_map(model, image, BOXES).loc["trunk"].iloc[0] > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
