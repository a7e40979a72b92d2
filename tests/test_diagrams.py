"""Figures 1 and 2: what they show is what they are given."""

import numpy as np
import pytest
import torch

from cmbfe.detector.boxes import GRIDS
from cmbfe.detector.ssd import SPECS, build
from cmbfe.diagrams import LAYER_NAMES, STEPS, architecture_figure, enhancement_figure, strongest_box
from cmbfe.explain import enhancement_steps


@pytest.mark.parametrize("variant", [name for name, spec in SPECS.items() if spec.fe])
@pytest.mark.parametrize("placement", ["trunk", "source", "both"])
def test_the_architecture_names_every_map_and_counts_all_default_boxes(variant, placement):
    model = build(variant, width=0.125)
    spec, grid = SPECS[variant], GRIDS[model.input_size]
    figure = architecture_figure(
        spec.trunk, spec.input_size, grid.maps, [8] * len(grid.maps), grid.boxes_per_cell, placement
    )
    drawn = "\n".join(text.get_text() for text in figure.axes[0].texts)
    assert f"{len(model.default_boxes):,} default boxes" in drawn
    assert all(
        f"{name}\n{cells}×{cells}" in drawn for name, cells in zip(LAYER_NAMES[spec.trunk], grid.maps, strict=False)
    )
    assert ("L2 norm" in drawn) is (spec.trunk == "vgg16")


def test_the_process_is_zoomed_to_the_box_with_the_strongest_mask():
    model = build("ssd300-fe", width=0.125)
    image = torch.full((3, 300, 300), 0.8)
    image[:, 210:216, 110:116] = 0.1
    boxes = torch.tensor([[20.0, 30, 32, 42], [106.0, 206, 120, 220]])
    steps = {name: values.numpy() for name, values in enhancement_steps(model, image, boxes).items()}
    assert strongest_box(steps["mask"], boxes.numpy()) == 1
    figure = enhancement_figure(steps, boxes.numpy(), 1, side=40)
    assert len(figure.axes) == len(STEPS)
    for axes in figure.axes:
        assert axes.get_xlim() == (93, 133)
        assert axes.get_ylim() == (233, 193)
        assert len(axes.patches) == 2
    np.testing.assert_array_equal(figure.axes[2].images[0].get_array(), steps["mask"])


def test_a_box_at_the_border_can_be_the_strongest():
    mask = np.zeros((512, 512))
    mask[5, 511] = 0.9
    assert strongest_box(mask, np.array([[10.0, 10, 20, 20], [511.6, 3, 512, 9]])) == 1
