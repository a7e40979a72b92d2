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


@pytest.mark.parametrize(("has_amx", "has_avx512_bf16"), [(True, True), (True, False), (False, True), (False, False)])
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(monkeypatch, has_amx, has_avx512_bf16):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    assert choose_precision("auto", "cpu") == ("bf16-mixed" if has_amx or has_avx512_bf16 else "32-true")


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_on_a_gpu_that_multiplies_it_and_not_where_it_is_emulated(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    assert choose_precision("auto", "cuda") == ("bf16-mixed" if has else "32-true")


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device"):
        make_compute("cuda")
    assert make_compute("auto", "32-true").device.type == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_convolutions_take_the_precision_asked_for(precision, dtype):
    compute, layer = make_compute("cpu", precision), torch.nn.Conv2d(1, 1, 1)
    with compute.autocast():
        assert layer(torch.ones(1, 1, 2, 2)).dtype == dtype
    assert str(compute) == f"cpu, precision {precision}, 1 process"


@pytest.fixture
def as_started(monkeypatch) -> Callable[..., None]:
    """Set the environment that torchrun or SLURM gives a process."""

    def set_it(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    for name in ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_JOB_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return set_it


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 1}
TORCHRUN |= {"LOCAL_WORLD_SIZE": 4, "WORLD_SIZE": 8}


def test_processes_are_those_that_torchrun_or_slurm_started(as_started):
    assert started_processes() == (1, 1)
    as_started(SLURM_NTASKS=6, SLURM_NNODES=3, SLURM_JOB_NAME="train")
    assert started_processes() == (2, 3)
    as_started(**TORCHRUN)
    assert started_processes() == (4, 2)


@pytest.mark.parametrize(("has_gpus", "expected"), [(0, "cpu"), (4, "cuda")])
def test_fabric_is_given_the_processes_and_a_gpu_for_each_where_there_are_some(
    as_started, monkeypatch, has_gpus, expected
):
    as_started(**TORCHRUN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: has_gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    with mock.patch.object(devices, "Fabric") as fabric:
        compute = make_compute(precision="auto" if has_gpus else "32-true")
    fabric.assert_called_once_with(accelerator=expected, devices=4, num_nodes=2, strategy="auto")
    fabric.return_value.launch.assert_called_once_with()
    assert compute.precision == ("bf16-mixed" if has_gpus else "32-true")


def test_several_processes_become_distributed_data_parallel_with_one_gpu_each(as_started, monkeypatch):
    as_started(**TORCHRUN)
    monkeypatch.setattr(Fabric, "launch", lambda self: None)
    compute = make_compute("cpu", "32-true")
    assert isinstance(compute.fabric.strategy, DDPStrategy)
    assert (compute.processes, compute.number) == (8, 5)
    assert compute.fabric.strategy.process_group_backend is None  # Fabric takes gloo for CPUs, NCCL for GPUs


@pytest.mark.parametrize(
    ("name", "asked", "started", "command"),
    [("devices", 8, 4, "--nnodes 2 --nproc-per-node 8"), ("nodes", 3, 2, "--nnodes 3 --nproc-per-node 4")],
)
def test_other_processes_than_asked_for_are_refused(as_started, name, asked, started, command):
    as_started(**TORCHRUN)
    with pytest.raises(InputError, match=f"training.{name}: {asked} asked for, but {started} started.*{command}"):
        make_compute("cpu", **{name: asked})


def test_more_processes_than_gpus_are_refused(as_started, monkeypatch):
    as_started(**TORCHRUN)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match=r"4 processes .* 3 CUDA devices"):
        make_compute()


def test_backends_that_stream_pass_and_others_are_named():
    for backend in ("loky", "threading", "tcp://host:8786"):
        check_backend(backend)
    for backend in ("multiprocessing", "sequential", ""):
        with pytest.raises(InputError, match=f"^backend {backend}: give loky, threading"):
            check_backend(backend)


def test_the_number_of_threads_is_afterwards_as_it_was_also_after_an_error():
    before = torch.get_num_threads()
    for number in (1, 3):
        with threads(number):
            assert torch.get_num_threads() == number
    with pytest.raises(ValueError, match="inside"), threads(1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before


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


def test_the_machine_is_named_with_its_precision():
    said = timing.machine(make_compute("cpu", "32-true"))
    assert "32-true" in said
    assert torch.__version__ in said
