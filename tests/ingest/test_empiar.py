"""What EMPIAR says is read as it was recorded, and so are people's own words."""

import json
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import FormatError
from em_platform.ingest.empiar import (
    entry_of_json,
    entry_of_xml,
    modality_of,
    wanted_of,
)
from em_platform.ingest.image_set import natural_order, thickness_nm


def recorded_answer(shared_data: Path) -> Any:
    """The API's real answer on 11759, as the source project has kept it."""
    name = "api/macroscope/metadata_catalog_20250611_221633.json"
    catalog = json.loads((shared_data / name).read_text())
    return catalog["valid_records_sample"][0]["additional_metadata"]


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
def test_an_answer_without_the_entry_is_reported(answer: Any) -> None:
    with pytest.raises(FormatError, match="expected the entry EMPIAR-11759"):
        entry_of_json(answer, "11759")


@pytest.mark.parametrize(
    ("text", "found"), [("<html>", "cannot be read"), ("<html/>", "'html' at its top")]
)
def test_a_header_that_is_none_is_reported(text: str, found: str) -> None:
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
