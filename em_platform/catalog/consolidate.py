"""All records in one catalog, with a report of everything that is wrong.

The same records give the same bytes: the catalog's time is that of its newest record,
not of the computer, so that a catalog that changed means records that changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from em_platform.catalog.record_files import Parts, listed_bytes
from em_platform.catalog.report import report_content, report_csv, report_html
from em_platform.catalog.repository import (
    Found,
    changed_at,
    each_of,
    found_in,
    latest,
)
from em_platform.catalog.summary import Judged, catalog_of
from em_platform.catalog.validate import Damage, Exists, Findings, judge_record
from em_platform.config import CatalogSettings
from em_platform.model import Check, Severity
from em_platform.model.dataset import Status
from em_platform.storage import layout
from em_platform.storage.manifest import standing_at
from em_platform.storage.store import Store

CATALOG = "metadata_catalog.json"
REPORT = "validation_report"
# Of another consolidation; 10,000 records took 16 s.
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Consolidated:
    """What came of a consolidation.

    `catalog` and `report` are what was written, `urls` where. `strict` is the setting
    by which an invalid record fails.
    """

    catalog: Parts
    report: Parts
    judged: tuple[Judged, ...]
    urls: tuple[str, ...]
    strict: bool

    @property
    def invalid(self) -> int:
        """How many records have errors, or could not be read."""
        return sum(not each.is_valid for each in self.judged)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong, or nobody asks for it."""
        return not (self.strict and self.invalid)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Places of the datasets that are not complete, damaged files left aside.

        One that needs review is among them: a person must decide first.
        """
        return tuple(
            each.found.place
            for each in self.judged
            if each.record and each.record.get("status") != Status.COMPLETE
        )

    @property
    def duplicates(self) -> list[Parts]:
        """Datasets that share what only one should have."""
        found: list[Parts] = self.catalog["duplicates"]
        return found


def consolidate(
    store: Store,
    settings: CatalogSettings,
    *,
    found: Iterable[Found] | None = None,
    folder: str = layout.CATALOG,
    generated_at: datetime | None = None,
) -> Consolidated:
    """Write catalog and reports of all records into `folder` of the store.

    `found` are records from elsewhere (see `repository.found_at`); without it, all of
    the store. Of each dataset the latest record counts. `generated_at` is that of the
    newest record where it is not given. Another consolidation is waited for, since it
    may have looked at the records before they were what they are now.

    Raises
    ------
    OutputBusy
        Another one does not end.
    StorageError
        The store cannot be read or written.
    """
    place = f"{folder}/{CATALOG}" if folder else CATALOG
    with store.one_writer(place, work="a consolidation", patience_s=_PATIENCE_S):
        return _consolidated(
            store, settings, found=found, folder=folder, generated_at=generated_at
        )


def _consolidated(
    store: Store,
    settings: CatalogSettings,
    *,
    found: Iterable[Found] | None,
    folder: str,
    generated_at: datetime | None,
) -> Consolidated:
    every = list(found_in(store) if found is None else found)
    # Volumes of records from elsewhere are not in this store.
    made = judge_all(every, store=store if found is None else None)
    catalog = catalog_of(
        every, made, settings=settings, generated_at=_time(generated_at, made)
    )
    report = report_content(catalog, made)
    contents = {CATALOG: listed_bytes(catalog)}
    if "json" in settings.reports:
        contents[f"{REPORT}.json"] = listed_bytes(report)
    if "csv" in settings.reports:
        contents[f"{REPORT}.csv"] = report_csv(made)
    if "html" in settings.reports:
        contents[f"{REPORT}.html"] = report_html(
            catalog, made, root=store.root, folder=folder
        )
    urls = []
    for name, content in contents.items():
        place = f"{folder}/{name}" if folder else name
        store.write_bytes(place, content)
        urls.append(store.url(place))
    return Consolidated(
        catalog=catalog,
        report=report,
        judged=made,
        urls=tuple(urls),
        strict=settings.strict,
    )


def judge_all(
    found: Iterable[Found], *, store: Store | None = None, deep: bool = False
) -> tuple[Judged, ...]:
    """The latest record of each dataset with its errors, then what is damaged.

    With a store, complete records must have their volume in it; `deep` reads each of
    these volumes back and compares it with its manifest.
    """
    found = list(found)
    records = [each for each in found if isinstance(each.content, dict)]
    others = [each for each in found if not isinstance(each.content, dict)]
    kept, _ = latest(records)
    if store is None:
        judged = [_judged(each) for each in kept]
    else:
        exists, damage = _exists_in(store), partial(_damage, store) if deep else None
        judged = each_of(
            store, lambda f: _judged(f, exists=exists, damage=damage), kept
        )
    damaged = [_judged(each) for each in others]
    return (*judged, *damaged)


def _judged(
    found: Found, *, exists: Exists | None = None, damage: Damage | None = None
) -> Judged:
    if found.trouble:
        return Judged(found=found, findings=Findings(errors=(found.trouble,)))
    findings = judge_record(found.content, exists=exists, damage=damage)
    return Judged(found=found, findings=findings)


def _time(given: datetime | None, judged: tuple[Judged, ...]) -> str | None:
    if given is not None:
        return given.isoformat()
    # Times in ISO 8601 sort as texts.
    return max((changed_at(each.record) for each in judged), default="") or None


def _damage(store: Store, url: str) -> str:
    """What of an image of the store is not as it was written; all of it is read."""
    # Only images of ours have a manifest to compare with.
    if not url.startswith(f"{store.root.rstrip('/')}/") or not url.endswith(".zarr"):
        return ""
    standing = standing_at(url, store.options)
    if standing is None or standing.manifest is None:
        return "has no manifest, so that nothing proves its voxels"
    damaged, files = standing.damaged(deep=True), len(standing.manifest.files)
    if not damaged:
        return ""
    return (
        f"{len(damaged)} of {files} files are not as they were written (first: "
        f"{damaged[0]}); run its ingest or its montage again"
    )


def _exists_in(store: Store) -> Exists:
    root = f"{store.root.rstrip('/')}/"

    def exists(url: str) -> bool | None:
        if not url.startswith(root):
            # Nobody asks the network for each of thousands of records.
            return None
        name = url.removeprefix(root)
        # A bucket has no folders: the group's metadata stand for the image.
        return store.exists(f"{name}/zarr.json" if name.endswith(".zarr") else name)

    return exists


# Of a check, whose items Dagster shows in a table.
_MOST_ITEMS = 100


def check_catalog(made: Consolidated) -> tuple[Check, ...]:
    """All checks of a catalog: of its records together, and of each."""
    return records_are_valid(made), no_duplicates(made), catalog_is_complete(made)


def records_are_valid(made: Consolidated) -> Check:
    """Every record keeps the schema and all rules; an error where that is strict."""
    wrong = [each for each in made.judged if not each.is_valid]
    if wrong:
        first = f"{wrong[0].found.place}: {wrong[0].findings.errors[0]}"
        sentence = f"{len(wrong)} of {len(made.judged)} records are not valid: {first}"
    else:
        sentence = f"all {len(made.judged)} records are valid"
    return Check(
        name="records_are_valid",
        passed=not wrong,
        severity=Severity.ERROR if made.strict else Severity.WARN,
        sentence=sentence,
        value=float(len(wrong)),
        limit=0.0,
        items=tuple(each.found.place for each in wrong[:_MOST_ITEMS]),
    )


def no_duplicates(made: Consolidated) -> Check:
    """No two datasets have the same voxels, file or name."""
    groups = made.duplicates
    if groups:
        shared = f"{groups[0]['by']} is that of {', '.join(groups[0]['records'][:3])}"
        sentence = f"{len(groups)} groups of datasets are the same: {shared}"
    else:
        sentence = "no dataset is there twice"
    return Check(
        name="no_duplicates",
        passed=not groups,
        severity=Severity.WARN,
        sentence=sentence,
        value=float(len(groups)),
        limit=0.0,
        items=tuple(" = ".join(g["records"][:10]) for g in groups[:_MOST_ITEMS]),
    )


def catalog_is_complete(made: Consolidated) -> Check:
    """Every dataset is complete: none failed, needs review or is on its way."""
    waiting = made.incomplete
    total = made.catalog["summary"]["records"]
    by_status = made.catalog["summary"]["by_status"]
    counted = ", ".join(
        f"{count} {status}"
        for status, count in by_status.items()
        if status != Status.COMPLETE
    )
    sentence = (
        f"{len(waiting)} of {total} datasets are not complete ({counted}), such as "
        f"{waiting[0]}"
        if waiting
        else f"all {total} datasets are complete"
    )
    return Check(
        name="catalog_is_complete",
        passed=not waiting,
        severity=Severity.WARN,
        sentence=sentence,
        value=float(len(waiting)),
        limit=0.0,
        items=waiting[:_MOST_ITEMS],
    )
