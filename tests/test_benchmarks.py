"""What benchmarks say about times that were measured. No test looks at how long something took."""

import pytest
import torch

from benchmarks import train_step, variants
from cmbfe.training.devices import make_compute

NAMES = ["ssd300", "ssd300-fe", train_step.PLAIN, train_step.TUNED, train_step.BARE, "Adam"]


def test_ratios_are_medians_within_rounds_beside_their_limits():
    rounds = [(1.0, 1.2, 4.0, 2.0, 1.0, 0.1), (2.0, 2.0, 10.0, 2.0, 2.0, 0.1), (3.0, 3.0, 15.0, 3.0, 2.0, 0.3)]
    report = train_step.report(NAMES, rounds, train_step.limits("cpu", has_amx=True)).splitlines()
    rows = {line[:45].strip(): line[45:].split() for line in report}
    assert rows["ssd300"] == ["2.0000"]
    assert rows[f"ssd300 / {train_step.PLAIN}"] == ["0.200", "0.200-0.250", "0.25", "yes"]
    assert rows[f"ssd300 / {train_step.TUNED}"] == ["1.000", "0.500-1.000", "1.05", "yes"]
    assert rows[f"ssd300-fe / {train_step.BARE}"] == ["1.200", "1.000-1.500", "1.10", "NO"]
    assert rows["Adam"] == ["10.0%"]


@pytest.mark.parametrize(
    ("device_type", "has_amx", "expected"), [("cpu", True, 0.25), ("cpu", False, 1.0), ("cuda", True, None)]
)
def test_the_limit_to_torchvision_depends_on_amx_and_holds_on_cpus_only(device_type, has_amx, expected):
    assert train_step.limits(device_type, has_amx).get(train_step.PLAIN) == expected
    assert train_step.limits(device_type, has_amx)[train_step.BARE] == 1.1


def test_every_work_of_ours_runs():
    compute = make_compute("cpu", "32-true")
    images = train_step.random_images(2, train_step.SIDE)
    run = train_step.run_on_noise("ssd300-fe", 0.1, compute)
    run.step([images])
    train_step.bare_network(images, 0.1, compute)()
    before = run.bare_model.stem[0].weight.clone()
    parts = train_step.parts_of(run, images)
    parts["matching and losses"]()
    parts["check of the gradient"]()
    assert torch.equal(run.bare_model.stem[0].weight, before)
    parts["Adam"]()
    assert not torch.equal(run.bare_model.stem[0].weight, before)
    assert run.iteration == 1


def test_a_variant_is_measured_and_its_table_says_where():
    threads = torch.get_num_threads()
    cost = variants.measure("mobilenet320-fe", batch=2, width=0.1, iterations=1, threads=threads)
    assert cost.peak_gib > 0
    text = variants.as_markdown({"mobilenet320-fe": cost._replace(peak_gib=1.234, seconds=0.5)}, 2, 0.1, 1)
    assert text.startswith(cost.machine)
    assert "batch 2, width 0.1" in text
    assert text.endswith("| mobilenet320-fe | 320 | 1.23 | 0.500 |")
