"""The study's patients: who belongs to which seed, who is tested, and how dark a microbleed is."""

import numpy as np
import pytest
from study_world import study_images, study_params

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.phantom.plan import patient_plan
from cmbfe.studies.trials.patients import contrast, list_test_cmbs, read_test_labels, study_phantom, training_labels


def patients_of(labels: dict) -> set[str]:
    return {image["patient_id"] for image in labels["images"]}


def test_every_seed_has_training_patients_of_its_own_and_smaller_sets_are_part_of_larger(tmp_path):
    study_images(tmp_path)
    labels, params = read_labels(paths.study_data(tmp_path) / "pictures" / LABELS_FILE), study_params()
    whole = {seed: patients_of(training_labels(labels, seed, 2, params)) for seed in (1, 2)}
    assert [len(patients) for patients in whole.values()] == [2, 2]
    assert not whole[1] & whole[2]
    assert patients_of(training_labels(labels, 1, 1, params)) < whole[1]
    assert not patients_of(read_test_labels(params, tmp_path)) & (whole[1] | whole[2])


def test_training_labels_hold_the_boxes_of_their_images_only(tmp_path):
    study_images(tmp_path)
    labels = read_labels(paths.study_data(tmp_path) / "pictures" / LABELS_FILE)
    chosen = training_labels(labels, 2, 2, study_params())
    assert {box["image_id"] for box in chosen["annotations"]} <= {image["id"] for image in chosen["images"]}
    assert len(chosen["annotations"]) == 2


def test_the_cohort_is_as_large_as_its_parts_and_none_of_the_pipelines_patients():
    params = study_params()
    cohort, seed = study_phantom(params)
    assert cohort.patients.model_dump() == {"train": 4, "test": 3, "validation": 1}
    ours = {tuple(plan["seed"]) for plan in patient_plan(cohort, seed).values()}
    theirs = {tuple(plan["seed"]) for plan in patient_plan(params.phantom, params.seed).values()}
    assert not ours & theirs


def test_the_test_microbleeds_are_listed_with_size_and_contrast(tmp_path):
    study_images(tmp_path)
    cmbs = list_test_cmbs(study_params(), tmp_path)
    assert len(cmbs) == 3
    assert cmbs["contrast"].between(0.5, 1).all()  # of the tiny head's dark dot
    assert set(cmbs["location"]) == {"lobar"}


@pytest.mark.parametrize(("inside", "expected"), [(100, 0.0), (50, 0.5), (0, 1.0), (150, -0.5)])
def test_contrast_is_the_share_of_the_surroundings_that_is_missing_inside(inside, expected):
    image = np.full((40, 40), 100, np.uint8)
    image[15:25, 15:25] = inside
    assert contrast(image, [15, 15, 10, 10]) == pytest.approx(expected)


def test_contrast_of_a_box_smaller_than_a_pixel_or_filling_the_image_is_a_number():
    image = np.full((10, 10), 100, np.uint8)
    image[4, 4] = 0
    assert contrast(image, [4.4, 4.4, 0.3, 0.3]) == 0.0  # no pixel is around so small a box
    assert contrast(image, [0, 0, 10, 10]) == 0.0  # and none around so large a one
