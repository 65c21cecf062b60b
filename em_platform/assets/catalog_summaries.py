"""What a person wants to know of the catalog, in the order of interest."""

import dagster as dg

from em_platform.assets.ingest_summaries import human_bytes
from em_platform.assets.metadata import Metadata, table
from em_platform.assets.summaries import place
from em_platform.catalog.consolidate import Consolidated


def catalog_summary(made: Consolidated) -> Metadata:
    """How many records of what, how large, and where the catalog lies."""
    summary = made.catalog["summary"]
    sizes = summary["data_volume_bytes"]
    sources = [
        (source, count, human_bytes(sizes["by_source"].get(source)))
        for source, count in summary["by_source"].items()
    ]
    summary_rows: Metadata = {
        "records": summary["records"],
        "by source": table(("source", "records", "size"), sources),
        "by status": table(("status", "records"), [*summary["by_status"].items()]),
        "size": human_bytes(sizes["total"]),
        "duplicates": _duplicates(made),
        "superseded": summary["superseded"],
        "often missing": _often_missing(made),
        "state of": made.catalog["metadata"]["generated_at"] or "no record yet",
        "path": place(made.urls[0]),
    }
    return summary_rows


def report_summary(made: Consolidated) -> Metadata:
    """How many records are valid, what is wrong with the others, and the pages."""
    wrong = [
        (each.found.place, "; ".join(each.findings.errors))
        for each in made.judged
        if not each.is_valid
    ]
    checked = made.catalog["validation"]
    summary_rows: Metadata = {
        "valid": checked["valid_files"],
        "invalid": checked["invalid_files"],
        "damaged files": made.catalog["summary"]["parsing_errors"],
        "warnings": made.report["summary"]["warnings"],
        "what is wrong": table(("record", "errors"), wrong) if wrong else "nothing",
    }
    for url in made.urls[1:]:
        summary_rows[url.rpartition("/")[2]] = place(url)
    return summary_rows


def _duplicates(made: Consolidated) -> dg.MetadataValue:
    rows = [(d["by"], d["value"], ", ".join(d["records"])) for d in made.duplicates]
    if not rows:
        return dg.MetadataValue.text("none")
    return table(("same", "value", "records"), rows)


def _often_missing(made: Consolidated) -> dg.MetadataValue:
    missing = made.catalog["data_quality"]["common_missing_fields"]
    if not missing:
        return dg.MetadataValue.text("nothing")
    return table(("field", "records without it"), [*missing.items()])
