"""A detector as an ONNX graph: all that `SSD` does in evaluation, non-maximum suppression included."""

from collections.abc import Sequence

import onnx
import torch
from onnx import compose
from onnx.helper import make_model, make_opsetid, set_model_props
from torch import Tensor, nn
from torch.export import Dim
from torchvision.ops import clip_boxes_to_image

from cmbfe.detector.boxes import corners, decode
from cmbfe.detector.ssd import CANDIDATES_PER_CLASS, SSD
from cmbfe.errors import InputError
from cmbfe.version import version

OPSET, IR_VERSION = 18, 8
"""Operators and file format of December 2022: onnxruntime 1.15 and later read them."""
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
SUPPRESSION = """
suppression (float[images, P, 4] every_box, float[images, P] every_score, float[4] to_image)
         => (float[detections, 4] boxes, float[detections] scores, int64[detections] pictures)
<int64[1] candidates = {{{candidates}}}, int64[1] kept = {{{kept}}}, float[1] iou = {{{iou}}},
 float[1] threshold = {{{threshold}}}, int64[1] one = {{1}}, int64[1] last = {{-1}}, int64 number = {{0}},
 int64[2] number_and_candidate = {{0, 2}}>
{{
    best, order = TopK <axis = 1> (every_score, candidates)
    indices = Unsqueeze (order, last)
    box = GatherND <batch_dims = 1> (every_box, indices)
    of_class = Unsqueeze (best, one)
    found = NonMaxSuppression (box, of_class, kept, iou, threshold)
    place = Gather <axis = 1> (found, number_and_candidate)
    in_input = GatherND (box, place)
    boxes = Mul (in_input, to_image)
    scores = GatherND (best, place)
    pictures = Gather <axis = 1> (found, number)
}}
"""
"""What `SSD` keeps of every image, in ONNX's text form. A row of `found`: number of the image, class, candidate."""


class Network(nn.Module):
    """The part of a detector that is traced: from images to EVERY_BOX and the factor from input px to image px."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `SSD.forward` in evaluation, in operations that leave number and size of the images open.

        images: Tensor[N, 3, H, W]. Returns Tensor[N, P, 4], Tensor[N, P] and Tensor[4] (W, H, W, H over the input's
        side).
        """
        detector, side = self.detector, self.detector.input_size
        rows, columns = images.shape[2:]
        normalised = (images - detector.mean) / detector.std
        maps = detector.feature_maps(resizing(rows, side) @ normalised @ resizing(columns, side).T)
        logits = _put_together(detector.classification, maps, detector.config.num_classes)
        regression = _put_together(detector.regression, maps, 4)
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


def _put_together(heads: nn.ModuleList, maps: Sequence[Tensor], values: int) -> Tensor:
    """As `SSD.predict` does it; there, len() would fix the number of images in the graph."""
    outputs = [head(one).permute(0, 2, 3, 1).flatten(1) for head, one in zip(heads, maps, strict=True)]
    return torch.cat([output.unflatten(1, (-1, values)) for output in outputs], dim=1)


def to_onnx(detector: SSD) -> onnx.ModelProto:
    """A detector on the CPU, in evaluation mode, as an ONNX model; DESCRIPTION says what goes in and comes out.

    Raises:
        InputError: a detector of several classes.
    """
    if detector.config.num_classes != 2:
        classes = detector.config.num_classes - 1
        raise InputError(f"the detector knows {classes} classes; ONNX files are written of those that know one")
    links = (*EVERY_BOX, TO_IMAGE)
    # No two sides of the example are equal, so that none is taken for another.
    example = torch.rand(2, 3, detector.input_size - 1, detector.input_size + 1)
    program = torch.onnx.export(
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
    model = make_model(
        graph,
        opset_imports=[make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cmbfe",
        producer_version=version(),
        doc_string=DESCRIPTION + NOTICE,
    )
    set_model_props(model, _metadata(detector))
    onnx.checker.check_model(model, full_check=True)
    return model


def suppression(detector: SSD) -> onnx.GraphProto:
    """The second half of the graph: from EVERY_BOX and TO_IMAGE to what is kept."""
    config = detector.config
    text = SUPPRESSION.format(
        candidates=CANDIDATES_PER_CLASS,
        kept=config.detections_per_image,
        iou=float(config.nms_threshold),
        threshold=float(config.score_threshold),
    )
    return onnx.parser.parse_graph(text)


def _metadata(detector: SSD) -> dict[str, str]:
    return {
        "variant": detector.config.variant,
        "input_size_px": str(detector.input_size),
        "class": "cmb",
        "software": f"cmbfe {version()}",
        "notice": NOTICE,
    }


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The exporter notes with each node the file and line it comes from: nobody's folders belong in the file."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return model
