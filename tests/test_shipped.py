"""The detectors that the package brings are found by name, and are small."""

from pathlib import Path

import pytest

from cmbfe.errors import InputError
from cmbfe.findings.model import SHIPPED, load_detector, model_folder, model_settings


@pytest.mark.parametrize("name", ["ssd512", "ssd512-fe"])
def test_a_shipped_detector_is_found_by_its_name_unless_a_folder_has_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = model_folder(Path(name))
    assert folder == SHIPPED / name
    assert model_settings(folder)[1] == load_detector(folder).name == name
    (tmp_path / name).mkdir()
    assert model_folder(Path(name)) == Path(name)
    with pytest.raises(InputError, match="ssd512, ssd512-fe"):
        model_settings(Path(name))


def test_together_they_take_at_most_8_mb():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*.safetensors")) < 8e6
