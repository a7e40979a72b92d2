"""Files and folders are atomic, JSON is checked, and every path comes from the workspace's root."""

import gzip
import json
from unittest import mock

import pytest
import yaml

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_file, whole_folder, within_python, write_json


def test_a_file_appears_only_when_its_block_succeeds_and_else_the_previous_stays(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    with whole_file(target) as temporary:
        temporary.write_text("a")
        assert not target.exists()
    assert target.read_text() == "a"
    interrupted = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:
        interrupted(temporary.write_text("half"))
    assert target.read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_replaces_an_earlier_result_also_the_current_folder(tmp_path, monkeypatch):
    for content in ("first", "second", "current"):
        out = "." if content == "current" else tmp_path / "out"
        with whole_folder(out, "mark.json") as temporary:
            (temporary / "mark.json").write_text(content)
        assert (tmp_path / "out" / "mark.json").read_text() == content
        monkeypatch.chdir(tmp_path / "out")


def test_a_folder_of_something_else_and_one_in_the_place_of_a_file_or_below_are_refused(tmp_path):
    file = tmp_path / "documents" / "thesis.txt"
    file.parent.mkdir()
    file.write_text("precious")
    for folder, reason in ((file.parent, "documents"), (file, "is a file"), (file / "deep", "is a file")):
        with pytest.raises(InputError, match=reason), whole_folder(folder, "mark.json"):
            pass
    assert file.read_text() == "precious"


def test_a_failed_folder_leaves_nothing_and_no_folder_above_it_that_was_not_there(tmp_path):
    (tmp_path / "there").mkdir()
    broken = mock.Mock(side_effect=ValueError("broken"))
    for out in (tmp_path / "out", tmp_path / "there" / "new" / "out"):
        with pytest.raises(ValueError, match="broken"), whole_folder(out, "mark.json") as temporary:
            broken((temporary / "mark.json").write_text("x"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_folder_that_holds_an_input_is_not_replaced(tmp_path):
    result = tmp_path / "result"
    (result / "deep").mkdir(parents=True)
    (result / "mark.json").write_text("earlier")
    for inside in (result / "input.json", result / "deep" / "input.json", result):
        inputs = ["elsewhere.json", inside]
        with pytest.raises(InputError, match="holds the input"), whole_folder(result, "mark.json", inputs):
            pass
    assert (result / "mark.json").read_text() == "earlier"


def test_json_without_value_is_null_and_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": [float("nan"), 1.5], "a": float("inf")})
    write_json(tmp_path / "b.json", {"a": float("inf"), "b": (float("nan"), 1.5)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_unreadable_json_is_named(tmp_path):
    file = tmp_path / "labels.json"
    for content, reason in (
        (None, "no such file"),
        (b"{\n,}", "line 2"),
        (b"\xff\xfe\x00", "text"),
        (b'[{"boxes": [1], "b": {}, "boxes": []}]', "the key 'boxes' occurs twice"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=rf"labels\.json: .*{reason}"):
            read_json(file)


def test_compressed_json_is_the_same_content_and_equal_content_gives_equal_bytes(tmp_path):
    detections = [{"score": 0.5, "bbox": [1, 2, 3, 4]}] * 9
    for name in ("a.json", "b.json.gz", "c.json.gz"):
        write_json(tmp_path / name, detections)
    packed = (tmp_path / "b.json.gz").read_bytes()
    assert packed == (tmp_path / "c.json.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.json").read_bytes()
    for name, content in (("c.json.gz", packed), ("d.json", packed), ("d.GZ", packed), ("d.json.gz", b"[]")):
        (tmp_path / name).write_bytes(content)
        assert read_json(tmp_path / name) == (detections if content is packed else [])
    for damaged in (packed[:-9], packed[:20] + b"damage" + packed[26:]):
        (tmp_path / "b.json.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"b\.json\.gz"):
            read_json(tmp_path / "b.json.gz")


def test_what_python_gives_up_on_is_an_error_of_the_file_in_one_line():
    for read, text, reason in (
        (json.loads, "9" * 5000, "digits"),
        (json.loads, "[" * 100_000, "too deep in each other"),
        (yaml.safe_load, "2024-02-30", "day is out of range"),
        (yaml.safe_load, "!!timestamp x", "NoneType"),
    ):
        with pytest.raises(InputError, match=f"^labels: .*{reason}") as caught, within_python("labels"):
            read(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^why$"), within_python("labels"):
        raise InputError("why")


@pytest.mark.parametrize(
    "name", ["x" * 240, "x" * 300 + ".json", "ü" * 120, "y" * 300 + "/a.json", "z/" * 3 + "x" * 251]
)
def test_a_name_that_is_too_long_is_refused_before_anything_is_made(tmp_path, name):
    for write in (whole_file, lambda path: whole_folder(path, "mark.json")):
        with pytest.raises(InputError, match=r"^[^\n]*name of more than 230 bytes[^\n]*$"), write(tmp_path / name):
            pass
    assert list(tmp_path.iterdir()) == []
    with whole_file(tmp_path / ("x" * 230)) as file:
        file.write_text("")


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/deep"])
def test_the_workspace_is_the_nearest_folder_upwards_with_params(tmp_path, monkeypatch, inside):
    inner = tmp_path / "inner"
    (inner / inside).mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / "params.yaml").write_text("profile: smoke")
    monkeypatch.chdir(inner / inside)
    assert paths.workspace() == inner
    assert paths.params_file() == inner / "params.yaml"


def test_outside_a_workspace_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cmbfe profile"):
        paths.workspace()
