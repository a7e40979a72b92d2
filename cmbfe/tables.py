"""The paper's tables with the paper's value and ours side by side. The two come from different patients."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cmbfe import paper
from cmbfe.data.labels import Labels
from cmbfe.files import whole_file


def table1(labels: Labels) -> pd.DataFrame:
    """Table 1: patients, pictures with microbleeds and microbleed boxes in each split, paper and ours."""
    images = pd.DataFrame(labels["images"])[["id", "patient_id", "split"]]
    split_of = images.set_index("id")["split"]
    image_ids = [annotation["image_id"] for annotation in labels["annotations"]]
    boxes = pd.DataFrame({"image_id": image_ids, "split": [split_of[image_id] for image_id in image_ids]})
    ours = pd.DataFrame(
        {
            "our_patients": images.groupby("split")["patient_id"].nunique(),
            "our_pictures": boxes.groupby("split")["image_id"].nunique(),
            "our_cmbs": boxes.groupby("split")["image_id"].size(),
            "our_pictures_in_all": images.groupby("split")["id"].size(),
        }
    ).reindex(["train", "test", "validation"])
    ours = ours.fillna(0).astype(int)
    ours.loc["total"] = ours.sum()
    return paper.TABLE_1.add_prefix("paper_").join(ours)


def table2(metrics: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Table 2: average precision by variant, paper and ours, with what else the test set says.

    Args:
        metrics: variant -> the metrics of its metrics.json.
    """
    keys = ("ap", "ap_11_point", "precision_at_90_sensitivity", "false_positives_per_cmb")
    rows = {
        variant: [paper.TABLE_2_AP[variant], *(values[key] for key in keys)]
        for variant, values in metrics.items()
        if variant in paper.TABLE_2_AP
    }
    columns = ["paper_ap", *(f"our_{key}" for key in keys)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("variant")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, numbers to four decimals."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, float_format="%.4f")
