"""A model's folder: what images it wants, what it is called, and that no output replaces it."""

import pytest
from tiny_world import save_tiny_model, tiny_params

from cmbfe.errors import InputError
from cmbfe.findings.model import model_settings, refuse_to_lose


def test_images_are_made_as_for_the_training(tmp_path):
    assert model_settings(save_tiny_model(tmp_path / "model", "ssd300")) == (tiny_params().images, "ssd300")


@pytest.mark.parametrize("content", ["{}", "[]", "null", '"x"'])
def test_a_config_that_says_no_variant_has_no_name(tmp_path, content):
    model = save_tiny_model(tmp_path / "model")
    (model / "config.json").write_text(content)
    assert model_settings(model)[1] == ""


def test_inputs_in_the_output_are_refused_also_through_a_link(tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out" / "model")
    refuse_to_lose([tmp_path / "elsewhere"], tmp_path / "out")
    for one in (tmp_path / "out" / "model", tmp_path / "link", tmp_path / "out"):
        with pytest.raises(InputError, match=r"out: holds .*, which would be lost"):
            refuse_to_lose([one], tmp_path / "out")
