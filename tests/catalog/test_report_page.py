"""The page in a real browser: it sorts, filters, and asks nobody for anything."""

import shutil
from pathlib import Path

import pytest

from em_platform.catalog.consolidate import consolidate
from em_platform.catalog.record_files import json_bytes
from em_platform.config import CatalogSettings
from em_platform.storage import layout, open_store

CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_sorts_by_a_heading_and_filters_by_words(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    store = open_store(str(tmp_path))
    for key, size, status in (("a", 900, "failed"), ("b", 5, "pending"), ("c", 40, "")):
        content = {
            "source": "flyem",
            "source_id": key,
            "key": key,
            "status": status,
            "metadata": {"technical": {"file_size_bytes": size}},
            "error": {"message": "503 at the archive" if status == "failed" else ""},
        }
        store.write_bytes(layout.record("flyem", key), json_bytes(content))
    made = consolidate(store, CatalogSettings())
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: asked.append(str(error)))
        tab.goto(made.urls[-1])
        names = "tbody tr:not([hidden]) td.name strong"
        assert tab.locator(names).all_inner_texts() == ["a", "b", "c"]
        tab.get_by_role("button", name="size").click()
        assert tab.locator(names).all_inner_texts() == ["b", "c", "a"]
        tab.get_by_role("button", name="size").click()
        assert tab.locator(names).all_inner_texts() == ["a", "c", "b"]
        tab.get_by_label("Filter").fill("archive failed")
        tab.get_by_text("1 of 3 records").wait_for()
        assert tab.locator(names).all_inner_texts() == ["a"]
        browser.close()
    assert asked == [made.urls[-1]]
