"""Findings in tiny heads, and reviews of them as the page saves them."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from findings_world import detect
from torch import nn

from cmbfe.findings.lesions import fingerprint
from cmbfe.findings.model import Detector
from cmbfe.findings.review import read_found
from cmbfe.training.devices import make_compute


class Grid(nn.Module):
    """Finds so many boxes of 4 px on every slice, 12 px from each other, in this order."""

    def __init__(self, lesions: int) -> None:
        super().__init__()
        corners = torch.tensor([[4.0 + 12 * (number % 5), 6 + 12 * (number // 5)] for number in range(lesions)])
        self.found = {"boxes": torch.cat([corners, corners + 4], 1), "labels": torch.ones(lesions, dtype=torch.int64)}
        self.found["scores"] = torch.linspace(0.99, 0.6, lesions)

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self.found] * len(images)


def found_lesions(source: Path, out: Path, lesions: int, **options: object) -> Path:
    """`cmbfe detect`, with so many lesions in each series."""
    detect(source, out, Detector(Grid(lesions), make_compute("cpu", "32-true"), "grid"), **options)
    return out


def content_of(
    found: Path, reader: str, answers: str, added: Sequence[Mapping[str, Any]] = (), patient: str | None = None
) -> dict[str, Any]:
    """A review of one patient (the first): `answers` y, n or ? to the lesions of each of his series; `added` to the
    first."""
    series = read_found(found)
    patient = series[0].patient if patient is None else patient
    own = [each for each in series if each.patient == patient]
    words = {"y": "yes", "n": "no", "?": "unsure"}
    return {
        "format": "cmbfe review",
        "version": 1,
        "patient": patient,
        "reader": reader,
        "series": [
            {
                "uid": each.uid,
                "findings": fingerprint(each.images, each.lesions),
                "lesions": [
                    {"lesion": lesion.number, "answer": words[answer]}
                    for lesion, answer in zip(each.lesions, answers, strict=True)
                ],
                "added": [{"diameter_mm": 6, "answer": "yes", **one} for one in (added if each is own[0] else ())],
            }
            for each in own
        ],
    }


def save_review(file: Path, content: Mapping[str, Any]) -> Path:
    """Write a review with the checksum of its content."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**content, "checksum": zlib.crc32(text.encode())}, indent=1, ensure_ascii=False))
    return file


def reviewed(file: Path, found: Path, reader: str, answers: str, *added: Mapping[str, Any], **options: Any) -> Path:
    """A review as `content_of`, in a file."""
    return save_review(file, content_of(found, reader, answers, added, **options))
