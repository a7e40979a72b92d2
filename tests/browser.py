"""A headless Chromium for tests: where it is, and what it may not do (errors in the console, requests to the world)."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:", "ws://127.0.0.1:", "http://localhost:")


def chromium() -> str:
    """The program, or skips the test: CMBFE_CHROMIUM, else the first of the usual names on the PATH."""
    found = os.environ.get("CMBFE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)}, and CMBFE_CHROMIUM names none")
    return found


@dataclass
class Faults:
    """What pages did that they must not."""

    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Note errors and requests that leave this machine; the latter are stopped as well."""
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith(LOCAL) or self.outside.append(request.url))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium, without the internet."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Browser, viewport: dict[str, int], faults: Faults, **settings: object) -> Iterator[Page]:
    """A page whose faults are noted."""
    context: BrowserContext = browser.new_context(viewport=viewport, **settings)
    page = context.new_page()
    faults.watch(page)
    try:
        yield page
    finally:
        context.close()
