"""Other detectors over seeds: what is trained and tested, that nothing is done twice, and tables of known matches."""

import numpy as np
import pytest
from study_world import study_images, study_params
from test_ablation import found
from tiny_world import SIDE, tree

from cmbfe import paths
from cmbfe.detector.alternatives import ALTERNATIVES, PLAIN
from cmbfe.detector.torchvision_detectors import DETECTORS
from cmbfe.errors import InputError
from cmbfe.metrics.matching import save_matches
from cmbfe.params import Others, Params, load_params, profile_file
from cmbfe.studies import other_running
from cmbfe.studies.other_comparison import gains_table, read_others, relatives_table, seeds_table
from cmbfe.studies.other_running import run_detector, schedule_of

ITERATIONS = {"ssdlite-small": 2, "fcos-small": 1}
RELATIVES = ("fe", "fading-fe")


def params_of(**changes) -> Params:
    params = study_params()
    others = {"seeds": (1, 2), "test_patients": 2, "detectors": ITERATIONS, "relatives_of": "ssdlite-small"}
    phantom = params.phantom.model_copy(update={"matrix_px": SIDE})
    section = Others.model_validate({**others, "relatives": RELATIVES, "warm_up_iterations": 0, **changes})
    return params.model_copy(update={"others": section, "phantom": phantom})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    study_images(folder)
    for name in ITERATIONS:
        run_detector(name, params_of(), folder, progress=False)
    return folder


def test_each_detector_is_trained_bare_and_with_fe_and_one_of_them_with_its_relatives(root):
    trained = {
        folder.name: sorted(one.name for one in folder.iterdir()) for folder in (root / "models/others").iterdir()
    }
    twins = [f"{name}-{seed}" for name in ("fe", PLAIN) for seed in (1, 2)]
    assert trained == {"fcos-small": twins, "ssdlite-small": ["fading-fe-1", "fading-fe-2", *twins]}


def test_only_the_first_test_patients_are_tested(root):
    patients = {image["patient_id"] for image in other_running.tested_labels(params_of(), root)["images"]}
    assert sorted(patients) == ["P5", "P6"]
    for runs in read_others(params_of(), root).values():
        for matches in runs.values():
            assert [one.patients for one in matches] == [["P5", "P6"]] * 2


def test_what_is_done_is_not_repeated(root, monkeypatch):
    before = tree(root / "results")
    monkeypatch.setattr(other_running, "detect_in", lambda *_: pytest.fail("tested again"))
    monkeypatch.setattr("cmbfe.studies.other_training._loop", lambda *_: pytest.fail("trained again"))
    run_detector("ssdlite-small", params_of(), root, progress=False)
    assert tree(root / "results") == before
    with pytest.raises(pytest.fail.Exception, match="tested again"):
        run_detector("ssdlite-small", params_of(test_patients=1), root, progress=False)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_a_profile_names_detectors_and_relatives_that_exist(profile):
    others = load_params(profile_file(profile)).others
    assert set(others.detectors) <= set(DETECTORS)
    assert set(others.relatives) <= set(ALTERNATIVES)


def test_milestones_fall_where_they_do_in_the_section_training():
    params = params_of(detectors={"ssdlite-small": 20})
    training = params.training.model_copy(update={"iterations": 200, "milestones": (100, 150)})
    schedule = schedule_of("ssdlite-small", params.model_copy(update={"training": training}))
    assert (schedule.iterations, schedule.milestones, schedule.learning_rate) == (20, (10, 15), 1e-3)


def save_runs(folder, detector, **runs):
    for name, matches in runs.items():
        for seed, one in enumerate(matches, 1):
            save_matches(one, paths.others_result(detector, folder) / f"{name.replace('_', '-')}-{seed}.npz")


def test_gains_are_means_over_seeds_and_what_lacks_a_seed_is_left_out(tmp_path):
    better, worse = [found(6), found(7)], [found(2), found(3)]
    save_runs(tmp_path, "ssdlite-small", plain=[found(4), found(6)], fe=better, fading_fe=[found(1)])
    save_runs(tmp_path, "fcos-small", plain=[found(4), found(6)], fe=[found(8)])
    params = params_of()
    runs = read_others(params, tmp_path)
    table = gains_table(runs, params)
    assert list(table.index) == ["ssdlite-small"]
    row = table.loc["ssdlite-small"]
    assert (row["ap"], row["ap_fe"], row["gain"], row["iterations"]) == (0.625, 0.8125, 0.1875, 2)
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert row["gain_seed_deviation"] == pytest.approx(np.std([0.25, 0.125], ddof=1))
    assert list(runs["ssdlite-small"]) == [PLAIN, "fe"]
    save_runs(tmp_path, "ssdlite-small", fading_fe=worse)
    runs = read_others(params, tmp_path)
    family = relatives_table(runs["ssdlite-small"], params)
    assert family["ap"].tolist() == [0.625, 0.8125, 0.3125]
    assert family["gain"].tolist() == pytest.approx([np.nan, 0.1875, -0.3125], nan_ok=True)
    assert family["over_fe"].tolist() == pytest.approx([np.nan, np.nan, -0.5], nan_ok=True)
    assert family.loc["fe", "source"] == "Li et al. 2021, section 2.3"
    each = seeds_table(runs)
    assert each.loc[("ssdlite-small", "fading-fe"), "gain"].tolist() == [-0.25, -0.375]


def test_what_cannot_be_run_or_read_is_said_in_a_line(tmp_path):
    for call, reason in (
        (lambda: run_detector("yolo", params_of(), tmp_path), "no detector 'yolo' in others.detectors"),
        (lambda: run_detector("fcos-small", params_of(), tmp_path), "the study's patients are not there"),
        (lambda: read_others(params_of(), tmp_path), "no detector is trained and tested with all seeds; make others"),
    ):
        with pytest.raises(InputError, match=reason):
            call()
    study_images(tmp_path)
    unknown = params_of(relatives=("fe", "cousin"))
    with pytest.raises(InputError, match="no relative of FE named 'cousin'"):
        run_detector("ssdlite-small", unknown, tmp_path)


@pytest.mark.parametrize(("settings", "reason"), [
    ({"relatives_of": "yolo"}, "relatives_of: 'yolo' is none of the detectors"),
    ({"relatives": ("fading-fe",)}, "name fe among them"),
    ({"relatives": ("fe", "plain")}, "and not plain"),
    ({"seeds": (1, 3)}, "number two or more from 1"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        params_of(**settings)
