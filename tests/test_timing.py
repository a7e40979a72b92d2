"""Timing: who runs when, what is measured. No test looks at how long something took."""

import pytest
import torch

from cmbfe.detector.ssd import build
from cmbfe.errors import InputError
from cmbfe.training import timing
from cmbfe.training.devices import make_compute

CPU = torch.device("cpu")


def test_works_take_turns_and_the_warm_up_is_left_out(monkeypatch):
    calls = []
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timed = timing.in_turn([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3, device=CPU)
    assert "".join(calls) == "baabbaabba"
    assert timed == [(1, 1)] * 3


def test_medians_and_ratios_are_those_of_the_rounds(monkeypatch):
    ticks = {"forward": [(2.0, 2.0), (4.0, 5.0), (8.0, 12.0)], "step": [(1.0, 1.0)] * 3}
    rounds = iter([ticks["forward"], ticks["step"]])
    monkeypatch.setattr(timing, "in_turn", lambda works, number, device: next(rounds))
    twins = [build(name, width=0.1) for name in ("ssd300", "ssd300-fe")]
    cost = timing.cost_of_fe(*twins, 1, 3, make_compute("cpu", "32-true"))
    assert cost.loc["forward", ["seconds", "seconds_fe", "ratio"]].tolist() == [4.0, 5.0, 1.25]
    assert cost.loc["forward", ["ratio_low", "ratio_high"]].tolist() == [1.0, 1.5]
    assert cost.loc["step"].tolist() == [1.0] * 5
    with pytest.raises(InputError, match="rounds: 1"):
        timing.cost_of_fe(*twins, 1, 1, make_compute("cpu", "32-true"))


@pytest.mark.parametrize("boxes", [0, 3])
def test_a_random_batch_is_one_that_a_detector_trains_on(boxes):
    images, targets = timing.random_batch(2, 300, CPU, boxes)
    assert images.shape == (2, 3, 300, 300)
    assert [len(target["boxes"]) for target in targets] == [boxes, boxes]
    model = build("ssd300-fe", width=0.1).train()
    before = model.stem[0].weight.clone()
    timing.forward_pass(model, (images, targets), make_compute("cpu", "32-true"))
    assert torch.equal(model.stem[0].weight, before)
    timing.training_step(model, (images, targets), make_compute("cpu", "32-true"))()
    assert torch.equal(model.stem[0].weight, before) is (boxes == 0)


def test_ratios_are_taken_within_each_round():
    timed = [(2.0, 1.0), (20.0, 5.0), (3.0, 1.0)]
    assert timing.ratio_within_rounds(timed, 0, 1) == (3.0, 2.0, 4.0)


def test_images_in_memory_are_those_of_the_random_batch():
    images, targets = timing.random_batch(2, 64, CPU)
    batch = timing.random_images(2, 64)
    assert (batch.images.dtype, batch.images.shape) == ("uint8", (2, 64, 64))
    assert torch.allclose(torch.from_numpy(batch.images) / 255, images[:, 0], atol=1 / 255)
    assert all((boxes == target["boxes"].numpy()).all() for boxes, target in zip(batch.boxes, targets, strict=True))


def test_the_machine_is_named_with_its_precision():
    said = timing.machine(make_compute("cpu", "32-true"))
    assert "32-true" in said
    assert torch.__version__ in said
