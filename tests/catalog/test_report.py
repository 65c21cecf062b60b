"""The page in a real browser: it sorts, filters, and asks nobody for anything."""

from pathlib import Path

from em_platform.catalog.consolidate import consolidate
from em_platform.catalog.record_files import json_bytes
from em_platform.config import CatalogSettings
from em_platform.storage import layout, open_store
from tests.chromium import chromium, needs_chromium


@needs_chromium
def test_the_page_sorts_by_a_heading_and_filters_by_words(tmp_path: Path) -> None:
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
    with chromium() as browser:
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
    assert asked == [made.urls[-1]]


@needs_chromium
def test_a_laptop_shows_the_errors_without_scrolling_sideways(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number, status in enumerate(("complete", "failed", "needs_review") * 3):
        key = f"jrc_mus-granule-neurons-{number}.recon-1.em.fibsem-uint16.s2"
        content = {
            "source": "openorganelle",
            "source_id": key,
            "key": key,
            "status": status,
            "created_at": "2026-03-04T05:06:07+00:00",
            "metadata": {
                "core": {
                    "description": "Cultured granule neurons of the mouse " * 4,
                    "volume_shape": [16_384, 131_072, 131_072],
                    "voxel_size_nm": [29.125, 4.03125, 4.03125],
                    "data_type": "uint16",
                    "modality": "SBF-SEM",
                },
                "technical": {"file_size_bytes": 981_000_000_000},
                "quality": {"review_reasons": ["Missing: 2 of 16 tiles; image again."]},
            },
            "files": {"volume": store.url(f"volumes/openorganelle/{key}.zarr")},
        }
        name = layout.record("openorganelle", key)
        store.write_bytes(name, json_bytes(content))
    made = consolidate(store, CatalogSettings())
    assert made.invalid
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1390, "height": 900})
        tab.goto(made.urls[-1])
        for part in (":root", ".wide"):
            room = tab.locator(part).evaluate("e => [e.scrollWidth, e.clientWidth]")
            assert room[0] <= room[1], part
        error = tab.locator("td.found li").first
        assert error.is_visible()
        place = error.bounding_box()
        assert place is not None
        assert place["x"] + place["width"] < 900
