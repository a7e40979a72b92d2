"""The pipeline files against notebooks, code and settings."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cmbfe.baselines import Baseline
from cmbfe.detector.ssd import VARIANTS
from cmbfe.params import Data, Params, load_params, profile_file
from cmbfe.training.loop import TRAINING_ROOMS, VALIDATION_ROOMS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINES = {"dvc.yaml": 250, "studies/dvc.yaml": 150}
"""With the most lines that each may have."""
PLAIN = tuple(name for name in VARIANTS if not name.endswith("-fe"))
ITEMS = {"train": PLAIN, "test": PLAIN}
"""Stages of the main pipeline that run once for each of several names."""
OWN_DATA = ROOT / "notebooks" / "own_data.ipynb"
"""In the place of 01_data, where params.yaml says so."""
MAP = ROOT / "notebooks" / "paper_map.ipynb"
"""`make site` runs it each time: it reads whatever is in results/."""
MAKES = {
    "data",
    "augmentation",
    "train",
    "test",
    "baseline",
    "studies:train",
    "studies:test",
    "studies:phase",
    "studies:folds",
}
"""Stages that do not depend on cmbfe/figures: a new look repeats none of them."""
TRAINING_FOLDERS = {f"cmbfe/{room}" for room in TRAINING_ROOMS}


def stages(*files: str) -> dict[str, dict]:
    """Stage name -> its settings, of these pipeline files or all; of a repeated stage, those of each repetition.

    Names of the second file begin with `studies:`.
    """
    found = {}
    for name in files or PIPELINES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for key, value in Data():
            text = text.replace(f"${{data.{key}}}", value)
        content = yaml.safe_load(text)
        for variables in (one for one in content.get("vars", []) if isinstance(one, dict)):
            for variable, value in variables.items():
                text = text.replace(f"${{{variable}}}", value)
        prefix = "" if name == "dvc.yaml" else "studies:"
        found |= {f"{prefix}{stage}": of.get("do", of) for stage, of in yaml.safe_load(text)["stages"].items()}
    return found


def written(stage: dict) -> set[str]:
    """Paths of the stage's outs, without their options."""
    return {out if isinstance(out, str) else next(iter(out)) for out in stage["outs"]}


def notebook_of(stage: dict) -> Path | None:
    """The notebook that a stage runs, if any."""
    named = re.search(r"run_notebook (notebooks/\S+?\.ipynb)", stage["cmd"])
    return ROOT / named[1] if named else None


def with_notebook() -> list[str]:
    return [name for name, stage in stages().items() if notebook_of(stage)]


def code_of(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def folders_imported_by(notebook: Path) -> set[str]:
    """Folders of cmbfe that a notebook imports from; modules beside them, such as params, are in none."""
    names = []
    for node in ast.walk(ast.parse("\n".join(code_of(notebook)))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.startswith("cmbfe.")]
    folders = {"/".join(part[: 3 if part[1:3] == ["data", "labelled"] else 2]) for part in parts}
    return {folder for folder in folders if (ROOT / folder).is_dir()}


def test_there_are_two_short_pipelines_and_every_notebook_has_a_stage():
    files = [*ROOT.glob("dvc.yaml"), *ROOT.glob("*/dvc.yaml")]
    assert {file.relative_to(ROOT).as_posix() for file in files} == set(PIPELINES)
    assert all(len((ROOT / file).read_text().splitlines()) <= most for file, most in PIPELINES.items())
    assert sorted({OWN_DATA, MAP, *filter(None, map(notebook_of, stages().values()))}) == NOTEBOOKS


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_folders_of_code_and_on_what_its_notebook_imports(name):
    stage = stages()[name]
    deps, notebook = set(stage["deps"]), notebook_of(stage)
    assert not [dep for dep in deps if dep.endswith(".py")]
    assert all((ROOT / dep).is_dir() for dep in deps if dep.startswith("cmbfe/"))
    if notebook:
        assert notebook.relative_to(ROOT).as_posix() in deps
        wanted = folders_imported_by(notebook) | (folders_imported_by(OWN_DATA) if name == "data" else set())
        wanted -= {"cmbfe/figures"} if name in MAKES else set()
    else:
        wanted = set()
    wanted |= TRAINING_FOLDERS if "cmbfe/training" in deps else set()
    assert not {folder for folder in wanted if not any(Path(folder).is_relative_to(dep) for dep in deps)}
    assert not (name in MAKES and "cmbfe/figures" in deps)


def test_a_stage_runs_every_baseline():
    stage = stages("dvc.yaml")["baseline"]
    assert written(stage) == {f"results/{name}" for name in Baseline}
    assert re.search(r"'%s\\n' (.*) \| xargs", stage["cmd"])[1].split() == sorted(Baseline)


def test_make_readings_names_stages_of_the_studies():
    named = re.search(r"^READINGS := \$\(addprefix studies/dvc.yaml:,(.*)\)$", (ROOT / "Makefile").read_text(), re.M)
    assert set(named[1].split()) == {"crossvalidation", "ablation", "other_detectors"}
    assert {f"studies:{stage}" for stage in named[1].split()} <= set(stages())


def test_a_training_depends_on_the_code_by_which_a_finished_one_is_known():
    code = {dep for dep in stages("dvc.yaml")["train"]["deps"] if dep.startswith("cmbfe/")}
    assert code == TRAINING_FOLDERS | {f"cmbfe/{room}" for room in VALIDATION_ROOMS}
    code = {dep for dep in stages()["studies:train"]["deps"] if dep.startswith("cmbfe/")}
    assert code == TRAINING_FOLDERS | {"cmbfe/studies/trials"}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_settings_that_exist(name):
    stage = stages()[name]
    for key in stage.get("params", []):
        fields, parts = Params.model_fields, key.replace(".${key}", "").split(".")
        for part in parts[:-1]:
            fields = fields[part].annotation.model_fields
        assert parts[-1] in fields


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_in_short_cells_with_checks(notebook):
    code = code_of(notebook)
    assert not any(cell.get("outputs") for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    assert max(len(source.splitlines()) for source in code[1:]) <= 15
    assert any("assert " in source for source in code)
    assert not any(word in source for source in code for word in ("sys.path", "class "))


@pytest.mark.parametrize("name", with_notebook())
def test_what_a_notebook_writes_is_an_out_that_git_keeps_and_its_executed_copy_too(name):
    stage = stages()[name]
    code = "\n".join(code_of(notebook_of(stage)))
    made = {f"results/tables/{table}.csv" for table in re.findall(r"write_table\(.*paths\.table\(\"(\w+)\"", code)}
    drawn = re.findall(r"style\.save\(\S+, paths\.figure\(\"(\w+)\"\)(, svg=False)?\)", code)
    made |= {f"results/figures/{figure}.png" for figure, _ in drawn}
    made |= {f"results/figures/{figure}.svg" for figure, of_images in drawn if not of_images}
    made.add(f"results/notebooks/{'01_data' if name == 'data' else notebook_of(stage).stem}.ipynb")
    outs = {out for out in written(stage) if Path(out).parent.name in ("tables", "figures", "notebooks")}
    assert made == outs
    assert all({out: {"cache": False}} in stage["outs"] for out in outs)


def test_what_dvc_compares_and_draws_is_written_by_a_stage():
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    drawn = [
        name for plot in content["plots"] if isinstance(plot, dict) for one in plot.values() for name in one["y"]
    ]
    drawn += [plot for plot in content["plots"] if isinstance(plot, str)]
    outs = [out for stage in stages("dvc.yaml").values() for out in written(stage)]
    folders = [out.replace("${item}", variant) for out in outs for variant in PLAIN]
    assert len(drawn) > 2 * len(VARIANTS)
    for name in [*content["metrics"], *drawn]:
        assert any(Path(name).is_relative_to(folder) for folder in folders), name


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_the_pipeline_of_every_profile_trains_all_variants_and_passes_a_dry_run(profile, workspace):
    pipeline = stages("dvc.yaml")
    repeated = [f"{name}@{item}" for name, items in ITEMS.items() for item in items]
    planned = dry_run(workspace, profile, "dvc.yaml")
    assert sorted(planned) == sorted([*(name for name in pipeline if name not in ITEMS), *repeated])


def test_the_studies_are_planned_in_their_order_and_after_the_images(workspace):
    for arm in load_params(profile_file("smoke")).study.every_arm:  # as if they had been begun
        (workspace / "models" / "study" / arm).mkdir(parents=True, exist_ok=True)
        (workspace / "results" / "study" / arm).mkdir(parents=True, exist_ok=True)
    planned = dry_run(workspace, "smoke", "studies/dvc.yaml")
    order = ["data", "studies/dvc.yaml:folds", "studies/dvc.yaml:crossvalidation"]
    arm = "studies/dvc.yaml:{}@ssd300"
    for steps in (
        order,
        ["studies/dvc.yaml:patients", arm.format("train"), arm.format("test"), "studies/dvc.yaml:ablation"],
    ):
        assert [planned.index(step) for step in steps] == sorted(planned.index(step) for step in steps)


def dry_run(workspace: Path, profile: str, *targets: str) -> list[str]:
    """The stages that `dvc repro` would run, as DVC names them, in a clone where `make env` has run."""
    (workspace / "params.yaml").write_text((ROOT / "cmbfe" / "profiles" / f"{profile}.yaml").read_text())
    recipe = re.search(r"^\t@mkdir -p (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    for folder in recipe.split():
        (workspace / folder).mkdir(parents=True, exist_ok=True)
    for dep in {dep for stage in stages().values() for dep in stage["deps"] if dep.startswith("results/")}:
        path = workspace / dep  # a clone has them from git
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir(exist_ok=True)
    dvc = [sys.executable, "-m", "dvc", "repro", "--dry", *targets]
    dry = subprocess.run(dvc, cwd=workspace, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    return re.findall(r"[Ss]tage '([^']+)'", dry.stdout)
