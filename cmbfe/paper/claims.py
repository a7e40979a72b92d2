"""What the paper claims, sets and leaves open (A1 to A20), as data for the map of the paper.

Each entry says where the replication keeps its own value: a key path of params.yaml, a constant of the code, or a cell
of a table in results/tables. Of an open point the first reading is the literal or likeliest, as in the profile `paper`.
"""

from typing import NamedTuple

from cmbfe.baselines import Baseline
from cmbfe.paper import facts


class Setting(NamedTuple):
    """A value that the paper sets."""

    section: str
    what: str
    printed: object
    key: str
    """Of params.yaml, or of `cmbfe.paper.paper_map.known_values`."""
    notebook: str
    is_px: bool = False
    """Whether it is in px of an image `IMAGE_PX` wide: ours is then compared at the width of ours."""


class Cell(NamedTuple):
    """A cell of results/tables/<table>.csv, by the first column's value and the column's name."""

    table: str
    row: str
    column: str


class Claim(NamedTuple):
    """A difference that the paper claims between FE and no FE."""

    section: str
    what: str
    printed: float | None
    ours: Cell
    notebook: str
    better: int = 1
    """1 where more is better, -1 where less is."""


class Value(NamedTuple):
    """A number with its name, the paper's where it prints one."""

    name: str
    printed: float | None
    ours: Cell


class Exhibit(NamedTuple):
    """A table or figure of the paper."""

    name: str
    what: str
    notebook: str
    values: tuple[Value, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """In results/."""
        kind, number = self.name.split()
        if kind == "Table":
            return (f"tables/table{number}.csv",)
        return f"figures/fig{number}.png", f"figures/fig{number}.svg"


class OpenPoint(NamedTuple):
    """One thing that the paper does not say, or says in two ways."""

    name: str
    question: str
    readings: tuple[str, ...]
    """Ours first."""
    keys: tuple[str, ...] = ()
    """Of params.yaml or `cmbfe.paper.paper_map.known_values`; an arm of the study that changes one measures it."""
    code: str = ""
    """Where it is stated, if it is no setting."""
    measured: tuple[Value, ...] = ()
    """Values that say what a reading does, besides the study."""


IMAGE_PX = 512
SETTINGS = (
    Setting("2.1", "field strength, T", 3.0, "acquisition.field_strength_t", "01_data"),
    Setting("2.1", "echo time, ms", 45.0, "acquisition.echo_time_ms", "01_data"),
    Setting("2.1", "repetition time, ms", 77.3, "acquisition.repetition_time_ms", "01_data"),
    Setting("2.1", "train length", 32, "acquisition.echo_train_length", "01_data"),
    Setting("2.1", "bandwidth, kHz", 62.5, "acquisition.bandwidth_khz", "01_data"),
    Setting("2.1", "flip angle, degrees", 15, "acquisition.flip_angle_degrees", "01_data"),
    Setting("2.1", "field of view, mm", 240.0, "acquisition.field_of_view_mm", "01_data"),
    Setting("2.1", "slice thickness, mm", 2.0, "acquisition.slice_thickness_mm", "01_data"),
    Setting("2.1", "matrix, px", IMAGE_PX, "phantom.matrix_px", "01_data"),
    Setting("2.2", "patients", int(facts.TABLE_1.loc["total", "patients"]), "cohort.patients", "01_data"),
    Setting("2.2", "images of all patients", facts.ALL_IMAGES, "cohort.pictures", "01_data"),
    Setting("2.2", "file format", "jpg", "images.format", "01_data"),
    Setting("2.2", "images after augmentation", facts.AUGMENTED_IMAGES, "augmentation.target_images",
            "02_augmentation"),
    Setting("2.2", "probability of each flip", 0.5, "augmentation.flip_probability", "02_augmentation"),
    Setting("2.2", "intensity times", (1.2, 1.5), "augmentation.intensity_factor", "02_augmentation"),
    Setting("2.2", "blur, sigma, px", (0.0, 3.0), "augmentation.blur_sigma_px", "02_augmentation", is_px=True),
    Setting("2.2", "translation up to, px", 15.0, "augmentation.translation_px", "02_augmentation", is_px=True),
    Setting("2.2", "rotation, degrees", (-30.0, 30.0), "augmentation.rotation_degrees", "02_augmentation"),
    Setting("2.2", "scale", (0.8, 0.95), "augmentation.scale", "02_augmentation"),
    Setting("2.3", "beta", 1.5, "detector.fe.beta", "03_training"),
    Setting("2.4", "channels of the trunk, share", 1.0, "detector.width", "03_training"),
    Setting("2.4", "initial weights of VGG-16", "imagenet", "detector.weights.vgg16", "03_training"),
    Setting("2.4", "iterations", 120_000, "training.iterations", "03_training"),
    Setting("2.4", "learning rate", 1e-3, "training.learning_rate", "03_training"),
    Setting("2.4", "learning rate falls after", (80_000, 100_000), "training.milestones", "03_training"),
    Setting("2.4", "images in a batch", facts.BATCHES["2.4"], "training.batch", "03_training"),
    Setting("3", "sensitivity at which precision is read", 0.9, "evaluation.sensitivity", "04_froc"),
    Setting("3", "folds", facts.FOLDS, "cohort.folds", "10_crossvalidation"),
    *(Setting("4, Table 3", f"input of {name}, px", side, f"input_px.{name}", "05_backbones")
      for name, side in facts.INPUT_PX.items()),
    Setting("4", "images in a batch that is timed", facts.BATCHES["4"], "05_backbones.batch", "05_backbones"),
)  # fmt: skip


def _gain(printed: dict[str, float], plain: str) -> float:
    return printed[f"{plain}-fe"] - printed[plain]


_PRECISION = facts.PRECISION_AT_90
_PER_CMB = facts.TABLE_4["false_positives_per_cmb"]
CLAIMS = (
    *(Claim("3, Table 2", f"FE raises the AP of {name}", _gain(facts.TABLE_2_AP, name),
            Cell("table2", f"{name}-fe", "our_gain"), "04_froc") for name in ("ssd512", "ssd300")),
    *(Claim("3, Table 3", f"FE raises the precision of {name} at one recall", _gain(_PRECISION, name),
            Cell("table3", f"{name}-fe", "our_gain"), "05_backbones")
      for name in ("ssd512", "mobilenet320", "resnet34-300")),
    Claim("3, Figure 5", "FE raises the area of the FROC of ssd512", None, Cell("froc", "ssd512-fe", "our_gain"),
          "04_froc"),
    Claim("4, Table 4", "FE lowers the false positives per microbleed of ssd512",
          float(_PER_CMB["SSD-512-FE"] - _PER_CMB["SSD-512"]),
          Cell("table4", "SSD-512-FE", "our_false_positives_per_cmb_gain"), "09_baselines", better=-1),
    Claim("3", "FE raises the AP over folds", _gain(facts.TEN_FOLD_AP, "ssd512"),
          Cell("crossvalidation", "all", "our_gain"), "10_crossvalidation"),
    *(Claim("3, Table 2", f"FE raises the AP of {name}, over several seeds", _gain(facts.TABLE_2_AP, name),
            Cell("study", f"{name},fe", "gain"), "11_ablation") for name in ("ssd512", "ssd300")),
)  # fmt: skip
COSTS = tuple(
    Value(f"time with FE over time without, {name}", 1 + facts.EXTRA_TIME,
          Cell("table3", f"{name}-fe", "our_fe_time_ratio"))
    for name in ("ssd512", "mobilenet320", "resnet34-300")
)  # fmt: skip
"""What FE costs in a forward pass of training, against the paper's one figure for all backbones."""
MIMICS = Value("mimics of an average patient (the paper: over 100)", 100.0, Cell("mimics", "all", "per_patient"))


def _table_4(study: str) -> Value:
    return Value(f"false positives per microbleed, {study}", float(_PER_CMB[study]),
                 Cell("table4", study, "our_false_positives_per_cmb"))  # fmt: skip


EXHIBITS = (
    Exhibit("Table 1", "patients, images and microbleeds of each split", "01_data",
            (Value("microbleed boxes in all", float(facts.TABLE_1.loc["total", "cmbs"]),
                   Cell("table1", "total", "our_cmbs")),)),
    Exhibit("Table 2", "AP without FE and with", "04_froc",
            tuple(Value(f"AP of {name}", ap, Cell("table2", name, "our_ap"))
                  for name, ap in facts.TABLE_2_AP.items())),
    Exhibit("Table 3", "precision and time by backbone", "05_backbones",
            tuple(Value(f"precision of {name}", value, Cell("table3", name, "our_precision"))
                  for name, value in _PRECISION.items())),
    Exhibit("Table 4", "comparison of studies", "09_baselines",
            (_table_4("SSD-512"), _table_4("SSD-512-FE"),
             *(Value(f"AP of {name}", None, Cell("table4", name, "our_ap")) for name in Baseline))),
    Exhibit("Figure 1", "FE step by step", "06_features",
            (Value("largest M in the image", None, Cell("fe_steps", "mask", "largest")),
             Value("largest M on the feature map", None, Cell("fe_steps", "resized", "largest")))),
    Exhibit("Figure 2", "the detector", "06_features",
            (Value("default boxes", None, Cell("architecture", "all", "default_boxes")),)),
    Exhibit("Figure 3", "what FE adds to the feature map", "06_features",
            (Value("change of the most changed channel", None, Cell("fe_channels", "1", "relative_change")),)),
    Exhibit("Figure 4", "precision against sensitivity", "04_froc",
            tuple(Value(f"precision of {study} at 90 % sensitivity", float(facts.TABLE_4.loc[study, "precision"]),
                        Cell("table4", study, "our_precision")) for study in ("SSD-512", "SSD-512-FE"))),
    Exhibit("Figure 5", "FROC", "04_froc",
            tuple(Value(f"area of {name}", None, Cell("froc", name, "our_area"))
                  for name in ("ssd512", "ssd512-fe"))),
    Exhibit("Figure 6", "false positives of one detector only", "07_cases",
            tuple(Value(f"of {name}", None, Cell("false_positives", "all", name))
                  for name in ("SSD only", "SSD-FE only"))),
    Exhibit("Figure 7", "small microbleeds that one detector alone finds", "07_cases",
            tuple(Value(f"by {name}", None, Cell("found_only", "small", name))
                  for name in ("SSD-FE only", "SSD only"))),
)  # fmt: skip


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
    OpenPoint("A7", "momentum 0.1 with Adam", ("factor of the learning rate at its steps", "Adam's first beta"),
              ("training.gamma", "training.adam_betas")),
    OpenPoint("A8", "batch of 4 or of 8", ("4 in training, 8 where time is measured",),
              ("training.batch", "05_backbones.batch")),
    OpenPoint("A9", "when the learning rate falls", ("after 80 000 and 100 000 of 120 000 iterations",),
              ("training.milestones", "training.iterations")),
    OpenPoint("A10", "default boxes, \"original setting of SSD\"", ("voc", "coco", "cmb: sizes of our own"),
              ("detector.default_boxes",),
              measured=(_value("share of our boxes within reach at 512 px, voc", "coverage", "512,voc", "all"),
                        _value("coco", "coverage", "512,coco", "all"), _value("cmb", "coverage", "512,cmb", "all"))),
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
              ("the paper's order, each on every image, flips by chance",), code="cmbfe/data/augment.py: pipeline"),
    OpenPoint("A17", "from DICOM to 8 bit", ("one window of percentiles for each series",),
              ("images.window_percentiles",)),
    OpenPoint("A18", "bias correction in 2-D or 3-D", ("3-D, for each series",),
              ("images.bias_correction.shrink_factor", "images.bias_correction.iterations")),
    OpenPoint("A19", "initial weights of MobileNet and ResNet-34", ("ImageNet",),
              ("detector.weights.mobilenet_v2", "detector.weights.resnet34")),
    OpenPoint("A20", "a microbleed on several images", ("a box on each, and each box counts",),
              code="cmbfe/metrics/matching.py: match; per lesion: cmbfe/metrics/lesions.py"),
)  # fmt: skip
