"""A browser of a test's own."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_PROGRAM = shutil.which("chromium")

needs_chromium = pytest.mark.skipif(
    _PROGRAM is None, reason="chromium is not installed"
)


@contextmanager
def chromium(*options: str) -> Iterator[Any]:
    """Playwright's browser, without a window; closed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root, as in a container.
        browser = playwright.chromium.launch(
            executable_path=_PROGRAM, args=["--no-sandbox", *options]
        )
        yield browser
        browser.close()
