"""A cascade of two three-dimensional networks, after Dou et al., IEEE Transactions on Medical Imaging 35:1182, 2016.

A small fully convolutional network screens the whole volume for candidates. A larger network classifies their
neighbourhoods. The screening network is trained in two rounds; the second round adds false positives of the first.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

from cmbfe.baselines.candidates import (
    Candidates,
    Volume,
    boxes_around,
    check_both_kinds,
    classes,
    cubes,
    darkest_near,
    fit_boxes,
    peaks_per_slice,
    true_places,
)
from cmbfe.parallel import threads
from cmbfe.params import Baselines

SCREENED = (2, 6, 6)  # half the neighbourhood that the screening network sees: slices, rows, columns
CLASSIFIED = (3, 9, 9)  # half the neighbourhood that the second network sees
SHIFT_PX = 1  # largest random shift of a training neighbourhood in its slice
RANDOM_PER_SLICE = 20  # random voxels of each slice in the first round of screening training
BATCH = 64
LEARNING_RATE = 1e-3
SLAB = 16
"""Number of slices screened at a time. The features of a whole volume would fill the memory."""


def screening_network() -> nn.Sequential:
    """Network without padding, from [N, 1, d + 4, 2 h + 10, 2 w + 10] to evidence for a microbleed [N, 1, d, h, w]."""
    return nn.Sequential(
        *(nn.Conv3d(1, 12, 3), nn.ReLU(), nn.MaxPool3d((1, 2, 2))),
        *(nn.Conv3d(12, 16, 3), nn.ReLU()),
        *(nn.Conv3d(16, 32, (1, 3, 3)), nn.ReLU()),
        nn.Conv3d(32, 1, 1),
    )


def classifier_network() -> nn.Sequential:
    """Network that maps neighbourhoods [N, 1, 7, 19, 19] to evidence for a microbleed [N, 1]."""
    return nn.Sequential(
        *(nn.Conv3d(1, 16, 3), nn.ReLU(), nn.MaxPool3d((1, 2, 2))),
        *(nn.Conv3d(16, 32, 3), nn.ReLU()),
        *(nn.Conv3d(32, 48, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)),
        *(nn.Linear(48 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 1)),
    )


def train(volumes: Callable[[], Iterable[Volume]], settings: Baselines, seed: int) -> Callable[[Volume], Candidates]:
    """Train both networks from scratch, and return a detector whose scores are the second network's probabilities.

    Arguments and errors are those of `candidates.train_on_features`.
    """
    box_model = fit_boxes(volumes())
    rng = np.random.default_rng([seed, 0xD0D0])
    with torch.random.fork_rng(devices=[]), threads(1):
        torch.manual_seed(seed)
        screening, classifier = screening_network(), classifier_network()
        iterations = settings.cascade.screening_iterations
        hits, others = _screening_examples(volumes(), rng)
        fit(screening, hits, others, iterations, rng, "screening")
        # The second round learns to separate microbleeds from the first round's false positives.
        mistaken = _candidate_examples(volumes(), screening, box_model, settings, SCREENED)[1]
        fit(screening, hits, np.concatenate([others, mistaken]), iterations, rng, "screening again")
        right, wrong = _candidate_examples(volumes(), screening, box_model, settings, CLASSIFIED)
        fit(classifier, right, wrong, settings.cascade.classifier_iterations, rng, "classifier")

    def detect(volume: Volume) -> Candidates:
        with threads(1):
            places = _candidates(volume, screening, settings)
            scores = probabilities(classifier, cubes(volume.voxels, places, CLASSIFIED))
        return Candidates(places[:, 0], boxes_around(box_model, volume, places), scores)

    return detect


def screen(network: nn.Module, voxels: np.ndarray) -> np.ndarray:
    """Probability of a microbleed around every second row and column: float32 [slices, rows / 2, columns / 2].

    The value at (k, i, j) belongs to the neighbourhood around the voxel (k, 2 i, 2 j). Edges are repeated.
    """
    padded = np.pad(voxels, [(size, size) for size in SCREENED], mode="edge")
    slabs = [padded[None, start : start + SLAB + 2 * SCREENED[0]] for start in range(0, len(voxels), SLAB)]
    network.eval()
    with torch.inference_mode():
        evidence = torch.cat([network(_as_input(slab)).sigmoid()[0, 0] for slab in slabs])
    rows, columns = ((side + 1) // 2 for side in voxels.shape[1:])
    return evidence[:, :rows, :columns].numpy()


def probabilities(network: nn.Module, neighbourhoods: np.ndarray) -> np.ndarray:
    """Probability that each neighbourhood [N, ...] shows a microbleed: float64 [N]."""
    network.eval()
    starts = range(0, len(neighbourhoods), 256)
    with torch.inference_mode():
        parts = [network(_as_input(neighbourhoods[start : start + 256])) for start in starts]
    return torch.cat(parts).sigmoid().flatten().double().numpy() if parts else np.zeros(0)


def fit(
    network: nn.Module, hits: np.ndarray, others: np.ndarray, iterations: int, rng: np.random.Generator, task: str
) -> None:
    """Train a network to separate `hits` from `others`, with Adam and OneCycleLR. Half of each batch are hits.

    `hits` and `others` are float32 [N, slices, rows, columns], `SHIFT_PX` larger on each side than the network's input.
    Raises `InputError` if either is empty.
    """
    check_both_kinds(len(hits), len(others))
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3 * LEARNING_RATE, total_steps=iterations + 1)
    truth = torch.cat([torch.ones(BATCH // 2, 1), torch.zeros(BATCH // 2, 1)])
    for _ in trange(iterations, desc=task, unit="batch", mininterval=1, leave=False):
        batch = np.concatenate([kind[rng.integers(len(kind), size=BATCH // 2)] for kind in (hits, others)])
        evidence = network(_as_input(_varied(batch, rng))).flatten(1)
        loss = functional.binary_cross_entropy_with_logits(evidence, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _as_input(neighbourhoods: np.ndarray) -> Tensor:
    """Turn neighbourhoods [N, ...] of values 0 to 1 into the networks' input [N, 1, ...], with values -0.5 to 0.5."""
    return torch.from_numpy(np.ascontiguousarray(neighbourhoods))[:, None] - 0.5


def _varied(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment neighbourhoods: random shifts by up to `SHIFT_PX`, mirroring, quarter turns and changes of brightness."""
    row, column = rng.integers(0, 2 * SHIFT_PX + 1, 2)
    rows, columns = (size - 2 * SHIFT_PX for size in batch.shape[2:])
    moved = batch[:, :, row : row + rows, column : column + columns]
    mirrored = moved[:, :: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    turned = np.rot90(mirrored, rng.integers(4), axes=(2, 3))
    return turned * rng.uniform(0.85, 1.15, (len(batch), 1, 1, 1)).astype(np.float32)


def _screening_examples(volumes: Iterable[Volume], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Neighbourhoods of microbleeds, and of random voxels outside ground-truth boxes."""
    hits, others = [], []
    for volume in volumes:
        hits.append(_wide_cubes(volume, true_places(volume)[0], SCREENED))
        drawn = rng.integers(0, volume.voxels.shape, (RANDOM_PER_SLICE * len(volume.voxels), 3))
        middle = drawn[:, [2, 1]] + 0.5
        others.append(_wide_cubes(volume, drawn[~_in_a_box(volume, drawn[:, 0], middle)], SCREENED))
    return np.concatenate(hits), np.concatenate(others)


def _in_a_box(volume: Volume, slices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Mask of the points [N, 2] (x, y in px) that lie in a ground-truth box of their slice."""
    inside = np.zeros(len(points), bool)
    for index, boxes in enumerate(volume.boxes):
        here = np.flatnonzero(slices == index)
        x, y = points[here, :1], points[here, 1:]
        inside[here] = ((boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])).any(axis=1)
    return inside


def _candidate_examples(
    volumes: Iterable[Volume], screening: nn.Module, box_model: Ridge, settings: Baselines, half: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbourhoods of all microbleeds and of the candidates that hit them, and neighbourhoods of false positives."""
    hits, others = [], []
    for volume in volumes:
        places = _candidates(volume, screening, settings)
        known = classes(volume, places[:, 0], boxes_around(box_model, volume, places))
        right = np.unique(np.concatenate([true_places(volume)[0], places[known == 1]]), axis=0)
        hits.append(_wide_cubes(volume, right, half))
        others.append(_wide_cubes(volume, places[known == 0], half))
    return np.concatenate(hits), np.concatenate(others)


def _wide_cubes(volume: Volume, places: np.ndarray, half: tuple[int, int, int]) -> np.ndarray:
    """Neighbourhoods of `places`, `SHIFT_PX` larger than `half` on each side within the slice."""
    return cubes(volume.voxels, places, (half[0], half[1] + SHIFT_PX, half[2] + SHIFT_PX))


def _candidates(volume: Volume, screening: nn.Module, settings: Baselines) -> np.ndarray:
    """The darkest voxels around the peaks of the screening network, int64 [N, 3]."""
    peaks = peaks_per_slice(screen(screening, volume.voxels), settings.candidates_per_image, separation_px=1)
    return darkest_near(volume.voxels, peaks * [1, 2, 2], round(volume.px(2.0)))
