"""Export of detectors to ONNX files, only if onnxruntime reproduces PyTorch's results (docs/export.md).

The graph contains the whole evaluation pass of `SSD`, including non-maximum suppression.
"""

from collections.abc import Callable, Iterable
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torchvision.ops import clip_boxes_to_image, nms

from cmbfe import __version__
from cmbfe.detector.boxes import corners, decode
from cmbfe.detector.ssd import CANDIDATES_PER_CLASS, SSD, per_box
from cmbfe.errors import InputError
from cmbfe.files import whole_file

if TYPE_CHECKING:
    import onnx
    import onnxruntime

OPSET, IR_VERSION = 18, 8  # operators and file format of December 2022: onnxruntime 1.15 and later read them
NOTICE = "Not a medical device. For research and teaching; never for diagnosis."
DESCRIPTION = """\
Input: images float32 [images, 3, rows, columns] in [0, 1], three equal channels; any number, any size.
Outputs, a row for each detection, image after image, best first: boxes float32 [detections, 4], corners x1, y1,
x2, y2 in px of the images given; scores float32 [detections] in [0, 1]; pictures int64 [detections], the number of
the image in the batch, from 0.
"""
IMAGES = "images"
EVERY_BOX = ("every_box", "every_score")
"""Names of the network's outputs for all default boxes: boxes [N, P, 4], scores [N, P]."""
TO_IMAGE = "to_image"
SUPPRESSION = files("cmbfe.detector") / "suppression.txt"
"""Non-maximum suppression of `SSD` in ONNX's text form. A row of `found` has image number, class and candidate."""
RANDOM_BATCHES = 2
TOLERANCE = 1e-4
"""Largest allowed difference, both of scores and of boxes (as a share of the image's longer side)."""
ROUNDING = 1e-6
"""Relative margin around the overlap limit within which a box may be either kept or suppressed."""


class Difference(NamedTuple):
    """Differences between an ONNX file in onnxruntime and its detector in PyTorch, both in float32."""

    images: int  # number of compared images
    score: float  # largest score difference over all default boxes of all images
    box_px: float  # largest difference of box corners, px of the images
    box_share: float  # largest difference of box corners, as a share of the image's longer side
    suppressed_otherwise: int
    """Number of images in which PyTorch's suppression keeps other boxes, given onnxruntime's boxes and scores."""
    detected_otherwise: int
    """Number of images whose detections differ by more than the tolerance. Rounding can decide a tie either way."""


def export_onnx(
    detector: SSD, out: Path, images: Iterable[Tensor] = (), on_step: Callable[[], None] = lambda: None
) -> Difference:
    """Write a detector as an ONNX file, provided that onnxruntime reproduces PyTorch's results with it.

    Args:
        detector: a detector on the CPU.
        out: a file named *.onnx; an existing file is replaced.
        images: batches Tensor[N, 3, H, W] in [0, 1] of any size for the comparison, besides `RANDOM_BATCHES` of noise.
        on_step: called after the file is made, and after each batch.

    Raises:
        InputError: another suffix, a detector of several classes, or a difference beyond TOLERANCE. No file is
            written in these cases.
    """
    import onnx

    if out.suffix != ".onnx":
        raise InputError(f"{out}: the name of an ONNX file ends in .onnx")
    with whole_file(out) as temporary:
        onnx.save(to_onnx(detector), temporary)
        on_step()
        session, differences = _session(temporary), []
        for batch in chain(_random_batches(detector), images):
            differences.append(_difference(detector, session, batch))
            on_step()
        count, score, box_px, box_share, *otherwise = zip(*differences, strict=True)
        # np.max, unlike max, keeps NaN.
        largest = [float(np.max(values)) for values in (score, box_px, box_share)]
        difference = Difference._make([sum(count), *largest, *map(sum, otherwise)])
        _check(difference, out)
    return difference


def _session(file: Path) -> "onnxruntime.InferenceSession":
    """An onnxruntime session of the file, with EVERY_BOX as additional outputs."""
    import onnx
    import onnxruntime

    model = onnx.load(file)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in EVERY_BOX)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads slow down PyTorch's
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _random_batches(detector: SSD) -> list[Tensor]:
    """`RANDOM_BATCHES` batches of noise: an image of the input size, and three images of another size."""
    generator, side = torch.Generator().manual_seed(0), detector.input_size
    shapes = (1, 3, side, side), (3, 3, side * 3 // 4, side * 5 // 4)
    return [torch.rand(shape, generator=generator) for shape in shapes]


@torch.inference_mode()
def _difference(detector: SSD, session: "onnxruntime.InferenceSession", images: Tensor) -> Difference:
    boxes, scores, numbers, *raw = session.run(None, {IMAGES: images.numpy()})
    onnx_boxes, onnx_scores = map(torch.from_numpy, raw)
    expected_boxes, expected_scores = every_box(detector, *detector.predict(detector.prepare(images)))
    rows, columns = images.shape[2:]
    side, to_image = max(rows, columns), torch.tensor([columns, rows] * 2) / detector.input_size
    box_px = float(((onnx_boxes - expected_boxes).abs() * to_image).max())
    tables = [_table(boxes[numbers == number], scores[numbers == number], side) for number in range(len(images))]
    kept = [_kept(detector, *of_image) for of_image in zip(onnx_boxes, onnx_scores, strict=True)]
    return Difference(
        images=len(images),
        score=float((onnx_scores - expected_scores).abs().max()),
        box_px=box_px,
        box_share=box_px / side,
        suppressed_otherwise=sum(
            not any(_same(table, _table(boxes * to_image, scores, side)) for boxes, scores in possible)
            for table, possible in zip(tables, kept, strict=True)
        ),
        detected_otherwise=sum(
            not _same(table, _table(other["boxes"], other["scores"], side))
            for table, other in zip(tables, detector(images), strict=True)
        ),
    )


def _kept(detector: SSD, boxes: Tensor, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Boxes and scores that torchvision's non-maximum suppression keeps, at its IoU limit and just below and above it.
    The method is that of `SSD.detections`, except that boxes of equal score keep their order, as ONNX prescribes and
    PyTorch does not. boxes: [P, 4]; scores: [P]."""
    config = detector.config
    order = scores.argsort(descending=True, stable=True)[:CANDIDATES_PER_CLASS]
    order = order[scores[order] > config.score_threshold]
    limits = [config.nms_threshold * factor for factor in (1, 1 - ROUNDING, 1 + ROUNDING)]
    kept = [order[nms(boxes[order], scores[order], limit)][: config.detections_per_image] for limit in limits]
    return [(boxes[indices], scores[indices]) for indices in kept]


def _table(boxes: np.ndarray | Tensor, scores: np.ndarray | Tensor, side: int) -> np.ndarray:
    """A table [D, 5]: box corners as shares of the image's longer side `side` (px), and the score."""
    return np.column_stack([np.asarray(boxes) / side, np.asarray(scores)])


def _same(rows: np.ndarray, others: np.ndarray) -> bool:
    """Whether two tables have the same rows within the tolerance, in any order."""
    equal = np.abs(rows[:, None] - others).max(axis=2) <= TOLERANCE
    return len(rows) == len(others) and bool(equal.any(axis=0).all() and equal.any(axis=1).all())


def _check(difference: Difference, out: Path) -> None:
    score, share, otherwise = difference.score, difference.box_share, difference.suppressed_otherwise
    if not (score <= TOLERANCE and share <= TOLERANCE):
        how = (
            f"differ by {score:.1e} in scores and {share:.1e} of the image's side in boxes; {TOLERANCE:g} is allowed"
        )
        raise InputError(f"{out}: not written, as onnxruntime and PyTorch {how}")
    if otherwise:
        how = f"other boxes than PyTorch of the same boxes and scores in {otherwise} of {difference.images} images"
        raise InputError(f"{out}: not written, as onnxruntime keeps {how}")


class Network(nn.Module):
    """The traced part of a detector. It computes EVERY_BOX from images, and the factors from input px to image px."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run `SSD.forward` of evaluation mode in operations that allow any number and size of images.

        Returns boxes Tensor[N, P, 4], scores Tensor[N, P] and factors Tensor[4] (W, H, W, H over the input's side).
        """
        detector, side = self.detector, self.detector.input_size
        rows, columns = images.shape[2:]
        normalised = (images - detector.mean) / detector.std
        maps = detector.feature_maps(resizing(rows, side) @ normalised @ resizing(columns, side).T)
        logits = per_box(detector.classification, maps, detector.config.num_classes)
        regression = per_box(detector.regression, maps, 4)
        width_height = torch.stack([torch.full((), each, dtype=torch.float32) for each in (columns, rows)])
        return *every_box(detector, logits, regression), torch.cat([width_height, width_height]) / side


def resizing(side: int, wanted: int) -> Tensor:
    """The matrix Tensor[wanted, side] that resizes a column of pixels like bilinear `F.interpolate`.

    ONNX's operator Resize is not used, since onnxruntime rounds its coordinates differently from PyTorch. With Resize,
    the scores of a MobileNet differed by 3.5e-4 for noise resized from 256 to 320 px.
    """
    pixels = torch.arange(side, dtype=torch.float32)
    scale = torch.full((), side, dtype=torch.float32) / wanted
    # In float64, since PyTorch rounds product and difference only once (a fused multiply-add).
    place = ((torch.arange(wanted) + 0.5).double() * scale.double() - 0.5).float()
    place = torch.minimum(place.clamp(min=0), pixels[-1])
    return (1 - (place[:, None] - pixels).abs()).clamp(min=0)


def every_box(detector: SSD, logits: Tensor, regression: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes Tensor[N, P, 4] (xyxy px of the input) and scores Tensor[N, P] of all default boxes."""
    default = corners(detector.default_boxes, detector.input_size)
    boxes = clip_boxes_to_image(decode(regression, default), (detector.input_size,) * 2)
    return boxes, logits.softmax(dim=-1)[..., 1]


def to_onnx(detector: SSD) -> "onnx.ModelProto":
    """Convert a detector on the CPU to an ONNX model, see DESCRIPTION; `InputError` for several classes."""
    import onnx
    from onnx import compose
    from onnx.helper import make_model, make_opsetid, set_model_props

    if detector.config.num_classes != 2:
        classes = detector.config.num_classes - 1
        raise InputError(f"the detector knows {classes} classes; ONNX files are written of those that know one")
    links = (*EVERY_BOX, TO_IMAGE)
    # All dimensions of the example differ, so that tracing cannot confuse them.
    example = torch.rand(2, 3, detector.input_size - 1, detector.input_size + 1)
    program: Any = torch.onnx.export(
        Network(detector).eval(),
        (example,),
        dynamic_shapes=({0: Dim("images"), 2: Dim("rows", min=2), 3: Dim("columns", min=2)},),
        input_names=[IMAGES],
        output_names=links,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    network = _without_traces(program.model_proto)
    graph = compose.merge_graphs(
        network.graph, suppression(detector), [(name, name) for name in links], name=detector.config.variant
    )
    producer = {"producer_name": "cmbfe", "producer_version": __version__, "doc_string": DESCRIPTION + NOTICE}
    model = make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION, **producer)
    properties = {
        "variant": detector.config.variant,
        "input_size_px": str(detector.input_size),
        "class": "cmb",
        "software": f"cmbfe {__version__}",
        "notice": NOTICE,
    }
    set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model


def suppression(detector: SSD) -> "onnx.GraphProto":
    """The second half of the graph, which computes the detections from EVERY_BOX and TO_IMAGE."""
    import onnx.parser

    config = detector.config
    iou, threshold = float(config.nms_threshold), float(config.score_threshold)
    numbers = {"candidates": CANDIDATES_PER_CLASS, "kept": config.detections_per_image}
    return onnx.parser.parse_graph(SUPPRESSION.read_text().format(iou=iou, threshold=threshold, **numbers))


def _without_traces(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Remove the source file and line that the exporter notes at each node, since they reveal local folders."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return model
