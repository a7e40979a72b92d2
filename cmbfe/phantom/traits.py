"""What the phantom's microbleeds look like in numbers, beside what is published of real ones."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cmbfe.data.dicom.series import SeriesHeaders, read_volume
from cmbfe.data.labelled.labels import Labels

SURROUNDINGS_MM = 4.0
"""How far around a box its surroundings reach."""
PUBLISHED = {
    "visible_mm": ("visible diameter, mm", "2-10, most below 5", "Greenberg 2009, Lancet Neurol 8:165"),
    "blooming": ("visible over true diameter", "above 1", "Schrag 2010, Acta Neuropathol 119:291"),
    "darkest": ("darkest pixel over surroundings", "hypointense; we ask for < 0.6", "Greenberg 2009"),
}
"""Column of `microbleed_traits` -> what it is, what is published, where."""


def darkest_share(image: np.ndarray, bbox: list[float], pixel_mm: float) -> float:
    """Darkest pixel of a box [x, y, w, h] px over the median of its surroundings, the box itself left out."""
    x, y, width, height = (round(value) for value in bbox)
    reach = round(SURROUNDINGS_MM / pixel_mm)
    top, left = max(y - reach, 0), max(x - reach, 0)
    around = image[top : y + height + reach, left : x + width + reach].astype(np.float32)
    inside = (slice(y - top, y - top + height), slice(x - left, x - left + width))
    darkest = float(around[inside].min())
    around[inside] = np.nan
    return darkest / float(np.nanmedian(around))


def microbleed_traits(labels: Labels, series: Mapping[str, SeriesHeaders]) -> pd.DataFrame:
    """One row a microbleed: true and visible diameter mm, their ratio, and the darkest pixel on its clearest slice.

    Args:
        labels: of the phantom's images.
        series: patient id -> magnitude series, as scanned: 8-bit images have lost their zero.
    """
    images = {image["id"]: image for image in labels["images"]}
    boxes = pd.DataFrame(labels["annotations"])
    boxes["patient"] = [images[number]["patient_id"] for number in boxes["image_id"]]
    boxes["slice"] = [images[number]["slice_index"] for number in boxes["image_id"]]
    darkest = pd.Series(index=boxes.index, dtype=float)
    for patient, part in boxes.groupby("patient"):
        volume, pixel_mm = read_volume(series[patient]), series[patient].pixel_spacing_mm[0]
        for row in part.itertuples():
            darkest[row.Index] = darkest_share(volume[row.slice], row.bbox, pixel_mm)
    lesions = boxes.assign(darkest=darkest).groupby("lesion_id")
    table = lesions.agg(
        true_mm=("true_diameter_mm", "first"), visible_mm=("visible_diameter_mm", "first"), darkest=("darkest", "min")
    )
    return table.assign(blooming=table["visible_mm"] / table["true_mm"])


def against_published(traits: pd.DataFrame) -> pd.DataFrame:
    """A row a trait: median and range (5 to 95 %) of ours, beside what is published and its source."""
    rows = {}
    for column, (name, published, source) in PUBLISHED.items():
        low, median, high = traits[column].quantile([0.05, 0.5, 0.95])
        rows[name] = {
            "ours, median": round(median, 2),
            "ours, 5-95 %": f"{low:.2f} to {high:.2f}",
            "published": published,
            "source": source,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("trait")
