"""Folders of a source: links are followed once, and what may not be read is never taken for empty."""

import os

import pytest

from cmbfe.data.folders import files_named, folders_below, look_into, resolved
from cmbfe.errors import InputError


def test_links_are_followed_once_and_hidden_folders_are_left_out(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "elsewhere" / "b").mkdir(parents=True)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    found = [path.relative_to(tmp_path).as_posix() for path in folders_below(tmp_path / "in")]
    assert found == ["in", "in/a", "in/linked", "in/linked/b"]


def test_files_of_a_suffix_whatever_its_case(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "c.xml").mkdir()
    for name in ("b/1.XML", "a.xml", ".a.xml", "a.txt"):
        (tmp_path / name).touch()
    assert files_named(tmp_path, ".xml") == [tmp_path / "a.xml", tmp_path / "b" / "1.XML"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):  # not by its mode, which does not hold for an administrator
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="closed: Permission denied; the folder must be readable"):
        look_into(tmp_path)


def test_a_link_to_itself_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop/x: its links lead to themselves"):
        resolved(tmp_path / "loop" / "x")
    assert resolved(tmp_path / "a" / ".." / "b") == tmp_path / "b"
