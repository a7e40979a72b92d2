"""Table 1, the paper's cohort beside ours, and how every table is written."""

from pathlib import Path

import pandas as pd

from cmbfe.data.labelled.labels import Labels
from cmbfe.files import whole_file
from cmbfe.paper import facts


def table1(labels: Labels) -> pd.DataFrame:
    """Table 1: patients, images with microbleeds and microbleed boxes in each split, paper and ours."""
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
    return facts.TABLE_1.add_prefix("paper_").join(ours)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, numbers to four decimals."""
    with whole_file(path) as temporary:
        table.to_csv(temporary, float_format="%.4f")
