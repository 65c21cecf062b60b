"""Failed checks of a montage reach a microscope that still images."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from em_platform.acquisition.qc.verdict import report_checks
from em_platform.config import BrokerSettings, Settings
from em_platform.messaging.bus import Bus
from em_platform.model import Check, Severity
from tests.ports import reserve_port

NOW = datetime.now(UTC)


def check(name: str, *, passed: bool = False, severity: str = "error") -> Check:
    return Check(
        name=name,
        passed=passed,
        severity=Severity(severity),
        sentence=f"{name} says no; do this.",
    )


def test_a_failed_check_stops_the_scope_at_the_end(
    rig_settings: Settings, live_qc: Any, open_bus: Callable[[str], Bus]
) -> None:
    statuses: list[Any] = []
    headers: list[Any] = []

    def hear(message: Any, header: Any) -> None:
        statuses.append(message)
        headers.append(header)

    open_bus("listener").subscribe("qc.status", hear)
    with live_qc(rig_settings):
        checks = [check("seams_are_closed"), check("edges", severity="warn")]
        assert report_checks(rig_settings, "m-1", NOW, checks)
        deadline = time.monotonic() + 20
        while not any(h["service"] == "qc" for h in headers[-1:]) or (
            statuses[-1].status != "STOP_AT_END"
        ):
            assert time.monotonic() < deadline, statuses
            time.sleep(0.05)
    assert "dagster" in {h["service"] for h in headers}
    assert statuses[-1].reason == (
        "Montage m-1 failed its checks. seams_are_closed: seams_are_closed says no; "
        "do this."
    )


@pytest.mark.parametrize(
    ("ended_at", "checks"),
    [
        (NOW, [check("good", passed=True)]),
        (NOW, [check("edges", severity="warn")]),
        (NOW - timedelta(hours=1, seconds=1), [check("seams")]),
        (None, [check("seams")]),
    ],
)
def test_nobody_is_stopped_without_a_fresh_error(
    rig_settings: Settings,
    open_bus: Any,
    ended_at: datetime | None,
    checks: list[Check],
) -> None:
    published: list[Any] = []
    open_bus("listener").subscribe(
        "qc.status", lambda message, _: published.append(message)
    )
    assert not report_checks(rig_settings, "m-1", ended_at, checks)
    time.sleep(0.3)
    assert published == []


def test_without_a_broker_it_is_logged(tmp_path, caplog) -> None:
    settings = Settings(home=tmp_path, broker=BrokerSettings(port=reserve_port()))
    assert not report_checks(settings, "m-1", NOW, [check("seams")])
    assert "did not get the stop at the end" in caplog.text
