"""The baselines on small volumes: what they share, their methods, and what `cmbfe baseline` writes and refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from baseline_world import SETTINGS, SHAPE, SPACING_MM, ball, volume, write_images
from metric_examples import detection

from cmbfe.baselines import Baseline, candidates, cascade, radial_symmetry, thresholding
from cmbfe.baselines.candidates import Volume, cubes
from cmbfe.baselines.cascade import SCREENED, probabilities, screening_network
from cmbfe.baselines.run import METHODS, sensitivity_per_head
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.data.labelled.labels import read_detections, write_labels
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.paper.facts import PUBLISHED
from cmbfe.params import load_params, profile_file, save_params
from cmbfe.phantom.scan import draw_scan
from cmbfe.training.validation import validation_labels

NOWHERE = np.zeros((0, 3), np.int64)


def flat(shape=(3, 41, 41), boxes=()) -> candidates.Volume:
    by_slice = [np.array(of, float).reshape(-1, 4) for of in boxes] or [np.zeros((0, 4))] * shape[0]
    return candidates.Volume(np.full(shape, 0.8, np.float32), SPACING_MM, tuple(by_slice))


def test_the_extent_of_a_dark_rectangle_is_its_own_at_every_level_and_that_of_nothing_dark_finite():
    dark = flat()
    dark.voxels[1, 18:23, 19:22] = 0.2
    dark.voxels[1, 21:23, 25] = 0.2  # as dark, but not joined to it
    # From the middle of voxel (20, 20): 1.5 px left, 2.5 up, 1.5 right, 2.5 down.
    expected = [[1.5, 2.5, 1.5, 2.5] * len(candidates.LEVELS)]
    assert candidates.extents(dark, np.array([(1, 20, 20)])).tolist() == expected
    assert candidates.extents(dark, NOWHERE).shape == (0, 4 * len(candidates.LEVELS))
    assert np.isfinite(candidates.extents(flat(), np.array([(1, 20, 20), (0, 0, 0)]))).all()


def test_boxes_are_learnt_from_the_training_boxes_and_stay_in_the_image():
    model = candidates.fit_boxes(volume(seed) for seed in range(4))
    unseen = volume(9)
    places, boxes = candidates.true_places(unseen)
    assert len(places) == 6
    drawn = candidates.boxes_around(model, unseen, places)
    assert np.abs(drawn - boxes).max() < 1.0
    assert candidates.classes(unseen, places[:, 0], drawn).tolist() == [1] * 6
    assert candidates.boxes_around(model, unseen, NOWHERE).shape == (0, 4)
    corner = flat()
    corner.voxels[1] -= (0.6 * ball((41, 41), (0, 40), 3.0, (1.0, 1.0))).astype(np.float32)
    x_min, y_min, x_max, y_max = candidates.boxes_around(model, corner, np.array([(1, 0, 40)]))[0]
    assert 0 == y_min < y_max
    assert x_min < x_max == 41


def test_without_both_kinds_there_is_nothing_to_learn():
    cases = (candidates.fit_boxes, [flat()]), (candidates.check_both_kinds, 0, 4), (candidates.check_both_kinds, 3, 0)
    for learn, *examples in cases:
        with pytest.raises(InputError, match="microbleed"):
            learn(*examples)


def test_a_candidate_whose_box_is_half_right_is_neither_a_microbleed_nor_something_else():
    truth = flat(boxes=[[], [[10, 10, 20, 20]], []])
    boxes = np.array([[10, 10, 20, 20], [10, 10, 20, 14], [30, 30, 34, 34], [10, 10, 20, 20]], float)
    assert candidates.classes(truth, np.array([1, 1, 1, 0]), boxes).tolist() == [1, -1, 0, 0]


def test_overlapping_detections_of_a_slice_leave_the_best_and_no_more_than_allowed():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 10]], float)
    found = candidates.Candidates(np.array([0, 0, 0, 1]), boxes, np.array([0.5, 0.9, 0.2, 0.1]))
    kept = candidates.best_of_each_slice(found, 0.45, most=5)
    assert (kept.slices.tolist(), kept.scores.tolist()) == ([0, 0, 1], [0.9, 0.2, 0.1])
    assert candidates.best_of_each_slice(found, 0.45, most=1).scores.tolist() == [0.9, 0.1]
    empty = candidates.Candidates(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    assert len(candidates.best_of_each_slice(empty, 0.45, 5).scores) == 0


@pytest.fixture
def labels(tmp_path):
    return write_images(tmp_path, {"train": 2})


def test_a_patients_slices_become_one_volume_in_their_order_with_their_boxes(labels, tmp_path):
    labels["images"].reverse()
    first, second = candidates.stacks_of(labels, tmp_path, slice_mm=2.0)
    assert first.image_ids == tuple(range(1, SHAPE[0] + 1))
    assert (first.spacing_mm, len(second.files)) == (SPACING_MM, SHAPE[0])
    read, made = candidates.read_volume(first), volume(0)
    np.testing.assert_allclose(read.voxels, made.voxels, atol=0.5 / 255 + 1e-6)
    for of_file, of_volume in zip(read.boxes, made.boxes, strict=True):
        np.testing.assert_allclose(of_file, of_volume)


def test_a_missing_slice_ends_a_volume_and_another_series_is_another_volume(labels, tmp_path):
    labels["images"] = [image for image in labels["images"] if image["id"] != 4]
    assert [len(stack.files) for stack in candidates.stacks_of(labels, tmp_path, 2.0)] == [3, 5, 9]
    for image in labels["images"]:
        image["series_uid"] = "1.2" if image["slice_index"] < 2 else "1.3"
    write_json(tmp_path / "series.json", {"1.2": {"slice_spacing_mm": 1.5}})
    stacks = candidates.stacks_of(labels, tmp_path, 2.0)
    assert [len(stack.files) for stack in stacks] == [2, 1, 5, 2, 7]
    assert [stack.spacing_mm[0] for stack in stacks] == [1.5, 2.0, 2.0, 1.5, 2.0]
    with pytest.raises(InputError, match="train-0 is None"):
        candidates.stacks_of(labels, tmp_path, None)
    for key in ("patient_id", "slice_index", "pixel_spacing_mm"):
        first, *others = labels["images"]
        without = {name: value for name, value in first.items() if name != key}
        with pytest.raises(InputError, match=f"image 1 has no {key}"):
            candidates.stacks_of({**labels, "images": [without, *others]}, tmp_path, 2.0)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_the_settings_know_how_far_apart_the_phantoms_slices_are(profile):
    params = load_params(profile_file(profile))
    scan = draw_scan(np.random.default_rng(0), params.phantom.matrix_px, params.phantom.slices, 240.0, 2.0)
    assert scan.spacing_mm == params.baselines.slice_mm


RADII_MM = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
transform = radial_symmetry.radial_symmetry
NO_BOX = np.zeros((0, 4))


def hits(detections, seen: Volume, count: int) -> int:
    """How many of the `count` best detections have their middle in a box of the ground truth."""
    best = np.argsort(-detections.scores)[:count]
    middles = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
    truth = [seen.boxes[index] for index in detections.slices]
    return sum(((truth[i][:, :2] < middles[i]) & (middles[i] < truth[i][:, 2:])).all(axis=1).any() for i in best)


@pytest.mark.parametrize("method", [radial_symmetry, thresholding])
def test_a_detector_tells_balls_from_tubes_finds_the_same_each_time_and_nothing_where_nothing_is_dark(method):
    detectors = [method.train(lambda: (volume(seed) for seed in range(4)), SETTINGS, seed=1) for _ in range(2)]
    unseen = volume(9)
    detections, again = (detector(unseen) for detector in detectors)
    np.testing.assert_array_equal(detections.scores, again.scores)
    assert hits(detections, unseen, 1) == 1
    if method is thresholding:
        plain = detectors[0](Volume(np.full((4, 40, 40), 0.5, np.float32), SPACING_MM, (NO_BOX,) * 4))
        assert (len(plain.slices), plain.boxes.shape, plain.scores.shape) == (0, (0, 4), (0,))


def peak(response: np.ndarray) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(response.argmax(), response.shape))


@pytest.mark.parametrize(("shape", "middle", "spacing_mm"), [
    ((41, 41), (20, 17), (1.0, 1.0)),
    ((82, 82), (41, 38), (0.5, 0.5)),
    ((15, 41, 41), (7, 20, 18), SPACING_MM),
])  # fmt: skip
@pytest.mark.parametrize("radius_mm", [4.0, 6.0])
def test_a_dark_disc_or_ball_peaks_at_its_centre_at_its_radius(shape, middle, spacing_mm, radius_mm):
    response = transform(0.9 - 0.7 * ball(shape, middle, radius_mm, spacing_mm), spacing_mm, RADII_MM)
    assert peak(response) == (RADII_MM.index(radius_mm), *middle)


def test_neither_contrast_nor_brightness_matters_a_bright_disc_is_nothing_and_a_single_slice_an_image():
    dot = ball((41, 41), (20, 20), 4.0, (1.0, 1.0))
    faint, strong, bright = (transform(0.9 - depth * dot, (1.0, 1.0), RADII_MM) for depth in (0.1, 0.8, -0.8))
    np.testing.assert_allclose(faint, strong, atol=1e-3)
    assert bright.max() < 0.02 * strong.max()
    assert not transform(np.full(SHAPE, 0.5, np.float32), SPACING_MM, RADII_MM).any()
    assert peak(transform(0.9 - 0.7 * dot[None], SPACING_MM, (4.0,))) == (0, 0, 20, 20)


def by_hand() -> Volume:
    """A checkerboard of 0.6 and 0.8 with a dark square of 3 x 4 px and a dark band across the slice."""
    row, column = np.mgrid[:40, :40]
    slices = np.tile((0.6 + 0.2 * ((row + column) % 2)).astype(np.float32), (3, 1, 1))
    slices[1, 10:13, 20:24] = 0.1
    slices[1, 30:32, :] = 0.1
    return Volume(slices, SPACING_MM, (NO_BOX,) * 3)


def test_what_is_darker_than_its_window_by_some_deviations_is_marked_and_nothing_else():
    mask = thresholding.dark_mask(by_hand(), window_mm=15.0, deviations=2.0)
    np.testing.assert_array_equal(mask, by_hand().voxels < 0.5)
    # A window of 3 x 3 with eight pixels of 1 and one of 0: mean 8/9, deviation sqrt(8)/9, so it is 2.83 below.
    dot = Volume(np.ones((1, 9, 9), np.float32), SPACING_MM, (NO_BOX,))
    dot.voxels[0, 4, 4] = 0
    assert np.argwhere(thresholding.dark_mask(dot, window_mm=3.0, deviations=2.8)).tolist() == [[0, 4, 4]]
    assert not thresholding.dark_mask(dot, window_mm=3.0, deviations=2.9).any()


def test_the_square_is_a_region_and_the_band_is_too_wide_for_one():
    places, features = thresholding.describe(by_hand(), SETTINGS)
    assert len(places) == len(features) == 1
    assert places[0, 0] == 1
    assert (10 <= places[0, 1] < 13, 20 <= places[0, 2] < 24) == (True, True)
    assert np.isclose(features[0, 0], np.log(12))
    # Standard deviations of 4 and of 3 places in a row: sqrt(15 / 12) and sqrt(8 / 12), and none across slices.
    np.testing.assert_allclose(features[0, 1:4], [np.sqrt(15 / 12), np.sqrt(8 / 12), 0], atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 14, 18), (3, 15, 17), (1, 48, 48)])
def test_the_map_holds_what_the_network_says_of_each_neighbourhood(shape):
    # 20 slices are more than are screened at a time.
    voxels = np.random.default_rng(0).random(shape, np.float32)
    torch.manual_seed(0)
    network = screening_network()
    whole = cascade.screen(network, voxels)
    assert whole.shape == (shape[0], (shape[1] + 1) // 2, (shape[2] + 1) // 2)
    places = np.array([(0, 0, 0), (shape[0] // 2, 4, 6), (shape[0] - 1, 6, 8)])
    single = probabilities(network, cubes(voxels, places * [1, 2, 2], SCREENED))
    np.testing.assert_allclose(whole[tuple(places.T)], single, atol=1e-6)


def test_the_cascade_overfits_a_tiny_volume_and_is_the_same_each_time():
    torch.manual_seed(5)
    seen = volume(0)
    state = torch.get_rng_state()
    detections, again = (cascade.train(lambda: iter([seen]), SETTINGS, seed=1)(seen) for _ in range(2))
    np.testing.assert_array_equal(detections.scores, again.scores)
    assert torch.equal(state, torch.get_rng_state())  # whoever draws beside it is not disturbed
    assert hits(detections, seen, 6) == sum(map(len, seen.boxes)) == 6


WRITTEN = ["baseline.json", DETECTIONS_FILE, "metrics.json", VALIDATION_FILE]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images of five patients with labels and mimics, and settings that are quick."""
    folder = tmp_path_factory.mktemp("world")
    labels = write_images(folder / "data", {"train": 3, "validation": 1, "test": 1})
    write_labels(folder / "data" / "annotations.json", labels)
    mimics = [{"id": n["id"], "image_id": n["id"], "category_id": 1, "bbox": [32, 8, 8, 8]} for n in labels["images"]]
    content = {**labels, "annotations": mimics, "categories": [{"id": 1, "name": "vein"}]}
    write_labels(folder / "data" / "mimics.json", content)
    params = load_params(profile_file("smoke")).model_copy(update={"baselines": SETTINGS})
    save_params(params, folder / "params.yaml")
    return folder


def arguments(world, out, name="thresholding", data=None):
    return ("baseline", name, "--params", world / "params.yaml", "--data", data or world / "data", "--out", out)


@pytest.mark.parametrize("name", ["radial-symmetry", "thresholding"])
def test_a_baseline_writes_what_every_detector_has_and_looks_at_no_truth_of_test_images(
    name, world, tmp_path, run_cmbfe
):
    content = json.loads((world / "data" / "annotations.json").read_text())
    for box in content["annotations"]:
        if content["images"][box["image_id"] - 1]["split"] == "test":
            box["bbox"] = [1, 1, 5, 5]
    moved = shutil.copytree(world / "data", tmp_path / "data")
    write_labels(moved / "annotations.json", content)
    for out, data in (("one", world / "data"), ("two", moved)):
        status, said, _ = run_cmbfe(*arguments(world, tmp_path / out, name, data))
        assert (status, said.startswith(f"{tmp_path / out}: AP ")) == (0, True)
        assert sorted(file.name for file in (tmp_path / out).iterdir()) == WRITTEN
    for file in (DETECTIONS_FILE, VALIDATION_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    metrics, of_moved = (read_json(tmp_path / out / "metrics.json") for out in ("one", "two"))
    assert (metrics["cmbs"], metrics["patients"]) == (6, 1)
    assert metrics["ap"] > 0.3 > of_moved["ap"]
    labels = validation_labels(world / "data", load_params(world / "params.yaml").seed)
    assert read_detections(tmp_path / "one" / VALIDATION_FILE, labels)
    assert read_json(tmp_path / "one" / "baseline.json")["baseline"] == name


def with_lesions(folder, patients: int) -> dict:
    """Images of `baseline_world`, each ball a lesion of its own; one more patient is not labelled."""
    labels = write_images(folder, {"test": patients, "unlabelled": 1})
    images = {image["id"]: image for image in labels["images"]}
    for box in labels["annotations"]:
        box["lesion_id"] = "left" if box["bbox"][0] + box["bbox"][2] / 2 < 23 else "right"
    known = [box for box in labels["annotations"] if images[box["image_id"]]["split"] == "test"]
    write_labels(folder / "annotations.json", {**labels, "annotations": known})
    return labels


def test_it_learns_from_one_folder_and_finds_the_microbleeds_of_another(world, tmp_path, run_cmbfe):
    for name, patients in (("seen", 3), ("new", 2)):
        with_lesions(tmp_path / name, patients)
    out = tmp_path / "out"
    status, said, _ = run_cmbfe(
        *arguments(world, out, "radial-symmetry", tmp_path / "new"), "--train", tmp_path / "seen"
    )
    assert (status, sorted(file.name for file in out.iterdir())) == (0, ["baseline.json", "lesions.csv"])
    table = pd.read_csv(out / "lesions.csv")
    assert table["false_positives_per_patient"].tolist() == [10, 20, 45]
    assert table[["microbleeds", "patients"]].drop_duplicates().values.tolist() == [[4, 2]]
    assert table["sensitivity"].tolist() == [1, 1, 1]
    assert "45.0" in said


def test_a_microbleed_counts_once_and_its_further_detections_not_at_all(tmp_path):
    labels = with_lesions(tmp_path, 1)
    labels["images"] = labels["images"][: SHAPE[0]]
    labels["annotations"] = [box for box in labels["annotations"] if box["image_id"] <= SHAPE[0]]
    left = [box for box in labels["annotations"] if box["lesion_id"] == "left"]
    hits = [detection(box["image_id"], 0.2, box["bbox"]) for box in left]
    elsewhere = [detection(1, 0.9, [x, 2.0, 2, 2]) for x in range(2, 46, 4)]
    table = sensitivity_per_head(labels, [*elsewhere, *hits, *hits], 20, 0)
    assert len(elsewhere) == 11
    assert table["sensitivity"].tolist() == [0, 0.5, 0.5]


def test_an_unknown_baseline_a_folder_of_something_else_and_unreadable_data_are_refused(
    world, tmp_path, run_cmbfe, refused_line
):
    assert list(METHODS) == list(Baseline) == list(PUBLISHED.index)
    assert run_cmbfe(*arguments(world, tmp_path / "out", "magic"))[0] == 2
    (tmp_path / "metrics.json").write_text("{}")
    assert str(tmp_path) in refused_line(*arguments(world, tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    assert "annotations.json" in refused_line(*arguments(world, tmp_path / "out", data=data))
    for name in ("annotations.json", "mimics.json"):
        content = json.loads((world / "data" / name).read_text())
        images = [{**image, "file_name": "one.png"} for image in content["images"]]
        write_labels(data / name, {**content, "images": images})
    (data / "one.png").write_bytes(b"no image")
    assert "one.png" in refused_line(*arguments(world, tmp_path / "out", data=data))
