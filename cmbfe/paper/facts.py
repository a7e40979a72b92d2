"""What the paper prints, as data: Li et al., Computer Methods and Programs in Biomedicine, 2021.

Shares are fractions, times are seconds. Contradictions inside the paper are kept as printed.
"""

import pandas as pd

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

TEN_FOLD_AP = {"ssd512": 0.73, "ssd512-fe": 0.75}
"""Average precision of the 10-fold cross-validation; the paper names no detector there, and SSD-512 is its main one."""

TABLE_3 = pd.DataFrame(
    {
        "variant": [
            "ssd512",
            "ssd512-fe",
            "mobilenet320",
            "mobilenet320-fe",
            "resnet34-300",
            "resnet34-300-fe",
        ],
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


def false_positives_per_cmb(sensitivity: float, precision: float) -> float:
    """False positives per microbleed that follow from sensitivity and precision: r (1 - p) / p.

    >>> round(false_positives_per_cmb(0.9, 0.764), 3)
    0.278
    """
    return sensitivity * (1 - precision) / precision
