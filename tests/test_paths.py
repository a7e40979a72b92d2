"""Every path comes from the workspace's root, wherever inside it the code runs."""

import pytest

from cmbfe import paths
from cmbfe.errors import InputError


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/deep"])
def test_the_workspace_is_the_nearest_folder_upwards_with_params(tmp_path, monkeypatch, inside):
    inner = tmp_path / "inner"
    (inner / inside).mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / "params.yaml").write_text("profile: smoke")
    monkeypatch.chdir(inner / inside)
    assert paths.workspace() == inner
    assert paths.params_file() == inner / "params.yaml"


def test_outside_a_workspace_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cmbfe profile"):
        paths.workspace()


def test_the_layout_is_the_documented_one(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("profile: smoke")
    monkeypatch.chdir(tmp_path)
    layout = {
        paths.raw(): "data/raw",
        paths.images(): "data/pictures",
        paths.augmented(): "data/augmented",
        paths.model("ssd300-fe"): "models/ssd300-fe",
        paths.result("ssd300-fe"): "results/ssd300-fe",
        paths.table("table1"): "results/tables/table1.csv",
        paths.figure("fig4"): "results/figures/fig4.png",
        paths.fold_data(2): "data/folds/2",
        paths.study_model("crossvalidation", "fe", 2): "models/study/crossvalidation/fe-2",
        paths.study_result("crossvalidation"): "results/study/crossvalidation",
    }
    assert [path.relative_to(tmp_path).as_posix() for path in layout] == list(layout.values())


def test_a_study_may_lie_in_another_folder_than_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no workspace
    root = tmp_path / "elsewhere"
    assert paths.study_training_set(1, 9, root) == root / "data" / "study" / "augmented" / "1-9"
    assert paths.study_model("ssd300", "plain", 1, root) == root / "models" / "study" / "ssd300" / "plain-1"
    assert paths.phase_mimics(root) == root / "results" / "study" / "phase" / "test_mimics.csv"
    assert paths.table("crossvalidation", root) == root / "results" / "tables" / "crossvalidation.csv"
