"""Whether the catalog as a whole is in order."""

from em_platform.catalog.consolidate import Consolidated
from em_platform.model import Check, Severity
from em_platform.model.dataset import Status

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
