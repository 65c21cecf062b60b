"""Everything that is wrong with the records, as JSON and as a table."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from em_platform.catalog.summary import Judged, review_reasons

COLUMNS = ("file", "source", "source_id", "key", "status", "valid", "level", "message")


def report_content(
    catalog: Mapping[str, Any], judged: Iterable[Judged]
) -> dict[str, Any]:
    """The report under macroscope's names, with all errors and warnings."""
    judged = tuple(judged)
    return {
        "generated_at": catalog["metadata"]["generated_at"],
        "summary": {
            **catalog["validation"],
            "parsing_errors": catalog["summary"]["parsing_errors"],
            "warnings": sum(len(each.findings.warnings) for each in judged),
            "needs_review": sum(bool(review_reasons(each.record)) for each in judged),
        },
        "detailed_results": [
            {
                "file": each.found.place,
                "source": each.source,
                "valid": each.is_valid,
                "errors": list(each.findings.errors),
                "warnings": list(each.findings.warnings),
                "review_reasons": review_reasons(each.record),
            }
            for each in judged
        ],
        "duplicates": catalog["duplicates"],
        "superseded": catalog["superseded"],
    }


def report_csv(judged: Iterable[Judged]) -> bytes:
    """One row an error, warning or reason for review; one for a record without any."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for each in judged:
        record = each.record
        about = (
            each.found.place,
            each.source,
            _cell(record.get("source_id")),
            _cell(record.get("key")),
            _cell(record.get("status")),
            "yes" if each.is_valid else "no",
        )
        sentences = [
            *(("error", sentence) for sentence in each.findings.errors),
            *(("warning", sentence) for sentence in each.findings.warnings),
            *(("review", sentence) for sentence in review_reasons(record)),
        ]
        for level, sentence in sentences or [("", "")]:
            table.writerow((*about, level, _cell(sentence)))
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
