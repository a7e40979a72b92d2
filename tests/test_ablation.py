"""What the study says, on matches whose AP is known."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from metric_examples import detection, labels_of
from study_world import study_params

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.metrics.intervals import difference_over_seeds
from cmbfe.metrics.matching import Matches, match, save_matches
from cmbfe.studies.ablation import (
    complete_arms,
    effects_table,
    kinds_table,
    metrics_table,
    read_study,
    seeds_table,
    sensitivity_of,
)

T, FAR = [10, 10, 10, 10], [60, 60, 10, 10]


def found(hits: int, patients: int = 8) -> Matches:
    """Patients with an image and a microbleed each, of which so many are found, and nothing else: AP is the share."""
    labels = labels_of({image: [T] for image in range(1, patients + 1)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id']}"
    return match(labels, [detection(image, 0.9, T) for image in range(1, hits + 1)])


def runs() -> dict:
    plain, better, worse = [found(4), found(6)], [found(6), found(7)], [found(2), found(3)]
    return {"ssd300": (plain, better), "placement-source": (plain, worse), "few": (worse, worse)}


def test_an_effect_is_the_mean_over_seeds_and_a_change_is_against_fe_as_it_is():
    table = effects_table(runs(), study_params())
    assert table["ap"].tolist() == [0.625, 0.625, 0.3125]
    assert table["ap_fe"].tolist() == [0.8125, 0.3125, 0.3125]
    assert table["gain"].tolist() == [0.1875, -0.3125, 0.0]
    assert table["change"].tolist() == pytest.approx([np.nan, -0.5, -0.5], nan_ok=True)
    assert (table["gain_low"] <= table["gain"]).all()
    assert (table["gain_high"] >= table["gain"]).all()
    assert table.loc["ssd300", "gain_seed_deviation"] == pytest.approx(np.std([0.25, 0.125], ddof=1))
    assert table["paper_gain"].tolist() == pytest.approx([0.02, np.nan, np.nan], nan_ok=True)
    assert table["setting"].tolist() == [
        "as in params.yaml",
        "detector.fe.placement = source",
        "1 of 2 training patients",
    ]


def test_a_study_that_still_runs_is_read_as_far_as_it_is_tested(tmp_path):
    params = study_params()
    with pytest.raises(InputError, match="none of ssd300 is trained and tested with all seeds"):
        read_study(params, tmp_path)
    for seed in (1, 2):
        save_matches(found(seed), paths.study_result("ssd300", tmp_path) / f"ssd300-{seed}.npz")
        save_matches(found(5), paths.study_result("placement-source", tmp_path) / f"ssd300-fe-{seed}.npz")
    assert complete_arms(params, tmp_path) == ["placement-source"]
    with pytest.raises(InputError, match="none of ssd300 is trained and tested with all seeds"):
        read_study(params, tmp_path)
    for seed in (1, 2):
        save_matches(found(seed), paths.study_result("ssd300", tmp_path) / f"ssd300-fe-{seed}.npz")
    read = read_study(params, tmp_path)  # the arm that changes FE only is compared with ssd300's detectors without
    assert list(read) == ["ssd300", "placement-source"]
    for name, hits in (("ssd300", [1, 2]), ("placement-source", [5, 5])):
        without, with_fe = read[name]
        assert [int(one.truth_score.size - np.isinf(one.truth_score).sum()) for one in without] == [1, 2]
        assert [int(one.truth_score.size - np.isinf(one.truth_score).sum()) for one in with_fe] == hits


def test_a_change_needs_the_arm_that_it_is_held_against():
    alone = {"placement-source": runs()["placement-source"]}
    assert np.isnan(effects_table(alone, study_params()).loc["placement-source", "change"])
    assert len(metrics_table(runs(), study_params())) == 6


def test_seeds_stand_one_by_one():
    table = seeds_table(runs())
    assert table.loc["ssd300", "gain"].tolist() == [0.25, 0.125]


def test_metrics_are_those_of_arms_without_changes():
    table = metrics_table(runs(), study_params())
    assert set(table.index.get_level_values("arm")) == {"ssd300"}
    assert table.loc[("ssd300", "AP, all points"), "gain"] == 0.1875
    assert np.isnan(table.loc[("ssd300", "precision at 90% sensitivity"), "gain"])  # six of eight are found at best


def test_sensitivity_of_some_is_that_at_one_false_positive_per_image():
    labels = labels_of({1: [T], 2: [T], 3: []}, patient_id="P")
    scores = [(1, 0.9, T), (2, 0.2, T)]
    for allowed, expected in ((3, 1.0), (4, 0.5)):
        false = [(3, 0.5, [x, 60, 10, 10]) for x in range(allowed)]
        matches = match(labels, [detection(*one) for one in (*scores, *false)])
        assert sensitivity_of(matches, frozenset({1, 2})) == expected  # three images, three false positives
    assert sensitivity_of(matches, frozenset({1})) == 1.0
    assert sensitivity_of(matches, frozenset({2})) == 0.0
    assert np.isnan(sensitivity_of(matches, frozenset()))


def test_sensitivity_of_resamples_is_that_of_the_patients_drawn():
    matches, chosen = found(4), frozenset({1, 8})
    weights = np.zeros((3, 8))
    weights[0, 0], weights[1, 7], weights[2, 3] = 2, 1, 1
    np.testing.assert_array_equal(sensitivity_of(matches, chosen, weights=weights), [1.0, 0.0, np.nan])


def test_kinds_split_the_microbleeds_into_thirds():
    cmbs = pd.DataFrame({"contrast": np.arange(8) / 10, "visible_diameter_mm": np.arange(8)[::-1]}, range(1, 9))
    table = kinds_table(runs(), cmbs, study_params())
    by_contrast = table.loc[("ssd300", "contrast")]
    assert by_contrast["cmbs"].tolist() == [3, 2, 3]
    # Every run finds the first three; of the last three those without FE find none and one, those with FE one and two.
    assert by_contrast["sensitivity"].tolist() == pytest.approx([1.0, 0.75, 1 / 6])
    assert by_contrast["sensitivity_fe"].tolist() == pytest.approx([1.0, 1.0, 1 / 2])
    assert table.loc[("ssd300", "diameter, mm"), "sensitivity"].tolist() == pytest.approx([1 / 6, 0.75, 1.0])


def test_a_metric_of_the_kinds_can_be_compared_over_seeds():
    plain, better = runs()["ssd300"]
    summary = difference_over_seeds(partial(sensitivity_of, chosen=frozenset({7})), better, plain, resamples=200)
    assert summary.of_each_seed == (0.0, 1.0)
