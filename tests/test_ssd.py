"""The detectors: published counts and maps, twins that differ in nothing but FE, FE that is gone in evaluation."""

import pytest
import torch

from cmbfe.detector.ssd import VARIANTS, build
from cmbfe.errors import InputError

PUBLISHED = {
    "ssd512": ((64, 32, 16, 8, 4, 2, 1), 24564),
    "ssd300": ((38, 19, 10, 5, 3, 1), 8732),
    "mobilenet320": ((20, 10, 5, 3, 2, 1), 3234),
    "resnet34-300": ((38, 19, 10, 5, 3, 1), 8732),
}
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
def test_maps_and_default_boxes_are_the_published_ones(variant):
    maps, boxes = PUBLISHED[variant.removesuffix("-fe")]
    model = small(variant).eval()
    assert model.map_sizes == maps
    assert model.default_boxes.shape == (boxes, 4)
    features = model.feature_maps(torch.rand(1, 3, model.input_size, model.input_size))
    assert tuple(x.shape[-1] for x in features) == maps


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.endswith("-fe")])
def test_the_fe_twin_has_the_same_parameters_and_the_same_initial_weights(variant):
    plain, enhanced = small(variant).state_dict(), small(f"{variant}-fe").state_dict()
    assert list(plain) == list(enhanced)
    assert all(torch.equal(plain[name], enhanced[name]) for name in plain)


@pytest.mark.parametrize("variant", VARIANTS)
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
    pictures = torch.rand(1, 3, 300, 300)
    mask = torch.zeros(1, 1, 300, 300)
    mask[..., 100:180, 100:180] = 0.7
    with torch.no_grad():
        plain, enhanced = model.feature_maps(pictures), model.feature_maps(pictures, mask)
    assert torch.allclose(plain[0], enhanced[0], atol=1e-5) is not head_changes
    assert torch.allclose(plain[1], enhanced[1], atol=1e-5) is (placement == "source")


def test_boxes_come_back_in_px_of_the_picture_given():
    model = small("ssd300", score_threshold=0.0).eval()
    image = torch.rand(3, 300, 300)
    doubled = torch.nn.functional.interpolate(image[None], (600, 600), mode="nearest")[0]
    assert model([image])[0]["boxes"].max() <= 300
    assert model([doubled])[0]["boxes"].max() > 300


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([[5.0, 5.0, 5.0, 9.0]], "box 0"),
        ([[5.0, 5.0, 9.0, 9.0], [1.0, 2.0, float("nan"), 9.0]], "box 1"),
        ([[5.0, 5.0, 9.0]], "shape"),
    ],
)
def test_unusable_targets_are_refused_with_their_index(boxes, reason):
    model = small("ssd300").train()
    images, targets = batch()
    targets[1] = {"boxes": torch.tensor(boxes), "labels": torch.ones(len(boxes), dtype=torch.int64)}
    with pytest.raises(InputError, match=f"target 1: .*{reason}"):
        model(images, targets)


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="ssd512"):
        build("ssd1024")
