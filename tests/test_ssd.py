"""The detectors: published counts and maps, twins that differ in nothing but FE, FE that is gone in evaluation."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cmbfe.detector.alternatives import LAYERS
from cmbfe.detector.ssd import VARIANTS, build
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


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.endswith("-fe")])
def test_a_training_step_gives_finite_losses_and_gradients(variant):
    model = small(variant).train()
    losses = model(*batch())
    sum(losses.values()).backward()
    assert set(losses) == {"classification", "box_regression"}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


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
    ([[1.0, 1, 9, 9]], [2], "expected 1 to 1"),
    ([[1.0, 1, 9, 9]], [1.0], "expected 1 integers"),
    ([[1.0, 1, 9, 9]], [1, 1], "expected 1 integers"),
])  # fmt: skip
def test_unusable_targets_are_refused_with_their_index(boxes, labels, reason):
    images, targets = batch()
    targets[1] = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
    with pytest.raises(InputError, match=f"target 1: .*{reason}"):
        small("ssd300").train()(images, targets)


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


def test_an_image_that_is_no_image_is_refused_with_its_index():
    model, image = small("ssd300").eval(), torch.rand(3, 50, 50)
    for unusable in (image[:1], image[0], image.to(torch.uint8), image.double(), image[:, :0]):
        with pytest.raises(InputError, match="image 1: expected a float tensor"):
            model([image, unusable])
    with pytest.raises(InputError, match="no image given"):
        model([])


@pytest.mark.parametrize(("setting", "value"), [
    ("variant", "ssd1024"), ("default_boxes", "imagenet"), ("resize", "cubic"), ("placement", "head"),
    ("weighting", "text"), ("layer", "text"), ("width", 0.0), ("beta", -1.0), ("detections_per_image", 0),
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
def test_a_step_at_full_width_and_batch_4_runs_in_bf16_with_losses_in_float32(variant):
    torch.manual_seed(0)
    model = build(variant).to(memory_format=torch.channels_last).train()
    images = torch.rand(4, 3, model.input_size, model.input_size)
    targets = batch()[1] * 2
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
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
