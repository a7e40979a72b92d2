"""Pictures and boxes as the network takes them: decoded once, drawn in a seeded order, converted on the device."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmbfe.data.labels import Labels, xyxy
from cmbfe.data.picture_files import read_picture
from cmbfe.errors import InputError
from cmbfe.files import whole_file

GIB = 2**30


class PictureFiles:
    """Pictures of one size, decoded when they are asked for: `files[indices]` is uint8 [n, rows, columns]."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.shape = (len(paths), *read_picture(paths[0]).shape)

    def __getitem__(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self.read(index) for index in indices])

    def read(self, index: int) -> np.ndarray:
        """One picture; `InputError` if it cannot be read or has another size than the first."""
        picture = read_picture(self.paths[index])
        if picture.shape != self.shape[1:]:
            sizes = [f"{columns} x {rows} px" for rows, columns in (picture.shape, self.shape[1:])]
            raise InputError(f"{self.paths[index]}: {sizes[0]}, but {self.paths[0]} has {sizes[1]}")
        return picture

    def decode(self, into: np.ndarray) -> None:
        """Fill an array of this shape, several pictures at a time."""

        def fill(index: int) -> None:
            into[index] = self.read(index)

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(self.paths))))


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of one size, with the boxes in each."""

    names: tuple[str, ...]
    pictures: np.ndarray | PictureFiles
    """uint8 [N, rows, columns], in memory, mapped from a file or decoded when asked for."""
    boxes: tuple[np.ndarray, ...]
    """float32 [K, 4] xyxy px for each picture."""

    def __len__(self) -> int:
        return len(self.names)


def read_pictures(paths: Sequence[Path]) -> np.ndarray:
    """Read pictures of one size into uint8 [N, rows, columns].

    Raises:
        InputError: an unreadable picture, or one of another size than the first.
    """
    files = PictureFiles(paths)
    pictures = np.empty(files.shape, np.uint8)
    files.decode(pictures)
    return pictures


def list_labelled(labels: Labels, folder: Path) -> LabelledPictures:
    """Every picture of `labels`, whose file names are relative to `folder`, still in its file.

    Raises:
        InputError: no pictures, the first cannot be read, or its size is not what the labels say of every picture.
    """
    if not labels["images"]:
        raise InputError(f"{folder}: the labels name no picture")
    boxes = defaultdict(list)
    for annotation in labels["annotations"]:
        boxes[annotation["image_id"]].append(annotation)
    names = tuple(image["file_name"] for image in labels["images"])
    files = PictureFiles([folder / name for name in names])
    rows, columns = files.shape[1:]
    for image in labels["images"]:
        if (image["width"], image["height"]) != (columns, rows):
            size = f"{image['width']} x {image['height']} px"
            raise InputError(f"{folder / image['file_name']}: {columns} x {rows} px, but its labels are of {size}")
    corners = tuple(xyxy(boxes[image["id"]]).astype(np.float32) for image in labels["images"])
    return LabelledPictures(names, files, corners)


def load_labelled(labels: Labels, folder: Path) -> LabelledPictures:
    """Decode every picture of `labels`, whose file names are relative to `folder`.

    Raises:
        InputError: no pictures, one that cannot be read, or one whose size is not what the labels say.
    """
    listed = list_labelled(labels, folder)
    return LabelledPictures(listed.names, read_pictures(listed.pictures.paths), listed.boxes)


def fits(data: LabelledPictures, gib: float) -> bool:
    """Whether the decoded pictures take no more than `gib` GiB."""
    return np.prod(data.pictures.shape, dtype=float) <= gib * GIB


def decode_to_file(data: LabelledPictures, file: Path) -> None:
    """Decode listed pictures to a .npy file, whole or not at all, through a memory map: they never fill the memory."""
    with whole_file(file) as temporary:
        mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=data.pictures.shape)
        data.pictures.decode(mapped)
        mapped.flush()


def mapped_from_file(data: LabelledPictures, file: Path) -> LabelledPictures:
    """The same pictures out of a file that `decode_to_file` wrote; processes share what is read of it."""
    return LabelledPictures(data.names, np.load(file, mmap_mode="r"), data.boxes)


def content_hash(data: LabelledPictures) -> str:
    """SHA-256 over the bytes of the listed pictures' files, in their order, and the boxes."""

    def of_file(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor() as pool:
        content = hashlib.sha256(b"".join(pool.map(of_file, data.pictures.paths)))
    for name, boxes in zip(data.names, data.boxes, strict=True):
        content.update(f"{name} {len(boxes)} boxes".encode() + boxes.tobytes())
    return content.hexdigest()


def batch_indices(pictures: int, batch: int, iteration: int, seed: int) -> np.ndarray:
    """Which pictures make the batch of an iteration: whole passes, each in its own seeded order.

    A function of the iteration alone: a resumed training needs no sampler state to go on exactly.
    """
    positions = np.arange(iteration * batch, (iteration + 1) * batch)
    passes, places = positions // pictures, positions % pictures
    orders = {number: _order(pictures, seed, number) for number in set(passes.tolist())}
    return np.array([orders[number][place] for number, place in zip(passes.tolist(), places.tolist(), strict=True)])


@lru_cache(maxsize=2)
def _order(pictures: int, seed: int, number: int) -> np.ndarray:
    """The order of one pass; remembered, for a million pictures take longer to shuffle than a step takes."""
    return np.random.default_rng([seed, number]).permutation(pictures)


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
