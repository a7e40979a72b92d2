"""FE behind a layer of detectors that know nothing of it: torchvision's, and one of a few lines."""

import copy
import pickle
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import detection

from cmbfe.detector.alternatives import AssistedExcitation, BoxSegmentation
from cmbfe.detector.fe import FeatureEnhancement, enhance, enhancement_mask
from cmbfe.detector.hooks import enhance_during_training
from cmbfe.detector.ssd import build
from cmbfe.errors import InputError

UNTRAINED = {"weights": None, "weights_backbone": None, "num_classes": 2}
SIDES = {"min_size": 64, "max_size": 96}
DETECTORS = {
    "faster_rcnn": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**UNTRAINED, **SIDES),
    "retinanet": lambda: detection.retinanet_resnet50_fpn(**UNTRAINED, **SIDES),
    "ssdlite": lambda: detection.ssdlite320_mobilenet_v3_large(**UNTRAINED),
}


def images_and_targets(seed: int = 0):
    """Two images of different sizes, so that a detector has to resize and pad; one box lies over a border."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, *size, generator=generator) for size in ((50, 70), (64, 64))]
    boxes = [torch.tensor([[5.0, 6, 20, 30], [50, 30, 75, 52]]), torch.tensor([[30.0, 20, 44, 41]])]
    return images, [{"boxes": one, "labels": torch.ones(len(one), dtype=torch.int64)} for one in boxes]


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request):
    torch.manual_seed(0)
    return DETECTORS[request.param]()


def losses(model, seed=0):
    torch.manual_seed(seed)  # Faster R-CNN samples proposals
    with torch.no_grad():
        return {name: float(loss) for name, loss in model.train()(*images_and_targets()).items()}


def test_evaluation_and_state_dict_are_those_of_the_bare_detector(detector):
    images, _ = images_and_targets()
    bare = detector.eval()(images)
    keys = list(detector.state_dict())
    with enhance_during_training(detector, "backbone"):
        losses(copy.deepcopy(detector))
        assert list(detector.state_dict()) == keys
        enhanced = detector.eval()(images)
    for ours, theirs in zip(enhanced, bare, strict=True):
        for name, values in theirs.items():
            assert torch.equal(ours[name], values)


def as_the_detector_sees(images, targets, transform):
    """Images in [0, 1] and boxes after the detector's resizing and padding, without its normalisation."""
    plain = copy.copy(transform)
    plain.image_mean, plain.image_std = [0.0] * 3, [1.0] * 3
    seen, resized = plain(images, targets)
    limits = [torch.tensor([columns, rows] * 2) for rows, columns in seen.image_sizes]
    pairs = zip(resized, limits, strict=True)
    return seen.tensors, [torch.minimum(target["boxes"], limit) for target, limit in pairs]


def test_the_layers_output_in_training_is_that_of_enhance_by_hand_through_resize_and_padding(detector):
    seen = []
    note = lambda layer, args, maps: seen.append({key: one.clone() for key, one in maps.items()})  # noqa: E731
    hook = detector.backbone.register_forward_hook
    with hook(note), enhance_during_training(detector, "backbone"), hook(note):
        losses(detector)
    plain, enhanced = seen
    images, boxes = as_the_detector_sees(*images_and_targets(), detector.transform)
    mask = enhancement_mask(images, boxes)
    assert mask.any(dim=(1, 2, 3)).all()
    for key, features in plain.items():
        torch.testing.assert_close(enhanced[key], enhance(features, mask), atol=1e-5, rtol=1e-5)
    assert not torch.equal(next(iter(enhanced.values())), next(iter(plain.values())))


def test_a_box_outside_its_image_enhances_no_padding(detector):
    images, targets = images_and_targets()
    targets[0]["boxes"][1] = torch.tensor([71.0, 10, 80, 30])  # the image is 70 px wide
    seen = []
    with enhance_during_training(detector, "backbone") as attached, torch.no_grad():
        attached.fe.register_forward_pre_hook(lambda fe, args, kwargs: seen.append(kwargs["mask"]), with_kwargs=True)
        detector.train()(images, targets)
    assert float(seen[0][0, ..., round(0.8 * seen[0].shape[-1]) :].max()) == 0


def test_losses_change_with_fe_come_back_without_and_a_deep_copy_has_fe_of_its_own(detector):
    bare = losses(detector)
    with enhance_during_training(detector, "backbone"):
        with_fe = losses(detector)
        twin = copy.deepcopy(detector)
    assert with_fe != bare
    assert losses(detector) == bare
    assert losses(twin) == with_fe
    assert losses(pickle.loads(pickle.dumps(twin))) == with_fe


class Dots(nn.Module):
    """A detector of one convolution that takes images as they are; its loss is the mean inside of the features."""

    def __init__(self, checkpointed=False, give=lambda features: features):
        super().__init__()
        self.checkpointed, self.give = checkpointed, give
        self.trunk = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(self.trunk, nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)
        self.odd, self.idle = nn.Identity(), nn.Identity()

    def forward(self, images, targets=None):
        batch = images if isinstance(images, torch.Tensor) else torch.stack(images)
        features = checkpoint(self.body, batch, use_reentrant=False) if self.checkpointed else self.body(batch)
        self.odd(self.give(features))
        scores = self.head(features)
        return {"loss": scores.square().mean()} if self.training else scores


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
TARGETS = [{"boxes": torch.tensor([[2.0, 2, 9, 9]])}, {"boxes": torch.tensor([[4.0, 6, 12, 12]])}]


def dots(**settings):
    torch.manual_seed(0)
    return Dots(**settings).train()


def by_hand(model, fe=None):
    fe = fe or FeatureEnhancement()
    mask = fe.mask(IMAGES, [one["boxes"] for one in TARGETS])
    return model.head(F.relu(fe(model.trunk(IMAGES), mask))).square().mean()


@pytest.mark.parametrize("call", [
    lambda model: model(IMAGES, TARGETS),
    lambda model: model(list(IMAGES), targets=TARGETS),
    lambda model: model(images=list(IMAGES), targets=TARGETS),
])  # fmt: skip
def test_images_and_boxes_are_found_however_the_detector_is_called(call):
    model = dots()
    with enhance_during_training(model, "trunk"):
        torch.testing.assert_close(call(model)["loss"], by_hand(model))
    mask = enhancement_mask(IMAGES, [target["boxes"] for target in TARGETS])
    expected = enhance(model.head(F.relu(enhance(model.trunk(IMAGES), mask))), mask).square().mean()
    enhance_during_training(model, ["trunk", "head"])  # several layers
    torch.testing.assert_close(call(model)["loss"], expected)


@pytest.mark.parametrize("second", ["trunk", "body.0", "body", ["head", "trunk"]])
def test_fe_twice_at_one_place_is_refused_by_any_name_and_possible_again_once_removed(second):
    model = dots()
    first = enhance_during_training(model, "trunk")
    loss = model(IMAGES, TARGETS)["loss"]
    for again in (model, copy.deepcopy(model)):
        with pytest.raises(InputError, match="has FE already"):
            enhance_during_training(again, second)
        torch.testing.assert_close(again(IMAGES, TARGETS)["loss"], loss)
    first.remove()
    with enhance_during_training(model, second):
        assert not torch.equal(model(IMAGES, TARGETS)["loss"], dots()(IMAGES, TARGETS)["loss"])
    with enhance_during_training(model, "trunk"):
        torch.testing.assert_close(model(IMAGES, TARGETS)["loss"], loss)


def test_fe_twice_is_refused_in_one_call_around_a_layer_that_has_it_and_in_a_detector_with_its_own():
    model = dots()
    for layers in (["trunk", "trunk"], ["trunk", "body.0"], ["trunk", "body"], ["body", "body.1"]):
        with pytest.raises(InputError, match="has FE already"):
            enhance_during_training(model, layers)
    enhance_during_training(model, "body")
    for layer in ("trunk", "body.1"):
        with pytest.raises(InputError, match="has FE already"):
            enhance_during_training(model, layer)
    outer = nn.ModuleDict({"inner": model})
    with pytest.raises(InputError, match="has FE already"):
        enhance_during_training(outer, "inner.body")
    with pytest.raises(InputError, match="FE of its own"):
        enhance_during_training(build("ssd300-fe", width=0.1), "stem")


def replica_of(module):
    """As DataParallel makes one, on the CPU: a shallow copy whose layers are shallow copies too."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = replica_of(child)
    for name, weight in module._parameters.items():
        setattr(replica, name, weight)
    return replica


@pytest.mark.parametrize("copied", [replica_of, copy.copy, lambda model: model])
@pytest.mark.parametrize("layer", ["trunk", "body"])
def test_replicas_in_threads_have_the_mask_of_their_own_images(copied, layer):
    model = dots()
    enhance_during_training(model, layer)
    expected = [model(IMAGES[i : i + 1], TARGETS[i : i + 1])["loss"] for i in range(2)]
    barrier = threading.Barrier(2)

    def once_both_have_begun(*_):
        barrier.wait(10)

    model.trunk.register_forward_pre_hook(once_both_have_begun)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(copied(model), IMAGES[i : i + 1], TARGETS[i : i + 1]) for i in range(2)]
        for call, loss in zip(calls, expected, strict=True):
            torch.testing.assert_close(call.result()["loss"], loss)


def test_layers_that_dataparallel_calls_and_weights_that_it_does_not_share_are_refused():
    model = dots()
    with pytest.raises(InputError, match="inside a DataParallel"):
        enhance_during_training(nn.DataParallel(model), "module.trunk")
    enhance_during_training(model, "trunk", BoxSegmentation([4]))
    with pytest.raises(InputError, match="BoxSegmentation has weights"):
        replica_of(model)(IMAGES, TARGETS)


@pytest.mark.parametrize("fe", [FeatureEnhancement(beta=2.0, resize="max"), AssistedExcitation()])
def test_any_layer_with_the_interface_of_fe_can_stand_there_and_fade(fe):
    model = dots()
    enhance_during_training(model, "trunk", fe)
    for fe.strength in (1.0, 0.25):
        torch.testing.assert_close(model(IMAGES, TARGETS)["loss"], by_hand(model, fe))


def test_gradients_are_those_of_enhance_by_hand_with_and_without_checkpointing():
    gradients = []
    for checkpointed in (False, True):
        model = dots(checkpointed=checkpointed)
        enhance_during_training(model, "trunk")
        model(IMAGES, TARGETS)["loss"].backward()
        gradients.append(model.trunk.weight.grad)
    model = dots()
    by_hand(model).backward()
    for gradient in gradients:
        torch.testing.assert_close(gradient, model.trunk.weight.grad)


def interrupt(*call):
    raise KeyboardInterrupt


def test_a_layer_called_outside_of_the_detectors_call_is_bare():
    model = dots()
    bare = model.trunk(IMAGES)
    enhance_during_training(model, "trunk")
    model(IMAGES, TARGETS)
    assert torch.equal(model.trunk(IMAGES), bare)
    with pytest.raises(RuntimeError):  # in the midst of a call
        model(torch.rand(2, 5, 16, 16), TARGETS)
    assert torch.equal(model.trunk(IMAGES), bare)
    with model.head.register_forward_hook(interrupt), pytest.raises(KeyboardInterrupt):
        model(IMAGES, TARGETS)
    assert torch.equal(model.eval()(IMAGES), dots().eval()(IMAGES))


def test_a_compiled_detector_has_the_same_loss_and_gradients_and_an_exported_one_nothing_of_fe():
    model = dots()
    enhance_during_training(model, "trunk")
    compiled = torch.compile(model, backend="aot_eager")
    loss = compiled(IMAGES, TARGETS)["loss"]
    torch.testing.assert_close(loss, by_hand(model))
    loss.backward()
    ours, model.trunk.weight.grad = model.trunk.weight.grad, None
    by_hand(model).backward()
    torch.testing.assert_close(ours, model.trunk.weight.grad)
    bare = dots().eval()
    assert torch.equal(torch.compile(model.eval(), backend="aot_eager")(IMAGES), bare(IMAGES))
    programs = [torch.export.export(detector, (IMAGES,)) for detector in (model, bare)]
    assert programs[0].graph_module.code == programs[1].graph_module.code


Pair = namedtuple("Pair", "fine coarse")


@pytest.mark.parametrize("give", [
    lambda features: {"fine": features, "coarse": features[..., ::2, ::2]},
    lambda features: [features, (features,)],
    lambda features: Pair(features, features),
])  # fmt: skip
def test_maps_in_dicts_lists_and_tuples_are_enhanced_and_keep_their_places(give):
    model = dots(give=give)
    seen = []
    enhance_during_training(model, "odd")
    model.odd.register_forward_hook(lambda layer, args, made: seen.extend((args[0], made)))
    model(IMAGES, TARGETS)
    plain, enhanced = seen
    mask = enhancement_mask(IMAGES, [one["boxes"] for one in TARGETS])
    assert type(enhanced) is type(plain)
    torch.testing.assert_close(enhanced, torch.utils._pytree.tree_map(lambda one: enhance(one, mask), plain))


def test_what_fe_cannot_work_on_is_said_in_a_line():
    model = dots(give=lambda features: features.mean(dim=(2, 3)))
    with pytest.raises(
        InputError, match=r"no layer 'neck' in Dots; its outermost layers: trunk, body, head, odd, idle"
    ):
        enhance_during_training(model, "neck")
    with pytest.raises(InputError, match="FE schedule 'linear'"):
        enhance_during_training(model, "trunk", schedule="linear")
    with enhance_during_training(model, "trunk"):
        for targets in (None, [{"labels": 1}, {}], 3, iter(TARGETS)):
            with pytest.raises(InputError, match=r"call the detector as model\(images, targets\)"):
                model(IMAGES, targets)
        with pytest.raises(InputError, match="images of one size"):
            model([IMAGES[0], IMAGES[1, :, :8]], TARGETS)
        with pytest.raises(InputError, match="1 box tensors for 2 images"):
            model(IMAGES, TARGETS[:1])
    with (
        enhance_during_training(model, "odd"),
        pytest.raises(InputError, match=r"'odd' gives a tensor of shape \[2, 4\]"),
    ):
        model(IMAGES, TARGETS)
    with pytest.raises(InputError, match="no layer is named"):
        enhance_during_training(model, [])
    with enhance_during_training(model, ["trunk", "idle"]), pytest.raises(InputError, match="'idle' is not called"):
        model(IMAGES, TARGETS)
    parts = dots(give=lambda features: features.repeat(3, 1, 1, 1))
    with enhance_during_training(parts, "odd"), pytest.raises(InputError, match=r"needs feature maps \[2, C, h, w\]"):
        parts(IMAGES, TARGETS)
    early = DETECTORS["ssdlite"]()
    with enhance_during_training(early, "transform"), pytest.raises(InputError, match=r"has resized|gives"):
        losses(early)
