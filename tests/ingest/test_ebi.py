"""Any entry of EMPIAR: what it says of itself, its files in order, and its voxels."""

from pathlib import Path

import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.errors import FormatError, SourceRefused, SourceUnavailable
from em_platform.ingest.source import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.ebi import Ebi
from em_platform.standins.faults import Fault
from em_platform.standins.world import World

FAST = {"ingest.transfer.backoff_s": "0.001", "ingest.transfer.retries": "1"}


def ebi(world: World, **more: str) -> Ebi:
    named = {f"ingest.ebi.{name}": value for name, value in more.items()}
    overrides = {**world.settings, **FAST, **named}
    source = open_source("ebi", load_settings(overrides=overrides))
    assert isinstance(source, Ebi)
    return source


def test_the_retina_is_what_it_is_and_not_what_others_call_it(world: World) -> None:
    entry = ebi(world).describe("11759")
    assert entry.title == "Developing retina in zebrafish 55 hpf larval eye."
    assert entry.source_id == "EMPIAR-11759"
    assert entry.modality == "SBF-SEM"
    assert entry.organism == "Danio rerio"
    assert entry.voxel_size_nm == (50.0, 8.0, 8.0)
    assert entry.shape is None  # the API's 5628 x 5632 are not those of the files
    assert entry.imaging_start_date is None
    assert entry.license == "CC0 1.0"
    assert entry.doi == "10.6019/EMPIAR-11759"
    assert "Wilsch-Bräuninger M" in entry.citation
    assert "mouse" not in entry.model_dump_json(exclude={"snapshot"}).lower()
    assert entry.additional["section_nm_from_text"] == 50.0
    assert entry.additional["release_date"] == "2024-01-15"
    assert entry.url.endswith("/empiar/EMPIAR-11759/")
    assert "EMPIAR-11759" in entry.snapshot["entry"]


def test_its_sixteen_slices_are_found_in_order_and_nothing_else(world: World) -> None:
    entry = ebi(world).describe("EMPIAR-11759")
    assert entry.key == "11759"
    assert [file.name for file in entry.files] == [
        f"F57-8_test1_3VBSED_slice_{z:04}.dm3" for z in range(16)
    ]
    assert entry.estimated_bytes == sum(file.size_bytes or 0 for file in entry.files)
    assert world.requests.count(lambda r: "trakem2" in r.path) == 0


@pytest.mark.parametrize(
    ("key", "voxel_nm"),
    [
        ("11759", (50.0, 7.998, 7.998)),
        ("99001", (10.0, 10.0, 10.0)),
        ("99002", (30.0, 8.0, 8.0)),
        ("99002.2", (12.0, 12.0, 12.0)),
        ("99003", (40.0, 8.0, 8.0)),
    ],
)
def test_what_is_fetched_is_what_is_served(
    world: World, tmp_path: Path, key: str, voxel_nm: tuple[float, ...]
) -> None:
    source = ebi(world)
    entry = source.describe(key)
    raw = source.fetch(entry, tmp_path, Silent())
    assert raw.size_bytes == raw.fetched_bytes == entry.estimated_bytes
    volume = source.open(entry, tmp_path)
    truth = world.truth("ebi", key)
    assert volume.info.shape == truth.shape
    assert volume.info.voxel_size_nm == pytest.approx(voxel_nm, rel=1e-3)
    whole = volume.read((slice(None), slice(None), slice(None)))
    np.testing.assert_array_equal(whole, truth)
    world.requests.clear()
    assert source.fetch(entry, tmp_path, Silent()).fetched_bytes == 0
    assert world.requests.all() == []


def test_items_are_known_by_any_of_their_names(world: World) -> None:
    items = "EMPIAR-11759 11759 99002.2"
    assert ebi(world, items=items).list() == ("11759", "99002.2")


def test_discovery_finds_the_other_image_sets(world: World) -> None:
    source = ebi(world, items="99002", discover="true")
    assert source.list() == ("99002", "99002.2")


def test_a_mirror_serves_while_the_archive_is_down(
    world: World, tmp_path: Path
) -> None:
    archive = world.settings["ingest.ebi.files_urls"]
    mirror = archive.replace(world.urls["ebi"], world.urls["ebi-mirror"])
    source = ebi(world, files_urls=f"{archive},{mirror}")
    entry = source.describe("99001")
    assert entry.files[0].mirrors == (f"{mirror}/99001/data/medulla.mrc",)
    world.faults.add(Fault("status", path="/empiar/world*", site="ebi"))
    source.fetch(entry, tmp_path, Silent())
    assert source.open(entry, tmp_path).info.shape == (40, 80, 90)
    assert source.describe("99001").files[0].url.startswith(mirror)


def test_an_entry_that_there_is_not_is_reported(world: World) -> None:
    with pytest.raises(SourceRefused, match=r"ebi: http.*/entry/12345/ answered 404"):
        ebi(world).describe("12345")


def test_an_image_set_that_there_is_not_is_reported(world: World) -> None:
    with pytest.raises(FormatError, match="EMPIAR-99002 has 2 image sets, not 3"):
        ebi(world).describe("99002.3")


def test_what_names_no_entry_is_reported(world: World) -> None:
    with pytest.raises(SourceRefused, match="'retina' is no entry of EMPIAR"):
        ebi(world, items="retina").list()


def test_a_service_that_is_down_is_reported(world: World) -> None:
    world.faults.add(Fault("status", site="ebi"))
    with pytest.raises(SourceUnavailable, match=r"/entry/11759/ answered 503"):
        ebi(world).describe("11759")


def test_a_fetch_has_what_it_needs_to_go_on_elsewhere(
    world: World, tmp_path: Path
) -> None:
    """The entry that was stored is enough to fetch, as an asset does it."""
    source = ebi(world)
    entry = source.describe("99001")
    stored = type(entry).model_validate_json(entry.model_dump_json())
    raw = source.fetch(stored, tmp_path, Silent())
    assert raw.files[0].name == "medulla.mrc"
