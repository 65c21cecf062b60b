"""Faults that need settings, a source or a disk of their own; the ingest in process.

What a published checksum shows, and what stays unseen without one; DVID that is busy or
refuses; neuPrint without a right token; a disk that is full; files that are replaced.
"""

import hashlib
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from em_platform.config import Settings, load_settings
from em_platform.ingest.modes import ItemOutcome
from em_platform.ingest.sources import epfl
from em_platform.ingest.worker import ingest_source
from em_platform.model.dataset import DatasetRecord
from em_platform.model.ingest import Entry
from em_platform.standins.dvid import Dvid
from em_platform.standins.faults import Fault
from em_platform.standins.world import World, running_world
from em_platform.storage import layout, store_of
from tests.small_disk import enlarge, small_disk
from tests.system.ingesting import Command

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

FAST = {
    "ingest.transfer.retries": "1",
    "ingest.transfer.backoff_s": "0.01",
    "ingest.transfer.part_mb": "0.1",
    "ingest.flyem.requests_per_second": "1000",
    "ingest.flyem.neuprint_token": "",
}
CROP = "0_0_0_64_64_64"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of the worlds lie, made by the first test."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def world(made_once: Path) -> Iterator[World]:
    with running_world(made_once) as running:
        yield running


class Ingest:
    """Ingests items of a world in this process."""

    def __init__(self, world: World, home: Path) -> None:
        self.world, self.home = world, home

    def settings(self, **own: str) -> Settings:
        named = {
            f"ingest.{name.replace('__', '.')}": value for name, value in own.items()
        }
        overrides = {**self.world.settings, **FAST, **named, "home": str(self.home)}
        return load_settings(overrides=overrides)

    def __call__(self, source: str, *keys: str, **own: str) -> list[ItemOutcome]:
        settings = self.settings(**own)
        return ingest_source(source, keys, settings=settings, report=lambda _: None)

    def record(self, source: str, key: str) -> DatasetRecord:
        store = store_of(self.settings())
        return store.read(layout.record(source, key), DatasetRecord)

    def is_exact(self, source: str, key: str) -> bool:
        path = self.home / "data" / layout.volume(source, key) / "0"
        found = zarr.open_array(path, mode="r")[:]
        return np.array_equal(found, self.world.truth(source, key))

    def failed(self, source: str, key: str, **own: str) -> str:
        """The sentence of an item that fails, which its record has as well."""
        (outcome,) = self(source, key, **own)
        record = self.record(source, key)
        assert (outcome.status, record.status) == ("failed", "failed")
        assert record.error is not None
        assert record.error.message == outcome.sentence
        return outcome.sentence

    def completes(self, source: str, key: str, **own: str) -> None:
        (outcome,) = self(source, key, **own)
        assert outcome.is_good, outcome
        assert self.record(source, key).status == "complete"
        assert self.is_exact(source, key)


@pytest.fixture
def ingest(world: World, tmp_path: Path) -> Ingest:
    return Ingest(world, tmp_path / "home")


def brought(world: World, ending: str) -> int:
    """How many requests have brought bytes of a file so far."""
    return world.requests.count(
        lambda each: each.method == "GET" and each.path.endswith(ending)
    )


def test_other_bytes_than_a_source_publishes_are_set_aside_and_come_again(
    world: World, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = world.parts["epfl"].trees[0].root.rglob("training.tif")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()

    class Published(epfl.Epfl):
        """EPFL, if it published checksums."""

        def describe(self, key: str) -> Entry:
            entry = super().describe(key)
            known = entry.files[0].model_copy(update={"sha256": sha256})
            return entry.model_copy(update={"files": (known,)})

    monkeypatch.setattr(epfl, "Epfl", Published)
    world.faults.add(Fault("corrupt", "*/training.tif"))
    sentence = ingest.failed("epfl", "training")
    assert f"{sha256} is published; it was renamed to" in sentence
    assert "training.tif.bad: run again, and tell the source if it stays so" in sentence
    assert not (ingest.home / "data/volumes").exists()
    world.faults.clear()
    ingest.completes("epfl", "training")
    path = ingest.home / "data" / layout.ingested("epfl", "training", "raw")
    assert '"checked_against": "sha256"' in path.read_text()


def test_other_bytes_of_the_same_length_stay_unseen_where_nothing_is_published(
    world: World, ingest: Ingest
) -> None:
    world.faults.add(Fault("corrupt", "*/training.tif"))
    (outcome,) = ingest("epfl", "training")
    assert outcome.is_good
    assert not ingest.is_exact("epfl", "training")
    path = ingest.home / "data" / layout.ingested("epfl", "training", "raw")
    assert '"checked_against": "length"' in path.read_text()
    world.faults.clear()
    (outcome,) = ingest("epfl", "training")
    assert outcome.was_there
    # Who doubts a volume deletes it and its raw files; a bad copy shows by its SHA-256.
    shutil.rmtree(ingest.home / "raw/epfl/training")
    shutil.rmtree(ingest.home / "data" / layout.volume("epfl", "training"))
    ingest.completes("epfl", "training")


def test_a_file_that_the_source_replaces_comes_again_and_the_others_do_not(
    world: World, ingest: Ingest
) -> None:
    ingest.completes("ebi", "11759")
    ingest.completes("epfl", "training")
    before = brought(world, ".dm3"), brought(world, "training.tif")
    ingest.completes("epfl", "training")
    assert brought(world, "training.tif") == before[1]
    world.faults.add(
        Fault("changed_etag", "*/training.tif"), Fault("changed_etag", "*_0007.dm3")
    )
    (outcome,) = ingest("epfl", "training")
    assert (outcome.is_good, outcome.was_there) == (True, False)
    assert not ingest.is_exact("epfl", "training")
    ingest("ebi", "11759")
    assert brought(world, ".dm3") == before[0] + 1
    world.faults.clear()
    ingest.completes("epfl", "training")
    ingest.completes("ebi", "11759")


def test_chunks_that_come_later_are_read_when_it_runs_again(
    world: World, ingest: Ingest
) -> None:
    key = "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s1"
    world.faults.add(Fault("missing", "*/fibsem-int16/s1/1/*"))
    (outcome,) = ingest("openorganelle", key)
    assert outcome.is_good
    record = ingest.record("openorganelle", key)
    assert "9 of 18 chunks are missing" in outcome.warnings[0]
    (again,) = ingest("openorganelle", key)
    assert again.was_there
    assert ingest.record("openorganelle", key).updated_at == record.updated_at
    world.faults.clear()
    ingest.completes("openorganelle", key)


def test_a_busy_dvid_is_waited_for_and_then_reported_in_its_own_words(
    world: World, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.parts["flyem"].sites["dvid"].handler
    assert isinstance(server, Dvid)
    monkeypatch.setattr("em_platform.ingest.dvid._TURNS", 2)
    with server.throttled():
        sentence = ingest.failed("flyem", CROP)
        assert "answered 503 (Server already running 1 throttled" in sentence
        assert "wait until the service is well, then run again" in sentence
        ingest.completes("flyem", CROP, flyem__throttle="false")


def test_a_box_that_dvid_finds_too_large_is_reported_and_fits_in_parts(
    world: World, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.parts["flyem"].sites["dvid"].handler
    monkeypatch.setattr(server, "most_bytes", 300_000)
    key = "0_0_0_64_64_128"
    sentence = ingest.failed("flyem", key)
    assert "answered 400" in sentence
    assert "limit (300000)" in sentence
    ingest.completes("flyem", key, output__shard_px="64")


def test_a_token_that_neuprint_does_not_take_fails_the_crop_and_its_outage_does_not(
    world: World, ingest: Ingest
) -> None:
    sentence = ingest.failed("flyem", CROP, flyem__neuprint_token="wrong")
    assert "/api/dbmeta/datasets answered 401" in sentence
    assert "give its token, or one that is still valid, in ingest.flyem" in sentence
    token = world.settings["ingest.flyem.neuprint_token"]
    world.faults.add(Fault("status", site="neuprint"))
    ingest.completes("flyem", CROP, flyem__neuprint_token=token)
    record = ingest.record("flyem", CROP).model_dump_json()
    assert "did not answer: flyem: " in record


def test_a_file_that_the_disk_does_not_take_fails_alone(
    world: World, tmp_path: Path
) -> None:
    command = Command(world, tmp_path / "home")
    items = {"epfl": ("volumedata", "training")}

    def little_room() -> None:
        """A limit for each file stops writes as a full disk does."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    status, report = command.run(items=items, before=little_room)
    assert status == 1
    failed, whole = report["outcomes"]
    assert "volumedata.tif.partial could not be written (File too" in failed["sentence"]
    assert "then run again: the finished parts are kept" in failed["sentence"]
    record = command.record("epfl", "volumedata")
    assert record["error"]["message"] == failed["sentence"]
    assert whole["status"] == "complete"
    assert command.catalog()["summary"]["by_status"] == {"complete": 1, "failed": 1}
    status, report = command.run(items=items)
    assert status == 0, report
    for key in items["epfl"]:
        assert np.array_equal(command.voxels("epfl", key), world.truth("epfl", key))


def test_a_full_disk_is_reported_for_each_item_and_goes_on_where_there_is_room_again(
    world: World, tmp_path: Path
) -> None:
    command = Command(world, tmp_path / "home")
    command.data = tmp_path / "disk"
    command.environment["EM_STORAGE__ROOT"] = str(command.data)
    items = {"epfl": ("training", "volumedata"), "ebi": "99001"}
    with small_disk(command.data, "450k"):
        status, report = command.run("--mode=sequential", items=items)
        assert status == 1
        found = {each["key"]: each for each in report["outcomes"]}
        assert found["training"]["status"] == "complete"
        sentence = found["volumedata"]["sentence"]
        assert "volumedata.zarr could not be written (No space left on dev" in sentence
        assert "free space or check access, then run again: what is done" in sentence
        record = command.record("epfl", "volumedata")
        assert (record["status"], record["error"]["message"]) == ("failed", sentence)
        assert "No space left on device" in found["99001"]["sentence"]
        assert not list(command.data.glob("volumes/epfl/volumedata.zarr/*"))

        enlarge(command.data, "20m")
        before = brought(world, "volumedata.tif")
        status, report = command.run("--mode=sequential", items=items)
        assert status == 0, report
        assert brought(world, "volumedata.tif") == before
        for source, key in (("epfl", "volumedata"), ("ebi", "99001")):
            assert np.array_equal(command.voxels(source, key), world.truth(source, key))


def test_a_disk_without_room_for_the_catalog_is_reported_with_all_outcomes(
    world: World, tmp_path: Path
) -> None:
    command = Command(world, tmp_path / "home")
    command.environment["EM_STORAGE__ROOT"] = str(tmp_path / "disk")
    with small_disk(tmp_path / "disk", "16k"):
        status, report = command.run(items={"epfl": "training"})
        assert status == 1
        assert "No space left on device" in report["outcomes"][0]["sentence"]
        assert "metadata_catalog.json could not be written" in report["catalog_error"]
