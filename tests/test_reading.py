"""What the study says, on matches whose numbers are known: gains, kinds, phase, folds, and their figures."""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from metric_examples import FAR, T, detection, labels_of, one_image_each
from study_world import study_params

from cmbfe import paths
from cmbfe.errors import InputError
from cmbfe.figures.studies import phase_figure
from cmbfe.files import write_table
from cmbfe.metrics import intervals
from cmbfe.metrics.cases import NOTHING
from cmbfe.metrics.curves import average_precision
from cmbfe.metrics.intervals import difference_over_seeds
from cmbfe.metrics.matching import Matches, match, save_matches
from cmbfe.params import CrossValidation
from cmbfe.studies.phase import effect_table, false_positives_per_patient, of_kind, verdict
from cmbfe.studies.reading import (
    folds_table,
    gains_table,
    kinds_table,
    pooled,
    read_arm,
    read_folds,
    read_study,
    seeds_table,
    sensitivity_of,
)
from cmbfe.studies.trials.arms import CROSSVALIDATION, of_ours, of_torchvision, result_files

FARTHER = [60, 10, 10, 10]


def matched(hits: int, patients: int = 8) -> Matches:
    """So many microbleeds are found, and nothing else: AP is the share."""
    return match(one_image_each(patients, T), [detection(image, 0.9, T) for image in range(1, hits + 1)])


def runs() -> dict:
    plain, better, worse = ([matched(hits) for hits in of_seeds] for of_seeds in ((4, 6), (6, 7), (2, 3)))
    return {
        "ssd300": {"plain": plain, "fe": better},
        "placement-source": {"plain": plain, "fe": worse},
        "few": {"plain": worse, "fe": worse},
        "ssdlite-small": {"plain": plain, "fe": worse, "segmentation": better},
    }


def test_a_gain_is_the_mean_over_seeds_and_is_held_against_fe_as_it_is():
    table = gains_table(runs(), study_params())
    assert table["ap"].tolist() == [0.625, 0.625, 0.3125, 0.625, 0.625]
    assert table["ap_treated"].tolist() == [0.8125, 0.3125, 0.3125, 0.3125, 0.8125]
    assert table["gain"].tolist() == [0.1875, -0.3125, 0.0, -0.3125, 0.1875]
    assert table["over_fe"].tolist() == pytest.approx([np.nan, -0.5, -0.5, np.nan, 0.5], nan_ok=True)
    assert (table["gain_low"] <= table["gain"]).all()
    assert (table["gain_high"] >= table["gain"]).all()
    assert table.loc[("ssd300", "fe"), "gain_seed_deviation"] == pytest.approx(np.std([0.25, 0.125], ddof=1))
    assert table["paper_gain"].tolist() == pytest.approx([0.02, *[np.nan] * 4], nan_ok=True)
    alone = gains_table({"placement-source": runs()["placement-source"]}, study_params())
    assert np.isnan(alone["over_fe"]).all()  # nothing that it could be held against
    of_seeds = seeds_table(runs()).sort_index()["gain"]
    for arm, treatment in (("ssd300", "fe"), ("ssdlite-small", "segmentation")):
        assert of_seeds.loc[arm, treatment].tolist() == [0.25, 0.125]


def test_a_study_that_still_runs_is_read_as_far_as_it_is_tested(tmp_path):
    params = study_params()
    names = of_ours(params)
    assert (names, of_torchvision(params)) == (["ssd300", "placement-source", "few"], ["ssdlite-small"])

    def save(arm: str, treatment: str, hits: list[int]) -> None:
        for file, number in zip(result_files(arm, treatment, params, tmp_path), hits, strict=True):
            save_matches(matched(number), file)

    with pytest.raises(InputError, match="results/study: no arm has two seeds"):
        read_study(names, params, tmp_path)
    write_cmbs(tmp_path, matched(1))
    save("ssd300", "plain", [1, 2])
    save("placement-source", "fe", [5, 5])
    assert list(read_study(names, params, tmp_path)) == ["placement-source"]  # with the plain one of ssd300
    save("ssd300", "fe", [3, 4])
    study = read_study(names, params, tmp_path)
    hits = {arm: {name: [len(seed.score) for seed in seeds] for name, seeds in study[arm].items()} for arm in study}
    plain = {"plain": [1, 2]}
    assert hits == {"ssd300": plain | {"fe": [3, 4]}, "placement-source": plain | {"fe": [5, 5]}}
    paths.study_result("ssd300", tmp_path).joinpath("fe-2.npz").unlink()
    assert list(read_study(names, params, tmp_path)) == ["placement-source"]
    save_matches(matched(3, patients=7), result_files("placement-source", "fe", params, tmp_path)[0])
    save("few", "plain", [1, 1])
    save("few", "fe", [1, 1])
    assert list(read_study(names, params, tmp_path)) == ["few"]  # the other arm was tested on earlier patients too
    write_cmbs(tmp_path, matched(1, patients=6))
    assert list(read_study(names, params, tmp_path)) == ["placement-source", "few"]  # of earlier patients all


def write_cmbs(root: Path, tested: Matches) -> None:
    patients = [tested.patients[number] for number in tested.truth_patient]
    write_table(
        pd.DataFrame({"patient": patients}, index=pd.Index(tested.truth_ids, name="id")), paths.study_cmbs(root)
    )


def test_of_an_arm_that_still_runs_the_seeds_so_far_are_read(tmp_path):
    params = study_params()
    params = params.model_copy(update={"study": params.study.model_copy(update={"seeds": (1, 2, 3)})})
    for treatment, seeds in {"plain": (1, 2, 3), "fe": (1, 2)}.items():
        for seed in seeds:
            save_matches(matched(seed), result_files("ssd300", treatment, params, tmp_path)[seed - 1])
    assert {name: len(seeds) for name, seeds in read_arm("ssd300", params, tmp_path).items()} == {"plain": 2, "fe": 2}


def test_sensitivity_of_some_is_that_at_one_false_positive_per_image():
    labels = labels_of({1: [T], 2: [T], 3: []}, patient_id="P")
    scores = [(1, 0.9, T), (2, 0.2, T)]
    for allowed, expected in ((3, 1.0), (4, 0.5)):
        false = [(3, 0.5, [x, 60, 10, 10]) for x in range(allowed)]
        matches = match(labels, [detection(*given) for given in (*scores, *false)])
        assert sensitivity_of(matches, frozenset({1, 2})) == expected  # three images, three false positives
    assert sensitivity_of(matches, frozenset({1})) == 1.0
    assert sensitivity_of(matches, frozenset({2})) == 0.0
    assert np.isnan(sensitivity_of(matches, frozenset()))


def test_sensitivity_of_resamples_is_that_of_the_patients_drawn():
    matches, chosen = matched(4), frozenset({1, 8})
    weights = np.zeros((3, 8))
    weights[0, 0], weights[1, 7], weights[2, 3] = 2, 1, 1
    np.testing.assert_array_equal(sensitivity_of(matches, chosen, weights=weights), [1.0, 0.0, np.nan])
    plain, better = runs()["ssd300"].values()
    summary = difference_over_seeds(partial(sensitivity_of, chosen=frozenset({7})), better, plain, resamples=200)
    assert summary.of_each_seed == (0.0, 1.0)


def test_kinds_split_the_microbleeds_into_thirds():
    cmbs = pd.DataFrame({"contrast": np.arange(8) / 10, "visible_diameter_mm": np.arange(8)[::-1]}, range(1, 9))
    table = kinds_table(runs(), cmbs, study_params())
    by_contrast = table.loc[("ssd300", "contrast")]
    assert by_contrast["cmbs"].tolist() == [3, 2, 3]
    # Every run finds the first three; of the last three those without FE find none and one, those with FE one and two.
    assert by_contrast["sensitivity"].tolist() == pytest.approx([1.0, 0.75, 1 / 6])
    assert by_contrast["sensitivity_fe"].tolist() == pytest.approx([1.0, 1.0, 1 / 2])
    assert table.loc[("ssd300", "diameter, mm"), "sensitivity"].tolist() == pytest.approx([1 / 6, 0.75, 1.0])


def with_kinds(calcifications: int, others: int = 4, patients: int = 8) -> tuple[Matches, np.ndarray]:
    """Every patient's microbleed is found; so many have a calcification that is mistaken, others something else.

    All false positives score higher than the hits: each of them counts at every sensitivity.
    """
    hits = [detection(image, 0.5, T) for image in range(1, patients + 1)]
    mistaken = [detection(image, 0.9, FAR) for image in range(1, calcifications + 1)]
    mistaken += [detection(image, 0.8, FARTHER) for image in range(1, others + 1)]
    matches = match(one_image_each(patients, T), hits + mistaken)
    names = np.array([""] * len(hits) + ["calcification"] * calcifications + [NOTHING] * others)
    return matches, names[matches.detection]


def test_the_false_positives_of_a_kind_are_counted_at_the_sensitivity_of_all():
    matches, kinds = with_kinds(calcifications=6, others=2)
    only = of_kind(matches, kinds, "calcification")
    assert false_positives_per_patient(only, 0.6) == 6 / 8
    assert false_positives_per_patient(of_kind(matches, kinds, NOTHING), 0.6) == 2 / 8
    assert false_positives_per_patient(of_kind(matches, kinds, "all"), 0.6) == 1
    np.testing.assert_array_equal(only.truth_score, matches.truth_score)
    weights = np.ones((2, 8))
    weights[1] = [8, 0, 0, 0, 0, 0, 0, 0]  # a patient with a calcification, eight times
    np.testing.assert_allclose(false_positives_per_patient(only, 0.6, weights), [6 / 8, 1])


def test_a_row_of_phase_has_both_values_the_difference_and_its_interval():
    of_treatment = {"plain": [8, 6], "phase": [2, 0], "fe": [8, 6]}  # fe-phase is not trained yet
    both = {name: [with_kinds(number) for number in numbers] for name, numbers in of_treatment.items()}
    matches, kinds = ({name: [pair[i] for pair in pairs] for name, pairs in both.items()} for i in (0, 1))
    table = effect_table(matches, kinds, ["calcification"], study_params(), resamples=200)
    assert set(table.index.get_level_values("detector")) == {"ssd300"}
    row = table.loc[("ssd300", "false positives: calcification")]
    assert row[["without_phase", "with_phase", "difference"]].tolist() == [7 / 8, 1 / 8, -6 / 8]
    assert row["difference_low"] < -6 / 8 < row["difference_high"]
    assert table.loc[("ssd300", f"false positives: {NOTHING}"), "difference"] == 0
    assert table.loc[("ssd300", "largest sensitivity"), "with_phase"] == 1
    assert table.loc[("ssd300", "false positives: all"), "without_phase"] == 7 / 8 + 4 / 8
    figure = phase_figure({"microbleed": np.zeros((4, 4, 2), np.uint8)}, table)
    labels = [text.get_text() for text in figure.subfigs[1].axes[0].get_yticklabels()]
    assert labels == ["calcification", "microbleed,\npoor or second box", NOTHING]
    plt.close(figure)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.1, 0.1, "inconclusive"), (np.nan, np.nan, "no interval")],
)
def test_the_sentence_says_what_the_interval_says(low, high, said):
    row = {"without_phase": 0.5, "with_phase": 0.4, "difference": -0.1}
    row |= {"difference_low": low, "difference_high": high}
    assert said in verdict(row, "calcifications", lower_is_better=True)


def fold(first: int, hits: list[float], false: list[float] = ()) -> Matches:
    """Two patients with a microbleed and an image each, from image `first` on; scores of hits and false positives."""
    detections = [detection(first + number, score, T) for number, score in enumerate(hits)]
    return match(one_image_each(2, T, first), detections + [detection(first, score, FAR) for score in false])


def folds() -> dict:
    """With FE all are found; without it all in fold 1, in fold 2 a false positive before one hit of two."""
    plain = [fold(1, [0.9, 0.8]), fold(3, [0.3], [0.95])]
    with_fe = [fold(1, [0.9, 0.8]), fold(3, [0.9, 0.8])]
    by_fold = {str(number): {"plain": plain[number - 1], "fe": with_fe[number - 1]} for number in (1, 2)}
    return by_fold | {"all": {"plain": pooled(plain), "fe": pooled(with_fe)}}


def test_the_table_of_folds_by_hand():
    params = study_params().model_copy(update={"crossvalidation": CrossValidation(detector="ssd512", folds=(1, 2))})
    table = folds_table(folds(), params)
    assert list(table.index) == ["1", "2", "mean", "all"]
    # Fold 2: precision 1/2 at sensitivity 1/2. All: 3 of 4 found, of 4 detections, and the first is false.
    assert table["our_ap"].tolist() == pytest.approx([1, 0.25, 0.625, 0.75 * 0.75])
    assert table["our_ap_fe"].tolist() == pytest.approx([1, 1, 1, 1])
    assert table["our_gain"].tolist() == pytest.approx([0, 0.75, 0.375, 1 - 0.75 * 0.75])
    counts = table.drop(index="mean")[["patients", "pictures", "cmbs"]]
    assert counts.to_numpy().tolist() == [[2, 2, 2], [2, 2, 2], [4, 4, 4]]
    printed = table.loc[["mean", "all"], ["paper_ap", "paper_ap_fe", "paper_gain"]].to_numpy()
    np.testing.assert_allclose(printed, [[0.73, 0.75, 0.02]] * 2)
    assert table.loc[["1", "2"], "paper_ap"].isna().all()


def test_all_folds_together_are_as_matched_at_once_and_paired_over_all_patients():
    params, whole = study_params(), folds()["all"]
    hits = [detection(image, score, T) for image, score in ((1, 0.9), (2, 0.8), (3, 0.3))]
    at_once = match(one_image_each(4, T), [*hits, detection(3, 0.95, FAR)])
    for name in ("score", "outcome", "truth", "patient", "truth_patient", "images_per_patient"):
        np.testing.assert_array_equal(getattr(whole["plain"], name), getattr(at_once, name))
    assert whole["plain"].patients == at_once.patients == ["P1", "P2", "P3", "P4"]
    row = folds_table(folds(), params).loc["all"]
    resamples = params.evaluation.bootstrap_samples
    expected = intervals.paired_difference(average_precision, whole["fe"], whole["plain"], resamples, params.seed)
    assert (row["our_gain_low"], row["our_gain_high"]) == (expected.low, expected.high)
    assert np.isnan(row["paper_ap"])  # the paper's folds are read as those of SSD-512


def test_folds_are_read_once_all_are_tested(tmp_path):
    params = study_params()
    with pytest.raises(InputError, match=CROSSVALIDATION):
        read_folds(params, tmp_path)
    for treatment in ("plain", "fe"):
        for number, file in enumerate(result_files(CROSSVALIDATION, treatment, params, tmp_path), 1):
            save_matches(fold(2 * number - 1, [0.9]), file)
    assert list(read_folds(params, tmp_path)) == ["1", "2", "all"]
