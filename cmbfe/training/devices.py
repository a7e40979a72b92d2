"""Device, processes and precision of the computation."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from cmbfe.errors import InputError


@dataclass(frozen=True)
class Compute:
    """The device of this process and its precision."""

    fabric: Fabric
    precision: str  # "bf16-mixed" or "32-true"

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def processes(self) -> int:
        """Number of processes that train together, including this process."""
        return self.fabric.world_size

    @property
    def number(self) -> int:
        """The number (rank) of this process, from 0; process 0 writes the files."""
        return self.fabric.global_rank

    def __str__(self) -> str:
        together = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{self.device}, precision {self.precision}, {together}"

    def autocast(self) -> AbstractContextManager:
        """A context in which convolutions run in bf16 if the precision is bf16.

        Fabric's own autocast also rounds a model's inputs to bf16, so that a box edge at 301.5 px becomes 302.
        """
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def choose_precision(asked: str, device_type: str) -> str:
    """Return the requested precision; "auto" gives bf16 if the hardware can multiply in bf16, otherwise float32."""
    if asked != "auto":
        return asked
    return "bf16-mixed" if multiplies_bf16(device_type) else "32-true"


def multiplies_bf16(device_type: str) -> bool:
    """Whether the hardware itself multiplies in bf16, without emulation (CPUs with AMX or AVX512-BF16, some GPUs)."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def started_processes() -> tuple[int, int]:
    """Processes per machine and number of machines that torchrun or SLURM started; (1, 1) for a single process."""
    if TorchElasticEnvironment.detect():
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        return each, int(os.environ["WORLD_SIZE"]) // each
    if SLURMEnvironment.detect():
        machines = int(os.environ.get("SLURM_NNODES", 1))
        return int(os.environ["SLURM_NTASKS"]) // machines, machines
    return 1, 1


def make_compute(
    accelerator: str = "auto",
    precision: str = "auto",
    devices: int | str = "auto",
    nodes: int | str = "auto",
    strategy: str = "auto",
) -> Compute:
    """Choose device, processes and precision; `auto` uses a GPU if there is one, and all started processes.

    Args:
        devices, nodes: expected processes per machine and expected machines; torchrun or SLURM starts the processes.
        strategy: Fabric's strategy; "auto" is DistributedDataParallel (DDP) for several processes.

    Raises:
        InputError: cuda is requested but missing, GPUs are fewer than processes, or other processes were started.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("training.accelerator: cuda asked for, but there is no CUDA device; say auto or cpu")
    device_type = ("cuda" if torch.cuda.is_available() else "cpu") if accelerator == "auto" else accelerator
    each, machines = started_processes()
    for name, asked, started in (("devices", devices, each), ("nodes", nodes, machines)):
        if asked not in ("auto", started):
            raise InputError(
                f"training.{name}: {asked} asked for, but {started} started; say auto, or start them: "
                f"torchrun --nnodes {nodes if nodes != 'auto' else machines} "
                f"--nproc-per-node {devices if devices != 'auto' else each} -m cmbfe train …"
            )
    if device_type == "cuda" and each > torch.cuda.device_count():
        hint = "start one process for each, or say training.accelerator: cpu"
        raise InputError(f"{each} processes started here, but {torch.cuda.device_count()} CUDA devices; {hint}")
    if device_type == "cuda":
        torch.backends.cudnn.deterministic = True  # sums are in the same order in every run
        torch.backends.cudnn.allow_tf32 = False  # full float32, not rounded to 10 bits
    fabric = Fabric(accelerator=device_type, devices=each, num_nodes=machines, strategy=strategy)
    if each * machines > 1:
        fabric.launch()  # joins the processes that torchrun or SLURM started; starts none
    return Compute(fabric, choose_precision(precision, device_type))
