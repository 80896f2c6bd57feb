"""A browser as people have it, and pages that note down whatever goes wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from devcluster.console import QUIET
from devcluster.preflight import ensure_chromium

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Watch:
    """What a page said and asked for while it was shown."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Note down console messages, errors and requests of the page."""
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@dataclass
class Reader:
    """Opens files at a width, in a colour scheme."""

    browser: Browser

    def open(
        self, path: Path, width: int = 1280, scheme: str = "light", *, scripts: bool = True
    ) -> tuple[Page, Watch]:
        """Show a file in a window of its own."""
        context = self.browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
            java_script_enabled=scripts,
        )
        page, watch = context.new_page(), Watch()
        watch.follow(page)
        page.goto(path.as_uri(), wait_until="networkidle")
        return page, watch


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """Chromium without a window; its profile is empty and goes with it."""
    chromium = ensure_chromium(QUIET)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        yield Reader(browser)
        browser.close()
