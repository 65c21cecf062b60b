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
from em_platform.errors import PlatformError, SourceError, fault_of_ours, may_pass
from em_platform.model import Check, Montage, Severity
from em_platform.partitions import BLOCKING_CHECKS
from em_platform.storage import Store

_BLOCKING = frozenset(key.name for key in BLOCKING_CHECKS)
# Before each further try. The first is longer than a restart of the broker (decision
# 12); all together are longer than a store or scheduler is away for a restart.
_PAUSES_S = (5.0, 15.0, 60.0, 120.0, 240.0)
# A public source has retries of its own, and hundreds of items may wait for it.
_SOURCE_PAUSES_S = _PAUSES_S[:3]


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
                blocking=name in _BLOCKING,
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
    unusable = [c.sentence for c in checks if c.name in _BLOCKING and not c.passed]
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
    """An error within the block becomes a retry or a failed step.

    What may pass is tried again after pauses that grow. A failed step shows the
    sentence of a platform error, and its facts as metadata.
    """
    try:
        yield
    except Exception as error:
        if may_pass(error):
            _ask_again(error)
        if isinstance(error, dg.Failure | dg.DagsterError):
            raise
        if not isinstance(error, PlatformError):
            raise dg.Failure(
                description=f"{fault_of_ours(error)}; report it with the error below",
                allow_retries=False,
            ) from error
        # Without retries: what does not pass by itself would only fail again.
        raise dg.Failure(
            description=str(error), metadata=dict(error.facts), allow_retries=False
        ) from error


def _ask_again(error: Exception) -> None:
    """Ask Dagster for a further try; return where there were enough of them."""
    pauses = _SOURCE_PAUSES_S if isinstance(error, SourceError) else _PAUSES_S
    context = dg.OpExecutionContext.get()
    tried = context.retry_number
    if tried < len(pauses):
        context.log.warning("%s; tried again in %g s", error, pauses[tried])
        raise dg.RetryRequested(len(pauses), pauses[tried]) from error
