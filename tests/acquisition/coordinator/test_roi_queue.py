"""The queue keeps its order, and what has been begun keeps its place."""

from typing import Any

import pytest

from em_platform.acquisition.coordinator.roi_queue import (
    Entry,
    Queue,
    added,
    current,
    following,
    removed,
    reordered,
    status_fields,
    with_entry,
)
from em_platform.messaging.topics import fitting


def entry(name: str, **fields: Any) -> Entry:
    return Entry(roi={"montage_id": name}, **fields)


def queue(words: str) -> Queue:
    """`a! b c` is a queue whose `a` is being imaged; `a.` is finished."""
    status = {"!": "active", ".": "complete", "?": "failed"}
    return tuple(
        entry(word[0], status=status.get(word[1:], "pending")) for word in words.split()
    )


def names(found: Queue) -> str:
    return " ".join(each.montage_id for each in found)


@pytest.mark.parametrize(
    ("before", "position", "after"),
    [
        ("", None, "x"),
        ("a b", None, "x a b"),
        ("a! b", None, "a x b"),
        ("a b", 1, "a x b"),
        ("a! b c", 1, "a b x c"),
        ("a b", 1_000_000, "a b x"),
        ("a. b! c", 0, "a b x c"),
        ("a b", -3, "x a b"),
    ],
)
def test_a_region_is_put_where_it_is_wanted(
    before: str, position: int | None, after: str
) -> None:
    assert names(added(queue(before), entry("x"), position)) == after


def test_a_region_takes_the_place_of_a_finished_one_of_its_name() -> None:
    found = added(queue("a. b"), entry("a"), 1_000_000)
    assert [(e.montage_id, e.status) for e in found] == [
        ("b", "pending"),
        ("a", "pending"),
    ]


def test_only_what_waits_or_is_finished_can_be_removed() -> None:
    assert names(removed(queue("a. b! c d"), ["a", "b", "d", "z"])) == "b c"


def test_what_waits_is_reordered_and_the_rest_stays() -> None:
    assert names(reordered(queue("a! b c d"), ["d", "b"])) == "a d b c"
    assert names(reordered(queue("a b. c"), ["c", "a"])) == "c b a"


def test_a_failed_region_is_still_the_current_one() -> None:
    found = current(queue("a. b? c"))
    assert found is not None
    assert found.montage_id == "b"
    after = following(queue("a. b? c"))
    assert after is not None
    assert after.montage_id == "c"


def test_the_oldest_finished_regions_are_forgotten() -> None:
    found: Queue = ()
    for number in range(60):
        found = added(found, entry(f"m{number}"), 1_000_000)
        found = with_entry(found, entry(f"m{number}", status="complete"))
    assert len(found) == 21
    assert found[-1].montage_id == "m59"


def test_a_new_status_has_a_new_time_and_the_message_fits() -> None:
    before = entry("a")
    after = before.changed(status="active")
    assert after.changed_at > before.changed_at
    assert after.changed(error="x").changed_at == after.changed_at
    fitting("roi.status", status_fields(after))
