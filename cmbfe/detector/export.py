"""Detectors as ONNX files, written only if onnxruntime finds with them what PyTorch finds (docs/export.md)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torchvision.ops import nms
from tqdm import tqdm

from cmbfe.data.labelled.images import read_image
from cmbfe.detector.onnx_graph import EVERY_BOX, IMAGES, every_box, to_onnx
from cmbfe.detector.ssd import CANDIDATES_PER_CLASS, SSD
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.training.batches import to_input

TOLERANCE = 1e-4
"""Largest difference that is allowed, in scores and in boxes as a share of the image's longer side."""
ROUNDING = 1e-6
"""An overlap that is so close to its limit, relatively, may be taken for more or for less than that."""
CPU = torch.device("cpu")


class Difference(NamedTuple):
    """How an ONNX file in onnxruntime differs from its detector in PyTorch, both in float32."""

    images: int
    """How many were compared."""
    score: float
    """Largest difference over all default boxes of all images."""
    box_px: float
    """The same of box corners, px of the images."""
    box_share: float
    """The same, as a share of the longer side of the image."""
    suppressed_otherwise: int
    """Images of which PyTorch, given onnxruntime's boxes and scores, would keep other boxes."""
    found_otherwise: int
    """Images with other detections, beyond the tolerance: a tie to within rounding can be decided either way."""


def export_onnx(detector: SSD, out: Path, images: Sequence[Path] = ()) -> Difference:
    """Write a detector as an ONNX file, if onnxruntime then finds with it what PyTorch finds.

    Args:
        detector: on the CPU.
        out: a file named *.onnx; an earlier one is replaced.
        images: PNG or JPG files of any sizes to compare on, besides random ones.

    Raises:
        InputError: another suffix, a detector of several classes, an image that cannot be read, or a difference
            beyond TOLERANCE; then nothing is written.
    """
    if out.suffix != ".onnx":
        raise InputError(f"{out}: the name of an ONNX file ends in .onnx")
    steps = 1 + len(_random_batches(detector)) + len(images)
    with (
        whole_file(out) as temporary,
        tqdm(total=steps, desc=f"exporting {detector.config.variant}", unit="step", leave=False) as bar,
    ):
        onnx.save(to_onnx(detector), temporary)
        bar.update()
        difference = Difference(0, 0, 0, 0, 0, 0)
        for of_batch in compare(detector, temporary, images):
            difference = _together(difference, of_batch)
            bar.update()
        _check(difference, out)
    return difference


def compare(detector: SSD, file: Path, pixels: Sequence[Path] = ()) -> Iterator[Difference]:
    """Run an ONNX file and the detector that it was made of on random batches, then on each image."""
    session = _session(file)
    yield from (_difference(detector, session, images) for images in _random_batches(detector))
    for image in pixels:
        yield _difference(detector, session, to_input(read_image(image)[None], CPU))


def _session(file: Path) -> onnxruntime.InferenceSession:
    """The file with EVERY_BOX as outputs, too."""
    model = onnx.load(file)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in EVERY_BOX)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would hold up PyTorch's
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _random_batches(detector: SSD) -> list[Tensor]:
    """One image of the input's size, three of another."""
    generator, side = torch.Generator().manual_seed(0), detector.input_size
    shapes = (1, 3, side, side), (3, 3, side * 3 // 4, side * 5 // 4)
    return [torch.rand(shape, generator=generator) for shape in shapes]


@torch.inference_mode()
def _difference(detector: SSD, session: onnxruntime.InferenceSession, images: Tensor) -> Difference:
    """images: Tensor[N, 3, H, W] in [0, 1]."""
    boxes, scores, numbers, *raw = session.run(None, {IMAGES: images.numpy()})
    onnx_boxes, onnx_scores = map(torch.from_numpy, raw)
    expected_boxes, expected_scores = every_box(detector, *detector.predict(detector.prepare(images)))
    rows, columns = images.shape[2:]
    side, to_image = max(rows, columns), torch.tensor([columns, rows] * 2) / detector.input_size
    box_px = float(((onnx_boxes - expected_boxes).abs() * to_image).max())
    found = [_table(boxes[numbers == number], scores[numbers == number], side) for number in range(len(images))]
    kept = [_kept(detector, *of_image) for of_image in zip(onnx_boxes, onnx_scores, strict=True)]
    return Difference(
        images=len(images),
        score=float((onnx_scores - expected_scores).abs().max()),
        box_px=box_px,
        box_share=box_px / side,
        suppressed_otherwise=sum(
            not any(_same(one, _table(boxes * to_image, scores, side)) for boxes, scores in possible)
            for one, possible in zip(found, kept, strict=True)
        ),
        found_otherwise=sum(
            not _same(one, _table(other["boxes"], other["scores"], side))
            for one, other in zip(found, detector(images), strict=True)
        ),
    )


def _kept(detector: SSD, boxes: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What torchvision's suppression keeps of an image, boxes [P, 4] and scores [P], at the limit and beside it.

    As `SSD.detections` does it, but for ties: of equal scores the first comes first, which ONNX prescribes and PyTorch
    leaves open.
    """
    config = detector.config
    order = scores.argsort(descending=True, stable=True)[:CANDIDATES_PER_CLASS]
    order = order[scores[order] > config.score_threshold]
    limits = [config.nms_threshold * factor for factor in (1, 1 - ROUNDING, 1 + ROUNDING)]
    kept = [order[nms(boxes[order], scores[order], limit)][: config.detections_per_image] for limit in limits]
    return [(boxes[one], scores[one]) for one in kept]


def _table(boxes: np.ndarray | Tensor, scores: np.ndarray | Tensor, side: int) -> np.ndarray:
    """[D, 5]: corners as shares of the image's longer side, px, and score."""
    return np.column_stack([np.asarray(boxes) / side, np.asarray(scores)])


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether every row of each table is in the other, whatever their order."""
    equal = np.abs(one[:, None] - other).max(axis=2) <= TOLERANCE
    return len(one) == len(other) and bool(equal.any(axis=0).all() and equal.any(axis=1).all())


def _together(one: Difference, other: Difference) -> Difference:
    """Counts are added; np.maximum, unlike max, keeps what is not a number."""
    return Difference(
        one.images + other.images,
        *(float(np.maximum(*pair)) for pair in zip(one[1:4], other[1:4], strict=True)),
        one.suppressed_otherwise + other.suppressed_otherwise,
        one.found_otherwise + other.found_otherwise,
    )


def _check(difference: Difference, out: Path) -> None:
    if not (difference.score <= TOLERANCE and difference.box_share <= TOLERANCE):
        raise InputError(
            f"{out}: not written, as onnxruntime and PyTorch differ by {difference.score:.1e} in scores and "
            f"{difference.box_share:.1e} of the image's side in boxes; {TOLERANCE:g} is allowed"
        )
    if difference.suppressed_otherwise:
        raise InputError(
            f"{out}: not written, as onnxruntime keeps other boxes than PyTorch of the same boxes and scores in "
            f"{difference.suppressed_otherwise} of {difference.images} images"
        )
