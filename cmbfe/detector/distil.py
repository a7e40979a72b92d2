"""Initial weights of the ResNet-34 and MobileNet-V2 trunks, distilled from VGG-16 without labels.

The paper does not give initial weights of these trunks (A19). Here each trunk is trained so that a linear function of
its first map predicts VGG-16's conv4_3. In MobileNet-V2 the map of the next block also has to predict conv5_3. Its maps
are half as fine as VGG-16's, so each position has to predict four of the teacher's, because the heads need to know
where in a cell a dark dot lies. The training slices are cropped and flipped at random (knowledge distillation, Romero
et al. 2015, "FitNets"). The linear functions are dropped afterwards. `tools/compress_trunk.py` writes the weight files
that ship with the package.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmbfe.detector.ssd import SSD

BATCH = 4
LEARNING_RATE, WARM_UP = 2e-3, 0.1
"""Adam's peak learning rate, and the share of the steps in the warm-up. A cosine decay follows."""
SMALLEST_CROP = 0.6  # side of the crop, as a share of the slice's side
CONV5_3 = 7
"""Number of layers of VGG-16's first block from pool4 to the ReLU of conv5_3."""


def distil(
    student: SSD, teacher: SSD, images: Sequence[Tensor], held_out: int, steps: Collection[int], seed: int = 0
) -> dict[str, float]:
    """Train the student's trunk in place to reproduce the teacher's features.

    Args:
        student: a detector on ResNet-34 or MobileNet-V2.
        teacher: a detector on VGG-16, with pretrained weights.
        images: slices, each a Tensor[1, 3, S, S] in [0, 1].
        held_out: number of slices at the end of `images` that are used for measurement only.
        steps: an item for each Adam step on `BATCH` slices, such as a range or a progress bar.

    Returns:
        The share of the variance of conv4_3 (and conv5_3) that stays unexplained on the held-out slices.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    size, taught = (student.input_size,) * 2, len(images) - held_out
    with torch.no_grad():
        pairs = _pairs(student, teacher, student.resize(images[0]))
    linear = nn.ModuleList(nn.Conv2d(ours.shape[1], target.shape[1], 1) for ours, target in pairs)
    weights = [*student.stem.parameters(), *student.blocks[0].parameters(), *linear.parameters()]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=len(steps), pct_start=WARM_UP
    )
    student.train()
    for _ in steps:
        drawn = random.integers(0, taught, BATCH)
        batch = torch.cat([F.interpolate(_crop(images[index], random), size, mode="bilinear") for index in drawn])
        loss = torch.stack(_left(student, teacher, linear, batch)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    student.eval()
    with torch.no_grad():
        left = [_left(student, teacher, linear, student.resize(image)) for image in images[taught:]]
    return dict(zip(("conv4_3", "conv5_3"), np.mean(left, axis=0).tolist(), strict=False))


def _maps(model: SSD, inputs: Tensor) -> list[Tensor]:
    """The maps of the trunk layers that a weight file fills; in VGG-16 they are conv4_3 and conv5_3."""
    first = model.stem(inputs)
    trunk = model.config.spec.trunk
    if trunk == "resnet34":
        return [first]
    return [first, nn.Sequential(*list(model.blocks[0].children())[: CONV5_3 if trunk == "vgg16" else None])(first)]


def _pairs(student: SSD, teacher: SSD, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The maps of the student, and of the teacher at their size; finer positions of the teacher become channels."""
    maps = _maps(student, (images - student.mean) / student.std)
    with torch.no_grad():
        theirs = _maps(teacher, (images - teacher.mean) / teacher.std)
    pairs = []
    for ours, wanted in zip(maps, theirs, strict=False):
        height, width = ours.shape[2:]
        finer = max(1, round(wanted.shape[2] / height))
        sized = F.adaptive_avg_pool2d(wanted, (finer * height, finer * width))
        pairs.append((ours, F.pixel_unshuffle(sized, finer)))
    return pairs


def _left(student: SSD, teacher: SSD, linear: nn.ModuleList, images: Tensor) -> list[Tensor]:
    """Unexplained share of the variance of the teacher's maps in `_pairs`, per map."""
    left = []
    for layer, (ours, target) in zip(linear, _pairs(student, teacher, images), strict=True):
        variance = (target - target.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        left.append(F.mse_loss(layer(ours), target) / variance)
    return left


def _crop(image: Tensor, random: np.random.Generator) -> Tensor:
    """Cut a square of random size and position from a slice, and flip it at random."""
    whole = image.shape[-1]
    side = int(random.integers(round(SMALLEST_CROP * whole), whole + 1))
    row, column = random.integers(0, whole - side + 1, 2)
    flipped = [axis for axis in (-2, -1) if random.random() < 0.5]
    return image[..., row : row + side, column : column + side].flip(flipped)
