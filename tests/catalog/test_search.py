import json
from pathlib import Path
from typing import Any

import pytest

from em_platform.catalog.repository import Found, found_at
from em_platform.catalog.search import select, unmet
from em_platform.errors import ConfigError

MOMENT = "2026-05-06T12:00:00Z"


def record(key: str, core: dict[str, Any], **more: Any) -> Found:
    content = {
        "schema_version": "3.0",
        "source": "flyem",
        "key": key,
        "status": "complete",
        "created_at": MOMENT,
        "metadata": {"core": core, "technical": {"file_size_bytes": 2_500_000_000}},
        **more,
    }
    return Found(place=f"records/{key}.json", content=content)


RECORDS = (
    record(
        "brain",
        {
            "description": "Hemibrain of a fly",
            "organism": "Drosophila melanogaster",
            "modality": "FIB-SEM",
            "voxel_size_nm": [8.0, 8.0, 8.0],
            "volume_shape": [100, 200, 300],
            "license": "CC BY 4.0",
        },
        additional_metadata={"roi": {"name": "EB", "public": True}},
    ),
    record(
        "eye",
        {
            "description": "Retina",
            "organism": "Danio rerio",
            "modality": "SBF-SEM",
            "voxel_size_nm": [50.0, 8.0, 8.0],
            "volume_shape": [16, 5500, 5496],
            "imaging_start_date": "2018-06-10",
        },
        source="ebi",
    ),
    record(
        "nacc",
        {
            "description": "Nucleus accumbens",
            "organism": "Mus musculus (mouse)",
            "modality": "FIB-SEM",
            "voxel_size_nm": [2.96, 4.0, 4.0],
            "volume_shape": [564, 2520, 2596],
            "imaging_start_date": "2015-03-09",
        },
        source="openorganelle",
        status="failed",
        error={"message": "503", "retry_count": 3},
    ),
)


def found(query: str) -> list[str]:
    return [each.content["key"] for each in select(RECORDS, query)]


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("", ["eye", "brain", "nacc"]),
        ("modality=FIB-SEM voxel<10 organism~mouse", ["nacc"]),
        ("modality=fib-sem", ["brain", "nacc"]),
        ("metadata.core.modality=SBF-SEM", ["eye"]),
        ("modality!=FIB-SEM", ["eye"]),
        ("voxel<10", ["brain", "nacc"]),
        ("voxel<=8nm", ["brain", "nacc"]),
        ("voxel>0.005um", ["eye", "brain"]),
        ("voxel.z>10", ["eye"]),
        ("voxel_size_nm.x<5", ["nacc"]),
        ("shape.x>=2596 shape.z<100", ["eye"]),
        ("shape=100,200,300", ["brain"]),
        ("size>2GB", ["eye", "brain", "nacc"]),
        ("size>2.4GiB", []),
        ("source=ebi|flyem", ["eye", "brain"]),
        ("retry_count>2", ["nacc"]),
        ("error=*", ["nacc"]),
        ("license!=*", ["eye", "nacc"]),
        ("imaging_start_date>=2016", ["eye"]),
        ("imaging_start_date<2016-01-01", ["nacc"]),
        ("created_at>=2026-05 status=complete", ["eye", "brain"]),
        ('organism="Danio rerio"', ["eye"]),
        ('description~"of a fly"', ["brain"]),
        ("organism!~rerio", ["brain", "nacc"]),
        ("roi.public=yes", ["brain"]),
        ("additional_metadata.roi.name=eb", ["brain"]),
        ("zebrafish", []),
        ("danio", ["eye"]),
        ("-danio", ["brain", "nacc"]),
        ("-source=ebi -status=failed", ["brain"]),
        ('"voxel<10"', []),
        ('-"doi:10"', ["eye", "brain", "nacc"]),
    ],
)
def test_a_query_finds_what_it_says(query: str, keys: list[str]) -> None:
    assert found(query) == keys


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("voxel<", "has no value"),
        ("voxel<small", "a number or date was expected"),
        ('organism="Danio', "is no term"),
        ("size>5parsec", "a number or date was expected"),
        # round3 1.2.2: what no record can have is an error, not "0 records".
        ("voxle<10", "no record has a field voxle; did you mean voxel[?]"),
        ("metadata.core.organsim!=fly", "did you mean metadata.core.organism[?]"),
        ("status=completed", "did you mean complete[?]"),
        ("modality=fibsem", "none of .*did you mean fib-sem[?]"),
        ("modality<5", "modality is a text"),
        ("voxel=big", "'big' is no number"),
        ("voxel=<10", "has the operator '=<', one of = "),
        ("voxel < 10", "'<' is no term"),
        ("voxel:10", "'voxel:10' is no term"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(query: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        found(query)


def test_a_value_that_no_record_has_is_named() -> None:
    """round3 1.2.1: `source=microscope|ebi` found one, and was silent of the other."""
    assert unmet(RECORDS, "source=microscope|ebi voxel<10") == ["source=microscope"]
    assert unmet(RECORDS, "source=ebi status!=complete -organism=*") == []


def test_older_records_are_found_by_the_names_of_version_3(tmp_path: Path) -> None:
    old = {
        "source": "openorganelle",
        "source_id": "jrc_mus-nacc-2",
        "description": "Array",
        "modality": "electron microscopy",
        "voxel_size_nm": {"x": 4.0, "y": 4.0, "z": 2.96},
        "dtype": "<i2",
        "volume_shape": [2, 9, 10],
        "timestamp": "2025-05-30T20:42:10Z",
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    (tmp_path / "damaged.json").write_text("{")
    [one] = select(found_at([tmp_path]), "voxel.z<3 type=int16 modality=EM")
    assert one.content["source_id"] == "jrc_mus-nacc-2"
