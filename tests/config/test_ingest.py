"""The names and ways of writing of the earlier projects reach our settings."""

from pathlib import Path
from typing import Any

import pytest

from em_platform.config import Settings, load_settings
from em_platform.errors import ConfigError


def value(settings: Settings, dotted: str) -> Any:
    found: Any = settings
    for name in dotted.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    ("name", "text", "setting", "expected"),
    [
        ("EM_DATA_DIR", "/data/em", "storage.root", "/data/em"),
        ("EM_LOGS_DIR", "/logs", "logging.folder", "/logs"),
        ("EM_EXECUTION_MODE", "background", "ingest.mode", "background"),
        ("EM_SERVICES", "ebi idr", "ingest.sources", ("ebi", "idr")),
        ("EM_RUN_CONSOLIDATION", "false", "ingest.consolidate", False),
        ("EM_CI_METADATA", "true", "catalog.ci_metadata", True),
        ("MAX_WORKERS", "8", "ingest.workers", 8),
        ("MEMORY_LIMIT_GB", "16", "ingest.memory_limit_gb", 16.0),
        ("ZARR_CHUNK_SIZE_MB", "64", "ingest.output.chunk_mb", 64.0),
        ("STREAMING_CHUNK_MB", "10", "ingest.transfer.part_mb", 10.0),
        ("EBI_ENTRY_ID", "11759", "ingest.ebi.items", ("11759",)),
        ("EBI_MEMORY_LIMIT", "1g", "ingest.ebi.memory_limit_mb", 1024),
        ("EBI_CPU_LIMIT", "0.5", "ingest.ebi.cpus", 0.5),
        ("EPFL_MEMORY_LIMIT", "10g", "ingest.epfl.memory_limit_mb", 10240),
        ("FLYEM_MEMORY_LIMIT", "1536m", "ingest.flyem.memory_limit_mb", 1536),
        ("FLYEM_CROP_SIZE", "10 20 30", "ingest.flyem.crop_shape", (10, 20, 30)),
        ("FLYEM_INSTANCE", "grayscalejpeg", "ingest.flyem.instance", "grayscalejpeg"),
        ("GRAYSCALE_INSTANCE", "grey", "ingest.flyem.instance", "grey"),
        ("NEUPRINT_SERVER", "https://n", "ingest.flyem.neuprint_url", "https://n"),
        ("NEUPRINT_DATASET", "h:v1", "ingest.flyem.neuprint_dataset", "h:v1"),
        ("IDR_IMAGE_IDS", "1,2", "ingest.idr.items", ("1", "2")),
        ("IDR_OUTPUT_DIR", "/idr", "ingest.idr.raw_folder", "/idr"),
        ("IDR_CPU_LIMIT", "0.25", "ingest.idr.cpus", 0.25),
        ("LARGE_ARRAY_MODE", "skip", "ingest.openorganelle.large_array_mode", "skip"),
        ("MAX_ARRAY_SIZE_MB", "500", "ingest.openorganelle.max_array_mb", 500),
        ("DOWNSAMPLE_FACTOR", "4", "ingest.openorganelle.downsample_factor", 4),
        (
            *("OPENORGANELLE_MEMORY_LIMIT", "7.5g"),
            *("ingest.openorganelle.memory_limit_mb", 7680),
        ),
        ("CONSOLIDATE_MEMORY_LIMIT", "2g", "catalog.memory_limit_mb", 2048),
        ("CONSOLIDATE_CPU_LIMIT", "0.5", "catalog.cpus", 0.5),
    ],
)
def test_the_earlier_names_are_honoured(
    name: str, text: str, setting: str, expected: object
) -> None:
    assert value(load_settings(environment={name: text}), setting) == expected


@pytest.mark.parametrize("name", ["NEUPRINT_TOKEN", "NEUPRINT_APPLICATION_CREDENTIALS"])
def test_a_token_is_taken_and_never_shown(name: str) -> None:
    settings = load_settings(environment={name: "secret-word"})
    assert settings.ingest.flyem.neuprint_token.get_secret_value() == "secret-word"
    assert "secret-word" not in repr(settings)


def test_our_own_name_stands_above_an_earlier_one() -> None:
    both = {"EBI_ENTRY_ID": "11759", "EM_INGEST__EBI__ITEMS": "10311"}
    assert load_settings(environment=both).ingest.ebi.items == ("10311",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EBI_MEMORY_LIMIT", "much"),
        ("EM_EXECUTION_MODE", "fast"),
        ("FLYEM_CROP_SIZE", "10 20"),
        ("LARGE_ARRAY_MODE", "drop"),
    ],
)
def test_a_wrong_value_is_refused_with_its_layer(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^environment: "):
        load_settings(environment={name: text})


def test_the_defaults_are_the_public_addresses_and_the_documented_limits() -> None:
    ingest = load_settings(environment={}).ingest
    assert ingest.ebi.api_url == "https://www.ebi.ac.uk/empiar/api"
    assert ingest.openorganelle.bucket_url == "s3://janelia-cosem-datasets"
    limits = {
        name: getattr(ingest, name).memory_limit_mb
        for name in ("ebi", "epfl", "flyem", "idr", "openorganelle")
    }
    assert limits == {
        "ebi": 1024,
        "epfl": 10240,
        "flyem": 1536,
        "idr": 1024,
        "openorganelle": 7680,
    }


def test_a_crop_in_voxels_is_not_read_as_a_number(tmp_path: Path) -> None:
    crop = "64_0_64_64_72_100"
    by_name = load_settings(environment={"EM_INGEST__FLYEM__ITEMS": crop})
    by_line = load_settings(overrides={"ingest.flyem.items": crop})
    assert by_name.ingest.flyem.items == by_line.ingest.flyem.items == (crop,)
    written = tmp_path / "config.yaml"
    written.write_text(f"ingest: {{flyem: {{items: [{crop}, 0_0_0_1_1_1]}}}}\n")
    by_file = load_settings(written)
    assert by_file.ingest.flyem.items == (crop, "0_0_0_1_1_1")
    assert load_settings(
        overrides={"ingest.transfer.timeout_s": "1_000"}
    ).ingest.transfer.timeout_s == pytest.approx(1000)
