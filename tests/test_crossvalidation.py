"""Cross-validation: who is trained on and tested, alone or beside others, and what the folds say together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import pytest
from tiny_world import BOX, SIDE, tiny_head, tiny_params, tree

from cmbfe import paths
from cmbfe.data.labelled.detections import DETECTIONS_FILE
from cmbfe.data.labelled.images import save_image
from cmbfe.data.labelled.labels import CATEGORIES, LABELS_FILE, MIMICS_FILE, read_labels, write_labels
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.metrics import intervals
from cmbfe.metrics.curves import average_precision
from cmbfe.params import CrossValidation, Params, save_params
from cmbfe.studies import crossvalidation
from cmbfe.studies.crossvalidation import fold_labels, fold_test_set, gather, match_folds, run_fold, run_folds

TWINS = ("ssd300", "ssd300-fe")


def settings(folds: int = 2, variants: tuple[str, str] = TWINS) -> Params:
    """Tiny settings: two iterations on four augmented images."""
    params = tiny_params(iterations=2, milestones=(1,), checkpoint_every=1)
    changed = {
        "augmentation": params.augmentation.model_copy(update={"target_images": 4}),
        "crossvalidation": CrossValidation(variants=variants, folds=tuple(range(1, folds + 1))),
    }
    return params.model_copy(update=changed)


def cohort(folder: Path, bleeding: int = 4) -> Path:
    """Four patients with an image with a microbleed and one with a mimic only; `bleeding` have their microbleed."""
    images = [
        {"id": 2 * k + j, "file_name": f"P{k}/{j}.png", "width": SIDE, "height": SIDE, "patient_id": f"P{k}"}
        | {"split": "validation"}
        for k in range(1, 5)
        for j in (0, 1)
    ]
    boxes = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": BOX, "area": BOX[2] * BOX[3]}
        for image in images
    ]
    for image in images:
        pixels = (tiny_head(seed=image["id"])[0] // 4).astype(np.uint8)
        save_image(folder / image["file_name"], pixels)
    labels = {"images": images, "annotations": boxes[0 : 2 * bleeding : 2], "categories": CATEGORIES}
    write_labels(folder / LABELS_FILE, labels)
    write_labels(
        folder / MIMICS_FILE, {**labels, "annotations": boxes[1::2], "categories": [{"id": 1, "name": "vein"}]}
    )
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return cohort(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def done(images, tmp_path_factory) -> tuple[Path, dict]:
    """A whole cross-validation, one fold after another: its folder, and what was returned."""
    root = tmp_path_factory.mktemp("done")
    return root, run_folds(settings(), images, root, progress=False)


def patients_of(labels: dict) -> set[str]:
    return {image["patient_id"] for image in labels["images"]}


def results(root: Path) -> dict[str, bytes | None]:
    return tree(root / "results" / "crossvalidation")


def weights(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.glob("models/folds/*/*/model.safetensors"))
    }


def test_a_fold_trains_on_the_other_patients_and_is_tested_on_its_own(done, images):
    root, returned = done
    for fold in (1, 2):
        test = fold_test_set(fold, settings(), images)
        trained_on = patients_of(read_labels(paths.fold_data(fold, root) / LABELS_FILE))
        assert len(patients_of(test)) == 2
        assert trained_on == patients_of(read_labels(images / LABELS_FILE)) - patients_of(test)
        for variant in TWINS:
            out = paths.fold_result(fold, variant, root)
            found = read_json(out / DETECTIONS_FILE)
            assert {one["image_id"] for one in found} <= {image["id"] for image in test["images"]}
            metrics = json.loads((out / "metrics.json").read_text())
            assert (metrics["cmbs"], metrics["patients"], metrics["pictures"]) == (2, 2, 4)
            assert metrics["ap"] == returned[fold][variant]["ap"]


def test_every_patient_is_tested_in_one_fold(images):
    tested = [patients_of(fold_test_set(fold, settings(), images)) for fold in (1, 2)]
    assert not tested[0] & tested[1]
    assert tested[0] | tested[1] == {"P1", "P2", "P3", "P4"}


def test_a_killed_fold_goes_on_and_ends_with_the_same_bytes(done, images, tmp_path, monkeypatch, capsys):
    train = crossvalidation.train

    def killed(variant: str, *arguments: object) -> pd.DataFrame:
        if variant == TWINS[1]:
            raise KeyboardInterrupt
        return train(variant, *arguments)

    monkeypatch.setattr(crossvalidation, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run_fold(1, settings(), images, tmp_path, progress=False)
    monkeypatch.setattr(crossvalidation, "train", train)
    capsys.readouterr()
    run_fold(1, settings(), images, tmp_path, progress=False)
    assert capsys.readouterr().out.count("trained already") == 1
    whole = weights(done[0])
    assert weights(tmp_path) == {name: whole[name] for name in whole if name.startswith("models/folds/1/")}
    assert all(results(done[0])[name] == content for name, content in results(tmp_path).items())


def test_folds_beside_each_other_give_the_same_bytes_and_never_share_a_process_at_once(
    done, images, tmp_path, monkeypatch
):
    at_work, train = Lock(), crossvalidation.train

    def alone(*arguments: object) -> pd.DataFrame:
        assert at_work.acquire(blocking=False), "two trainings at once in one process: they share PyTorch's seed"
        try:
            return train(*arguments)
        finally:
            at_work.release()

    monkeypatch.setattr(crossvalidation, "train", alone)
    returned = run_folds(settings(), images, tmp_path, jobs=2, backend="threading", progress=False)
    assert list(returned) == [1, 2]
    assert results(tmp_path) == results(done[0])
    assert weights(tmp_path) == weights(done[0])


def in_order(backend: str, jobs: int, images: Path, root: Path, monkeypatch) -> list[tuple]:
    seen = []

    def spy(number: int, params: Params, at: Path, out: Path, jobs: int = -1, progress: bool = True) -> dict:
        seen.append((number, jobs, progress))
        return {}

    monkeypatch.setattr(crossvalidation, "run_fold", spy)
    run_folds(settings(), images, root, jobs, backend, progress=True)
    return sorted(seen)


def test_one_fold_at_a_time_takes_all_cores_and_shows_its_bars(images, tmp_path, monkeypatch):
    assert in_order("loky", 1, images, tmp_path, monkeypatch) == [(1, -1, True), (2, -1, True)]


def test_folds_beside_each_other_start_no_processes_and_draw_no_bars(images, tmp_path, monkeypatch):
    assert in_order("threading", 2, images, tmp_path, monkeypatch) == [(1, 1, False), (2, 1, False)]


@pytest.mark.parametrize(
    ("folds", "bleeding", "backend", "reason"),
    [
        (5, 4, "loky", "5 folds of 4 patients"),
        (4, 3, "loky", "its patients have no microbleed"),
        (4, 1, "loky", "no microbleed"),
        (2, 0, "loky", "fold 1: its patients have no microbleed"),
        (2, 4, "no such backend", "backend no such backend: "),
        (2, 4, "tcp://", "backend tcp://: .*give loky, threading or the address"),
    ],
)
def test_what_cannot_be_folded_is_refused_before_anything_is_written(tmp_path, folds, bleeding, backend, reason):
    images = cohort(tmp_path / "pictures", bleeding)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=reason) as caught:
        run_folds(settings(folds), images, tmp_path, backend=backend, progress=False)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_fold_that_does_not_exist_is_refused_with_those_that_do(images, tmp_path):
    with pytest.raises(InputError, match="no fold 3; there are 1 to 2"):
        run_fold(3, settings(), images, tmp_path)


def write_results(root: Path, images: Path, params: Params, scores: Callable[[int, str], tuple[list, list]]) -> None:
    """Detections by hand: `scores(fold, variant)` gives those of hits, one per microbleed, and of false positives."""
    for fold in params.crossvalidation.folds:
        test = fold_test_set(fold, params, images)
        for variant in params.crossvalidation.variants:
            hits, false = scores(fold, variant)
            image_ids = [box["image_id"] for box in test["annotations"]]
            found = [
                {"image_id": image_id, "category_id": 1, "bbox": BOX, "score": score}
                for image_id, score in zip(image_ids, hits, strict=False)
            ]
            found += [
                {"image_id": image_ids[0], "category_id": 1, "bbox": [1, 1, 3, 3], "score": score} for score in false
            ]
            write_json(paths.fold_result(fold, variant, root) / DETECTIONS_FILE, found)


def by_hand(fold: int, variant: str) -> tuple[list, list]:
    """The twin finds all; the plain one all in fold 1, in fold 2 a false positive before one hit of two."""
    if variant.endswith("-fe"):
        return [0.9, 0.8], []
    return ([0.9, 0.8], []) if fold == 1 else ([0.3], [0.95])


def test_the_table_by_hand(images, tmp_path):
    params = settings(variants=("ssd512", "ssd512-fe"))
    write_results(tmp_path, images, params, by_hand)
    table = gather(params, images, tmp_path)
    assert list(table.index) == ["1", "2", "mean", "all"]
    # Fold 2: precision 1/2 at sensitivity 1/2. All: 3 of 4 found, of 4 detections, and the first is false.
    assert table["our_ap"].tolist() == pytest.approx([1, 0.25, 0.625, 0.75 * 0.75])
    assert table["our_ap_fe"].tolist() == pytest.approx([1, 1, 1, 1])
    assert table["our_gain"].tolist() == pytest.approx([0, 0.75, 0.375, 1 - 0.75 * 0.75])
    counts = table.drop(index="mean")[["patients", "pictures", "cmbs"]]
    assert counts.to_numpy().tolist() == [[2, 4, 2], [2, 4, 2], [4, 8, 4]]
    printed = table.loc[["mean", "all"], ["paper_ap", "paper_ap_fe", "paper_gain"]].to_numpy()
    np.testing.assert_allclose(printed, [[0.73, 0.75, 0.02]] * 2)
    assert table.loc[["1", "2"], "paper_ap"].isna().all()


def test_the_gain_of_all_is_paired_over_all_patients(images, tmp_path):
    params = settings()
    write_results(tmp_path, images, params, by_hand)
    whole = match_folds(params, images, tmp_path)["all"]
    assert list(whole["ssd300"].patients) == ["P1", "P2", "P3", "P4"]
    resamples = params.evaluation.bootstrap_samples
    pair = (whole["ssd300-fe"], whole["ssd300"])
    expected = intervals.paired_difference(average_precision, *pair, resamples, params.seed)
    row = gather(params, images, tmp_path).loc["all"]
    assert (row["our_gain_low"], row["our_gain_high"]) == (expected.low, expected.high)
    assert expected.low < expected.value < expected.high
    assert np.isnan(row["paper_ap"])  # the paper's folds are read as those of SSD-512


def test_detections_of_another_fold_and_missing_ones_are_named(images, tmp_path):
    params = settings()
    write_results(tmp_path, images, params, by_hand)
    first, second = (paths.fold_result(fold, "ssd300-fe", tmp_path) / DETECTIONS_FILE for fold in (1, 2))
    shutil.copy(first, second)
    with pytest.raises(InputError, match=r"fold2/ssd300-fe/detections\.json\.gz: detection 0: image_id"):
        gather(params, images, tmp_path)
    second.unlink()
    with pytest.raises(InputError, match=r"fold2/ssd300-fe/detections\.json\.gz: no such file"):
        gather(params, images, tmp_path)


def test_the_labels_of_a_fold_keep_everything_but_the_split(images):
    whole, folded = read_labels(images / LABELS_FILE), fold_labels(2, settings(), images)
    assert folded["annotations"] == whole["annotations"]
    assert [{**image, "split": "validation"} for image in folded["images"]] == whole["images"]


def test_the_command_runs_all_folds_and_writes_the_table(done, images, tmp_path, run_cmbfe):
    root = tmp_path / "root"
    shutil.copytree(done[0], root)
    save_params(settings(), tmp_path / "params.yaml")
    before = weights(root)
    options = ["--params", tmp_path / "params.yaml", "--pictures", images, "--out", root, "--jobs", 1]
    status, said, _ = run_cmbfe("crossval", *options)
    table = root / "results" / "tables" / "crossvalidation.csv"
    assert status == 0
    assert said.count("trained already") == 4
    assert said.splitlines()[-1].startswith(f"{table}: AP 0.")
    assert pd.read_csv(table)["fold"].tolist() == ["1", "2", "mean", "all"]
    assert weights(root) == before
