"""Device and precision: what is asked for is given or refused, and `auto` follows the hardware."""

import pytest
import torch

from cmbfe.devices import choose_precision, make_compute
from cmbfe.errors import InputError


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed"])
def test_a_precision_that_is_asked_for_is_used(asked):
    assert choose_precision(asked, "cpu") == asked
    assert make_compute("cpu", asked).precision == asked


@pytest.mark.parametrize(
    ("has_amx", "has_avx512_bf16", "expected"),
    [(True, True, "bf16-mixed"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(monkeypatch, has_amx, has_avx512_bf16, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    assert choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bf16_on_a_gpu_that_multiplies_it_and_not_where_it_is_emulated(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16 or including_emulation
    )
    assert choose_precision("auto", "cuda") == expected


def test_cuda_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device"):
        make_compute("cuda")
    assert make_compute("auto", "32-true").device.type == "cpu"


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_convolutions_take_the_precision(precision, dtype):
    layer = torch.nn.Conv2d(1, 1, 1)
    with make_compute("cpu", precision).autocast():
        assert layer(torch.ones(1, 1, 2, 2)).dtype == dtype
