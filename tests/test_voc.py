"""PASCAL VOC XML: its corners, the way there and back, and faults in one line."""

import pytest

from cmbfe.data.labelled.labels import check_labels
from cmbfe.data.voc import read_voc, write_voc
from cmbfe.errors import InputError

PLAIN = """<annotation>
  <folder>somewhere</folder><filename>{name}</filename>
  <size><width>100</width><height>80</height><depth>3</depth></size>
  <object><name>cmb</name><difficult>{difficult}</difficult>
    <bndbox><xmin>{xmin}</xmin><ymin>21</ymin><xmax>15</xmax><ymax>26</ymax></bndbox></object>
</annotation>"""


def plain(name: str = "a.png", xmin: str = "11", difficult: int = 0) -> str:
    return PLAIN.format(name=name, xmin=xmin, difficult=difficult)


def our_labels() -> dict:
    image = {"width": 100, "height": 80}
    ours = {
        "patient_id": "P1",
        "series_uid": "1.2.3",
        "slice_index": 4,
        "split": "train",
        "pixel_spacing_mm": [0.46875, 0.5],
    }
    return {
        "images": [
            {"id": 1, "file_name": "P1/000.png", **image, **ours},
            {"id": 2, "file_name": "P1/001.png", **image, **ours},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10.25, 20, 5, 6.5],
                "lesion_id": "P1/1",
                "location": "lobar",
            },
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 100, 80], "ignore": 1},
        ],
        "categories": [{"id": 1, "name": "cmb"}, {"id": 2, "name": "vein"}],
    }


def test_corners_count_from_one_and_are_inside_the_box(tmp_path):
    (tmp_path / "a.xml").write_text(plain())
    labels = read_voc(tmp_path)
    assert labels["annotations"][0]["bbox"] == [10, 20, 5, 6]
    assert labels["images"] == [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}]


def test_labels_come_back_as_they_went_out(tmp_path):
    write_voc(our_labels(), tmp_path / "voc")
    assert read_voc(tmp_path / "voc") == our_labels()


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("first", "second"):
        write_voc(our_labels(), tmp_path / name)
    for path in (tmp_path / "first").rglob("*.xml"):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()


def test_difficult_objects_are_ignore_regions(tmp_path):
    (tmp_path / "a.xml").write_text(plain(difficult=1))
    assert read_voc(tmp_path)["annotations"][0]["ignore"] == 1


def test_cmb_is_category_1_whatever_else_there_is(tmp_path):
    (tmp_path / "a.xml").write_text(plain().replace("cmb", "artery"))
    (tmp_path / "b.xml").write_text(plain("b.png"))
    labels = read_voc(tmp_path)
    assert labels["categories"] == [{"id": 1, "name": "cmb"}, {"id": 2, "name": "artery"}]
    assert [box["category_id"] for box in labels["annotations"]] == [2, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>", "not readable as XML"),
        (plain().replace("<width>100</width>", ""), "the element size/width is missing or empty"),
        (plain(xmin="left"), "the element bndbox/xmin is 'left' and no number"),
        (plain(name=" "), "the element filename is missing or empty"),
    ],
)
def test_a_faulty_file_is_named_with_the_reason(tmp_path, text, reason):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_voc(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'a.xml'}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_box_without_width_is_refused_as_in_coco(tmp_path):
    (tmp_path / "a.xml").write_text(plain(xmin="16"))
    with pytest.raises(InputError, match=r"annotation 1: the box .* has zero width"):
        read_voc(tmp_path)


def test_a_folder_without_voc_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no VOC file"):
        read_voc(tmp_path)


def test_two_images_that_would_share_a_file_are_refused_and_nothing_is_written(tmp_path):
    labels = our_labels()
    labels["images"][1]["file_name"] = "P1/000.jpg"
    check_labels(labels, "labels")
    with pytest.raises(InputError, match=r"P1/000\.jpg and P1/000\.png would both be"):
        write_voc(labels, tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    labels = our_labels()
    labels["images"][0]["file_name"] = name
    with pytest.raises(InputError, match="leads out of the folder"):
        write_voc(labels, tmp_path / "voc")
    assert list(tmp_path.iterdir()) == []
