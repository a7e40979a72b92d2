"""What the paper leaves open (A1 to A20): the readings, where ours is set, and which tables measure what it changes.

The first reading is the literal or likeliest one, which the profile `paper` takes. The values in force come from
params.yaml, the effects from results/; none is typed here.
"""

from typing import NamedTuple

from cmbfe.paper.claims import Cell, Value


class OpenPoint(NamedTuple):
    """One thing that the paper does not say, or says in two ways."""

    name: str
    question: str
    readings: tuple[str, ...]
    """Ours first."""
    keys: tuple[str, ...] = ()
    """Of params.yaml or `cmbfe.paper.map_values.known_values`; an arm of the study that changes one of them measures it."""
    code: str = ""
    """Where it is stated, if it is no setting."""
    measured: tuple[Value, ...] = ()
    """Values that say what a reading does, besides the study."""


def _value(name: str, table: str, row: str, column: str) -> Value:
    return Value(name, None, Cell(table, row, column))


OPEN_POINTS = (
    OpenPoint("A1", "which image is P", ("the augmented input in [0, 1], mean over channels",),
              code="cmbfe/detector/fe.py: enhancement_mask"),
    OpenPoint("A2", "how M is resized", ("bilinear", "area", "nearest", "max"), ("detector.fe.resize",)),
    OpenPoint("A3", "M where boxes overlap", ("the larger",), code="cmbfe/detector/fe.py: enhancement_mask"),
    OpenPoint("A4", "where at conv4_3",
              ("trunk: for all that follows", "source: for the first head, after the L2 normalisation", "both"),
              ("detector.fe.placement",),
              measured=(_value("relative change of the first head's map with trunk", "fe_by_map", "trunk", "64x64"),
                        _value("with source", "fe_by_map", "source", "64x64"))),
    OpenPoint("A5", "how M weights the features",
              ("equation: X + M·X", "figure: X + M·N(X), N normalised over channels"), ("detector.fe.weighting",)),
    OpenPoint("A6", "beta, printed without a search for it", ("1.5",), ("detector.fe.beta",)),
    OpenPoint("A7", "momentum 0.1 with Adam",
              ("factor of the learning rate at its steps", "Adam's first beta"),
              ("training.gamma", "training.adam_betas")),
    OpenPoint("A8", "batch of 4 or of 8", ("4 in training, 8 where time is measured",),
              ("training.batch", "05_backbones.batch")),
    OpenPoint("A9", "when the learning rate falls", ("after 80 000 and 100 000 of 120 000 iterations",),
              ("training.milestones", "training.iterations")),
    OpenPoint("A10", "default boxes, \"original setting of SSD\"", ("voc", "coco", "cmb: sizes of our own"),
              ("detector.default_boxes",),
              measured=(_value("share of our boxes within reach at 512 px, voc", "coverage", "512,voc", "all"),
                        _value("coco", "coverage", "512,coco", "all"),
                        _value("cmb", "coverage", "512,cmb", "all"))),
    OpenPoint("A11", "which MobileNet, where FE", ("V2, first map of the heads",), ("trunk.mobilenet320",)),
    OpenPoint("A12", "which ResNet-34 SSD, where FE", ("MLPerf's form, map of 38x38 cells",),
              ("trunk.resnet34-300", "first_map.resnet34-300")),
    OpenPoint("A13", "how AP is integrated", ("all points", "11 points (VOC 2007)"),
              code="cmbfe/metrics/curves.py: average_precision",
              measured=(_value("AP of ssd512 over all points", "table2", "ssd512", "our_ap"),
                        _value("over 11 points", "table2", "ssd512", "our_ap_11_point"))),
    OpenPoint("A14", "what a hit is", ("IoU of 0.5, one detection for each microbleed",), ("evaluation.iou",)),
    OpenPoint("A15", "x of the FROC, and its area", ("false positives per image, mean sensitivity up to 8",),
              ("evaluation.froc_x_max",)),
    OpenPoint("A16", "order and share of the augmentations",
              ("the paper's order, each on every image, flips by chance",),
              code="cmbfe/data/augment.py: pipeline"),
    OpenPoint("A17", "from DICOM to 8 bit", ("one window of percentiles for each series",),
              ("images.window_percentiles",)),
    OpenPoint("A18", "bias correction in 2-D or 3-D", ("3-D, for each series",),
              ("images.bias_correction.shrink_factor", "images.bias_correction.iterations")),
    OpenPoint("A19", "initial weights of MobileNet and ResNet-34", ("ImageNet",),
              ("detector.weights.mobilenet_v2", "detector.weights.resnet34")),
    OpenPoint("A20", "a microbleed on several images", ("a box on each, and each box counts",),
              code="cmbfe/metrics/matching.py: match; per lesion: cmbfe/metrics/lesions.py"),
)  # fmt: skip
