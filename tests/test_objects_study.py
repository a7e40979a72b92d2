"""Twins on generated objects: seeds and settings arrive, nothing is done twice, and tables say what was found."""

from pathlib import Path

import numpy as np
import pytest
from metric_examples import detection, labels_of
from tiny_world import tiny_params, tree

from cmbfe import objects, paths, twins
from cmbfe.data.labels import LABELS_FILE, read_labels
from cmbfe.errors import InputError
from cmbfe.matching import Matches, match
from cmbfe.objects import Shape
from cmbfe.objects_study import gains_table, mask_parts, mask_table, objects_params, read_arms, run_arm
from cmbfe.params import Objects, Params, load_params

T = [10, 10, 10, 10]


def objects_settings() -> Params:
    """Two seeds, two arms, trainings of two iterations."""
    arms = {name: {"polarity": name, "difficulty": 0.2} for name in ("dark", "bright")}
    sizes = {"training_pictures": 3, "test_pictures": 2, "iterations": 2, "width": 0.125, "detections_per_picture": 3}
    section = Objects.model_validate({"seeds": (1, 2), "arms": arms, **sizes})
    return tiny_params(iterations=4, milestones=(2, 3)).model_copy(update={"objects": section})


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("objects")
    run_arm("dark", objects_settings(), root, progress=False)
    return root


def test_a_training_has_the_settings_of_the_section_and_its_seed(done):
    used = load_params(paths.objects_model("dark", "ssd300-fe", 2, done) / "params.yaml")
    assert (used.seed, used.training.iterations, used.detector.width) == (2, 2, 0.125)
    assert used.detector.detections_per_picture == 3


def test_milestones_are_scaled_with_the_iterations_and_lie_before_the_end():
    params = objects_settings()
    training = params.training.model_copy(
        update={"iterations": 60, "milestones": (30, 45), "longer": {"ssd300": 2.0}}
    )
    longer = params.model_copy(update={"training": training})
    few = objects_params(1, longer).training
    assert (few.iterations, few.milestones, few.of("ssd300").iterations) == (2, (1,), 2)
    section = params.objects.model_copy(update={"iterations": 20})
    assert objects_params(1, longer.model_copy(update={"objects": section})).training.milestones == (10, 15)


def test_every_seed_trains_on_pictures_of_its_own_and_none_is_tested_on(done):
    parts = ["test", "1", "2"]
    files = {part: paths.objects_data("dark", part, done) for part in parts}
    pictures = [file.read_bytes() for folder in files.values() for file in folder.rglob("0*.png")]
    assert len(set(pictures)) == len(pictures) == 2 + 3 + 3
    splits = [{image["split"] for image in read_labels(files[part] / LABELS_FILE)["images"]} for part in parts]
    assert splits == [{"test"}, {"train"}, {"train"}]


def test_what_is_done_is_not_repeated(done, monkeypatch, capsys):
    before = tree(done / "results")
    assert len([name for name in before if name.endswith((".npz", ".json"))]) == 2 * 2 * 2
    monkeypatch.setattr(twins, "detect_in", lambda *_: pytest.fail("tested again"))
    monkeypatch.setattr(objects, "make_picture", lambda *_: pytest.fail("drawn again"))
    run_arm("dark", objects_settings(), done, progress=False)
    assert capsys.readouterr().out.count("trained already") == 4
    assert tree(done / "results") == before


def test_twins_come_by_seed_and_a_missing_training_is_named(done):
    params = objects_settings()
    with pytest.raises(InputError, match=r"bright/ssd300-1\.npz: no such file"):
        read_arms(params, done)
    dark_only = params.objects.model_copy(update={"arms": {"dark": params.objects.arms["dark"]}})
    without, with_fe = read_arms(params.model_copy(update={"objects": dark_only}), done)["dark"]
    assert len(without) == len(with_fe) == 2
    assert without[0].patients == with_fe[1].patients == ["object-00001", "object-00002"]


def test_an_unknown_arm_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no arm 'grey' in objects.arms of params.yaml; there are: dark, bright"):
        run_arm("grey", objects_settings(), tmp_path)


def found(hits: int, pictures: int = 8) -> Matches:
    """Pictures with an object each, of which so many are found, and nothing else: AP is the share."""
    labels = labels_of({image: [T] for image in range(1, pictures + 1)})
    for image in labels["images"]:
        image["patient_id"] = f"object-{image['id']}"
    return match(labels, [detection(image, 0.9, T) for image in range(1, hits + 1)])


def test_a_gain_is_the_mean_over_seeds_with_its_interval():
    runs = {"dark": ([found(4), found(6)], [found(6), found(7)]), "bright": ([found(4)] * 2, [found(4)] * 2)}
    table = gains_table(runs, objects_settings())
    assert table["ap"].tolist() == [0.625, 0.5]
    assert table["ap_fe"].tolist() == [0.8125, 0.5]
    assert table["gain"].tolist() == [0.1875, 0.0]
    assert table.loc["dark", "gain_low"] < 0.1875 < table.loc["dark", "gain_high"]
    assert table.loc["bright", ["gain_low", "gain_high"]].tolist() == [0, 0]
    assert table.loc["dark", "gain_seed_deviation"] == pytest.approx(np.std([0.25, 0.125], ddof=1))
    assert table["contrast_to_noise"].tolist() == [pytest.approx(5**0.8)] * 2
    assert table["look_alikes"].tolist() == [4, 4]


@pytest.mark.parametrize(("inside", "around"), [(60, 120), (150, 120)])
def test_the_mask_on_an_object_and_beside_it_is_that_of_the_formula(inside, around):
    """M = 1 - P / (beta * mean of P in the box), none below 0; a disc in its square, 9 px across."""
    shape = Shape("object", 50.5, 50.5, 4.5, 4.5, 0, -1)
    rows, columns = np.indices((300, 300)) + 0.5
    disc = np.hypot(rows - 50.5, columns - 50.5) < 5  # to the end of the soft edge
    picture = np.where(disc, inside, around).astype(np.uint8)
    box = (slice(46, 55), slice(46, 55))
    threshold = 1.5 * picture[box].mean()
    on_object, in_corners = mask_parts(picture, [shape, Shape("ring", 200, 200, 5, 5, 0, -1)], beta=1.5)[0]
    assert on_object == pytest.approx(max(0, 1 - inside / threshold), abs=1e-6)
    assert in_corners == pytest.approx(max(0, 1 - around / threshold), abs=1e-6)


def test_the_mask_enhances_dark_objects_more_than_their_corners_and_bright_ones_less():
    table = mask_table(objects_settings(), pictures=2)
    assert table.loc["dark", "ratio"] > 1 > table.loc["bright", "ratio"]
