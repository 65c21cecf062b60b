import copy
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from em_platform.catalog.consolidate import Consolidated, check_catalog, consolidate
from em_platform.catalog.record_files import json_bytes
from em_platform.catalog.repository import found_at
from em_platform.config import CatalogSettings
from em_platform.storage import layout
from em_platform.storage.store import Store, open_store

SETTINGS = CatalogSettings()


def record(store: Store, source: str, key: str, **core: Any) -> dict[str, Any]:
    return {
        "schema_version": "3.0",
        "id": str(UUID(bytes=f"{source} {key}".encode().ljust(16)[:16])),
        "source": source,
        "source_id": f"the one of {source}",
        "key": key,
        "status": "complete",
        "created_at": "2026-05-06T12:00:00Z",
        "updated_at": f"2026-05-06T12:00:{len(key):02}Z",
        "metadata": {
            "core": {
                "description": f"{source} {key}",
                "volume_shape": [4, 5, 6],
                "voxel_size_nm": [8.0, 8.0, 8.0],
                "data_type": "uint8",
                "modality": "FIB-SEM",
                **core,
            },
            "technical": {
                "file_size_bytes": 100,
                "content_sha256": key.encode().hex().ljust(64, "0")[:64],
            },
        },
        "files": {"volume": store.url(layout.volume(source, key))},
    }


def put(store: Store, content: dict[str, Any]) -> None:
    name = layout.record(content["source"], content["key"])
    store.write_bytes(name, json_bytes(content))
    if content["status"] == "complete":
        volume = layout.volume(content["source"], content["key"])
        store.write_bytes(f"{volume}/zarr.json", b"{}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def read(store: Store, name: str) -> Any:
    return json.loads(store.read_bytes(f"{layout.CATALOG}/{name}"))


def test_all_records_of_all_sources_are_in_one_catalog(store: Store) -> None:
    for source, key in (("flyem", "b"), ("flyem", "a"), ("acquisition", "grid-1")):
        put(store, record(store, source, key))
    waiting = {**record(store, "idr", "9846137"), "status": "processing"}
    put(store, waiting)
    made = consolidate(store, SETTINGS)
    catalog = read(store, "metadata_catalog.json")
    assert catalog == made.catalog
    names = [(r["source"], r["key"]) for r in catalog["records"]]
    assert names == [
        ("acquisition", "grid-1"),
        ("flyem", "a"),
        ("flyem", "b"),
        ("idr", "9846137"),
    ]
    assert catalog["records"][3] == waiting
    summary = catalog["summary"]
    assert summary["by_source"] == {"acquisition": 1, "flyem": 2, "idr": 1}
    assert summary["by_status"] == {"complete": 3, "processing": 1}
    assert summary["data_volume_bytes"]["by_source"]["flyem"] == 200
    assert summary["duplicates"] == 0, "crops of one volume share its source_id"
    assert catalog["metadata"]["generated_at"] == "2026-05-06T12:00:07Z"
    assert made.invalid == 0
    assert made.is_good
    assert [check.passed for check in check_catalog(made)] == [True, True, False]


def test_the_same_records_give_the_same_bytes(store: Store) -> None:
    put(store, record(store, "flyem", "a"))
    first = consolidate(store, SETTINGS)
    before = {url: Path(url.removeprefix("file://")).read_bytes() for url in first.urls}
    assert len(before) == 4
    consolidate(store, SETTINGS)
    for url, content in before.items():
        assert Path(url.removeprefix("file://")).read_bytes() == content


def test_a_damaged_file_is_reported_and_harms_no_other(store: Store) -> None:
    put(store, record(store, "flyem", "a"))
    store.write_bytes(layout.record("ebi", "half"), b'{"id": "847')
    store.write_bytes(layout.record("ebi", "empty"), b"")
    store.write_bytes(layout.record("ebi", "list"), b"[1, 2]")
    store.write_bytes(layout.record("ebi", "nan"), b'{"a": NaN}')
    store.write_bytes(layout.record("ebi", "latin"), b'{"a": "\xe9"}')
    made = consolidate(store, SETTINGS)
    assert made.catalog["summary"]["total_files"] == 6
    assert made.catalog["summary"]["parsing_errors"] == 4
    assert made.catalog["summary"]["validation_errors"] == 1
    assert [r["key"] for r in made.catalog["records"]] == ["a"]
    assert made.catalog["validation"]["errors_by_source"]["ebi"]["invalid"] == 5
    assert made.invalid == 5
    results = {r["file"]: r for r in made.report["detailed_results"]}
    assert "is not JSON" in results["records/ebi/half.json"]["errors"][0]
    assert results["records/ebi/empty.json"]["errors"] == [
        "is not JSON: no text was found"
    ]
    assert "an object expected" in results["records/ebi/list.json"]["errors"][0]
    assert results["records/flyem/a.json"]["valid"]


def test_every_error_is_in_every_report(store: Store) -> None:
    wrong = record(store, "flyem", "a", data_type="complex64", volume_shape=[0, 5, 6])
    wrong["metadata"]["core"]["description"] = "<script>alert(1)</script> | =1+1"
    put(store, wrong)
    made = consolidate(store, SETTINGS)
    errors = made.report["detailed_results"][0]["errors"]
    assert [e.partition(":")[0] for e in errors] == [
        "metadata.core.data_type",
        "metadata.core.volume_shape[0]",
    ]
    text = store.read_bytes(f"{layout.CATALOG}/validation_report.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["message"] for r in rows if r["level"] == "error"] == errors
    page = store.read_bytes(f"{layout.CATALOG}/validation_report.html").decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("<li>metadata.core.") == 2


def test_a_complete_record_whose_volume_is_gone_is_not_valid(store: Store) -> None:
    put(store, record(store, "flyem", "a"))
    store.remove(layout.volume("flyem", "a"))
    made = consolidate(store, SETTINGS)
    assert made.report["detailed_results"][0]["errors"] == [
        f"files.volume: {store.url('volumes/flyem/a.zarr')} is not there, a complete "
        "record has its volume"
    ]


def test_datasets_with_the_same_voxels_are_duplicates(store: Store) -> None:
    first, second = record(store, "flyem", "a"), record(store, "idr", "b")
    second["metadata"]["technical"] = first["metadata"]["technical"]
    for each in (first, second):
        put(store, each)
    made = consolidate(store, SETTINGS)
    assert made.duplicates == [
        {
            "by": "content_sha256",
            "value": first["metadata"]["technical"]["content_sha256"],
            "records": ["records/flyem/a.json", "records/idr/b.json"],
        }
    ]
    [_, check, _] = check_catalog(made)
    assert (check.passed, check.value) == (False, 1)
    silent = SETTINGS.model_copy(update={"detect_duplicates": False})
    assert consolidate(store, silent).duplicates == []


@pytest.mark.parametrize(("strict", "good"), [(True, False), (False, True)])
def test_strict_fails_for_an_invalid_record(
    store: Store, strict: bool, good: bool
) -> None:
    put(store, record(store, "flyem", "a", data_type="complex64"))
    made = consolidate(store, SETTINGS.model_copy(update={"strict": strict}))
    assert (made.invalid, made.is_good) == (1, good)


def test_only_the_reports_that_are_asked_for_are_written(store: Store) -> None:
    made = consolidate(store, SETTINGS.model_copy(update={"reports": ("csv",)}))
    assert [url.rpartition("/")[2] for url in made.urls] == [
        "metadata_catalog.json",
        "validation_report.csv",
    ]
    assert made.catalog["metadata"]["generated_at"] is None
    assert made.is_good


def foreign(path: Path, name: str, **more: Any) -> dict[str, Any]:
    content = {
        "id": str(UUID(int=len(name))),
        "source": "ebi",
        "source_id": "11759",
        "status": "complete",
        "created_at": "2025-06-11T21:21:01+00:00",
        "metadata": {
            "core": {
                "description": "a slice",
                "volume_shape": [20, 30],
                "data_type": "uint8",
            },
            "provenance": {"download_url": f"ftp://example.org/{name}.dm3"},
        },
        "files": {"volume": f"/data/{name}.npy"},
        **more,
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}_metadata.json").write_text(json.dumps(content))
    return content


def test_of_each_dataset_of_another_s_folder_the_latest_record_counts(
    tmp_path: Path, store: Store
) -> None:
    folder = tmp_path / "theirs/ebi"
    old = foreign(folder, "slice_1")
    new = {**copy.deepcopy(old), "created_at": "2025-06-12T01:00:00+00:00"}
    (folder / "again_metadata.json").write_text(json.dumps(new))
    foreign(folder, "slice_2")
    (folder / "image.zarr").mkdir()
    (folder / "image.zarr/zarr.json").write_text("{}")
    made = consolidate(store, SETTINGS, found=found_at([folder]), folder="")
    assert [r["created_at"][:10] for r in made.catalog["records"]] == [
        "2025-06-12",
        "2025-06-11",
    ]
    assert [entry["record"] for entry in made.catalog["superseded"]] == [
        str(folder / "slice_1_metadata.json")
    ]
    assert made.catalog["summary"]["total_files"] == 3
    assert store.exists("metadata_catalog.json")
    assert made.invalid == 0


def same_shape(theirs: Any, ours: Any, path: str = "") -> None:
    """Every key of theirs is in ours, with the same kind of value."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), path
        for key, value in theirs.items():
            if key not in ("ebi", "epfl", "flyem", "idr", "openorganelle"):
                assert key in ours, f"{path}.{key}"
                same_shape(value, ours[key], f"{path}.{key}")
    else:
        kinds = (int, float) if isinstance(theirs, int | float) else type(theirs)
        assert isinstance(ours, kinds), path


def test_readers_of_a_real_catalog_find_its_names_in_ours(
    shared_data: Path, store: Store
) -> None:
    path = shared_data / "api/macroscope/metadata_catalog_20250611_221633.json"
    theirs = json.loads(path.read_text())
    made = consolidate(store, SETTINGS, found=found_at([path]))
    assert len(made.catalog["records"]) == 5
    assert made.invalid == 0
    same_shape(
        {k: v for k, v in theirs.items() if k != "legacy_compatibility"}, made.catalog
    )
    same_shape(
        theirs["data_quality"]["completeness_by_source"]["ebi"],
        made.catalog["data_quality"]["completeness_by_source"]["ebi"],
    )
    assert (
        made.catalog["data_quality"]["completeness_by_source"]["ebi"]["average_fields"]
        == 9.0
    )
    report = path.with_name("validation_report_20250611_221633.json")
    same_shape(json.loads(report.read_text()), made.report)


class Page(HTMLParser):
    """What of a page matters: links, pictures, headings, labels."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def page_of(made: Consolidated) -> Page:
    [url] = [url for url in made.urls if url.endswith(".html")]
    return Page(Path(url.removeprefix("file://")).read_text())


def test_the_page_links_what_lies_in_the_store_and_loads_nothing(
    store: Store,
) -> None:
    one = record(store, "flyem", "a")
    one["files"]["preview"] = store.url("ingest/flyem/a/preview.png")
    two = record(store, "idr", "b")
    two["files"] = {"volume": "javascript:alert(1)", "preview": "javascript:alert(2)"}
    for each in (one, two):
        put(store, each)
    page = page_of(consolidate(store, SETTINGS))
    assert [a["href"] for a in page.of("a")] == ["../volumes/flyem/a.zarr"]
    [picture] = page.of("img")
    assert picture["src"] == "../ingest/flyem/a/preview.png"
    assert picture["alt"] == "preview of a"
    assert page.of("link") == []
    assert all("src" not in script for script in page.of("script"))
    assert page.of("html")[0]["lang"] == "en"
    labelled = {label.get("for") for label in page.of("label")}
    assert "filter" in labelled
    assert all(heading.get("scope") == "col" for heading in page.of("th"))


def test_a_text_that_looks_like_a_part_of_the_page_stays_a_text(store: Store) -> None:
    put(store, record(store, "flyem", "a", description="[[rows]] and [[figures]]"))
    made = consolidate(store, SETTINGS)
    text = store.read_bytes(f"{layout.CATALOG}/validation_report.html").decode()
    assert "[[rows]] and [[figures]]" in text
    assert made.is_good
