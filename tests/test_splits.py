"""Splits are by patient, exact in number, and seeded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmbfe.data.labelled import splits
from cmbfe.errors import InputError


@given(st.integers(3, 5000))
def test_scaled_counts_add_up_and_leave_no_split_empty(patients):
    counts = splits.scaled_counts(patients)
    assert sum(counts.values()) == patients
    assert min(counts.values()) >= 1


def test_one_patient_is_for_training_and_none_are_refused():
    assert splits.scaled_counts(1) == {"train": 1, "test": 0, "validation": 0}
    with pytest.raises(InputError):
        splits.scaled_counts(0)


@given(st.integers(0, 2**31), st.permutations([f"P{i}" for i in range(12)]))
def test_the_split_depends_on_the_seed_and_not_on_the_order(seed, patients):
    counts = {"train": 7, "test": 3, "validation": 2}
    split = splits.split_patients(patients, counts, seed)
    assert split == splits.split_patients(sorted(patients), counts, seed)
    assert {name: list(split.values()).count(name) for name in counts} == counts


def test_seeds_differ():
    patients = [f"P{i}" for i in range(58)]
    assert splits.split_patients(patients, splits.TABLE_1_PATIENTS, 1) != splits.split_patients(
        patients, splits.TABLE_1_PATIENTS, 2
    )
    assert splits.patient_folds(patients, 3, 1) != splits.patient_folds(patients, 3, 2)


def labelled(cmbs: list[int], mimics: list[int], pixels: int = 6) -> tuple[dict, dict]:
    images = [{"id": i, "split": "test" if i < pixels else "train"} for i in range(pixels + 2)]

    def with_boxes(on: list[int]) -> dict:
        boxes = [{"id": n, "image_id": i} for n, i in enumerate(on)]
        return {"images": images, "annotations": boxes, "categories": []}

    return with_boxes(cmbs), with_boxes(mimics)


def test_the_test_set_has_as_many_images_with_mimics_only():
    labels, mimics = labelled(cmbs=[0, 0, 1, 7], mimics=[1, 2, 3, 4, 6])
    test = splits.paper_test_set(labels, mimics, seed=5)
    chosen = {image["id"] for image in test["images"]}
    assert {0, 1} < chosen < {0, 1, 2, 3, 4}
    assert len(chosen) == 4
    assert len(test["annotations"]) == 3
    assert (
        splits.paper_test_set(labels, mimics, seed=5)
        == test
        == splits.paper_test_set(labels, mimics, seed=5, fewer=True)
    )


def test_with_fewer_allowed_all_images_with_mimics_only_are_taken():
    labels, mimics = labelled(cmbs=[0, 1, 2], mimics=[1, 3, 4, 6])
    with pytest.raises(InputError, match="mimics only"):
        splits.paper_test_set(labels, mimics, seed=5)
    test = splits.paper_test_set(labels, mimics, seed=5, fewer=True)
    assert [image["id"] for image in test["images"]] == [0, 1, 2, 3, 4]
    none = splits.paper_test_set(labels, {**mimics, "annotations": []}, seed=5, fewer=True)
    assert [image["id"] for image in none["images"]] == [0, 1, 2]


@given(st.integers(0, 2**31), st.integers(2, 13), st.permutations([f"P{i}" for i in range(13)]))
def test_each_patient_is_in_one_fold_sizes_differ_by_one_at_most_and_order_does_not_matter(seed, folds, patients):
    fold_of = splits.patient_folds(patients, folds, seed)
    assert fold_of == splits.patient_folds(sorted(patients), folds, seed)
    assert set(fold_of) == set(patients)
    sizes = [list(fold_of.values()).count(number) for number in range(1, folds + 1)]
    assert sum(sizes) == 13
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("draw", "reason"), [
    (lambda: splits.split_patients(["a", "a"], {"train": 2}, 0), "twice"),
    (lambda: splits.split_patients(["a", "b"], {"train": 1}, 0), "there are 2"),
    (lambda: splits.patient_folds(["a", "a", "b"], 2, 0), "twice"),
    (lambda: splits.patient_folds(["a", "b"], 3, 0), "3 folds of 2 patients"),
    (lambda: splits.patient_folds(["a", "b"], 1, 0), "1 folds of 2 patients"),
])  # fmt: skip
def test_splits_and_folds_that_cannot_be_are_refused(draw, reason):
    with pytest.raises(InputError, match=reason):
        draw()


def of_patients(ids: list) -> dict:
    images = [{"id": number, "patient_id": patient, "split": "validation"} for number, patient in enumerate(ids)]
    return {"images": images, "annotations": [], "categories": []}


@pytest.mark.parametrize("ids", [["a", "a", "b", "c", "c", "d", "e"], [1, 1, 2, 3, 3, 4, 5]])
def test_the_patients_of_a_fold_are_test_and_all_others_train(ids):
    labels = of_patients(ids)
    fold_of = splits.patient_folds(sorted({str(one) for one in ids}), 2, seed=3)
    for number in (1, 2):
        for image in splits.labels_of_fold(labels, number, 2, seed=3)["images"]:
            assert image["split"] == ("test" if fold_of[str(image["patient_id"])] == number else "train")
    assert {image["split"] for image in labels["images"]} == {"validation"}


def test_labels_without_patients_and_folds_beyond_the_last_are_refused():
    labels = of_patients(["a", "b"])
    with pytest.raises(InputError, match="no fold 0; there are 1 to 2"):
        splits.labels_of_fold(labels, 0, 2, seed=3)
    del labels["images"][1]["patient_id"]
    with pytest.raises(InputError, match="image 1 has no patient_id"):
        splits.labels_of_fold(labels, 1, 2, seed=3)
