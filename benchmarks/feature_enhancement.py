"""What feature enhancement costs: time of a training step with FE against one without, on every trunk.

    python benchmarks/feature_enhancement.py [--rounds 15] [--batch 4] [--threads 2]

Full width, three boxes per picture, forward, losses, backward and Adam, in the precision that training chooses here. The
twins take turns within each round, so that whatever else the machine does meets both; the ratio is the median over
rounds. The paper's Table 3 gives 1.25 (VGG-16), 1.31 (MobileNet) and 1.23 (ResNet-34) for its own layer.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cmbfe.detector.ssd import SPECS, build
from cmbfe.devices import Compute, make_compute


def training_step(variant: str, batch: int, compute: Compute) -> Callable[[], None]:
    """One training step of a full-width detector on random pictures with boxes of 5, 10 and 15 px."""
    torch.manual_seed(0)
    model = build(variant).to(compute.device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images = torch.rand(batch, 3, model.input_size, model.input_size, device=compute.device)
    corner = torch.tensor([[30.0, 40.0], [100.0, 110.0], [200.0, 150.0]])
    boxes = torch.cat([corner, corner + torch.tensor([[5.0], [10.0], [15.0]])], dim=1)
    targets = [{"boxes": boxes, "labels": torch.ones(3, dtype=torch.int64)} for _ in range(batch)]

    def step() -> None:
        with compute.autocast():
            losses = model(images, targets)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return step


def seconds(step: Callable[[], None], compute: Compute) -> float:
    """Wall-clock seconds of one step, a GPU's queue included."""
    begin = time.perf_counter()
    step()
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def interleaved(variant: str, batch: int, rounds: int, compute: Compute) -> list[tuple[float, float]]:
    """Seconds without and with FE, one pair per round, after two rounds of warm-up; the order alternates."""
    steps = [training_step(name, batch, compute) for name in (variant, f"{variant}-fe")]
    pairs = []
    for number in range(rounds + 2):
        order = (0, 1) if number % 2 else (1, 0)
        measured = {which: seconds(steps[which], compute) for which in order}
        pairs.append((measured[0], measured[1]))
    return pairs[2:]


def main() -> None:
    """Print seconds per step without and with FE, and their ratio, for each trunk and input size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compute = make_compute()
    print(f"{compute.device}, {compute.precision}, batch {arguments.batch}, {arguments.threads} threads")
    print(f"{'':14} {'off s':>8} {'on s':>8} {'on/off':>8} {'quartiles':>15}")
    for variant in (name for name, spec in SPECS.items() if not spec.fe):
        pairs = interleaved(variant, arguments.batch, arguments.rounds, compute)
        off, on = (statistics.median(side) for side in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([with_fe / without for without, with_fe in pairs], n=4)
        print(f"{variant:14} {off:8.3f} {on:8.3f} {middle:8.3f} {low:7.3f}-{high:.3f}", flush=True)


if __name__ == "__main__":
    main()
