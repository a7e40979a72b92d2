"""Every path comes from the workspace's root, wherever inside it the code runs."""

import pytest

from cmbfe import paths
from cmbfe.errors import InputError


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/deep"])
def test_the_workspace_is_the_nearest_folder_upwards_with_params(tmp_path, monkeypatch, inside):
    (tmp_path / "params.yaml").write_text("profile: smoke")
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    assert paths.workspace() == tmp_path
    assert paths.params_file() == tmp_path / "params.yaml"


def test_a_workspace_inside_another_is_its_own(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "inner"):
        folder.mkdir(exist_ok=True)
        (folder / "params.yaml").write_text("profile: smoke")
    monkeypatch.chdir(tmp_path / "inner")
    assert paths.workspace() == tmp_path / "inner"


def test_outside_a_workspace_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cmbfe profile"):
        paths.workspace()


def test_the_layout_is_the_documented_one(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("profile: smoke")
    monkeypatch.chdir(tmp_path)
    found = [
        paths.raw(),
        paths.images(),
        paths.augmented(),
        paths.model("ssd300-fe"),
        paths.result("ssd300-fe"),
        paths.table("table1"),
        paths.figure("fig4"),
        paths.fold_data(2),
        paths.fold_model(2, "ssd512-fe"),
        paths.fold_result(2, "ssd512-fe"),
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "data/raw",
        "data/pictures",
        "data/augmented",
        "models/ssd300-fe",
        "results/ssd300-fe",
        "results/tables/table1.csv",
        "results/figures/fig4.png",
        "data/folds/2",
        "models/folds/2/ssd512-fe",
        "results/crossvalidation/fold2/ssd512-fe",
    ]


def test_folds_may_lie_in_another_folder_than_the_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no workspace
    root = tmp_path / "elsewhere"
    assert paths.fold_data(1, root) == root / "data" / "folds" / "1"
    assert paths.fold_model(1, "ssd300", root) == root / "models" / "folds" / "1" / "ssd300"
    assert paths.fold_result(1, "ssd300", root) == root / "results" / "crossvalidation" / "fold1" / "ssd300"
    assert paths.table("crossvalidation", root) == root / "results" / "tables" / "crossvalidation.csv"
