"""Debian's Chromium, driven by Playwright; tests that need it are skipped where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed: apt-get install chromium"
)
NARROW, USUAL = {"width": 360, "height": 740}, {"width": 1200, "height": 900}


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page of its own profile, which notes every script error and every refusal by the policy."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        options.setdefault("viewport", USUAL)
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.url, self.errors = url, list[str]()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _note(self, message: Any) -> None:
        network = message.text.startswith("Failed to load resource")
        if message.type == "error" and not network:
            self.errors.append(message.text)

    def go(self, place: str = "") -> Any:
        """Open a view, `#/batches/ID` or the list."""
        self.page.goto(f"{self.url}/{place}")
        return self.page

    def heading(self, text: str) -> Any:
        """Wait for a heading."""
        return self.page.get_by_role("heading", name=text, exact=True).wait_for()

    def faults(self) -> list[str]:
        """What axe finds that is serious or critical, or what is wider than the screen."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        faults = [
            f"{fault['id']}: {fault['help']}: {[node['html'] for node in fault['nodes']]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        wide = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
        if (beyond := self.page.evaluate(wide)) > 0:
            faults.append(f"the page is {beyond} pixels wider than the screen")
        return faults

    def close(self) -> None:
        """Whatever went wrong in the page fails the test."""
        self.context.close()
        assert self.errors == []
