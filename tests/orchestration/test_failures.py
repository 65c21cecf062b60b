import dagster as dg
import pytest

from em_platform.assets import checks as asset_checks
from em_platform.assets.checks import dagster_failures
from em_platform.errors import BrokerUnavailable, FormatError


def run_of(asset: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize([asset], instance=instance, raise_on_error=False)


def test_what_may_pass_by_itself_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asset_checks, "_PAUSE_S", 0.0)
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


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), dagster_failures():
        raise ZeroDivisionError("of another library")
