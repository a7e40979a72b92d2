"""Who is in a cohort, before anything is simulated: the paper's exact numbers, or proportions of them."""

from collections import Counter

import pytest

from cmbfe.paper import facts
from cmbfe.params import Patients, Phantom, load_params, profile_file
from cmbfe.phantom.cohort import patient_plan, resized

PAPER = load_params(profile_file("paper"))
SMALL = Phantom(patients=Patients(train=2, test=1, validation=1), slices=3, matrix_px=64, cmbs_per_patient=2.0)


@pytest.mark.parametrize("seed", [0, 7, PAPER.seed, 2**32 - 1])
def test_the_paper_profile_plans_table_1_exactly(seed):
    plans = patient_plan(PAPER.phantom, seed).values()
    for split, expected in facts.TABLE_1.drop(index="total").iterrows():
        quotas = [plan["quota"] for plan in plans if plan["split"] == split]
        assert len(quotas) == expected["patients"]
        assert sum(images for images, _ in quotas) == expected["pictures"]
        assert sum(boxes for _, boxes in quotas) == expected["cmbs"]
    assert sum(plan["slices"] for plan in plans) == facts.ALL_IMAGES
    assert Counter(plan["slices"] for plan in plans) == {114: 57, 115: 1}


def test_a_plan_depends_on_the_seed_alone():
    assert patient_plan(PAPER.phantom, 7) == patient_plan(PAPER.phantom, 7)
    quotas = [[plan["quota"] for plan in patient_plan(PAPER.phantom, seed).values()] for seed in (7, 8)]
    assert quotas[0] != quotas[1]


def test_without_exact_counts_every_patient_has_the_settings_numbers():
    plans = patient_plan(SMALL, 7)
    assert list(plans) == ["P0001", "P0002", "P0003", "P0004"]
    assert all(plan["slices"] == 3 and "quota" not in plan for plan in plans.values())


def test_exact_counts_hold_for_the_cohorts_own_size_only():
    assert resized(PAPER.phantom, 58) == PAPER.phantom
    assert resized(PAPER.phantom, 6).exact is None
    assert not [plan for plan in patient_plan(resized(PAPER.phantom, 6), 7).values() if "quota" in plan]


def test_a_cohort_of_another_size_keeps_the_papers_proportions():
    assert resized(SMALL, 58).patients == Patients(train=33, test=17, validation=8)
    assert resized(SMALL, 58).slices == SMALL.slices
    assert [plan["split"] for plan in patient_plan(resized(SMALL, 1), 7).values()] == ["train"]
