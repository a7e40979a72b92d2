"""Generated small objects: contrast, boxes, places and splits are what was asked for; the same seed, the same bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_world import tree

from cmbfe import objects
from cmbfe.data.labels import LABELS_FILE, read_labels
from cmbfe.data.picture_files import read_picture
from cmbfe.data.sources.coco import find_coco
from cmbfe.errors import InputError
from cmbfe.objects import (
    GRAIN,
    SIDE_PX,
    Shape,
    contrast_to_noise,
    coverage,
    draw_shapes,
    look_alikes,
    make_picture,
    render,
    split_counts,
    write_objects,
)

COUNTS = {"train": 3, "test": 2, "validation": 1}


def drawn(difficulty: float = 0.5, polarity: str = "dark", pictures: int = 6) -> list[list[Shape]]:
    return [draw_shapes(np.random.default_rng(number), difficulty, polarity) for number in range(pictures)]


def whole_coverage(shape: Shape) -> np.ndarray:
    window, cover = coverage(shape)
    whole = np.zeros((SIDE_PX, SIDE_PX))
    whole[window] = cover
    return whole


@pytest.mark.parametrize(("difficulty", "asked"), [(0.0, 5.0), (0.5, 5**0.5), (1.0, 1.0)])
def test_contrast_to_noise_is_what_was_asked_for(difficulty, asked):
    """Against the same picture without its objects: noise and shade are gone, rounding to grey levels is left."""
    assert contrast_to_noise(difficulty) == pytest.approx(asked)
    measured = []
    for number in range(15):
        rng = np.random.default_rng(number)
        shapes = [one for one in draw_shapes(rng, 0.0, "dark") if one.kind == "object"]
        state = rng.bit_generator.state
        with_objects = render(shapes, rng, difficulty).astype(float)
        rng.bit_generator.state = state
        without = render([], rng, difficulty).astype(float)
        inside = sum(whole_coverage(one) for one in shapes) == 1
        measured.append((without - with_objects)[inside].mean() / GRAIN)
    assert np.mean(measured) == pytest.approx(asked, rel=0.02)


def test_the_noise_has_the_standard_deviation_that_contrasts_are_held_to():
    noise = objects._noise(np.random.default_rng(3), GRAIN, 0.8)
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=1e-9), pytest.approx(GRAIN))


@pytest.mark.parametrize(
    ("angle", "box"),
    [
        (0.0, (94.0, 47.0, 12.0, 6.0)),
        (np.pi / 2, (97.0, 44.0, 6.0, 12.0)),
        (np.pi / 4, (100 - 22.5**0.5, 50 - 22.5**0.5, 2 * 22.5**0.5, 2 * 22.5**0.5)),  # root of (36 + 9) / 2
    ],
)
def test_the_box_of_a_turned_ellipse_is_that_of_geometry(angle, box):
    assert Shape("object", 100, 50, 6, 3, angle, -1).box == pytest.approx(box)


def test_boxes_are_tight_around_objects():
    for shapes in drawn():
        for shape in (one for one in shapes if one.kind == "object"):
            x, y, width, height = shape.box
            rows, columns = np.nonzero(whole_coverage(shape) >= 0.5)  # pixels whose centres the ellipse holds
            assert x <= columns.min() + 0.5 < x + 1.5
            assert y <= rows.min() + 0.5 < y + 1.5
            assert x + width - 1.5 < columns.max() + 0.5 <= x + width
            assert y + height - 1.5 < rows.max() + 0.5 <= y + height


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_everything_lies_inside_and_nothing_touches_anything_else(difficulty):
    for shapes in drawn(difficulty):
        covers = [whole_coverage(shape) > 0 for shape in shapes]
        assert np.sum(covers, axis=0).max() == 1
        for cover in covers:
            assert not cover[[0, -1]].any()
            assert not cover[:, [0, -1]].any()


def test_a_picture_has_two_to_eight_objects_and_the_look_alikes_of_its_difficulty():
    kinds = [[shape.kind for shape in shapes] for shapes in drawn(0.5, pictures=40)]
    assert {one.count("object") for one in kinds} == set(range(2, 9))
    assert all(len(one) - one.count("object") == look_alikes(0.5) == 10 for one in kinds)
    assert (look_alikes(0.0), look_alikes(1.0)) == (0, 20)
    assert {kind for one in kinds for kind in one} == {"object", "line", "ring", "opposite"}


def test_blobs_of_the_other_polarity_are_look_alikes_only_where_objects_have_one():
    signs = {(shape.kind, shape.sign) for shapes in drawn(0.5) for shape in shapes}
    assert signs == {("object", -1), ("line", -1), ("ring", -1), ("opposite", 1)}
    both = {(shape.kind, shape.sign) for shapes in drawn(0.5, "both") for shape in shapes}
    assert both == {(kind, sign) for kind in ("object", "line", "ring") for sign in (-1, 1)}


def test_a_ring_is_hollow_and_a_line_is_filled():
    ring, line = (
        whole_coverage(Shape(kind, 50.5, 50.5, 9, size, 0, -1)) for kind, size in (("ring", 9), ("line", 2))
    )
    assert ring[50, [50, 54, 58, 61]].tolist() == [0, 0, 1, 0]  # 0, 4, 8 and 11 px from the middle
    assert line[50, [50, 54, 58, 61]].tolist() == [1, 1, 1, 0]
    assert line[[51, 54], 50].tolist() == [1, 0]


def test_a_bright_set_is_the_negative_of_the_dark_one():
    (dark, shapes), (bright, others) = (make_picture(5, 2, 0.5, polarity) for polarity in ("dark", "bright"))
    np.testing.assert_array_equal(bright, 255 - dark)
    assert [replace(shape, sign=-shape.sign) for shape in shapes] == others


def test_a_picture_depends_on_seed_and_number_alone():
    same, other = make_picture(5, 2, 0.5, "dark")[0], make_picture(6, 2, 0.5, "dark")[0]
    np.testing.assert_array_equal(same, make_picture(5, 2, 0.5, "dark")[0])
    assert (same != other).any()


def test_splits_have_the_shares_of_table_1():
    assert split_counts(58) == {"train": 33, "test": 17, "validation": 8}
    assert sum(split_counts(101).values()) == 101
    with pytest.raises(InputError, match="2 pictures cannot fill training, test and validation; give 3 or more"):
        split_counts(2)


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("objects") / "dots"
    write_objects(out, COUNTS, seed=3, difficulty=0.2, progress=False)
    return out


def test_labels_are_the_projects_and_every_split_can_be_trained_on(dots):
    labels = read_labels(dots / LABELS_FILE)
    assert [image["split"] for image in labels["images"]] == ["train"] * 3 + ["test"] * 2 + ["validation"]
    assert len({image["patient_id"] for image in labels["images"]}) == 6
    known = {"patient_id", "series_uid", "slice_index", "pixel_spacing_mm", "split"}
    assert all(known <= set(image) for image in labels["images"])
    of_splits = {split: read_labels(dots / split / LABELS_FILE) for split in COUNTS}
    for split, own in of_splits.items():
        assert len(own["images"]) == COUNTS[split]
        assert all(read_picture(dots / split / one["file_name"]).shape == (SIDE_PX, SIDE_PX) for one in own["images"])
    assert [box for own in of_splits.values() for box in own["annotations"]] == labels["annotations"]


def test_an_import_takes_a_set_as_it_is(dots):
    assert sum(len(one.pictures) for one in find_coco(dots).series) == 6


def test_the_same_seed_gives_the_same_bytes_and_what_is_there_is_not_made_again(dots, tmp_path, monkeypatch):
    again = write_objects(tmp_path / "a", COUNTS, seed=3, difficulty=0.2, progress=False)
    assert tree(tmp_path / "a") == tree(dots)
    monkeypatch.setattr(objects, "make_picture", lambda *_: pytest.fail("drawn again"))
    assert write_objects(tmp_path / "a", COUNTS, seed=3, difficulty=0.2, progress=False) == again


def test_another_set_replaces_an_earlier_one_and_nothing_else(dots, tmp_path):
    write_objects(tmp_path / "a", {"test": 1}, seed=3, difficulty=0.2, progress=False)
    write_objects(tmp_path / "a", {"test": 1}, seed=4, difficulty=0.2, progress=False)
    assert json.loads((tmp_path / "a" / "objects.json").read_text())["seed"] == 4
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"holds other things and no objects\.json"):
        write_objects(tmp_path / "b", {"test": 1}, seed=4, difficulty=0.2, progress=False)
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["mine.txt"]


def test_a_set_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "preview", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_objects(tmp_path / "a", {"test": 1}, seed=4, difficulty=0.2, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--pictures", 2], "give 3 or more"),
        (["--pictures", 6, "--difficulty", 2], "difficulty 2: give a number from 0, the easiest, to 1"),
        (["--pictures", 6, "--polarity", "grey"], "polarity 'grey': expected one of dark, bright, both"),
    ],
)
def test_the_command_refuses_what_cannot_be(run_cmbfe, tmp_path, options, reason):
    status, out, err = run_cmbfe("objects", tmp_path / "a", *options)
    assert (status, out) == (2, "")
    assert reason in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_made(run_cmbfe, tmp_path):
    status, out, _ = run_cmbfe("objects", tmp_path / "a", "--pictures", 3, "--seed", 5, "--polarity", "bright")
    boxes = len(read_labels(tmp_path / "a" / LABELS_FILE)["annotations"])
    assert (status, out) == (0, f"{tmp_path / 'a'}: 3 pictures, {boxes} objects; preview.png shows some\n")
