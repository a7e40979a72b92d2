"""What the paper claims and sets, as data for the map of the paper; its printed tables are in `cmbfe.paper.facts`.

Each entry says where the replication keeps its own value: a key path of params.yaml, a constant of the code, or a cell
of a table in results/tables. Nothing of ours is typed here. The trainings depend on `cmbfe.paper.facts`, so that what they do
not need stands apart from it.
"""

from typing import NamedTuple

from cmbfe.baselines.names import Baseline
from cmbfe.paper import facts


class Setting(NamedTuple):
    """A value that the paper sets."""

    section: str
    what: str
    printed: object
    key: str
    """Of params.yaml, or of `cmbfe.paper.paper_map.constants`."""
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
    files: tuple[str, ...]
    """In results/."""
    values: tuple[Value, ...]


IMAGE_PX = 512
EXTRA_TIME = 0.26
"""Of FE, as the discussion has it; Table 3 gives others."""
MOMENTUM = 0.1
"""Printed beside Adam, which has none."""
FALSE_POSITIVES_IN_TEXT = {"SSD-512-FE": 0.24, "Chen et al.": 11.6}
"""Per microbleed, where the discussion prints another value than Table 4."""

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
    Setting("2.4", "images in a batch", 4, "training.batch", "03_training"),
    Setting("3", "sensitivity at which precision is read", 0.9, "evaluation.sensitivity", "04_froc"),
    Setting("3", "folds", 10, "cohort.folds", "07_crossval"),
    *(Setting("4, Table 3", f"input of {name}, px", side, f"input_px.{name}", "05_backbones")
      for name, side in facts.INPUT_PX.items()),
    Setting("4", "images in a batch that is timed", 8, "05_backbones.batch", "05_backbones"),
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
          Cell("table4", "SSD-512-FE", "our_false_positives_per_cmb_gain"), "04_froc", better=-1),
    Claim("3", "FE raises the AP over folds", _gain(facts.TEN_FOLD_AP, "ssd512"),
          Cell("crossvalidation", "all", "our_gain"), "07_crossval"),
    *(Claim("3, Table 2", f"FE raises the AP of {name}, over several seeds", _gain(facts.TABLE_2_AP, name),
            Cell("study", name, "gain"), "08_ablation") for name in ("ssd512", "ssd300")),
)  # fmt: skip

COSTS = tuple(
    Value(
        f"time with FE over time without, {name}", 1 + EXTRA_TIME, Cell("table3", f"{name}-fe", "our_fe_time_ratio")
    )
    for name in ("ssd512", "mobilenet320", "resnet34-300")
)
"""What FE costs in a forward pass of training, against the paper's one figure for all backbones."""

MIMICS = Value("mimics of an average patient (the paper: over 100)", 100.0, Cell("mimics", "all", "per_patient"))


def _table_4(study: str) -> Value:
    return Value(f"false positives per microbleed, {study}", float(_PER_CMB[study]),
                 Cell("table4", study, "our_false_positives_per_cmb"))  # fmt: skip


EXHIBITS = (
    Exhibit("Table 1", "patients, images and microbleeds of each split", "01_data", ("tables/table1.csv",),
            (Value("microbleed boxes in all", float(facts.TABLE_1.loc["total", "cmbs"]),
                   Cell("table1", "total", "our_cmbs")),)),
    Exhibit("Table 2", "AP without FE and with", "04_froc", ("tables/table2.csv",),
            tuple(Value(f"AP of {name}", ap, Cell("table2", name, "our_ap"))
                  for name, ap in facts.TABLE_2_AP.items())),
    Exhibit("Table 3", "precision and time by backbone", "05_backbones", ("tables/table3.csv",),
            tuple(Value(f"precision of {name}", value, Cell("table3", name, "our_precision"))
                  for name, value in _PRECISION.items())),
    Exhibit("Table 4", "comparison of studies", "04_froc", ("tables/table4.csv",),
            (_table_4("SSD-512"), _table_4("SSD-512-FE"),
             *(Value(f"AP of {name}", None, Cell("table4", name, "our_ap")) for name in Baseline))),
    Exhibit("Figure 1", "FE step by step", "06_features", ("figures/fig1.png", "figures/fig1.svg"),
            (Value("largest M in the image", None, Cell("fe_steps", "mask", "largest")),
             Value("largest M on the feature map", None, Cell("fe_steps", "resized", "largest")))),
    Exhibit("Figure 2", "the detector", "06_features", ("figures/fig2.png", "figures/fig2.svg"),
            (Value("default boxes", None, Cell("architecture", "all", "default_boxes")),)),
    Exhibit("Figure 3", "what FE adds to the feature map", "06_features", ("figures/fig3.png", "figures/fig3.svg"),
            (Value("change of the most changed channel", None, Cell("fe_channels", "1", "relative_change")),)),
    Exhibit("Figure 4", "precision against sensitivity", "04_froc", ("figures/fig4.png", "figures/fig4.svg"),
            tuple(Value(f"precision of {study} at 90 % sensitivity", float(facts.TABLE_4.loc[study, "precision"]),
                        Cell("table4", study, "our_precision")) for study in ("SSD-512", "SSD-512-FE"))),
    Exhibit("Figure 5", "FROC", "04_froc", ("figures/fig5.png", "figures/fig5.svg"),
            tuple(Value(f"area of {name}", None, Cell("froc", name, "our_area"))
                  for name in ("ssd512", "ssd512-fe"))),
    Exhibit("Figure 6", "false positives of one detector only", "04_cases", ("figures/fig6.png", "figures/fig6.svg"),
            tuple(Value(f"of {name}", None, Cell("false_positives", "all", name))
                  for name in ("SSD only", "SSD-FE only"))),
    Exhibit("Figure 7", "small microbleeds that one detector alone finds", "04_cases",
            ("figures/fig7.png", "figures/fig7.svg"),
            tuple(Value(f"by {name}", None, Cell("found_only", "small", name))
                  for name in ("SSD-FE only", "SSD only"))),
)  # fmt: skip
