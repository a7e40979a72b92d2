"""Who is in a cohort, before anything is simulated, and what the dry run prints of it."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import cmbfe
from cmbfe.paper import facts
from cmbfe.params import Phantom, Splits, load_params, profile_file
from cmbfe.phantom import cohort
from cmbfe.phantom.plan import code_sha256, costs, patient_plan, plan_table, report, resized

PAPER, LAPTOP = (load_params(profile_file(name)) for name in ("paper", "laptop"))
PACKAGE = Path(cmbfe.__file__).parent
SMALL = Phantom(patients=Splits(train=2, test=1, validation=1), slices=3, matrix_px=64, cmbs_per_patient=2.0)


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
    assert resized(SMALL, 58).patients == Splits(train=33, test=17, validation=8)
    assert resized(SMALL, 58).slices == SMALL.slices
    assert [plan["split"] for plan in patient_plan(resized(SMALL, 1), 7).values()] == ["train"]


EDITS = """
from pathlib import Path
from cmbfe.phantom.plan import code_sha256
import cmbfe

print(code_sha256())
for module in ("data/sources/nifti.py", "phantom/veins.py"):
    file = Path(cmbfe.__file__).parent / module
    file.write_text(file.read_text() + "# edited")
    print(code_sha256())
"""


def test_an_edit_in_the_phantom_makes_patients_anew_and_one_elsewhere_does_not(tmp_path):
    """In a copy of the package, as another folder must not matter either."""
    shutil.copytree(PACKAGE, tmp_path / "cmbfe", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.check_output([sys.executable, "-c", EDITS], cwd=tmp_path, env={}, text=True)
    before, after_data, after_phantom = done.split()
    assert before == code_sha256() == after_data
    assert after_phantom != before


def test_every_patient_and_every_split_has_its_line():
    plans = patient_plan(PAPER.phantom, PAPER.seed)
    lines = report(plans, missing=58, cores=2).splitlines()
    rows = {
        line.split()[0]: line.split()[1:] for line in lines if re.match(r"P\d{4} |train|test|validation|total", line)
    }
    assert len(rows) == 62
    assert lines[-1].endswith(" 0 of the 58 patients are there already.")
    assert rows["total"] == ["58", "6613", "723", "1301"]
    assert rows["train"][2:] == ["467", "845"]
    for patient, plan in plans.items():
        assert rows[patient] == [plan["split"], *(str(number) for number in (plan["slices"], *plan["quota"]))]


def test_without_exact_numbers_it_lists_the_microbleeds_that_the_simulation_draws(monkeypatch):
    plans = patient_plan(resized(LAPTOP.phantom, 5), 7)
    asked: list[int] = []
    monkeypatch.setattr(cohort, "simulate_patient", lambda *_, cmb_count, **__: asked.append(cmb_count))
    for plan in plans.values():
        cohort.simulate(plan)
    assert list(plan_table(plans)["CMBs"]) == asked
    assert "drawn by the seed" in report(plans, missing=0)


@pytest.mark.parametrize(("patients", "size"), [(58, "6.9"), (29, "3.4")])
def test_costs_are_linear_in_patients(patients, size):
    plans = dict(list(patient_plan(PAPER.phantom, 1).items())[:patients])
    time, memory, disk = costs(plans, cores=2)
    assert f" {size}" in disk
    assert "with 2 at a time" in time
    assert "3.5 GiB a patient, 7.0 GiB with 2" in memory
