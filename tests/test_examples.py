"""The examples of README and docs: Python and marked commands are run, all other commands are checked.

`<!-- run -->` above a block of commands runs it, `<!-- parsed -->` above one of Python only compiles it.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pipeline_world import ROOT
from tiny_world import dicom_head, labelled_images, save_tiny_model, tiny_params
from typer.main import get_command

from cmbfe.cli import commands
from cmbfe.data.labelled.labels import LABELS_FILE, write_labels
from cmbfe.files import write_json
from cmbfe.params import save_params
from cmbfe.training.loop import build_from_params

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (\w+) -->\n)? *```(bash|python|yaml)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
COMMANDS = get_command(commands.app).commands
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


class Example(NamedTuple):
    mark: str
    language: str
    text: str


EXAMPLES = {page: [Example(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))] for page in PAGES}
KINDS = {(example.language, example.mark) for page in PAGES for example in EXAMPLES[page]}


def calls(text: str) -> Iterator[list[str]]:
    """The words of each command of a block."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.split(r" && | \| ", line):
            if words := shlex.split(command, comments=True):
                yield words


def arguments_of_cmbfe(words: list[str]) -> list[str] | None:
    """What follows `cmbfe`, also behind .venv/bin/, `python -m` or torchrun; None for another command."""
    names = [index for index, word in enumerate(words) if word.rpartition("/")[2] == "cmbfe"]
    return words[names[0] + 1 :] if names and "/cmbfe/" not in words[0] else None


def check(words: list[str]) -> None:
    """The command exists and takes these options; a make target exists, and a file that Python runs."""
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= TARGETS, words
    elif arguments := arguments_of_cmbfe(words):
        name, *rest = arguments
        if "--help" not in rest:
            COMMANDS[name].make_context(name, rest)
    elif words[0] == "python":
        assert (ROOT / (words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1])).is_file(), words


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with what the examples of all pages begin with, under the names that they use."""
    folder = tmp_path_factory.mktemp("examples")
    dicom_head(folder / "my_scans")
    model = save_tiny_model(folder / "ssd512-fe")
    shutil.copytree(model, folder / "models" / "ssd300-fe")
    labels = labelled_images(folder / "labelled", 4)
    for image, split in zip(labels["images"], ["train", "validation", "test", "test"], strict=True):
        image |= {"patient_id": f"P{image['id']}", "series_uid": f"S{image['id']}", "split": split, "slice_index": 0}
        image["pixel_spacing_mm"] = [1, 1]
    for box in labels["annotations"]:
        box["lesion_id"] = str(box["id"])
    write_labels(folder / "labelled" / LABELS_FILE, labels)
    write_labels(folder / "truth.json", labels)
    found = [
        {"image_id": box["image_id"], "category_id": 1, "bbox": box["bbox"], "score": 0.9}
        for box in labels["annotations"]
    ]
    for name in ("mine.json", "other.json"):
        write_json(folder / name, found)
    save_params(tiny_params(iterations=2, milestones=()), folder / "params.yaml")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_commands_exist_and_those_marked_run(page, world, run_cmbfe, monkeypatch):
    assert {("bash", "run"), ("bash", ""), ("python", ""), ("yaml", "")} <= KINDS  # of all pages
    monkeypatch.chdir(world)
    for example in EXAMPLES[page]:
        for words in calls(example.text) if example.language == "bash" else ():
            check(words)
            if example.mark == "run":
                status, _, err = run_cmbfe(*arguments_of_cmbfe(words))
                assert status == 0, err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_python_runs(page, world, monkeypatch):
    monkeypatch.chdir(world)
    batch, boxes = torch.rand(2, 3, 96, 96), [torch.tensor([[20.0, 20, 30, 32]])] * 2
    given = {"images": list(batch), "batch": batch, "boxes": boxes, "features": torch.ones(2, 4, 24, 24)}
    given["targets"] = [{"boxes": box, "labels": torch.ones(1, dtype=torch.int64)} for box in boxes]
    given["model"] = build_from_params("ssd300", tiny_params())
    for example in EXAMPLES[page]:
        code = compile(example.text, page.name, "exec") if example.language == "python" else None
        if code and example.mark != "parsed":
            exec(code, given)  # a later block goes on from an earlier one
            assert all(loss.isfinite() for loss in given.get("losses", {}).values())
            assert set(given.get("detections", [{}])[0]) in (set(), {"boxes", "scores", "labels"})
