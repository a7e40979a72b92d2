"""Detection in a user's own files: DICOM and images in; JSON, CSV and overlays out, or one line and nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from findings_world import detect
from PIL import Image
from pycocotools.coco import COCO
from tiny_world import SIDE, dicom_head, labelled_images, refused, save_tiny_model, tiny_head, tiny_params, tree

from cmbfe.data.labelled.images import save_image
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.findings.model import Detector, chosen_threshold, load_detector, model_settings, read_threshold
from cmbfe.training.devices import make_compute

IMAGE = tiny_head()[0].astype(np.uint8)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Detector:
    model = load_model(save_tiny_model(tmp_path_factory.mktemp("model")))
    return Detector(model, make_compute("cpu", "32-true"), model.config.variant)


def read(file: Path) -> object:
    return json.loads(file.read_text())


def overlays(out: Path) -> list[str]:
    return sorted(path.relative_to(out / "overlays").as_posix() for path in (out / "overlays").rglob("*.png"))


def detected(source: Path, out: Path, slices: int, detector: Detector | None = None, **options) -> pd.DataFrame:
    """The table of detections; the files agree with each other, and an independent COCO reader takes them."""
    detect(source, out, detector, **options)
    table = pd.read_csv(out / "detections.csv", dtype={"patient_id": str, "series_uid": str})
    truth = COCO()
    truth.dataset = read(out / "images.json")
    truth.createIndex()
    results = truth.loadRes(read(out / "detections.json"))
    assert len(truth.imgs) == len(overlays(out)) == slices
    assert len(results.anns) == len(table) > 0
    boxes = [annotation["bbox"] for annotation in results.dataset["annotations"]]
    np.testing.assert_allclose(table[["x_px", "y_px", "width_px", "height_px"]], boxes)
    assert {Image.open(out / "overlays" / name).mode for name in overlays(out)} == {"RGB"}
    return table


def test_a_dicom_series_gives_json_csv_and_an_overlay_per_slice_in_anatomical_order(tmp_path):
    images = dicom_head(tmp_path / "in" / "deep", names=["d.dcm", "c.dcm", "a.dcm", "b"])
    table = detected(tmp_path / "in", tmp_path / "out", slices=4)
    assert overlays(tmp_path / "out") == [f"P1/00{index}.png" for index in range(4)]
    described = read(tmp_path / "out" / "images.json")["images"]
    assert [image["sop_instance_uid"] for image in described] == [image.SOPInstanceUID for image in images]
    assert table["slice_index"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(table["patient_id"]) == {"P1"}
    assert set(table["series_uid"]) == {images[0].SeriesInstanceUID}
    first = table.iloc[0]  # pixels of 0.5 mm along y, 0.75 mm along x
    assert first[["x_px", "y_px", "width_px", "height_px"]].tolist() == [10, 20, 4, 6]
    assert first[["x_mm", "y_mm", "width_mm", "height_mm", "score"]].tolist() == [7.5, 10, 3, 3, 0.75]


def test_images_of_any_depth_and_size_are_numbered_by_their_paths_and_their_folder_stands_for_the_patient(tmp_path):
    source = tmp_path / "scans"
    for name in ("b/2.JPG", "c.png", "a.jpeg", "d/1.png", ".thumbnails/a.png"):
        save_image(source / name, IMAGE)
    save_image(source / "b" / "1.png", IMAGE[:40])
    (source / "notes.txt").write_text("no image")
    (source / "album.png").mkdir()
    table = detected(source, tmp_path / "out", slices=5).iloc[::2]
    assert table["file_name"].tolist() == ["a.jpeg", "b/1.png", "b/2.JPG", "c.png", "d/1.png"]
    assert table["patient_id"].tolist() == ["scans", "b", "b", "scans", "d"]
    assert table["slice_index"].tolist() == [0, 0, 1, 1, 0]
    assert overlays(tmp_path / "out") == ["a.png", "b/1.png", "b/2.png", "c.png", "d/1.png"]
    assert table["x_mm"].isna().all()
    assert [image["id"] for image in read(tmp_path / "out" / "images.json")["images"]] == [1, 2, 3, 4, 5]
    detected(source / "c.png", tmp_path / "one file", slices=1)


@pytest.mark.parametrize("make", [dicom_head, labelled_images])
def test_a_second_run_writes_the_same_bytes_and_takes_no_result_for_input(tmp_path, untrained, make):
    made = make(tmp_path)
    count = len(made if make is dicom_head else made["images"])
    detected(tmp_path, tmp_path / "out", count, untrained)
    first = tree(tmp_path / "out")
    detect(tmp_path, tmp_path / "out", untrained)
    assert tree(tmp_path / "out") == first


def test_overlays_show_what_reaches_the_threshold_and_the_files_hold_all(tmp_path):
    image = np.full((SIDE, SIDE), 50, np.uint8)
    image[0, 0] = 60  # or nothing could be seen
    save_image(tmp_path / "in" / "a.png", image)
    coloured = []
    for threshold in (0.8, 0.5, 0.2):
        assert len(detected(tmp_path / "in", tmp_path / "out", 1, threshold=threshold)) == 2
        drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png")).astype(int)
        coloured.append([bool(np.ptp(drawn[rows, columns])) for rows, columns in [(18, 8), (48, 38)]])
    assert coloured == [[False, False], [True, False], [True, True]]


@pytest.mark.parametrize(("make", "reason"), [
    (lambda folder: labelled_images(folder, 2) and os.truncate(folder / "P2" / "000.png", 200), r"P2.000\.png"),
    (lambda folder: dicom_head(folder) and save_image(folder / "preview.png", IMAGE), r"in: holds"),
    (lambda folder: [save_image(folder / name, IMAGE) for name in ("a.png", "a.jpg")], r"a\.\w+: .*suffix"),
    (lambda folder: dicom_head(folder, ImageType=["ORIGINAL", "PRIMARY", "P"]), "in: no magnitude series"),
    (Path.mkdir, "in: the folder is empty"),
    (lambda folder: None, "in: no such file or folder"),
])  # fmt: skip
def test_a_source_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path, make, reason):
    make(tmp_path / "in")
    with refused(tmp_path, reason):
        detect(tmp_path / "in", tmp_path / "deep" / "out")


@pytest.mark.parametrize("out", ["in", ".", "results", "file"])
def test_nothing_but_an_earlier_result_is_ever_replaced(tmp_path, out):
    labelled_images(tmp_path / "in", 1)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "detections.json").write_text("[]")  # as the pipeline has it, beside its metrics
    (tmp_path / "file").write_text("precious")
    with refused(tmp_path, str(tmp_path)):
        detect(tmp_path / "in", tmp_path / out)


TABLE = "variant,threshold,sensitivity\nssd512,0.16,0.88\nssd300,,\n"


def test_the_threshold_is_given_or_that_of_the_validation_patients_and_images_are_those_of_the_training(tmp_path):
    (tmp_path / "operating_point.csv").write_text(TABLE)
    (tmp_path / "metrics.json").write_text(json.dumps({"threshold": 0.25, "ap": 0.5}))
    assert read_threshold(tmp_path / "metrics.json", "ssd512") == 0.25
    assert chosen_threshold(None, tmp_path / "operating_point.csv", "ssd512")[0] == 0.16
    assert [chosen_threshold(given, None, "")[0] for given in (None, 0.0, 0.7)] == [0.5, 0.0, 0.7]
    with pytest.raises(InputError, match="two thresholds"):
        chosen_threshold(0.5, tmp_path / "metrics.json", "ssd512")
    model = save_tiny_model(tmp_path / "model", "ssd300")
    assert model_settings(model) == (tiny_params().images, "ssd300")
    assert load_detector(model).name == "ssd300"


@pytest.mark.parametrize(("name", "text"), [
    ("a.csv", None),
    ("a.csv", TABLE),
    ("a.csv", TABLE.replace("ssd300", "ssd300-fe")),
    ("a.csv", TABLE.replace("ssd300,,", "ssd300,high,")),
    ("a.csv", "a,b\n1,2\n"),
    *(("a.json", text) for text in ("", "{", "{}", "[1]", "[" * 100_000, '{"threshold": 1%s}' % ("0" * 5000))),
    *(("a.json", f'{{"threshold": {value}}}') for value in ("null", "true", "-1", "2", "1" + "0" * 400)),
])  # fmt: skip
def test_a_file_without_a_score_for_a_threshold_is_named_in_one_line(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with refused(tmp_path, name):
        read_threshold(tmp_path / name, "ssd300")
