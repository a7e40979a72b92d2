"""Malformed data sets: one line that names the file, exit status 2, and nothing left behind."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from source_world import SHAPE, affine_of, dou, head, mask, save, valdo, workbook, write_voc
from tiny_world import labelled_images

from cmbfe.data.labelled.labels import LABELS_FILE

DOTS = [(14, 20, 4), (25, 12, 6)]
LAS = affine_of("LAS")
NAME = "122_T1_MRI_SWI_BFC_50mm_HM"
ROW = [f"{NAME}.nii.gz", 15, 21, 5]
T2S, CMB = (f"sub-102/sub-102_space-T2S{ending}.nii.gz" for ending in ("_desc-masked_T2S", "_CMB"))
PETS = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
Spoil = Callable[[Path], object]
HERE = ["--jobs", 1, "--backend", "threading"]


def text(file: str, content: str) -> Spoil:
    return lambda root: (root / file).write_text(content)


def gone(file: str) -> Spoil:
    return lambda root: (root / file).unlink()


def volume(file: str, voxels: np.ndarray, affine: np.ndarray = LAS) -> Spoil:
    return lambda root: save(root / file, voxels, affine)


def rows(*content: list, first: str = "NIFTI File Name ") -> Spoil:
    return lambda root: workbook(root / "info.xlsx", content, first=first)


def mat(**variables: object) -> Spoil:
    return lambda root: savemat(root / "ground_truth/01.mat", variables)


def both(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils]


def cut(root: Path) -> None:
    content = gzip.decompress((root / T2S).read_bytes())
    (root / T2S).write_bytes(gzip.compress(content)[:-2000])


def crashing_mat(root: Path) -> None:
    content = bytearray((root / "ground_truth/01.mat").read_bytes())
    content[145] = 9
    (root / "ground_truth/01.mat").write_bytes(content)


def description(content: str) -> Spoil:
    return text("import.yaml", content)


def points(content: str, images: str = "{patient}.nii") -> Spoil:
    keys = f"images: '{images}'\npoints: points.csv\ncoordinates: voxel-0\n"
    return both(text("points.csv", content), description(keys))


def misnamed(name: str) -> Spoil:
    """The label of a patient with an accent is called so."""
    moves = {"bert.nii": "b\xe9rt.nii", "masks/bert.nii": f"masks/{name}"}
    keys = "images: '{patient}.nii'\nmask: 'masks/{patient}.nii'\nwithout_label: no microbleeds\n"
    return both(lambda root: [(root / file).rename(root / new) for file, new in moves.items()], description(keys))


def labels(change: Callable[[dict], object]) -> Spoil:
    def spoil(root: Path) -> None:
        content = json.loads((root / LABELS_FILE).read_text())
        change(content)
        (root / LABELS_FILE).write_text(json.dumps(content))

    return spoil


def image(**values: object) -> Spoil:
    return labels(lambda content: content["images"][0].update(values))


def box(**values: object) -> Spoil:
    return labels(lambda content: content["annotations"][0].update(values))


def link_to_itself(root: Path) -> None:
    (root / "P2/000.png").unlink()
    (root / "P2/000.png").symlink_to("000.png")


def some_indices(content: dict, indices: tuple[int, ...] = (3,)) -> None:
    """All images in one series, the first ones with these slice indices."""
    for own in content["images"]:
        own.update(patient_id="A", series_uid="s")
    for own, index in zip(content["images"], indices, strict=False):
        own["slice_index"] = index


def two_of_one_name(root: Path) -> None:
    for suffix in ("JPG", "bmp"):
        shutil.copy(root / "P1/000.png", root / f"P1/000.{suffix}")
    (root / "P1/000.png").unlink()


def voc_box_outside(root: Path) -> None:
    file = root / "P1/000.xml"
    file.write_text(file.read_text().replace("<xmax>", "<xmax>9"))


SPOILED: dict[str, dict[str, tuple[Spoil, str]]] = {
    # kind -> what is wrong -> (what makes it so, what the error names: the file, and the place in it)
    "valdo": {
        "missing label": (gone(CMB), "sub-102: its label"),
        "missing volume": (gone(T2S), "sub-102: its volume"),
        "label of another shape": (volume(CMB, mask((40, 36, 9), [])), CMB),
        "label elsewhere": (volume(CMB, mask(SHAPE, []), affine_of("LAS", origin=(11, 3, 5))), CMB),
        "nothing but NaN": (volume(T2S, np.full(SHAPE, np.nan, np.float32)), T2S),
        "no NIfTI": (text(T2S, "<html>404</html>"), T2S),
        "cut off": (cut, T2S),
        "four dimensions": (volume(T2S, np.zeros((*SHAPE, 3), np.float32)), T2S),
        "complex": (volume(T2S, np.zeros(SHAPE, np.complex64)), T2S),
        "names of another patient": (
            lambda root: (root / CMB).rename(root / "sub-102" / "sub-103_space-T2S_CMB.nii.gz"),
            "sub-103_space-T2S_CMB.nii.gz",
        ),
        "twice": (lambda root: shutil.copytree(root / "sub-101", root / "copy" / "sub-101"), "sub-101"),
        "empty": (lambda root: [shutil.rmtree(entry) for entry in root.iterdir()], "Task2"),
        "no such folder": (shutil.rmtree, "Task2"),
    },
    "dou": {
        "wrong count": (mat(cen=np.ones((2, 3)), gt_num=3), "01.mat: gt_num"),
        "NaN": (mat(cen=[[1, 2, np.nan]], gt_num=1), "01.mat: 01.nii: point 1"),
        "outside": (mat(cen=[[1, 2, 11]], gt_num=1), "01.mat: 01.nii: point 1"),
        "two columns": (mat(cen=np.ones((2, 2)), gt_num=2), "01.mat: cen"),
        "variable missing": (mat(cen=np.ones((2, 3))), "01.mat: the variable gt_num"),
        "no numbers": (mat(cen="none", gt_num=1), "01.mat: the variable cen"),
        "no MATLAB file": (text("ground_truth/01.mat", "none"), "01.mat"),
        "damage that crashes the reader": (crashing_mat, "01.mat: damaged"),
        "missing label": (gone("ground_truth/01.mat"), "ground_truth/01.mat"),
        "volume twice": (volume("nii/01.nii.gz", head()), "01.nii.gz"),
        "label without volume": (gone("nii/01.nii"), "01.mat"),
        "empty": (lambda root: shutil.rmtree(root / "nii"), "nii"),
    },
    "momeni": {
        "no workbook": (gone("info.xlsx"), "no workbook"),
        "no Excel": (text("info.xlsx", "x"), "info.xlsx"),
        "blank rows": (rows([" ", " ", None, ""]), "info.xlsx"),
        "other header": (rows(ROW, first="Subject"), "info.xlsx"),
        "row without places": (rows([NAME, " ", " ", " "]), "info.xlsx: sheet 'Sheet', row 2"),
        "row without a name": (rows(ROW, [None, 1, 2, 3]), "sheet 'Sheet', row 3"),
        "half a place": (rows([*ROW, 1, 2, " "]), "row 2: place 2"),
        "text for a number": (rows([NAME, 1, "two", 3]), "row 2, column 3"),
        "unknown name": (rows(ROW, ["123_T0_HM.nii.gz", 1, 2, 3]), "row 3: 123_T0_HM"),
        "row for a volume without microbleeds": (
            both(rows(ROW, ["123_T0_HM.nii.gz", 1, 2, 3]), volume("NoCMBSubject/123_T0_HM.nii.gz", head())),
            "row 3: 123_T0_HM",
        ),
        "volume without a row": (volume("rCMB_DefiniteSubject/123_T0_HM.nii.gz", head()), "123_T0_HM.nii.gz"),
        "other file name": (volume("NoCMBSubject/smith.nii.gz", head()), "smith.nii.gz"),
        "outside": (rows([NAME, 0, 2, 3]), f"info.xlsx: {NAME}.nii.gz: point 1"),
        "no folder": (lambda root: shutil.rmtree(root / "rCMB_DefiniteSubject"), "rCMB_DefiniteSubject"),
        "empty folder": (gone(f"rCMB_DefiniteSubject/{NAME}.nii.gz"), "PublicDataShare_2020"),
    },
    "nifti": {
        "no description": (gone("import.yaml"), "import.yaml"),
        "no keys": (description("x"), "import.yaml"),
        "unknown key": (description("images: '{patient}.nii'\nlabels: x"), "import.yaml: labels"),
        "no patient": (description("images: '*.nii'"), "{patient}"),
        "unknown placeholder": (description("images: '{patient}_{visit}.nii'"), "{visit}"),
        "elsewhere": (description("images: '../{patient}.nii'"), "import.yaml"),
        "points without coordinates": (description("images: '{patient}.nii'\npoints: a.csv"), "coordinates"),
        "no match": (description("images: '{patient}.nii.gz'"), "import.yaml: images"),
        "missing label": (gone("masks/bert.nii"), "masks/bert.nii"),
        "label decomposed": (misnamed("be\u0301rt.nii"), "be\u0301rt.nii: is called nearly as b\xe9rt.nii"),
        "label in capitals": (misnamed("B\xc9RT.nii"), "B\xc9RT.nii: is called nearly as"),
        "label of another suffix": (misnamed("b\xe9rt.nii.gz"), "b\xe9rt.nii.gz: is called nearly as"),
        "unknown patient": (description("images: '{patient}.nii'\nsplits: {test: [carl]}"), "splits.test"),
        "in two splits": (description("images: '{patient}.nii'\nsplits: {test: [anna], train: [anna]}"), "'anna'"),
        "no date": (description("images: 2024-02-30"), "import.yaml"),
        "in itself": (description("images: &a [*a]"), "import.yaml"),
        "one row": (volume("anna.nii", head((40, 1, 10))), "anna.nii"),
        "column missing": (points("x,y,patient\n1,2,anna\n"), "points.csv: the column z"),
        "NaN in points": (points("x,y,z,patient\n1,2,,anna\n"), "points.csv: row 2"),
        "names do not match": (points("x,y,z,patient\n1,2,3,ana\n"), "'ana' (row 2)"),
        "another series": (points("x,y,z,patient,series\n1,2,3,anna,T0\n", "{patient}.{series}ii"), "'T0' (row 2)"),
        "unused series": (points("x,y,z,patient,series\n1,2,3,anna,t0\n"), "points.csv: has a column series"),
        "no patient in a row": (points("x,y,z,patient\n1,2,3,\n"), "points.csv: no volume is of its patient ''"),
        "patient of another file": (
            description("images: '{patient}.nii'\npoints: 'masks/{patient}.csv'\ncoordinates: voxel-0\n"),
            "masks/bert.csv",
        ),
        "more values than columns": (points("x,y,z,patient\n1,2,3,anna,bad\n"), "points.csv: row 2"),
        "no table": (points('x,y,z,patient\n"1,2,3,anna\n'), "points.csv"),
        "points of nobody": (points("x,y,z\n1,2,3\n"), "points.csv: would be the label of anna/volume and of bert"),
        "points of two visits": (
            both(volume("t1/anna.nii", head()), points("x,y,z,patient\n1,2,3,anna\n", "{series}/{patient}.nii")),
            "points.csv: would be the label of anna/masks and of anna/t1",
        ),
        "one mask for two": (
            description("images: '{patient}.nii'\nmask: masks/anna.nii"),
            "masks/anna.nii: would be the label of anna and of bert",
        ),
        "a column called nearly so": (
            points("x,y,z,Patient_ID\n1,2,3,anna\n"),
            "points.csv: its column 'patient_id'",
        ),
        "a column twice": (points("x,y,z,x\n1,2,3,4\n"), "points.csv"),
        "too large": (points("x,y,z,patient,diameter_mm\n1,2,3,anna,1e9\n"), "points.csv: row 2: diameter_mm"),
        "size of nothing": (points("x,y,z,patient,diameter_mm\n1,2,3,anna,0\n"), "points.csv: row 2: diameter_mm"),
    },
    "coco": {
        "no labels": (gone(LABELS_FILE), LABELS_FILE),
        "no JSON": (text(LABELS_FILE, "{"), LABELS_FILE),
        "missing image": (gone("P2/000.png"), "P2/000.png"),
        "no image": (text("P2/000.png", "x"), "P2/000.png"),
        "other size": (labels(lambda content: content["images"][1].update(width=80)), "P2/000.png"),
        "beside the image": (box(bbox=[64.0, 10, 0.005, 5]), "annotation 1"),
        "shares of the image": (
            labels(lambda content: [own.update(bbox=[0.1, 0.2, 0.1, 0.1]) for own in content["annotations"]]),
            LABELS_FILE,
        ),
        "longer than a brain": (both(image(pixel_spacing_mm=[7, 7]), box(bbox=[10, 10, 6, 5])), "in/P1"),
        "out of Windows": (image(file_name="C:\\P1\\000.png"), "C:\\P1\\000.png"),
        "some slice indices": (labels(some_indices), "1 have a slice_index"),
        "slices of two scans": (labels(lambda content: some_indices(content, (0, 0, 1))), "2 have the slice_index 0"),
        "two images of one name": (two_of_one_name, "P1/000"),
        "a lesion that is a list": (box(lesion_id=[1]), "annotation 1: lesion_id"),
        "leads out": (image(file_name="../../x.png"), "../../x.png"),
        "no file name": (image(file_name=7), "image 1"),
        "no patient": (image(file_name="000.png"), "image 1 (000.png)"),
        "one file twice": (image(file_name="P2/000.png"), "P2/000.png"),
        "no microbleeds": (labels(lambda content: content.update(categories=PETS)), "cat, dog"),
        "no images": (labels(lambda content: content.update(images=[], annotations=[])), LABELS_FILE),
        "a link to itself": (link_to_itself, "P2/000.png"),
    },
    "voc": {
        "missing image": (gone("P2/000.png"), "P2/000.png"),
        "an odd encoding": (text("P2/000.xml", "<?xml version='1.0' encoding='gbk'?><annotation/>"), "P2/000.xml"),
        "a box outside": (voc_box_outside, "P1/000.xml: annotation 1"),
        "nothing": (lambda root: [file.unlink() for file in root.rglob("*.xml")], "/in: "),
    },
}


def source_of(kind: str, folder: Path) -> Path:
    """A sound source of each kind, to be spoiled."""
    root = folder / "in"
    if kind == "valdo":
        return valdo(folder, {"sub-101": DOTS, "sub-102": DOTS})
    if kind == "dou":
        return dou(root, {"01": DOTS, "02": []})
    if kind == "momeni":
        root = folder / "PublicDataShare_2020"
        save(root / "rCMB_DefiniteSubject" / f"{NAME}.nii.gz", head(dots=DOTS), LAS)
        rows(ROW)(root)
    elif kind == "nifti":
        for patient in ("anna", "bert"):
            save(root / f"{patient}.nii", head(dots=DOTS), LAS)
            save(root / "masks" / f"{patient}.nii", mask(SHAPE, DOTS), LAS)
            (root / "masks" / f"{patient}.csv").write_text("x,y,z,patient\n14,20,4,anna\n")
        description("images: '{patient}.nii'\nmask: 'masks/{patient}.nii'\n")(root)
    else:
        content = labelled_images(root, 3)
        if kind == "voc":
            write_voc(content, root)
            (root / LABELS_FILE).unlink()
    return root


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind in SPOILED for case in SPOILED[kind]])
def test_a_malformed_source_is_named_in_one_line(refused_line, tmp_path, kind, case):
    spoil, named = SPOILED[kind][case]
    root = source_of(kind, tmp_path)
    spoil(root)
    assert named in refused_line("import", kind, root, tmp_path / "deep" / "out", *HERE)


def test_options_that_cannot_be_and_an_output_in_the_source_are_refused(refused_line, tmp_path):
    root = dou(tmp_path / "in", {"01": DOTS})
    (tmp_path / "key.json").write_text('{"salt": "00"}')
    (tmp_path / "tmp.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "out")
    keys = (tmp_path / "link" / "key.json", tmp_path / "key.json", tmp_path, tmp_path / "tmp.txt" / "key.json")
    for named, *options in (
        ("--size 8", "--size", 8),
        ("--box-mm 0.0", "--box-mm", 0),
        ("--jobs 0", "--jobs", 0),
        ("backend multiprocessing", "--backend", "multiprocessing"),
        ("not both", "--key-file", tmp_path / "k.json", "--keep-ids"),
        ("/proc/", "--key-file", "/proc/key.json"),
        *((str(key), "--key-file", key) for key in keys),
    ):
        assert named in refused_line("import", "dou", root, tmp_path / "deep" / "out", *HERE, *options)
    assert "--as-magnitude" in refused_line("import", "coco", root, tmp_path / "out", *HERE, "--as-magnitude")
    assert f"error: {root / 'pictures'}: " in refused_line("import", "dou", root, root / "pictures", *HERE)
