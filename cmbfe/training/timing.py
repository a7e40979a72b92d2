"""How long a training batch takes, and what feature enhancement (FE) adds: works timed in turn in one run."""

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from cmbfe.detector.ssd import build
from cmbfe.errors import InputError
from cmbfe.params import load_params, profile_file
from cmbfe.training import batches
from cmbfe.training.devices import Compute
from cmbfe.training.iteration import Run

Batch = tuple[Tensor, list[dict[str, Tensor]]]

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


def random_images(size: int, input_size: int, boxes: int = 3, seed: int = 0) -> batches.Batch:
    """The same noise and boxes as the training loop gets its images: uint8, in memory."""
    images, targets = random_batch(size, input_size, torch.device("cpu"), boxes, seed)
    pixels = images[:, 0].mul(256).to(torch.uint8).numpy()
    return batches.Batch([f"noise {number}" for number in range(size)], pixels, [x["boxes"].numpy() for x in targets])


def run_on_noise(variant: str, width: float, compute: Compute) -> Run:
    """The state of a training that has not begun, with the paper profile's settings and fresh weights.

    The learning rate is small, for noise teaches nothing, and a training that diverges stops.
    """
    settings = load_params(profile_file("paper")).training.model_copy(update={"learning_rate": 1e-6})
    run = Run(build(variant, width=width), settings, "constant", compute)
    run.model.train()
    return run


def whole_iteration(run: Run, images: batches.Batch) -> Callable[[], None]:
    """One iteration as the training loop does it, from images in memory to the new weights."""

    def step() -> None:
        run.step([images])

    return step


def forward_pass(model: nn.Module, batch: Batch, compute: Compute) -> Callable[[], None]:
    """One forward pass in training, losses and FE included: what the paper's Table 3 times (its section 4)."""

    def run() -> None:
        with compute.autocast():
            model(*batch)

    return run


def training_step(model: nn.Module, batch: Batch, compute: Compute) -> Callable[[], None]:
    """One whole training step: forward, losses, backward and Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def run() -> None:
        with compute.autocast():
            losses = model(*batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return run


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Wall-clock seconds of one call, what it left in a GPU's queue included."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def in_turn(
    works: Sequence[Callable[[], None]], rounds: int, device: torch.device, progress: bool = False
) -> list[tuple[float, ...]]:
    """Seconds of each work, a tuple per round, after two rounds of warm-up.

    Works take turns and every second round runs backwards, so that whatever else the machine does meets all alike.
    """
    timed = []
    for number in tqdm(range(rounds + WARM_UP_ROUNDS), desc="rounds", unit="round", disable=not progress):
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        measured = {index: seconds(works[index], device) for index in order}
        timed.append(tuple(measured[index] for index in range(len(works))))
    return timed[WARM_UP_ROUNDS:]


def ratio_within_rounds(timed: Sequence[tuple[float, ...]], first: int, second: int) -> tuple[float, float, float]:
    """Work number `first` over work number `second`, of each round on its own: median, then the quartiles.

    Raises:
        InputError: there are no two rounds.
    """
    if len(timed) < 2:
        raise InputError(f"rounds: {len(timed)} is too few for quartiles; give at least 2")
    low, middle, high = statistics.quantiles([one[first] / one[second] for one in timed], n=4)
    return middle, low, high


def cost_of_fe(plain: nn.Module, twin: nn.Module, batch: int, rounds: int, compute: Compute) -> pd.DataFrame:
    """Time of a detector and its FE twin on `batch` images; a row each for "forward" and "step".

    Both models are trained on noise while they are timed: give copies. Columns `seconds` and `seconds_fe` (medians over
    rounds) and `ratio`, `ratio_low`, `ratio_high` (median and quartiles of the ratio within a round).
    """
    if rounds < 2:
        raise InputError(f"rounds: {rounds} is too few for quartiles; give at least 2")
    models = [model.to(compute.device, memory_format=torch.channels_last).train() for model in (plain, twin)]
    images = random_batch(batch, plain.input_size, compute.device)
    rows = {}
    for name, work in (("forward", forward_pass), ("step", training_step)):
        pairs = in_turn([work(model, images, compute) for model in models], rounds, compute.device)
        medians = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows[name] = [*medians, *ratio_within_rounds(pairs, 1, 0)]
    columns = ["seconds", "seconds_fe", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def machine(compute: Compute) -> str:
    """What times were measured on, for the line above a table."""
    if compute.device.type == "cuda":
        name = torch.cuda.get_device_name(compute.device)
    else:
        name = f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{name}, {compute.precision}, PyTorch {torch.__version__}"


def processor_name() -> str:
    """The processor's model as Linux tells it, else its kind."""
    listed = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", listed.read_text(), re.MULTILINE) if listed.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()
