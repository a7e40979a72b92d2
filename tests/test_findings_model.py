"""The detector of a model's folder: how images are made for it, its name, the score that counts."""

import json

import pytest
from tiny_world import save_tiny_model, tiny_params

from cmbfe.errors import InputError
from cmbfe.findings.model import chosen_threshold, load_detector, model_settings, read_threshold

TABLE = "variant,threshold,sensitivity\nssd512,0.16,0.88\nssd300,,\n"


def test_images_are_made_as_for_the_training(tmp_path):
    model = save_tiny_model(tmp_path / "model", "ssd300")
    assert model_settings(model) == (tiny_params().images, "ssd300")
    assert load_detector(model).name == "ssd300"


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_a_config_that_says_no_variant_has_no_name(tmp_path, content):
    model = save_tiny_model(tmp_path / "model")
    (model / "config.json").write_text(content)
    assert model_settings(model)[1] == ""


def test_the_threshold_is_given_or_that_of_the_validation_patients(tmp_path):
    (tmp_path / "operating_point.csv").write_text(TABLE)
    (tmp_path / "metrics.json").write_text(json.dumps({"threshold": 0.25, "ap": 0.5}))
    assert read_threshold(tmp_path / "metrics.json", "ssd512") == 0.25
    assert chosen_threshold(None, tmp_path / "operating_point.csv", "ssd512")[0] == 0.16
    assert [chosen_threshold(given, None, "")[0] for given in (None, 0.0, 0.7)] == [0.5, 0.0, 0.7]
    with pytest.raises(InputError, match="two thresholds"):
        chosen_threshold(0.5, tmp_path / "metrics.json", "ssd512")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", None),
        ("a.csv", TABLE),
        ("a.csv", TABLE.replace("ssd300", "ssd300-fe")),
        ("a.csv", TABLE.replace("ssd300,,", "ssd300,high,")),
        ("a.csv", "a,b\n1,2\n"),
        ("a.csv", ""),
        ("a.json", "{"),
        ("a.json", "{}"),
        ("a.json", "[1]"),
        ("a.json", "[" * 100_000),
        *(("a.json", f'{{"threshold": {value}}}') for value in ("null", "true", "-1", "2", "1" + "0" * 400)),
        ("a.json", '{"threshold": 1%s}' % ("0" * 5000)),
    ],
)
def test_a_file_without_a_score_for_a_threshold_is_named_in_one_line(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name) as refused:
        read_threshold(tmp_path / name, "ssd300")
    assert "\n" not in str(refused.value)
