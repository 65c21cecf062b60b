"""New montages get free ids; the coordinator's answer is waited for, and passed on."""

from collections.abc import Callable
from typing import Any

import pytest

from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import Message
from em_platform.acquisition.roi import roi_of
from em_platform.acquisition.session.montage_request import (
    existing_ids,
    first_number,
    queue_of,
    request_montage,
    unfinished,
)
from em_platform.config import Settings
from em_platform.errors import AcquisitionError, NoAnswer
from em_platform.messaging.bus import Bus


@pytest.mark.parametrize(
    ("existing", "count", "first"),
    [
        ((), 1, 1),
        (("m-0001", "m-0002", "m-0004"), 1, 3),
        (("m-0001", "m-0002", "m-0004"), 2, 5),
        (("lens-20261122t120000", "m-0002"), 1, 1),
        (("m-0001",), 0, 2),
    ],
)
def test_the_default_is_the_first_number_that_is_free(
    existing: tuple[str, ...], count: int, first: int
) -> None:
    assert first_number(None, count, existing=existing) == first


def test_a_number_that_exists_is_refused_with_one_that_is_free() -> None:
    assert first_number(7, 2, existing=("m-0001",)) == 7
    with pytest.raises(AcquisitionError) as refused:
        first_number(1, 2, existing=("m-0002",))
    assert str(refused.value) == (
        "acquire: montage m-0002 exists already, a new id was expected; leave out "
        "--first, or give --first 3"
    )


def test_ids_are_taken_in_the_queue_on_the_disk_and_in_the_recorder(
    rig_settings: Settings,
) -> None:
    assert existing_ids((), rig_settings) == set()
    (rig_settings.home / "frames" / "m-0002").mkdir(parents=True)
    complete = {"montage_id": "m-0003", "acquisition_id": "m-0003-x", "tiles": {}}
    with ledger_of(rig_settings) as recorder:
        recorder.append_all([Message("montage.complete", complete, {})])
    assert existing_ids(("m-0001",), rig_settings) == {"m-0001", "m-0002", "m-0003"}


@pytest.fixture
def coordinator(open_bus: Callable[[str], Bus]) -> Bus:
    return open_bus("coordinator")


@pytest.fixture
def acquire(open_bus: Callable[[str], Bus]) -> Bus:
    bus = open_bus("acquire")
    bus.latest("roi.queue.status")
    return bus


def region(settings: Settings) -> dict[str, Any]:
    return roi_of("m-0002", 2, 2, 2, None, settings)


def answer_with(bus: Bus, **fields: Any) -> None:
    bus.subscribe(
        "roi.create",
        lambda message, _: bus.publish(
            "roi.status", montage_id=message.montage_id, timestamp=1, **fields
        ),
    )


def test_a_region_that_is_taken_is_no_error(
    coordinator: Bus, acquire: Bus, rig_settings: Settings
) -> None:
    answer_with(coordinator, status="pending")
    request_montage(acquire, region(rig_settings))


def test_a_refusal_is_passed_on_at_once_in_its_words(
    coordinator: Bus, acquire: Bus, rig_settings: Settings
) -> None:
    sentence = "coordinator: roi m-0002 is being imaged; give it another id"
    answer_with(coordinator, status="failed", error_message=sentence)
    with pytest.raises(AcquisitionError, match="is being imaged"):
        request_montage(acquire, region(rig_settings))


def test_a_coordinator_that_does_not_answer_is_named(
    acquire: Bus, rig_settings: Settings
) -> None:
    with pytest.raises(NoAnswer, match="neither took m-0002 nor refused it"):
        request_montage(acquire, region(rig_settings), timeout_s=0.2)
    with pytest.raises(NoAnswer, match="publishes one each 2 s"):
        queue_of(acquire, timeout_s=0.2)


def test_what_was_begun_or_waits_is_unfinished(coordinator: Bus, acquire: Bus) -> None:
    states = ("complete", "failed", "aborted", "pending", "paused", "active")
    entries = [
        {"montage_id": f"m-{n}", "status": state, "timestamp": n}
        for n, state in enumerate(states)
    ]
    coordinator.publish(
        "roi.queue.status", queue=entries, completed_count=1, timestamp=1
    )
    assert unfinished(queue_of(acquire)) == ["m-1", "m-3", "m-4", "m-5"]
