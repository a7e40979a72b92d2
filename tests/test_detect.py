"""Detection in images: COCO results in the images' order, and no ground truth can leak into them."""

import numpy as np
import pytest
import torch
from tiny_world import BOX, labelled_images, tiny_head, tiny_params
from torch import nn

from cmbfe.training import detection as detection
from cmbfe.training.batches import load_labelled, to_input, to_targets
from cmbfe.training.detection import detect, detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.loop import build_from_params

CPU = torch.device("cpu")


class BrightestPixel(nn.Module):
    """A detector that is easy to check: a box around the brightest pixel, scored by its brightness."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        detections = []
        for image in images:
            row, column = divmod(int(image[0].argmax()), image.shape[-1])
            boxes = torch.tensor([[column, row, column + 1 / 3, row + 2]])
            detections.append({"boxes": boxes, "scores": image[0].max()[None]})
        return detections


@pytest.fixture(scope="module")
def compute():
    return make_compute("cpu", "32-true")


def test_evaluation_with_and_without_targets_is_the_same_with_fe_in_the_model():
    model = build_from_params("ssd300-fe", tiny_params()).eval()
    x, y, width, height = BOX
    images = to_input((tiny_head(2) // 4).astype(np.uint8), CPU)
    targets = to_targets([np.array([[x, y, x + width, y + height]], np.float32)] * 2, CPU)
    with torch.inference_mode():
        without, with_targets = model(images), model(images, targets)
    assert len(without[0]["boxes"])
    for one, other in zip(without, with_targets, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))


def test_a_labelled_folder_gives_the_detections_of_its_images_whatever_its_boxes(compute, tmp_path):
    labels = labelled_images(tmp_path, 3)
    expected = detect(BrightestPixel(), load_labelled(labels, tmp_path).images, [1, 2, 3], compute)
    for annotations in (labels["annotations"], []):
        found = detect_in(BrightestPixel().train(), {**labels, "annotations": annotations}, tmp_path, compute)
        assert found == expected
    assert detect(BrightestPixel(), np.zeros((0, 4, 6), np.uint8), [], compute) == []


def test_results_are_coco_in_the_order_of_the_images_over_several_batches(compute, monkeypatch):
    monkeypatch.setattr(detection, "BATCH", 2)
    images = np.zeros((3, 4, 6), np.uint8)
    for number, (row, column) in enumerate([(0, 5), (2, 1), (3, 0)]):
        images[number, row, column] = 51 * (number + 1)
    assert detect(BrightestPixel(), images, [30, 10, 20], compute) == [
        {"image_id": 30, "category_id": 1, "bbox": [5.0, 0.0, 0.333, 2.0], "score": 0.2},
        {"image_id": 10, "category_id": 1, "bbox": [1.0, 2.0, 0.333, 2.0], "score": 0.4},
        {"image_id": 20, "category_id": 1, "bbox": [0.0, 3.0, 0.333, 2.0], "score": 0.6},
    ]


class ScoreOfAConvolution(nn.Module):
    """One detection an image, scored by a convolution's output, which autocast would round to 8 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 1 / 3)

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        scores = self.layer(images)[:, 0, 0, 0]
        return [{"boxes": torch.tensor([[0.0, 0, 1, 1]]), "scores": score[None]} for score in scores]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "auto"])
def test_scores_are_float32_whatever_the_precision_of_training(precision):
    images = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1)
    found = detect(ScoreOfAConvolution(), images, range(256), make_compute("cpu", precision))
    np.testing.assert_allclose([one["score"] for one in found], np.arange(256) / 255, atol=1e-6)
