"""FE and its alternatives by name: in training each does what its authors say, in evaluation none is there."""

import copy
import math

import pytest
import torch
from torch import nn

from cmbfe.detector.alternatives import ALTERNATIVES, PLAIN, AssistedExcitation, BoxSegmentation, attach, channels_of
from cmbfe.detector.torchvision_detectors import build
from cmbfe.errors import InputError

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


@pytest.mark.parametrize(("name", "at_half", "at_end"), [
    ("fe", 1.0, 1.0),
    ("fading-fe", 0.5, 0.0),
    ("assisted-excitation", 0.5, 0.0),
])  # fmt: skip
def test_what_fades_does_so_along_half_a_cosine(name, at_half, at_end, detector):
    attached = attach(name, detector, "backbone")
    assert attached.fe.strength == 1.0
    assert attached.parameters() == []
    for iteration, expected in ((0, 1.0), (50, at_half), (100, at_end)):
        attached.set_progress(iteration, 100)
        assert attached.fe.strength == pytest.approx(expected)


def test_the_side_tasks_loss_joins_the_detectors_and_teaches_its_trunk(detector):
    before = losses(copy.deepcopy(detector))
    attached = attach("segmentation", detector, "backbone")
    made = detector.train()(IMAGES, TARGETS)
    assert {name: loss.item() for name, loss in made.items() if name != "segmentation"} == before
    made["segmentation"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in attached.parameters() if weight.ndim > 1)
    first = next(detector.backbone.parameters())
    assert first.grad.abs().sum() > 0
    ours = {id(weight) for weight in detector.parameters()}
    assert not ours & {id(weight) for weight in attached.parameters()}


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


def test_maps_of_as_many_channels_share_a_head_and_asking_leaves_mode_and_random_numbers_alone(detector):
    detector.train()
    before = torch.get_rng_state()
    attached = attach("segmentation", detector, "backbone")
    assert torch.equal(torch.get_rng_state(), before)
    assert detector.training
    channels = channels_of(detector, "backbone")
    assert len(channels) == 6
    assert {head.in_channels for head in attached.fe.heads.values()} == set(channels)
    assert len(attached.fe.heads) == len(set(channels))


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
    mask = layer.mask(torch.zeros(1, 3, 1, 2), [torch.tensor([[1.0, 0, 2, 1]])])  # the second cell
    assert mask.tolist() == [[[[0, 1]]]]
    assert layer(features, mask).flatten().tolist() == [1, 11, 3, 13]
    layer.strength = 0.5
    mask = layer.mask(torch.zeros(1, 3, 1, 2), [torch.tensor([[1.0, 0, 2, 1]])])
    assert layer(features, mask).flatten().tolist() == [1, 8, 3, 10]
    assert layer.eval()(features, mask) is features
    assert layer.state_dict() == {}
