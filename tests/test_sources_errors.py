"""Malformed data sets: one line that names the file and says what to do, exit status 2, and nothing left behind."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nifti_files import SHAPE, affine_of, head, mask, save
from scipy.io import savemat
from source_world import dou, valdo, workbook
from tiny_world import labelled_images, tree

from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.data.voc import write_voc

DOTS = [(14, 20, 4), (25, 12, 6)]
LAS = affine_of("LAS")
NAME = "122_T1_MRI_SWI_BFC_50mm_HM"


@pytest.fixture
def refused(run_cmbfe, tmp_path) -> Callable[..., str]:
    """Import what must be refused, with one line on stderr, none on stdout, and no change on disk."""

    def refused_line(kind: str, source: Path, *options: object) -> str:
        before = tree(tmp_path)
        out = tmp_path / "deep" / "out"
        arguments = ["import", kind, source, out, "--jobs", 1, "--backend", "threading", *options]
        status, said, err = run_cmbfe(*arguments)
        last = err.splitlines()[-1]  # above it a progress bar, where checking takes over a second
        assert (status, said, err.count("cmbfe: error: ")) == (2, "", 1), f"{said}\n{err}"
        assert last.startswith("cmbfe: error: "), err
        assert tree(tmp_path) == before
        return last

    return refused_line


def stem(patient: str = "sub-102") -> str:
    return f"{patient}/{patient}_space-T2S"


def replace_image(file: Path, voxels: np.ndarray, affine: np.ndarray = LAS) -> None:
    save(file, voxels, affine)


def cut(file: Path) -> None:
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content)[:-2000])


SPOILED_VALDO = {
    "missing label": (
        lambda root: (root / f"{stem()}_CMB.nii.gz").unlink(),
        "sub-102: its label sub-102_space-T2S_CMB.nii.gz is missing",
    ),
    "missing volume": (
        lambda root: (root / f"{stem()}_desc-masked_T2S.nii.gz").unlink(),
        "its volume sub-102_space-T2S_desc-masked_T2S.nii.gz is missing",
    ),
    "label of another shape": (
        lambda root: replace_image(root / f"{stem()}_CMB.nii.gz", mask((40, 36, 9), [])),
        "T2S_CMB.nii.gz: 40 × 36 × 9 voxels, but sub-102_space-T2S_desc-masked_T2S.nii.gz has 40 × 36 × 10",
    ),
    "label elsewhere": (
        lambda root: replace_image(
            root / f"{stem()}_CMB.nii.gz", mask(SHAPE, []), affine_of("LAS", origin=(11, 3, 5))
        ),
        "_CMB.nii.gz: its header puts it 14.3 voxels away",
    ),
    "nothing but NaN": (
        lambda root: replace_image(root / f"{stem()}_desc-masked_T2S.nii.gz", np.full(SHAPE, np.nan, np.float32)),
        "_T2S.nii.gz: no voxel is a finite number",
    ),
    "no NIfTI": (
        lambda root: (root / f"{stem()}_desc-masked_T2S.nii.gz").write_text("<html>404</html>"),
        "_T2S.nii.gz: not readable as NIfTI",
    ),
    "cut off": (
        lambda root: cut(root / f"{stem()}_desc-masked_T2S.nii.gz"),
        "_T2S.nii.gz: its voxels cannot be read, the file is damaged or cut off",
    ),
    "four dimensions": (
        lambda root: replace_image(root / f"{stem()}_desc-masked_T2S.nii.gz", np.zeros((*SHAPE, 3), np.float32)),
        "_T2S.nii.gz: 40 × 36 × 10 × 3 voxels are no three-dimensional volume",
    ),
    "complex": (
        lambda root: replace_image(root / f"{stem()}_desc-masked_T2S.nii.gz", np.zeros(SHAPE, np.complex64)),
        "_T2S.nii.gz: voxels of type complex64 are no real numbers",
    ),
    "names of another patient": (
        lambda root: (root / f"{stem()}_CMB.nii.gz").rename(root / "sub-102" / "sub-103_space-T2S_CMB.nii.gz"),
        "it holds sub-103_space-T2S_CMB.nii.gz, which is another patient's name",
    ),
    "twice": (
        lambda root: shutil.copytree(root / "sub-101", root / "copy" / "sub-101"),
        "holds 2 folders sub-101",
    ),
    "empty": (
        lambda root: [shutil.rmtree(entry) for entry in root.iterdir()],
        "Task2: no folder sub-… in it or below",
    ),
    "no such folder": (shutil.rmtree, "Task2: no such file or folder"),
}


@pytest.mark.parametrize("case", SPOILED_VALDO)
def test_a_malformed_valdo_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_VALDO[case]
    root = valdo(tmp_path, {"sub-101": DOTS, "sub-102": DOTS})
    spoil(root)
    assert reason in refused("valdo", root)


def set_byte(file: Path, place: int, value: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] = value
    file.write_bytes(content)


SPOILED_DOU = {
    "wrong count": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": np.ones((2, 3)), "gt_num": 3}),
        "01.mat: gt_num is 3, but cen has 2 rows",
    ),
    "NaN": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": [[1, 2, np.nan]], "gt_num": 1}),
        "01.mat: 01.nii: point 1 is not three finite numbers",
    ),
    "outside": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": [[1, 2, 11]], "gt_num": 1}),
        "01.mat: 01.nii: point 1 lies outside its volume: column, row, slice 0.0, 1.0, 10.0 of 40 × 36 × 10",
    ),
    "two columns": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": np.ones((2, 2)), "gt_num": 2}),
        "01.mat: cen has the shape (2, 2); N x 3 is expected",
    ),
    "variable missing": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": np.ones((2, 3))}),
        "01.mat: the variable gt_num is missing",
    ),
    "text": (
        lambda root: savemat(root / "ground_truth/01.mat", {"cen": "none", "gt_num": 1}),
        "01.mat: the variable cen does not hold numbers",
    ),
    "no MATLAB file": (
        lambda root: (root / "ground_truth/01.mat").write_text("none"),
        "01.mat: not readable as a MATLAB file",
    ),
    "damage that crashes the reader": (
        lambda root: set_byte(root / "ground_truth/01.mat", 145, 9),
        "01.mat: damaged",
    ),
    "missing label": (
        lambda root: (root / "ground_truth/01.mat").unlink(),
        "ground_truth/01.mat: no such file, but",
    ),
    "volume twice": (
        lambda root: save(root / "nii/01.nii.gz", head(), LAS),
        "01.nii.gz: 01.nii is the same volume; keep one of the two",
    ),
    "label without volume": (
        lambda root: (root / "nii/01.nii").unlink(),
        "01.mat: no volume nii/01.nii belongs to it",
    ),
    "empty": (lambda root: shutil.rmtree(root / "nii"), "in: no volume nii/*.nii"),
}


@pytest.mark.parametrize("case", SPOILED_DOU)
def test_a_malformed_dou_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_DOU[case]
    root = dou(tmp_path / "in", {"01": DOTS, "02": []})
    spoil(root)
    assert reason in refused("dou", root)


ROW = [f"{NAME}.nii.gz", 15, 21, 5]
SPOILED_MOMENI = {
    "no workbook": (lambda root: (root / "info.xlsx").unlink(), "no workbook *.xlsx"),
    "no Excel": (lambda root: (root / "info.xlsx").write_text("x"), "info.xlsx: not readable as an Excel workbook"),
    "no rows": (lambda root: workbook(root / "info.xlsx", []), "info.xlsx: holds no row below its header"),
    "blank rows": (
        lambda root: workbook(root / "info.xlsx", [[" ", " ", None, ""]]),
        "info.xlsx: holds no row below its header",
    ),
    "other header": (
        lambda root: workbook(root / "info.xlsx", [ROW], first="Subject"),
        "info.xlsx: no sheet has a first column 'NIFTI File Name'",
    ),
    "row without places": (
        lambda root: workbook(root / "info.xlsx", [[f"{NAME}.nii.gz", " ", " ", " "]]),
        f"info.xlsx: sheet 'Sheet', row 2: {NAME}.nii.gz has no place",
    ),
    "row without a name": (
        lambda root: workbook(root / "info.xlsx", [ROW, [None, 1, 2, 3]]),
        "sheet 'Sheet', row 3: holds places but no name",
    ),
    "half a place": (
        lambda root: workbook(root / "info.xlsx", [[*ROW, 1, 2, " "]]),
        "row 2: place 2 has 2 of its three numbers",
    ),
    "text for a number": (
        lambda root: workbook(root / "info.xlsx", [[NAME, 1, "two", 3]]),
        "row 2, column C: holds 'two', which is no number",
    ),
    "NaN": (lambda root: workbook(root / "info.xlsx", [[NAME, 1, "NaN", 3]]), "column C: holds 'NaN'"),
    "unknown name": (
        lambda root: workbook(root / "info.xlsx", [ROW, ["123_T0_HM.nii.gz", 1, 2, 3]]),
        "row 3: 123_T0_HM is no volume of rCMB_DefiniteSubject",
    ),
    "row for a volume without microbleeds": (
        lambda root: (
            workbook(root / "info.xlsx", [ROW, ["123_T0_HM.nii.gz", 1, 2, 3]]),
            save(root / "NoCMBSubject" / "123_T0_HM.nii.gz", head(), LAS),
        ),
        "row 3: 123_T0_HM is no volume of rCMB_DefiniteSubject, but lies in NoCMBSubject",
    ),
    "volume without a row": (
        lambda root: save(root / "rCMB_DefiniteSubject" / "123_T0_HM.nii.gz", head(), LAS),
        "123_T0_HM.nii.gz: no workbook has a row for 123_T0_HM",
    ),
    "other file name": (
        lambda root: save(root / "NoCMBSubject" / "smith.nii.gz", head(), LAS),
        "smith.nii.gz: its name does not begin as 122_T1_",
    ),
    "outside": (
        lambda root: workbook(root / "info.xlsx", [[NAME, 0, 2, 3]]),
        f"info.xlsx: {NAME}.nii.gz: point 1 lies outside its volume",
    ),
    "no folder": (lambda root: shutil.rmtree(root / "rCMB_DefiniteSubject"), "none of the folders rCMB_"),
    "empty folder": (
        lambda root: (root / "rCMB_DefiniteSubject" / f"{NAME}.nii.gz").unlink(),
        "PublicDataShare_2020: its folders hold no *.nii.gz",
    ),
}


@pytest.mark.parametrize("case", SPOILED_MOMENI)
def test_a_malformed_momeni_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_MOMENI[case]
    root = tmp_path / "PublicDataShare_2020"
    save(root / "rCMB_DefiniteSubject" / f"{NAME}.nii.gz", head(dots=DOTS), LAS)
    workbook(root / "info.xlsx", [ROW])
    spoil(root)
    assert reason in refused("momeni", root)


def points(text: str) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        (root / "points.csv").write_text(text)
        (root / "import.yaml").write_text("images: '{patient}.nii'\npoints: points.csv\ncoordinates: voxel-0\n")

    return spoil


def series_points(text: str) -> Callable[[Path], object]:
    """Points of a volume in t0 for each patient."""

    def spoil(root: Path) -> None:
        points(text)(root)
        for patient in ("anna", "bert"):
            (root / "t0").mkdir(exist_ok=True)
            (root / f"{patient}.nii").rename(root / "t0" / f"{patient}.nii")
        description = "images: '{series}/{patient}.nii'\npoints: points.csv\ncoordinates: voxel-0\n"
        (root / "import.yaml").write_text(description)

    return spoil


def described(text: str) -> Callable[[Path], object]:
    """Another description of the volumes."""
    return lambda root: (root / "import.yaml").write_text(text)


SPOILED_NIFTI = {
    "no description": (lambda root: (root / "import.yaml").unlink(), "import.yaml: cannot be read: No such file"),
    "no YAML": (described("images: ["), "import.yaml: not YAML"),
    "no keys": (described("x"), "import.yaml: (whole file): keys such as images and mask expected"),
    "unknown key": (
        described("images: '{patient}.nii'\nlabels: x"),
        "import.yaml: labels: unknown key",
    ),
    "no patient": (
        described("images: '*.nii'"),
        "import.yaml: (whole file): images needs the placeholder {patient}",
    ),
    "unknown placeholder": (
        described("images: '{patient}_{visit}.nii'"),
        "import.yaml: (whole file): unknown placeholder {visit}",
    ),
    "elsewhere": (
        described("images: '../{patient}.nii'"),
        "import.yaml: (whole file): paths are relative to this file",
    ),
    "points without coordinates": (
        described("images: '{patient}.nii'\npoints: points.csv"),
        "import.yaml: (whole file): points need coordinates",
    ),
    "no match": (
        described("images: '{patient}.nii.gz'"),
        "import.yaml: images: no file matches '{patient}.nii.gz'",
    ),
    "missing label": (lambda root: (root / "masks/bert.nii").unlink(), "masks/bert.nii: no such file, the label of"),
    "unknown patient in splits": (
        described("images: '{patient}.nii'\nsplits: {test: [carl]}"),
        "import.yaml: splits.test: no volume is of patient 'carl'",
    ),
    "in two splits": (
        lambda root: (root / "import.yaml").write_text(
            "images: '{patient}.nii'\nsplits: {test: [anna], train: [anna]}"
        ),
        "patient 'anna' is in test and train",
    ),
    "column missing": (points("x,y,patient\n1,2,anna\n"), "points.csv: the column z is missing"),
    "NaN in points": (points("x,y,z,patient\n1,2,,anna\n"), "points.csv: row 2: holds a value that is no number"),
    "names do not match": (points("x,y,z,patient\n1,2,3,ana\n"), "points.csv: no volume is of its patient 'ana'"),
    "another series": (
        series_points("x,y,z,patient,series\n1,2,3,anna,T0\n"),
        "points.csv: no volume is of its patient 'anna' and series 'T0' (row 2)",
    ),
    "a series that images does not tell apart": (
        points("x,y,z,patient,series\n1,2,3,anna,t0\n"),
        "points.csv: has a column series, but images has no {series}",
    ),
    "no patient in a row": (points("x,y,z,patient\n1,2,3,\n"), "points.csv: no volume is of its patient '' (row 2)"),
    "patient of another file": (
        described("images: '{patient}.nii'\npoints: 'masks/{patient}.csv'\ncoordinates: voxel-0\n"),
        "masks/bert.csv: no volume is of its patient 'anna' (row 2)",
    ),
    "more values than columns": (
        points("x,y,z,patient\n1,2,3,anna,bad\n"),
        "points.csv: row 2: has more values than the header has columns",
    ),
    "no table": (points('x,y,z,patient\n"1,2,3,anna\n'), "points.csv: not readable as CSV"),
    "a column twice": (points("x,y,z,x\n1,2,3,4\n"), "points.csv: its header names a column twice"),
    "boundless": (
        points("x,y,z,patient,diameter_mm\n1,2,3,anna,inf\n"),
        "points.csv: row 2: holds a value that is no number ('inf')",
    ),
    "too large": (
        points("x,y,z,patient,diameter_mm\n1,2,3,anna,1e9\n"),
        "points.csv: row 2: diameter_mm is not above 0.01 and up to 100, but 1e9",
    ),
    "no date": (
        described("images: 2024-02-30"),
        "import.yaml: holds a value that cannot be read: day is out of range",
    ),
    "in itself": (
        described("images: &a [*a]"),
        "import.yaml: holds a value that cannot be read: its lists or objects",
    ),
    "one row": (
        lambda root: save(root / "anna.nii", head((40, 1, 10)), LAS),
        "anna.nii: its slices have 1 × 40 px (rows × columns), which is no image",
    ),
    "size of nothing": (
        points("x,y,z,patient,diameter_mm\n1,2,3,anna,0\n"),
        "points.csv: row 2: diameter_mm is not above 0",
    ),
}


@pytest.mark.parametrize("case", SPOILED_NIFTI)
def test_a_malformed_description_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_NIFTI[case]
    root = tmp_path / "in"
    for patient in ("anna", "bert"):
        save(root / f"{patient}.nii", head(dots=DOTS), LAS)
        save(root / "masks" / f"{patient}.nii", mask(SHAPE, DOTS), LAS)
        (root / "masks" / f"{patient}.csv").write_text("x,y,z,patient\n14,20,4,anna\n")
    (root / "import.yaml").write_text("images: '{patient}.nii'\nmask: 'masks/{patient}.nii'\n")
    spoil(root)
    assert reason in refused("nifti", root)


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        labels = json.loads((root / LABELS_FILE).read_text())
        change(labels)
        (root / LABELS_FILE).write_text(json.dumps(labels))

    return spoil


SPOILED_COCO = {
    "no labels": (lambda root: (root / LABELS_FILE).unlink(), "in: no annotations.json, and no other *.json"),
    "no JSON": (lambda root: (root / LABELS_FILE).write_text("{"), "annotations.json: not JSON"),
    "missing image": (lambda root: (root / "P2/000.png").unlink(), "P2/000.png: No such file or directory"),
    "no image": (lambda root: (root / "P2/000.png").write_text("x"), "P2/000.png: not a readable image"),
    "other size": (
        edited(lambda labels: labels["images"][1].update(width=80)),
        "P2/000.png: has 64 x 64 px, but its label says 80 x 64",
    ),
    "no extent": (edited(lambda labels: labels["annotations"][0].update(bbox=[1, 2, 0, 4])), "zero width"),
    "names do not match": (
        edited(lambda labels: labels["annotations"][0].update(image_id=99)),
        "annotation 1: image_id: 99 is the id of no image",
    ),
    "leads out": (
        edited(lambda labels: labels["images"][0].update(file_name="../../x.png")),
        "../../x.png leads out of the folder",
    ),
    "no file name": (
        edited(lambda labels: labels["images"][0].update(file_name=7)),
        "image 1: file_name 7 is no name of a file",
    ),
    "no patient": (
        edited(lambda labels: labels["images"][0].update(file_name="000.png")),
        "image 1 (000.png) has no patient_id and lies in no folder",
    ),
    "one file twice": (
        edited(lambda labels: labels["images"][0].update(file_name="P2/000.png")),
        "2 images are the file",
    ),
    "no microbleeds": (
        edited(lambda labels: labels.update(categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])),
        "of the categories cat, dog one must be named cmb",
    ),
    "no images": (edited(lambda labels: labels.update(images=[], annotations=[])), "holds no images"),
    "beside the image": (
        edited(lambda labels: labels["annotations"][0].update(bbox=[64.0, 10, 0.005, 5])),
        "the box [64.0, 10.0, 0.005, 5.0] of image 1 lies outside it",
    ),
    "a lesion that is a list": (
        edited(lambda labels: labels["annotations"][0].update(lesion_id=[1])),
        "annotations.json: annotation 1: lesion_id [1] is neither text nor a number",
    ),
    "a link to itself": (
        lambda root: ((root / "P2/000.png").unlink(), (root / "P2/000.png").symlink_to("000.png")),
        "P2/000.png: ",
    ),
    "too deep": (
        lambda root: (root / LABELS_FILE).write_text("[" * 100_000),
        "annotations.json: holds a value that cannot be read",
    ),
}


@pytest.mark.parametrize("case", SPOILED_COCO)
def test_a_malformed_coco_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_COCO[case]
    labelled_images(tmp_path / "in", 3)
    spoil(tmp_path / "in")
    assert reason in refused("coco", tmp_path / "in")


SPOILED_VOC = {
    "missing image": (lambda root: (root / "P2/000.png").unlink(), "P2/000.png: no such image"),
    "no XML": (lambda root: (root / "P2/000.xml").write_text("<"), "000.xml: not readable as XML"),
    "an encoding that nobody reads": (
        lambda root: (root / "P2/000.xml").write_text("<?xml version='1.0' encoding='gbk'?><annotation/>"),
        "000.xml: not readable as XML",
    ),
    "a box outside": (
        lambda root: (root / "P1/000.xml").write_text((root / "P1/000.xml").read_text().replace("<xmax>", "<xmax>9")),
        "P1/000.xml: annotation 1: the box",
    ),
    "nothing": (lambda root: [file.unlink() for file in root.rglob("*.xml")], "in: no VOC file (*.xml)"),
}


@pytest.mark.parametrize("case", SPOILED_VOC)
def test_a_malformed_voc_is_named_in_one_line(refused, tmp_path, case):
    spoil, reason = SPOILED_VOC[case]
    write_voc(labelled_images(tmp_path / "pictures", 3), tmp_path / "in")
    shutil.copytree(tmp_path / "pictures", tmp_path / "in", dirs_exist_ok=True)
    spoil(tmp_path / "in")
    assert reason in refused("voc", tmp_path / "in")


def test_options_that_cannot_be_are_refused(refused, tmp_path):
    root = dou(tmp_path / "in", {"01": DOTS})
    (tmp_path / "key.json").write_text('{"salt": "00"}')
    (tmp_path / "tmp.txt").touch()
    inside = tmp_path / "deep" / "out" / "key.json"
    assert "--size 8: images are 32 to 4096 px wide" in refused("dou", root, "--size", 8)
    assert "--box-mm 0.0: boxes" in refused("dou", root, "--box-mm", 0)
    assert f"{inside}: the key must not lie in the output" in refused("dou", root, "--key-file", inside)
    assert "not both" in refused("dou", root, "--key-file", tmp_path / "k.json", "--keep-ids")
    assert "key.json: is no key file" in refused("dou", root, "--key-file", tmp_path / "key.json")
    assert f"{tmp_path}: is a folder" in refused("dou", root, "--key-file", tmp_path)
    assert "--jobs 0" in refused("dou", root, "--jobs", 0)
    assert "tmp.txt/key.json: " in refused("dou", root, "--key-file", tmp_path / "tmp.txt" / "key.json")
    assert "error: /proc/" in refused("dou", root, "--key-file", "/proc/key.json")
    assert "backend multiprocessing: " in refused("dou", root, "--backend", "multiprocessing")
    assert "backend threads: " in refused("dou", root, "--backend", "threads")


def test_an_output_in_the_source_or_of_something_else_is_refused(run_cmbfe, tmp_path):
    root = dou(tmp_path / "in", {"01": DOTS})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    before = tree(tmp_path)
    for out, reason in ((root / "pictures", "lies in the source"), (tmp_path / "thesis", "holds other things")):
        status, said, err = run_cmbfe("import", "dou", root, out)
        assert (status, said) == (2, "")
        assert f"{out}: {reason}" in err
    assert tree(tmp_path) == before
