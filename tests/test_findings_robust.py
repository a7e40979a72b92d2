"""pydicom's own files, odd, old, compressed and broken: each ends with outputs or one clear line."""

import shutil
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from findings_world import detect

from cmbfe.errors import InputError

FILES = sorted(path for path in (Path(pydicom.__file__).parent / "data").rglob("*") if path.is_file())


def ending(source: Path, out: Path) -> str:
    """ "outputs" or "line"; anything else goes through."""
    try:
        detect(source, out, sr=True)
    except InputError as error:
        line = str(error)
    else:
        line = ""
    if line:
        assert "\n" not in line
        assert str(source) in line
        assert not out.exists()
        return "line"
    assert (out / "images.json").exists()
    shutil.rmtree(out)
    return "outputs"


def test_one_at_a_time(tmp_path):
    endings = {path.name: ending(path, tmp_path / "out") for path in FILES}
    assert len(FILES) > 150
    assert endings["MR_small.dcm"] == endings["MR_small_RLE.dcm"] == "outputs"
    assert endings["MR_truncated.dcm"] == "line"
    assert Counter(endings.values())["line"] > 100


def test_all_in_one_folder(tmp_path):
    for number, path in enumerate(FILES):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "in" / f"{number:03d}_{path.name}")
    with pytest.raises(InputError, match=r"more files or series that cannot be read\)") as refused:
        detect(tmp_path / "in", tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_each_in_a_folder_of_its_own_below_one(tmp_path):
    """What can be read is detected in, and each series that cannot be is named."""
    for number, path in enumerate(FILES):
        folder = tmp_path / "in" / f"{number:03d}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder / path.name)
    result = detect(tmp_path / "in", tmp_path / "out")
    assert result.done
    assert all(one.line and "\n" not in one.line for one in result.left_out)
    assert (tmp_path / "out" / "images.json").exists()
