"""The trunks and detectors: published counts and maps; twins that differ in FE only, which is gone in evaluation."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import models

from cmbfe.detector.alternatives import LAYERS
from cmbfe.detector.backbones import Trunk, mobilenet_v2, resnet34, vgg16
from cmbfe.detector.ssd import SSD, VARIANTS, build
from cmbfe.errors import InputError

DEFAULT_BOXES = {"ssd512": 24564, "ssd300": 8732, "mobilenet320": 3234, "resnet34-300": 8732}
WIDTH = 0.125


def small(variant: str, seed: int = 0, **settings) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(variant, width=WIDTH, **settings)


def batch(size: int = 96) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    targets = [
        {"boxes": torch.tensor([[20.0, 30.0, 32.0, 40.0]]), "labels": torch.ones(1, dtype=torch.int64)},
        {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)},
    ]
    return images, targets


@pytest.mark.parametrize("variant", VARIANTS)
def test_default_boxes_are_as_many_as_published_and_one_for_each_prediction(variant):
    model = small(variant).eval()
    assert model.default_boxes.shape == (DEFAULT_BOXES[variant.removesuffix("-fe")], 4)
    logits, regression = model.predict(torch.rand(1, 3, model.input_size, model.input_size))
    assert regression.shape[1] == logits.shape[1] == len(model.default_boxes)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.endswith("-fe")])
def test_the_fe_twin_has_the_same_parameters_and_the_same_initial_weights(variant):
    plain, enhanced = small(variant).state_dict(), small(f"{variant}-fe").state_dict()
    assert list(plain) == list(enhanced)
    assert all(torch.equal(plain[name], enhanced[name]) for name in plain)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.endswith("-fe")])
def test_detections_with_and_without_targets_are_identical(variant):
    model = small(variant, score_threshold=0.0).eval()
    images, targets = batch()
    for with_targets, without in zip(model(images, targets), model(images), strict=True):
        assert all(torch.equal(with_targets[key], without[key]) for key in ("boxes", "scores", "labels"))
        assert len(without["scores"]) > 0


@pytest.mark.parametrize(("placement", "head_changes"), [("trunk", False), ("source", True), ("both", True)])
def test_l2_normalisation_cancels_fe_in_the_trunk_for_the_first_head(placement, head_changes):
    # (1 + M) X and X have the same direction: the conv4_3 head sees no change, deeper maps do.
    model = small("ssd300-fe", placement=placement).train()
    images = torch.rand(1, 3, 300, 300)
    mask = torch.zeros(1, 1, 300, 300)
    mask[..., 100:180, 100:180] = 0.7
    with torch.no_grad():
        plain, enhanced = model.feature_maps(images), model.feature_maps(images, mask)
    assert torch.allclose(plain[0], enhanced[0], atol=1e-5) is not head_changes
    assert torch.allclose(plain[1], enhanced[1], atol=1e-5) is (placement == "source")


def test_boxes_come_back_in_px_of_the_image_given():
    model = small("ssd300", score_threshold=0.0).eval()
    image = torch.rand(3, 300, 300)
    doubled = torch.nn.functional.interpolate(image[None], (600, 600), mode="nearest")[0]
    assert model([image])[0]["boxes"].max() <= 300
    assert model([doubled])[0]["boxes"].max() > 300


@pytest.mark.parametrize(("boxes", "labels", "reason"), [
    ([[5.0, 5.0, 5.0, 9.0]], [1], "box 0"),
    ([[5.0, 5.0, 9.0, 9.0], [1.0, 2.0, float("nan"), 9.0]], [1, 1], "box 1"),
    ([[5.0, 5.0, 9.0]], [1], "shape"),
    ([[1.0, 1, 9, 9], [-9.0, 5.0, 0.0, 9.0]], [1, 1], "box 1 .*outside"),
    ([[5000.0, 5.0, 5009.0, 9.0]], [1], "box 0 .*outside"),
    ([[1.0, 1, 9, 9]], [2], "expected 1 to 1"),
    ([[1.0, 1, 9, 9]], [1.0], "expected 1 integers"),
    ([[1.0, 1, 9, 9]], [1, 1], "expected 1 integers"),
])  # fmt: skip
def test_unusable_targets_are_refused_with_their_index(boxes, labels, reason):
    images, targets = batch()
    targets[1] = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
    with pytest.raises(InputError, match=f"target 1: .*{reason}"):
        small("ssd300").train()(images, targets)


def test_a_box_over_the_border_of_its_image_is_trained_on():
    images, targets = batch()
    targets[1] = {"boxes": torch.tensor([[-5.0, -5, 9, 9]]), "labels": torch.tensor([1])}
    assert all(loss.isfinite() for loss in small("ssd300").train()(images, targets).values())


@pytest.mark.parametrize(("targets", "reason"), [
    (batch()[1][:1], "1 for 2 images"),
    (None, "training needs them"),
    ([None, None], "target 0"),
    ([{"boxes": torch.ones(1, 4)}, {}], "target 0: .*labels"),
])  # fmt: skip
def test_training_needs_boxes_and_labels_of_every_image(targets, reason):
    with pytest.raises(InputError, match=reason):
        small("ssd300").train()(batch()[0], targets)


@pytest.mark.parametrize("variant", ["mobilenet320", "resnet34-300-fe"])
def test_one_image_is_too_few_for_batch_normalisation_of_the_last_map(variant):
    images, targets = batch()
    with pytest.raises(InputError, match="at least 2 images"):
        small(variant).train()(images[:1], targets[:1])
    assert len(small(variant).eval()(images[:1])) == 1


@pytest.mark.parametrize(("processes", "images", "is_shared", "is_enough"), [
    (4, 1, True, True),  # the paper's batch on four GPUs
    (2, 1, True, True),
    (1, 1, True, False),
    (4, 1, False, False),  # on CPUs each process normalises its own share
    (1, 2, False, True),
])  # fmt: skip
def test_one_image_is_enough_where_batch_normalisation_has_those_of_other_processes(
    monkeypatch, processes, images, is_shared, is_enough
):
    model = small("mobilenet320").train()
    if is_shared:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: processes)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)
    # SyncBatchNorm itself needs GPUs.
    boxes = len(model.default_boxes)
    outputs = torch.zeros(images, boxes, 2), torch.zeros(images, boxes, 4)
    monkeypatch.setattr(SSD, "predict", lambda *_: outputs)
    given = [part[:images] for part in batch()]
    if is_enough:
        assert set(model(*given)) == {"classification", "box_regression"}
    else:
        with pytest.raises(InputError, match="at least 2 images"):
            model(*given)


def test_an_image_that_is_no_image_is_refused_with_its_index():
    model, image = small("ssd300").eval(), torch.rand(3, 50, 50)
    for unusable in (image[:1], image[0], image.to(torch.uint8), image.double(), image[:, :0]):
        with pytest.raises(InputError, match="image 1: expected a float tensor"):
            model([image, unusable])
    with pytest.raises(InputError, match="no image given"):
        model([])


@pytest.mark.parametrize(("setting", "value"), [
    ("variant", "ssd1024"), ("default_boxes", "imagenet"), ("resize", "cubic"), ("placement", "head"),
    ("weighting", "text"), ("layer", "text"), ("width", 0.0), ("width", "0.5"), ("beta", -1.0),
    ("std", (0.0, 1.0, 1.0)), ("detections_per_image", 1.5),
    ("score_threshold", 2.0), ("nms_threshold", -1.0), ("detections_per_image", 0),
    ("minimum_negatives", -1),
])  # fmt: skip
def test_an_unknown_setting_is_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        build(**{"variant": "ssd300-fe", "width": WIDTH, setting: value})


def test_a_list_and_a_batch_of_images_are_the_same():
    model = small("ssd300-fe").train()
    images, targets = batch(300)
    as_batch, as_list = model(images, targets), model(list(images), targets)
    assert all(torch.equal(as_batch[name], as_list[name]) for name in as_batch)


def test_targets_are_scaled_with_their_image_and_left_as_given():
    model = small("ssd300").train()
    image = torch.rand(1, 3, 300, 300)
    doubled = torch.nn.functional.interpolate(image, (300, 600), mode="nearest")
    box = torch.tensor([[100.0, 120.0, 120.0, 150.0]])
    wide = box * torch.tensor([2.0, 1.0, 2.0, 1.0])
    label = torch.ones(1, dtype=torch.int64)
    # Nearest doubling and bilinear halving give the same image back, so only the boxes can differ.
    plain = model(image, [{"boxes": box, "labels": label}])
    stretched = model(doubled, [{"boxes": wide, "labels": label}])
    assert all(torch.allclose(plain[name], stretched[name], rtol=1e-4) for name in plain)
    assert torch.equal(wide, box * torch.tensor([2.0, 1.0, 2.0, 1.0]))


@pytest.mark.parametrize("variant", ["ssd300-fe", "mobilenet320-fe", "resnet34-300-fe"])  # ssd512-fe: test_train
def test_a_step_at_full_width_runs_in_bf16_with_losses_in_float32(variant):
    torch.manual_seed(0)
    model = build(variant).to(memory_format=torch.channels_last).train()
    images = torch.rand(2, 3, model.input_size, model.input_size)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, batch()[1])
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    before = {name: tensor.clone() for name, tensor in model.stem.state_dict().items()}
    torch.optim.Adam(model.parameters(), lr=1e-3).step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.stem.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("target_device", ["cpu", "cuda"])
@pytest.mark.parametrize("layer", LAYERS)
def test_training_on_a_gpu_mixes_no_devices(variant, target_device, layer):
    # Shapes and devices without values: FakeTensorMode needs no GPU for the forward pass.
    with FakeTensorMode():
        with torch.device("cuda"):
            model = build(variant, placement="both", layer=layer).train()
        images = torch.rand(2, 3, 200, 240, device="cuda")
        targets = [
            {"boxes": torch.rand(k, 4, device=target_device), "labels": torch.ones(k, device=target_device).long()}
            for k in (2, 0)
        ]
        losses = model(images, targets)
        assert {(loss.device.type, loss.dtype) for loss in losses.values()} == {("cuda", torch.float32)}


PUBLISHED = {
    "ssd512": (partial(vgg16, 512), 512, [512, 1024, 512, 256, 256, 256, 256], [64, 32, 16, 8, 4, 2, 1]),
    "ssd300": (partial(vgg16, 300), 300, [512, 1024, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]),
    "resnet34-300": (resnet34, 300, [256, 512, 512, 256, 256, 256], [38, 19, 10, 5, 3, 1]),
    "mobilenet320": (mobilenet_v2, 320, [96, 1280, 512, 256, 256, 64], [20, 10, 5, 3, 2, 1]),
}
trunks = pytest.mark.parametrize(("make", "input_size", "channels", "cells"), PUBLISHED.values(), ids=PUBLISHED)
Make = Callable[..., Trunk]


def map_shapes(trunk: Trunk, input_size: int) -> list[tuple[int, ...]]:
    """Channels, rows and columns of each map, from a forward pass without values."""
    features = trunk.stem.to("meta").eval()(torch.empty(1, 3, input_size, input_size, device="meta"))
    maps = [features]
    for block in trunk.blocks:
        features = block.to("meta").eval()(features)
        maps.append(features)
    return [tuple(x.shape[1:]) for x in maps]


@trunks
def test_full_width_has_the_published_channels_and_maps(make: Make, input_size, channels, cells):
    trunk = make()
    assert trunk.channels == channels
    assert map_shapes(trunk, input_size) == [(c, n, n) for c, n in zip(channels, cells, strict=True)]


@trunks
@pytest.mark.parametrize("width", [0.1, 0.25, 0.6])
def test_narrow_trunks_have_the_same_maps_and_channels_in_multiples_of_8(
    make: Make, input_size, channels, cells, width
):
    trunk = make(width=width)
    assert all(c % 8 == 0 for c in trunk.channels)
    assert all(narrow <= full for narrow, full in zip(trunk.channels, channels, strict=True))
    assert map_shapes(trunk, input_size) == [(c, n, n) for c, n in zip(trunk.channels, cells, strict=True)]


def test_the_last_layer_of_ssd512_is_4x4_with_padding_1():
    last = [layer for layer in vgg16(512, width=0.1).blocks[-1] if isinstance(layer, nn.Conv2d)][-1]
    assert (last.kernel_size, last.padding, last.stride) == ((4, 4), (1, 1), (1, 1))


def test_resnet34s_middle_channels_and_strides_are_nvidias():
    convolutions = [[x for x in block.modules() if isinstance(x, nn.Conv2d)] for block in resnet34().blocks]
    assert [first.out_channels for first, _ in convolutions] == [256, 256, 128, 128, 128]
    assert [second.stride[0] for _, second in convolutions] == [2, 2, 2, 1, 1]
    assert [second.padding[0] for _, second in convolutions] == [1, 1, 1, 0, 0]


@torch.no_grad()
def test_resnet34s_stem_is_torchvisions_with_layer3_at_stride_1():
    torch.manual_seed(0)
    theirs, stem = models.resnet34().eval(), resnet34().stem.eval()
    missing, surplus = stem.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[0] for name in surplus} == {"layer4", "fc"}
    theirs.layer3[0].conv1.stride = theirs.layer3[0].downsample[0].stride = (1, 1)
    image = torch.rand(1, 3, 64, 64)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    torch.testing.assert_close(stem(image), theirs.layer3(theirs.layer2(theirs.layer1(x))))
