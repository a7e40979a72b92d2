"""Settings: every profile loads; what is wrong is refused with the key's path."""

import re
from pathlib import Path

import pytest
import yaml

from cmbfe.errors import InputError
from cmbfe.paper import facts
from cmbfe.params import PROFILES, load_params, profile_file, save_params, write_profile

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def settings() -> dict:
    return yaml.safe_load(profile_file("smoke").read_text())


def load(tmp_path: Path, settings: dict) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(settings))
    load_params(file)


@pytest.mark.parametrize(("name", "folds"), [("smoke", 2), ("laptop", 3), ("paper", 10)])
def test_every_profile_loads_is_named_after_its_file_and_comes_back_as_saved(tmp_path, name, folds):
    params = load_params(profile_file(name))
    assert (params.profile, len(params.crossvalidation.folds)) == (name, folds)
    save_params(params, tmp_path / "params.yaml")
    write_profile(name, tmp_path / "deep" / "params.yaml")
    for file in (tmp_path / "params.yaml", tmp_path / "deep" / "params.yaml"):
        assert load_params(file) == params


def test_the_committed_params_are_the_laptop_profile():
    assert (ROOT / "params.yaml").read_text() == (PROFILES / "laptop.yaml").read_text()


def test_the_paper_profile_holds_the_papers_literal_settings():
    """Those of `claims.SETTINGS` are compared in test_comparison."""
    params = load_params(profile_file("paper"))
    assert params.phantom.patients.model_dump() == {"train": 33, "test": 17, "validation": 8}
    table_1 = facts.TABLE_1.drop(index="total")
    assert params.phantom.exact.images_with_cmbs.model_dump() == table_1["pictures"].to_dict()
    assert params.phantom.exact.boxes.model_dump() == table_1["cmbs"].to_dict()
    assert params.detector.default_boxes == "voc"
    assert (params.training.gamma, params.training.adam_betas) == (0.1, (0.9, 0.999))
    assert len(params.variants) == 8


@pytest.mark.parametrize(("path", "value", "reason"), [
    ("training.learning_rate", "1e-4", "number"),  # what YAML makes of 1e-4 without a point
    ("training.learning_rate", 0.0, "greater than 0"),
    ("training.learning_rate", float("inf"), "finite"),
    ("training.batch", 0, "greater than or equal to 1"),
    ("training.batch", True, "integer"),
    ("training.iterations", 10**30, "1000000000"),
    ("training.precision", "16-mixed", "bf16-mixed"),
    ("images.bias_correction.iterations", [1] * 30, "30 levels of N4 are too many"),
    ("images.bias_correction.iterations", [50, 2**40], "10000"),
    ("profile", "p" * 240, "at most 60 characters"),
    ("study.arms", {"a" * 240: {}}, "at most 60 characters"),
    ("training.batch", None, "missing key"),
    ("detector.fe.betta", 1.5, "unknown key"),
    ("training.longer", {"ssd300-fe": 2.0}, "ssd300-fe"),
    ("training.longer", {"ssd300": 1e300}, ".ssd300: "),
    ("training.milestones", [4, 3], "rise"),
    ("training", {"iterations": 5, "milestones": [3, 5]}, "milestone"),
    ("augmentation.scale", [0.95, 0.8], "a range rises"),
    ("detectors", [], "at least 1 item"),
    ("detectors", ["ssd300", "ssd300"], "twice"),
    ("detectors", ["ssd1024"], "ssd300"),
    ("crossvalidation.folds", [1], "two or more"),
    ("crossvalidation.folds", [], "two or more"),
    ("crossvalidation.folds", [1, 3], "from 1"),
    ("crossvalidation.detector", "ssd300-fe", "ssd300"),
])  # fmt: skip
def test_an_impossible_value_is_refused_with_its_path(tmp_path, settings, path, value, reason):
    *above, key = path.split(".")
    section = settings
    for name in above:
        section = section[name]
    if value is None:
        del section[key]
    elif isinstance(value, dict):
        section[key] = section.get(key, {}) | value
    else:
        section[key] = value
    with pytest.raises(InputError, match=f"^[^\n]*{re.escape(path)}[^\n]*{re.escape(reason)}[^\n]*$"):
        load(tmp_path, settings)


def test_a_misspelt_key_is_named_rather_than_the_one_it_stands_for(tmp_path, settings):
    settings["training"]["iteration"] = settings["training"].pop("iterations")
    with pytest.raises(InputError, match=r"training\.iteration: unknown key"):
        load(tmp_path, settings)


@pytest.mark.parametrize(("line", "reason"), [
    ("seed: 2020-01-01", "integer, found '2020-01-01'"),
    ("seed: 1:30", "integer, found '1:30'"),  # in YAML 1.1 a number to base 60
    ("seed: 010", "integer, found '010'"),  # and one to base 8
    ("seed: 2020-01-01 10:00:00", "integer, found '2020-01-01 10:00:00'"),
    ("seed: !!timestamp 2024-02-30", "day is out of range"),
    ("seed: !!timestamp x", ""),
    ("seed: " + "9" * 5000, ""),
    ("seed: 1\nseed: 2", "'seed' occurs twice"),
    ("seed: " + "[" * 300 + "]" * 300, ""),
    ("seed: " + "[" * 100_000, "too deep"),
    ("seed:\n  " + "- " * 5000, "too deep"),
    ("seed: &a [*a]", "more than 100,000 values"),
    ("\n".join(["a: &a [x, x]", *(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]" for n in range(9))]),
     "more than 100,000 values"),
    ("\n".join(["a: &a {x: 1}", *(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]}}"
                                  for n in range(9))]),
     "more than 100,000 values"),
    ("seed: " + "x" * 100_000, "integer"),
])  # fmt: skip
def test_what_yaml_makes_of_a_value_is_said_in_a_short_line(tmp_path, settings, line, reason):
    file = tmp_path / "params.yaml"
    del settings["seed"]
    file.write_text(f"{yaml.safe_dump(settings)}{line}\n")
    with pytest.raises(InputError, match=f"^[^\n]*params\\.yaml: [^\n]*{re.escape(reason)}[^\n]*$") as caught:
        load_params(file)
    assert len(str(caught.value)) < len(str(file)) + 1000


def test_aliases_and_plain_numbers_are_read(tmp_path, settings):
    text = yaml.safe_dump(settings).replace("seed: ", "seed: 0x10 # ")
    text = text.replace("  learning_rate: ", "  learning_rate: &rate 2.0e-3 # ") + "\n"
    (tmp_path / "params.yaml").write_text(text)
    params = load_params(tmp_path / "params.yaml")
    assert (params.seed, params.training.learning_rate) == (16, 2e-3)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"images": 50}, "12 slices for each, but slices is 10"),
    ({"boxes": {"train": 3, "test": 2, "validation": 2}}, "3 boxes on 4 images do not fit 2 train patients"),
    ({"images_with_cmbs": {"train": 1, "test": 2, "validation": 2}}, "do not fit 2 train patients"),
    ({"images_with_cmbs": {"train": 4, "test": 11, "validation": 2}}, "do not fit 1 test patients"),
])  # fmt: skip
def test_exact_counts_fit_the_cohort(tmp_path, settings, changes, reason):
    counts = {"train": 4, "test": 2, "validation": 2}
    exact = {"images": 41, "images_with_cmbs": counts, "boxes": {**counts, "test": 20}}
    settings["phantom"]["exact"] = exact
    load(tmp_path, settings)
    settings["phantom"]["exact"] = {**exact, **changes}
    with pytest.raises(InputError, match=reason):
        load(tmp_path, settings)


def test_a_file_that_is_absent_or_no_settings_and_an_unknown_profile_are_named_in_one_line(tmp_path):
    file = tmp_path / "params.yaml"
    with pytest.raises(InputError, match="laptop, paper, smoke"):
        write_profile("desktop", file)
    for text in (None, "", "- a\n- b\n", "a: [\n", "\x00"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(InputError, match=r"^[^\n]*params\.yaml: [^\n]*$"):
            load_params(file)
    with pytest.raises(InputError, match=r"^[^\n]*: cannot be read: [^\n]*$"):
        load_params(tmp_path / ("x" * 300))


def test_a_detector_and_its_twin_train_longer_and_faster_by_its_factors_and_milestones_fall_where_iterations_put_them():
    factors = {"longer": {"ssd300": 1.5}, "faster": {"ssd300": 2.0}}
    training = load_params(profile_file("paper")).training.model_copy(update=factors)
    for variant in ("ssd300", "ssd300-fe"):
        assert training.of(variant).learning_rate == 2 * training.learning_rate
        assert (training.of(variant).iterations, training.of(variant).milestones) == (180_000, (120_000, 150_000))
    assert training.of("ssd512-fe").iterations == 120_000
    scaled = training.scaled_to(1200)
    assert (scaled.iterations, scaled.milestones, scaled.of("ssd300").iterations) == (1200, (800, 1000), 1200)
    assert training.scaled_to(1).milestones == ()


def test_an_arm_that_changes_fe_only_takes_the_detector_without_fe_of_the_unchanged_arm():
    study = load_params(profile_file("laptop")).study
    assert study.plain_arm("placement-source") == "ssd300"
    for name in ("ssd512", "ssd300", "boxes-coco", "without-l2norm", "fcos-small", "phase"):
        assert study.plain_arm(name) == name
    unchanged = ["ssd512", "ssd300", "resnet34-300", "mobilenet320"]
    assert [name for name, arm in study.every_arm.items() if arm.changes_nothing] == unchanged


def test_a_wider_detector_has_the_factor_of_its_twin_and_at_most_the_papers_channels():
    detector = load_params(profile_file("laptop")).detector
    wider = detector.model_copy(update={"wider": {"ssd300": 2.0, "ssd512": 9.0}})
    names = ("ssd300", "ssd300-fe", "ssd512-fe", "resnet34-300")
    assert [wider.width_of(name) for name in names] == [0.5, 0.5, 1.0, 0.25]


def test_changed_settings_are_those_named_and_no_others():
    params = load_params(profile_file("laptop"))
    changed = params.changed({"detector.fe.beta": 2.0, "training.iterations": 900})
    assert (changed.detector.fe.beta, changed.training.iterations) == (2.0, 900)
    back = changed.changed({"detector.fe.beta": 1.5, "training.iterations": params.training.iterations})
    assert back == params


PLAIN = {"ssd300": {}}


@pytest.mark.parametrize(
    ("study", "reason"),
    [
        ({"arms": PLAIN | {"a": {"settings": {"detector.fe.bta": 2.0}}}}, "a.settings: detector.fe.bta: unknown"),
        ({"arms": PLAIN | {"a": {"settings": {"detector.fe.beta": -1.0}}}}, "detector.fe.beta: Input should be"),
        ({"arms": PLAIN | {"a": {"settings": {"seed": 3}}}}, "seed: only settings under detector and training"),
        ({"arms": PLAIN | {"a": {"detector": "ssd512", "settings": {"detector.fe.beta": 2.0}}}}, "an arm of ssd512"),
        ({"arms": PLAIN | {"a": {"longer": 2.0, "settings": {"detector.fe.beta": 2.0}}}}, "an arm of ssd300 without"),
        ({"arms": PLAIN | {"a": {"detector": "ssd300-fe"}}}, "name the detector without FE (ssd300)"),
        ({"arms": {"a": {"detector": "ssd512"}}}, "phase: start is 'ssd300'"),
        ({"arms": PLAIN | {"a": {"patients": 5}}}, "a: patients is 5; training_patients has 1"),
        ({"arms": PLAIN | {"a": {"seeds": 9}}}, "a: seeds is 9; give 2 to 2"),
        ({"arms": PLAIN | {"a": {"seeds": 1}}}, "greater than or equal to 2"),
        ({"arms": PLAIN | {"a": {"test_patients": 9}}}, "a: test_patients is 9; the study has 2"),
        ({"arms": PLAIN | {"a b": {}}}, "should match pattern"),
        ({"arms": PLAIN | {"patients": {}}}, "no arm can be named patients"),
        ({"seeds": [1]}, "two or more"),
        ({"seeds": [2, 3]}, "from 1"),
        ({"training_patients": [4, 2]}, "rise"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_is_refused(tmp_path, settings, study, reason):
    with pytest.raises(InputError, match=f"^[^\n]*study[^\n]*{re.escape(reason)}[^\n]*$"):
        load(tmp_path, {**settings, "study": settings["study"] | study})
