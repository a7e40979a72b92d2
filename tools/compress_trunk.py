"""Make the package's narrow trunks from the training slices in a folder of images.

    python -m tools.compress_trunk vgg16 data/pictures --weights vgg16_features.safetensors
    python -m tools.compress_trunk resnet34 data/pictures
    python -m tools.compress_trunk mobilenet_v2 data/pictures

VGG-16's ImageNet weights are compressed. The other trunks are distilled from the compressed VGG-16, so make it first.
The tool writes float16 safetensors, with origin, licence and unexplained variance in the metadata, and prints the
variance. On the same machine, the same images give the same bytes, because seed and number of threads are fixed.
For VGG-16, half of the slices have the input size of SSD-300, and half the input size of SSD-512.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import trange

from cmbfe.data.labelled.labels import LABELS_FILE, labels_of_split, read_labels
from cmbfe.detector.backbones import COMPRESSED, COMPRESSED_WIDTH, MADE, trunk_state
from cmbfe.detector.compress import INPUT_STD, compress
from cmbfe.detector.distil import distil
from cmbfe.detector.ssd import TRUNKS, build
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.parallel import threads
from cmbfe.training.batches import list_labelled, to_input

SLICES, HELD_OUT, SEED = 208, 16, 0
STEPS = {"vgg16": 3000, "resnet34": 1000, "mobilenet_v2": 1500}
THREADS = 2
ORIGIN = {
    "origin": "VGG-16 (Simonyan & Zisserman 2015), ImageNet, the convolutions, by tools/compress_trunk.py",
    "licence": "CC BY 4.0, as the original weights",
}
Made = tuple[dict[str, Tensor], dict[str, Any]]
"""Weights under torchvision's names, and metadata in addition to `ORIGIN`."""


def drawn_slices(folder: Path) -> list[Tensor]:
    """Randomly drawn slices of the training patients, each Tensor[1, 3, S, S] in [0, 1].

    Raises:
        InputError: no labels there, no training split, or too few slices in it.
    """
    labels = labels_of_split(read_labels(folder / LABELS_FILE), "train")
    if len(labels["images"]) < SLICES:
        raise InputError(f"{folder}: {len(labels['images'])} training slices; at least {SLICES} are needed")
    drawn = np.random.default_rng(SEED).permutation(len(labels["images"]))[:SLICES]
    return list(torch.split(to_input(list_labelled(labels, folder).images[drawn], torch.device("cpu")), 1))


def shown_steps(trunk: str) -> trange:
    """The steps of a distillation, with a progress bar."""
    return trange(STEPS[trunk], desc=f"distilling {trunk}", unit="step")


def compressed_vgg16(images: list[Tensor], weights: str, width: float) -> Made:
    """VGG-16 compressed to fewer channels."""
    teachers = [build(name, weights=weights) for name in ("ssd300", "ssd512")]
    seen = [teachers[number % 2].prepare(image) for number, image in enumerate(images)]
    state, unexplained = compress(teachers[0], seen, width, HELD_OUT, SEED, shown_steps("vgg16"))
    about_input = "RGB in [0, 1] less (0.48235, 0.45882, 0.40784), divided by std"
    return state, {"input": about_input, "std": INPUT_STD, "unexplained": unexplained}


def taught(trunk: str, images: list[Tensor], weights: str, width: float) -> Made:
    """ResNet-34 or MobileNet-V2, distilled from VGG-16."""
    torch.manual_seed(SEED)
    variant = next(variant for variant, (of_variant, _) in TRUNKS.items() if of_variant == trunk)
    student = build(variant, width=width)
    unexplained = distil(
        student,
        build("ssd300", width=COMPRESSED_WIDTH["vgg16"], weights=weights),
        images,
        HELD_OUT,
        shown_steps(trunk),
        SEED,
    )
    return trunk_state(student, trunk), {"unexplained": unexplained}


def main() -> None:
    """Make a trunk, write its file, and print the unexplained variance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trunk", choices=COMPRESSED)
    parser.add_argument("images", type=Path, help="folder of images with annotations.json, such as data/pictures")
    parser.add_argument("--weights", help="of VGG-16: imagenet (download), compressed, or a file")
    parser.add_argument("--width", type=float, help="channels, as a share of the paper's; default: COMPRESSED_WIDTH")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    images, width = drawn_slices(given.images), given.width or COMPRESSED_WIDTH[given.trunk]
    with threads(THREADS):
        if given.trunk == "vgg16":
            state, made = compressed_vgg16(images, given.weights or "imagenet", width)
        else:
            state, made = taught(given.trunk, images, given.weights or "compressed", width)
    half = {name: weight.half().contiguous() for name, weight in state.items()}
    unexplained = {name: round(share, 4) for name, share in made["unexplained"].items()}
    with whole_file(given.out or COMPRESSED[given.trunk]) as path:
        path.write_bytes(
            save(half, metadata={MADE: json.dumps(ORIGIN | made | {"unexplained": unexplained}, sort_keys=True)})
        )
    print("\n".join(f"{name:12} {share:6.1%} of the variance unexplained" for name, share in unexplained.items()))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
