"""Published numbers of real patients, with which `cmbfe describe` compares a data set.

If a source prints a single value, this project sets a range around the value: ± `MM` for lengths (about a scanner's
pixel), ± `SHARE` for shares. If a source prints values of several sets, the range spans these values.
"""

from typing import NamedTuple

from cmbfe.paper.facts import TABLE_1

MM = 0.5
SHARE = 0.1


class Source(NamedTuple):
    """The source of a number, and whether this project has checked it."""

    citation: str
    checked: str


class Published(NamedTuple):
    """A row of the comparison: a statistic of a trait (see `cmbfe.patients.describe`), and its published value."""

    what: str
    trait: str
    statistic: str
    low: float | None
    high: float | None
    """None means no bound. If both are None, there is nothing to compare with."""
    published: str
    source: Source
    if_unknown: str = "no microbleed to measure it on"


FIVE_SETS = "five sets: VALDO, Dou, CSIRO, two clinical"
MASKS = Source(
    f"compiled by this project: 957 masks of {FIVE_SETS}; per-lesion tables of the MicrobleedNet project "
    "(github.com/jorgedelpozolerida/MicrobleedNet)",
    "the sets, the number (957) and the definitions (PyRadiomics, voxels of 0.5 mm); the means of radii by set, 1.26 "
    "to 1.80 mm (CMB_dataset_summary.csv), fit the equivalent diameters; not the other values",
)
COUNTS = Source(
    f"compiled by this project: {FIVE_SETS}; CMB_dataset_summary.csv of the MicrobleedNet project",
    "means of 2.6 to 7.1 with standard deviations as large or larger; not medians and maxima",
)
SUMMARY = Source("MicrobleedNet project, CMB_dataset_summary.csv", "yes")
STEHLING = Source(
    "Stehling et al., Acad Radiol 2008",
    "the abstract: 27.4 ± 8.2, 53 microbleeds of 25 people; it does not say how noise was measured",
)
LI = Source("Li et al. 2021, Table 1", "yes")
CANDIDATES = Source(
    "compiled by this project; Dou et al., IEEE Trans Med Imaging 2016; "
    "Al-masni et al., NeuroImage Clin 28:102464, 2020",
    "Al-masni: the abstract (52.18 at 93.62 %, 155.50 at 78.85 %); the others: no",
)
FORESTS = Source(
    "compiled by this project; Kuijf et al., NeuroImage 59:2266, 2012, and ISMRM 2012, 3762; Bian et al., "
    "NeuroImage Clin 2:282, 2013",
    "Kuijf at 3 T: the abstract, 75 %, without false positives; the others: no. One more automatic method has over "
    "92 % at fewer than 10 a scan of SWI (PMC7889861, abstract)",
)
READERS = Source(
    "compiled by this project; Cordonnier et al., Stroke 2009",
    "Cordonnier: the abstract, κ of two readers for any microbleed, 0.44, and 0.68 with a rating scale; 0.24: no",
)
NOTHING = Source("", "")
NO_PLACE = "the labels name no location"
_per_image = (TABLE_1["cmbs"] / TABLE_1["pictures"]).round(2)
_of_splits = _per_image[["train", "test", "validation"]]


def _sizes(what: str, trait: str, values: dict[str, float]) -> list[Published]:
    """Rows for the quantiles of a length in mm."""
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
        "0.65 to 0.85 at 10 to 45 false positives a head", FORESTS, "not measured here: cmbfe baseline radial-symmetry",
    ),
    Published(
        "readers' agreement, Fleiss' κ", "", "", 0.24, None, "as low as 0.24; of two readers 0.44 to 0.68", READERS,
        "not measured here: it takes labels of several readers",
    ),
)  # fmt: skip
