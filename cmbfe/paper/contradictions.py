"""Where the paper contradicts itself, worked out from its own numbers."""

import numpy as np
import pandas as pd

from cmbfe.paper import facts
from cmbfe.paper.claims import EXTRA_TIME, FALSE_POSITIVES_IN_TEXT, MOMENTUM, SETTINGS
from cmbfe.paper.map_values import as_text

Row = tuple[str, tuple[object, ...], float, str]


def contradictions() -> pd.DataFrame:
    """A row per contradiction: `what`, `printed` (all values of it), `follows` (from the paper's own numbers), `how`.

    `follows` is NaN where two statements exclude each other and nothing follows.
    """
    rows = [*_false_positives(), *_extra_time(), _augmented(), *_statements()]
    table = pd.DataFrame(rows, columns=["what", "printed", "follows", "how"])
    return table.assign(printed=[as_text(printed) for printed in table["printed"]])


def _false_positives() -> list[Row]:
    rows = []
    for study, row in facts.TABLE_4.iterrows():
        recall, precision, in_table = row[["sensitivity", "precision", "false_positives_per_cmb"]]
        in_text = FALSE_POSITIVES_IN_TEXT.get(study)
        printed = (in_table,) if in_text is None else (in_table, in_text)
        follows = facts.false_positives_per_cmb(recall, precision)
        how = f"{recall:g} · (1 − {precision:g}) / {precision:g}"
        rows.append((f"false positives per microbleed, {study}", printed, follows, how))
    precision, in_table = facts.TABLE_4.loc["SSD-512", ["precision", "false_positives_per_cmb"]]
    per_hit = f"(1 − {precision:g}) / {precision:g}, per hit and not per microbleed"
    return [*rows, ("false positives per true positive, SSD-512", (in_table,), (1 - precision) / precision, per_hit)]


def _extra_time() -> list[Row]:
    seconds = facts.TABLE_3["seconds_per_batch_of_8"]
    pairs = {name: (seconds[f"{name}-fe"], seconds[name]) for name in seconds.index if not name.endswith("-fe")}
    return [
        (f"extra time by FE, {name}", (EXTRA_TIME,), with_fe / without - 1, f"{with_fe:g} / {without:g} − 1")
        for name, (with_fe, without) in pairs.items()
    ]


def _augmented() -> Row:
    before, after = int(facts.TABLE_1.loc["train", "pictures"]), facts.AUGMENTED_IMAGES
    times, rest = divmod(after, before)
    how = f"{after} = {times} · {before} + {rest}: no multiple"
    return "images after augmentation over those before", (after,), after / before, how


def _statements() -> list[Row]:
    batches = [setting for setting in SETTINGS if setting.key.endswith(".batch")]
    sections = " and ".join(f"section {setting.section}" for setting in batches)
    return [
        ("images in a batch", tuple(setting.printed for setting in batches), np.nan, f"{sections}"),
        ("momentum with Adam", (MOMENTUM,), np.nan, "Adam has none"),
    ]
