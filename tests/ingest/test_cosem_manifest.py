"""Real manifests of OpenOrganelle say what a dataset is."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import FormatError
from em_platform.ingest.cosem_manifest import facts_of


def recorded(shared_data: Path, name: str) -> dict[str, Any]:
    folder = shared_data / "api/openorganelle"
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def test_a_manifest_says_what_was_imaged_and_when(shared_data: Path) -> None:
    facts = facts_of(recorded(shared_data, "jrc_hela-2.manifest.json"))
    assert facts.title == "Interphase HeLa cell"
    assert facts.description == "Wild-type, interphase HeLa cell (ATCC CCL-2)"
    assert (facts.organism, facts.sample) == ("Human", "Cell culture, HeLa, Wild-type")
    assert facts.imaging_start_date == date(2017, 6, 21)
    assert facts.voxel_size_nm == (5.24, 4.0, 4.0)
    assert facts.is_fibsem
    assert facts.license == ""  # these manifests state none
    assert "Xu et al., 2021, https://doi.org/10.1038/s41586-021-03992-4" in (
        facts.citation
    )


def test_images_and_labels_have_their_own_doi_and_words(shared_data: Path) -> None:
    facts = facts_of(recorded(shared_data, "jrc_hela-2.manifest.json"))
    assert facts.doi("em/fibsem-uint16/s0") == "10.25378/janelia.13114211"
    assert facts.doi("labels/er-mem_pred/s0") == "10.25378/janelia.13108343"
    assert facts.words_of("em/fibsem-uint16") == "FIB-SEM Data (uncompressed)"
    assert facts.words_of("labels/er-mem_pred") == "Endoplasmic Reticulum membrane"
    assert facts.words_of("labels/nothing") == ""


def test_the_metadata_alone_say_the_same(shared_data: Path) -> None:
    alone = facts_of(recorded(shared_data, "jrc_hela-2.metadata.json"))
    whole = facts_of(recorded(shared_data, "jrc_hela-2.manifest.json"))
    assert (alone.title, alone.organism, alone.citation, alone.dois) == (
        whole.title,
        whole.organism,
        whole.citation,
        whole.dois,
    )


@pytest.mark.parametrize(
    ("name", "title", "started"),
    [
        ("jrc_mus-kidney.manifest.json", "Mouse Kidney", date(2021, 4, 19)),
        ("jrc_mus-liver.manifest.json", "Mouse Liver", date(2021, 3, 19)),
    ],
)
def test_other_datasets_are_read_too(
    name: str, title: str, started: date, shared_data: Path
) -> None:
    facts = facts_of(recorded(shared_data, name))
    assert (facts.title, facts.organism) == (title, "Mouse")
    assert facts.imaging_start_date == started
    assert facts.voxel_size_nm == (8.0, 8.0, 8.0)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"metadata": {"id": "x"}},
        {"metadata": []},
        {"title": "x", "imaging": {"startDate": "June"}},
        {"title": "x", "DOI": [{"title": "EM"}]},
    ],
)
def test_what_is_no_manifest_is_reported(content: Any) -> None:
    with pytest.raises(FormatError, match=r"http://x is no manifest .*metadata_url"):
        facts_of(content, url="http://x")
