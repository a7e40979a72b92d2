"""Plan of a simulated cohort: seed, split and numbers of each patient, and the cost of the simulation.

References:
    [Greenberg 2009] S. M. Greenberg et al., Lancet Neurol 8:165: most patients have few microbleeds, some have dozens.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from scipy.special import ndtri

from cmbfe.data.labelled.splits import TABLE_1_PATIENTS, scaled_counts, split_patients
from cmbfe.errors import InputError
from cmbfe.files import sha256_of
from cmbfe.params import Microbleeds, Phantom, Splits

_SHARES = 0xC0047  # added to the seed, so that shares are independent of splits
_NUMBERS = 0xC3B5

# Measured by benchmarks/phantom.py on a server's Xeon core; they hold within 10 % from 128 to 512 px.
CPU_SECONDS_PER_PROCESS = 9.0  # the template, loaded once by each process
CPU_SECONDS_PER_PATIENT = 4.0
CPU_SECONDS_PER_MEGAPIXEL = 0.8  # in addition, per million pixels of the whole series
PEAK_GIB = 0.8
PEAK_GIB_PER_MEGAPIXEL = 0.09
BYTES_PER_PIXEL = 4  # magnitude and phase, 16 bits each
BYTES_PER_SLICE = 3_000  # headers of both files
FEWEST_BOXES = 2
"""Fewest boxes of a patient with exact counts. At full size, nearly every microbleed has at least this number
of boxes (of 100 microbleeds, six have one box and ten have two; the mean is 4.0). Measure again when these change."""
SKEW = 0.8
"""Standard deviation of the logarithm of a patient's number of boxes beyond FEWEST_BOXES (Greenberg 2009)."""
MOST_CMBS = 83
"""Most microbleeds that a patient can draw: the maximum of five sets of real patients (`cmbfe.patients.published`).
The number of slices is a further limit."""
TRIES = 200


class Quota(NamedTuple):
    """Exact numbers that a patient must have."""

    images: int  # with at least one microbleed
    boxes: int


def shared_slices(rng: np.random.Generator, patients: int, slices: int) -> list[int]:
    """Divide a cohort's slices evenly. Patients drawn at random get the remainder, one slice each."""
    shares = np.full(patients, slices // patients)
    shares[rng.choice(patients, slices % patients, replace=False)] += 1
    return shares.tolist()


def _rounded(values: np.ndarray, total: int, highest: np.ndarray) -> np.ndarray:
    """Round to integers that sum to `total`: all down, then the largest remainders up, where `highest` allows it."""
    whole = np.floor(values).astype(int)
    order = np.argsort(whole - values, kind="stable")
    room = order[whole[order] < highest[order]]
    whole[room[: total - whole.sum()]] += 1
    return whole


def halved(sum_at: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Find by bisection where the increasing function `sum_at` reaches `wanted`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum_at(middle) < wanted else (low, middle)
    return high


def covered(boxes: np.ndarray | int, band: float) -> np.ndarray | float:
    """Expected number of images with boxes that fall at random in a band of slices: band (1 - exp(-boxes / band))."""
    return band * -np.expm1(-np.asarray(boxes) / band)


def band_of(quota: Quota, slices: int) -> float:
    """Thickness (in slices) of the band in which random positions put the quota's boxes on the quota's images."""
    return halved(lambda band: float(covered(quota.boxes, band)), quota.images, 1.0, float(slices))


def draw_quotas(rng: np.random.Generator, patients: int, images: int, boxes: int, slices: int) -> list[Quota]:
    """Divide a split's images with microbleeds and their boxes among its patients, right-skewed and never 0.

    Each patient gets the fewest boxes that it can have; log-normal weights divide the others. The number of images
    follows as if the boxes fell at random into a band of slices. The thickness of the band is the square root of the
    number of boxes, times a factor that makes the sum exact. Boxes of the same microbleed never share an image.

    Args:
        slices: smallest number of slices of a patient.

    Raises:
        InputError: the numbers contradict each other.
    """
    fewest = min(FEWEST_BOXES, images // patients)
    if not 1 <= fewest * patients <= images <= boxes or images > patients * slices:
        raise InputError(
            f"{boxes} boxes on {images} images of {patients} patients with {slices} slices each: "
            "give at least an image for each patient, a box for each image, and no more images than slices"
        )
    weights = rng.lognormal(0, SKEW, patients)
    shares = fewest + (boxes - fewest * patients) * weights / weights.sum()
    of_patients = _rounded(shares, boxes, np.full(patients, boxes))
    most = np.minimum(of_patients, slices)
    least = np.minimum(of_patients, 2 * fewest - 1)

    def expected(thickness: float) -> np.ndarray:
        return np.clip(covered(of_patients, thickness * np.sqrt(of_patients)), np.minimum(least, most), most)

    thickness = halved(lambda thickness: float(expected(thickness).sum()), images, 0.1, 1e6)
    shown = _rounded(expected(thickness), images, most)
    if shown.sum() != images:
        raise InputError(f"{boxes} boxes on {images} images cannot be shared out among {patients} patients")
    return [Quota(int(on), int(count)) for on, count in zip(shown, of_patients, strict=True)]


def pick_exactly(
    rng: np.random.Generator, lesions: Sequence[Sequence[int]], images: int, boxes: int
) -> list[bool] | None:
    """Choose lesions with exactly `boxes` boxes on exactly `images` different images.

    Tries random orders of the lesions. Each lesion is taken if the exact numbers remain reachable.

    Args:
        lesions: for each lesion, the images that show it. A lesion without images is never chosen.

    Returns:
        Whether each lesion is taken, or None if no try succeeds.
    """
    for _ in range(TRIES):
        taken = [False] * len(lesions)
        shown: set[int] = set()
        left = boxes
        for number in rng.permutation(len(lesions)):
            lesion = lesions[number]
            union = shown.union(lesion)
            # Each missing image needs at least one of the remaining boxes.
            if lesion and images - len(union) <= left - len(lesion) and len(union) <= images and len(lesion) <= left:
                taken[number], shown, left = True, union, left - len(lesion)
        if left == 0 and len(shown) == images:
            return taken
    return None


def code_sha256() -> str:
    """Hash of the simulation's code, which is this folder. After an edit, all patients are simulated again."""
    return sha256_of(Path(__file__).parent.rglob("*.py"))


def patient_plan(settings: Phantom, seed: int) -> dict[str, dict]:
    """Plan of each patient by id: seed, split, size of the series, hash of the code, and the number of microbleeds or,
    with exact counts, the quota.

    Settings that only affect labels are left out, so that a new margin or new readers change no patient.

    Raises:
        InputError: exact counts that cannot be divided among the patients.
    """
    patient_ids = [f"P{number:04d}" for number in range(1, settings.patients.total + 1)]
    splits = split_patients(patient_ids, settings.patients.model_dump(), seed)
    plans = {
        patient_id: {
            "seed": [seed, number],
            "split": splits[patient_id],
            "code_sha256": code_sha256(),
            **settings.model_dump(include={"slices", "matrix_px"}),
        }
        for number, patient_id in enumerate(patient_ids)
    }
    shares = _drawn_numbers(settings, splits, seed) if settings.exact is None else _exact(settings, splits, seed)
    return {patient_id: plan | shares[patient_id] for patient_id, plan in plans.items()}


def draw_numbers(rng: np.random.Generator, patients: int, numbers: Microbleeds, most: int) -> np.ndarray:
    """Draw the number of visible microbleeds of each patient of a split, int64 [patients].

    The share `free` of the patients, rounded down and chosen at random, has none. For the others, a log-normal
    distribution is divided into equally likely parts, one per patient, so that small splits have high numbers too.
    """
    bled = patients - int(numbers.free * patients + 1e-9)
    drawn = np.exp(numbers.spread * ndtri((np.arange(bled) + rng.random(bled)) / bled)) * numbers.median
    counts = np.zeros(patients, np.int64)
    counts[:bled] = np.rint(drawn.clip(1, most))
    return rng.permutation(counts)


def _drawn_numbers(settings: Phantom, splits: Mapping[str, str], seed: int) -> dict[str, dict]:
    """Number of microbleeds of each patient by id, drawn separately for each split."""
    rng = np.random.default_rng([seed, _NUMBERS])
    most, shares = min(settings.slices, MOST_CMBS), {}
    for split, patients in settings.patients:
        members = [patient_id for patient_id in splits if splits[patient_id] == split]
        counts = draw_numbers(rng, patients, settings.cmbs_per_patient, most).tolist()
        shares |= {patient_id: {"cmbs": count} for patient_id, count in zip(members, counts, strict=True)}
    return shares


def _exact(settings: Phantom, splits: Mapping[str, str], seed: int) -> dict[str, dict]:
    """Slices and quota [images with microbleeds, boxes] of each patient by id. Every patient has microbleeds."""
    rng = np.random.default_rng([seed, _SHARES])
    slices = shared_slices(rng, len(splits), settings.exact.images)
    shares = {patient_id: {"slices": number} for patient_id, number in zip(splits, slices, strict=True)}
    for split, images in settings.exact.images_with_cmbs:
        members = [patient_id for patient_id in splits if splits[patient_id] == split]
        boxes = getattr(settings.exact.boxes, split)
        quotas = draw_quotas(rng, len(members), images, boxes, settings.slices)
        for patient_id, quota in zip(members, quotas, strict=True):
            shares[patient_id]["quota"] = list(quota)
    return shares


def request_of(plan: Mapping) -> dict:
    """Arguments of `simulate_patient` for the patient of a plan."""
    size = {"matrix": plan["matrix_px"], "slices": plan["slices"]}
    return {**size, **({"quota": tuple(plan["quota"])} if "quota" in plan else {"cmb_count": plan["cmbs"]})}


def resized(settings: Phantom, patients: int) -> Phantom:
    """Settings for another number of patients, in Table 1's proportions. With a new number, exact counts are removed.

    Raises:
        InputError: fewer than one patient.
    """
    counts = Splits.model_construct(**scaled_counts(patients))  # unchecked: with one or two patients a split is empty
    if counts == settings.patients:
        return settings
    return settings.model_copy(update={"patients": counts, "exact": None})


def plan_table(plans: Mapping[str, Mapping]) -> pd.DataFrame:
    """Each patient's split, number of slices, and number of microbleeds or exact numbers of images and boxes."""
    rows = {}
    for patient, plan in plans.items():
        if "quota" in plan:
            numbers = dict(zip(("images with CMBs", "boxes"), plan["quota"], strict=True))
        else:
            numbers = {"CMBs": plan["cmbs"]}
        rows[patient] = {"split": plan["split"], "slices": plan["slices"], **numbers}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient")


def split_table(patients: pd.DataFrame) -> pd.DataFrame:
    """Table of patients, and sums of their numbers, by split in the order of Table 1, with a row for the total."""
    by_split = patients.groupby("split")
    table = by_split.sum().assign(patients=by_split.size()).reindex(list(TABLE_1_PATIENTS), fill_value=0)
    table.loc["total"] = table.sum()
    return table[["patients", *patients.columns.drop("split")]]


def costs(plans: Mapping[str, Mapping], cores: int) -> list[str]:
    """Lines of text that estimate time, memory and disk to simulate these patients, `cores` at a time."""
    slices, matrix = np.array([(plan["slices"], plan["matrix_px"]) for plan in plans.values()]).T
    megapixels = slices * matrix**2 / 1e6
    seconds = CPU_SECONDS_PER_PATIENT + CPU_SECONDS_PER_MEGAPIXEL * megapixels
    at_a_time = min(cores, len(plans))
    minutes = (seconds.sum() + at_a_time * CPU_SECONDS_PER_PROCESS) / 60
    gib = PEAK_GIB + PEAK_GIB_PER_MEGAPIXEL * megapixels.max()
    megabytes = BYTES_PER_PIXEL * megapixels + BYTES_PER_SLICE * slices / 1e6
    return [
        f"time:   {seconds.mean():.0f} s of CPU a patient, {minutes:.1f} min in all; "
        f"{minutes / at_a_time:.1f} min with {at_a_time} at a time, a core each",
        f"memory: {gib:.1f} GiB a patient, {at_a_time * gib:.1f} GiB with {at_a_time} at a time",
        f"disk:   {megabytes.mean():.1f} MB a patient (magnitude and phase), {megabytes.sum() / 1e3:.2f} GB in all",
    ]


def report(plans: Mapping[str, Mapping], missing: int, cores: int | None = None) -> str:
    """The plan as text: a table by split, a table by patient, and estimates of time, memory and disk.

    Args:
        missing: number of patients still to simulate.
        cores: patients simulated at a time; None: one per core of this machine.
    """
    patients = plan_table(plans)
    matrix = next(iter(plans.values()))["matrix_px"]
    if "boxes" in patients:
        numbers = "Exact numbers: lesions are drawn and selected until images with microbleeds (CMBs) and boxes hold."
    else:
        numbers = "Numbers of visible microbleeds (CMBs), drawn by the seed; the simulation tells on how many images."
    parts = [
        f"{len(patients)} patients, {patients['slices'].sum()} slices of {matrix} x {matrix} px\n{numbers}",
        split_table(patients).to_string(index_names=False),
        patients.to_string(index_names=False),
        "\n".join(costs(plans, cores or joblib.cpu_count())),
        f"Dry run: nothing was written. {len(plans) - missing} of the {len(plans)} patients are there already.",
    ]
    return "\n\n".join(parts)
