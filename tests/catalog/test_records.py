import json
from datetime import UTC, datetime
from typing import Any

import jsonschema

from em_platform.catalog.records import dataset_record, record_id
from em_platform.model import (
    Check,
    Failure,
    Montage,
    MontageFit,
    Severity,
    Size,
    Tile,
    TilePlacement,
)
from em_platform.model.dataset import DatasetRecord

RECORDED = datetime(2026, 6, 1, tzinfo=UTC)
SIZE = Size(height_px=64, width_px=96)
DATE_TIME = {"type": "string", "format": "date-time"}
NUMBERS = {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}}
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}}
V2: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "required": ["id", "source", "source_id", "status", "created_at", "metadata"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "source_id": {"type": "string"},
        "status": {
            "enum": [
                "pending",
                "processing",
                "saving-data",
                "complete",
                "failed",
                "cancelled",
            ]
        },
        "created_at": DATE_TIME,
        "updated_at": DATE_TIME,
        "metadata": {
            "required": ["core"],
            "properties": {
                "core": {
                    "required": [
                        "description",
                        "volume_shape",
                        "voxel_size_nm",
                        "data_type",
                        "modality",
                        "imaging_start_date",
                    ],
                    "properties": {
                        "description": {"type": "string", "minLength": 1},
                        "volume_shape": {**SHAPE, "minItems": 2, "maxItems": 4},
                        "voxel_size_nm": {**NUMBERS, "minItems": 2, "maxItems": 4},
                        "data_type": {"enum": ["uint8", "uint16", "float32"]},
                        "modality": {
                            "enum": ["EM", "FIB-SEM", "SEM", "TEM", "STEM", "cryo-EM"]
                        },
                        "imaging_start_date": {"type": "string", "format": "date"},
                    },
                },
                "technical": {
                    "properties": {
                        "compression": {
                            "enum": ["none", "gzip", "lz4", "blosc", "zarr"]
                        },
                        "chunk_size": SHAPE,
                        "dimensions_nm": NUMBERS,
                    }
                },
                "provenance": {
                    "properties": {"download_url": {"type": "string", "format": "uri"}}
                },
                "quality": {
                    "properties": {
                        "completeness_score": {"minimum": 0, "maximum": 1},
                        "validation_errors": {"type": "array"},
                        "metrics": {"type": "object"},
                    }
                },
            },
        },
    },
}


def montage(**more: Any) -> Montage:
    tiles = tuple(
        Tile(tile_id=n, uri=n, row=0, column=c, y_px=0, x_px=80 * c, size=SIZE)
        for c, n in enumerate("abc")
    )
    known = {
        "acquisition_id": "run1-0a",
        "montage_id": "run1",
        "tiles": tiles,
        "tile_size": SIZE,
        "pixel_nm": 4.0,
        "microscope": "sim",
        "magnification": 2000,
        "expected_tiles": 4,
        "started_at": datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        "failures": (Failure(item="d", error="FormatError", sentence="d: gone"),),
    }
    return Montage(**{**known, **more})


FIT = MontageFit(
    acquisition_id="run1-0a",
    placements=tuple(TilePlacement(tile_id=n, y_px=0, x_px=0) for n in "abc"),
    matches=(),
    residual_px=0.25,
)
BAD = Check(
    name="seams_are_closed",
    passed=False,
    severity=Severity.WARN,
    sentence="seams: 5 px at a-b",
    value=5.0,
)


def record(of: Montage) -> DatasetRecord:
    return dataset_record(
        of,
        FIT,
        url="file:///m.zarr",
        shape=(64, 256),
        checks=(BAD,),
        chunk_px=512,
        recorded_at=RECORDED,
    )


def test_a_record_keeps_the_rules_of_version_2() -> None:
    written = json.loads(record(montage()).model_dump_json(exclude_none=True))
    jsonschema.validate(
        written, V2, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )
    assert written["metadata"]["core"]["imaging_start_date"] == "2026-03-04"
    assert written["metadata"]["technical"]["dimensions_nm"] == [256, 1024]
    assert written["metadata"]["quality"]["completeness_score"] == 0.75
    assert written["metadata"]["quality"]["metrics"]["seams_are_closed"] == 5.0
    assert written["metadata"]["quality"]["validation_errors"] == [
        "d: gone",
        "seams: 5 px at a-b",
    ]


def test_the_same_mosaic_gives_the_same_record() -> None:
    assert record(montage()).model_dump_json() == record(montage()).model_dump_json()
    assert record(montage()).id == record_id("acquisition", "run1-0a")
    assert record_id("acquisition", "run1-0a") != record_id("acquisition", "run1-0b")


def test_what_is_not_known_is_said_and_not_made_up() -> None:
    unknown = record(montage(pixel_nm=None, started_at=None, failures=()))
    assert unknown.created_at == RECORDED
    assert unknown.metadata.core.voxel_size_nm is None
    assert unknown.metadata.quality.validation_errors == (
        "seams: 5 px at a-b",
        "voxel_size_nm is not known",
        "imaging_start_date is not known",
    )


def test_a_time_without_zone_is_taken_as_utc() -> None:
    local = record(montage(started_at=datetime(2026, 3, 4, 5, 6)))
    assert local.created_at == datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
