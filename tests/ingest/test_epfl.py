"""EPFL's TIFFs come whole, with the voxel size that they do not state."""

import json
from pathlib import Path

import numpy as np
import pytest

from em_platform.config import Settings, load_settings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.ingest.source import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.epfl import Epfl
from em_platform.standins.faults import Fault
from em_platform.standins.world import World

FAST = {
    "ingest.transfer.backoff_s": "0.001",
    "ingest.transfer.retries": "1",
    "ingest.transfer.part_mb": "0.1",
}


def epfl(world: World, **more: str) -> Epfl:
    named = {f"ingest.epfl.{name}": value for name, value in more.items()}
    overrides = {**world.settings, **FAST, **named}
    source = open_source("epfl", load_settings(overrides=overrides))
    assert isinstance(source, Epfl)
    return source


def test_the_volume_says_what_it_is(world: World) -> None:
    entry = epfl(world).describe("volumedata")
    assert entry.voxel_size_nm == (5.0, 5.0, 5.0)
    assert entry.modality == "FIB-SEM"
    assert entry.sample == "CA1 region of the hippocampus"
    assert "IEEE Transactions on Medical Imaging 31, 474-486" in entry.citation
    assert "Computer Vision and Pattern Recognition, 1987-1994" in entry.citation
    (file,) = entry.files
    assert file.name == "volumedata.tif"
    assert file.url.endswith("/%20ElectronMicroscopy_Hippocampus/volumedata.tif")
    assert file.size_bytes == entry.estimated_bytes == entry.snapshot["size_bytes"]
    assert [request.method for request in world.requests.all()] == ["HEAD"]


def test_the_voxel_size_agrees_with_the_recorded_summary(shared_data: Path) -> None:
    path = shared_data / "api/summaries/epfl_metadata.json"
    summary = json.loads(path.read_text())
    settings = Settings().ingest.epfl
    assert list(settings.voxel_size_nm or ()) == summary["resolution_zyx_nm"]
    assert f"{settings.files_urls[0]}/volumedata.tif" == summary["source"]


@pytest.mark.parametrize("key", ["volumedata", "training_groundtruth"])
def test_what_is_fetched_is_what_is_served(
    world: World, tmp_path: Path, key: str
) -> None:
    source = epfl(world)
    entry = source.describe(key)
    raw = source.fetch(entry, tmp_path, Silent())
    assert raw.size_bytes == entry.estimated_bytes
    volume = source.open(entry, tmp_path)
    truth = world.truth("epfl", key)
    assert volume.info.shape == truth.shape
    whole = volume.read((slice(None), slice(None), slice(None)))
    np.testing.assert_array_equal(whole, truth)
    world.requests.clear()
    assert source.fetch(entry, tmp_path, Silent()).fetched_bytes == 0
    assert world.requests.all() == []


def test_all_five_are_found_where_that_is_asked_for(world: World) -> None:
    assert epfl(world).list() == ("volumedata",)
    found = epfl(world, discover="true").list()
    assert set(found) == set(world.keys["epfl"])
    assert all(epfl(world).describe(key).estimated_bytes for key in found)


def test_a_volume_that_there_is_not_is_reported(world: World) -> None:
    with pytest.raises(SourceRefused, match="no volume 'brain', expected one of vol"):
        epfl(world).describe("brain")


def test_a_server_that_is_down_is_reported(world: World) -> None:
    world.faults.add(Fault("status", status=502))
    with pytest.raises(SourceUnavailable, match=r"volumedata.tif answered 502"):
        epfl(world).describe("volumedata")


def test_a_mirror_is_asked_while_the_server_is_down(world: World) -> None:
    urls = world.settings["ingest.epfl.files_urls"]
    nowhere = urls.replace("/groups", "/elsewhere")
    entry = epfl(world, files_urls=f"{nowhere},{urls}").describe("volumedata")
    (file,) = entry.files
    assert file.url == f"{urls}/volumedata.tif"
    assert file.mirrors == (f"{nowhere}/volumedata.tif",)
