"""The review page in Chromium from file://: a reader answers by keyboard, adds, undoes, reloads and saves."""

import json
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Faults, chromium, open_browser, open_page
from playwright.sync_api import Page, expect
from review_world import found_lesions
from tiny_world import dicom_head

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels

ANSWERS = "yynynyyn?ynnyyy?ynyy"
"""To the twenty lesions."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    chromium()
    folder = tmp_path_factory.mktemp("found")
    dicom_head(folder / "in")
    return found_lesions(folder / "in", folder / "out", 20)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


def opened(page: Page, found: Path) -> Page:
    page.goto((found / "pages" / "P1.html").as_uri())
    return page


def press(page: Page, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def click_at(page: Page, x: float, y: float) -> None:
    """A place of the slice, which has 64 × 64 px."""
    view = part(page, "slice").bounding_box()
    part(page, "slice").click(position={"x": view["width"] * x / 64, "y": view["height"] * y / 64})


def part(page: Page, name: str):
    return page.locator(f'[data-part="{name}"]')


def test_twenty_lesions_are_read_by_keyboard_and_the_file_gives_the_labels_that_were_meant(
    browser, found, tmp_path, run_cmbfe
):
    faults = Faults()
    with open_page(browser, DESKTOP, faults) as page:
        opened(page, found)
        while page.evaluate("document.activeElement.dataset.part") != "reader":
            page.keyboard.press("Tab")
        press(page, ["A", "B", "Enter"])
        press(page, ANSWERS[:9])
        expect(part(page, "progress")).to_have_text("9 of 20 read")
        opened(page, found)
        expect(part(page, "progress")).to_have_text("9 of 20 read")
        press(page, ["y", "u", "u"])  # one answer from before the reload is taken back as well
        expect(part(page, "progress")).to_have_text("8 of 20 read")
        press(page, "s")
        expect(page.get_by_role("status")).to_contain_text("12 without an answer")
        press(page, ["n", "ArrowLeft", *ANSWERS[8:]])  # the ninth is corrected
        expect(part(page, "progress")).to_have_text("20 of 20 read")
        press(page, ["ArrowRight", *["ArrowUp"] * 3, "ArrowDown"])
        expect(part(page, "place")).to_have_text("slice 3 of 4")
        click_at(page, 32, 58)
        click_at(page, 60, 60)
        press(page, ["u", "+", "-", "-"])  # of the second; the first becomes 7, 6 and 5 mm
        click_at(page, 32, 58)  # where one is, none is added
        expect(part(page, "progress")).to_have_text("21 of 21 read")
        with page.expect_download() as download:
            press(page, "s")
        assert download.value.suggested_filename == "review-P1-AB.json"
        download.value.save_as(tmp_path / "review.json")
    assert (faults.errors, faults.outside) == ([], [])
    assert run_cmbfe("review", found, tmp_path / "review.json", "--out", tmp_path / "out")[0] == 0
    labels = read_labels(tmp_path / "out" / LABELS_FILE)
    slices = {image["id"]: image["slice_index"] for image in labels["images"]}
    boxes = [
        (slices[box["image_id"]], *np.round(box["bbox"]).tolist(), box.get("ignore", 0))
        for box in labels["annotations"]
    ]
    meant = [
        (index, 4 + 12 * (number % 5), 6 + 12 * (number // 5), 4, 4, int(answer == "?"))
        for number, answer in enumerate(ANSWERS)
        for index in range(4)
        if answer != "n"
    ]
    added = [(index, 29, 53, 7, 10, 0) for index in (1, 2, 3)]  # 5 mm; slices lie 2 mm apart
    assert sorted(boxes) == sorted([*meant, *added])


def test_on_a_phone_a_patient_without_lesions_gets_one_with_a_tap(browser, tmp_path):
    faults = Faults()
    dicom_head(tmp_path / "in")
    found = found_lesions(tmp_path / "in", tmp_path / "out", 2, threshold=0.995)
    with open_page(browser, PHONE, faults, has_touch=True) as page:
        opened(page, found)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        part(page, "reader").fill("AB")
        part(page, "slice").tap()
        expect(part(page, "progress")).to_have_text("1 of 1 read")
        page.get_by_role("button", name="Unsure").tap()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save review").tap()
        (series,) = json.loads(Path(download.value.path()).read_text())["series"]
    assert (faults.errors, faults.outside) == ([], [])
    assert [(one["slice"], one["answer"]) for one in series["added"]] == [(2, "unsure")]
