"""Everything that is wrong with the records: as JSON, as a table, and as a page."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from em_platform.catalog.record_files import Parts, Record, at
from em_platform.catalog.summary import Judged, completeness, review_reasons
from em_platform.model.dataset import Status, voxel_size_zyx

# Columns of the page, and whether they sort as numbers. What is wrong stands on the
# left: of a page that is too wide for a screen, people see the left.
HEADINGS = (
    ("status", False),
    ("picture", False),
    ("dataset", False),
    ("errors", True),
    ("warnings", True),
    ("source", False),
    ("modality", False),
    ("shape (z y x)", True),
    ("voxel (nm)", True),
    ("type", False),
    ("size", True),
    ("fields known", True),
    ("updated", False),
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# What a link may begin with: a record of others must not bring `javascript:`.
_LINKED = ("http://", "https://", "file://")
_PICTURES = (*_LINKED, "data:image/png;base64,", "data:image/jpeg;base64,")
# A page with more is of use to no one; the JSON report has all.
_MOST_DUPLICATES = 200
# Names of the CSV columns: spreadsheets of users refer to them.
COLUMNS = ("file", "source", "source_id", "key", "status", "valid", "level", "message")


def report_content(catalog: Record, judged: Iterable[Judged]) -> Parts:
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
            _spreadsheet_text(record.get("source_id")),
            _spreadsheet_text(record.get("key")),
            _spreadsheet_text(record.get("status")),
            "yes" if each.is_valid else "no",
        )
        sentences = [
            *(("error", sentence) for sentence in each.findings.errors),
            *(("warning", sentence) for sentence in each.findings.warnings),
            *(("review", sentence) for sentence in review_reasons(record)),
        ]
        for level, sentence in sentences or [("", "")]:
            table.writerow((*about, level, _spreadsheet_text(sentence)))
    return text.getvalue().encode()


def _spreadsheet_text(value: Any) -> str:
    """Text that a spreadsheet does not take for a formula."""
    # A leading =, +, - or @ begins a formula (OWASP, CSV injection).
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLinks:
    """Where the page is, and how it refers to what else is in the store."""

    root: str
    folder: str

    def link(self, url: object, allowed: Sequence[str] = _LINKED) -> str:
        """A link or picture's address; empty for what no browser opens."""
        if not isinstance(url, str):
            return ""
        root = f"{self.root.rstrip('/')}/"
        if url.startswith(root):
            up = "../" * len([part for part in self.folder.split("/") if part])
            return f"{up}{url.removeprefix(root)}"
        return url if url.startswith(tuple(allowed)) else ""


def report_html(
    catalog: Record, judged: Sequence[Judged], *, root: str, folder: str
) -> bytes:
    """The page; what is below `root` is linked from `folder`, relative to it."""
    import jinja2  # a twentieth of a second, which only this page is worth

    text = files("em_platform.catalog").joinpath("report.html").read_text("utf-8")
    # Autoescape: records come from others, and may hold markup.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    place = ReportLinks(root=root, folder=folder)
    page = environment.from_string(text).render(
        generated=catalog["metadata"]["generated_at"] or "no record yet",
        figures=_figures(catalog, judged),
        duplicates=catalog["duplicates"][:_MOST_DUPLICATES],
        duplicate_groups=len(catalog["duplicates"]),
        headings=HEADINGS,
        rows=(_row(each, place) for each in judged),
    )
    return page.encode()


def _row(judged: Judged, place: ReportLinks) -> dict[str, object]:
    """What the page shows of one record; numbers for sorting beside their texts."""
    record, findings = judged.record, judged.findings
    core = at(record, "metadata", "core") or {}
    shape, voxel = at(core, "volume_shape"), voxel_size_zyx(at(core, "voxel_size_nm"))
    size = at(record, "metadata", "technical", "file_size_bytes")
    status = str(record.get("status") or "damaged")
    volume, files_of = at(record, "files", "volume"), at(record, "files") or {}
    return {
        "status": status,
        # A class of the page's style; a status of others may be any text.
        "status_class": status if status in {*Status, "damaged"} else "pending",
        "reasons": review_reasons(record),
        "picture": place.link(at(files_of, "preview"), _PICTURES),
        "name": _text(record.get("key") or record.get("source_id"))
        or judged.found.place,
        "title": _text(at(core, "dataset_title") or at(core, "description"))[:300],
        "place": judged.found.place,
        "message": _text(at(record, "error", "message"))[:500],
        "volume": _text(volume),
        "volume_link": place.link(volume),
        "errors": findings.errors,
        "warnings": findings.warnings,
        "source": judged.source,
        "modality": _text(at(core, "modality")),
        "voxels": _product(shape),
        "shape": _joined(shape),
        "voxel_nm3": _product(voxel),
        "voxel": _joined(voxel),
        "type": _text(at(core, "data_type")),
        # Unknown sizes sort before all others.
        "size_bytes": size if isinstance(size, int | float) else -1,
        "size": _human_bytes(size),
        "known": completeness(record),
        "updated": _text(record.get("updated_at") or record.get("created_at")),
    }


def _figures(catalog: Record, judged: Sequence[Judged]) -> list[tuple[str, object]]:
    summary, checked = catalog["summary"], catalog["validation"]
    # The record of a failed ingest keeps its schema, too, and is no good record.
    good = sum(j.is_valid and j.record.get("status") == Status.COMPLETE for j in judged)
    share = round(100 * good / len(judged), 2) if judged else 100.0
    return [
        ("records", summary["records"]),
        ("valid and complete", f"{share:g} %"),
        ("with errors", checked["invalid_files"]),
        ("damaged files", summary["parsing_errors"]),
        ("data", _human_bytes(summary["data_volume_bytes"]["total"])),
        *summary["by_status"].items(),
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _joined(values: object) -> str:
    if not isinstance(values, list | tuple):
        return ""
    return " × ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _product(values: object) -> float:
    """The volume of a box, by which shapes and voxels sort; -1 where it is unknown."""
    if not isinstance(values, list | tuple):
        return -1
    product = 1.0
    for value in values:
        if not isinstance(value, int | float):
            return -1
        product *= value
    return product


def _human_bytes(size: object) -> str:
    if not isinstance(size, int | float):
        return ""
    step = 0
    while size >= 1000 and step < len(_UNITS) - 1:
        size, step = size / 1000, step + 1
    return f"{size:.3g} {_UNITS[step]}"
