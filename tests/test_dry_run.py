"""The dry run: what it prints is what would be made, and what it says of costs follows from the sizes."""

import re

import pytest

from cmbfe.paper import facts
from cmbfe.params import load_params, profile_file
from cmbfe.phantom.cohort import patient_plan, resized
from cmbfe.phantom.dry_run import costs, plan_table, report, split_table

PAPER = load_params(profile_file("paper"))
LAPTOP = load_params(profile_file("laptop"))


def test_the_paper_profile_prints_table_1():
    table = split_table(plan_table(patient_plan(PAPER.phantom, PAPER.seed)))
    assert list(table.columns) == ["patients", "slices", "images with CMBs", "boxes"]
    numbers = table.rename(columns={"images with CMBs": "pictures", "boxes": "cmbs"}).drop(columns="slices")
    assert numbers.to_dict() == facts.TABLE_1.to_dict()
    assert table.loc["total", "slices"] == facts.ALL_IMAGES


def test_every_patient_and_every_split_has_its_line():
    plans = patient_plan(PAPER.phantom, PAPER.seed)
    lines = report(plans, missing=58, cores=2).splitlines()
    rows = {
        line.split()[0]: line.split()[1:] for line in lines if re.match(r"P\d{4} |train|test|validation|total", line)
    }
    assert len(rows) == 62
    assert rows["total"] == ["58", "6613", "723", "1301"]
    assert rows["train"][2:] == ["467", "845"]
    for patient, plan in plans.items():
        assert rows[patient] == [plan["split"], *(str(number) for number in (plan["slices"], *plan["quota"]))]


def test_without_exact_numbers_it_lists_the_microbleeds_that_the_simulation_draws(monkeypatch):
    from cmbfe.phantom import writing

    plans = patient_plan(resized(LAPTOP.phantom, 5), 7)
    asked: list[int] = []
    monkeypatch.setattr(writing, "simulate_patient", lambda *_, cmb_count, **__: asked.append(cmb_count))
    for plan in plans.values():
        writing.simulate(plan)
    assert list(plan_table(plans)["CMBs"]) == asked
    assert "drawn by the seed" in report(plans, missing=0)


def test_it_tells_how_many_patients_are_there():
    plans = patient_plan(resized(LAPTOP.phantom, 5), 7)
    assert report(plans, missing=3).endswith("2 of the 5 patients are there already.")


@pytest.mark.parametrize(("patients", "size"), [(58, "6.9"), (29, "3.4")])
def test_costs_are_linear_in_patients(patients, size):
    plans = dict(list(patient_plan(PAPER.phantom, 1).items())[:patients])
    time, memory, disk = costs(plans, cores=2)
    assert f" {size}" in disk
    assert "with 2 at a time" in time
    assert "3.5 GiB a patient, 7.0 GiB with 2" in memory
