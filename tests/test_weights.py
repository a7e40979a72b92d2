"""Weights in and out: a saved model is the same model. Torchvision's detectors, trained with and without FE."""

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import labelled_images, tiny_params
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection import ssd300_vgg16

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.detector import torchvision_detectors
from cmbfe.detector.alternatives import attach
from cmbfe.detector.ssd import build
from cmbfe.detector.torchvision_detectors import DETECTORS, KEPT
from cmbfe.detector.weights import WEIGHTS_FILE, from_torchvision, load_detector, load_model, save_model
from cmbfe.errors import InputError
from cmbfe.training import loop
from cmbfe.training.batches import load_labelled, parts_of_iteration
from cmbfe.training.devices import make_compute
from cmbfe.training.iteration import Run
from cmbfe.training.loop import train


@pytest.fixture(scope="module")
def torchvision_model() -> torch.nn.Module:
    torch.manual_seed(3)
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=5).eval()


def test_torchvisions_ssd300_gives_the_same_detections(torchvision_model):
    ours = from_torchvision(torchvision_model.state_dict()).eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, *size, generator=generator) for size in ((300, 300), (210, 340))]
    with torch.no_grad():
        for mine, theirs in zip(ours(images), torchvision_model(images), strict=True):
            assert len(mine["scores"]) == len(theirs["scores"]) > 0
            assert torch.equal(mine["labels"], theirs["labels"])
            assert torch.allclose(mine["scores"], theirs["scores"], atol=1e-4)
            assert torch.allclose(mine["boxes"], theirs["boxes"], atol=0.02)  # px


def test_a_layer_of_another_model_is_refused(torchvision_model):
    with pytest.raises(InputError, match=r"backbone\.body"):
        from_torchvision({"backbone.body.weight": torch.zeros(1), **torchvision_model.state_dict()})


def saved(folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build("ssd300-fe", width=0.125, beta=2.0, placement="both", score_threshold=0.0)
    save_model(model, folder)
    return model.eval()


def test_a_saved_model_can_be_read_by_whom_any_new_file_can(tmp_path):
    save_model(build("ssd300", width=0.1), tmp_path)
    (tmp_path / "new").touch()
    modes = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    assert set(modes) == {"model.safetensors", "config.json", "new"}
    assert len(set(modes.values())) == 1


def test_a_saved_model_is_rebuilt_without_other_knowledge(tmp_path):
    model = saved(tmp_path)
    again = load_model(tmp_path)
    image = torch.rand(1, 3, 300, 300)
    assert again.config == model.config
    assert torch.equal(again(image)[0]["boxes"], model(image)[0]["boxes"])
    save_model(torch.compile(model, backend="eager"), tmp_path / "compiled")
    assert torch.equal(load_model(tmp_path / "compiled").stem[0].weight, model.stem[0].weight)


def test_one_of_torchvisions_detectors_is_rebuilt_too_and_is_not_taken_for_ours(tmp_path):
    torch.manual_seed(0)
    model = torchvision_detectors.build("ssdlite-small", 64).eval()
    save_model(model, tmp_path)
    images = list(torch.rand(1, 3, 64, 64))
    assert torch.equal(load_detector(tmp_path)(images)[0]["boxes"], model(images)[0]["boxes"])
    with pytest.raises(InputError, match=r"config\.json: is of one of torchvision's"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"detector": "none", "size": 64}')
    with pytest.raises(InputError, match=r"config\.json: no detector named 'none'"):
        load_model(tmp_path)


@pytest.mark.parametrize(("key", "value", "reason"), [
    ("beta", 1.0, "not saved together"), ("gamma", 1.0, "gamma"), ("num_classes", 10**12, "0 to 1000"),
    ("num_classes", "2", "0 to 1000"), ("mean", [0.5], "three"), ("mean", ["a", "b", "c"], "str"),
])  # fmt: skip
def test_a_configuration_that_is_not_the_models_is_noticed(tmp_path, key, value, reason):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(InputError, match=f"^[^\n]*{reason}[^\n]*$"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object"):
        load_model(tmp_path)


@cache
def torchvision_state(trunk: str) -> dict[str, torch.Tensor]:
    """A torchvision classifier's state dict, random weights; of VGG-16 without most of its 500 MB of classifier."""
    torch.manual_seed(0)
    if trunk != "vgg16":
        return getattr(models, trunk)(weights=None).state_dict()
    features = models.vgg.make_layers(models.vgg.cfgs["D"]).state_dict()
    return {f"features.{name}": x for name, x in features.items()} | {"classifier.6.bias": torch.zeros(1000)}


TRUNKS = {"ssd300": "vgg16", "mobilenet320": "mobilenet_v2", "resnet34-300": "resnet34"}


@pytest.mark.parametrize(("variant", "trunk"), TRUNKS.items())
def test_a_trunk_file_fills_the_trunk_and_sets_the_normalisation(tmp_path, variant, trunk):
    state = torchvision_state(trunk)
    save_file(state, tmp_path / "trunk.safetensors")
    torch.save(state, tmp_path / "trunk.pth")
    for file in ("trunk.safetensors", "trunk.pth"):
        model = build(variant, weights=str(tmp_path / file))
        ours = [x for name, x in model.stem.state_dict().items() if name.endswith("weight")]
        theirs = [x for name, x in state.items() if name.endswith("weight")]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=False))
        assert model.config.std == ((1 / 255,) * 3 if trunk == "vgg16" else (0.229, 0.224, 0.225))
        assert build(variant, weights=str(tmp_path / file), std=(1.0, 1.0, 1.0)).config.std == (1, 1, 1)


@pytest.mark.parametrize(("variant", "trunk"), TRUNKS.items())
def test_imagenet_weights_come_from_torchvision_and_what_is_fresh_is_said(monkeypatch, caplog, variant, trunk):
    state = torchvision_state(trunk)
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda self, **options: state)
    model = build(variant, weights="imagenet")
    assert torch.equal(next(iter(model.stem.parameters())), next(iter(state.values())))
    assert ("conv6, conv7" in caplog.text) is (trunk == "vgg16")
    assert "afresh" in caplog.text


def test_a_resnet_file_without_counters_of_batches_fills_the_trunk(tmp_path):
    state = {name: x for name, x in torchvision_state("resnet34").items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "old.pth")
    model = build("resnet34-300", weights=str(tmp_path / "old.pth"))
    assert torch.equal(model.state_dict()["stem.bn1.running_var"], state["bn1.running_var"])


def test_a_file_of_something_else_than_this_trunk_and_its_missing_layer_are_named(tmp_path):
    state = {name: x for name, x in torchvision_state("mobilenet_v2").items() if name != "features.10.conv.2.weight"}
    for content, reason in (
        ([1, 2], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"features.conv0.weight": torch.ones(1)}, "is missing"),
        (state, r"layer stem\.10\.conv\.2\.weight is missing"),
    ):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=rf"other\.pth: .*{reason}"):
            build("mobilenet320", weights=str(tmp_path / "other.pth"))


PUBLISHED = {
    "faster-rcnn-resnet50": detection.fasterrcnn_resnet50_fpn,
    "retinanet-resnet50": detection.retinanet_resnet50_fpn,
    "fcos-resnet50": detection.fcos_resnet50_fpn,
}


@pytest.mark.parametrize("name", [name for name in DETECTORS if name.endswith("-small")])
def test_a_detector_gives_losses_in_training_and_the_best_microbleeds_in_evaluation(name):
    torch.manual_seed(0)
    model = torchvision_detectors.build(name, 64).train()
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
        ours, published = (
            torchvision_detectors.build(name, 512),
            PUBLISHED[name](weights=None, weights_backbone=None, num_classes=2),
        )
    heads = ("roi_heads.",) if "faster" in name else ("head.classification_head.conv", "head.regression_head.conv")
    for prefixes in (("backbone.body.",), heads):
        assert shapes(ours, *prefixes) == shapes(published, *prefixes) != {}
    assert ours.backbone.out_channels == published.backbone.out_channels == 256


def test_every_name_is_built_and_no_other():
    with torch.device("meta"):
        assert all(torchvision_detectors.build(name, 256).config.detector == name for name in DETECTORS)
    with pytest.raises(InputError, match="no detector named 'yolo'; there are: faster-rcnn-resnet50"):
        torchvision_detectors.build("yolo", 64)


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


def test_an_unknown_alternative_cannot_be_trained(data, tmp_path):
    with pytest.raises(InputError, match="nothing"):
        trained(data, tmp_path, "ssdlite-small-nothing")


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
        model = torchvision_detectors.build("ssdlite-small", 64).train()
        attached = attach(name, model, "backbone")
        before = copy.deepcopy(attached.parameters())
        run = Run(model, schedule, "constant", make_compute("cpu", "32-true"), attached)
        for iteration in range(3):
            row = run.step(parts_of_iteration(images, 1, 2, 1, (0, 1), iteration))
        assert row["learning_rate"] == pytest.approx(schedule.learning_rate * schedule.gamma)
        assert all(not torch.equal(*pair) for pair in zip(before, attached.parameters(), strict=True))
        strengths[name] = getattr(attached.fe, "strength", None)
    assert strengths["fading-fe"] == pytest.approx(0.5)  # of the third of four iterations
