"""The four pipeline files against notebooks and code: parameters, dependencies, profiles."""

import re
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
import yaml
from cmbfe.paper.open_points import OPEN_POINTS

from cmbfe.baselines import Baseline
from cmbfe.data.labelled.detections import DETECTIONS_FILE, VALIDATION_FILE
from cmbfe.detector.ssd import VARIANTS
from cmbfe.paper.claims import CLAIMS, COSTS, EXHIBITS, MIMICS
from cmbfe.params import Data, Params, load_params
from tools.stage_dependencies import dependencies, notebook_source

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CROSSVALIDATION = "crossvalidation/dvc.yaml"
STUDY = "study/dvc.yaml"
OBJECTS = "objects/dvc.yaml"
PHASE = "phase/dvc.yaml"
OTHERS = "others/dvc.yaml"
PIPELINES = ("dvc.yaml", CROSSVALIDATION, STUDY, OBJECTS, PHASE, OTHERS)
WITHOUT_NOTEBOOK = {
    "patients": "cmbfe/studies/patients.py",
    "arm": "cmbfe/studies/study.py",
    "twins": "cmbfe/objects_study.py",
    "report": "tools/write_report.py",
    "phase_pictures": "cmbfe/studies/phase_pictures.py",
    "phase_detectors": "cmbfe/studies/phase_study.py",
    "detector": "cmbfe/studies/other_running.py",
    "site": "tools/build_site.py",
}
"""Stages that run no notebook, and the module that does it."""
ITEMS = {"train": tuple(VARIANTS), "baseline": tuple(Baseline)}
"""Stages of the main pipeline that run once for each of several names."""
FILLED_BY_STAGES = (
    "data/pictures",
    "data/augmented",
    "data/study",
    "data/phase",
    "models/study/ssd300",
    "models/ssd512-fe",
)
OWN_DATA = ROOT / "notebooks" / "own_data.ipynb"
"""In the place of 01_data, where params.yaml says so; the stage depends on what both import."""
PRESENTATION = {
    "cmbfe/figures/style.py",
    "cmbfe/figures/evidence.py",
    "cmbfe/figures/study.py",
    "cmbfe/figures/phase.py",
    "cmbfe/figures/others.py",
}
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
        of_each = [{out.replace("${item}", item) for out in written} for item in ITEMS.get(name, [""])]
        read = [any(Path(out).is_relative_to(dep) for out in outs for dep in site["deps"]) for outs in of_each]
        assert all(read), f"the site depends on no output of {name}"
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
    (workspace / "params.yaml").write_text((ROOT / "cmbfe" / "profiles" / f"{profile}.yaml").read_text())
    for folder in FILLED_BY_STAGES:  # `make env` makes them in a clone
        (workspace / folder).mkdir(parents=True, exist_ok=True)
    for variant in (*VARIANTS, *Baseline):  # a clone has them from git
        (workspace / "results" / variant).mkdir(parents=True, exist_ok=True)
        for name in (DETECTIONS_FILE, VALIDATION_FILE):
            (workspace / "results" / variant / name).touch()
    (workspace / "results" / "crossvalidation").mkdir(exist_ok=True)  # this too
    pipeline = stages("dvc.yaml")
    for dep in {dep for name in ("paper_map", "report", "site") for dep in pipeline[name]["deps"]}:  # tables, figures
        if dep.startswith("results/"):
            (workspace / dep).parent.mkdir(parents=True, exist_ok=True)
            (workspace / dep).touch()
    dvc = [sys.executable, "-m", "dvc", "repro", "--dry", *targets]
    dry = subprocess.run(dvc, cwd=workspace, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    return re.findall(r"[Ss]tage '([^']+)'", dry.stdout)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_the_pipeline_of_every_profile_trains_all_variants_and_passes_a_dry_run(profile, workspace):
    alone = [name for name in stages("dvc.yaml") if name not in ITEMS]
    repeated = [f"{name}@{item}" for name, items in ITEMS.items() for item in items]
    assert sorted(dry_run(workspace, profile)) == sorted(alone + repeated)


def test_the_baselines_of_the_pipeline_are_those_of_the_command_line():
    assert (
        tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["baseline"]["foreach"]) == ITEMS["baseline"]
    )


@pytest.mark.parametrize(
    ("profile", "folds", "arms", "detectors", "objects"),
    [("smoke", 2, 2, 1, 1), ("laptop", 3, 16, 5, 4), ("paper", 10, 16, 5, 4)],
)
def test_what_make_repro_leaves_out_is_planned_in_every_profile(profile, folds, arms, detectors, objects, workspace):
    for name in ("study", "phase", "others", "objects"):  # a clone has them from git
        (workspace / "results" / name).mkdir(parents=True, exist_ok=True)
    planned = dry_run(workspace, profile, *PIPELINES[1:])
    settings = load_params(workspace / "params.yaml")
    repeated = {
        f"{CROSSVALIDATION}:fold": [str(number) for number in range(1, folds + 1)],
        f"{STUDY}:arm": list(settings.study.arms),
        f"{OTHERS}:detector": list(settings.others.detectors),
        f"{OBJECTS}:twins": list(settings.objects.arms),
    }
    assert [len(names) for names in repeated.values()] == [folds, arms, detectors, objects]
    several = [f"{stage}@{name}" for stage, names in repeated.items() for name in names]
    alone = [f"{STUDY}:patients", f"{PHASE}:phase_pictures", f"{PHASE}:phase_detectors"]
    notebooks = [f"{CROSSVALIDATION}:crossval", f"{STUDY}:ablation", f"{PHASE}:phase"]
    notebooks += [f"{OTHERS}:other_detectors", f"{OBJECTS}:small_objects"]
    assert sorted(planned) == sorted(["data", *several, *alone, *notebooks])
    follows = [("data", f"{CROSSVALIDATION}:fold@1"), (f"{STUDY}:patients", f"{STUDY}:arm@ssd300")]
    follows += [(f"{STUDY}:arm@ssd300", f"{PHASE}:phase_detectors"), (several[-1], f"{OBJECTS}:small_objects")]
    assert all(planned.index(before) < planned.index(after) for before, after in follows)


def test_generated_objects_need_no_patients():
    assert not [dep for dep in stages(OBJECTS)["twins"]["deps"] if dep.startswith("data/")]


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
