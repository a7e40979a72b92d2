"""Default boxes against hand-typed values, matching and losses on cases small enough to work out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from cmbfe.data.sources.report import coverage_by_margin
from cmbfe.detector.boxes import corners, coverage, coverage_of_presets, decode, default_boxes, encode
from cmbfe.detector.loss import match, ssd_loss
from cmbfe.errors import InputError


@pytest.mark.parametrize(("preset", "input_size", "index", "centre_px", "size_px"), [
    ("voc", 512, 2, (4, 4), (50.685, 25.343)),  # 35.84 * sqrt 2, 35.84 / sqrt 2
    ("voc", 512, 4, (12, 4), (35.84, 35.84)),  # next cell in the row
    ("voc", 512, -4, (256, 256), (460.8, 460.8)),  # the single cell of the last map
    ("coco", 300, 0, (4, 4), (21, 21)),
    ("coco", 512, 0, (4, 4), (20.48, 20.48)),
    ("cmb", 300, 0, (4, 4), (8, 8)),
    ("cmb", 512, 0, (4, 4), (12, 12)),
])  # fmt: skip
def test_boxes_lie_where_the_table_says(preset, input_size, index, centre_px, size_px):
    box = default_boxes(preset, input_size)[index] * input_size
    assert torch.allclose(box, torch.tensor([*centre_px, *size_px], dtype=torch.float32), atol=2e-3)


@pytest.mark.parametrize(("input_size", "maps"), [
    # Per map: index of its first box, centre of its first cell, sides of its two squares; all px, preset "voc".
    (512, [(0, 4, 35.84, 52.46), (16384, 8, 76.8, 108.61), (22528, 16, 153.6, 188.12), (24064, 32, 230.4, 266.04),
           (24448, 64, 307.2, 343.46), (24544, 128, 384, 420.65), (24560, 256, 460.8, 497.72)]),
    (300, [(0, 4, 30, 42.43), (5776, 8, 60, 81.61), (7942, 16, 111, 134.10), (8542, 32, 162, 185.76),
           (8692, 50, 213, 237.13), (8728, 150, 264, 288.37)]),
    (320, [(0, 8, 60, 79.37), (2400, 16, 105, 125.50), (3000, 32, 150, 171.03), (3150, 53.33, 195, 216.33),
           (3204, 80, 240, 261.53), (3228, 160, 285, 306.68)]),
])  # fmt: skip
def test_every_map_begins_as_the_table_says(input_size, maps):
    boxes = default_boxes("voc", input_size) * input_size
    for first, centre, small, large in maps:
        expected = [[centre, centre, small, small], [centre, centre, large, large]]
        torch.testing.assert_close(boxes[first : first + 2], torch.tensor(expected), atol=6e-3, rtol=0)


def test_the_coco_boxes_at_300_are_torchvisions_and_a_box_longer_than_the_input_is_cut_to_it():
    sides = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales, steps = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], [8, 16, 32, 64, 100, 300]
    maps = [torch.zeros(1, 1, size, size) for size in (38, 19, 10, 5, 3, 1)]
    images = ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)])
    theirs = DefaultBoxGenerator(sides, scales=scales, steps=steps)(images, maps)[0]
    assert torch.allclose(corners(default_boxes("coco", 300), 300), theirs, atol=1e-3)
    assert default_boxes("voc", 300)[:, 2:].max() == 1
    with pytest.raises(InputError, match="voc"):
        default_boxes("imagenet", 300)


sides = st.tuples(st.floats(0, 250), st.floats(0, 250), st.floats(1, 60), st.floats(1, 60))


@given(sides, sides)
def test_decoding_inverts_encoding(box, default):
    box, default = (torch.tensor([[x, y, x + w, y + h]]) for x, y, w, h in (box, default))
    assert torch.allclose(decode(encode(box, default), default), box, atol=0.05)  # px; log and exp in float32


def test_a_margin_brings_small_boxes_within_reach():
    image = {"id": 1, "width": 512, "height": 512, "pixel_spacing_mm": [0.5, 0.5]}
    # Around 84 and 100 px, the middles of cells of 8 px.
    boxes = [{"image_id": 1, "bbox": [0, 0, 30, 30], "tight_bbox": [x, x, 6, 6]} for x in (81, 97)]
    table = coverage_by_margin({"images": [image], "annotations": boxes}, margins_mm=(0.0, 1.5))
    assert table.columns.tolist() == ["0 mm", "1.5 mm"]
    assert table.loc[(512, "cmb")].tolist() == [0, 1]  # 6 px, and 12 px, in a box of 12 px
    assert table.loc[(512, "voc")].tolist() == [0, 0]


def test_the_coverage_of_presets_is_that_of_each_at_every_input_size():
    fractions = torch.tensor([[0.496, 0.496, 0.5195, 0.5195], [0.2, 0.1, 0.9, 0.9]])
    table = coverage_of_presets(fractions)
    assert len(table) == 2 * 3 * 3
    for (input_size, preset), part in table.groupby(["input_px", "default_boxes"]):
        alone = coverage(fractions * input_size, default_boxes(preset, input_size), input_size)
        assert part["best_iou"].tolist() == alone["best_iou"].tolist()
        assert part["box"].tolist() == [0, 1]
    small = table[table["box"] == 0].set_index(["input_px", "default_boxes"])["reachable"]
    assert (small[512, "cmb"], small[512, "voc"]) == (True, False)


DEFAULT = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10], [0.0, 10, 10, 20], [40.0, 40, 50, 50]])


def matches_of(boxes: list[list[float]]) -> list[int]:
    truth = torch.tensor([boxes])
    return match(truth, torch.ones(truth.shape[:2], dtype=torch.bool), DEFAULT)[0].tolist()


@pytest.mark.parametrize("boxes", [
    [[1.0, 1, 3, 11], [5.0, 5, 11, 9]],  # IoU with the first default box 18/102 and 20/104
    [[1.0, 1, 3, 11], [5.0, 5, 11, 9], [3.0, 3, 9, 9]],  # and 36/100
])  # fmt: skip
def test_ground_truths_that_share_a_best_box_each_keep_one(boxes):
    matched = matches_of(boxes)
    assert matched[0] == len(boxes) - 1  # the largest IoU keeps the shared box
    assert sorted(index for index in matched if index >= 0) == list(range(len(boxes)))


@pytest.mark.parametrize(("boxes", "expected"), [
    ([[0.0, 0, 10, 5]], [0, -1, -1, -1]),  # IoU exactly 0.5
    ([[0.0, 0, 10, 14]], [0, -1, -1, -1]),  # 100/140, and 40/200 with the third
    ([[41.0, 41, 43, 43]], [-1, -1, -1, 0]),  # none of one half: the best one
    ([[60.0, 60, 70, 70]], [-1, -1, -1, -1]),  # overlaps none
    ([[50.0, 40, 60, 50]], [-1, -1, -1, -1]),  # touches the last
    ([[1.0, 1, 4, 4], [0.0, 0, 10, 9]], [1, -1, -1, -1]),  # the only one that it overlaps is taken
    ([[-30.0, -30, -20, -20], [41.0, 41, 43, 43]], [-1, -1, -1, 1]),
])  # fmt: skip
def test_a_ground_truth_gets_what_overlaps_by_half_else_its_best_free_default_box_else_none(boxes, expected):
    assert matches_of(boxes) == expected
    labels = torch.ones(len(boxes), dtype=torch.int64)
    losses = ssd_loss(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), DEFAULT, [torch.tensor(boxes)], [labels])
    assert losses["box_regression"] < 30  # a box beside the image had some hundreds


def test_padding_and_no_ground_truth_match_nothing():
    truth = torch.tensor([[[0.0, 0, 10, 10], [10.0, 0, 20, 10]]])
    assert match(truth, torch.tensor([[True, False]]), DEFAULT).tolist() == [[0, -1, -1, -1]]
    assert match(torch.empty(2, 0, 4), torch.empty(2, 0, dtype=torch.bool), DEFAULT).tolist() == [[-1] * 4] * 2


def test_images_of_a_batch_do_not_disturb_each_other():
    boxes = [torch.tensor(b).view(-1, 4) for b in ([[0.0, 0, 10, 9], [11, 1, 19, 10]], [], [[41.0, 40, 50, 50]])]
    labels = [torch.ones(len(b), dtype=torch.int64) for b in boxes]
    generator = torch.Generator().manual_seed(0)
    logits, regression = torch.randn(3, 4, 2, generator=generator), torch.randn(3, 4, 4, generator=generator)
    together = ssd_loss(logits, regression, DEFAULT, boxes, labels)
    alone = [
        ssd_loss(logits[i : i + 1], regression[i : i + 1], DEFAULT, boxes[i : i + 1], labels[i : i + 1])
        for i in range(3)
    ]
    for name, loss in together.items():  # 2, 0 and 1 matches: the batch divides the sum of all by 3
        assert math.isclose(loss, (2 * alone[0][name] + alone[2][name]) / 3, rel_tol=1e-6)


def test_gradients_reach_matches_and_the_hardest_negatives_only():
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    regression = torch.ones(1, 4, 4, requires_grad=True)
    losses = ssd_loss(logits, regression, DEFAULT, [DEFAULT[:1]], [torch.tensor([1])])
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all()
    assert regression.grad[0, 0].abs().min() > 0
    assert not regression.grad[0, 1:].any()


def test_the_losses_of_hand_worked_images():
    boxes, labels = [torch.tensor([[0.0, 0, 10, 10]])], [torch.tensor([1])]
    logits = torch.zeros(1, 4, 2)  # every cross entropy is log 2: one match and three negatives
    regression = torch.zeros(1, 4, 4)
    regression[0, 0, 0] = 3.0  # the match is exact, so its target is 0: smooth L1 of 3 is 2.5
    losses = ssd_loss(logits, regression, DEFAULT, boxes, labels)
    assert math.isclose(losses["classification"], 4 * math.log(2), rel_tol=1e-6)
    assert math.isclose(losses["box_regression"], 2.5, rel_tol=1e-6)
    assert encode(boxes[0], DEFAULT[:1]).abs().max() == 0
    default, logits = torch.cat([DEFAULT, DEFAULT + 100]), torch.zeros(1, 8, 2)
    logits[0, 1:, 0] = torch.tensor([9.0, 9, 9, 9, -5, -6, -7])  # the last three are taken for microbleeds
    losses = ssd_loss(logits, torch.zeros(1, 8, 4), default, boxes, labels)
    hardest = math.log(2) + sum(math.log1p(math.exp(x)) for x in (5, 6, 7))
    assert math.isclose(losses["classification"], hardest, rel_tol=1e-6)


def test_without_ground_truth_the_loss_is_finite_and_teaches_only_with_minimum_negatives():
    empty = [torch.empty(0, 4)], [torch.empty(0, dtype=torch.int64)]
    for minimum, expected in ((0, 0.0), (3, 3 * math.log(2))):
        losses = ssd_loss(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), DEFAULT, *empty, minimum_negatives=minimum)
        assert math.isclose(losses["classification"], expected, abs_tol=1e-6)
        assert losses["box_regression"] == 0
