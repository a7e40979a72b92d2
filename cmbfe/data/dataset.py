"""Pictures and boxes as the network takes them: decoded once, drawn in a seeded order, converted on the device."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmbfe.data.labels import Labels, xyxy
from cmbfe.data.picture_files import read_picture
from cmbfe.errors import InputError


@dataclass(frozen=True)
class LabelledPictures:
    """Decoded pictures of one size, with the boxes in each."""

    names: tuple[str, ...]
    pictures: np.ndarray
    """uint8 [N, rows, columns]."""
    boxes: tuple[np.ndarray, ...]
    """float32 [K, 4] xyxy px for each picture."""

    def __len__(self) -> int:
        return len(self.names)


def read_pictures(paths: Sequence[Path]) -> np.ndarray:
    """Read pictures of one size into uint8 [N, rows, columns].

    Raises:
        InputError: an unreadable picture, or one of another size than the first.
    """
    first = read_picture(paths[0])
    pictures = np.empty((len(paths), *first.shape), np.uint8)

    def fill(index: int) -> None:
        picture = read_picture(paths[index])
        if picture.shape != first.shape:
            raise InputError(f"{paths[index]}: {picture.shape[::-1]} px, but {paths[0]} has {first.shape[::-1]} px")
        pictures[index] = picture

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(paths))))
    return pictures


def load_labelled(labels: Labels, folder: Path) -> LabelledPictures:
    """Decode every picture of `labels`, whose file names are relative to `folder`.

    Raises:
        InputError: no pictures, one that cannot be read, or one whose size is not what the labels say.
    """
    if not labels["images"]:
        raise InputError(f"{folder}: the labels name no picture")
    boxes = defaultdict(list)
    for annotation in labels["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    names = tuple(image["file_name"] for image in labels["images"])
    corners = tuple(xyxy(boxes[image["id"]]).astype(np.float32) for image in labels["images"])
    pictures = read_pictures([folder / name for name in names])
    rows, columns = pictures.shape[1:]
    for image in labels["images"]:
        if (image["width"], image["height"]) != (columns, rows):
            size = f"{image['width']} x {image['height']} px"
            raise InputError(f"{folder / image['file_name']}: {columns} x {rows} px, but its labels are of {size}")
    return LabelledPictures(names, pictures, corners)


def batch_indices(pictures: int, batch: int, iteration: int, seed: int) -> np.ndarray:
    """Which pictures make the batch of an iteration: whole passes, each in its own seeded order.

    A function of the iteration alone: a resumed training needs no sampler state to go on exactly.
    """
    positions = np.arange(iteration * batch, (iteration + 1) * batch)
    passes, places = positions // pictures, positions % pictures
    orders = {number: np.random.default_rng([seed, number]).permutation(pictures) for number in set(passes.tolist())}
    return np.array([orders[number][place] for number, place in zip(passes.tolist(), places.tolist(), strict=True)])


def to_input(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [N, rows, columns] to float32 [N, 3, rows, columns] in [0, 1] on the device, three equal channels."""
    grey = torch.from_numpy(pictures).to(device, non_blocking=True).float().div_(255)
    return grey[:, None].expand(-1, 3, -1, -1)


def to_targets(boxes: Sequence[np.ndarray], device: torch.device) -> list[dict[str, Tensor]]:
    """Boxes float32 [K, 4] xyxy px as torchvision's detection targets; every label is 1, a microbleed."""
    return [
        {
            "boxes": torch.from_numpy(corners).to(device),
            "labels": torch.ones(len(corners), dtype=torch.int64, device=device),
        }
        for corners in boxes
    ]
