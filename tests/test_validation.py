"""The validation set and its AP: only its patients, with and without microbleeds, in evaluation mode."""

import json

import pytest
import torch
from tiny_world import BOX, labelled_images
from torch import nn

from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.errors import InputError
from cmbfe.training.devices import make_compute
from cmbfe.training.validation import validation_ap, validation_labels


def folder_with(tmp_path, splits: str, boxes_on: tuple[int, ...]):
    """An image for each letter, t or v (training, validation), with boxes on those of the numbers (from 1)."""
    labels = labelled_images(tmp_path, len(splits))
    for image, split in zip(labels["images"], splits, strict=True):
        image["split"] = {"t": "train", "v": "validation"}[split]
    labels["annotations"] = [box for box in labels["annotations"] if box["image_id"] in boxes_on]
    (tmp_path / LABELS_FILE).write_text(json.dumps(labels))
    return tmp_path


def chosen(folder, seed: int = 1) -> list[int]:
    return [image["id"] for image in validation_labels(folder, seed)["images"]]


def test_images_with_microbleeds_and_as_many_without_are_drawn(tmp_path):
    folder = folder_with(tmp_path, "tvvvvvvvt", boxes_on=(1, 3, 5))
    drawn = chosen(folder)
    assert {3, 5} <= set(drawn) <= {2, 3, 4, 5, 6, 7, 8}
    assert len(drawn) == 4
    assert chosen(folder) == drawn
    assert len({tuple(chosen(folder, seed)) for seed in range(20)}) > 1
    few = folder_with(tmp_path / "few without", "vvvt", boxes_on=(1, 2))
    assert chosen(few) == [1, 2, 3]


@pytest.mark.parametrize(("splits", "message"), [("ttt", "split 'validation'"), ("tvv", "split has no microbleed")])
def test_a_set_that_measures_nothing_is_refused(tmp_path, splits, message):
    with pytest.raises(InputError, match=message):
        validation_labels(folder_with(tmp_path, splits, boxes_on=(1,)), seed=1)


class Finder(nn.Module):
    """Finds the dark dot, and in every second image something else with more certainty."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        x, y, width, height = BOX
        dot, other = [x, y, x + width, y + height], [0.0, 0.0, 5.0, 5.0]
        outputs = [([dot], [0.5]) if number % 2 == 0 else ([other, dot], [0.9, 0.4]) for number in range(len(images))]
        return [{"boxes": torch.tensor(boxes), "scores": torch.tensor(scores)} for boxes, scores in outputs]


def test_the_ap_is_that_of_the_detections(tmp_path):
    folder = folder_with(tmp_path, "vv", boxes_on=(1, 2))
    labels = validation_labels(folder, seed=1)
    # Scores .9 (false), .5 (hit), .4 (hit): precision 1/2 and 2/3 at sensitivity 1/2 and 1, envelope 2/3 throughout.
    ap = validation_ap(Finder().train(), labels, folder, 0.5, make_compute("cpu", "32-true"))
    assert ap == pytest.approx(2 / 3)
