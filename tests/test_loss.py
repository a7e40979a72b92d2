"""Matching and the two losses, on cases small enough to work out by hand."""

import math

import pytest
import torch

from cmbfe.detector.boxes import encode
from cmbfe.detector.loss import match, ssd_loss

DEFAULT = torch.tensor([[0.0, 0, 10, 10], [10.0, 0, 20, 10], [0.0, 10, 10, 20], [40.0, 40, 50, 50]])


def matches_of(boxes: list[list[float]]) -> list[int]:
    truth = torch.tensor([boxes])
    return match(truth, torch.ones(truth.shape[:2], dtype=torch.bool), DEFAULT)[0].tolist()


def test_a_default_box_takes_a_ground_truth_of_iou_one_half():
    assert matches_of([[0, 0, 10, 5]]) == [0, -1, -1, -1]  # IoU exactly 0.5
    assert matches_of([[0, 0, 10, 14]]) == [0, -1, -1, -1]  # 100/140, and 40/200 with the third


def test_a_ground_truth_without_such_a_box_gets_its_best_one():
    assert matches_of([[41, 41, 43, 43]]) == [-1, -1, -1, 0]


@pytest.mark.parametrize("boxes", [
    [[1.0, 1, 4, 4], [5.0, 5, 11, 9]],  # IoU with the first default box 0.09 and 20/104
    [[1.0, 1, 3, 3], [2.0, 2, 5, 5], [4.0, 4, 9, 9]],  # 0.04, 0.09, 0.25
])  # fmt: skip
def test_ground_truths_that_share_a_best_box_each_keep_one(boxes):
    matched = matches_of(boxes)
    assert matched[0] == len(boxes) - 1  # the largest IoU keeps the shared box
    assert sorted(index for index in matched if index >= 0) == list(range(len(boxes)))


def test_padding_matches_nothing():
    truth = torch.tensor([[[0.0, 0, 10, 10], [10.0, 0, 20, 10]]])
    assert match(truth, torch.tensor([[True, False]]), DEFAULT).tolist() == [[0, -1, -1, -1]]


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


def test_the_losses_of_a_hand_worked_image():
    boxes, labels = [torch.tensor([[0.0, 0, 10, 10]])], [torch.tensor([1])]
    logits = torch.zeros(1, 4, 2)  # every cross entropy is log 2: one match and three negatives
    regression = torch.zeros(1, 4, 4)
    regression[0, 0, 0] = 3.0  # the match is exact, so its target is 0: smooth L1 of 3 is 2.5
    losses = ssd_loss(logits, regression, DEFAULT, boxes, labels)
    assert math.isclose(losses["classification"], 4 * math.log(2), rel_tol=1e-6)
    assert math.isclose(losses["box_regression"], 2.5, rel_tol=1e-6)
    assert encode(boxes[0], DEFAULT[:1]).abs().max() == 0


def test_only_the_hardest_negatives_count():
    default = torch.cat([DEFAULT, DEFAULT + 100])
    logits = torch.zeros(1, 8, 2)
    logits[0, 1:, 0] = torch.tensor([9.0, 9, 9, 9, -5, -6, -7])  # the last three are taken for microbleeds
    losses = ssd_loss(logits, torch.zeros(1, 8, 4), default, [DEFAULT[:1]], [torch.tensor([1])])
    expected = math.log(2) + sum(math.log1p(math.exp(x)) for x in (5, 6, 7))
    assert math.isclose(losses["classification"], expected, rel_tol=1e-6)


def test_without_ground_truth_the_loss_is_finite_and_teaches_only_with_minimum_negatives():
    empty = [torch.empty(0, 4)], [torch.empty(0, dtype=torch.int64)]
    for minimum, expected in ((0, 0.0), (3, 3 * math.log(2))):
        losses = ssd_loss(torch.zeros(1, 4, 2), torch.zeros(1, 4, 4), DEFAULT, *empty, minimum_negatives=minimum)
        assert math.isclose(losses["classification"], expected, abs_tol=1e-6)
        assert losses["box_regression"] == 0


def test_losses_stay_float32_under_autocast():
    logits, regression = (torch.zeros(1, 4, values, dtype=torch.bfloat16) for values in (2, 4))
    with torch.autocast("cpu", torch.bfloat16):
        losses = ssd_loss(logits, regression, DEFAULT, [DEFAULT[:1]], [torch.tensor([1])])
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
