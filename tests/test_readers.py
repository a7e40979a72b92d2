"""Readers of the training images: what they miss, what they take, and how much they agree."""

import numpy as np
import pytest

from cmbfe.errors import InputError
from cmbfe.params import Readers
from cmbfe.phantom.readers import as_read, chances_of_marks

ASKED = Readers(number=3, misses=0.25, mimics=0.02)


def finding(kind: str, number: int, diameter: float = 3.0, contrast: float = 0.6, slices: int = 2) -> dict:
    return {
        "finding_id": f"{kind}-{number:04d}",
        "kind": kind,
        "visible_diameter_mm": diameter,
        "contrast": contrast,
        "boxes": {str(index): [8.0, 8.0, 5.0, 5.0] for index in range(slices)},
    }


def cohort(cmbs: int = 400, mimics: int = 4000, split: str = "train") -> dict[str, dict]:
    """One patient whose findings are drawn at random."""
    rng = np.random.default_rng(0)
    kinds = ["cmb"] * cmbs + ["vein"] * mimics
    findings = [
        finding(kind, number, rng.lognormal(1, 0.3), rng.uniform(0.3, 0.9), int(rng.integers(1, 5)))
        for number, kind in enumerate(kinds)
    ]
    return {"P0001": {"plan": {"split": split}, "findings": findings}}


def test_the_smaller_and_fainter_a_microbleed_and_the_less_like_one_a_mimic_the_likelier_it_is_left_out():
    sizes = [finding("cmb", n, diameter) for n, diameter in enumerate((2.0, 3.0, 4.0))]
    contrasts = [finding("cmb", n, contrast=contrast) for n, contrast in enumerate((0.4, 0.6, 0.8))]
    mimics = [
        finding("vein", n, diameter, contrast, slices)
        for n, (diameter, contrast, slices) in enumerate([(3.0, 0.6, 2), (3.0, 0.6, 9), (9.0, 0.6, 2), (3.0, 0.1, 2)])
    ]
    chances = chances_of_marks(sizes + contrasts + mimics, ASKED)
    assert list(chances[:3]) == sorted(chances[:3])
    assert list(chances[3:6]) == sorted(chances[3:6])
    assert chances[6] > max(chances[7:])
    assert chances[:6].mean() == pytest.approx(0.75)
    assert chances[6:].mean() == pytest.approx(0.02)


def test_readers_miss_and_take_as_often_as_asked_and_agree_in_part():
    _, record = as_read(cohort(), ASKED, seed=7)
    assert (record["microbleeds"], record["mimics"]) == (400, 4000)
    assert np.mean(record["missed"]) == pytest.approx(100, abs=20)
    assert np.mean(record["taken"]) == pytest.approx(80, abs=20)
    assert record["missed_by_majority"] < min(record["missed"])
    assert record["taken_by_majority"] < min(record["taken"])
    assert 0.2 < record["fleiss_kappa"] < 0.9


def test_one_seed_gives_one_reading_and_another_seed_another():
    patients = cohort()
    assert as_read(patients, ASKED, seed=7) == as_read(patients, ASKED, seed=7)
    assert as_read(patients, ASKED, seed=7)[0] != as_read(patients, ASKED, seed=8)[0]


def test_labels_hold_what_the_majority_marked():
    patients = cohort()
    read, record = as_read(patients, ASKED, seed=7)
    marked = read["P0001"]["findings"]
    assert {one["kind"] for one in marked} == {"cmb"}
    names = [one["finding_id"].split("-")[0] for one in marked]
    assert names.count("cmb") == 400 - record["missed_by_majority"]
    assert names.count("vein") == record["taken_by_majority"]


def test_readers_that_never_err_change_nothing_and_are_of_one_mind():
    patients = cohort(cmbs=3, mimics=5)
    read, record = as_read(patients, Readers(number=3, misses=0.0, mimics=0.0), seed=7)
    assert read["P0001"]["findings"] == patients["P0001"]["findings"][:3]
    assert record["fleiss_kappa"] == 1
    assert record["missed"] == record["taken"] == [0, 0, 0]
    assert as_read(cohort(4, 0), ASKED.model_copy(update={"number": 1}), seed=7)[1]["fleiss_kappa"] is None


@pytest.mark.parametrize("patients", [cohort(0, 3), cohort(split="test")])
def test_readers_without_a_training_microbleed_are_refused(patients):
    with pytest.raises(InputError, match=r"phantom\.readers"):
        as_read(patients, ASKED, seed=7)
