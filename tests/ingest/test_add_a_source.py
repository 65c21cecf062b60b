"""The source in the how-to page is complete: it brings a volume into the catalog."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from em_platform.config import load_settings
from em_platform.ingest import sources
from em_platform.ingest.sources import open_source
from em_platform.model.dataset import Status
from em_platform.standins.faults import Faults
from em_platform.standins.http import Server
from em_platform.standins.part import FileHost, Tree
from em_platform.storage.store import open_store
from tests.ingest.steps import take_all

VOXELS = np.random.default_rng(8).integers(0, 255, (20, 30, 40), np.uint8)
ADDRESS = "https://shelf.example.org/volumes/"


def test_the_source_of_the_page_brings_a_volume_into_the_catalog(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs/how-to/add-a-source.md").read_text()
    (text,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert text.count(ADDRESS) == 1
    assert max(map(len, text.splitlines())) <= 88
    shelf, code = tmp_path / "shelf", tmp_path / "code"
    shelf.mkdir()
    code.mkdir()
    tifffile.imwrite(shelf / "mouse_cortex.tif", VOXELS, photometric="minisblack")
    host = FileHost(Tree(shelf, lambda _: None), prefix="/volumes", faults=Faults())
    with Server("shelf", host) as server:
        served = text.replace(ADDRESS, f"{server.url}/volumes/")
        (code / "shelf.py").write_text(served)
        monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(code)])
        monkeypatch.setitem(sources.SOURCES, "shelf", "Shelf")
        settings = load_settings(overrides={"home": str(tmp_path / "home")})
        store = open_store(str(tmp_path / "data"))
        source = open_source("shelf", settings)
        assert source.list() == ("mouse_cortex",)
        record, checks = take_all(source, "mouse_cortex", store, settings=settings)
        asked = server.requests.count(lambda r: r.method == "GET" and ".tif" in r.path)
        take_all(source, "mouse_cortex", store, settings=settings)
        again = server.requests.count(lambda r: r.method == "GET" and ".tif" in r.path)
    assert record.status is Status.COMPLETE
    assert record.metadata.core.volume_shape == VOXELS.shape
    assert record.metadata.core.voxel_size_nm == (8.0, 8.0, 8.0)
    assert [check.name for check in checks if not check.passed] == []
    assert (asked, again) == (1, 1)
