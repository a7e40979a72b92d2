"""Files appear whole or not at all."""

import json
from unittest import mock

import pytest

from cmbfe.errors import InputError
from cmbfe.files import read_json, whole_file, whole_folder, write_json


def test_a_file_appears_only_when_its_block_succeeds(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    with whole_file(target) as temporary:
        temporary.write_text("a")
        assert not target.exists()
    assert target.read_text() == "a"


def test_an_interrupted_writer_leaves_the_previous_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    interrupted = mock.Mock(side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), whole_file(target) as temporary:
        interrupted(temporary.write_text("half"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_an_earlier_result_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    for content in ("first", "second"):
        with whole_folder(out, "mark.json") as temporary:
            (temporary / "mark.json").write_text(content)
    assert (out / "mark.json").read_text() == "second"

    foreign = tmp_path / "documents"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="documents"), whole_folder(foreign, "mark.json"):
        pass
    assert (foreign / "thesis.txt").read_text() == "precious"


def test_a_folder_is_not_put_in_the_place_of_a_file(tmp_path):
    file = tmp_path / "out"
    file.write_text("precious")
    with pytest.raises(InputError, match="is a file"), whole_folder(file, "mark.json"):
        pass
    assert file.read_text() == "precious"


def test_a_failed_folder_leaves_nothing(tmp_path):
    broken = mock.Mock(side_effect=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"), whole_folder(tmp_path / "out", "mark.json") as temporary:
        broken((temporary / "mark.json").write_text("x"))
    assert not list(tmp_path.iterdir())


def test_json_without_value_is_null_and_equal_content_gives_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": [float("nan"), 1.5], "a": float("inf")})
    write_json(tmp_path / "b.json", {"a": float("inf"), "b": (float("nan"), 1.5)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{\n,}", "line 2"), (b"\xff\xfe\x00", "text"), (None, "no such file")]
)
def test_unreadable_json_is_named_in_one_line(tmp_path, content, reason):
    file = tmp_path / "labels.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"labels\.json") as caught:
        read_json(file)
    assert reason in str(caught.value)
