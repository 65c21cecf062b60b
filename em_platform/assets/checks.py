"""Checks and errors of the platform as Dagster shows them.

Checks are `check_specs` of their assets: a check with a function of its own would not
know its partition (Dagster 1.13). Each spec has the partitions of its asset: without
them Dagster keeps one status a check, and a good montage hides the bad one before it.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import dagster as dg

from em_platform.acquisition.qc.verdict import report_checks
from em_platform.assets.metadata import Metadata, table
from em_platform.catalog.record_files import mark_unusable
from em_platform.config import Settings
from em_platform.errors import PlatformError
from em_platform.model import Check, Montage, Severity
from em_platform.storage import Store

# What these find makes the input unusable: the run ends there, nothing follows.
BLOCKING = frozenset({"enough_tiles_are_present", "enough_tiles_are_connected"})
# A broker or a source that restarts answers again within two or three of them.
_RETRIES = 3
# Before each: longer than a restart of the broker (decision 12).
_PAUSE_S = 5.0


def check_specs(
    asset: str | Sequence[str],
    sentences: Mapping[str, str],
    partitions_def: dg.PartitionsDefinition | None = None,
) -> list[dg.AssetCheckSpec]:
    """The checks of one asset (name -> what it states), a status for each partition."""
    with warnings.catch_warnings():
        # Partitions of checks are a preview in Dagster 1.13; the version is pinned, and
        # tests/orchestration/test_verdicts.py notices when they no longer work.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name,
                asset=asset,
                description=text,
                partitions_def=partitions_def,
                blocking=name in BLOCKING,
            )
            for name, text in sentences.items()
        ]


def published_results(
    checks: Sequence[Check],
    asset: str,
    *,
    montage: Montage,
    settings: Settings,
    store: Store,
) -> list[dg.AssetCheckResult]:
    """The same as `check_results`; failures of a fresh montage go to the scope, too.

    What blocks stands in the montage's catalog record, as no later step writes one.
    """
    report_checks(settings, montage.acquisition_id, montage.ended_at, checks)
    unusable = [c.sentence for c in checks if c.name in BLOCKING and not c.passed]
    if unusable:
        mark_unusable(store, montage.acquisition_id, unusable)
    return check_results(checks, asset)


def check_results(
    checks: Iterable[Check], asset: str | Sequence[str]
) -> list[dg.AssetCheckResult]:
    """Outcomes with the sentence, the value and its limit."""
    return [_result(check, dg.AssetKey(asset)) for check in checks]


def _result(check: Check, asset: dg.AssetKey) -> dg.AssetCheckResult:
    error = check.severity is Severity.ERROR
    metadata: Metadata = {}
    if check.value is not None:
        metadata["value"] = check.value
    if check.limit is not None:
        metadata["limit"] = check.limit
    if check.items:
        metadata["items"] = table(("item",), [(item,) for item in check.items])
    return dg.AssetCheckResult(
        passed=check.passed,
        asset_key=asset,
        check_name=check.name,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        description=check.sentence,
        metadata=metadata,
    )


@contextmanager
def dagster_failures() -> Iterator[None]:
    """A platform error within the block becomes a retry or a failed step.

    The step shows the error's sentence, and its facts as metadata.
    """
    try:
        yield
    except PlatformError as error:
        if error.retryable:
            raise dg.RetryRequested(_RETRIES, _PAUSE_S) from error
        # Without retries: what is not `retryable` would only fail again.
        raise dg.Failure(
            description=str(error), metadata=dict(error.facts), allow_retries=False
        ) from error
