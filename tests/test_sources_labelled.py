"""COCO and VOC of labelling tools: where their images lie, in which order, and boxes that are not what they seem."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from source_world import imported, reported
from tiny_world import refused

from cmbfe.data.labelled.images import TURNED, save_image
from cmbfe.data.labelled.labels import LABELS_FILE
from cmbfe.data.sources import labelled
from cmbfe.data.sources.labelled import find_coco, labels_file
from cmbfe.data.sources.lesions import LARGE, SMALL
from cmbfe.data.sources.voc import FROM_1, find_voc
from cmbfe.files import write_json
from cmbfe.findings.search import find

BOX = [10, 12, 6, 5]


def save(folder: Path, *names: str) -> None:
    """Images of 64 x 48 px, each with a grey of its own."""
    for number, name in enumerate(names):
        save_image(folder / name, np.full((48, 64), 100 + number, np.uint8))


def image(number: int, name: str, **more: object) -> dict:
    return {"id": number, "file_name": name, "width": 64, "height": 48, **more}


def box(number: int, of: int, bbox: list[float] = BOX, **more: object) -> dict:
    return {"id": number, "image_id": of, "category_id": 1, "bbox": bbox, **more}


def coco(file: Path, images: list[dict], boxes: list[dict] = ()) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"images": images, "annotations": list(boxes), "categories": [{"id": 1, "name": "cmb"}]})
    return file.parent


def voc(file: Path, filename: str, corners: tuple[str, ...] = ("11", "13", "16", "17"), **more: str) -> None:
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    others = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"<annotation><filename>{filename}</filename>{others}<size><width>64</width><height>48</height></size>"
        f"<object><name>cmb</name><bndbox>{sides}</bndbox></object></annotation>"
    )


LAYOUTS = {
    # what writes so -> COCO file, the name that it gives, the image
    "as the format says": ("a.json", "P1/0.png", "P1/0.png"),
    "Windows": ("a.json", "P1\\0.png", "P1/0.png"),
    "Label Studio on Windows": ("result.json", "images\\0.png", "images/0.png"),
    "Label Studio, an upload": ("result.json", "/data/upload/3/ab-0.png", "images/ab-0.png"),
    "Label Studio, by its address": ("result.json", "http://x:80/data/upload/3/ab%20c.png", "images/ab c.png"),
    "Label Studio, a local file": ("result.json", "/data/local-files/?d=P1/0.png", "P1/0.png"),
    "Label Studio, not exported": ("r.json", "../../label-studio/data/media/upload/1/0.png", "images/0.png"),
    "the same on Windows": (
        "r.json",
        "..\\..\\a\\label-studio\\label-studio\\media\\upload\\1\\0.png",
        "images/0.png",
    ),
    "Label Studio, a project": ("result.json", "images\\1\\0.png", "images/0.png"),
    "as in an address": ("a.json", "P%201/0.png", "P 1/0.png"),
    "no address": ("a.json", "P%201/0.png", "P%201/0.png"),
    "CVAT": ("annotations/instances_default.json", "P1/0.png", "images/P1/0.png"),
    "CVAT with subsets": ("annotations/instances_train.json", "P1/0.png", "images/train/P1/0.png"),
    "COCO": ("annotations/instances_train2017.json", "0.png", "train2017/0.png"),
    "beside the folder of labels": ("annotations/a.json", "../P1/0.png", "P1/0.png"),
    "another case": ("a.json", "P1/IMG0.PNG", "p1/img0.png"),
    "another suffix": ("a.json", "P1/0.jpg", "P1/0.png"),
    "no suffix": ("a.json", "P1/1.2.840", "P1/1.2.840.png"),
    "a name with a backslash": ("a.json", "P1\\0.png", "P1\\0.png"),
    "macOS": ("a.json", "Mu\u0308ller/0.png", "M\u00fcller/0.png"),
    "unpacked on macOS": ("a.json", "M\u00fcller/0.png", "Mu\u0308ller/0.png"),
}


DECODED = ("another case", "another suffix", "no suffix", "Label Studio, a project", "as in an address")


@pytest.mark.parametrize("tool", LAYOUTS)
def test_images_are_found_where_tools_put_them(tmp_path, tool):
    file, name, there = LAYOUTS[tool]
    save(tmp_path, there, "other/9.png")
    coco(tmp_path / file, [image(1, name, patient_id="A")], [box(1, 1)])
    found = find_coco(tmp_path)
    assert [series.files for series in found.series] == [[tmp_path / there]]
    assert found.read == (tmp_path / file,)
    assert found.notes[labelled.ELSEWHERE] == (tool in DECODED)


@pytest.mark.parametrize(("names", "there", "said"), [
    (["P1/0.png"], ["P2/0.png"], "P1/0.png: no such image in"),
    (["0.png"], ["images/0.png", "a/0.png"], "may be any of"),
    (["P1/0.jpg"], ["P1/0.png", "P1/0.bmp"], "may be any of"),
    (["P1/a.png"], ["P1/A.png", "p1/a.png"], "may be any of"),
    (["u\u0308.png"], ["images/u\u0308.png", "images/\u00fc.png"], "may be any of"),
    (["/somewhere/P1/0.png"], ["P1/0.png"], "leads out of the folder"),
    (["D:\\data\\P1\\0.png"], ["P1/0.png"], "leads out of the folder"),
    (["../P1/0.png"], ["P1/0.png"], "leads out of the folder"),
    (["P1/" + "0" * 300 + ".png"], ["P1/0.png"], "no such image"),
    (["../../x/media/upload/1/0.png"], ["0.png"], "leads out of the folder"),
    (["P%201/0.png"], ["P 1/0.png", "images/P 1/0.png"], "may be any of"),
    (["images/1/0.png", "images/2/0.png"], ["images/0.png"], "2 images are the file"),
    (["P1/0.jpg", "P1/0.png"], ["P1/0.png"], "2 images are the file"),
])  # fmt: skip
def test_an_image_that_is_not_there_or_may_be_several_is_refused(tmp_path, names, there, said):
    save(tmp_path, *there)
    coco(tmp_path / "a.json", [image(number, name, patient_id="A") for number, name in enumerate(names)])
    with refused(tmp_path, said):
        find_coco(tmp_path)


@pytest.mark.parametrize("names", [("Mu\u0308ller/0.png", "M\u00fcller/1.png"), ("P%201/0.png", "P 1/1.png")])
def test_a_patient_is_one_however_the_name_is_spelt(tmp_path, names):
    save(tmp_path, *names)
    coco(tmp_path / "a.json", list(map(image, (2, 1), reversed(names))))
    assert [series.files for series in find_coco(tmp_path).series] == [[tmp_path / name for name in names]]


def test_the_coco_file_may_lie_in_annotations_but_must_be_one(tmp_path):
    coco(tmp_path / "annotations" / "instances_default.json", [])
    (tmp_path / "annotations" / "._instances_default.json").touch()
    assert labels_file(tmp_path) == tmp_path / "annotations" / "instances_default.json"
    coco(tmp_path / "annotations" / "instances_val.json", [])
    with refused(tmp_path, "2 other files"):
        labels_file(tmp_path)
    coco(tmp_path / LABELS_FILE, [])
    assert labels_file(tmp_path) == tmp_path / LABELS_FILE


@pytest.mark.parametrize(("names", "above", "of", "wanted"), [
    (["mimic", "Cerebral_Microbleeds"], None, 1, 1),
    (["mimic", "cerebral-microbleed"], None, 0, 1),
    (["microbleeds", "microbleed"], "microbleeds", 1, 1),
    (["cmb", "cmb"], "cmb", 1, 1),
    (["cmb", "cmb"], "cmb", 0, None),
    (["cmb", "vein"], "cmb", 1, None),
    (["cmb", "vein"], None, 1, 0),
    (["veins", "vein"], "veins", 1, None),
])  # fmt: skip
def test_microbleeds_are_a_category_by_name_and_no_supercategory_without_boxes(tmp_path, names, above, of, wanted):
    """`above`: the supercategory of the second; `of`: the category with boxes."""
    categories = [{"id": 0, "name": names[0]}, {"id": 1, "name": names[1], "supercategory": above}]
    labels = {"categories": categories, "annotations": [box(1, 1, category_id=of)]}
    if wanted is None:
        with refused(tmp_path, "one must be named cmb"):
            labelled.microbleed_category(labels, tmp_path)
    else:
        assert labelled.microbleed_category(labels, tmp_path) == wanted


VOC_LAYOUTS = {
    # what writes so -> XML, the name that it gives, more elements, the image
    "beside": ("P1/0.xml", "0.png", {}, "P1/0.png"),
    "VOC": ("Annotations/P1/0.xml", "0.png", {}, "JPEGImages/P1/0.png"),
    "Label Studio": ("Annotations/P1/0.xml", "0", {}, "images/P1/0.png"),
    "two folders": ("labels/P1/0.xml", "0.png", {}, "images/P1/0.png"),
    "labels beside": ("P1/labels/0.xml", "0.png", {}, "P1/images/0.png"),
    "Windows": ("P1/0.xml", "P1\\0.png", {}, "P1/0.png"),
    "labelImg": ("xml/0.xml", "0.png", {"folder": "P1", "path": "C:\\in\\P1\\0.png"}, "P1/0.png"),
    "labelImg, moved": ("xml/0.xml", "0.png", {"folder": "img", "path": "/home/x/in/P1/img/0.png"}, "P1/img/0.png"),
    "another case": ("P1/0.xml", "IMG0.PNG", {}, "P1/img0.png"),
    "another suffix": ("P1/0.xml", "0.jpg", {}, "P1/0.png"),
    "macOS": ("P1/0.xml", "u\u0308.png", {}, "P1/\u00fc.png"),
    "an image renamed with its XML": ("P1/0.xml", "DSC123.png", {}, "P1/0.png"),
}


@pytest.mark.parametrize("tool", VOC_LAYOUTS)
def test_images_of_voc_are_found_where_tools_put_them(tmp_path, tool):
    xml, name, more, there = VOC_LAYOUTS[tool]
    save(tmp_path, there, "other/9.png")
    voc(tmp_path / xml, name, patient_id="A", **more)
    found = find_voc(tmp_path)
    assert [series.files for series in found.series] == [[tmp_path / there]]
    assert (found.read, found.notes[FROM_1]) == ((tmp_path / xml,), 1)


@pytest.mark.parametrize("folder", ["Annotations", "annotations", "labels"])
def test_a_folder_of_labels_is_no_patient(tmp_path, folder):
    save(tmp_path, "P1/images/0.png")
    voc(tmp_path / "P1" / folder / "0.xml", "0.png")
    assert [series.patient for series in find_voc(tmp_path).series] == ["P1"]


@pytest.mark.parametrize("folder", ["Annotations", "labels"])
def test_the_folder_of_the_xml_may_be_given(tmp_path, folder):
    save(tmp_path, "images/P1/0.png")
    voc(tmp_path / folder / "P1" / "0.xml", "0.png")
    assert find_voc(tmp_path / folder).series[0].files == [tmp_path / "images/P1/0.png"]


@pytest.mark.parametrize(("kind", "content", "said"), [
    ("coco", b"PK\3\4", "is a ZIP archive; unpack it"),
    ("coco", b"[]", "not a COCO label file"),
    ("voc", b"PK\3\4", "is no folder"),
])  # fmt: skip
def test_what_a_tool_exports_in_one_file_may_be_no_labels(tmp_path, kind, content, said):
    (tmp_path / "export").write_bytes(content)
    with refused(tmp_path, said):
        (find_coco if kind == "coco" else find_voc)(tmp_path / "export")


@pytest.mark.parametrize("kind", ["coco", "voc"])
@pytest.mark.parametrize("named", ["slice{}", "{}_of_12", "1.2.840.{}", "{:08x}-slice{}"])
def test_images_without_a_slice_index_are_in_the_order_of_their_numbers(tmp_path, kind, named):
    uploads = [(number * 0x9E3779B1) % 2**32 for number in range(1, 13)]  # as random as the names of Label Studio
    numbered = zip(uploads, range(1, 13), strict=True)
    names = [f"P1/{named.format(*pair[-named.count('{') :])}.png" for pair in numbered]
    save(tmp_path / "in", *names)
    if kind == "coco":
        images = [image(number, name) for number, name in enumerate(names, 1)]
        coco(tmp_path / "in" / LABELS_FILE, images, [box(slice_, slice_, lesion_id="m") for slice_ in (9, 10, 11)])
    else:
        for name in names:
            voc((tmp_path / "in" / name).with_suffix(".xml"), Path(name).name)
    labels = imported(kind, tmp_path / "in", tmp_path / "out")
    greys = [int(np.array(Image.open(tmp_path / "out" / image["file_name"]))[0, 0]) for image in labels["images"]]
    assert greys == list(range(100, 112))
    assert reported(tmp_path / "out")[labelled.BY_NAME] == 1
    assert reported(tmp_path / "out")[labelled.BY_FOLDER] == 12
    assert labelled.APART not in reported(tmp_path / "out")


def test_a_detector_numbers_the_images_of_an_import_as_its_labels_do(tmp_path):
    names = [f"P{patient}/scan{scan}/{number}.png" for patient in (10, 9) for scan in (1, 2) for number in (10, 9)]
    save(tmp_path / "in", *names)
    images = [image(number, name, patient_id=name[: name.index("/")]) for number, name in enumerate(names)]
    coco(tmp_path / "in" / LABELS_FILE, images)
    labels = imported("coco", tmp_path / "in", tmp_path / "out")
    found = [
        entry["file_name"] for series in find(tmp_path / "out", tmp_path / "no").series for entry in series.images
    ]
    assert list(enumerate(found, 1)) == [(entry["id"], entry["file_name"]) for entry in labels["images"]]
    assert found[0].startswith("P9-1/")


def counted(tmp_path: Path, boxes: list[dict], **more: object) -> tuple[int, dict[str, int], dict[str, int]]:
    """Boxes of an import, its notes, and what it left out."""
    save(tmp_path / "in", *(f"P1/{number}.png" for number in range(1, 5)))
    coco(tmp_path / "in" / LABELS_FILE, [image(n, f"P1/{n}.png", slice_index=n, **more) for n in range(1, 5)], boxes)
    labels = imported("coco", tmp_path / "in", tmp_path / "out")
    left_out = reported(tmp_path / "out", "left_out")
    return len(labels["annotations"]), reported(tmp_path / "out"), left_out


def test_a_box_drawn_twice_counts_once_and_nearly_twice_is_said(tmp_path):
    boxes = [box(1, 1), box(2, 1), box(3, 1, [10, 12, 6, 5.5]), box(4, 2), box(5, 2, ignore=1)]
    count, said, left_out = counted(tmp_path, boxes)
    assert count == 4
    assert left_out == {labelled.DOUBLED: 1}
    assert said[labelled.NEARLY_DOUBLED] == 1


def lesion(*slices: int) -> list[dict]:
    """Boxes of one lesion id, side by side."""
    return [box(number, of, [10 * number, 12, 6, 5], lesion_id=1) for number, of in enumerate(slices, 1)]


CORNERS = [box(number, number, [10 + number, 12, 16 + number, 17]) for number in range(1, 4)]
HALF = {"pixel_spacing_mm": [0.5, 0.5]}


@pytest.mark.parametrize(("boxes", "known", "note", "count"), [
    (CORNERS, {}, labelled.MAYBE_CORNERS, 3),
    ([*CORNERS, box(4, 4, [40, 12, 6, 5])], {}, labelled.MAYBE_CORNERS, 0),
    ([box(1, 1, [5, 1, 2, 3])], HALF, SMALL, 1),
    ([box(1, 1, [5, 1, 2, 4])], HALF, SMALL, 0),
    ([box(1, 1, [5, 1, 2, 40])], HALF, LARGE, 0),
    ([box(1, 1, [5, 1, 2, 44])], HALF, LARGE, 1),
    ([box(1, 1, [0, 0, 64, 48], ignore=1)], {"pixel_spacing_mm": [2, 2]}, LARGE, 0),
    ([box(1, 1, [0, 0, 16, 12])], {}, labelled.WIDE, 0),
    ([box(1, 1, [0, 0, 17, 5])], {}, labelled.WIDE, 1),
    ([box(1, 1, [0, 0, 6, 13])], {}, labelled.WIDE, 1),
    ([box(1, 1, [0, 0, 17, 5])], HALF, labelled.WIDE, 0),
    ([box(1, 1, [], segmentation=[[5, 1, 9, 1, 9, 5]])], {}, labelled.AROUND, 1),
    (lesion(1, 2), {}, labelled.APART, 0),
    (lesion(1, 1), {}, labelled.APART, 1),
    (lesion(1, 3), {}, labelled.APART, 1),
    (lesion(1, 2, 2), {}, labelled.APART, 1),
])  # fmt: skip
def test_boxes_that_may_not_be_what_they_seem_are_counted(tmp_path, boxes, known, note, count):
    assert counted(tmp_path, boxes, **known)[1].get(note, 0) == count


def turned(folder: Path, orientation: int) -> np.ndarray:
    """P1/0.png, stored so that its EXIF turns it; returns the image as it is shown."""
    shown = np.full((48, 64), 170, np.uint8)
    shown[12:17, 10:16] = 20
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (folder / "P1").mkdir(parents=True)
    stored = np.rot90(shown, {3: 2, 6: 1, 8: -1}[orientation])
    Image.fromarray(np.ascontiguousarray(stored)).save(folder / "P1" / "0.png", exif=exif)
    return shown


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_boxes_lie_on_the_image_as_it_is_shown(tmp_path, orientation):
    shown = turned(tmp_path / "in", orientation)
    coco(tmp_path / "in" / LABELS_FILE, [image(1, "P1/0.png")], [box(1, 1)])
    labels = imported("coco", tmp_path / "in", tmp_path / "out")
    written = np.array(Image.open(tmp_path / "out" / labels["images"][0]["file_name"]))
    np.testing.assert_array_equal(written, shown)
    assert reported(tmp_path / "out")[TURNED] == 1


def test_a_label_of_an_image_as_it_is_stored_is_refused(tmp_path):
    turned(tmp_path / "in", 8)
    coco(tmp_path / "in" / LABELS_FILE, [{**image(1, "P1/0.png"), "width": 48, "height": 64}])
    with refused(tmp_path, "64 x 48 px once turned by its EXIF, but its label says 48 x 64"):
        imported("coco", tmp_path / "in", tmp_path / "out")
