"""FE equals a plain transcription of PAPER section 2.3; it and its alternatives are there in training only."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmbfe.detector.alternatives import ALTERNATIVES, PLAIN, AssistedExcitation, BoxSegmentation, attach, channels_of
from cmbfe.detector.fe import FeatureEnhancement, box_mask, enhance, enhancement_mask, strength
from cmbfe.detector.torchvision_detectors import build
from cmbfe.errors import InputError


def transcription(image: np.ndarray, boxes: np.ndarray, beta: float) -> np.ndarray:
    """The mask, pixel by pixel, in float64; the larger value where boxes overlap."""
    height, width = image.shape
    mask = np.zeros((height, width))
    for x1, y1, x2, y2 in boxes:
        inside = [(i, j) for i in range(height) for j in range(width) if y1 <= i + 0.5 < y2 and x1 <= j + 0.5 < x2]
        if not inside:
            own = int(np.floor((y1 + y2) / 2)), int(np.floor((x1 + x2) / 2))
            inside = [own] if 0 <= own[0] < height and 0 <= own[1] < width else []
        b_mean = beta * np.mean([image[pixel] for pixel in inside]) if inside else 0
        for pixel in inside:
            if b_mean > 0 and image[pixel] <= b_mean:
                mask[pixel] = max(mask[pixel], 1 - image[pixel] / b_mean)
    return mask


boxes_over_the_border = st.lists(
    st.tuples(st.floats(-6, 18), st.floats(-6, 14), st.floats(0.05, 12), st.floats(0.05, 12)), max_size=4
)


@settings(max_examples=150, deadline=None)
@given(boxes_over_the_border, st.integers(0, 2**31), st.sampled_from([1.0, 1.5, 2.0]), st.booleans())
def test_the_mask_equals_the_transcription(sides, seed, beta, is_partly_black):
    pixels = np.random.default_rng(seed).random((12, 16)).astype(np.float32)
    if is_partly_black:
        pixels[:, :8] = 0
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in sides], np.float32).reshape(-1, 4)
    image = torch.from_numpy(pixels)[None, None].expand(1, 3, -1, -1)
    mask = enhancement_mask(image, [torch.from_numpy(boxes)], beta)
    assert mask.shape == (1, 1, 12, 16)
    assert mask.min() >= 0
    assert mask.max() <= 1
    np.testing.assert_allclose(mask[0, 0].numpy(), transcription(pixels, boxes, beta), atol=1e-6)


def test_a_hand_worked_box_beside_images_with_other_boxes_and_none():
    # Mean 0.4, B_mean 0.6: 0.8 is discarded, the others become 1 - P / 0.6.
    images = torch.tensor([[0.2, 0.8], [0.6, 0.0]]).expand(3, 3, 2, 2)
    boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.empty(0, 4), torch.tensor([[0.0, 0, 1, 1], [1.0, 0, 2, 1]])]
    mask = enhancement_mask(images, boxes, beta=1.5)
    expected = [[[2 / 3, 0.0], [0.0, 1.0]], [[0.0, 0.0]] * 2, [[1 / 3, 1 / 3], [0.0, 0.0]]]
    torch.testing.assert_close(mask[:, 0], torch.tensor(expected), atol=1e-6, rtol=0)
    images = torch.zeros(1, 3, 4, 4)
    images[..., 0, 0], images[..., 3, 3] = 0.6, -1e-6  # rounding leaves black below 0, outside of the box
    mask = enhancement_mask(images, [torch.tensor([[0.0, 0, 2, 2]])])
    assert mask[0, 0].tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("resize", ["bilinear", "area", "nearest", "max"])
def test_without_a_mask_features_stay_with_a_full_mask_they_double_or_gain_the_normalised_ones(resize):
    features = torch.randn(2, 5, 7, 6)
    assert torch.equal(enhance(features, torch.zeros(2, 1, 30, 30), resize), features)
    assert enhance(features.bfloat16(), torch.rand(2, 1, 30, 30), resize).dtype == torch.bfloat16
    torch.testing.assert_close(enhance(features, torch.ones(2, 1, 30, 30), resize), 2 * features)
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    enhanced = enhance(features, torch.full((1, 1, 1, 1), 0.5), resize, weighting="figure")
    torch.testing.assert_close(enhanced.flatten(), torch.tensor([3.3, 4.4]))


def test_strength_is_one_or_falls_along_a_cosine_to_nothing_and_unknown_readings_are_refused():
    assert [strength("constant", iteration, 10) for iteration in (0, 5, 10)] == [1, 1, 1]
    cosine = [strength("cosine", iteration, 12) for iteration in (0, 4, 6, 8, 12, 18)]
    np.testing.assert_allclose(cosine, [1, 0.75, 0.5, 0.25, 0, 0], atol=1e-15)
    for keyword, value in (("resize", "cubic"), ("weighting", "text")):
        with pytest.raises(InputError, match=value):
            enhance(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2), **{keyword: value})
    with pytest.raises(InputError, match="'linear': expected one of constant, cosine"):
        strength("linear", 0, 10)


def test_the_layer_has_no_weights_is_differentiable_and_does_nothing_in_evaluation():
    layer = FeatureEnhancement()
    assert not list(layer.parameters())
    assert not layer.state_dict()
    features = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: layer(x, mask), features)
    assert torch.equal(layer.eval()(features, mask), features)


@settings(max_examples=50, deadline=None)
@given(boxes_over_the_border)
def test_the_box_mask_is_one_on_the_pixels_that_fe_looks_at(sides):
    boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in sides]).reshape(-1, 4)
    image = torch.full((1, 3, 12, 16), 0.5)  # of one grey, M is 1 - 1 / beta on every pixel of every box
    expected = enhancement_mask(image, [boxes], beta=2.0) * 2
    torch.testing.assert_close(box_mask(image, [boxes]), expected)


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TARGETS = [
    {"boxes": torch.tensor([corners]), "labels": torch.ones(1, dtype=torch.int64)}
    for corners in ([8.0, 8, 24, 24], [30.0, 20, 44, 41])
]


@pytest.fixture(scope="module")
def bare():
    torch.manual_seed(0)
    return build("ssdlite-small", 64)


@pytest.fixture
def detector(bare):
    return copy.deepcopy(bare)


def losses(model):
    with torch.no_grad():
        return {name: float(loss) for name, loss in model.train()(IMAGES, TARGETS).items()}


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_an_alternative_is_there_in_training_and_absent_in_evaluation(name, detector):
    expected, weights = detector.eval()(IMAGES), copy.deepcopy(detector.state_dict())
    before = losses(copy.deepcopy(detector))
    attached = attach(name, detector, "backbone")
    twin = copy.deepcopy(detector)
    assert losses(twin) != before
    assert list(detector.state_dict()) == list(weights)
    assert all(torch.equal(one, weights[key]) for key, one in detector.state_dict().items())
    for ours, theirs in zip(detector.eval()(IMAGES), expected, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    attached.remove()
    assert losses(detector) == before


def test_the_side_tasks_loss_joins_the_detectors_and_teaches_its_trunk(detector):
    before, state = losses(copy.deepcopy(detector)), torch.get_rng_state()
    attached = attach("segmentation", detector.train(), "backbone")
    assert (torch.equal(torch.get_rng_state(), state), detector.training) == (True, True)
    channels = channels_of(detector, "backbone")  # maps of as many channels share a head
    assert {head.in_channels for head in attached.fe.heads.values()} == set(channels)
    assert (len(attached.fe.heads), len(channels)) == (len(set(channels)), 6)
    made = detector(IMAGES, TARGETS)
    assert {name: loss.item() for name, loss in made.items() if name != "segmentation"} == before
    made["segmentation"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in attached.parameters() if weight.ndim > 1)
    assert next(detector.backbone.parameters()).grad.abs().sum() > 0
    ours = {id(weight) for weight in detector.parameters()}
    assert not ours & {id(weight) for weight in attached.parameters()}
    assert copy.deepcopy(detector)(IMAGES, TARGETS).keys() == made.keys()
    attach("segmentation", detector, "head.classification_head.module_list.0")
    with pytest.raises(InputError, match="a dict of losses, none of them named segmentation"):
        detector(IMAGES, TARGETS)


def test_looking_for_the_channels_leaves_every_layer_in_its_mode(detector):
    detector.train().head.eval()
    attach("segmentation", detector, "backbone")
    assert (detector.training, detector.head.training) == (True, False)


def test_the_side_tasks_loss_is_the_cross_entropy_with_the_share_of_each_cell_inside_boxes():
    side_task = BoxSegmentation([1], weight=2.0)
    head = side_task.heads["1"]
    nn.init.ones_(head.weight)
    nn.init.zeros_(head.bias)
    mask = side_task.mask(torch.zeros(1, 3, 4, 4), [torch.tensor([[0.0, 0, 2, 3]])])
    logit = math.log(3)
    features = torch.full((1, 1, 2, 2), logit)
    assert side_task(features, mask) is features
    # Of the four cells of 2 x 2 px the box fills the first, half of the third, and nothing of the others; p = 3/4.
    each = [-math.log(3 / 4), -math.log(1 / 4), -(math.log(3 / 4) + math.log(1 / 4)) / 2, -math.log(1 / 4)]
    assert float(side_task.losses()["segmentation"]) == pytest.approx(2 * sum(each) / 4)


def test_what_cannot_be_attached_is_said_in_a_line(detector):
    with pytest.raises(InputError, match="no alternative of FE named 'cousin'; there are: assisted-excitation"):
        attach("cousin", detector, "backbone")
    for name in ALTERNATIVES:
        with pytest.raises(InputError, match="no layer 'neck' in SSD"):
            attach(name, detector, "neck")
    assert PLAIN not in ALTERNATIVES


def test_assisted_excitation_adds_the_channels_mean_inside_the_boxes_and_nothing_in_evaluation():
    features = torch.tensor([[1.0, 5.0], [3.0, 7.0]]).reshape(1, 2, 1, 2)  # two channels, two cells
    layer = AssistedExcitation()
    for layer.strength, expected in ((1.0, [1, 11, 3, 13]), (0.5, [1, 8, 3, 10])):
        mask = layer.mask(torch.zeros(1, 3, 1, 2), [torch.tensor([[1.0, 0, 2, 1]])])  # the second cell
        assert layer(features, mask).flatten().tolist() == expected
    assert layer.eval()(features, mask) is features
    assert layer.state_dict() == {}
