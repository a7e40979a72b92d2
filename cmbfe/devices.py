"""Where the arithmetic happens: device, number of processes, precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from cmbfe.errors import InputError


@dataclass(frozen=True)
class Compute:
    """A device with the precision that is used on it."""

    fabric: Fabric
    precision: str
    """"bf16-mixed" or "32-true"."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    def autocast(self) -> AbstractContextManager:
        """Convolutions in bf16 inside this context, if that is the precision.

        Not Fabric's own autocast: that also rounds a model's inputs to bf16, and a box edge at 301.5 px becomes 302.
        """
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def choose_precision(asked: str, device_type: str) -> str:
    """Return the precision asked for, or for "auto" bf16 where the hardware multiplies it and float32 elsewhere.

    Such hardware is a CPU with AMX or AVX512-BF16, or a GPU with bf16.
    """
    if asked != "auto":
        return asked
    if device_type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    multiplies = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if multiplies else "32-true"


def make_compute(accelerator: str = "auto", precision: str = "auto") -> Compute:
    """Choose device and precision; `auto` takes a GPU where there is one.

    Raises:
        InputError: cuda asked for where there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("training.accelerator: cuda asked for, but there is no CUDA device; say auto or cpu")
    device_type = ("cuda" if torch.cuda.is_available() else "cpu") if accelerator == "auto" else accelerator
    return Compute(Fabric(accelerator=device_type, devices=1), choose_precision(precision, device_type))
