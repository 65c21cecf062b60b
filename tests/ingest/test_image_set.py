"""Of any archive of files, those that are one volume are chosen, in order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.errors import FormatError
from em_platform.ingest.source import Silent
from em_platform.ingest.sources.ebi import Ebi
from em_platform.standins.faults import Fault
from em_platform.standins.http import Server
from em_platform.standins.image_files import write_mrc
from em_platform.standins.messages import Handler, Request, Response, as_json
from em_platform.standins.part import FileHost, Tree

FAST = {"ingest.transfer.backoff_s": "0.001", "ingest.transfer.retries": "1"}


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
        given = {
            "ingest.ebi.api_url": f"{self.server.url}/api",
            "ingest.ebi.files_urls": f"{self.server.url}/files",
        }
        return Ebi(load_settings(overrides={**FAST, **given}))

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


def test_a_set_of_many_volumes_is_reported_before_it_is_fetched(
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


def test_files_of_two_images_each_are_reported(
    archive: Archive, tmp_path: Path
) -> None:
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
