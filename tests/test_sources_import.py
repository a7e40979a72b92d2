"""An import as a whole: parallel, resumed after a kill, atomic, reported, and taken by the pipeline and others."""

import json
import re
import shutil
from pathlib import Path
from unittest import mock

import nibabel as nib
import pytest
from source_world import IMAGES, SHAPE, affine_of, dou, head, imported, mask, save, valdo
from tiny_world import SIDE, labelled_images, refused, tiny_params, tree

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, read_labels
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.data.sources import importer, writing
from cmbfe.data.sources.importer import take_import
from cmbfe.data.sources.nifti import read_description
from cmbfe.data.sources.report import summary
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.params import Data
from cmbfe.training.batches import load_labelled

ROOT = Path(__file__).resolve().parent.parent
DOTS = [(14, 20, 4), (25, 12, 6)]
FILES = {LABELS_FILE, MIMICS_FILE, "pictures.json", "report.json", "series.json"}


class Killed(BaseException):
    """As a kill, which no code of ours sees."""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return dou(tmp_path_factory.mktemp("source"), {"01": DOTS, "02": DOTS[:1], "03": []})


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    imported("dou", source, out)
    return out


def test_an_import_has_the_files_that_training_and_viewer_read(whole):
    assert {path.name for path in whole.iterdir()} == FILES | {"01", "02", "03"}
    labels = read_labels(whole / LABELS_FILE)
    assert [path.name for path in sorted((whole / "01").iterdir())] == [f"{index:03d}.png" for index in range(10)]
    keys = "id file_name width height patient_id series_uid slice_index pixel_spacing_mm split"
    assert set(labels["images"][0]) == set(keys.split())
    assert {box["lesion_id"] for box in labels["annotations"]} == {"01/1", "01/2", "02/1"}
    spacing = labels["images"][0]["pixel_spacing_mm"]
    assert spacing == pytest.approx([0.7, 0.5], abs=1e-6)
    loaded = load_labelled(labels, whole)
    assert loaded.images.shape == (30, 36, 40)
    assert sum(len(boxes) for boxes in loaded.boxes) == len(labels["annotations"])


def test_the_report_counts_what_is_there(whole):
    report = read_json(whole / "report.json")
    labels = read_labels(whole / LABELS_FILE)
    boxes = len(labels["annotations"])
    assert (report["patients"], report["series"], report["pictures"], report["lesions"]) == (3, 3, 30, 3)
    assert report["boxes"] == boxes == sum(split["boxes"] for split in report["splits"].values())
    assert report["box_size_mm"]["0.5"] == pytest.approx(6, abs=0.01)
    assert report["lesion_slices"]["0"] == 3
    assert len(report["coverage"]) == 9
    assert "patients: 3, series: 3, images: 30" in summary(report)


def test_the_same_source_gives_the_same_bytes_with_any_number_of_processes(whole, source, tmp_path):
    options = importer.Options(keep_ids=True)
    importer.import_source("dou", source, tmp_path / "out", IMAGES, 0, options, jobs=2, progress=False)
    assert tree(tmp_path / "out") == tree(whole)


KILLS = {
    # where -> module, at which call of the function, patients that are lost
    "_write_series": (writing, 3, 1),
    "write_labels": (writing, 1, 0),
    "report": (importer, 1, 0),
    "rename": (Path, 2, 1),
}


@pytest.mark.parametrize("step", KILLS)
def test_a_killed_import_keeps_finished_patients_and_resumes(whole, source, tmp_path, monkeypatch, step):
    module, call, lost = KILLS[step]
    out, made = tmp_path / "out", []
    original, write_series = getattr(module, step), writing._write_series

    def dies(*arguments):
        made.append(arguments)
        if len(made) == call:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, step, dies)
        with pytest.raises(Killed):
            imported("dou", source, out)
    assert {path.name for path in tmp_path.iterdir()} == {".out.import.partial"}
    (tmp_path / ".out.1234.partial").mkdir()  # as a kill by the system leaves it
    again = []
    monkeypatch.setattr(writing, "_write_series", lambda *arguments: (again.append(1), write_series(*arguments))[1])
    imported("dou", source, out)
    assert len(again) == lost
    assert tree(out) == tree(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_after_a_kill_bad_input_costs_no_finished_patient_and_a_changed_one_is_made_anew(
    source, tmp_path, monkeypatch
):
    copy, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(source, copy)
    with monkeypatch.context() as patch:
        patch.setattr(importer, "report", mock.Mock(side_effect=Killed))
        with pytest.raises(Killed):
            imported("dou", copy, out)
    (copy / "nii" / "03.nii").write_text("spoiled")
    with refused(tmp_path, r"03\.nii: not readable as NIfTI"):
        imported("dou", copy, out)
    save(copy / "nii" / "03.nii", head(seed=77), affine_of("LPS"))
    imported("dou", copy, out)
    imported("dou", copy, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")


def test_an_earlier_import_is_replaced_whole_and_survives_a_failure(source, tmp_path):
    out = tmp_path / "out"
    imported("dou", source, out)
    broken = valdo(tmp_path / "in", {"sub-101": DOTS})
    (broken / "sub-101" / "sub-101_space-T2S_CMB.nii.gz").write_text("x")
    with refused(tmp_path, "not readable as NIfTI"):
        imported("valdo", broken, out)
    imported("valdo", valdo(tmp_path / "in", {"sub-101": DOTS}), out)
    assert {path.name for path in out.iterdir()} == FILES | {"sub-101"}


def test_images_of_several_sizes_are_named_in_the_report_and_brought_to_one(tmp_path):
    root = valdo(tmp_path, {"sub-101": DOTS})
    other = (30, 30, 6)
    stem = root / "sub-201" / "sub-201_space-T2S"
    save(Path(f"{stem}_desc-masked_T2S.nii.gz"), head(other), affine_of("LAS"))
    save(Path(f"{stem}_CMB.nii.gz"), mask(other, [(10, 10, 3)]), affine_of("LAS"))
    imported("valdo", root, tmp_path / "several")
    report = read_json(tmp_path / "several" / "report.json")
    assert any("import with --size" in note["what"] for note in report["notes"])
    assert report["left_out"] == [{"what": "T1 and T2 volumes (images are T2*)", "count": 1}]
    labels = imported("valdo", root, tmp_path / "one", size=64)
    assert load_labelled(labels, tmp_path / "one").images.shape == (16, 64, 64)
    for image in labels["images"]:
        assert image["pixel_spacing_mm"][0] == pytest.approx(image["pixel_spacing_mm"][1], rel=0.03)


def test_a_box_a_hundredth_of_a_px_outside_its_image_may_be_scaled(tmp_path):
    labels = labelled_images(tmp_path / "in", 3)
    labels["annotations"][0]["bbox"] = [-0.005, 60, 5, 4.005]
    (tmp_path / "in" / LABELS_FILE).write_text(json.dumps(labels))
    result = imported("coco", tmp_path / "in", tmp_path / "out", size=512)
    assert result["annotations"][0]["bbox"] == pytest.approx([0, 480, 39.96, 32])


def test_splits_are_known_by_their_usual_words_and_others_and_labels_without_a_split_are_refused(tmp_path):
    labels = labelled_images(tmp_path / "in", 3)
    for image, split in zip(labels["images"], ("Train", "val", "Test"), strict=True):
        image["split"] = split
    file = tmp_path / "in" / LABELS_FILE
    file.write_text(json.dumps(labels))
    result = imported("coco", tmp_path / "in", tmp_path / "out")
    assert {image["split"] for image in result["images"]} == {"train", "validation", "test"}
    for wrong, said in (
        ("dev", "split 'dev' of .*: expected train, validation or test"),
        (None, "labels but no split"),
    ):
        labels["images"][0] |= {"split": wrong}
        labels["images"][0] = {key: value for key, value in labels["images"][0].items() if value is not None}
        file.write_text(json.dumps(labels))
        with pytest.raises(InputError, match=said):
            imported("coco", tmp_path / "in", tmp_path / "refused")


def test_a_description_may_say_splits_and_what_a_missing_label_means(tmp_path):
    for patient in ("a", "b"):
        save(tmp_path / "in" / f"{patient}.nii", head(), affine_of("LPS"))
    save(tmp_path / "in" / "masks" / "a.nii", mask(SHAPE, DOTS), affine_of("LPS"))
    text = "images: '{patient}.nii'\nmask: 'masks/{patient}.nii'\nsplits: {test: [a], train: [b]}\nwithout_label: "
    file = tmp_path / "in" / "import.yaml"
    file.write_text(text + "no microbleeds")
    labels = imported("nifti", file, tmp_path / "kept")
    assert {image["patient_id"]: image["split"] for image in labels["images"]} == {"a": "test", "b": "train"}
    file.write_text(text + "leave out")
    labels = imported("nifti", file, tmp_path / "left")
    assert {image["patient_id"] for image in labels["images"]} == {"a"}
    assert read_json(tmp_path / "left" / "report.json")["left_out"][0]["count"] == 1


def test_volumes_without_labels_are_for_testing_and_those_without_a_place_are_noted(tmp_path):
    """NIfTI without sform and qform: nibabel takes columns to run to the left."""
    image = nib.Nifti1Image(head(), None)
    image.header.set_zooms((0.5, 0.7, 2.0))
    for patient in "abcd":
        save(tmp_path / "in" / f"{patient}.nii", head(), affine_of("LPS"))
    nib.save(image, tmp_path / "in" / "a.nii")
    write_json(tmp_path / "in" / "import.yaml", {"images": "{patient}.nii"})
    labels = imported("nifti", tmp_path / "in", tmp_path / "out")
    assert {image["split"] for image in labels["images"]} == {"test"}
    report = read_json(tmp_path / "out" / "report.json")
    assert report["coverage"] == []
    assert [note["count"] for note in report["notes"] if "gives no place" in note["what"]] == [1]


def test_the_descriptions_in_the_documentation_are_sound(tmp_path):
    text = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "import.yaml").write_text(block)
        assert read_description(tmp_path / "import.yaml").images


def an_import(folder: Path, **image_keys: object) -> Path:
    """An import of six images in three splits, a microbleed on every second."""
    labels = labelled_images(folder / "in", 6)
    for number, image in enumerate(labels["images"]):
        image |= {"split": ["train", "validation", "test"][number // 2], "pixel_spacing_mm": [1, 1], **image_keys}
    labels["annotations"] = labels["annotations"][::2]
    (folder / "in" / LABELS_FILE).write_text(json.dumps(labels))
    imported("coco", folder / "in", folder / "mine", keep_ids=False)
    return folder / "mine"


def test_an_import_becomes_the_images_of_the_pipeline(tmp_path):
    mine = an_import(tmp_path)
    (tmp_path / "pictures").mkdir()
    labels = take_import(mine, tmp_path / "pictures")
    assert tree(tmp_path / "pictures") == tree(mine)
    assert labels == read_json(mine / LABELS_FILE)


def test_the_test_set_has_images_without_microbleeds_where_nobody_has_named_mimics(tmp_path, monkeypatch):
    mine = an_import(tmp_path)
    monkeypatch.setattr(paths, "images", lambda: mine)
    test = read_test_set(tiny_params())
    assert {image["split"] for image in test["images"]} == {"test"}
    assert len(test["images"]) == 2
    assert len(test["annotations"]) == 1
    write_json(mine / MIMICS_FILE, {**read_json(mine / MIMICS_FILE), "categories": [{"id": 1, "name": "vein"}]})
    with pytest.raises(InputError, match="1 images with microbleeds but 0 with mimics only"):
        read_test_set(tiny_params())


@pytest.mark.parametrize(("change", "named"), [
    (None, r"report\.json"),
    (lambda labels: labels["images"][0].update(width=SIDE + 1), "2 sizes"),
    (lambda labels: labels["images"][0].pop("pixel_spacing_mm"), "pixel_spacing_mm"),
    (lambda labels: labels["annotations"].clear(), "split train"),
])  # fmt: skip
def test_what_the_pipeline_cannot_train_on_is_refused(tmp_path, change, named):
    mine = an_import(tmp_path)
    if change is None:
        (mine / "report.json").unlink()
    else:
        labels = read_json(mine / LABELS_FILE)
        change(labels)
        write_json(mine / LABELS_FILE, labels)
    with refused(tmp_path, f"^{mine}.*{named}"):
        take_import(mine, tmp_path / "pictures")


@pytest.mark.parametrize("data", [{"source": "data/valdo"}, {"notebook": "own_data"}])
def test_notebook_and_source_that_do_not_belong_together_are_refused(data):
    with pytest.raises(ValueError, match=r"notebook \w+ does not take source"):
        Data(**data)
