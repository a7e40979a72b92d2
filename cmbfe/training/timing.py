"""Time of a training batch and the cost of feature enhancement (FE), measured alternately in one run."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cmbfe.errors import InputError
from cmbfe.training.devices import Compute

Batch = tuple[Tensor, list[dict[str, Tensor]]]
Work = Callable[[], object]
WARM_UP_ROUNDS = 2


def random_batch(size: int, input_size: int, device: torch.device, boxes: int = 3, seed: int = 0) -> Batch:
    """`size` images of noise, `input_size` px square, with `boxes` labelled boxes of 5 to 21 px in each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, input_size, input_size, generator=generator).to(device)
    sides = torch.rand(size, boxes, 2, generator=generator) * 16 + 5
    corners = torch.rand(size, boxes, 2, generator=generator) * (input_size - 21)
    boxes_xyxy = torch.cat([corners, corners + sides], dim=-1).to(device)
    labels = torch.ones(boxes, dtype=torch.int64, device=device)
    return images, [{"boxes": of_image, "labels": labels} for of_image in boxes_xyxy]


def forward_pass(model: nn.Module, batch: Batch, compute: Compute) -> dict[str, Tensor]:
    """The losses of one forward pass in training, including FE. The paper's Table 3 times this pass (section 4)."""
    with compute.autocast():
        return model(*batch)


def training_step(model: nn.Module, batch: Batch, compute: Compute) -> Work:
    """A function that runs one training step: forward pass, losses, backward pass and Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        losses = forward_pass(model, batch, compute)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return step


def seconds(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of one call, including the work that it queued on a GPU."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def in_turn(
    works: Sequence[Work], rounds: int, device: torch.device, progress: bool = False
) -> list[tuple[float, ...]]:
    """Time each function in `works`: a tuple of seconds per round, after two rounds of warm-up.

    The functions take turns, in reverse order in every second round. Other load on the machine affects all equally.
    """
    timed = []
    for number in tqdm(range(rounds + WARM_UP_ROUNDS), desc="rounds", unit="round", disable=not progress):
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        measured = {index: seconds(works[index], device) for index in order}
        timed.append(tuple(measured[index] for index in range(len(works))))
    return timed[WARM_UP_ROUNDS:]


def ratio_within_rounds(timed: Sequence[tuple[float, ...]], first: int, second: int) -> tuple[float, float, float]:
    """Median, lower and upper quartile over rounds of the time ratio of functions number `first` and `second`."""
    low, middle, high = statistics.quantiles([times[first] / times[second] for times in timed], n=4)
    return middle, low, high


def cost_of_fe(plain: nn.Module, twin: nn.Module, batch: int, rounds: int, compute: Compute) -> pd.DataFrame:
    """Time of a detector and its FE twin on `batch` images: a row for "forward" and a row for "step".

    Pass copies, since both detectors are trained on noise here. Columns `seconds` and `seconds_fe` (medians over
    rounds) and `ratio`, `ratio_low`, `ratio_high` (median and quartiles of the ratio within a round).
    """
    if rounds < 2:
        raise InputError(f"rounds: {rounds} is too few for quartiles; give at least 2")
    models = [model.to(compute.device, memory_format=torch.channels_last).train() for model in (plain, twin)]
    images = random_batch(batch, plain.input_size, compute.device)
    works = {
        "forward": [partial(forward_pass, model, images, compute) for model in models],
        "step": [training_step(model, images, compute) for model in models],
    }
    rows = {}
    for name, pair in works.items():
        pairs = in_turn(pair, rounds, compute.device)
        medians = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows[name] = [*medians, *ratio_within_rounds(pairs, 1, 0)]
    columns = ["seconds", "seconds_fe", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def machine(compute: Compute) -> str:
    """The hardware and precision of a time measurement, as text for the line above a table."""
    if compute.device.type == "cuda":
        name = torch.cuda.get_device_name(compute.device)
    else:
        listed = Path("/proc/cpuinfo")  # Linux has the processor's model there
        names = re.findall(r"^model name\s*:\s*(.+)$", listed.read_text(), re.MULTILINE) if listed.is_file() else []
        processor = names[0] if names else platform.processor() or platform.machine()
        name = f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{name}, {compute.precision}, PyTorch {torch.__version__}"
