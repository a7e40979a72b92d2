"""Device, precision, threads and backend are given or refused; timing, without a look at how long something took."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from cmbfe.detector.ssd import build
from cmbfe.errors import InputError
from cmbfe.parallel import check_backend, threads
from cmbfe.training import devices, timing
from cmbfe.training.devices import choose_precision, make_compute, started_processes


@pytest.mark.parametrize(("amx", "avx512", "gpu"), [(True, False, True), (False, True, False), (False, False, True)])
def test_auto_is_bf16_where_the_device_multiplies_it_and_does_not_emulate_it(monkeypatch, amx, avx512, gpu):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu or including_emulation)
    assert choose_precision("auto", "cpu") == ("bf16-mixed" if amx or avx512 else "32-true")
    assert choose_precision("auto", "cuda") == ("bf16-mixed" if gpu else "32-true")


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_convolutions_take_the_precision_asked_for_and_the_machine_is_named_with_it(precision, dtype):
    compute, layer = make_compute("cpu", precision), torch.nn.Conv2d(1, 1, 1)
    with compute.autocast():
        assert layer(torch.ones(1, 1, 2, 2)).dtype == dtype
    assert str(compute) == f"cpu, precision {precision}, 1 process"
    assert all(part in timing.machine(compute) for part in (precision, torch.__version__))


@pytest.fixture
def as_started(monkeypatch) -> Callable[..., None]:
    """Set the environment that torchrun or SLURM gives a process."""

    def set_it(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    for name in ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return set_it


def given_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """So many CUDA devices, which multiply bf16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 1}
TORCHRUN |= {"LOCAL_WORLD_SIZE": 4, "WORLD_SIZE": 8}


def test_processes_are_those_that_torchrun_or_slurm_started(as_started):
    assert started_processes() == (1, 1)
    as_started(SLURM_NTASKS=6, SLURM_NNODES=3, SLURM_JOB_NAME="train")
    assert started_processes() == (2, 3)
    as_started(**TORCHRUN)
    assert started_processes() == (4, 2)


def test_several_processes_become_distributed_data_parallel_with_one_gpu_each(as_started, monkeypatch):
    as_started(**TORCHRUN)
    monkeypatch.setattr(Fabric, "launch", lambda self: None)
    compute = make_compute("cpu", "32-true")
    assert isinstance(compute.fabric.strategy, DDPStrategy)
    assert (compute.processes, compute.number) == (8, 5)
    assert compute.fabric.strategy.process_group_backend is None  # Fabric takes gloo for CPUs, NCCL for GPUs
    for gpus, expected in ((0, "cpu"), (4, "cuda")):
        given_gpus(monkeypatch, gpus)
        with mock.patch.object(devices, "Fabric") as fabric:
            compute = make_compute(precision="auto" if gpus else "32-true")
        fabric.assert_called_once_with(accelerator=expected, devices=4, num_nodes=2, strategy="auto")
        fabric.return_value.launch.assert_called_once_with()
        assert compute.precision == ("bf16-mixed" if gpus else "32-true")


@pytest.mark.parametrize(("asked", "gpus", "reason"), [
    ({"devices": 8}, 4, "training.devices: 8 asked for, but 4 started.*--nnodes 2 --nproc-per-node 8"),
    ({"nodes": 3}, 4, "training.nodes: 3 asked for, but 2 started.*--nnodes 3 --nproc-per-node 4"),
    ({}, 3, "4 processes .* 3 CUDA devices"),
    ({"accelerator": "cuda"}, 0, "no CUDA device"),
])  # fmt: skip
def test_other_processes_than_asked_for_more_than_gpus_and_cuda_without_any_are_refused(
    as_started, monkeypatch, asked, gpus, reason
):
    as_started(**TORCHRUN)
    given_gpus(monkeypatch, gpus)
    with pytest.raises(InputError, match=reason):
        make_compute(**asked)


def test_the_number_of_threads_is_afterwards_as_it_was_and_backends_that_do_not_stream_are_refused():
    before = torch.get_num_threads()
    for number in (1, 3):
        with threads(number):
            assert torch.get_num_threads() == number
    with pytest.raises(ValueError, match="inside"), threads(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before
    for backend in ("loky", "threading", "tcp://host:8786"):
        check_backend(backend)
    for backend in ("multiprocessing", "sequential", ""):
        with pytest.raises(InputError, match=f"^backend {backend}: give loky, threading"):
            check_backend(backend)


CPU = torch.device("cpu")


def test_works_take_turns_without_the_warm_up_and_medians_and_ratios_are_those_of_the_rounds(monkeypatch):
    calls, clock = [], iter(range(1000))
    with monkeypatch.context() as patched:
        patched.setattr(timing.time, "perf_counter", lambda: next(clock))
        timed = timing.in_turn([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3, device=CPU)
    assert "".join(calls) == "baabbaabba"
    assert timed == [(1, 1)] * 3
    rounds = iter([[(2.0, 2.0), (4.0, 5.0), (8.0, 12.0)], [(1.0, 1.0)] * 3])
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
