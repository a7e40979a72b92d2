"""The README's numbers are those of results/, its links lead somewhere, its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from tools.renew_readme import renewed

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def results_were_made_anew() -> bool:
    """Whether `make repro` has changed the committed tables; without git, nobody can tell."""
    compared = subprocess.run(
        ["git", "diff", "--quiet", "HEAD", "--", "results/tables"], cwd=ROOT, capture_output=True
    )
    return compared.returncode == 1


@pytest.mark.skipif(results_were_made_anew(), reason="README.md holds the committed results, and these are newer")
def test_its_tables_are_those_of_the_results():
    assert renewed(TEXT) == TEXT, "run: .venv/bin/python tools/renew_readme.py"


def test_its_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_its_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", TEXT)) <= targets


def test_its_python_runs_as_it_stands():
    boxes = [torch.tensor([[20.0, 20, 30, 32]])] * 2
    batch, features = torch.rand(2, 3, 96, 96), torch.ones(2, 4, 24, 24)
    targets = [{"boxes": one, "labels": torch.ones(1, dtype=torch.int64)} for one in boxes]
    given = {"batch": batch, "images": list(batch), "boxes": boxes, "targets": targets, "features": features}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        made = dict(given)
        exec(block, made)
        assert made["features"].shape == features.shape
        assert all(loss.isfinite() for loss in made.get("losses", {}).values())
        assert set(made.get("detections", [{}])[0]) in (set(), {"boxes", "scores", "labels"})
