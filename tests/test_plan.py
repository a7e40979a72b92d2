"""Who is in a cohort, before anything is simulated, what the dry run prints of it, and how exact numbers come true."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbfe.errors import InputError
from cmbfe.paper import facts
from cmbfe.params import Microbleeds, Phantom, Splits, load_params, profile_file
from cmbfe.phantom import plan as planning

PAPER, LAPTOP = (load_params(profile_file(name)) for name in ("paper", "laptop"))
TABLE_1 = [(33, 467, 845), (17, 167, 323), (8, 89, 133)]
SMALL = Phantom(
    patients=Splits(train=2, test=1, validation=1),
    slices=3,
    matrix_px=64,
    cmbs_per_patient=Microbleeds(free=0.0, median=2.0, spread=1.0),
)


@pytest.mark.parametrize("seed", [0, 7, PAPER.seed, 2**32 - 1])
def test_the_paper_profile_plans_table_1_exactly(seed):
    plans = planning.patient_plan(PAPER.phantom, seed).values()
    for split, expected in facts.TABLE_1.drop(index="total").iterrows():
        quotas = [plan["quota"] for plan in plans if plan["split"] == split]
        assert len(quotas) == expected["patients"]
        assert sum(images for images, _ in quotas) == expected["pictures"]
        assert sum(boxes for _, boxes in quotas) == expected["cmbs"]
    assert sum(plan["slices"] for plan in plans) == facts.ALL_IMAGES
    assert Counter(plan["slices"] for plan in plans) == {114: 57, 115: 1}


def test_without_exact_counts_every_patient_has_the_settings_numbers():
    plans = planning.patient_plan(SMALL, 7)
    assert plans == planning.patient_plan(SMALL, 7)
    assert list(plans) == ["P0001", "P0002", "P0003", "P0004"]
    assert all(plan["slices"] == 3 and "quota" not in plan for plan in plans.values())


def test_a_cohort_of_another_size_keeps_the_papers_proportions_but_no_exact_counts():
    assert planning.resized(PAPER.phantom, 58) == PAPER.phantom
    assert not [
        plan for plan in planning.patient_plan(planning.resized(PAPER.phantom, 6), 7).values() if "quota" in plan
    ]
    assert planning.resized(SMALL, 58).patients == Splits(train=33, test=17, validation=8)
    assert planning.resized(SMALL, 58).slices == SMALL.slices


@pytest.mark.parametrize(("patients", "splits"), [(1, {"train"}), (2, {"train", "test"})])
def test_fewer_patients_than_splits_have_microbleeds_and_leave_a_split_empty(patients, splits):
    plans = planning.patient_plan(planning.resized(LAPTOP.phantom, patients), 7).values()
    assert len(plans) == patients
    assert {plan["split"] for plan in plans} == splits
    assert all(plan["cmbs"] > 0 for plan in plans)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.floats(0, 0.99), st.integers(1, 60))
def test_the_free_share_is_exact_and_all_others_have_one_to_the_most(seed, patients, free, most):
    numbers = Microbleeds(free=free, median=3.0, spread=1.2)
    counts = planning.draw_numbers(np.random.default_rng(seed), patients, numbers, most)
    assert len(counts) == patients
    assert abs((counts == 0).sum() - np.floor(free * patients)) <= (free * patients % 1 > 0.999)
    assert counts.max(initial=0) <= most


def test_numbers_are_log_normal_and_small_splits_have_patients_with_many():
    numbers = Microbleeds(free=0.0, median=3.0, spread=1.2)
    counts = planning.draw_numbers(np.random.default_rng(0), 4001, numbers, 10**6)
    assert np.median(counts) == 3
    assert np.quantile(counts, 0.975) == pytest.approx(3 * np.exp(1.96 * 1.2), rel=0.05)
    drawn = [planning.draw_numbers(np.random.default_rng(seed), 4, numbers, 10**6) for seed in range(50)]
    assert all(3 * np.exp(0.67 * 1.2) - 0.5 <= counts.max() for counts in drawn)
    assert len({tuple(counts) for counts in drawn}) > 25


def test_an_edit_in_the_phantom_makes_patients_anew_and_one_elsewhere_does_not(tmp_path, monkeypatch):
    """In a copy of the package, as another folder must not matter either."""
    package, before = Path(planning.__file__).parent.parent, planning.code_sha256()
    shutil.copytree(package, tmp_path / "cmbfe", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(planning, "__file__", str(tmp_path / "cmbfe" / "phantom" / "plan.py"))
    for module, is_same in (("data/sources/nifti.py", True), ("phantom/veins.py", False)):
        with (tmp_path / "cmbfe" / module).open("a") as code:
            code.write("# edited")
        assert (planning.code_sha256() == before) is is_same


def test_every_patient_and_every_split_has_its_line():
    plans = planning.patient_plan(PAPER.phantom, PAPER.seed)
    rows = [line.split() for line in planning.report(plans, missing=58, cores=2).splitlines()]
    assert ["total", "58", "6613", "723", "1301"] in rows
    for patient, plan in plans.items():
        assert [patient, plan["split"], *map(str, (plan["slices"], *plan["quota"]))] in rows


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), split=st.sampled_from(TABLE_1))
def test_quotas_of_the_papers_splits_add_up_and_can_be_filled(seed, split):
    patients, images, boxes = split
    quotas = planning.draw_quotas(np.random.default_rng(seed), patients, images, boxes, slices=114)
    assert len(quotas) == patients
    assert (sum(q.images for q in quotas), sum(q.boxes for q in quotas)) == (images, boxes)
    for quota in quotas:
        assert planning.FEWEST_BOXES <= quota.images <= min(quota.boxes, 114)
        # Fewer than twice the slices on which a microbleed shows at least are one microbleed's.
        assert quota.images == quota.boxes or quota.boxes >= 2 * planning.FEWEST_BOXES


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), patients=st.integers(1, 6), slices=st.integers(3, 30), data=st.data())
def test_quotas_of_any_cohort_add_up_or_are_refused(seed, patients, slices, data):
    images = data.draw(st.integers(patients, patients * slices))
    boxes = data.draw(st.integers(images, 4 * images))
    try:
        quotas = planning.draw_quotas(np.random.default_rng(seed), patients, images, boxes, slices)
    except InputError:
        return
    assert (sum(q.images for q in quotas), sum(q.boxes for q in quotas)) == (images, boxes)
    assert all(1 <= q.images <= min(q.boxes, slices) for q in quotas)


@pytest.mark.parametrize(("images", "boxes"), [(2, 9), (9, 8), (31, 40), (0, 0)])
def test_numbers_that_no_cohort_has_are_refused(images, boxes):
    with pytest.raises(InputError, match="3 patients"):
        planning.draw_quotas(np.random.default_rng(0), 3, images, boxes, slices=10)


run = st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda pair: list(range(pair[0], pair[0] + pair[1])))


@settings(max_examples=60, deadline=None)
@given(st.lists(run, min_size=1, max_size=8), st.data())
def test_what_is_chosen_fills_the_quota(lesions, data):
    hidden = data.draw(st.lists(st.sampled_from(range(len(lesions))), min_size=1, unique=True))
    images = len({image for number in hidden for image in lesions[number]})
    boxes = sum(len(lesions[number]) for number in hidden)
    chosen = planning.pick_exactly(np.random.default_rng(0), lesions, images, boxes)
    if chosen is not None:
        taken = [lesion for lesion, use in zip(lesions, chosen, strict=True) if use]
        assert sum(map(len, taken)) == boxes
        assert len({image for lesion in taken for image in lesion}) == images
