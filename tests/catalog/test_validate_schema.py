import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest

from em_platform.catalog.record_files import content_of
from em_platform.catalog.validate import (
    check_record,
    format_checker,
    published_schema,
    strict_schema,
)
from em_platform.model.dataset import (
    CoreMetadata,
    DatasetFiles,
    DatasetMetadata,
    DatasetQuality,
    DatasetRecord,
    Provenance,
    RecordedError,
    RecordProgress,
    Status,
    TechnicalMetadata,
)

MOMENT = datetime(2025, 6, 11, 21, 21, tzinfo=UTC)
FORMATS = {
    "uuid": "84709295-8367-45a4-b299-e887cb77c18c",
    "date-time": "2025-06-11T21:21:01.091108+00:00",
    "date": "2015-03-09",
    "uri": "ftp://ftp.ebi.ac.uk/empiar/world_availability/11759/data/a.dm3",
}


@pytest.fixture(scope="module")
def v2(shared_data: Path) -> dict[str, Any]:
    path = shared_data / "api/macroscope/metadata_schema.json"
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def example(schema: dict[str, Any], chance: random.Random) -> Any:
    """A random value that a draft-07 schema of these few keywords accepts."""
    if "oneOf" in schema:
        return example(chance.choice(schema["oneOf"]), chance)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        known = schema.get("properties", {})
        required = schema.get("required", ())
        made = {
            name: example(each, chance)
            for name, each in known.items()
            if name in required or chance.random() < 0.6
        }
        return made if known else {"anything": chance.choice([1, "two", None, [3]])}
    if kind == "array":
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", least + 3)
        return [
            example(schema["items"], chance) for _ in range(chance.randint(least, most))
        ]
    if kind == "string":
        if "pattern" in schema:
            return "0123456789abcdef" * 4
        return FORMATS.get(schema.get("format", ""), chance.choice(["a", "b c", "ü"]))
    least, most = schema.get("minimum", -5), schema.get("maximum", 1e6)
    edge = chance.random() < 0.3
    if kind == "integer":
        return least if edge else chance.randint(least, int(most))
    return least if edge else chance.uniform(least, most)


def test_every_record_of_version_2_keeps_the_published_schema(
    v2: dict[str, Any],
) -> None:
    chance = random.Random(7)
    old = jsonschema.Draft7Validator(v2)
    new = jsonschema.Draft202012Validator(
        published_schema(), format_checker=format_checker()
    )
    for _ in range(300):
        record = example(v2, chance)
        assert old.is_valid(record)
        assert [each.message for each in new.iter_errors(record)] == []


def in_words(words: dict[str, Any]) -> DatasetRecord:
    """A record in which every field that version 2 knows is filled."""
    return DatasetRecord(
        id=UUID(FORMATS["uuid"]),
        source=words["source"],
        source_id="11759",
        status=Status(words["status"]),
        created_at=MOMENT,
        updated_at=MOMENT,
        progress=RecordProgress(percentage=5, estimated_completion=MOMENT),
        error=RecordedError(message="it broke", retry_count=2),
        metadata=DatasetMetadata(
            core=CoreMetadata(
                description="retina",
                volume_shape=(16, 20, 30),
                voxel_size_nm=(50, 8, 8),
                data_type=words["data_type"],
                modality=words["modality"],
                imaging_start_date=MOMENT.date(),
            ),
            technical=TechnicalMetadata(
                file_size_bytes=9600,
                sha256="ab" * 32,
                compression=words["compression"],
                chunk_size=(16, 16, 16),
                dtype="uint8",
                global_mean=1.5,
                dimensions_nm=(800, 160, 240),
            ),
            provenance=Provenance(
                download_url=FORMATS["uri"], uuid=UUID(FORMATS["uuid"])
            ),
            quality=DatasetQuality(
                completeness_score=1,
                validation_errors=("none",),
                metrics={"residual_px": 0.5},
            ),
        ),
        files=DatasetFiles(volume="a.zarr", additional={"log": "a.log"}),
        additional_metadata={"scale": "tissue", "authors": [{"name": "A"}]},
    )


def test_a_record_in_the_words_of_version_2_keeps_its_schema(
    v2: dict[str, Any],
) -> None:
    """Every field that v2 knows is filled, with each of its words once."""
    core = v2["properties"]["metadata"]["properties"]["core"]["properties"]
    technical = v2["properties"]["metadata"]["properties"]["technical"]["properties"]
    old = jsonschema.Draft7Validator(
        v2, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )
    for number in range(12):
        words = {
            name: values[number % len(values)]
            for name, values in (
                ("source", v2["properties"]["source"]["enum"]),
                ("status", v2["properties"]["status"]["enum"]),
                ("data_type", core["data_type"]["enum"]),
                ("modality", core["modality"]["enum"]),
                ("compression", technical["compression"]["enum"]),
            )
        }
        content = content_of(in_words(words))
        assert [error.message for error in old.iter_errors(content)] == []
        assert check_record(content) == ()


def test_a_stub_with_what_is_known_keeps_both_schemas(v2: dict[str, Any]) -> None:
    stub = DatasetRecord(
        id=UUID(FORMATS["uuid"]),
        source="ebi",
        source_id="11759",
        status=Status.PENDING,
        created_at=datetime(2025, 6, 11, tzinfo=UTC),
        metadata=DatasetMetadata(core=CoreMetadata(description="EMPIAR 11759")),
    )
    jsonschema.validate(content_of(stub), v2)
    assert check_record(content_of(stub)) == ()


def test_both_forms_are_schemas_of_draft_2020_12() -> None:
    for schema in (published_schema(), strict_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$schema"].endswith("2020-12/schema")
    assert "false" not in json.dumps(published_schema())
    assert set(published_schema()["required"]) == {
        "id",
        "source",
        "source_id",
        "status",
        "created_at",
        "metadata",
    }


def test_a_voxel_size_is_read_in_both_forms_and_written_in_one() -> None:
    for form in ([50, 8, 4], {"x": 4, "y": 8, "z": 50}):
        core = CoreMetadata.model_validate({"description": "a", "voxel_size_nm": form})
        assert core.voxel_size_nm == (50, 8, 4)
        assert core.model_dump(mode="json")["voxel_size_nm"] == [50, 8, 4]


def test_a_complete_record_must_say_its_shape_and_type() -> None:
    with pytest.raises(ValueError, match="complete without volume_shape and data_type"):
        DatasetRecord(
            id=UUID(FORMATS["uuid"]),
            source="ebi",
            source_id="11759",
            status=Status.COMPLETE,
            created_at=datetime(2025, 6, 11, tzinfo=UTC),
            metadata=DatasetMetadata(core=CoreMetadata(description="EMPIAR 11759")),
        )
