"""What the paper prints, as data, and where it contradicts itself; shares are fractions, times are seconds.

Li et al., Computer Methods and Programs in Biomedicine, 2021.
"""

import numpy as np
import pandas as pd

from cmbfe.baselines import Baseline
from cmbfe.paper.tables import as_text

TABLE_1 = pd.DataFrame(
    {
        "split": ["train", "test", "validation", "total"],
        "patients": [33, 17, 8, 58],
        "pictures": [467, 167, 89, 723],
        "cmbs": [845, 323, 133, 1301],
    }
).set_index("split")
"""Patients, images with microbleeds and microbleed boxes in each split."""
ALL_IMAGES = 6613
"""Images of the 58 patients, those without microbleeds included (section 2.2)."""
AUGMENTED_IMAGES = 4434
"""Training images after augmentation (section 2.2); no multiple of 467."""
TABLE_2_AP = {"ssd300": 0.482, "ssd300-fe": 0.502, "ssd512": 0.733, "ssd512-fe": 0.756}
"""Average precision by variant."""
FOLDS = 10
TEN_FOLD_AP = {"ssd512": 0.73, "ssd512-fe": 0.75}
"""Average precision of the 10-fold cross-validation; the paper names no detector there, and SSD-512 is its main one."""
TABLE_3 = pd.DataFrame(
    {
        "variant": ["ssd512", "ssd512-fe", "mobilenet320", "mobilenet320-fe", "resnet34-300", "resnet34-300-fe"],
        "recall": [0.9] * 6,
        "precision": [0.764, 0.797, 0.428, 0.502, 0.703, 0.731],
        "seconds_per_batch_of_8": [0.343, 0.430, 0.138, 0.181, 0.129, 0.159],
    }
).set_index("variant")
"""Precision at 90 % recall, and the time of one training batch of 8 on an RTX 2080 Ti."""
TABLE_4 = pd.DataFrame(
    {
        "algorithm": ["SSD-512", "SSD-512-FE", "Liu et al.", "Chen et al."],
        "sensitivity": [0.9, 0.9, 0.958, 0.947],
        "precision": [0.764, 0.797, 0.709, 0.719],
        "false_positives_per_cmb": [0.31, 0.23, 0.39, 11.7],
    }
).set_index("algorithm")
"""Comparison of studies, as printed."""
BACKBONES = {"ssd512": "VGG-16", "ssd300": "VGG-16", "mobilenet320": "MobileNet", "resnet34-300": "ResNet-34"}
"""Backbone by variant without FE, as Tables 2 and 3 name it."""
INPUT_PX = {"ssd512": 512, "ssd300": 300, "mobilenet320": 320, "resnet34-300": 300}
"""Side of the input by variant without FE, px."""
PRECISION_AT_90 = {variant: float(row["precision"]) for variant, row in TABLE_3.iterrows()}
"""Precision at 90 % sensitivity by variant; the paper prints none for SSD-300."""
EXTRA_TIME = 0.26
"""Of FE, as the discussion has it; Table 3 gives others."""
MOMENTUM = 0.1
"""Printed beside Adam, which has none."""
BATCHES = {"2.4": 4, "4": 8}
"""Images in a batch, by section."""
FALSE_POSITIVES_IN_TEXT = {"SSD-512-FE": 0.24, "Chen et al.": 11.6}
"""Per microbleed, where the discussion prints another value than Table 4."""
PUBLISHED = pd.DataFrame(
    {
        "baseline": [str(name) for name in (Baseline.RADIAL_SYMMETRY, Baseline.THRESHOLDING, Baseline.CASCADE)],
        "after": ["Kuijf et al. 2012", "Barnes et al. 2011", "Dou et al. 2016"],
        "published_sensitivity": [0.712, 0.817, 0.932],
        "published_precision": [float("nan"), float("nan"), 0.443],
        "published_in": [
            "NeuroImage 59:2266; 47 of 66 in Proc SPIE 8673:867313",
            "Magn Reson Imaging 29:844, abstract",
            "Li et al. 2021, introduction",
        ],
    }
).set_index("baseline")
"""What the baselines' own papers print: per microbleed in three dimensions, at one operating point each.

People removed false positives in the first two.
"""


def false_positives_per_cmb(sensitivity: float, precision: float) -> float:
    """False positives per microbleed that follow from sensitivity and precision: r (1 - p) / p.

    >>> round(false_positives_per_cmb(0.9, 0.764), 3)
    0.278
    """
    return sensitivity * (1 - precision) / precision


def contradictions() -> pd.DataFrame:
    """A row per contradiction: `what`, `printed` (all values of it), `follows` (from the paper's own numbers), `how`.

    `follows` is NaN where two statements exclude each other and nothing follows.
    """
    rows = []
    for study, (recall, precision, in_table) in TABLE_4.iterrows():
        printed = (in_table, *([FALSE_POSITIVES_IN_TEXT[study]] if study in FALSE_POSITIVES_IN_TEXT else []))
        what, how = f"false positives per microbleed, {study}", f"{recall:g} · (1 − {precision:g}) / {precision:g}"
        rows.append((what, printed, false_positives_per_cmb(recall, precision), how))
    _, precision, in_table = TABLE_4.loc["SSD-512"]
    how = f"(1 − {precision:g}) / {precision:g}, per hit and not per microbleed"
    rows.append(("false positives per true positive, SSD-512", (in_table,), (1 - precision) / precision, how))
    seconds = TABLE_3["seconds_per_batch_of_8"]
    for name in (name for name in seconds.index if not name.endswith("-fe")):
        with_fe, without = seconds[f"{name}-fe"], seconds[name]
        how = f"{with_fe:g} / {without:g} − 1"
        rows.append((f"extra time by FE, {name}", (EXTRA_TIME,), with_fe / without - 1, how))
    before, after = int(TABLE_1.loc["train", "pictures"]), AUGMENTED_IMAGES
    how = f"{after} = {after // before} · {before} + {after % before}: no multiple"
    rows.append(("images after augmentation over those before", (after,), after / before, how))
    sections = " and ".join(f"section {section}" for section in BATCHES)
    rows.append(("images in a batch", tuple(BATCHES.values()), np.nan, sections))
    rows.append(("momentum with Adam", (MOMENTUM,), np.nan, "Adam has none"))
    table = pd.DataFrame(rows, columns=["what", "printed", "follows", "how"])
    return table.assign(printed=[as_text(printed) for printed in table["printed"]])
