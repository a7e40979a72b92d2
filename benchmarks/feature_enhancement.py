"""Cost of feature enhancement (FE): time of a training step with and without FE, on every trunk.

    python benchmarks/feature_enhancement.py [--rounds 15] [--batch 4] [--width 1.0] [--threads 2]

A step is forward pass, losses, backward pass and Adam, with three boxes per image, in the precision that training
chooses here. The twins take turns, so that other load affects both; the ratio is the median over rounds. If times vary
by more than FE costs, use the last column: the time of the layer alone, divided by that of a step without it. The
paper's Table 3 gives 1.25 (VGG-16), 1.31 (MobileNet) and 1.23 (ResNet-34) for its own layer.
"""

import argparse
import sys

import torch

from cmbfe.detector.ssd import SPECS, SSD, build
from cmbfe.errors import InputError
from cmbfe.training.devices import Compute, make_compute
from cmbfe.training.timing import cost_of_fe, random_batch, seconds


def seconds_of_fe_alone(model: SSD, batch: int, compute: Compute, repeats: int = 10) -> float:
    """Shortest of `repeats` timings of mask, enhancement and its backward pass, on random features of the first map."""
    images, targets = random_batch(batch, model.input_size, compute.device)
    boxes = [target["boxes"] for target in targets]
    with torch.no_grad(), compute.autocast():
        features = torch.randn_like(model.stem(model.prepare(images)))
    features.requires_grad_()

    def run() -> None:
        enhanced = model.fe(features, model.fe.mask(images.mean(dim=1, keepdim=True), boxes))
        enhanced.backward(enhanced.detach())

    return min(seconds(run, compute.device) for _ in range(repeats))


def main() -> None:
    """Print seconds without and with FE, and their ratio, for each trunk and input size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0, help="channels of the trunk, as a share of the paper's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compute = make_compute()
    print(
        f"{compute.device}, {compute.precision}, batch {arguments.batch}, width {arguments.width:g}, "
        f"{arguments.threads} threads"
    )
    print(f"{'':14} {'':8} {'off s':>8} {'on s':>8} {'on/off':>8} {'quartiles':>15} {'alone/off':>10}")
    for variant in (name for name, spec in SPECS.items() if not spec.fe):
        twins = [build(name, width=arguments.width) for name in (variant, f"{variant}-fe")]
        cost = cost_of_fe(*twins, arguments.batch, arguments.rounds, compute)
        alone = seconds_of_fe_alone(twins[1], arguments.batch, compute) / cost.loc["step", "seconds"]
        for part, row in cost.iterrows():
            share = f"{alone:10.4f}" if part == "step" else ""
            print(
                f"{variant:14} {part:8} {row['seconds']:8.3f} {row['seconds_fe']:8.3f} {row['ratio']:8.3f} "
                f"{row['ratio_low']:7.3f}-{row['ratio_high']:.3f} {share}",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
