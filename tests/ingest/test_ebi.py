"""Any entry of EMPIAR: what it says of itself, its files in order, and its voxels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.errors import FormatError, SourceRefused, SourceUnavailable
from em_platform.ingest.empiar import (
    entry_of_json,
    entry_of_xml,
    modality_of,
    wanted_of,
)
from em_platform.ingest.image_set import natural_order
from em_platform.ingest.progress import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.ebi import Ebi
from em_platform.ingest.thickness import thickness_nm
from em_platform.standins.faults import Fault
from em_platform.standins.filehost import FileHost
from em_platform.standins.http import Server
from em_platform.standins.messages import Handler, Request, Response, as_json
from em_platform.standins.mrc import write_mrc
from em_platform.standins.part import Tree
from em_platform.standins.world import World, running_world

FAST = {"ingest.transfer.backoff_s": "0.001", "ingest.transfer.retries": "1"}


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("world"), sources=("ebi",)) as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> World:
    shared_world.faults.clear()
    shared_world.requests.clear()
    return shared_world


def ebi(world: World, **told: str) -> Ebi:
    named = {f"ingest.ebi.{name}": value for name, value in told.items()}
    overrides = {**world.settings, **FAST, **named}
    source = open_source("ebi", load_settings(overrides=overrides))
    assert isinstance(source, Ebi)
    return source


def recorded_answer(shared_data: Path) -> Any:
    """What the API really said of 11759, as the source project has kept it."""
    name = "api/macroscope/metadata_catalog_20250611_221633.json"
    catalog = json.loads((shared_data / name).read_text())
    return catalog["valid_records_sample"][0]["additional_metadata"]


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
    assert "Mouse synapse FIB-SEM" in entry.aliases
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


def test_an_entry_that_there_is_not_is_told(world: World) -> None:
    with pytest.raises(SourceRefused, match=r"ebi: http.*/entry/12345/ answered 404"):
        ebi(world).describe("12345")


def test_an_image_set_that_there_is_not_is_told(world: World) -> None:
    with pytest.raises(FormatError, match="EMPIAR-99002 has 2 image sets, not 3"):
        ebi(world).describe("99002.3")


def test_what_names_no_entry_is_told(world: World) -> None:
    with pytest.raises(SourceRefused, match="'retina' is no entry of EMPIAR"):
        ebi(world, items="retina").list()


def test_a_service_that_is_down_is_told(world: World) -> None:
    world.faults.add(Fault("status", site="ebi"))
    with pytest.raises(SourceUnavailable, match=r"/entry/11759/ answered 503"):
        ebi(world).describe("11759")


@pytest.mark.parametrize(
    ("text", "number", "image_set", "key"),
    [
        ("11759", "11759", 1, "11759"),
        ("EMPIAR-11759", "11759", 1, "11759"),
        ("empiar-11759.2", "11759", 2, "11759.2"),
        ("10311.1.12", "10311", 1, "10311.1.12"),
        ("https://www.ebi.ac.uk/empiar/EMPIAR-10934/", "10934", 1, "10934"),
        ("https://www.ebi.ac.uk/empiar/api/entry/10934/", "10934", 1, "10934"),
    ],
)
def test_an_item_may_be_named_in_many_ways(
    text: str, number: str, image_set: int, key: str
) -> None:
    wanted = wanted_of(text)
    assert (wanted.number, wanted.image_set, wanted.key) == (number, image_set, key)


def test_a_recorded_search_names_its_entry(shared_data: Path) -> None:
    (line,) = (shared_data / "api/empiar/saved_search.txt").read_text().split()
    assert wanted_of(line).key == "10934"


def test_the_recorded_answer_is_read(shared_data: Path) -> None:
    entry = entry_of_json(recorded_answer(shared_data), "11759")
    assert entry.title == "Developing retina in zebrafish 55 hpf larval eye."
    assert entry.experiment_type == "SBF-SEM"
    assert entry.size == "1.2 GB"
    assert entry.authors == ("Wilsch-Bräuninger M",)
    (images,) = entry.image_sets
    assert images.directory == "data"
    assert images.formats == ("DM3",)
    assert images.pixel_nm == (8.0, 8.0)  # 80 Å
    assert images.number == 16
    assert (images.height_px, images.width_px) == (5632, 5628)
    assert thickness_nm(images.details) == 50.0


def test_the_recorded_header_is_read(shared_data: Path) -> None:
    header = (shared_data / "api/empiar/10934.xml").read_text()
    entry = entry_of_xml(header)
    assert entry.accession == "EMPIAR-10934"
    assert entry.title.startswith("Cryo-EM multiframe micrographs of human Pol kappa")
    assert modality_of(entry.experiment_type) == "cryo-EM"
    assert entry.release_date == "2022-02-07"
    assert entry.doi == "10.6019/EMPIAR-10934"
    assert entry.citation_doi == "10.1038/s41467-021-26251-6"
    assert len(entry.authors) == 13
    assert "(2021). Cryo-EM structure of human Pol κ" in entry.citation
    assert entry.size == "1.9 TB"
    (images,) = entry.image_sets
    assert images.directory == "data/CL44-1_20201106_111915"
    assert images.formats == ("TIFF",)
    assert images.pattern.endswith("FoilHole_*_fractions.tiff.bz2")
    assert images.pixel_nm == pytest.approx((0.0543, 0.0543))
    assert images.number == 3889


def test_the_summary_agrees_with_what_the_recorded_answer_says(
    shared_data: Path,
) -> None:
    path = shared_data / "api/summaries/empiar_metadata.json"
    summary = json.loads(path.read_text())
    entry = entry_of_json(recorded_answer(shared_data), "11759")
    (images,) = entry.image_sets
    assert summary["accession"] == entry.accession
    assert summary["experiment_type"] == entry.experiment_type
    assert summary["format"] == images.formats[0]
    assert summary["num_slices"] == images.number
    assert images.pixel_nm is not None
    voxel = (thickness_nm(images.details), *images.pixel_nm)
    assert voxel == pytest.approx(summary["resolution_zyx_nm"], rel=1e-3)


@pytest.mark.parametrize("answer", [{}, [], {"EMPIAR-1": {"title": "x"}}, "down"])
def test_an_answer_without_the_entry_is_told(answer: Any) -> None:
    with pytest.raises(FormatError, match="expected the entry EMPIAR-11759"):
        entry_of_json(answer, "11759")


@pytest.mark.parametrize(
    ("text", "found"), [("<html>", "cannot be read"), ("<html/>", "'html' at its top")]
)
def test_a_header_that_is_none_is_told(text: str, found: str) -> None:
    with pytest.raises(FormatError, match=found):
        entry_of_xml(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("8nm/px in xy and 50nm per section (z).", 50.0),
        ("8 nm in xy, 30 nm per section (z).", 30.0),
        ("10 nm isotropic.", 10.0),
        ("an isotropic voxel size of 5 nm", 5.0),
        ("section thickness of 50 nm", 50.0),
        ("slice thickness: 40 nm", 40.0),
        ("cut into 50-nm-thick sections", 50.0),
        ("70 nm thin sections", 70.0),
        ("sections of 60 nm", 60.0),
        ("30 nm in z", 30.0),
        ("z-step = 25 nm", 25.0),
        ("z resolution (nominal) was about 29.5 nm", 29.5),
        ("voxel size 8x8x50 nm", 50.0),
        ("4 nm × 4 nm × 40 nm", 40.0),
        ("0.05 µm per slice", 50.0),
        ("200 Å in z", 20.0),
        ("50 nm sections, 50 nm per section", 50.0),
        ("50nm sections imaged, z-step 30 nm", None),
        ("pixel size 8 nm", None),
        ("8 x 8 nm", None),
        ("5 nm2 per section", None),
        ("0 nm per section", None),
        ("0.5 usec dwell time, 1.9kV, 200pA", None),
        ("", None),
    ],
)
def test_the_distance_of_sections_is_taken_from_words_that_say_it(
    words: str, expected: float | None
) -> None:
    assert thickness_nm(words) == expected


def test_slices_are_sorted_as_people_count() -> None:
    names = ["s10.dm3", "s2.dm3", "S1.dm3", "a/s3.dm3", "s1b.dm3"]
    ordered = ["a/s3.dm3", "S1.dm3", "s1b.dm3", "s2.dm3", "s10.dm3"]
    assert sorted(names, key=natural_order) == ordered


@pytest.mark.parametrize(
    ("word", "expected"),
    [("SBF-SEM", "SBF-SEM"), ("EMDB", "cryo-EM"), ("fib-sem", "FIB-SEM"), ("?", "EM")],
)
def test_types_of_experiment_have_the_catalogs_words(word: str, expected: str) -> None:
    assert modality_of(word) == expected


class Archive:
    """An archive of one made-up entry, with any files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "10311/data"
        self.folder.mkdir(parents=True)
        self.image_set: dict[str, Any] = {"name": "Set", "directory": "/data/"}
        self.server = Server("archive", self.answer)
        self.host: Handler = FileHost(
            Tree(folder, lambda _: None), prefix="/files", faults=self.server.faults
        )

    def answer(self, request: Request) -> Response:
        if request.path.startswith("/files"):
            return self.host(request)
        entry = {"title": "Made up", "imagesets": [self.image_set]}
        return as_json({"EMPIAR-10311": entry})

    def source(self) -> Ebi:
        told = {
            "ingest.ebi.api_url": f"{self.server.url}/api",
            "ingest.ebi.files_urls": f"{self.server.url}/files",
        }
        return Ebi(load_settings(overrides={**FAST, **told}))

    def put(self, *names: str, content: bytes = b"x") -> None:
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    with made.server:
        yield made


def described(archive: Archive, key: str = "10311") -> list[str]:
    return [file.name for file in archive.source().describe(key).files]


def test_files_of_the_stated_format_are_taken(archive: Archive) -> None:
    archive.image_set["data_format"] = "TIFF"
    archive.put("a2.tif", "a10.TIF", "a1.tiff", "notes.txt", "a.dm3", "b.dm3")
    assert described(archive) == ["a1.tiff", "a2.tif", "a10.TIF"]


def test_without_a_stated_format_the_most_frequent_is_taken(archive: Archive) -> None:
    archive.put("a.tif", "b.dm3", "deep/er/c.dm3", ".hidden/d.dm3", "xml.gz")
    assert described(archive) == ["b.dm3", "deep/er/c.dm3"]


def test_a_pattern_chooses_files_and_folders(archive: Archive) -> None:
    archive.image_set["micrographs_file_pattern"] = "data/Grid_*/Data/*_f.tif"
    archive.put("Grid_1/Data/a_f.tif", "Grid_2/Data/b_f.tif", "Grid_1/Data/a_gain.tif")
    archive.put("other/Data/c_f.tif", "Grid_1/more/d_f.tif")
    assert described(archive) == ["Grid_1/Data/a_f.tif", "Grid_2/Data/b_f.tif"]
    listed = [r.path for r in archive.server.requests.all() if "other" in r.path]
    assert listed == []


def test_a_pattern_that_fits_nothing_is_not_followed(archive: Archive) -> None:
    archive.image_set["micrographs_file_pattern"] = "*.mrc"
    archive.put("a.tif")
    assert described(archive) == ["a.tif"]


def test_formats_that_cannot_be_read_are_named(archive: Archive) -> None:
    archive.image_set["header_format"] = "TIFF"
    archive.put("a_fractions.tiff.bz2", "b_fractions.tiff.bz2", "c.eer")
    found = r"holds 2 \.tiff\.bz2, 1 \.eer \(stated: TIFF\), expected DM3, DM4, MRC or"
    with pytest.raises(FormatError, match=found):
        archive.source().describe("10311")


def test_a_set_of_many_volumes_is_told_before_it_is_fetched(
    archive: Archive, tmp_path: Path
) -> None:
    for name in ("t1.mrc", "t2.mrc"):
        write_mrc(archive.folder / name, np.ones((3, 4, 5), np.int16), voxel_nm=1.0)
    with pytest.raises(FormatError, match=r"has 2 volumes, such as t1.mrc.*10311.1.2"):
        archive.source().describe("10311")
    source = archive.source()
    entry = source.describe("10311.1.2")
    assert [file.name for file in entry.files] == ["t2.mrc"]
    source.fetch(entry, tmp_path / "raw", Silent())
    assert source.open(entry, tmp_path / "raw").info.shape == (3, 4, 5)
    with pytest.raises(FormatError, match="the image set has 2 files"):
        source.describe("10311.1.3")


def test_files_of_two_images_each_are_told(archive: Archive, tmp_path: Path) -> None:
    import tifffile

    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(archive.folder / name, np.zeros((2, 8, 8), np.uint8))
    source = archive.source()
    entry = source.describe("10311")
    source.fetch(entry, tmp_path / "raw", Silent())
    with pytest.raises(FormatError, match=r"2 volumes, such as a.tif"):
        source.open(entry, tmp_path / "raw")


def test_the_header_in_the_archive_answers_while_the_api_is_down(
    archive: Archive, shared_data: Path
) -> None:
    header = (shared_data / "api/empiar/10934.xml").read_text()
    folder = archive.folder.parent.parent / "10934"
    name = "GridSquare_1/Data/FoilHole_1_fractions.tiff.bz2"
    path = folder / "data/CL44-1_20201106_111915/Images-Disc1" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    (folder / "10934.xml").write_text(header)
    archive.server.faults.add(Fault("status", path="/api/*"))
    with pytest.raises(FormatError, match=r"holds 1 \.tiff\.bz2 \(stated: TIFF\)"):
        archive.source().describe("10934")


def test_thousands_of_files_are_not_asked_for_their_length(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.ingest.sources.ebi._MOST_HEADS", 2)
    archive.put("a.tif", "b.tif", "c.tif")
    entry = archive.source().describe("10311")
    assert entry.estimated_bytes is None
    assert archive.server.requests.count(lambda r: r.method == "HEAD") == 0


def test_a_fetch_has_what_it_needs_to_go_on_elsewhere(
    world: World, tmp_path: Path
) -> None:
    """The entry that was stored is enough to fetch, as an asset does it."""
    source = ebi(world)
    entry = source.describe("99001")
    stored = type(entry).model_validate_json(entry.model_dump_json())
    raw = source.fetch(stored, tmp_path, Silent())
    assert raw.files[0].name == "medulla.mrc"
