"""The four pipeline files against notebooks and code: parameters, dependencies, profiles."""

import re
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
import yaml

from cmbfe.detector.ssd import VARIANTS
from cmbfe.open_points import OPEN_POINTS
from cmbfe.paper_claims import CLAIMS, COSTS, EXHIBITS, MIMICS
from cmbfe.params import Data, Params, load_params
from tools.stage_dependencies import dependencies, notebook_source

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CROSSVALIDATION = "crossvalidation/dvc.yaml"
STUDY = "study/dvc.yaml"
OBJECTS = "objects/dvc.yaml"
PIPELINES = ("dvc.yaml", CROSSVALIDATION, STUDY, OBJECTS)
WITHOUT_NOTEBOOK = {
    "patients": "cmbfe/study_patients.py",
    "arm": "cmbfe/study.py",
    "twins": "cmbfe/objects_study.py",
    "site": "tools/build_site.py",
}
"""Stages that run no notebook, and the module that does it."""
FILLED_BY_STAGES = ("data/pictures", "data/augmented", "data/study", "models/ssd512-fe")
OWN_DATA = ROOT / "notebooks" / "01_own_data.ipynb"
"""In the place of 01_data, where params.yaml says so; the stage depends on what both import."""
PRESENTATION = {"cmbfe/figures.py", "cmbfe/evidence_figures.py", "cmbfe/study_figures.py"}
"""No stage depends on it: a new look of a figure must not repeat a training."""


def stages(file: str | None = None) -> dict[str, dict]:
    """Stage name -> its settings, of one pipeline file or all; of a foreach stage, those under `do`."""
    found = {}
    for name in [file] if file else PIPELINES:
        text = (ROOT / name).read_text()
        for key, value in Data():
            text = text.replace(f"${{data.{key}}}", value)
        content = yaml.safe_load(text)["stages"]
        found |= {stage: settings.get("do", settings) for stage, settings in content.items()}
    return found


def papermill_of(stage: dict) -> str:
    """The arguments of papermill in the stage's command."""
    return stage["cmd"].partition("papermill ")[2]


def with_notebook() -> list[str]:
    return [name for name in stages() if name not in WITHOUT_NOTEBOOK]


def notebook_of(stage: dict) -> Path:
    return ROOT / re.search(r"notebooks/\S+?\.ipynb", papermill_of(stage)).group(0)


def test_every_notebook_has_a_stage():
    assert sorted([OWN_DATA, *(notebook_of(stages()[name]) for name in with_notebook())]) == NOTEBOOKS


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_modules_that_it_runs_through(name):
    stage = stages()[name]
    declared = {dep for dep in stage["deps"] if dep.startswith(("cmbfe/", "tools/")) and dep.endswith(".py")}
    start = ROOT / WITHOUT_NOTEBOOK[name] if name in WITHOUT_NOTEBOOK else notebook_of(stage)
    more = dependencies(OWN_DATA) if name == "data" else set()
    assert declared == (dependencies(start) | more) - PRESENTATION


@pytest.mark.parametrize("name", with_notebook())
def test_a_stage_depends_on_its_notebook_and_gives_it_known_parameters_only(name):
    stage = stages()[name]
    notebook = notebook_of(stage)
    assert notebook.relative_to(ROOT).as_posix() in stage["deps"]
    given = set(re.findall(r"-p (\w+)", papermill_of(stage)))
    assert given <= set(papermill.inspect_notebook(notebook))


@pytest.mark.parametrize("name", with_notebook())
def test_no_stage_passes_a_truth_value(name):
    # DVC writes true where papermill knows only True: "false" would arrive as a text that counts as true.
    assert not re.search(r"-p \w+ \$?\{?(true|false)", papermill_of(stages()[name]), re.IGNORECASE)


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_settings_that_exist(name):
    known = set(Params.model_fields)
    assert {str(key).split(".")[0] for key in stages()[name].get("params", [])} <= known


@pytest.mark.parametrize("name", stages())
def test_nothing_depends_on_an_executed_notebook(name):
    assert not [dep for dep in stages()[name]["deps"] if dep.startswith("results/notebooks")]


def test_the_site_comes_after_every_other_stage_and_nothing_after_it():
    pipeline = stages("dvc.yaml")
    site = pipeline.pop("site")
    for name, stage in pipeline.items():
        written = {out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]}
        of_each = [{out.replace("${item}", variant) for out in written} for variant in VARIANTS]
        assert all(outs & set(site["deps"]) for outs in of_each), f"the site depends on no output of {name}"
    assert not [name for name in stages() if any(dep.startswith("results/site") for dep in stages()[name]["deps"])]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_in_short_cells_with_checks(notebook):
    cells = yaml.safe_load(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    assert max(len(source.splitlines()) for source in code[1:]) <= 15
    assert any("assert " in source for source in code)
    assert not any(word in source for source in code for word in ("sys.path", "class "))


def dry_run(workspace: Path, profile: str, *targets: str) -> list[str]:
    """The stages that `dvc repro` would run, as DVC names them, in a new clone."""
    (workspace / "params.yaml").write_text((ROOT / "profiles" / f"{profile}.yaml").read_text())
    for folder in FILLED_BY_STAGES:  # `make env` makes them in a clone
        (workspace / folder).mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:  # a clone has them from git
        (workspace / "results" / variant).mkdir(parents=True, exist_ok=True)
        for name in ("detections.json", "validation_detections.json"):
            (workspace / "results" / variant / name).touch()
    (workspace / "results" / "crossvalidation").mkdir(exist_ok=True)  # this too
    for dep in {
        *stages("dvc.yaml")["site"]["deps"],
        *stages("dvc.yaml")["paper_map"]["deps"],
    }:  # and tables and figures
        if dep.startswith("results/"):
            (workspace / dep).parent.mkdir(parents=True, exist_ok=True)
            (workspace / dep).touch()
    dvc = [sys.executable, "-m", "dvc", "repro", "--dry", *targets]
    dry = subprocess.run(dvc, cwd=workspace, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    return re.findall(r"[Ss]tage '([^']+)'", dry.stdout)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_the_pipeline_of_every_profile_trains_all_variants_and_passes_a_dry_run(profile, workspace):
    alone = [name for name in stages("dvc.yaml") if name != "train"]
    assert sorted(dry_run(workspace, profile)) == sorted(alone + [f"train@{variant}" for variant in VARIANTS])


@pytest.mark.parametrize(("profile", "folds"), [("smoke", 2), ("laptop", 3), ("paper", 10)])
def test_the_cross_validation_of_every_profile_runs_its_folds_on_the_pictures_of_the_pipeline(
    profile, folds, workspace
):
    planned = dry_run(workspace, profile, CROSSVALIDATION)
    assert planned[0] == "data"
    numbered = [f"{CROSSVALIDATION}:fold@{number}" for number in range(1, folds + 1)]
    assert sorted(planned[1:-1]) == sorted(numbered)
    assert planned[-1] == f"{CROSSVALIDATION}:crossval"


@pytest.mark.parametrize(("profile", "arms"), [("smoke", 2), ("laptop", 16), ("paper", 16)])
def test_the_study_of_every_profile_makes_its_patients_and_runs_its_arms(profile, arms, workspace):
    (workspace / "results" / "study").mkdir(parents=True, exist_ok=True)  # a clone has it from git
    planned = dry_run(workspace, profile, STUDY)
    named = [f"{STUDY}:arm@{name}" for name in load_params(workspace / "params.yaml").study.arms]
    assert len(named) == arms
    assert planned[0] == f"{STUDY}:patients"
    assert sorted(planned[1:-1]) == sorted(named)
    assert planned[-1] == f"{STUDY}:ablation"


@pytest.mark.parametrize(("profile", "arms"), [("smoke", 1), ("laptop", 4)])
def test_the_objects_of_every_profile_make_and_train_their_arms_and_need_no_pictures(profile, arms, workspace):
    (workspace / "results" / "objects").mkdir(parents=True, exist_ok=True)  # a clone has it from git
    planned = dry_run(workspace, profile, OBJECTS)
    named = [f"{OBJECTS}:twins@{name}" for name in load_params(workspace / "params.yaml").objects.arms]
    assert len(named) == arms
    assert sorted(planned[:-1]) == sorted(named)
    assert planned[-1] == f"{OBJECTS}:small_objects"


def written(stage: dict) -> set[str]:
    """Paths of the stage's outs, without their options."""
    return {out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]}


@pytest.mark.parametrize("name", with_notebook())
def test_every_table_and_figure_that_a_notebook_writes_is_an_out_and_figures_are_there_as_svg_too(name):
    stage = stages()[name]
    source = notebook_source(notebook_of(stage))
    made = {f"results/tables/{table}.csv" for table in re.findall(r"write_table\(.*paths\.table\(\"(\w+)\"", source)}
    drawn = re.findall(r"figures\.save\(\S+, paths\.figure\(\"(\w+)\"", source)
    made |= {f"results/figures/{figure}.{suffix}" for figure in drawn for suffix in ("png", "svg")}
    outs = {out for out in written(stage) if out.startswith(("results/tables/", "results/figures/"))}
    if name == "ablation":  # writes two of its tables in a loop over their names
        outs -= {"results/tables/study.csv", "results/tables/study_seeds.csv"}
    assert outs == made


def test_the_map_depends_on_every_table_and_figure_that_it_names():
    deps = set(stages("dvc.yaml")["paper_map"]["deps"])
    named = {f"results/{file}" for exhibit in EXHIBITS for file in exhibit.files}
    values = [claim.ours for claim in CLAIMS] + [value.ours for value in (*COSTS, MIMICS)]
    values += [value.ours for exhibit in EXHIBITS for value in exhibit.values]
    values += [value.ours for point in OPEN_POINTS for value in point.measured]
    named |= {f"results/tables/{cell.table}.csv" for cell in values}
    of_other_pipelines = {"results/tables/crossvalidation.csv", "results/tables/study.csv"}
    assert {dep for dep in deps if dep.startswith("results/")} == named - of_other_pipelines


def test_make_env_makes_the_folders_that_a_dry_run_looks_into():
    recipe = re.search(r"^\t@mkdir -p (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)
    assert tuple(recipe.split()) == FILLED_BY_STAGES


def test_what_dvc_compares_and_draws_is_written_by_a_stage():
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    drawn = [
        name for plot in content["plots"] if isinstance(plot, dict) for one in plot.values() for name in one["y"]
    ]
    drawn += [plot for plot in content["plots"] if isinstance(plot, str)]
    outs = [out for stage in stages().values() for out in written(stage)]
    folders = [out.replace("${item}", variant) for out in outs for variant in VARIANTS]
    assert len(drawn) > 2 * len(VARIANTS)
    for name in [*content["metrics"], *drawn]:
        assert any(Path(name).is_relative_to(folder) for folder in folders), name
