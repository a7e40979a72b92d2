"""Compression of a pretrained VGG-16 to fewer channels, without labels, for the initial weights of a narrow trunk.

The layers are compressed in turn on a set of slices. Ridge regression predicts each channel of the wide layer from the
narrow layers so far, and pivoted QR selects the most independent predictions. The narrow layer is refitted to the wide
layer's outputs after ReLU in these channels. It is then scaled to activations of mean square 1; ReLU permits this,
as it is positively homogeneous. The first layer keeps the wide layer's filters, since both see the same image. Finally
conv3_1 to conv5_3 are trained together to reproduce the wide layers' conv4_3 and conv5_3 (distillation).

`tools/compress_trunk.py` writes the file in the package; docs/training.md reports how much it preserves.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import qr
from torch import Tensor, nn

from cmbfe.detector.backbones import CAFFE_STD
from cmbfe.detector.ssd import SSD

INPUT_STD = 0.25
"""Divisor of images in [0, 1] minus `CAFFE_MEAN` for a compressed trunk, which gives inputs of order 1. With Caffe's
1/255 the weights would be so small that Adam's first steps undo them."""
POSITIONS = 3000
"""Largest number of positions per map and slice for choosing channels, fitting weights and measuring errors."""
RIDGE = 1e-3
"""Penalty on squared weights, as a share of the mean square of their inputs."""
ROUNDS = 5
"""Number of refits in which outputs that ReLU cuts off may take any value below 0."""
ENDS = (22, 29)
"""Indices of the distilled outputs in torchvision's `features`: ReLUs of conv4_3 and conv5_3. Layer 10 is conv3_1."""
DISTILLED_FROM = 10
LEARNING_RATE = 3e-4
"""Adam's initial learning rate in the distillation; it falls to 0 along a cosine."""


def compress(
    teacher: SSD, inputs: Sequence[Tensor], width: float, held_out: int, seed: int = 0, steps: Collection[int] = ()
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Compress the 13 convolutions of a VGG-16 detector to another width; float32 under torchvision's names.

    Args:
        teacher: SSD-300 or SSD-512 of full width with pretrained weights.
        inputs: slices from `teacher.prepare`, each a Tensor[1, 3, S, S] of any size.
        held_out: number of slices at the end of `inputs` that are used for measurement only.
        seed: seed of the positions and of the order of slices in the distillation.
        steps: an item for each distillation step on one slice, such as a range or a progress bar.

    Returns:
        The weights, and for each layer the unexplained share of the variance of the teacher's activations, in the kept
        channels on the held-out slices. Of the distilled layers, only conv4_3 and conv5_3 are measured, since only
        these two correspond to layers of the teacher.
    """
    narrow, unexplained, started, wanted = _fitted(teacher, inputs, width, held_out, seed)
    if steps:
        _distil(
            narrow[DISTILLED_FROM:],
            started[:-held_out],
            {k: maps[:-held_out] for k, maps in wanted.items()},
            steps,
            seed,
        )
        unexplained = {name: share for name, share in unexplained.items() if int(name[9:]) < DISTILLED_FROM}
        with torch.no_grad():
            outputs = [_at_ends(narrow[DISTILLED_FROM:], of_slice) for of_slice in started[-held_out:]]
        for end, maps in wanted.items():
            ours, theirs = ([_columns(x) for x in of_end] for of_end in ([o[end] for o in outputs], maps[-held_out:]))
            unexplained[f"features.{end - 1}"] = _unexplained(torch.cat(ours), torch.cat(theirs))
    return {f"features.{key}": weight for key, weight in narrow.state_dict().items()}, unexplained


@torch.no_grad()
def _fitted(
    teacher: SSD, inputs: Sequence[Tensor], width: float, held_out: int, seed: int
) -> tuple[nn.Sequential, dict[str, float], list[Tensor], dict[int, list[Tensor]]]:
    """Fit the narrow layers one by one; returns the layers and the unexplained share of each. For the distillation it
    also returns the inputs of conv3_1 and the target maps at the ends of the blocks, by slice."""
    random, brighter = np.random.default_rng(seed), INPUT_STD / CAFFE_STD[0]
    narrow = _layers(SSD(replace(teacher.config, width=width)))
    wide_maps, narrow_maps = list(inputs), [x / brighter for x in inputs]
    unexplained: dict[str, float] = {}
    started: list[Tensor] = []
    wanted: dict[int, list[Tensor]] = {}
    for number, (wide, thin) in enumerate(zip(_layers(teacher), narrow, strict=True)):
        if number == DISTILLED_FROM:
            started = [x.clone() for x in narrow_maps]
        places = [_places(x, random) for x in wide_maps]
        _through(wide, wide_maps)
        if isinstance(wide, nn.Conv2d) and isinstance(thin, nn.Conv2d):
            rows = sum(len(place) for place in places[:-held_out])
            outputs, patches = _values(wide_maps, places), _patches(narrow_maps, places)[:rows]
            solve = _ridge(patches)
            kept = _most_independent((patches @ solve(outputs[:rows])).relu(), thin.out_channels)
            if number == 0:
                filters = {name: value[kept] for name, value in wide.state_dict().items()}
                thin.load_state_dict(filters | {"weight": filters["weight"] * brighter})
            else:
                _refit(thin, patches, outputs[:rows, kept], solve)
            _through(thin, narrow_maps)
            ours, theirs = _values(narrow_maps, places).relu(), outputs[:, kept].relu()
            unexplained[f"features.{number}"] = _unexplained(ours[rows:], theirs[rows:])
            scale = ours[:rows].square().mean().sqrt()
            for tensor in (*thin.state_dict().values(), *narrow_maps):
                tensor /= scale
            if number + 1 in ENDS:
                wanted[number + 1] = [x[:, kept].relu() / scale for x in wide_maps]
        else:
            _through(thin, narrow_maps)
    return narrow, unexplained, started, wanted


def _distil(
    layers: nn.Sequential,
    inputs: Sequence[Tensor],
    wanted: dict[int, list[Tensor]],
    steps: Collection[int],
    seed: int,
) -> None:
    """Train the layers from conv3_1 on towards the target maps; the loss is the mean unexplained share of variance."""
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(inputs)) for _ in range(-(-len(steps) // len(inputs)))])
    variance = {end: torch.cat([_columns(x) for x in maps]).var(0).mean() for end, maps in wanted.items()}
    optimiser = torch.optim.Adam(layers.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(steps))
    for _, index in zip(steps, order, strict=False):
        ours = _at_ends(layers, inputs[index])
        left = [F.mse_loss(ours[end], maps[index]) / variance[end] for end, maps in wanted.items()]
        optimiser.zero_grad()
        torch.stack(left).mean().backward()
        optimiser.step()
        schedule.step()


def _at_ends(layers: nn.Sequential, features: Tensor) -> dict[int, Tensor]:
    """Outputs of the layers from conv3_1 on for a slice, at the ends of the blocks."""
    ends = {}
    for number, layer in enumerate(layers, DISTILLED_FROM):
        features = layer(features)
        if number in ENDS:
            ends[number] = features.clone()  # a ReLU works in place
    return ends


def _columns(of_slice: Tensor) -> Tensor:
    """A map [1, C, h, w] as Tensor[h * w, C]."""
    return of_slice[0].flatten(1).T


def _layers(model: SSD) -> nn.Sequential:
    """conv1_1 to relu5_3 of a VGG-16 detector, numbered as torchvision's `features`."""
    return nn.Sequential(*model.stem.children(), *list(model.blocks[0].children())[:-1])


def _through(layer: nn.Module, maps: list[Tensor]) -> None:
    """Replace each map in the list by the layer's output, one at a time, since maps of 512 px fill the memory."""
    for index, of_slice in enumerate(maps):
        maps[index] = layer(of_slice)


def _places(of_slice: Tensor, random: np.random.Generator) -> Tensor:
    """Indices of random positions of a map [1, C, h, w], in row order."""
    cells = of_slice.shape[2] * of_slice.shape[3]
    return torch.from_numpy(np.sort(random.permutation(cells)[:POSITIONS]))


def _values(maps: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Values of maps [1, C, h, w] at the `places` of each map, Tensor[all places, C]."""
    return torch.cat([of_slice[0].flatten(1)[:, place].T for of_slice, place in zip(maps, places, strict=True)])


def _patches(maps: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Inputs of a 3x3 convolution around the places, and a 1 for its bias: Tensor[all places, C * 9 + 1]."""
    of_slices = [F.unfold(x, 3, padding=1)[0][:, place].T for x, place in zip(maps, places, strict=True)]
    seen = torch.cat(of_slices)
    return torch.cat([seen, torch.ones(len(seen), 1)], dim=1)


def _most_independent(activations: Tensor, channels: int) -> np.ndarray:
    """Choose `channels` columns of Tensor[n, C]: the first pivots of a QR decomposition of the centred columns."""
    triangle = torch.linalg.qr(activations - activations.mean(dim=0), mode="r").R
    return np.sort(qr(triangle.numpy(), mode="r", pivoting=True)[1][:channels])


def _ridge(patches: Tensor) -> Callable[[Tensor], Tensor]:
    """Ridge regression on patches [n, C * 9 + 1], bias unpenalised; maps outputs [n, C'] to weights [C * 9 + 1, C']."""
    squares = (patches.T @ patches).double()
    penalty = torch.full((len(squares),), RIDGE * float(squares.diagonal()[:-1].mean()), dtype=torch.double)
    penalty[-1] = 0
    factor = torch.linalg.cholesky(squares + penalty.diag())
    return lambda outputs: torch.cholesky_solve((patches.T @ outputs).double(), factor).float()


def _refit(layer: nn.Conv2d, patches: Tensor, outputs: Tensor, solve: Callable[[Tensor], Tensor]) -> None:
    """Set the convolution's weights so that its results for the patches fit the outputs best after ReLU.

    Where an output is below 0, any negative value fits, so the value from the previous fit becomes the target there.
    """
    targets = outputs
    for _ in range(1 + ROUNDS):
        weights = solve(targets)
        targets = outputs.where(outputs > 0, (patches @ weights).clamp(max=0))
    layer.load_state_dict({"weight": weights[:-1].T.view_as(layer.weight), "bias": weights[-1]})


def _unexplained(ours: Tensor, theirs: Tensor) -> float:
    """Share of the variance of `theirs`, Tensor[n, C], that `ours` leaves unexplained, for all channels together."""
    return float((ours - theirs).square().sum() / (theirs - theirs.mean(dim=0)).square().sum())
