"""Compress VGG-16's ImageNet weights to a narrow trunk, on the training slices of a folder of images.

    python -m tools.compress_trunk data/pictures --weights vgg16_features.safetensors

Writes float16 safetensors, with origin, licence and what was measured in the metadata, and prints that per layer. The
same slices give the same bytes on one machine: two threads, slices drawn by a seed, half of them at the input's size of
SSD-300, half at that of SSD-512.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from cmbfe.data.labelled.labels import LABELS_FILE, labels_of_split, read_labels
from cmbfe.detector.backbones import COMPRESSED, COMPRESSED_WIDTH, MADE
from cmbfe.detector.compress import INPUT_STD, compress
from cmbfe.detector.ssd import SSD, build
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.parallel import threads
from cmbfe.training.batches import list_labelled, to_input

SLICES, HELD_OUT, SEED = 208, 16, 0
THREADS = 2
ORIGIN = {
    "origin": "VGG-16 (Simonyan & Zisserman 2015), ImageNet, the convolutions, compressed by tools/compress_trunk.py",
    "licence": "CC BY 4.0, as the original weights",
    "input": "RGB in [0, 1] less (0.48235, 0.45882, 0.40784), divided by std",
    "std": INPUT_STD,
}


def drawn_slices(folder: Path, teachers: list[SSD]) -> list[Tensor]:
    """Slices of the training patients as the teachers, in turn, see them.

    Raises:
        InputError: no labels there, no training split, or too few slices in it.
    """
    labels = labels_of_split(read_labels(folder / LABELS_FILE), "train")
    if len(labels["images"]) < SLICES:
        raise InputError(f"{folder}: {len(labels['images'])} training slices; at least {SLICES} are needed")
    drawn = np.random.default_rng(SEED).permutation(len(labels["images"]))[:SLICES]
    images = torch.split(to_input(list_labelled(labels, folder).images[drawn], torch.device("cpu")), 1)
    return [teachers[number % len(teachers)].prepare(image) for number, image in enumerate(images)]


def main() -> None:
    """Compress, write the file, print what is left unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images with annotations.json, such as data/pictures")
    parser.add_argument("--weights", default="imagenet", help="of the full VGG-16: imagenet (download) or a file")
    parser.add_argument("--width", type=float, default=COMPRESSED_WIDTH, help="channels, as a share of VGG-16's")
    parser.add_argument("--out", type=Path, default=COMPRESSED)
    given = parser.parse_args()
    with threads(THREADS):
        teachers = [build(name, weights=given.weights) for name in ("ssd300", "ssd512")]
        state, unexplained = compress(teachers[0], drawn_slices(given.images, teachers), given.width, HELD_OUT, SEED)
    half = {name: weight.half().contiguous() for name, weight in state.items()}
    made = ORIGIN | {"unexplained": {name: round(share, 4) for name, share in unexplained.items()}}
    with whole_file(given.out) as path:
        path.write_bytes(save(half, metadata={MADE: json.dumps(made, sort_keys=True)}))
    print("\n".join(f"{name:12} {share:6.1%} of the variance unexplained" for name, share in unexplained.items()))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
