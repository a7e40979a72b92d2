"""Arms of the study: what each trains, that seeds and settings arrive, and that nothing is done twice."""

import json
from pathlib import Path

import pytest
from study_world import study_images, study_params
from tiny_world import tree

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.errors import InputError
from cmbfe.params import load_params
from cmbfe.studies import twins
from cmbfe.studies.study import arm_params, matches_of, run_arm


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with every arm trained and tested."""
    root = tmp_path_factory.mktemp("study")
    study_images(root)
    for name in study_params().study.arms:
        run_arm(name, study_params(), root, progress=False)
    return root


def results(root: Path) -> dict[str, bytes | None]:
    return tree(root / "results" / "study")


def test_an_arm_that_changes_fe_only_trains_only_the_detector_with_fe(done):
    trained = {
        arm: sorted(folder.name for folder in (done / "models" / "study" / arm).iterdir())
        for arm in study_params().study.arms
    }
    twins = ["ssd300-1", "ssd300-2", "ssd300-fe-1", "ssd300-fe-2"]
    assert trained == {"ssd300": twins, "placement-source": ["ssd300-fe-1", "ssd300-fe-2"], "few": twins}


def test_a_training_has_the_settings_of_its_arm_and_seed(done):
    used = {
        arm: load_params(paths.study_model(arm, "ssd300-fe", 2, done) / "params.yaml")
        for arm in study_params().study.arms
    }
    assert {arm: params.detector.fe.placement for arm, params in used.items()} == {
        "ssd300": "trunk",
        "placement-source": "source",
        "few": "trunk",
    }
    assert all(params.seed == 2 for params in used.values())
    assert all(params.detector.detections_per_image == 10 for params in used.values())


def test_an_arm_of_fewer_patients_is_trained_on_these_only(done):
    sets = [read_labels(paths.study_training_set(1, patients, done) / LABELS_FILE) for patients in (1, 2)]
    few, all_ = ({image["patient_id"] for image in labels["images"]} for labels in sets)
    assert (len(few), len(all_)) == (1, 2)
    known = {
        arm: json.loads((paths.study_model(arm, "ssd300", 1, done) / "finished.json").read_text())["data_sha256"]
        for arm in ("ssd300", "few")
    }
    assert known["ssd300"] != known["few"]


def test_twins_are_compared_by_seed_and_an_arm_without_one_of_its_own_takes_the_plain_one(done):
    params = study_params()
    plain, _ = matches_of("ssd300", params, done)
    without, with_fe = matches_of("placement-source", params, done)
    assert len(with_fe) == 2
    for ours, theirs in zip(without, plain, strict=True):
        assert ours.score.tolist() == theirs.score.tolist()
    assert [one.patients for one in with_fe] == [["P5", "P6", "P7"]] * 2


def test_what_is_done_is_not_repeated_and_trainings_beside_each_other_give_the_same_bytes(
    done, tmp_path, monkeypatch, capsys
):
    study_images(tmp_path)
    run_arm("ssd300", study_params(), tmp_path, jobs=2, progress=False)
    mine = results(tmp_path)
    assert {name: results(done)[name] for name in mine} == mine
    monkeypatch.setattr(twins, "detect_in", lambda *_: pytest.fail("tested again"))
    capsys.readouterr()
    run_arm("ssd300", study_params(), tmp_path, progress=False)
    assert capsys.readouterr().out.count("trained already") == 4
    assert results(tmp_path) == mine


def test_an_unknown_arm_and_an_arm_without_patients_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no arm 'nothing' in study.arms of params.yaml; there are: ssd300, "):
        run_arm("nothing", study_params(), tmp_path)
    with pytest.raises(InputError, match="patients are not there; make them: cmbfe study patients"):
        run_arm("ssd300", study_params(), tmp_path)
    with pytest.raises(InputError, match=r"ssd300-1\.npz: no such file"):
        matches_of("ssd300", study_params(), tmp_path)


def test_settings_of_an_arm_reach_the_schedule_too():
    params = study_params({"ssd300": {}, "slow": {"settings": {"training.learning_rate": 1e-4}}})
    assert arm_params("slow", 1, params).training.learning_rate == 1e-4
    assert params.study.variants_of("slow") == ("ssd300", "ssd300-fe")
