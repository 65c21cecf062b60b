"""What all records together say: counts, completeness, what is missing.

The names of the parts `summary`, `validation`, `data_quality` and
`legacy_compatibility` are those of macroscope's catalogs, so that their readers find
them; ours stand beside them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from em_platform.catalog.record_files import Parts, Record, at
from em_platform.catalog.repository import (
    EXCLUDED,
    INCLUDED,
    Found,
    find_duplicates,
    latest,
)
from em_platform.catalog.validate import Findings
from em_platform.config import CatalogSettings
from em_platform.model.dataset import SCHEMA_VERSION, Status

# Of the catalog's own form; macroscope's is `2.0-enhanced`.
_VERSION = "3.0"
# How many valid records macroscope's catalogs show.
_SAMPLE = 5
# Top-level fields that every version asks for.
REQUIRED = ("id", "source", "source_id", "status", "created_at", "metadata")
# What a reader of the catalog wants to find; completeness is the part of these.
EXPECTED = (
    "metadata.core.description",
    "metadata.core.volume_shape",
    "metadata.core.voxel_size_nm",
    "metadata.core.data_type",
    "metadata.core.modality",
    "metadata.core.imaging_start_date",
    "metadata.core.organism",
    "metadata.core.sample",
    "metadata.core.license",
    "metadata.core.doi",
    "metadata.technical.file_size_bytes",
    "metadata.technical.content_sha256",
    "metadata.technical.dimensions_nm",
    "metadata.provenance.download_url",
    "metadata.provenance.processing_pipeline",
    "files.volume",
)
# Where a record does not name its source.
_UNKNOWN = "unknown"
# A field is commonly missing when at least this part of the records lacks it.
_MANY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One record with what was found of it; a damaged file has its trouble as error."""

    found: Found
    findings: Findings

    @property
    def is_valid(self) -> bool:
        """Whether it has no error."""
        return not self.findings.errors

    @property
    def source(self) -> str:
        """As the record says, else the name of its folder."""
        stated = at(self.record, "source")
        if isinstance(stated, str) and stated:
            return stated
        return PurePosixPath(self.found.place.partition("#")[0]).parent.name or _UNKNOWN

    @property
    def record(self) -> Record:
        """The record, empty where the file holds none."""
        content = self.found.content
        return content if isinstance(content, Mapping) else {}


def review_reasons(record: Record) -> list[str]:
    """Why a record needs review: the sentences of its failed checks, else nothing."""
    found = at(record, "metadata", "quality", "review_reasons")
    if record.get("status") != Status.NEEDS_REVIEW or not isinstance(found, list):
        return []
    return [reason for reason in found if isinstance(reason, str)]


def catalog_of(
    found: Iterable[Found],
    judged: tuple[Judged, ...],
    *,
    settings: CatalogSettings,
    generated_at: str | None,
) -> Parts:
    """The catalog: all records in full, and what they say together."""
    found = list(found)
    records = [dict(each.record) for each in judged if each.record]
    parsing = sum(bool(each.trouble) for each in found)
    parsed = [each for each in found if isinstance(each.content, dict)]
    _, older = latest(parsed)
    duplicates = (
        find_duplicates(each.found for each in judged if each.record)
        if settings.detect_duplicates
        else ()
    )
    checked = validation(judged)
    return {
        "metadata": {
            "generated_at": generated_at,
            "schema_version": SCHEMA_VERSION,
            "consolidation_version": _VERSION,
            "configuration": {
                # Readers of macroscope's catalogs look for it; here it is always on.
                "validation_enabled": True,
                "scan_directories": sorted(
                    {each.place.rpartition("/")[0] for each in found}
                ),
                "include_patterns": list(INCLUDED),
                "exclude_patterns": list(EXCLUDED),
            },
        },
        "summary": {
            "total_files": len(found),
            "processed_files": len(found) - parsing,
            "validation_errors": checked["invalid_files"] - parsing,
            "parsing_errors": parsing,
            "sources_found": sorted({each.source for each in judged}),
            "superseded": len(older),
            "duplicates": len(duplicates),
            **counts(records),
        },
        "validation": checked,
        "data_quality": data_quality(judged),
        "legacy_compatibility": key_ratios(records),
        "duplicates": [
            {"by": d.by, "value": d.value, "records": list(d.places)}
            for d in duplicates
        ],
        "superseded": [{"record": old.place, "by": new.place} for old, new in older],
        "valid_records_sample": [dict(each.record) for each in judged if each.is_valid][
            :_SAMPLE
        ],
        "records": records,
    }


def validation(judged: Sequence[Judged]) -> Parts:
    """How many are valid, by source, with every error."""
    by_source: dict[str, Parts] = {}
    for each in judged:
        counts = by_source.setdefault(
            each.source, {"valid": 0, "invalid": 0, "error_details": []}
        )
        counts["valid" if each.is_valid else "invalid"] += 1
        if not each.is_valid:
            counts["error_details"].append(
                {"file": each.found.place, "errors": list(each.findings.errors)}
            )
    valid = sum(each.is_valid for each in judged)
    return {
        "total_files": len(judged),
        "valid_files": valid,
        "invalid_files": len(judged) - valid,
        "validation_rate": _percent(valid, len(judged)),
        "errors_by_source": by_source,
    }


def counts(records: Sequence[Record]) -> Parts:
    """How many records and bytes there are, by source, status and modality."""
    sizes: Counter[str] = Counter()
    for record in records:
        size = at(record, "metadata", "technical", "file_size_bytes")
        if isinstance(size, int):
            sizes[_word(record.get("source"))] += size
    return {
        "records": len(records),
        "by_source": _counted(records, lambda r: r.get("source")),
        "by_status": _counted(records, lambda r: r.get("status")),
        "by_modality": _counted(
            records, lambda r: at(r, "metadata", "core", "modality")
        ),
        "data_volume_bytes": {
            "total": sum(sizes.values()),
            "by_source": dict(sorted(sizes.items())),
        },
    }


def data_quality(judged: Sequence[Judged]) -> Parts:
    """How much the records say, and what many of them leave out."""
    records = [each.record for each in judged if each.record]
    lacking = Counter(
        path
        for record in records
        for path in EXPECTED
        if at(record, *path.split(".")) in (None, "", [])
    )
    common = {
        path: count
        for path, count in sorted(lacking.items())
        if count >= _MANY * len(records)
    }
    valid = sum(each.is_valid for each in judged)
    return {
        "completeness_by_source": {
            source: _completeness(group)
            for source, group in _by_source(records).items()
        },
        "common_missing_fields": common,
        "schema_compliance_rate": _percent(valid, len(judged)),
    }


def key_ratios(records: Sequence[Record]) -> Parts:
    """Part of the records with each top-level key, by source, as in macroscope."""
    grouped = _by_source(records)
    keys = sorted({key for record in records for key in record})
    return {
        "distinct_keys": keys,
        "key_ratios_by_source": {
            key: {
                source: sum(key in record for record in group) / len(group)
                for source, group in grouped.items()
                if any(key in record for record in group)
            }
            for key in keys
        },
        "total_files_by_source": {s: len(group) for s, group in grouped.items()},
    }


def completeness(record: Record) -> float:
    """The part of the expected fields that a record has."""
    found = sum(at(record, *p.split(".")) not in (None, "", []) for p in EXPECTED)
    return found / len(EXPECTED)


def _completeness(group: Sequence[Record]) -> dict[str, float]:
    present = sum(name in record for record in group for name in REQUIRED)
    return {
        "average_fields": round(sum(map(len, group)) / len(group), 2),
        "required_fields_present": _percent(present, len(group) * len(REQUIRED)),
        "expected_fields_present": round(
            100 * sum(map(completeness, group)) / len(group), 1
        ),
    }


def _by_source(
    records: Iterable[Record],
) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(_word(record.get("source")), []).append(record)
    return dict(sorted(grouped.items()))


def _counted(
    records: Iterable[Record], value_of: Callable[[Record], Any]
) -> dict[str, int]:
    return dict(sorted(Counter(_word(value_of(record)) for record in records).items()))


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else _UNKNOWN


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 100.0
