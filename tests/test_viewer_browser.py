"""The viewer and the review in a real JupyterLab, in a headless Chromium, over a tiny workspace."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import DESKTOP, Faults, chromium, open_browser, open_page
from gallery_world import tiny_workspace
from playwright.sync_api import Page, expect
from review_world import found_lesions
from tiny_world import dicom_head

from cmbfe.findings.review import read_found, read_review

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_MS = 120_000
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none", "autoStartDefaultKernel": true}',
}
"""No questions to the world, none to the user, and every cell in the page, seen or not."""


@contextmanager
def jupyterlab(workspace: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab's address; it reads no settings of whoever runs the tests."""
    for name, content in SETTINGS.items():
        file = scratch / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | {name: str(scratch / name) for name in folders}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(scratch / "settings")
    lab = {"expose_app_in_browser": True, "extension_manager": "readonly", "news_url": ""}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", *(f"--LabApp.{name}={value}" for name, value in lab.items())]
    with (scratch / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=workspace, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(address).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("JupyterLab did not start")


READY = """() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  const kernel = context?.session?.kernel;
  return context?.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""


def run_all_cells(page: Page) -> None:
    """As the menu does; before the kernel is connected JupyterLab ignores the wish."""
    page.wait_for_function(READY)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chromium()
    root = tiny_workspace(tmp_path_factory.mktemp("workspace"))
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "viewer.ipynb", root / "notebooks")
    dicom_head(root / "raw")
    found_lesions(root / "raw", root / "found", 2)
    source = "from cmbfe.findings.viewer import review\nreview('../found')"
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (root / "notebooks" / "review.ipynb").write_text(json.dumps(notebook))
    return root


@pytest.fixture(scope="module")
def lab(workspace, tmp_path_factory) -> Iterator[str]:
    with jupyterlab(workspace, tmp_path_factory.mktemp("lab")) as url:
        yield url


@contextmanager
def run_in(lab: str, notebook: str, faults: Faults) -> Iterator[Page]:
    """A notebook, opened and run."""
    with open_browser() as browser, open_page(browser, DESKTOP, faults) as page:
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.goto(f"{lab}/doc/tree/notebooks/{notebook}")
        run_all_cells(page)
        yield page
    assert faults.outside == []
    assert [error for error in faults.errors if "debugger" not in error] == []


def test_slider_wheel_and_buttons_change_what_is_seen(lab):
    with run_in(lab, "viewer.ipynb", Faults()) as page:
        pixels, froc = (page.locator(".cmbfe-image").nth(number) for number in (0, 1))
        image = pixels.locator("img")
        expect(froc.locator("circle")).to_have_count(2)
        expect(pixels.locator("rect")).to_have_count(3)
        expect(page.get_by_text("A, slice 1 of 3")).to_be_visible()

        dot = froc.locator("circle").first
        place = dot.get_attribute("cy")
        slider = page.locator(".widget-slider", has_text="threshold").get_by_role("slider")
        slider.focus()
        page.keyboard.press("End")  # the highest threshold: nothing is detected
        expect(dot).not_to_have_attribute("cy", place)
        expect(pixels.locator("rect")).to_have_count(1)
        expect(page.get_by_text("ssd512: sensitivity 0.000 at 0.00 false positives per image")).to_be_visible()

        source = image.get_attribute("src")
        pixels.hover()
        page.mouse.wheel(0, 120)
        expect(page.get_by_text("A, slice 2 of 3")).to_be_visible()
        expect(image).not_to_have_attribute("src", source)
        page.mouse.wheel(0, -120)
        expect(page.get_by_text("A, slice 1 of 3")).to_be_visible()

        for layer in ("FE mask", "feature map"):
            source = image.get_attribute("src")
            page.get_by_role("button", name=layer).click()
            expect(image).not_to_have_attribute("src", source)
        assert len(page.screenshot()) > 5000  # a blank page compresses to next to nothing
        expect(page.get_by_text(re.compile("Error"))).to_have_count(0)


def test_a_review_in_jupyterlab_takes_the_same_keys_and_saves_the_same_file(lab, workspace):
    with run_in(lab, "review.ipynb", Faults()) as page:
        part = page.locator(".review").locator
        part('[data-part="reader"]').fill("CD")
        page.keyboard.press("Enter")
        part('[data-part="list"]').get_by_role("button").first.click()
        for key in "yn":  # of JupyterLab, y makes code of a cell, and n is nothing
            page.keyboard.press(key)
        expect(part('[data-part="progress"]')).to_have_text("2 of 2 read")
        page.keyboard.press("s")
        expect(page.get_by_role("status").filter(has_text="Saved")).to_have_count(1)
        file = workspace / "notebooks" / "reviews" / "review-P1-CD.json"
        end = time.monotonic() + 20
        while not file.is_file() and time.monotonic() < end:
            time.sleep(0.1)
    answers = read_review(file, read_found(workspace / "found")).series[0].answers
    assert answers == {1: "yes", 2: "no"}
