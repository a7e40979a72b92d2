"""What is published of real patients, as data: what `cmbfe describe` holds a data set against.

Where a source prints one value, the range around it is this project's own: `MM` for lengths, about a pixel of a
scanner; `SHARE` for shares. Where it prints values of several sets, the range is theirs.
"""

from typing import NamedTuple

from cmbfe.paper.facts import TABLE_1

MM = 0.5
SHARE = 0.1


class Source(NamedTuple):
    """Where a number is from, and what of that this project has looked up itself."""

    citation: str
    checked: str


class Published(NamedTuple):
    """One row: a statistic of a trait (see `cmbfe.patients.describe`), and what is published of it."""

    what: str
    trait: str
    statistic: str
    low: float | None
    high: float | None
    """None: no bound. Both None: nothing to compare with."""
    published: str
    source: Source
    if_unknown: str = "no microbleed to measure it on"


FIVE_SETS = "five sets: VALDO, Dou, CSIRO, two clinical"
MASKS = Source(
    f"compiled by this project: 957 masks of {FIVE_SETS}; per-lesion tables of the MicrobleedNet project "
    "(github.com/jorgedelpozolerida/MicrobleedNet)",
    "the sets, the number and the definitions (PyRadiomics, voxels of 0.5 mm); not the values",
)
COUNTS = Source(f"compiled by this project: {FIVE_SETS}", "no")
SUMMARY = Source("MicrobleedNet project, CMB_dataset_summary.csv", "yes")
STEHLING = Source("Stehling et al., Acad Radiol 2008", "the abstract, which does not say how noise was measured")
LI = Source("Li et al. 2021, Table 1", "yes")
CANDIDATES = Source(
    "compiled by this project; Dou et al., IEEE Trans Med Imaging 2016; "
    "Al-masni et al., NeuroImage Clin 28:102464, 2020",
    "Al-masni: the abstract; the others: no",
)
ISSUE = Source("compiled by this project", "no")
NOTHING = Source("", "")
NO_PLACE = "the labels name no location"
_per_image = (TABLE_1["cmbs"] / TABLE_1["pictures"]).round(2)
_of_splits = _per_image[["train", "test", "validation"]]


def _sizes(what: str, trait: str, values: dict[str, float]) -> list[Published]:
    """Quantiles of a length, mm."""
    return [
        Published(f"{what}, mm, {name}", trait, name, value - MM, value + MM, f"{value:g}", MASKS)
        for name, value in values.items()
    ]


def _share(what: str, trait: str, statistic: str, value: float, source: Source, *reason: str) -> Published:
    limits = max(value - SHARE, 0), min(value + SHARE, 1)
    return Published(f"{what}, share", trait, statistic, *limits, f"{value:g}", source, *reason)


PUBLISHED = (
    *_sizes(
        "equivalent diameter", "equivalent_mm", {"p5": 1.4, "p25": 2.3, "median": 2.74, "p75": 3.2, "p95": 4.8}
    ),
    _share("equivalent diameter under 5 mm", "equivalent_mm", "under 5", 0.96, MASKS),
    *_sizes("longest diameter in a slice", "in_plane_mm", {"p25": 3.2, "median": 4.1, "p75": 5.5, "p95": 9.2}),
    Published("elongation, median", "elongation", "median", 0.5, 0.9, "0.5 to 0.9 by set, Dou 0.89", MASKS),
    Published("sphericity, median", "sphericity", "median", 0.76, 0.85, "0.76 to 0.85 by set, Dou 0.85", MASKS),
    _share("lobar", "location", "lobar", 0.73, MASKS, NO_PLACE),
    Published("deep, share", "location", "deep", 0.03, 0.35, "0.13, Dou 0.25", MASKS, NO_PLACE),
    _share("infratentorial", "location", "infratentorial", 0.13, MASKS, NO_PLACE),
    Published("microbleeds in a positive patient, median", "in_positive", "median", 1, 4, "1 to 4 by set", COUNTS),
    _share("a single microbleed in a positive patient", "in_positive", "one", 0.5, COUNTS),
    Published("microbleeds in a patient, most", "in_positive", "most", 13, 83, "13 to 83 by set", COUNTS),
    Published(
        "patients without a microbleed, share", "in_patient", "none", 0.31, 0.75,
        "VALDO 0.31, clinical 0.41, CSIRO 0.75", SUMMARY,
    ),
    Published(
        "contrast to noise, mean", "contrast_to_noise", "mean", 19.2, 35.6, "27.4 ± 8.2 on T2* at 3 T", STEHLING
    ),
    Published(
        "boxes on an image with boxes, mean", "on_image", "mean", _of_splits.min(), _of_splits.max(),
        f"{_per_image['total']}, by split {_of_splits.min()} to {_of_splits.max()}", LI,
    ),
    Published(
        "blobs beside 95 % of the microbleeds, a series", "blobs", "", 150, None,
        "150 to 300 a head and more; Dou's screening about 280 at 98 %, Al-masni's 52 at 94 % and 156 at 79 %",
        CANDIDATES,
    ),
    Published(
        "distance to the nearest microbleed or mimic, mm, median", "nearest_mm", "median", None, None, "–", NOTHING
    ),
    Published(
        "radial symmetry and a classifier, sensitivity", "", "", 0.65, 0.85,
        "0.65 to 0.85 at 10 to 45 false positives a head", ISSUE, "not measured here: cmbfe baseline radial-symmetry",
    ),
    Published(
        "readers' agreement, Fleiss' κ", "", "", 0.24, None, "as low as 0.24", ISSUE,
        "not measured here: it takes labels of several readers",
    ),
)  # fmt: skip
