"""Torchvision's detectors for microbleeds: as published but for anchors and finest map; trained with and without FE."""

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from tiny_world import labelled_images, tiny_params
from torchvision.models import detection

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.detector.alternatives import attach
from cmbfe.detector.torchvision_detectors import DETECTORS, KEPT, build
from cmbfe.detector.weights import WEIGHTS_FILE, load_detector
from cmbfe.errors import InputError
from cmbfe.training import loop
from cmbfe.training.batches import load_labelled, parts_of_iteration
from cmbfe.training.detection import detect_in
from cmbfe.training.devices import make_compute
from cmbfe.training.iteration import Run
from cmbfe.training.loop import train

PUBLISHED = {
    "faster-rcnn-resnet50": detection.fasterrcnn_resnet50_fpn,
    "retinanet-resnet50": detection.retinanet_resnet50_fpn,
    "fcos-resnet50": detection.fcos_resnet50_fpn,
}


@pytest.mark.parametrize("name", [name for name in DETECTORS if name.endswith("-small")])
def test_a_detector_gives_losses_in_training_and_the_best_microbleeds_in_evaluation(name):
    torch.manual_seed(0)
    model = build(name, 64).train()
    images = torch.rand(2, 3, 64, 64)
    targets = [{"boxes": torch.tensor([[20.0, 30, 26, 36]]), "labels": torch.ones(1, dtype=torch.int64)}] * 2
    assert all(loss.isfinite() for loss in model(images, targets).values())
    for detections in model.eval()(images):
        assert set(detections["labels"].tolist()) <= {1}
        assert len(detections["boxes"]) <= KEPT


def shapes(model: torch.nn.Module, *prefixes: str) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items() if key.startswith(prefixes)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_trunk_and_heads_of_the_wide_ones_are_the_published_ones(name):
    with torch.device("meta"):
        ours, published = build(name, 512), PUBLISHED[name](weights=None, weights_backbone=None, num_classes=2)
    heads = ("roi_heads.",) if "faster" in name else ("head.classification_head.conv", "head.regression_head.conv")
    for prefixes in (("backbone.body.",), heads):
        assert shapes(ours, *prefixes) == shapes(published, *prefixes) != {}
    assert ours.backbone.out_channels == published.backbone.out_channels == 256


def test_every_name_is_built_and_no_other():
    with torch.device("meta"):
        assert all(build(name, 256).config.detector == name for name in DETECTORS)
    with pytest.raises(InputError, match="no detector named 'yolo'; there are: faster-rcnn-resnet50"):
        build("yolo", 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    labelled_images(folder)
    return folder


def trained(data, out, variant: str, **schedule: object) -> dict:
    params = tiny_params(seed=1, iterations=2, milestones=(1,), **schedule)
    train(variant, params, data, out, progress=False)
    return load_file(out / WEIGHTS_FILE)


def test_a_training_repeats_bit_for_bit_and_fe_makes_another_of_the_same_layers(data, tmp_path):
    plain = trained(data, tmp_path / "plain", "ssdlite-small")
    again, with_fe = (
        trained(data, tmp_path / name, name) for name in ("ssdlite-small", "ssdlite-small-segmentation")
    )
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert set(with_fe) == set(plain)  # the weights of the side task are no part of the detector
    assert not all(torch.equal(plain[name], with_fe[name]) for name in plain)


def test_a_trained_detector_is_read_back_bare_and_a_finished_training_is_not_repeated(data, tmp_path, capsys):
    weights = trained(data, tmp_path, "ssdlite-small-fe")
    model = load_detector(tmp_path)
    assert all(torch.equal(weights[name], one) for name, one in model.state_dict().items())
    labels = read_labels(data / LABELS_FILE)
    assert detect_in(model, labels, data, make_compute("cpu", "32-true")) is not None
    capsys.readouterr()
    trained(data, tmp_path, "ssdlite-small-fe")
    assert "trained already" in capsys.readouterr().out


@pytest.mark.parametrize("variant", ["yolo", "ssdlite-small-nothing"])
def test_an_unknown_detector_or_alternative_cannot_be_trained(data, tmp_path, variant):
    with pytest.raises(InputError, match=r"yolo|nothing"):
        trained(data, tmp_path, variant)


def test_weights_beside_the_detectors_are_refused_in_several_processes(data, tmp_path):
    task = loop._task("ssdlite-small-segmentation", tiny_params(), data, None, None)
    with pytest.raises(InputError, match="ssdlite-small-segmentation"):
        loop._begun(replace(task, compute=mock.Mock(processes=2)), tmp_path)


def test_weights_of_a_side_task_are_trained_by_the_same_schedule_and_what_fades_has_faded(data):
    schedule = tiny_params(iterations=4, milestones=(2,)).training
    images = load_labelled(read_labels(data / LABELS_FILE), data)
    strengths = {}
    for name in ("segmentation", "fading-fe"):
        torch.manual_seed(0)
        model = build("ssdlite-small", 64).train()
        attached = attach(name, model, "backbone")
        before = copy.deepcopy(attached.parameters())
        run = Run(model, schedule, "constant", make_compute("cpu", "32-true"), attached)
        for iteration in range(3):
            row = run.step(parts_of_iteration(images, 1, 2, 1, (0, 1), iteration))
        assert row["learning_rate"] == pytest.approx(schedule.learning_rate * schedule.gamma)
        assert all(not torch.equal(*pair) for pair in zip(before, attached.parameters(), strict=True))
        strengths[name] = getattr(attached.fe, "strength", None)
    assert strengths["fading-fe"] == pytest.approx(0.5)  # of the third of four iterations
