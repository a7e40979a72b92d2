"""A patient's page: one file with tables and images; and the feature maps that it shows on request."""

import base64
import io
import re

import numpy as np
import pytest
from findings_world import BOXES, detect
from PIL import Image
from tiny_world import dicom_head, labelled_images

from cmbfe.detector.ssd import build
from cmbfe.findings.model import Detector
from cmbfe.training.devices import make_compute


@pytest.fixture
def page(tmp_path) -> str:
    dicom_head(tmp_path / "in" / "a", "A&B", slices=3)
    dicom_head(tmp_path / "in" / "b", "A&B", slices=2, SeriesDescription="again")
    detect(tmp_path / "in", tmp_path / "out", threshold=0.2)
    return (tmp_path / "out" / "pages" / "A_B.html").read_text()


def test_a_page_has_every_lesion_of_every_series_of_its_patient(page):
    assert "<h1>Cerebral microbleeds: A&amp;B</h1>" in page
    assert page.count("<h2>") == 2
    assert page.count("<figcaption>") == 2 * len(BOXES)
    rows = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert [row.count("<tr>") for row in rows] == [2, 2]
    assert "never for diagnosis" in page


def test_a_page_needs_nothing_else(page):
    links = re.findall(r' (?:src|href)="([^"]+)"', page)
    inner = {link for link in links if link.startswith("#")}
    assert inner == {f"#{name}" for name in re.findall(r' id="([^"]+)"', page)}
    asked = [link for link in links if link not in inner]
    assert len(asked) == 2  # each slice that is shown, once
    assert all(link.startswith("data:image/") for link in asked)


def test_a_series_without_detections_says_so(tmp_path):
    dicom_head(tmp_path / "in", slices=1)
    detect(tmp_path / "in", tmp_path / "out", threshold=0.9)
    text = (tmp_path / "out" / "pages" / "P1.html").read_text()
    assert "No detection has a score of at least 0.9" in text
    assert "data:image" not in text


def test_images_have_a_page_without_lesions(tmp_path):
    labelled_images(tmp_path / "in", 2)
    detect(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "pages").iterdir()) == ["P1.html", "P2.html"]
    text = (tmp_path / "out" / "pages" / "P1.html").read_text()
    assert "P1/000.png: 1 detection, the best with 0.75" in text
    assert "<table>" not in text
    assert not (tmp_path / "out" / "lesions.csv").exists()


def test_feature_maps_are_drawn_of_the_best_slice_and_shown_in_the_page(tmp_path):
    model = build("ssd300-fe", width=0.125, default_boxes="cmb", detections_per_image=2).eval()
    detector = Detector(model, make_compute("cpu", "32-true"), "ssd300-fe")
    dicom_head(tmp_path / "in", slices=1)
    detect(tmp_path / "in", tmp_path / "out", detector, threshold=0.0, explain=True)
    (file,) = (tmp_path / "out" / "feature_maps").rglob("*.png")
    drawn = file.read_bytes()
    assert base64.b64encode(drawn).decode() in (tmp_path / "out" / "pages" / "P1.html").read_text()
    opened = Image.open(io.BytesIO(drawn))
    assert "Software" not in opened.info
    assert np.asarray(opened).std() > 10
