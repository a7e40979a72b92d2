"""Labels and detections, ours and of other tools, COCO and VOC, are checked: one line names file and entry."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from source_world import write_voc

from cmbfe.data.labelled.labels import (
    CATEGORIES,
    check_detections,
    check_labels,
    labels_of_split,
    read_detections,
    read_foreign_labels,
    read_labels,
    repeats,
    write_labels,
)
from cmbfe.data.sources.voc import FROM_0, FROM_1, read_voc
from cmbfe.errors import InputError


def two_images() -> dict:
    """Two images of two patients in two splits, one box on the first."""
    image = {"width": 100, "height": 80, "pixel_spacing_mm": [0.5, 0.5], "slice_index": 3}
    return {
        "images": [
            {**image, "id": 1, "file_name": "a.png", "patient_id": "P1", "split": "train"},
            {**image, "id": 2, "file_name": "b.png", "patient_id": "P2", "split": "test"},
        ],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [10, 20, 5, 6], "lesion_id": "P1-1"}],
        "categories": copy.deepcopy(CATEGORIES),
    }


def changed(where: tuple, value: object) -> dict:
    """`two_images` with the entry at the path `where` set to `value`."""
    labels = two_images()
    place = labels
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return labels


def test_labels_come_back_from_the_file_as_they_went_in(tmp_path):
    for name in ("a.json", "b.json"):
        write_labels(tmp_path / name, two_images())
    assert read_labels(tmp_path / "a.json") == two_images()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_files_of_other_tools_without_our_keys_are_accepted():
    labels = two_images()
    for image in labels["images"]:
        for key in ("patient_id", "split", "slice_index", "pixel_spacing_mm"):
            del image[key]
    del labels["annotations"][0]["lesion_id"]
    assert check_labels(labels, "labels.json") is labels


def test_a_box_rounded_to_two_decimals_may_touch_the_edge():
    check_labels(changed(("annotations", 0, "bbox"), [95.005, 0, 5.0, 80.0]), "labels.json")


BOX, TIGHT = ("annotations", 0, "bbox"), ("annotations", 0, "tight_bbox")
FAULTS = {
    # what is wrong -> place in the labels, value, what the error names
    "zero width": (BOX, [10, 20, 0, 6], "annotation 7"),
    "a tight box that is none": (TIGHT, [1, 2, 3], "annotation 7: tight_bbox"),
    "a tight box without height": (TIGHT, [10, 20, 5, 0], "annotation 7"),
    "a tight box outside": (TIGHT, [97, 20, 5, 6], "annotation 7: the box [97, 20, 5, 6] lies 2 px outside"),
    "zero height": (BOX, [10, 20, 5, 0], "annotation 7"),
    "negative width": (BOX, [10, 20, -5, 6], "annotation 7"),
    "NaN": (BOX, [10, float("nan"), 5, 6], "annotation 7: bbox"),
    "infinity": (BOX, [10, 20, float("inf"), 6], "annotation 7: bbox"),
    "integer beyond float": (BOX, [10, 20, 10**400, 6], "annotation 7: bbox"),
    "text in box": (BOX, [10, 20, "5", 6], "annotation 7: bbox"),
    "three numbers": (BOX, [10, 20, 5], "annotation 7: bbox"),
    "box outside": (BOX, [97, 20, 5, 6], "annotation 7: the box [97, 20, 5, 6] lies 2 px outside"),
    "box above": (BOX, [10, -1, 5, 6], "annotation 7"),
    "unknown image": (("annotations", 0, "image_id"), 99, "annotation 7: image_id: 99"),
    "list as id": (("annotations", 0, "image_id"), [1], "annotation 7: image_id: [1]"),
    "unknown category": (("annotations", 0, "category_id"), 2, "annotation 7: category_id: 2"),
    "duplicate image": (("images", 1, "id"), 1, "images: id 1"),
    "id missing": (("annotations", 0), {"image_id": 1}, "annotations[0]: the key 'id'"),
    "id not a number": (("images", 0, "id"), 1.5, "images[0]: id 1.5"),
    "annotation no object": (("annotations", 0), 3, "annotations[0]"),
    "box missing": (("annotations", 0), {"id": 7, "image_id": 1, "category_id": 1}, "annotation 7: the key 'bbox'"),
    "image size": (("images", 0, "width"), 0, "image 1: width 0"),
    "file name missing": (("images", 0), {"id": 1, "width": 9, "height": 9}, "image 1: the key 'file_name'"),
    "pixel spacing": (("images", 0, "pixel_spacing_mm"), [0.5, 0], "image 1: pixel_spacing_mm"),
    "slice index": (("images", 0, "slice_index"), 1.5, "image 1: slice_index"),
    "two splits": (("images", 1, "patient_id"), "P1", "patient 'P1'"),
    "patient of some only": (("images", 1), {"id": 2, "file_name": "b", "width": 9, "height": 9}, "image 2"),
    "no list": (("annotations",), {}, "'annotations'"),
}


def refused(read: Callable, path: Path, content: object, *more: object) -> str:
    """What is wrong with a file of this content, in one line that begins with the file."""
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read(path, *more)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_label_file_raises_one_line_that_names_file_entry_and_reason(fault, tmp_path):
    where, value, text = FAULTS[fault]
    assert text in refused(read_labels, tmp_path / "labels.json", changed(where, value))


def test_faulty_labels_are_not_written(tmp_path):
    with pytest.raises(InputError, match="zero width"):
        write_labels(tmp_path / "labels.json", changed(BOX, [10, 20, 0, 6]))
    assert list(tmp_path.iterdir()) == []


def test_a_split_keeps_its_images_and_their_boxes_and_an_absent_one_is_an_error_that_lists_the_splits():
    train = labels_of_split(two_images(), "train")
    test = labels_of_split(two_images(), "test")
    assert [image["id"] for image in train["images"]] == [1]
    assert [box["id"] for box in train["annotations"]] == [7]
    assert [image["id"] for image in test["images"]] == [2]
    assert test["annotations"] == []
    with pytest.raises(InputError, match="split 'val'; there are: test, train"):
        labels_of_split(two_images(), "val")


DETECTION = {"image_id": 1, "category_id": 1, "bbox": [10.0, 20.0, 5.0, 6.0], "score": 0.5}
DETECTION_FAULTS = {
    "unknown image": ({**DETECTION, "image_id": 9}, "image_id: 9"),
    "unknown category": ({**DETECTION, "category_id": 2}, "category_id: 2"),
    "score NaN": ({**DETECTION, "score": float("nan")}, "score nan"),
    "score text": ({**DETECTION, "score": "high"}, "score 'high'"),
    "no score": ({key: value for key, value in DETECTION.items() if key != "score"}, "the key 'score'"),
    "box NaN": ({**DETECTION, "bbox": [1, 2, float("nan"), 4]}, "bbox"),
    "negative width": ({**DETECTION, "bbox": [1, 2, -3, 4]}, "the box [1, 2, -3, 4]"),
}


@pytest.mark.parametrize("fault", DETECTION_FAULTS)
def test_a_faulty_detection_raises_one_line_that_names_file_entry_and_reason(fault, tmp_path):
    faulty, named = DETECTION_FAULTS[fault]
    line = refused(read_detections, tmp_path / "detections.json", [DETECTION, faulty], two_images())
    assert line.startswith(f"detection 1: {named}")


def test_labels_and_detections_are_not_taken_for_each_other():
    with pytest.raises(InputError, match="not a COCO results file"):
        check_detections(two_images(), two_images(), "detections.json")
    with pytest.raises(InputError, match=r"results\.json: not a COCO label file"):
        check_labels([], "results.json")


def test_detections_without_extent_or_beyond_the_image_are_kept_as_false_positives():
    detections = [{**DETECTION, "bbox": [10, 20, 0, 6]}, {**DETECTION, "bbox": [-5, -5, 20, 20]}]
    assert check_detections(detections, two_images(), "detections.json") == detections


def foreign(image: dict | None = None, box: dict | None = None) -> dict:
    """`two_images` with keys changed in every image and in the box."""
    labels = two_images()
    for entry in labels["images"]:
        entry.update(image or {})
    labels["annotations"][0].update(box or {})
    return labels


def read_foreign(folder: Path, labels: dict) -> dict:
    (folder / "truth.json").write_text(json.dumps(labels))
    return read_foreign_labels(folder / "truth.json")


@pytest.mark.parametrize("nothing", [None, float("nan"), " "])
def test_null_is_a_key_that_is_not_there(tmp_path, nothing):
    image = dict.fromkeys(("patient_id", "split", "slice_index", "pixel_spacing_mm"), nothing)
    box = dict.fromkeys(("lesion_id", "iscrowd", "contrast"), nothing)
    labels = read_foreign(tmp_path, foreign(image, box))
    assert not any(set(image) & set(entry) for entry in labels["images"])
    assert not set(box) & set(labels["annotations"][0])


def test_whole_floats_are_integers_and_references_may_be_text(tmp_path):
    labels = foreign({"slice_index": 2.0, "patient_id": 1.0}, {"lesion_id": 1.0, "image_id": "1", "category_id": "1"})
    labels["images"][0]["id"], labels["images"][1]["patient_id"] = 1.0, 2.0
    read = read_foreign(tmp_path, labels)
    box = read["annotations"][0]
    assert repr([box[key] for key in ("lesion_id", "image_id", "category_id")]) == "[1, 1, 1]"
    assert repr([read["images"][0][key] for key in ("id", "slice_index", "patient_id")]) == "[1, 2, 1]"
    labels["images"][1]["id"] = "1"  # beside 1: each is itself
    assert [box["image_id"] for box in read_foreign(tmp_path, labels)["annotations"]] == ["1"]


@pytest.mark.parametrize("bbox", [{}, {"bbox": []}])
def test_without_a_box_the_one_around_the_polygons_is_taken(tmp_path, bbox):
    labels = two_images()
    del labels["annotations"][0]["bbox"]
    labels["annotations"][0] |= {**bbox, "segmentation": [[10, 20, 15, 20, 12, 24], [11, 20, 12, 26, 13, 20.5]]}
    assert read_foreign(tmp_path, labels)["annotations"][0]["bbox"] == [10, 20, 5, 6]


@pytest.mark.parametrize("flag", [0, 1, False, None, 1.0])
def test_region_flags_are_numbers_or_null_and_splits_may_be_numbers(tmp_path, flag):
    labels = read_foreign(tmp_path, foreign({"split": 1}, {"iscrowd": flag}))
    assert labels["annotations"][0].get("iscrowd") == flag
    assert {image["split"] for image in labels["images"]} == {"1"}


FOREIGN_FAULTS = (
    ({"patient_id": ["P1"], "split": "test"}, {}, "image 1: patient_id"),
    ({"series_uid": {}}, {}, "image 1: series_uid"),
    ({}, {"lesion_id": [1]}, "annotation 7: lesion_id"),
    ({}, {"location": {"lobe": 1}}, "annotation 7: location"),
    ({}, {"location": "\ud800"}, "annotation 7: location"),
    ({}, {"iscrowd": "false"}, "annotation 7: iscrowd"),
    ({}, {"ignore": "0"}, "annotation 7: ignore"),
    ({}, {"bbox": [], "segmentation": {"counts": "ab", "size": [80, 100]}}, "annotations[0]: has neither bbox nor"),
    ({}, {"bbox": None, "segmentation": [[1, 2, 3]]}, "annotations[0]: has neither bbox nor"),
    ({"slice_index": 10**30}, {}, "image 1: slice_index"),
    ({"pixel_spacing_mm": [1e308, 1e308]}, {}, "image 1: pixel_spacing_mm"),
    ({"width": 1e300}, {}, "image 1: width"),
    ({}, {"bbox": [10**308, 0, 17 * 10**307, 5]}, "holds a value that cannot be read"),
    ({}, {"bbox": [0.1, 0.25, 0.05, 0.075]}, "all boxes lie within 0 to 1"),
    ({}, {"bbox": [1, 0, 1, 0.9]}, "all boxes lie within 0 to 1"),
    ({}, {"bbox": [10, 20, 0.4, 6]}, "annotation 7: the box [10, 20, 0.4, 6] is narrower"),
)


def test_a_box_outside_that_may_be_two_corners_is_said_to_be(tmp_path):
    assert "x1, y1, x2, y2" in refused(
        read_foreign_labels, tmp_path / "a.json", foreign({}, {"bbox": [60, 20, 65, 26]})
    )
    assert "x1" not in refused(read_foreign_labels, tmp_path / "a.json", foreign({}, {"bbox": [98, 20, 5, 6]}))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_the_labels(tmp_path, encoding):
    (tmp_path / "a.json").write_text(json.dumps(two_images()), encoding=encoding)
    assert read_labels(tmp_path / "a.json") == two_images()


def test_boxes_that_repeat_others_of_their_image_are_found():
    boxes = [(1, [10, 10, 8, 8]), (2, [10, 10, 8, 8]), (1, [10, 10, 8, 9]), (1, [10, 10, 8, 8]), (1, [10, 10, 8, 12])]
    annotations = [{"image_id": image, "bbox": bbox} for image, bbox in boxes]
    assert repeats(two_images(), annotations) == ({3}, {2})
    assert repeats(two_images(), []) == (set(), set())


@pytest.mark.parametrize(("image", "box", "named"), FOREIGN_FAULTS)
def test_what_else_a_key_of_another_tool_says_is_refused_in_one_line(tmp_path, image, box, named):
    assert refused(read_foreign_labels, tmp_path / "truth.json", foreign(image, box)).startswith(named)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_what_python_cannot_read_is_no_traceback(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(InputError, match=r"truth\.json: holds a value that cannot be read"):
        read_foreign_labels(tmp_path / "truth.json")


PLAIN = """<annotation>
  <folder>somewhere</folder><filename>{name}</filename>
  <size><width>100</width><height>80</height><depth>3</depth></size>
  <object><name>cmb</name><difficult>0</difficult>
    <bndbox><xmin>{xmin}</xmin><ymin>21</ymin><xmax>15</xmax><ymax>26</ymax></bndbox></object>
</annotation>"""


def plain(name: str = "a.png", xmin: str = "11") -> str:
    return PLAIN.format(name=name, xmin=xmin)


def test_corners_count_from_one_and_are_inside_the_box(tmp_path):
    (tmp_path / "a.xml").write_text(plain())
    voc = read_voc(tmp_path)
    labels = voc.labels
    assert labels["annotations"][0]["bbox"] == [10, 20, 5, 6]
    assert (voc.files, voc.notes) == ((tmp_path / "a.xml",), {FROM_1: 1})
    assert labels["images"] == [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}]


def test_patient_slice_lesion_spacing_and_ignore_regions_of_voc_are_read(tmp_path):
    labels = two_images()
    labels["images"][0] |= {"series_uid": "1.2.3", "pixel_spacing_mm": [0.46875, 0.5]}
    labels["annotations"][0] |= {"id": 1, "bbox": [10.25, 20, 5, 6.5], "location": "lobar"}
    labels["annotations"].append({"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 100, 80], "ignore": 1})
    labels["categories"].append({"id": 2, "name": "vein"})
    write_voc(labels, tmp_path / "voc")
    assert read_voc(tmp_path / "voc").labels == labels


@pytest.mark.parametrize(
    ("corner", "box"), [("11.00", [11, 21, 4, 5]), ("10.5", [10.5, 21, 4.5, 5]), ("0", [0, 21, 15, 5])]
)
def test_a_corner_with_decimals_or_at_0_in_any_file_says_that_all_count_from_0(tmp_path, corner, box):
    (tmp_path / "a.xml").write_text(plain())
    (tmp_path / "b.xml").write_text(plain("b.png", corner), encoding="utf-8-sig")
    voc = read_voc(tmp_path)
    assert [annotation["bbox"] for annotation in voc.labels["annotations"]] == [[11, 21, 4, 5], box]
    assert voc.notes == {FROM_0: 2}


@pytest.mark.parametrize(("difficult", "is_region"), [("1", True), ("True", True), ("0", False), ("false", False)])
def test_numbers_and_flags_of_voc_may_be_those_of_python(tmp_path, difficult, is_region):
    text = plain().replace("<difficult>0", f"<difficult>{difficult}").replace("<width>100", "<width>100.0")
    (tmp_path / "a.xml").write_text(text)
    labels = read_voc(tmp_path).labels
    assert labels["images"][0]["width"] == 100
    assert ("ignore" in labels["annotations"][0]) == is_region


def test_cmb_is_category_1_whatever_else_there_is(tmp_path):
    (tmp_path / "a.xml").write_text(plain().replace("cmb", "artery"))
    (tmp_path / "b.xml").write_text(plain("b.png"))
    labels = read_voc(tmp_path).labels
    assert labels["categories"] == [{"id": 1, "name": "cmb"}, {"id": 2, "name": "artery"}]
    assert [box["category_id"] for box in labels["annotations"]] == [2, 1]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<annotation>", "XML"),
        (plain().replace("<width>100</width>", ""), "size/width"),
        (plain().replace("<width>100<", "<width>100.5<"), "size/width"),
        (plain(xmin="left"), "bndbox/xmin"),
        (plain(name=" "), "filename"),
        (plain(name="/"), "filename"),
        (plain(xmin="16"), "zero width"),
    ],
)
def test_a_faulty_file_is_named_with_the_reason(tmp_path, text, kind):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.xml: .*{kind}"):
        read_voc(tmp_path)


def test_a_folder_without_voc_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no VOC file"):
        read_voc(tmp_path)
    (tmp_path / "annotations.xml").write_text("<annotations><image name='a.png'/></annotations>")
    with pytest.raises(InputError, match="begins with annotations; export Pascal VOC"):
        read_voc(tmp_path)
    (tmp_path / "a.xml").write_text(plain())
    assert read_voc(tmp_path).files == (tmp_path / "a.xml",)
