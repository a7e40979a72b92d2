"""Detectors as ONNX files, written only if onnxruntime gives with them what PyTorch gives (docs/export.md).

The graph holds all that `SSD` does in evaluation, non-maximum suppression included.
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
"""What the network says of each default box: boxes [N, P, 4], scores [N, P]."""
TO_IMAGE = "to_image"
SUPPRESSION = files("cmbfe.detector") / "suppression.txt"
"""What `SSD` keeps of every image, in ONNX's text form. A row of `found`: number of the image, class, candidate."""
RANDOM_BATCHES = 2
TOLERANCE = 1e-4
"""Largest difference that is allowed, in scores and in boxes as a share of the image's longer side."""
ROUNDING = 1e-6
"""An overlap that is so close to its limit, relatively, may be taken for more or for less than that."""


class Difference(NamedTuple):
    """How an ONNX file in onnxruntime differs from its detector in PyTorch, both in float32."""

    images: int  # how many were compared
    score: float  # largest difference over all default boxes of all images
    box_px: float  # the same of box corners, px of the images
    box_share: float  # the same, as a share of the image's longer side
    suppressed_otherwise: int
    """Images of which PyTorch, given onnxruntime's boxes and scores, would keep other boxes."""
    detected_otherwise: int
    """Images with other detections, beyond the tolerance: a tie to within rounding can be decided either way."""


def export_onnx(
    detector: SSD, out: Path, images: Iterable[Tensor] = (), on_step: Callable[[], None] = lambda: None
) -> Difference:
    """Write a detector as an ONNX file, if onnxruntime then gives with it what PyTorch gives.

    Args:
        detector: on the CPU.
        out: a file named *.onnx; an earlier one is replaced.
        images: batches Tensor[N, 3, H, W] in [0, 1] of any sizes to compare on, besides `RANDOM_BATCHES` random ones.
        on_step: called after the file is made, and after each batch.

    Raises:
        InputError: another suffix, a detector of several classes, or a difference beyond TOLERANCE; then nothing is
            written.
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
        # np.max, unlike max, keeps what is not a number.
        largest = [float(np.max(values)) for values in (score, box_px, box_share)]
        difference = Difference._make([sum(count), *largest, *map(sum, otherwise)])
        _check(difference, out)
    return difference


def _session(file: Path) -> "onnxruntime.InferenceSession":
    """The file with EVERY_BOX as outputs, too."""
    import onnx
    import onnxruntime

    model = onnx.load(file)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in EVERY_BOX)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its threads would hold up PyTorch's
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _random_batches(detector: SSD) -> list[Tensor]:
    """One image of the input's size, three of another; RANDOM_BATCHES says how many batches."""
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
    """What torchvision's suppression keeps of an image, boxes [P, 4] and scores [P], at the limit and beside it. As
    `SSD.detections` does it, but for ties: of equal scores the first comes first, which ONNX prescribes and PyTorch
    leaves open."""
    config = detector.config
    order = scores.argsort(descending=True, stable=True)[:CANDIDATES_PER_CLASS]
    order = order[scores[order] > config.score_threshold]
    limits = [config.nms_threshold * factor for factor in (1, 1 - ROUNDING, 1 + ROUNDING)]
    kept = [order[nms(boxes[order], scores[order], limit)][: config.detections_per_image] for limit in limits]
    return [(boxes[indices], scores[indices]) for indices in kept]


def _table(boxes: np.ndarray | Tensor, scores: np.ndarray | Tensor, side: int) -> np.ndarray:
    """[D, 5]: corners as shares of the image's longer side, px, and score."""
    return np.column_stack([np.asarray(boxes) / side, np.asarray(scores)])


def _same(rows: np.ndarray, others: np.ndarray) -> bool:
    """Whether every row of each table is in the other, whatever their order."""
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
    """The part of a detector that is traced: from images to EVERY_BOX and the factor from input px to image px."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SSD.forward` in evaluation, in operations that leave number and size of the images open.

        Of Tensor[N, 3, H, W]: Tensor[N, P, 4], Tensor[N, P] and Tensor[4] (W, H, W, H over the input's side).
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
    """Tensor[wanted, side]: times a column of pixels, that column resized, bilinear as `F.interpolate` does it.

    Not the operator Resize: onnxruntime rounds its coordinates in another way than PyTorch, and for noise of 256 px
    resized to 320 px the scores of a MobileNet differed by 3.5e-4.
    """
    pixels = torch.arange(side, dtype=torch.float32)
    scale = torch.full((), side, dtype=torch.float32) / wanted
    # float64, as PyTorch rounds product and difference at once (a fused multiply-add).
    place = ((torch.arange(wanted) + 0.5).double() * scale.double() - 0.5).float()
    place = torch.minimum(place.clamp(min=0), pixels[-1])
    return (1 - (place[:, None] - pixels).abs()).clamp(min=0)


def every_box(detector: SSD, logits: Tensor, regression: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes Tensor[N, P, 4] (xyxy px of the input) and scores Tensor[N, P] of all default boxes."""
    default = corners(detector.default_boxes, detector.input_size)
    boxes = clip_boxes_to_image(decode(regression, default), (detector.input_size,) * 2)
    return boxes, logits.softmax(dim=-1)[..., 1]


def to_onnx(detector: SSD) -> "onnx.ModelProto":
    """A detector on the CPU as an ONNX model, see DESCRIPTION; `InputError` for one of several classes."""
    import onnx
    from onnx import compose
    from onnx.helper import make_model, make_opsetid, set_model_props

    if detector.config.num_classes != 2:
        classes = detector.config.num_classes - 1
        raise InputError(f"the detector knows {classes} classes; ONNX files are written of those that know one")
    links = (*EVERY_BOX, TO_IMAGE)
    # No two sides of the example are equal, so that none is taken for another.
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
    """The second half of the graph: from EVERY_BOX and TO_IMAGE to what is kept."""
    import onnx.parser

    config = detector.config
    iou, threshold = float(config.nms_threshold), float(config.score_threshold)
    numbers = {"candidates": CANDIDATES_PER_CLASS, "kept": config.detections_per_image}
    return onnx.parser.parse_graph(SUPPRESSION.read_text().format(iou=iou, threshold=threshold, **numbers))


def _without_traces(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The exporter notes with each node the file and line it comes from: nobody's folders belong in the file."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return model
