"""Figures 1, 2 and 3: what they show is what they are given."""

import numpy as np
import pytest
import torch

from cmbfe.detector.boxes import GRIDS
from cmbfe.detector.explain import enhancement_steps
from cmbfe.detector.ssd import SPECS, build
from cmbfe.figures.diagrams import (
    LAYER_NAMES,
    STEPS,
    architecture_figure,
    difference_figure,
    enhancement_figure,
    head_square,
    strongest_box,
)


@pytest.mark.parametrize("variant", [name for name, spec in SPECS.items() if spec.fe])
@pytest.mark.parametrize("placement", ["trunk", "source", "both"])
def test_the_architecture_names_every_map_and_counts_all_default_boxes(variant, placement):
    model, spec = build(variant, width=0.125), SPECS[variant]
    grid = GRIDS[model.input_size]
    channels = [8] * len(grid.maps)
    figure = architecture_figure(spec.trunk, spec.input_size, grid.maps, channels, grid.boxes_per_cell, placement)
    drawn = "\n".join(text.get_text() for text in figure.axes[0].texts)
    assert f"{len(model.default_boxes):,} default boxes" in drawn
    for name, cells in zip(LAYER_NAMES[spec.trunk], grid.maps, strict=False):
        assert f"{name}\n{cells}×{cells}" in drawn
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


HEAD = np.zeros((100, 100), np.uint8)
HEAD[20:80, 30:70] = 200


def test_the_square_around_the_head_leaves_out_air_and_stays_in_the_image():
    assert head_square(HEAD) == (17, 17, 66)  # 60 high, 3 around it, and the same width around the middle
    assert head_square(np.full((100, 100), 200, np.uint8)) == (0, 0, 100)
    assert head_square(np.zeros((100, 100), np.uint8)) == (0, 0, 100)
    corner = np.zeros((100, 100), np.uint8)
    corner[95:, 95:] = 200
    assert head_square(corner) == (89, 89, 11)


def test_the_difference_is_drawn_by_channel_in_one_scale_and_over_the_input():
    differences = {"channel 7": np.zeros((10, 10)), "channel 2": np.zeros((10, 10))}
    differences["channel 7"][4, 5] = 3.0
    differences["channel 2"][4, 5] = 1.0
    boxes = np.array([[50.0, 40, 56, 46]])
    figure = difference_figure(HEAD, boxes, differences, pixel_mm=0.5, title="450 iterations")
    by_title = {axes.get_title(): axes for axes in figure.axes}
    first, second = by_title["(b) channel 7"], by_title["(b) channel 2"]
    np.testing.assert_array_equal(first.images[0].get_array(), differences["channel 7"])
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 3)
    assert tuple(first.images[0].get_extent()) == (-17, 83, 83, -17)  # the map covers the whole image
    assert (first.get_xlim(), first.get_ylim()) == ((0, 66), (66, 0))
    (frame,) = by_title["(a) input, ground truth"].patches
    assert frame.get_bbox().bounds == (32, 22, 8, 8)
    assert sum(len(axes.images) == 2 for axes in figure.axes) == 2
    assert figure.get_suptitle() == "450 iterations"


def test_the_first_step_has_a_scale_bar_where_the_pixels_have_a_size():
    steps = {name: np.ones((64, 64)) for name in STEPS}
    bar = enhancement_figure(steps, np.array([[30.0, 30, 36, 36]]), side=32, pixel_mm=0.5).axes[0].get_lines()[0]
    assert np.ptp(bar.get_xdata()) == 10


def test_a_box_at_the_border_can_be_the_strongest():
    mask = np.zeros((512, 512))
    mask[5, 511] = 0.9
    assert strongest_box(mask, np.array([[10.0, 10, 20, 20], [511.6, 3, 512, 9]])) == 1
