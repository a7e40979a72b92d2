"""Splits are by patient, exact in number, and seeded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmbfe.data.splits import TABLE_1_PATIENTS, paper_test_set, scaled_counts, split_patients
from cmbfe.errors import InputError


def test_table_1_is_its_own_scale():
    assert scaled_counts(58) == TABLE_1_PATIENTS


@given(st.integers(3, 5000))
def test_scaled_counts_add_up_and_leave_no_split_empty(patients):
    counts = scaled_counts(patients)
    assert sum(counts.values()) == patients
    assert min(counts.values()) >= 1


def test_fewer_patients_than_splits_are_refused():
    with pytest.raises(InputError, match="at least 3"):
        scaled_counts(2)


@given(st.integers(0, 2**31), st.permutations([f"P{i}" for i in range(12)]))
def test_the_split_depends_on_the_seed_and_not_on_the_order(seed, patients):
    counts = {"train": 7, "test": 3, "validation": 2}
    split = split_patients(patients, counts, seed)
    assert split == split_patients(sorted(patients), counts, seed)
    assert {name: list(split.values()).count(name) for name in counts} == counts


def test_seeds_differ():
    patients = [f"P{i}" for i in range(58)]
    assert split_patients(patients, TABLE_1_PATIENTS, 1) != split_patients(patients, TABLE_1_PATIENTS, 2)


def test_a_patient_named_twice_is_refused():
    with pytest.raises(InputError, match="twice"):
        split_patients(["a", "a"], {"train": 2}, 0)


def labelled(cmbs: list[int], mimics: list[int], pictures: int = 6) -> tuple[dict, dict]:
    images = [{"id": i, "split": "test" if i < pictures else "train"} for i in range(pictures + 2)]

    def with_boxes(on: list[int]) -> dict:
        boxes = [{"id": n, "image_id": i} for n, i in enumerate(on)]
        return {"images": images, "annotations": boxes, "categories": []}

    return with_boxes(cmbs), with_boxes(mimics)


def test_the_test_set_has_as_many_pictures_with_mimics_only():
    labels, mimics = labelled(cmbs=[0, 0, 1, 7], mimics=[1, 2, 3, 4, 6])
    test = paper_test_set(labels, mimics, seed=5)
    chosen = {image["id"] for image in test["images"]}
    assert {0, 1} < chosen < {0, 1, 2, 3, 4}
    assert len(chosen) == 4
    assert len(test["annotations"]) == 3
    assert paper_test_set(labels, mimics, seed=5) == test


def test_too_few_pictures_with_mimics_only_are_refused():
    labels, mimics = labelled(cmbs=[0, 1], mimics=[1, 2])
    with pytest.raises(InputError, match="mimics only"):
        paper_test_set(labels, mimics, seed=5)
