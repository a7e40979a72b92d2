"""Pascal VOC XML: its corners, what else it says, and faults in one line."""

import pytest
from source_world import write_voc

from cmbfe.data.sources.voc import read_voc
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
    ours = {"patient_id": "P1", "series_uid": "1.2.3", "slice_index": 4, "split": "train"}
    ours["pixel_spacing_mm"] = [0.46875, 0.5]
    lesion = {"lesion_id": "P1/1", "location": "lobar"}
    return {
        "images": [
            {"id": 1, "file_name": "P1/000.png", **image, **ours},
            {"id": 2, "file_name": "P1/001.png", **image, **ours},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10.25, 20, 5, 6.5], **lesion},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 100, 80], "ignore": 1},
        ],
        "categories": [{"id": 1, "name": "cmb"}, {"id": 2, "name": "vein"}],
    }


def test_corners_count_from_one_and_are_inside_the_box(tmp_path):
    (tmp_path / "a.xml").write_text(plain())
    labels = read_voc(tmp_path)
    assert labels["annotations"][0]["bbox"] == [10, 20, 5, 6]
    assert labels["images"] == [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}]


def test_patient_slice_lesion_and_spacing_are_read(tmp_path):
    write_voc(our_labels(), tmp_path / "voc")
    assert read_voc(tmp_path / "voc") == our_labels()


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
    ("text", "kind"),
    [
        ("<annotation>", "XML"),
        (plain().replace("<width>100</width>", ""), "size/width"),
        (plain(xmin="left"), "bndbox/xmin"),
        (plain(name=" "), "filename"),
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
