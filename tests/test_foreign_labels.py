"""What is taken from COCO files of other tools beyond COCO's own keys, and what is refused."""

import pytest
from test_evaluate import cohort, run, write

from cmbfe.data.labelled.labels import read_foreign_labels
from cmbfe.errors import InputError


def labels_with(tmp_path, image=None, box=None):
    """The path of a cohort's labels with keys changed in every image and in the first box."""
    labels = cohort()
    for one in labels["images"]:
        one.update(image or {})
    labels["annotations"][0].update(box or {})
    return write(tmp_path, truth=labels)[0]


@pytest.mark.parametrize("nothing", [None, float("nan"), " "])
def test_null_is_a_key_that_is_not_there(tmp_path, nothing):
    labels = read_foreign_labels(
        labels_with(tmp_path, {"patient_id": nothing, "split": nothing}, {"lesion_id": nothing})
    )
    assert not any({"patient_id", "split"} & set(image) for image in labels["images"])
    assert [n for n, box in enumerate(labels["annotations"]) if "lesion_id" not in box] == [0]


def test_a_box_without_a_lesion_leaves_out_the_lesion_level_and_says_so(tmp_path):
    (found,) = write(tmp_path, found=[])
    result = run([labels_with(tmp_path, box={"lesion_id": None}), found], tmp_path / "out")
    assert "lesions" not in result
    assert any("annotation 1 has no lesion_id" in note for note in result["notes"])


def test_a_patient_that_only_some_images_have_is_refused(tmp_path):
    labels = cohort()
    labels["images"][3]["patient_id"] = None
    with pytest.raises(InputError, match="image 4 has no patient_id, but others have"):
        read_foreign_labels(write(tmp_path, truth=labels)[0])


def test_a_split_may_be_a_number(tmp_path):
    labels = read_foreign_labels(labels_with(tmp_path, {"split": 1}))
    assert {image["split"] for image in labels["images"]} == {"1"}


@pytest.mark.parametrize("flag", [0, 1, False, None, 1.0])
def test_region_flags_are_numbers_or_null(tmp_path, flag):
    first = read_foreign_labels(labels_with(tmp_path, box={"iscrowd": flag}))["annotations"][0]
    assert first["iscrowd"] == flag


WRONG = {
    "patient_id": ({"patient_id": ["P1"]}, {}, r"image 1: patient_id \['P1'\] is neither text nor a number"),
    "series_uid": ({"series_uid": {}}, {}, "image 1: series_uid {} is neither"),
    "lesion_id": ({}, {"lesion_id": [1]}, "annotation 1: lesion_id"),
    "location": ({}, {"location": {"lobe": 1}}, "annotation 1: location"),
    "half a character": ({}, {"location": "\ud800"}, "annotation 1: location .* holds half a character"),
    "iscrowd": ({}, {"iscrowd": "false"}, "annotation 1: iscrowd 'false' is neither 0 nor 1"),
    "ignore": ({}, {"ignore": "0"}, "annotation 1: ignore '0' is neither"),
    "slice": ({"slice_index": 10**30}, {}, "image 1: slice_index .* beyond"),
    "spacing": ({"pixel_spacing_mm": [1e308, 1e308]}, {}, "image 1: pixel_spacing_mm .* beyond"),
    "width": ({"width": 1e300}, {}, "image 1: width 1e.300 is beyond"),
    "integers beyond any float": ({}, {"bbox": [10**308, 0, 17 * 10**307, 5]}, "cannot be read: int too large"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_else_a_key_says_is_refused_in_one_line(tmp_path, wrong):
    image, box, text = WRONG[wrong]
    path = labels_with(tmp_path, image, box)
    with pytest.raises(InputError, match=text) as caught:
        read_foreign_labels(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_what_python_cannot_read_is_no_traceback(tmp_path, text):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(InputError, match=r"truth\.json: holds a value that cannot be read"):
        read_foreign_labels(tmp_path / "truth.json")
