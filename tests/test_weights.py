"""Weights in and out: torchvision's SSD-300 gives the same detections, a saved model is the same model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models.detection import ssd300_vgg16

from cmbfe.detector import torchvision_detectors
from cmbfe.detector.ssd import build
from cmbfe.detector.weights import from_torchvision, load_detector, load_model, save_model
from cmbfe.errors import InputError


@pytest.fixture(scope="module")
def torchvision_model() -> torch.nn.Module:
    torch.manual_seed(3)
    return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=5).eval()


def test_torchvisions_ssd300_gives_the_same_detections(torchvision_model):
    ours = from_torchvision(torchvision_model.state_dict()).eval()
    images = list(torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(1)))
    images.append(torch.rand(3, 210, 340, generator=torch.Generator().manual_seed(2)))
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


@pytest.mark.parametrize(("key", "reason"), [("beta", "not saved together"), ("gamma", "gamma")])
def test_a_configuration_that_is_not_the_models_is_noticed(tmp_path, key, reason):
    saved(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: 1.0}))
    with pytest.raises(InputError, match=reason):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object"):
        load_model(tmp_path)


def torchvision_state(trunk: str) -> dict[str, torch.Tensor]:
    """A torchvision classifier's state dict, random weights."""
    torch.manual_seed(0)
    return getattr(models, trunk)(weights=None).state_dict()


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
    state = torchvision_state("mobilenet_v2")
    del state["features.10.conv.2.weight"]
    for content, reason in (
        ([1, 2], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
        ({"features.conv0.weight": torch.ones(1)}, "is missing"),
        (state, r"layer stem\.10\.conv\.2\.weight is missing"),
    ):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(InputError, match=rf"other\.pth: .*{reason}"):
            build("mobilenet320", weights=str(tmp_path / "other.pth"))
