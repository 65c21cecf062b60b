import errno

import dagster as dg
import pytest

from em_platform.assets import checks as asset_checks
from em_platform.assets.checks import dagster_failures
from em_platform.errors import (
    BrokerUnavailable,
    FormatError,
    StorageError,
    may_pass,
)

RETRY_REQUESTED = dg.RetryRequested


def run_of(asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize([asset], instance=instance, raise_on_error=False)


def test_what_may_pass_by_itself_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asset_checks, "_PAUSES_S", (0.0,) * 5)
    calls = []

    @dg.asset
    def flaky() -> None:
        with dagster_failures():
            calls.append(1)
            if len(calls) < 3:
                raise BrokerUnavailable("broker: no answer, one was expected; wait")

    result = run_of(flaky)
    assert result.success
    assert len(calls) == 3


def test_what_will_not_pass_fails_at_once_with_its_sentence_and_facts() -> None:
    calls = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=3))
    def broken() -> None:
        with dagster_failures():
            calls.append(1)
            raise FormatError("t.tiff: found 0 bytes, expected a TIFF", uri="t.tiff")

    result = run_of(broken)
    assert not result.success
    assert len(calls) == 1
    [event] = [e for e in result.all_events if e.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure.description == "t.tiff: found 0 bytes, expected a TIFF"
    assert failure.metadata["uri"].value == "t.tiff"


class EndpointConnectionError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    "cause",
    [
        ConnectionRefusedError("refused"),
        TimeoutError("late"),
        OSError(errno.ESTALE, "stale file handle"),
        EndpointConnectionError("S3 is away"),
    ],
    ids=str,
)
def test_a_store_that_is_away_is_tried_again_with_pauses_that_grow(
    cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: tuple[float, ...] = vars(asset_checks)["_PAUSES_S"]
    assert list(pauses) == sorted(pauses)
    assert sum(pauses) > 180, "longer than S3 is away for a restart"
    asked: list[float] = []
    monkeypatch.setattr(
        asset_checks.dg,
        "RetryRequested",
        lambda most, pause: asked.append(pause) or RETRY_REQUESTED(most, 0.0),
    )

    @dg.asset
    def away() -> None:
        with dagster_failures():
            try:
                raise cause
            except Exception as error:
                raise StorageError(
                    "storage: s3://b/x could not be read; wait"
                ) from error

    result = run_of(away)
    assert asked == list(pauses)
    [event] = [e for e in result.all_events if e.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure.description == "storage: s3://b/x could not be read; wait"


def test_a_full_disk_and_a_missing_file_are_not_tried_again() -> None:
    assert not may_pass(OSError(errno.ENOSPC, "full"))
    assert not may_pass(FileNotFoundError("x"))
    assert not may_pass(StorageError("storage: no permission; ask for it"))


def test_what_nobody_foresaw_is_called_a_fault_of_ours() -> None:
    with pytest.raises(dg.Failure) as caught, dagster_failures():
        raise ZeroDivisionError("of another library")
    sentence = str(caught.value.description)
    assert "a fault of em-platform, not of your input" in sentence
    assert "ZeroDivisionError (of another library)" in sentence
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # its traceback
    # What Dagster means by an error is left to it.
    with pytest.raises(dg.DagsterInvalidDefinitionError), dagster_failures():
        raise dg.DagsterInvalidDefinitionError("no")
