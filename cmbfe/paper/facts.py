"""The paper's printed numbers, from paper.yaml, and its contradictions. Shares are fractions, times are seconds."""

from importlib.resources import files

import numpy as np
import pandas as pd
import yaml

from cmbfe.paper.tables import as_text

PAPER = yaml.safe_load((files("cmbfe.paper") / "paper.yaml").read_text(encoding="utf-8"))
"""Content of paper.yaml, which describes each value."""
_PRINTED = PAPER["printed"]


def _table(name: str, rows: str) -> pd.DataFrame:
    return pd.DataFrame.from_dict(_PRINTED[name], orient="index").rename_axis(rows)


TABLE_1, TABLE_3 = _table("table_1", "split"), _table("table_3", "variant")
TABLE_4, PUBLISHED = _table("table_4", "algorithm"), _table("published", "baseline")
TABLE_2_AP, TEN_FOLD_AP = _PRINTED["table_2_ap"], _PRINTED["ten_fold_ap"]
PRECISION_AT_90 = {variant: float(value) for variant, value in TABLE_3["precision"].items()}
"""Precision at 90 % sensitivity by variant; the paper prints none for SSD-300."""
ALL_IMAGES, AUGMENTED_IMAGES, FOLDS = (_PRINTED[name] for name in ("all_images", "augmented_images", "folds"))
BACKBONES, INPUT_PX, BATCHES = (_PRINTED[name] for name in ("backbones", "input_px", "batches"))
EXTRA_TIME, MOMENTUM, FALSE_POSITIVES_IN_TEXT = (
    _PRINTED[name] for name in ("extra_time", "momentum", "false_positives_in_text")
)


def false_positives_per_cmb(sensitivity: float, precision: float) -> float:
    """False positives per microbleed that follow from sensitivity and precision: r (1 - p) / p.

    >>> round(false_positives_per_cmb(0.9, 0.764), 3)
    0.278
    """
    return sensitivity * (1 - precision) / precision


def contradictions() -> pd.DataFrame:
    """A row per contradiction: `what`, `printed` (all printed values), `follows` (from the paper's own numbers), `how`.

    `follows` is NaN if two statements exclude each other without giving a value.
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
    rows.append(("images after augmentation", (after,), np.nan, how))
    sections = " and ".join(f"section {section}" for section in BATCHES)
    rows.append(("images in a batch", tuple(BATCHES.values()), np.nan, sections))
    rows.append(("momentum with Adam", (MOMENTUM,), np.nan, "Adam has none"))
    table = pd.DataFrame(rows, columns=["what", "printed", "follows", "how"])
    return table.assign(printed=[as_text(printed) for printed in table["printed"]])
