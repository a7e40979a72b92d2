"""What phase does, on matches whose numbers are known: by kind, per patient, and in words."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from metric_examples import detection, labels_of
from study_world import study_params

from cmbfe.figures.phase import phase_figure
from cmbfe.metrics.cases import NOTHING
from cmbfe.metrics.matching import Matches, match
from cmbfe.studies.phase_effect import (
    effect_table,
    false_positives_per_patient,
    gains_table,
    of_kind,
    seeds_table,
    verdict,
)

T, FAR, FARTHER = [10, 10, 10, 10], [60, 60, 10, 10], [60, 10, 10, 10]


def found(calcifications: int, others: int = 4, patients: int = 8) -> tuple[Matches, np.ndarray]:
    """Every patient's microbleed is found; so many have a calcification that is mistaken, others something else.

    All false positives score higher than the hits: each of them counts at every sensitivity.
    """
    labels = labels_of({image: [T] for image in range(1, patients + 1)})
    for image in labels["images"]:
        image["patient_id"] = f"P{image['id']}"
    hits = [detection(image, 0.5, T) for image in range(1, patients + 1)]
    mistaken = [detection(image, 0.9, FAR) for image in range(1, calcifications + 1)]
    mistaken += [detection(image, 0.8, FARTHER) for image in range(1, others + 1)]
    matches = match(labels, hits + mistaken)
    names = np.array([""] * len(hits) + ["calcification"] * calcifications + [NOTHING] * others)
    return matches, names[matches.detection]


def both(without: list[int], with_phase: list[int]) -> dict:
    return {"magnitude": [found(one) for one in without], "phase": [found(one) for one in with_phase]}


def test_the_false_positives_of_a_kind_are_counted_at_the_sensitivity_of_all():
    matches, kinds = found(calcifications=6, others=2)
    only = of_kind(matches, kinds, "calcification")
    assert false_positives_per_patient(only, 0.6) == 6 / 8
    assert false_positives_per_patient(of_kind(matches, kinds, NOTHING), 0.6) == 2 / 8
    assert false_positives_per_patient(of_kind(matches, kinds, "all"), 0.6) == 1
    np.testing.assert_array_equal(only.truth_score, matches.truth_score)


def test_false_positives_per_patient_follow_the_resampled_patients():
    matches, kinds = found(calcifications=1)
    only = of_kind(matches, kinds, "calcification")
    weights = np.ones((2, 8))
    weights[1] = [8, 0, 0, 0, 0, 0, 0, 0]  # the one patient with the calcification
    np.testing.assert_allclose(false_positives_per_patient(only, 0.6, weights), [1 / 8, 1])


def test_a_row_has_both_values_the_difference_and_its_interval():
    params = study_params()
    runs = {"ssd300": both([8, 6], [2, 0])}
    table = effect_table(runs, ["calcification"], params, resamples=200)
    row = table.loc[("ssd300", "false positives: calcification")]
    assert row[["without_phase", "with_phase", "difference"]].tolist() == [7 / 8, 1 / 8, -6 / 8]
    assert row["difference_low"] < -6 / 8 < row["difference_high"]
    assert table.loc[("ssd300", f"false positives: {NOTHING}"), "difference"] == 0
    assert table.loc[("ssd300", "largest sensitivity"), "with_phase"] == 1
    assert table.loc[("ssd300", "false positives: all"), "without_phase"] == 7 / 8 + 4 / 8
    of_seeds = seeds_table(runs, params)
    assert of_seeds["calcifications_magnitude"].tolist() == [1, 6 / 8]
    assert of_seeds["calcifications_phase"].tolist() == [2 / 8, 0]
    figure = phase_figure({"microbleed": np.zeros((4, 4, 2), np.uint8)}, table)
    labels = [text.get_text() for text in figure.subfigs[1].axes[0].get_yticklabels()]
    assert labels == ["calcification", "microbleed, poor or second box", NOTHING]
    plt.close(figure)


def test_the_gain_by_fe_is_told_by_what_detectors_see_once_both_twins_are_there():
    twins = {"ssd300": both([4, 4], [4, 4]), "ssd300-fe": both([4, 4], [0, 0])}
    gains = gains_table(twins, study_params(), resamples=50)
    assert gains.loc["magnitude", "difference"] == 0
    assert gains.loc["phase", "difference"] > 0
    assert gains_table({"ssd300": twins["ssd300"]}, study_params(), resamples=50).empty


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.3, -0.1, "better"), (0.1, 0.3, "worse"), (-0.1, 0.1, "cannot be told"), (np.nan, np.nan, "no interval")],
)
def test_the_sentence_says_what_the_interval_says(low, high, said):
    row = {"without_phase": 0.5, "with_phase": 0.4, "difference": -0.1}
    row |= {"difference_low": low, "difference_high": high}
    assert said in verdict(row, "calcifications", lower_is_better=True)
