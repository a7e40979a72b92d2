"""Training batches of images and boxes: decoded once, drawn in a seeded order and prepared in advance."""

import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmbfe.data.labelled.images import HALF_TURN, ZERO_PHASE, read_with_phase
from cmbfe.data.labelled.labels import Labels, xyxy
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.metrics.matching import is_region

GIB = 2**30
AHEAD = 8
"""Batches prepared in advance. Decoding four JPEGs of 512 px takes 20 ms, about as long as a step on a large GPU."""


class ImageFiles:
    """Images of one size, decoded on demand: `files[indices]` is uint8 [n, rows, columns].

    With phase files the result is uint8 [n, rows, columns, 2]: magnitude and phase.
    """

    def __init__(self, paths: Sequence[Path], phases: Sequence[Path] | None = None) -> None:
        self.paths, self.phases = list(paths), phases
        self.shape = (len(paths), *self._read(0).shape)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self.read(index) for index in indices])

    def read(self, index: int) -> np.ndarray:
        """Read one image; `InputError` if it is unreadable or differs in size from the first image."""
        image = self._read(index)
        if image.shape != self.shape[1:]:
            sizes = [f"{columns} x {rows} px" for rows, columns in (image.shape[:2], self.shape[1:3])]
            raise InputError(
                f"{self.paths[index]}: {sizes[0]}, but {self.paths[0]} has {sizes[1]}; make them of one size"
            )
        return image

    def _read(self, index: int) -> np.ndarray:
        return read_with_phase(self.paths[index], self.phases[index] if self.phases else None)

    def decode(self, into: np.ndarray | None = None) -> np.ndarray:
        """Decode all images in parallel, into the array `into` or into a new array."""
        images = np.empty(self.shape, np.uint8) if into is None else into

        def fill(index: int) -> None:
            images[index] = self.read(index)

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(self.paths))))
        return images


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size with their boxes."""

    names: tuple[str, ...]
    images: np.ndarray | ImageFiles
    """uint8 [N, rows, columns], with phase [N, rows, columns, 2]; in memory, memory-mapped or decoded on demand."""
    boxes: tuple[np.ndarray, ...]  # float32 [K, 4] xyxy px for each image

    def __len__(self) -> int:
        return len(self.names)


def list_labelled(labels: Labels, folder: Path) -> LabelledImages:
    """The images of `labels`, not yet decoded. File names are relative to `folder`.

    Ignore regions count as background.

    Raises:
        InputError: no images, an unreadable first image, labels of another size, or phase for some images only.
    """
    if not labels["images"]:
        raise InputError(f"{folder}: the labels name no image; give labels that do")
    boxes = defaultdict(list)
    for annotation in labels["annotations"]:
        if not is_region(annotation):
            boxes[annotation["image_id"]].append(annotation)
    names = tuple(image["file_name"] for image in labels["images"])
    files = ImageFiles([folder / name for name in names], _phases(labels, folder))
    rows, columns = files.shape[1:3]
    for image in labels["images"]:
        if (image["width"], image["height"]) != (columns, rows):
            size = f"{image['width']} x {image['height']} px"
            raise InputError(
                f"{folder / image['file_name']}: its labels are of {size}, the first image has {columns} x {rows} px; "
                "import with --size, or correct the labels"
            )
    corners = tuple(xyxy(boxes[image["id"]]).astype(np.float32) for image in labels["images"])
    return LabelledImages(names, files, corners)


def _phases(labels: Labels, folder: Path) -> list[Path] | None:
    """The phase files of the images; None if the labels name none."""
    without = [image["file_name"] for image in labels["images"] if "phase_file_name" not in image]
    if without and len(without) < len(labels["images"]):
        raise InputError(
            f"{folder / without[0]}: its labels name no phase (phase_file_name), those of others do; "
            "give it to all, or to none"
        )
    return None if without else [folder / image["phase_file_name"] for image in labels["images"]]


def without_phase(labels: Labels) -> Labels:
    """The labels without phase files, so that only the magnitude of the images is read."""
    images = [{key: image[key] for key in image if key != "phase_file_name"} for image in labels["images"]]
    return {**labels, "images": images}


def load_labelled(labels: Labels, folder: Path) -> LabelledImages:
    """`list_labelled` with decoded images; `InputError` also for any unreadable image or image of another size."""
    listed = list_labelled(labels, folder)
    return replace(listed, images=listed.images.decode())


def fits(data: LabelledImages, gib: float) -> bool:
    """Whether the decoded images take no more than `gib` GiB."""
    return np.prod(data.images.shape, dtype=float) <= gib * GIB


def decode_to_file(data: LabelledImages, file: Path) -> None:
    """Decode listed images to a .npy file atomically, through a memory map so that they do not fill the memory."""
    with whole_file(file) as temporary:
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=data.images.shape)
        data.images.decode(mapped)
        mapped.flush()


def mapped_from_file(data: LabelledImages, file: Path) -> LabelledImages:
    """The images memory-mapped from a file of `decode_to_file`; processes share the memory."""
    return replace(data, images=np.load(file, mmap_mode="r"))


def content_hash(data: LabelledImages) -> str:
    """SHA-256 over the listed images: their files, names and boxes, in order."""

    def of_file(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    files = [*data.images.paths, *(data.images.phases or ())]
    with ThreadPoolExecutor() as pool:
        content = hashlib.sha256(b"".join(pool.map(of_file, files)))
    for name, boxes in zip(data.names, data.boxes, strict=True):
        content.update(f"{name} {len(boxes)} boxes".encode() + boxes.tobytes())
    return content.hexdigest()


def batch_indices(images: int, batch: int, iteration: int, seed: int) -> np.ndarray:
    """Choose the images of an iteration's batch from repeated passes over all images, each in its own seeded order.

    The choice depends on the iteration alone, so that a training resumes without the state of a sampler.
    """
    positions = range(iteration * batch, (iteration + 1) * batch)
    return np.array([_order(images, seed, position // images)[position % images] for position in positions])


@lru_cache(maxsize=2)
def _order(images: int, seed: int, number: int) -> np.ndarray:
    """The order of the images in a pass. It is cached, since shuffling a million images takes longer than a step."""
    return np.random.default_rng([seed, number]).permutation(images)


def to_input(images: np.ndarray, device: torch.device) -> Tensor:
    """Convert uint8 [N, rows, columns] to float32 [N, 3, rows, columns] in [0, 1] on the device, three equal channels.

    With phase, [N, rows, columns, 2], the channels are M (1 + p), M and M (1 - p), with magnitude M in [0, 1] and phase
    p in half turns, [-1, 1]. The factor M suppresses phase without signal, which is noise. The channel mean is M,
    so that the P of feature enhancement (A1) does not change. Where the phase is 0, the channels are equal.
    """
    values = torch.from_numpy(images).to(device, non_blocking=True).float()
    if values.dim() == 3:
        return values.div_(255)[:, None].expand(-1, 3, -1, -1)
    magnitude, phase = values[..., 0] / 255, (values[..., 1] - ZERO_PHASE) / HALF_TURN
    weighted = magnitude * phase
    return torch.stack([magnitude + weighted, magnitude, magnitude - weighted], dim=1)


def to_targets(boxes: Sequence[np.ndarray], device: torch.device) -> list[dict[str, Tensor]]:
    """Boxes float32 [K, 4] xyxy px as torchvision's detection targets; every label is 1, a microbleed."""
    return [
        {
            "boxes": torch.from_numpy(corners).to(device),
            "labels": torch.ones(len(corners), dtype=torch.int64, device=device),
        }
        for corners in boxes
    ]


class Batch(NamedTuple):
    """The input of one forward pass."""

    names: list[str]
    images: np.ndarray  # uint8 [n, rows, columns], with phase [n, rows, columns, 2]
    boxes: list[np.ndarray]  # float32 [K, 4] xyxy px for each image


def parts_of_iteration(
    data: LabelledImages, seed: int, batch: int, accumulate: int, share: tuple[int, int], iteration: int
) -> list[Batch]:
    """This process's share of the `accumulate` batches of an iteration; each whole batch has `batch` images.

    share: rank of this process, and number of processes, which divides `batch`. The processes take images in turn.
    """
    number, processes = share
    drawn = np.split(batch_indices(len(data), batch * accumulate, iteration, seed), accumulate)
    return [
        Batch([data.names[i] for i in own], data.images[own], [data.boxes[i] for i in own])
        for own in (indices[number::processes] for indices in drawn)
    ]


class MadeAhead:
    """Iterate over `make(number)` for `numbers`, in order; threads prepare the results in advance.

    `waited` counts the seconds that the loop waited for its next batch.
    """

    def __init__(self, make: Callable[[int], Any], numbers: Iterable[int], ahead: int = AHEAD) -> None:
        self.make, self.numbers, self.ahead = make, numbers, ahead
        self.waited = 0.0

    def __iter__(self) -> Iterator[Any]:
        numbers = iter(self.numbers)
        pool = ThreadPoolExecutor(self.ahead)
        try:
            under_way = deque(pool.submit(self.make, number) for number in islice(numbers, self.ahead))
            while under_way:
                begin = time.perf_counter()
                made = under_way.popleft().result()
                self.waited += time.perf_counter() - begin
                under_way.extend(pool.submit(self.make, number) for number in islice(numbers, 1))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)
