"""Arrays of OpenOrganelle come with the voxel size of their level and their place."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from em_platform.config import Settings, load_settings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.ingest.source import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.openorganelle import OpenOrganelle
from em_platform.model.dataset import DatasetRecord
from em_platform.standins.faults import Fault
from em_platform.standins.world import World
from em_platform.storage import layout, open_store
from tests.ingest.steps import take_all

EM = "jrc_mus-nacc-2.recon-2.em.fibsem-int16"
HELA = "jrc_hela-2.em.fibsem-uint16"
ALL = (slice(None), slice(None), slice(None))
FAST = {"ingest.transfer.backoff_s": "0.01", "ingest.transfer.retries": "1"}
NOWHERE = Path("nowhere")


def settings_of(world: World, **more: str) -> Settings:
    own = {f"ingest.openorganelle.{name}": value for name, value in more.items()}
    return load_settings(overrides={**world.settings, **FAST, **own})


def source_of(world: World, **more: str) -> OpenOrganelle:
    source = open_source("openorganelle", settings_of(world, **more))
    assert isinstance(source, OpenOrganelle)
    return source


def test_every_array_is_read_bit_for_bit(world: World) -> None:
    source = source_of(world)
    for key in world.keys["openorganelle"]:
        entry = source.describe(key)
        volume = source.open(entry, NOWHERE)
        truth = world.truth("openorganelle", key)
        assert (entry.shape, entry.dtype) == (truth.shape, str(truth.dtype))
        assert np.array_equal(volume.read(ALL), truth)


@pytest.mark.parametrize("level", range(5))
def test_each_level_has_its_own_voxel_size(level: int, world: World) -> None:
    entry = source_of(world).describe(f"{EM}.s{level}")
    edges = tuple(edge * 2**level for edge in (2.96, 4.0, 4.0))
    middle = tuple(edge * (2**level - 1) / 2 for edge in (2.96, 4.0, 4.0))
    assert entry.voxel_size_nm == pytest.approx(edges)
    assert entry.origin_nm == pytest.approx(middle)


def test_an_entry_says_what_the_array_is(world: World) -> None:
    entry = source_of(world, metadata_url="").describe(f"{EM}.s1")
    assert entry.source_id == "jrc_mus-nacc-2/recon-2/em/fibsem-int16/s1"
    assert (entry.modality, entry.dtype) == ("FIB-SEM", "int16")
    assert entry.estimated_bytes == 35 * 78 * 81 * 2
    assert entry.additional["internal_zarr_path"] == "recon-2/em/fibsem-int16/s1"
    assert entry.aliases == ("jrc_mus-nacc-2", "recon-2/em/fibsem-int16/s1")
    assert set(entry.snapshot) == {".zattrs", "s1/.zattrs", "s1/.zarray"}
    assert entry.imaging_start_date is None  # the bucket does not say
    chunks = world.requests.count(lambda each: each.path.endswith("/s1/0/0/0"))
    assert chunks == 0


def test_a_group_stands_for_its_finest_level(world: World) -> None:
    entry = source_of(world).describe(EM)
    assert entry.shape == (70, 157, 162)
    assert entry.additional["internal_zarr_path"] == "recon-2/em/fibsem-int16/s0"
    assert entry.array is not None and entry.array.url.endswith("/fibsem-int16/s0")


def test_n5_is_turned_to_z_y_x(world: World) -> None:
    entry = source_of(world).describe(f"{HELA}.s1")
    assert (entry.shape, entry.voxel_size_nm) == ((22, 35, 45), (10.48, 8.0, 8.0))
    assert entry.array is not None and entry.array.format == "n5"
    explicit = source_of(world).describe("jrc_hela-2.n5.em.fibsem-uint16.s1")
    assert explicit.array == entry.array


def test_a_crop_keeps_its_coordinates(world: World) -> None:
    key = f"{EM}.s1.crop_3_20_30_10_40_20"
    source = source_of(world)
    entry = source.describe(key)
    assert entry.shape == (10, 40, 20)
    assert entry.origin_nm == pytest.approx((1.48 + 3 * 5.92, 2 + 20 * 8, 2 + 30 * 8))
    found = source.open(entry, NOWHERE).read(ALL)
    assert np.array_equal(found, world.truth("openorganelle", key))


def test_missing_chunks_are_counted_before_anything_is_read(world: World) -> None:
    source = source_of(world)
    entry = source.describe(f"{EM}.s0")
    whole = source.fetch(entry, NOWHERE, Silent())
    assert (whole.expected_chunks, whole.missing_chunks) == (90, 0)
    assert whole.size_bytes > 10**6 and whole.fetched_bytes == 0
    world.faults.add(Fault("missing", path="*/fibsem-int16/s0/1/*/2"))
    holed = source.fetch(entry, NOWHERE, Silent())
    assert (holed.expected_chunks, holed.missing_chunks) == (90, 5)
    assert holed.missing == tuple(f"1/{n}/2" for n in range(5))
    assert holed.digest != whole.digest
    fetched = world.requests.count(
        lambda each: each.path.endswith("/0/0/0") and each.method == "GET"
    )
    assert fetched == 0


def test_discovery_finds_every_level_of_every_em_image(world: World) -> None:
    keys = source_of(world, discover="true", items="").list()
    expected = [key for key in world.keys["openorganelle"] if ".em." in key]
    assert sorted(keys) == sorted(expected)


def test_without_discovery_the_configured_keys_are_listed(world: World) -> None:
    assert source_of(world).list() == (f"{EM}.s2",)
    assert world.requests.count() == 0


def test_a_large_array_is_skipped_where_that_is_set(world: World) -> None:
    source = source_of(world, max_array_mb="1", large_array_mode="skip")
    with pytest.raises(SourceRefused, match="is 3 MiB, expected at most 1"):
        source.describe(f"{EM}.s0")
    assert source.describe(f"{EM}.s1").shape == (35, 78, 81)


def test_a_large_array_is_taken_at_a_smaller_level(world: World) -> None:
    large = {"max_array_mb": "1", "large_array_mode": "downsample"}
    entry = source_of(world, **large).describe(f"{EM}.s0")
    assert (entry.key, entry.shape) == (f"{EM}.s0", (35, 78, 81))
    assert entry.voxel_size_nm == pytest.approx((5.92, 8.0, 8.0))
    assert entry.additional["internal_zarr_path"] == "recon-2/em/fibsem-int16/s1"
    coarser = source_of(world, **large, downsample_factor="4").describe(f"{EM}.s0")
    assert coarser.shape == (17, 39, 40)
    cropped = source_of(world, **large).describe(f"{EM}.s0.crop_2_4_6_68_150_140")
    assert cropped.shape == (34, 75, 70)
    assert cropped.origin_nm == pytest.approx((1.48 + 5.92, 2 + 2 * 8, 2 + 3 * 8))


def test_an_array_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(SourceRefused, match=r"nothing is at .*\.zarr/.* or .*\.n5/"):
        source_of(world).describe("jrc_nothing.em.fibsem.s0")
    with pytest.raises(SourceRefused, match="names no array"):
        source_of(world).describe("jrc_mus-nacc-2")


def test_a_bucket_that_is_down_is_reported(world: World) -> None:
    world.faults.add(Fault("status", status=503))
    with pytest.raises(SourceUnavailable, match=r"s3://janelia-cosem-datasets/"):
        source_of(world).describe(f"{EM}.s2")


def test_a_manifest_adds_what_the_array_does_not_say(
    world: World, shared_data: Path, tmp_path: Path
) -> None:
    recorded = shared_data / "api/openorganelle/jrc_hela-2.manifest.json"
    (tmp_path / "jrc_hela-2").mkdir()
    (tmp_path / "jrc_hela-2/manifest.json").write_bytes(recorded.read_bytes())
    source = source_of(world, metadata_url=str(tmp_path))
    entry = source.describe(f"{HELA}.s0")
    assert entry.title == "Interphase HeLa cell em/fibsem-uint16/s0"
    assert "FIB-SEM Data (uncompressed)" in entry.description
    assert (entry.organism, entry.doi) == ("Human", "10.25378/janelia.13114211")
    assert entry.imaging_start_date == date(2017, 6, 21)
    assert entry.snapshot["manifest.json"] == json.loads(recorded.read_text())
    assert source.describe(f"{EM}.s2").organism == ""


def test_an_array_goes_all_the_way_into_the_catalog(
    world: World, tmp_path: Path
) -> None:
    settings = settings_of(world)
    store = open_store(str(tmp_path))
    source = open_source("openorganelle", settings)
    key = f"{EM}.s1.crop_3_20_30_10_40_20"
    record, checks = take_all(source, key, store, settings=settings)
    assert {check.name for check in checks if not check.passed} == set()
    core = record.metadata.core
    assert core.origin_nm == pytest.approx((19.24, 162, 242))


def test_a_missing_chunk_is_written_as_its_fill_and_reported(
    world: World, tmp_path: Path
) -> None:
    settings = settings_of(world)
    source = open_source("openorganelle", settings)
    world.faults.add(Fault("missing", path="*/fibsem-int16/s1/0/1/1"))
    _, checks = take_all(
        source, f"{EM}.s1", open_store(str(tmp_path)), settings=settings
    )
    given = {check.name: check for check in checks}["no_chunks_are_missing"]
    assert not given.passed
    assert given.sentence.startswith("1 of 18 chunks are missing")
    assert given.items == ("0/1/1",)


def test_a_chunk_that_is_not_served_stands_in_the_record(
    world: World, tmp_path: Path
) -> None:
    settings = settings_of(world)
    source = open_source("openorganelle", settings)
    store = open_store(str(tmp_path))
    world.faults.add(Fault("status", path="*/fibsem-int16/s1/0/1/1", methods=("GET",)))
    with pytest.raises(SourceUnavailable, match="is not served"):
        take_all(source, f"{EM}.s1", store, settings=settings)
    record = store.read(layout.record("openorganelle", f"{EM}.s1"), DatasetRecord)
    assert record.status == "failed"
    assert record.error is not None and "is not served" in record.error.message
    world.faults.clear()
    record, _ = take_all(source, f"{EM}.s1", store, settings=settings)
    assert record.status == "complete"
