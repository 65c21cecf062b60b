"""Crops of FlyEM come by three ways, at their place, with what is known of them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from em_platform.config import Settings, load_settings
from em_platform.errors import ConfigError, SourceRefused, SourceUnavailable
from em_platform.formats import Volume
from em_platform.ingest.flyem_volumes import crop_of, key_of, middle_crop
from em_platform.ingest.source import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.flyem import Flyem
from em_platform.model.ingest import Entry
from em_platform.standins.faults import Fault
from em_platform.standins.flyem import GREY, LABELS, PLAIN, Labels, write_precomputed
from em_platform.standins.pixels import Pixels
from em_platform.standins.world import World
from em_platform.storage import open_store
from tests.ingest.steps import take_all

KEY = "64_0_64_64_72_100"
EVERYTHING = (slice(None), slice(None), slice(None))
FAST = {"ingest.transfer.backoff_s": "0.01", "ingest.transfer.retries": "1"}


def settings_of(world: World, **flyem: str) -> Settings:
    """Settings for the world, without a neuPrint token unless it is given."""
    wanted = {f"ingest.flyem.{name}": value for name, value in flyem.items()}
    quiet = {"ingest.flyem.neuprint_token": ""}
    return load_settings(overrides={**world.settings, **quiet, **FAST, **wanted})


def source_of(world: World, **flyem: str) -> Flyem:
    source = open_source("flyem", settings_of(world, **flyem))
    assert isinstance(source, Flyem)
    return source


def opened(source: Flyem, entry: Entry) -> Volume:
    """As a worker has it, from an entry that was stored."""
    stored = Entry.model_validate_json(entry.model_dump_json())
    assert repr(stored.array) == repr(entry.array)
    volume: Volume = pickle.loads(pickle.dumps(source.open(stored, Path("nowhere"))))
    return volume


def bucket(world: World, name: str) -> str:
    return world.settings["ingest.flyem.precomputed_url"].replace(GREY, name)


def asked(world: World, part: str) -> int:
    return world.requests.count(lambda each: part in each.path)


def test_a_crop_says_what_it_is_where_it_lies_and_who_may_use_it(world: World) -> None:
    entry = source_of(world).describe(KEY)
    assert entry.shape == (64, 72, 100)
    assert entry.voxel_size_nm == (8.0, 8.0, 8.0)
    assert entry.origin_nm == (512.0, 0.0, 512.0)
    assert entry.dtype == "uint8"
    assert entry.modality == "FIB-SEM"
    assert entry.license == "CC BY 4.0"
    assert entry.doi == "10.7554/eLife.57443"
    assert entry.organism == "Drosophila melanogaster"
    assert entry.estimated_bytes == 64 * 72 * 100
    assert entry.additional["via"] == "raw"
    assert entry.additional["dataset_bounds"] == "z 0-129, y 0-149, x 0-199"
    assert entry.snapshot["info"]["Extents"]["MaxPoint"] == [199, 149, 129]
    assert entry.array is not None
    assert entry.array.crop == ((64, 0, 64), (64, 72, 100))
    assert asked(world, "/raw/") == 0


@pytest.mark.parametrize("via", ["auto", "raw", "subvolblocks", "specificblocks"])
def test_a_crop_is_bit_by_bit_what_dvid_holds(world: World, via: str) -> None:
    source = source_of(world, via=via)
    entry = source.describe(KEY)
    raw = source.fetch(entry, Path("nowhere"), Silent())
    assert raw.expected_chunks == 1 * 2 * 2
    assert raw.missing_chunks is None
    volume = opened(source, entry)
    assert volume.info.origin_nm == entry.origin_nm
    assert np.array_equal(volume.read(EVERYTHING), world.truth("flyem", KEY))


@pytest.mark.parametrize(("name", "objects"), [(GREY, 1), (PLAIN, 4)])
def test_bulk_comes_from_the_bucket_as_near_as_jpeg_allows(
    world: World, name: str, objects: int
) -> None:
    source = source_of(world, via="precomputed", precomputed_url=bucket(world, name))
    entry = source.describe(KEY)
    assert asked(world, "/api/node/") == 0
    assert entry.estimated_bytes is None
    assert entry.license == "CC BY 4.0"
    raw = source.fetch(entry, Path("nowhere"), Silent())
    assert (raw.expected_chunks, raw.missing_chunks) == (objects, 0)
    assert bool(raw.size_bytes) == (name == PLAIN)
    volume = opened(source, entry)
    assert volume.info.origin_nm == (512.0, 0.0, 512.0)
    found = volume.read(EVERYTHING).astype(int)
    assert abs(found - world.truth("flyem", KEY)).mean() < 4


def test_what_dvid_should_not_be_asked_for_comes_from_the_bucket(world: World) -> None:
    small = source_of(world, max_raw_mb="1").describe(KEY)
    assert small.additional["via"] == "raw"
    large = source_of(world, max_raw_mb="1").describe("0_0_0_128_128_128")
    assert large.additional["via"] == "precomputed"
    labels = source_of(world, max_raw_mb="1", instance="segmentation")
    entry = labels.describe(KEY)
    # The bucket holds grey voxels, so that DVID is asked in several parts.
    assert entry.additional["via"] == "raw"
    assert entry.dtype == "uint64"
    world.requests.clear()
    found = opened(labels, entry).read(EVERYTHING)
    truth = Labels(shape=(130, 150, 200)).read((64, 0, 64), (64, 72, 100))
    assert np.array_equal(found, truth)
    assert asked(world, "/raw/") >= 4


def test_a_segmentation_in_the_bucket_keeps_its_labels(world: World) -> None:
    where = bucket(world, LABELS)
    source = source_of(world, via="precomputed", precomputed_url=where)
    entry = source.describe(KEY)
    assert (entry.dtype, entry.content) == ("uint64", "labels")
    found = opened(source, entry).read(EVERYTHING)
    assert found.dtype == np.uint64
    truth = Labels(shape=(130, 150, 200)).read((64, 0, 64), (64, 72, 100))
    assert np.array_equal(found, truth)


def test_a_volume_that_begins_elsewhere_is_cut_at_its_own_coordinates(
    world: World, tmp_path: Path
) -> None:
    grey = Pixels(shape=(40, 70, 100), variant=4)
    write_precomputed(
        tmp_path / "grey", grey, origin=(64, 128, 192), encoding="raw", scales=1
    )
    where = {"via": "precomputed", "precomputed_url": str(tmp_path / "grey")}
    source = source_of(world, **where)
    entry = source.describe("70_130_200_30_60_90")
    assert entry.additional["dataset_bounds"] == "z 64-103, y 128-197, x 192-291"
    assert entry.origin_nm == (560.0, 1040.0, 1600.0)
    assert entry.license == ""
    raw = source.fetch(entry, Path("nowhere"), Silent())
    assert raw.missing_chunks == 0
    volume = opened(source, entry)
    assert volume.info.origin_nm == entry.origin_nm
    assert np.array_equal(volume.read(EVERYTHING), grey.read((6, 2, 8), (30, 60, 90)))
    with pytest.raises(SourceRefused, match="z 64-103, y 128-197, x 192-291"):
        source.describe("0_0_0_30_60_90")
    assert source_of(world, items="", crop_shape="8 8 8", **where).list() == (
        "64_128_192_8_8_8",
    )


def test_holes_of_the_bucket_are_counted_and_named(world: World) -> None:
    world.faults.add(Fault("missing", path=f"*/{PLAIN}/*64-128_0-64_64-128"))
    source = source_of(world, via="precomputed", precomputed_url=bucket(world, PLAIN))
    raw = source.fetch(source.describe(KEY), Path("nowhere"), Silent())
    assert (raw.expected_chunks, raw.missing_chunks) == (4, 1)
    assert raw.missing[0].endswith("64-128_0-64_64-128")


def test_without_items_the_same_crop_of_the_middle_is_taken_each_time(
    world: World,
) -> None:
    small = {"items": "", "crop_shape": "10 20 30"}
    assert source_of(world, **small).list() == ("0_64_64_10_20_30",)
    assert source_of(world, **small).list() == ("0_64_64_10_20_30",)
    whole = source_of(world, items="", crop_shape="1000 1000 1000").list()
    assert whole == ("0_0_0_130_150_200",)
    assert source_of(world).list() == (KEY,)
    (bulk,) = source_of(world, via="precomputed", **small).list()
    assert bulk == "0_64_64_10_20_30"


def test_the_middle_begins_at_a_block_within_the_volume() -> None:
    low, high = (0, 70, 0), (41408, 39725, 34432)
    crop = middle_crop(low, high, shape=(1000, 1000, 1000), block=(64, 64, 64))
    assert key_of(crop) == "20160_19392_16704_1000_1000_1000"
    assert crop_of(key_of(crop)) == crop
    narrow = middle_crop(low, (64, 100, 64), shape=(99, 99, 99), block=(64, 64, 64))
    assert narrow == ((0, 70, 0), (64, 30, 64))


def test_a_crop_outside_of_the_volume_is_reported_with_the_real_bounds(
    world: World,
) -> None:
    # As x, y, z it would lie within.
    with pytest.raises(SourceRefused) as caught:
        source_of(world).describe("100_100_100_40_40_40")
    assert str(caught.value) == (
        "flyem: crop 100_100_100_40_40_40 covers z 100-139, y 100-139, x 100-139, but "
        "the voxels of grayscale are z 0-129, y 0-149, x 0-199; choose a crop within, "
        "in ingest.flyem.items"
    )


@pytest.mark.parametrize(
    "key", ["1_2_3", "a_b_c_d_e_f", "0_0_0_1_1_0", "1_2_3_4_5_6_7"]
)
def test_a_key_that_is_no_crop_is_reported(world: World, key: str) -> None:
    with pytest.raises(ConfigError, match="is no crop, expected its corner and its"):
        source_of(world).describe(key)


def test_a_proxied_instance_is_read_by_its_blocks(world: World) -> None:
    source = source_of(world, instance="grayscale-proxied")
    entry = source.describe(KEY)
    assert entry.additional["via"] == "subvolblocks"
    assert entry.estimated_bytes is None
    found = opened(source, entry).read(EVERYTHING).astype(int)
    assert abs(found - world.truth("flyem", KEY)).mean() < 5
    with pytest.raises(ConfigError, match="passes on the blocks of another store"):
        source_of(world, instance="grayscale-proxied", via="raw").describe(KEY)


def test_a_voxel_size_that_is_set_stands_above_and_moves_the_crop(world: World) -> None:
    source = source_of(world, voxel_size_nm="[10, 4, 4]")
    entry = source.describe(KEY)
    assert entry.voxel_size_nm == (10.0, 4.0, 4.0)
    assert entry.origin_nm == (640.0, 0.0, 256.0)
    assert opened(source, entry).info.origin_nm == (640.0, 0.0, 256.0)


def test_other_volumes_are_not_taken_for_the_hemibrain(world: World) -> None:
    from em_platform.ingest.flyem_entries import known_of

    assert known_of("https://dvid.org/api/node/a89eb/grayscale") is not None
    assert known_of("https://dvid.org/api/node/a8/grayscale") is None
    assert known_of("https://dvid.org/api/node/ffff/grayscale") is None
    assert known_of("gs://flyem-vnc-2-26/original") is None


def test_provenance_and_regions_come_from_neuprint(world: World) -> None:
    token = world.settings["ingest.flyem.neuprint_token"]
    source = source_of(world, neuprint_token=token)
    wanted = source.describe(KEY).additional
    assert wanted["neuprint"] == "hemibrain:v1.2.1"
    assert wanted["neuprint_uuid"] == "31597f95a2cf4a3689e71d8d51b5b41e"
    assert wanted["neuprint_last_modified"] == "2021-10-06 16:32:29"
    entry = source.describe("0_0_0_8_8_8")
    assert "FB" in entry.snapshot["neuprint"]["regions"]
    assert asked(world, "/api/dbmeta/datasets") == 1


def test_without_a_token_neuprint_is_skipped_and_the_entry_says_so(
    world: World,
) -> None:
    entry = source_of(world).describe(KEY)
    assert entry.additional["neuprint"] == (
        "not asked: ingest.flyem.neuprint_token is not set"
    )
    assert world.requests.count(lambda each: each.site == "neuprint") == 0


def test_a_refused_token_fails_the_item_and_a_service_that_is_down_does_not(
    world: World,
) -> None:
    with pytest.raises(SourceRefused, match="answered 401"):
        source_of(world, neuprint_token="old").describe(KEY)
    world.faults.add(Fault("status", site="neuprint"))
    token = world.settings["ingest.flyem.neuprint_token"]
    entry = source_of(world, neuprint_token=token).describe(KEY)
    assert str(entry.additional["neuprint"]).startswith("did not answer: flyem: https:")


def test_a_version_that_may_still_change_names_its_last_change(world: World) -> None:
    locked = source_of(world).describe(KEY)
    assert locked.additional["dvid_locked"] is True
    assert str(locked.additional["dvid_uuid"]).startswith("a89eb3af")
    assert locked.array is not None
    assert "changed" not in locked.array.options
    moving = source_of(world, uuid="a89eb:master").describe(KEY)
    assert moving.additional["dvid_locked"] is False
    assert moving.array is not None
    assert moving.array.options["changed"].startswith("0 2019-01-25")
    world.faults.add(Fault("status", path="/api/repo/*", status=404))
    assert "dvid_locked" not in source_of(world).describe(KEY).additional


@pytest.mark.parametrize("status", [503, 404])
def test_a_dvid_that_does_not_serve_is_reported(world: World, status: int) -> None:
    world.faults.add(Fault("status", site="dvid", status=status))
    expected: Any = SourceUnavailable if status == 503 else SourceRefused
    with pytest.raises(expected, match=f"grayscale/info answered {status}"):
        source_of(world).describe(KEY)


def test_an_interrupted_crop_goes_on_where_it_was_and_ends_the_same(
    world: World, tmp_path: Path
) -> None:
    key = "0_0_0_130_150_200"
    shards = {"ingest.output.chunk_px": "32", "ingest.output.shard_px": "64"}
    quiet = {"ingest.flyem.neuprint_token": ""}
    settings = load_settings(overrides={**world.settings, **FAST, **shards, **quiet})
    store = open_store(str(tmp_path))

    def take() -> list[str]:
        world.requests.clear()
        try:
            take_all(Flyem(settings), key, store, settings=settings)
        finally:
            wanted = world.requests.all()
        return [each.path for each in wanted if "/raw/" in each.path]

    world.faults.add(Fault("status", path="*/raw/*", skip=20, status=404))
    with pytest.raises(SourceRefused, match="answered 404"):
        take()
    came = {e.path for e in world.requests.all() if "/raw/" in e.path}
    world.faults.clear()
    left = take()
    assert len(left) == len(set(left))
    # Eight shards are one unit of work; that which was broken off is done again.
    assert len(came & set(left)) <= 8
    assert len(came | set(left)) == 3 * 3 * 4
    written = zarr.open_array(f"{tmp_path}/volumes/flyem/{key}.zarr/0", mode="r")
    assert np.array_equal(written[:], world.truth("flyem", key))
    assert take() == []
