"""Phase as a second channel: which series it is, 8 bits with 128 as zero, and the same way as the magnitude goes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from phase_world import head_with_phase, image_with_phase, images_with_phase, phase_series, phase_volume
from source_world import imported
from tiny_world import SIDE, dicom_head, dicom_labels, labelled_images, tiny_params, tree

from cmbfe.data.augment import augment, augment_training_set
from cmbfe.data.conversion import phase_of, to_8_bit_phase
from cmbfe.data.dicom.finding import find_series
from cmbfe.data.labelled.images import magnitude_of, read_image, read_with_phase, save_image
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels, refuse_other_channels
from cmbfe.detector.fe import enhancement_mask
from cmbfe.errors import InputError
from cmbfe.params import load_params, profile_file
from cmbfe.training.batches import content_hash, list_labelled, load_labelled, to_input

CPU = torch.device("cpu")
IMAGES = tiny_params().images
WITH_PHASE = IMAGES.model_copy(update={"phase": True})


def images_of(folder: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in tree(folder).items() if name.endswith(".png")}


def test_no_phase_is_128_and_half_a_turn_to_either_side_is_1_and_255():
    half = 1000 * np.pi
    mrad = np.array([0, half, -half, half / 2, 12, 13, 5000])
    assert to_8_bit_phase(mrad).tolist() == [128, 255, 1, 192, 128, 129, 255]  # a step is 24.7 mrad


def test_a_image_with_phase_is_two_files_the_magnitude_the_same_as_alone(tmp_path):
    image = image_with_phase()
    save_image(tmp_path / "a" / "0.jpg", image)
    save_image(tmp_path / "b" / "0.jpg", image[..., 0])
    assert sorted(tree(tmp_path / "a")) == ["0.jpg", "0.phase.png"]
    assert tree(tmp_path / "a")["0.jpg"] == tree(tmp_path / "b")["0.jpg"]
    again = read_with_phase(tmp_path / "a" / "0.jpg", tmp_path / "a" / "0.phase.png")
    np.testing.assert_array_equal(again[..., 1], image[..., 1])
    np.testing.assert_array_equal(magnitude_of(again), read_image(tmp_path / "b" / "0.jpg"))


def test_a_phase_of_another_size_is_refused(tmp_path):
    save_image(tmp_path / "0.png", image_with_phase()[..., 0])
    save_image(tmp_path / "0.phase.png", image_with_phase()[:40, :, 1])
    with pytest.raises(InputError, match=r"0\.phase\.png: 64 x 40 px, but the magnitude beside it has 64 x 64 px"):
        read_with_phase(tmp_path / "0.png", tmp_path / "0.phase.png")


def test_the_network_sees_the_magnitude_and_on_both_sides_of_it_the_magnitude_times_the_phase():
    image = np.array([[[102, 128], [51, 255]], [[255, 1], [0, 192]]], np.uint8)
    red, green, blue = to_input(image[None], CPU)[0]
    magnitude, phase = torch.tensor([[0.4, 0.2], [1, 0]]), torch.tensor([[0, 1.0], [-1, 64 / 127]])
    torch.testing.assert_close(green, magnitude)
    torch.testing.assert_close(red, magnitude * (1 + phase))
    torch.testing.assert_close(blue, magnitude * (1 - phase))


def test_without_any_phase_the_input_is_that_of_the_magnitude_alone_and_fe_never_sees_the_phase():
    pixels = np.stack([image_with_phase(0), image_with_phase(1)])
    boxes = [torch.tensor([[20.0, 30, 27, 37]]), torch.tensor([[9.0, 29, 21, 41]])]
    alone = to_input(pixels[..., 0].copy(), CPU)
    masks = [enhancement_mask(images, boxes) for images in (to_input(pixels, CPU), alone)]
    torch.testing.assert_close(*masks, atol=1e-6, rtol=0)
    pixels[..., 1] = 128
    assert torch.equal(to_input(pixels, CPU), alone)


def test_augmentation_moves_the_phase_with_the_magnitude_and_changes_no_value_of_it():
    settings = load_params(profile_file("paper")).augmentation
    plain = settings.model_copy(update={"intensity_factor": (1.0, 1.0), "blur_sigma_px": (0.0, 0.0)})
    marked = np.full((SIDE, SIDE, 2), 128, np.uint8)
    marked[20:30, 35:50] = 200
    for seed in range(5):
        box = np.array([[35.0, 20, 50, 30]])
        moved, boxes, _ = augment(marked, box, plain, seed)
        outside = moved[..., 0] == 0  # what comes from outside the old image is black, and without phase
        np.testing.assert_array_equal(moved[..., 1][outside], 128)
        inside = moved[..., 0] >= 128
        np.testing.assert_array_equal(moved[..., 1][inside], moved[..., 0][inside])
        bright, same_boxes, _ = augment(marked, box, settings, seed)
        np.testing.assert_array_equal(bright[..., 1], moved[..., 1])
        np.testing.assert_array_equal(same_boxes, boxes)


def test_an_augmented_magnitude_is_that_of_an_augmentation_without_phase(tmp_path):
    settings = tiny_params().augmentation.model_copy(update={"target_images": 5})
    labels = images_with_phase(tmp_path / "in")
    plain = {**labels, "images": [{**image} for image in labels["images"]]}
    for image in plain["images"]:
        del image["phase_file_name"]
    for name, content in (("phase", labels), ("plain", plain)):
        augment_training_set(content, tmp_path / "in", tmp_path / name, settings, 3, jobs=1, progress=False)
    made, without = (images_of(tmp_path / name) for name in ("phase", "plain"))
    assert (len(made), len(without)) == (10, 5)
    assert without.items() <= made.items()
    loaded = load_labelled(read_labels(tmp_path / "phase" / LABELS_FILE), tmp_path / "phase")
    assert loaded.images.shape == (5, SIDE, SIDE, 2)


def test_labels_say_where_the_phase_is_and_its_bytes_are_part_of_the_data(tmp_path):
    labels = images_with_phase(tmp_path)
    before = content_hash(list_labelled(labels, tmp_path))
    np.testing.assert_array_equal(load_labelled(labels, tmp_path).images[1], image_with_phase(2))
    save_image(tmp_path / "P2" / "000.phase.png", np.full((SIDE, SIDE), 128, np.uint8))
    assert content_hash(list_labelled(labels, tmp_path)) != before
    del labels["images"][1]["phase_file_name"]
    with pytest.raises(InputError, match=r"P2.000\.png: its labels name no phase"):
        list_labelled(labels, tmp_path)


@pytest.mark.parametrize("phase", [True, False])
def test_images_and_settings_that_differ_in_phase_are_refused(tmp_path, phase):
    (labelled_images if phase else images_with_phase)(tmp_path)
    has = "no phase" if phase else "phase"
    with pytest.raises(InputError, match=f"P1/000.png has {has}, but images.phase is {str(phase).lower()}"):
        refuse_other_channels(tmp_path / LABELS_FILE, phase)
    refuse_other_channels(tmp_path / LABELS_FILE, not phase)


def test_an_import_puts_the_phase_beside_the_magnitude_which_stays_as_it_was(tmp_path):
    images = head_with_phase(tmp_path / "in")
    phase_series(tmp_path / "in" / "other", volume=phase_volume(2), SeriesDescription="two slices")
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(dicom_labels(images, split="train")))
    imported("dicom", tmp_path / "in", tmp_path / "plain", images=IMAGES)
    new = imported("dicom", tmp_path / "in", tmp_path / "new", images=WITH_PHASE)
    made, plain = (images_of(tmp_path / name) for name in ("new", "plain"))
    assert (len(made), len(plain)) == (8, 4)
    assert plain.items() <= made.items()
    assert new["images"][1]["phase_file_name"] == "P1/001.phase.png"
    phase = read_image(tmp_path / "new" / "P1" / "001.phase.png")
    assert (phase[15, 35], phase[45, 10], phase[0, 0]) == (168, 47, 128)  # 1000 and -2000 mrad are 40 and -81 steps
    left_out = json.loads((tmp_path / "new" / "report.json").read_text())["left_out"]
    assert left_out == [{"what": "images of kind phase", "count": 2}]


def test_what_is_put_around_a_scaled_image_has_no_phase(tmp_path):
    dicom_head(tmp_path / "in" / "magnitude")
    phase_series(tmp_path / "in" / "phase", volume=np.full((4, SIDE, SIDE), -2000, np.int16))
    labels = imported("dicom", tmp_path / "in", tmp_path / "out", images=WITH_PHASE, size=96)
    phase = read_image(tmp_path / "out" / labels["images"][0]["phase_file_name"])
    assert set(phase[48].tolist()) == {47}  # pixels are wider than high: the square is filled in width
    assert set(phase[0].tolist()) == set(phase[-1].tolist()) == {128}


@pytest.mark.parametrize(
    "other",
    [
        {"ImageType": ["ORIGINAL", "PRIMARY", "M"]},
        {"StudyInstanceUID": "1.2.3"},
        {"PatientID": "P2"},
        {"PixelSpacing": [0.5, 0.5]},
        {"ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_phase_of_another_kind_study_patient_or_place_is_none(tmp_path, other):
    dicom_head(tmp_path / "magnitude", "P1")
    phase_series(tmp_path / "phase", **other)
    found = find_series(tmp_path)
    magnitude = next(one for one in found if one.files[0].parent.name == "magnitude")
    with pytest.raises(InputError, match="no phase series"):
        phase_of(magnitude, found)


def test_of_several_phases_the_echo_tells_and_two_alike_are_refused(tmp_path):
    head_with_phase(tmp_path)
    phase_series(tmp_path / "first", EchoTime=20.0)
    found = find_series(tmp_path)
    magnitude = next(one for one in found if one.kind == "magnitude")
    assert phase_of(magnitude, found).echo_time_ms == magnitude.echo_time_ms
    phase_series(tmp_path / "again", SeriesDescription="again")
    with pytest.raises(InputError, match="2 phase series of the same study"):
        phase_of(magnitude, find_series(tmp_path))


def test_no_phase_and_phase_that_is_not_in_mrad_are_refused(tmp_path):
    dicom_head(tmp_path / "in" / "magnitude")
    with pytest.raises(InputError, match="no phase series"):
        imported("dicom", tmp_path / "in", tmp_path / "out", images=WITH_PHASE)
    phase_series(tmp_path / "in" / "phase", volume=phase_volume() * 2)
    with pytest.raises(InputError, match="phase from -4000 to 2000; expected mrad"):
        imported("dicom", tmp_path / "in", tmp_path / "out", images=WITH_PHASE)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="phase is read of dicom and bids, not of voc"):
        imported("voc", tmp_path / "in", tmp_path / "out", images=WITH_PHASE)
