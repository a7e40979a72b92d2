"""Write docs/report.md, the report in the form of a paper, with numbers from results/ and params.yaml.

    python -m tools.write_report [--out docs/report.md]

The wording of a sentence depends on the intervals, so that other results give another report.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.paper.tables import markdown_of
from cmbfe.paper.words import NOTHING, verdict
from cmbfe.params import Params, load_params
from cmbfe.studies.trials.arms import PLAIN, arm_of, of_ours, settings_of
from tools.words import (
    answer,
    earlier,
    folds,
    intervals_without_zero,
    of_earlier_patients,
    seeds_that_would_do,
    unchanged,
    with_fe,
)

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "report.md.jinja"
EXPOSED = ("resnet34-300", "mobilenet320", "placement-source", "placement-both", "without-l2norm")
"""Arms in which FE reaches the first head, because no normalisation hides it."""
FADING = ("fading", "assisted-excitation")
"""Arms whose FE fades out, so that features at the end of training are the same as in the test."""

COLUMNS = {
    "study": {
        "arm": "arm",
        "setting": "what is changed",
        "ap": "AP without FE",
        "ap_treated": "AP with FE",
        "gain": "gain by FE",
        "over_fe": "AP with FE minus that of the unchanged arm, same seeds",
        "seeds": "seeds",
    },
    "study_kinds": {
        "arm": "detector",
        "by": "by",
        "from": "from",
        "to": "to",
        "sensitivity": "sensitivity without FE",
        "sensitivity_fe": "with FE",
        "gain": "gain by FE",
    },
    "table2": {
        "variant": "detector",
        "paper_ap": "AP, paper",
        "our_ap": "AP, ours",
        "paper_gain": "gain by FE, paper",
        "our_gain": "gain by FE, ours",
    },
    "false_positives": {
        "kind": "on",
        "SSD": "SSD",
        "SSD-FE": "SSD-FE",
        "SSD only": "SSD only",
        "SSD-FE only": "SSD-FE only",
    },
    "table4": {
        "study": "detector",
        "our_ap": "AP, ours",
        "our_sensitivity_at_1_per_picture": "sensitivity at 1 false positive per image, ours",
        "our_ap_over_ssd512": "AP minus that of SSD-512",
    },
    "others": {
        "detector": "detector",
        "treatment": "behind its backbone",
        "ap": "AP without",
        "ap_treated": "AP with it",
        "gain": "gain",
        "over_fe": "AP minus that with FE",
    },
    "phase": {
        "detector": "detector",
        "metric": "metric",
        "without_phase": "without phase",
        "with_phase": "with phase",
        "difference": "difference",
    },
    "contradictions": {"what": "what", "printed": "printed", "follows": "follows", "how": "how"},
}
"""Columns of the report's tables, by their names in results/tables, with their headings."""


def report(root: Path) -> str:
    """The report as Markdown, for docs/.

    Raises:
        InputError: a table that the report needs is missing.
    """
    params = load_params(root / "params.yaml")
    study = _read(root, "study")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("report")),
        undefined=StrictUndefined,  # a missing value must not leave a gap in a sentence
        keep_trailing_newline=True,
        autoescape=False,  # it is Markdown
    )
    environment.globals.update(verdict=verdict)
    tables = {name: _read(root, name) for name in COLUMNS}
    tables["table4"] = tables["table4"].dropna(subset="our_ap")  # the others were not measured here
    values = {f"{name}_table": markdown_of(tables[name], columns) for name, columns in COLUMNS.items()}
    fe_in_others = tables["others"][tables["others"]["treatment"] == "fe"]
    values["others_gains"] = intervals_without_zero(fe_in_others.set_index("detector"), "gain", "the gain by FE")
    values["old"] = of_earlier_patients(params, root)
    values["earlier"] = earlier(values["old"])
    values["coco_boxes"] = _of_coco_boxes(_read(root, "study_seeds"))
    values["answer"] = answer(with_fe(study, tables["others"]))
    values |= _of_the_study(study, tables["others"], params) | _of_the_pipeline(root, params) | _of_features(root)
    return environment.get_template(TEMPLATE).render(values)


def _of_the_study(study: pd.DataFrame, of_torchvision: pd.DataFrame, params: Params) -> dict[str, Any]:
    """Values and sentences about the study, by their names in the template."""
    plain = unchanged(study)
    others = study.drop(index=plain.index)
    changes = others.dropna(subset="over_fe").set_index("arm")
    able = plain[plain["ap"] >= NOTHING]
    spread = 100 * able["gain_seed_deviation"]
    paper_gains = 100 * plain["paper_gain"].dropna()
    return {
        "params": params,
        "plain": [row for _, row in plain.iterrows()],
        "waiting": [name for name in params.study.arms if name not in {*study["arm"], *of_torchvision["arm"]}],
        "spread": f"{spread.min():.1f} to {spread.max():.1f}",
        "able": ", ".join(able["detector"]),
        "paper_gains": _range(paper_gains, "{:.1f}"),
        "beside_spread": f"{'no ' if spread.max() > paper_gains.max() else ''}larger than that",
        "seeds": seeds_that_would_do(able),
        "gains": intervals_without_zero(others.set_index("arm"), "gain", "the gain by FE"),
        "varied": ", ".join(changes.index),
        "readings": intervals_without_zero(changes, "over_fe", "the change in AP with FE"),
        "fading": intervals_without_zero(
            changes[changes.index.isin(FADING)], "over_fe", "the change in SSD's AP by fading"
        ),
        "exposed": intervals_without_zero(
            study[study["arm"].isin(EXPOSED)].set_index("arm"), "gain", "the gain by FE"
        ),
        "patient_spread": f"{100 * study['gain_patient_deviation'].median():.1f}",
    }


def _of_coco_boxes(of_seeds: pd.DataFrame) -> str:
    ap = of_seeds.pivot_table("ap", index="seed", columns="arm")
    if "boxes-coco" not in ap:
        return ""
    coco, ours = ap[["boxes-coco", "ssd300"]].dropna().mean()  # over the same seeds
    return f"With COCO's default boxes, SSD-300 without FE has an AP of {coco:.3f} instead of {ours:.3f}, same seeds."


def _of_the_pipeline(root: Path, params: Params) -> dict[str, Any]:
    """Values and sentences about the trainings of `make repro` and about the cross-validation."""
    table1, kinds, table3 = (
        _read(root, "table1").set_index("split"),
        _read(root, "study_kinds"),
        _read(root, "table3"),
    )
    arms = {name: settings_of(name, PLAIN, params.study.seeds[0], params) for name in of_ours(params)}
    iterations = [of_arm.training.of(arm_of(name, params).detector).iterations for name, of_arm in arms.items()]
    limits = kinds["from"].map("{:.2f}".format) + " to " + kinds["to"].map("{:.2f}".format)
    by_kind = kinds.set_index(kinds["arm"] + ", " + kinds["by"] + " " + limits)
    return {
        "iterations": (min(iterations), max(iterations)),
        "test_patients": int(table1.loc["test", "our_patients"]),
        "test_microbleeds": len(pd.read_csv(root / "results" / "study" / "test_cmbs.csv")),
        "where": intervals_without_zero(by_kind, "gain", "the gain by FE", "points of sensitivity"),
        "single": intervals_without_zero(
            _read(root, "table2").dropna(subset="our_gain").set_index("variant"), "our_gain", "the gain by FE"
        ),
        "backbones": intervals_without_zero(
            table3.dropna(subset="our_gain").set_index("variant"),
            "our_gain",
            "the gain in precision",
            "points of precision",
        ),
        "cost": _range(table3["our_fe_step_time_ratio"], "{:.2f}"),
        "paper_cost": _range(table3["paper_fe_time_ratio"], "{:.2f}"),
        "folds": folds(_read(root, "crossvalidation")),
    }


def _of_features(root: Path) -> dict[str, Any]:
    """Values about the inside of a detector: changes of the features by FE, and coverage by default boxes."""
    by_map = _read(root, "fe_by_map").set_index("placement")
    trunk, coverage = by_map.loc["trunk"], _read(root, "coverage").set_index(["input_px", "default_boxes"])["all"]
    first, deeper = trunk.iloc[0], trunk.iloc[1:]
    return {
        "first_map": f"{first:.1%}",
        "first_map_source": f"{by_map.loc['source'].iloc[0]:.1%}",
        "deeper_maps": _range(deeper, "{:.1%}"),
        "coverage_voc": f"{coverage[512, 'voc']:.0%}",
        "coverage_coco": f"{coverage[512, 'coco']:.0%}",
        "coverage_cmb": f"{coverage[512, 'cmb']:.0%}",
    }


def _range(values: pd.Series, form: str) -> str:
    return f"{form.format(values.min())} to {form.format(values.max())}"


def _read(root: Path, name: str) -> pd.DataFrame:
    file = root / "results" / "tables" / f"{name}.csv"
    if not file.is_file():
        raise InputError(f"{file}: no such file; `make repro` makes the tables that the report stands on")
    return pd.read_csv(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "report.md", help="the page to write")
    out = parser.parse_args().out
    try:
        text = report(ROOT)
    except InputError as error:
        sys.exit(f"error: {error}")
    with whole_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
