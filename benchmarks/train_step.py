"""Time of a training iteration of SSD-300, compared with torchvision's ssd300_vgg16 and with the bare network.

    python benchmarks/train_step.py [--batch 4] [--rounds 15] [--threads 2] [--width 1.0]

Ours is the training loop's whole iteration (`cmbfe.training.iteration.Run.step`): 8-bit images in memory to new
weights, with losses, the check of the gradient and Adam, in the precision that training chooses here. torchvision's
detector runs twice: as in its documentation, and tuned by hand (channels last, fused Adam, bf16 if training chooses
it). The bare network is our trunk, extra layers and heads, forward and backward from the sum of the outputs.
All take turns within each round, so that other load on the machine affects all. A ratio is the median over rounds of
the ratio within a round. Images are 300 x 300 px, with three boxes each.
"""

import argparse
import statistics
import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torchvision.models.detection import ssd300_vgg16

from cmbfe.detector.boxes import corners
from cmbfe.detector.loss import ssd_loss
from cmbfe.detector.ssd import build
from cmbfe.errors import InputError
from cmbfe.params import load_params, profile_file
from cmbfe.training.batches import Batch, to_input, to_targets
from cmbfe.training.devices import Compute, make_compute
from cmbfe.training.iteration import Run
from cmbfe.training.timing import Work, in_turn, machine, random_batch, ratio_within_rounds

SIDE = 300
OURS = ("ssd300", "ssd300-fe")
PLAIN, TUNED, BARE = "torchvision as it comes", "torchvision tuned by hand", "bare network"


def random_images(size: int, input_size: int, boxes: int = 3, seed: int = 0) -> Batch:
    """The noise and boxes of `random_batch` in the form that the training loop gets: uint8, in memory."""
    images, targets = random_batch(size, input_size, torch.device("cpu"), boxes, seed)
    pixels = images[:, 0].mul(256).to(torch.uint8).numpy()
    return Batch([f"noise {number}" for number in range(size)], pixels, [x["boxes"].numpy() for x in targets])


def run_on_noise(variant: str, width: float, compute: Compute) -> Run:
    """A new training under the paper profile, at a learning rate so low that it does not diverge on noise."""
    settings = load_params(profile_file("paper")).training.model_copy(update={"learning_rate": 1e-6})
    run = Run(build(variant, width=width), settings, "constant", compute)
    run.model.train()
    return run


def of_torchvision(batch: Batch, compute: Compute) -> Work:
    """An iteration as in torchvision's documentation: float32, a list of images, Adam."""
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=2).to(compute.device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, boxes = list(to_input(batch.images, torch.device("cpu")).contiguous()), batch.boxes

    def step() -> None:
        losses = model([image.to(compute.device) for image in images], to_targets(boxes, compute.device))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return step


def of_torchvision_tuned(batch: Batch, compute: Compute) -> Work:
    """An iteration of torchvision tuned by hand: bf16 if training chooses it, channels last, fused Adam."""
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=2)
    model = model.to(compute.device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    images, boxes = list(to_input(batch.images, torch.device("cpu")).contiguous()), batch.boxes

    def step() -> None:
        with compute.autocast():
            losses = model([image.to(compute.device) for image in images], to_targets(boxes, compute.device))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

    return step


def bare_network(batch: Batch, width: float, compute: Compute) -> Work:
    """Forward and backward of our ssd300 without targets, losses and optimiser."""
    model = build("ssd300", width=width).to(compute.device, memory_format=torch.channels_last).train()
    images = to_input(batch.images, compute.device)
    inputs = model.prepare(images).contiguous(memory_format=torch.channels_last)

    def forward_and_backward() -> None:
        model.zero_grad()
        with compute.autocast():
            outputs = model.predict(inputs)
        sum(output.sum() for output in outputs).backward()

    return forward_and_backward


def parts_of(run: Run, images: Batch) -> dict[str, Work]:
    """The parts of our iteration outside the network, for separate timing."""
    model, device = run.bare_model, run.compute.device
    with torch.no_grad(), run.compute.autocast():
        outputs = model.predict(model.prepare(to_input(images.images, device)))
    logits, regression = (output.detach().requires_grad_() for output in outputs)
    default = corners(model.default_boxes, model.input_size)

    def losses() -> None:
        targets = to_targets(images.boxes, device)
        boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
        sum(ssd_loss(logits, regression, default, boxes, labels).values()).backward()

    def norm() -> None:
        float(get_total_norm(_gradients(run)))

    def adam() -> None:
        run.optimiser.step()

    return {"matching and losses": losses, "check of the gradient": norm, "Adam": adam}


def _gradients(run: Run) -> list[Tensor]:
    return [weight.grad for weight in run.bare_model.parameters() if weight.grad is not None]


def limits(device_type: str, has_amx: bool) -> dict[str, float]:
    """Work -> target for the ratio of our time to that of this work. Targets for torchvision exist only on CPUs."""
    if device_type != "cpu":
        return {BARE: 1.10}
    return {PLAIN: 0.25, TUNED: 1.05, BARE: 1.10} if has_amx else {PLAIN: 1.0, BARE: 1.10}


def verdict(ratio: float, limit: float | None) -> str:
    """The limit, and whether the ratio is within it, as text."""
    if limit is None:
        return f"{'–':>6} {'':>5}"
    return f"{limit:6.2f} {'yes' if ratio <= limit else 'NO':>5}"


def report(names: list[str], timed: list[tuple[float, ...]], at_most: dict[str, float]) -> str:
    """The report: seconds of every work, ratios of ours to the others, and parts as shares of our iteration."""
    lines = [f"{'':45} {'s':>8}"]
    for index, name in enumerate(names):
        lines.append(f"{name:45} {statistics.median(seconds[index] for seconds in timed):8.4f}")
    lines += ["", f"{'ratio':45} {'median':>8} {'quartiles':>15} {'limit':>6} {'held':>5}"]
    for ours in OURS:
        for other in (PLAIN, TUNED, BARE):
            middle, low, high = ratio_within_rounds(timed, names.index(ours), names.index(other))
            between = f"{low:.3f}-{high:.3f}"
            held = verdict(middle, at_most.get(other))
            lines.append(f"{f'{ours} / {other}':45} {middle:8.3f} {between:>15} {held}")
    lines += ["", f"{'share of an iteration of ssd300':45} {'median':>8}"]
    for part in names[len(OURS) + 3 :]:
        share, _, _ = ratio_within_rounds(timed, names.index(part), 0)
        lines.append(f"{part:45} {share:8.1%}")
    return "\n".join(lines)


def works(batch: int, width: float, compute: Compute) -> dict[str, Work]:
    """All works to be timed, ours first."""
    images = random_images(batch, SIDE)
    runs = [run_on_noise(variant, width, compute) for variant in OURS]
    return {
        **{variant: partial(run.step, [images]) for variant, run in zip(OURS, runs, strict=True)},
        PLAIN: of_torchvision(images, compute),
        TUNED: of_torchvision_tuned(images, compute),
        BARE: bare_network(images, width, compute),
        **parts_of(runs[0], images),
    }


def main() -> None:
    """Print seconds, ratios with their limits, and where our iteration's time goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument("--width", type=float, default=1.0, help="channels of our trunk, as a share of the paper's")
    given = parser.parse_args()
    if given.rounds < 2:
        raise InputError(f"rounds: {given.rounds} is too few for quartiles; give at least 2")
    torch.set_num_threads(given.threads)
    compute = make_compute()
    has_amx = torch.cpu._is_amx_tile_supported()
    print(f"{machine(compute)}; the CPU has {'' if has_amx else 'no '}AMX")
    print(f"batch {given.batch}, {SIDE} x {SIDE} px, width {given.width:g}, {given.rounds} rounds")
    if given.width != 1:
        print("torchvision's detector has full width: ratios to it mean nothing here")
    all_works = works(given.batch, given.width, compute)
    timed = in_turn(list(all_works.values()), given.rounds, compute.device, progress=True)
    print(report(list(all_works), timed, limits(compute.device.type, has_amx)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
