"""The journal gives each step of each tile to exactly one process."""

import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.pipeline.journal import MOST_ATTEMPTS, Journal
from em_platform.acquisition.pipeline.journaled import (
    Job,
    JournaledTile,
    Shape,
    journaled,
)
from em_platform.errors import StorageError
from em_platform.model import Box, Size

SHAPE = Shape(size=Size(height_px=64, width_px=48), valid=Box(y0=1, x0=2, y1=60, x1=48))


def tile(
    row: int, column: int, *, acquisition: str = "a", **more: Any
) -> JournaledTile:
    body = {
        "tile_id": f"{acquisition}_{row:03d}_{column:03d}",
        "montage_id": "m",
        "row": row,
        "column": column,
        "overlap": 8,
        "path": f"{acquisition}_{row:03d}_{column:03d}.tiff",
    }
    return journaled({**body, **more}, {})


def serpentine(rows: int, columns: int) -> list[JournaledTile]:
    order = [
        (row, column if row % 2 == 0 else columns - 1 - column)
        for row in range(rows)
        for column in range(columns)
    ]
    return [tile(row, column) for row, column in order]


def finish(journal: Journal, job: Job) -> None:
    if job.step == "process":
        assert journal.processed(job.tile, shape=SHAPE)
    else:
        assert journal.done(job.tile)


def work(path: Path, out: Path) -> None:
    """A process that does what there is, slowly enough for others to interfere."""
    journal = Journal(path)
    did = []
    idle = 0
    while idle < 20:
        job = journal.claim_next()
        if job is None:
            idle += 1
            time.sleep(0.005)
            continue
        idle = 0
        did.append((job.step, job.tile.key))
        finish(journal, job)
    out.write_text(json.dumps(did))


def take_and_die(path: Path) -> None:
    Journal(path).claim_next()


def start(target: Any, *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def test_processes_never_do_the_same_step(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    tiles = serpentine(10, 12)
    Journal(path).add(tiles)
    outs = [tmp_path / f"{n}.json" for n in range(3)]
    processes = [start(work, path, out) for out in outs]
    for process in processes:
        process.join(100)
        assert process.exitcode == 0
    did = [tuple(each) for out in outs for each in json.loads(out.read_text())]
    assert len(did) == len(set(did)) == 2 * len(tiles)
    assert {key for _, key in did} == {each.key for each in tiles}
    assert Journal(path).counts() == {"done": len(tiles)}


def test_a_tile_noted_twice_by_two_processes_is_one(tmp_path: Path) -> None:
    one = Journal(tmp_path / "j", worker="one")
    other = Journal(tmp_path / "j", worker="other")
    assert one.add([tile(0, 0), tile(0, 1)]) == 2
    assert other.add([tile(0, 0), tile(0, 1), tile(0, 2)]) == 1
    for _ in range(2):
        assert one.claim_next() is not None
    assert other.claim_next().tile.place == (0, 2)  # type: ignore[union-attr]
    assert one.claim_next() is None


def test_what_is_done_is_not_done_again_when_it_is_heard_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0)])
    while (job := journal.claim_next()) is not None:
        finish(journal, job)
    assert journal.add([tile(0, 0)]) == 0
    journal.close()
    again = Journal(tmp_path / "j", worker="after the restart")
    assert again.add([tile(0, 0)]) == 0
    assert again.claim_next() is None


def test_frames_of_no_montage_may_repeat_their_id() -> None:
    body = {"tile_id": "preview", "montage_id": "", "row": 0, "column": 0}
    first = journaled(body, {"source": "c", "sent_at": "1", "sequence": "1"})
    same = journaled(body, {"source": "c", "sent_at": "1", "sequence": "1"})
    second = journaled(body, {"source": "c", "sent_at": "2", "sequence": "2"})
    assert first.key == same.key != second.key
    assert first.montage == ""


def test_a_frame_of_no_montage_is_done_when_it_is_processed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0, montage_id=""), tile(0, 1, montage_id="")])
    for _ in range(2):
        job = journal.claim_next()
        assert job is not None
        assert job.step == "process"
        finish(journal, job)
    assert journal.claim_next() is None
    journal.prune_previews(older_than_s=0.0)
    assert journal.counts() == {}


@pytest.mark.parametrize(
    ("place", "before"),
    [
        ((0, 0), []),
        ((0, 2), [(0, 1)]),
        ((1, 2), [(0, 2)]),
        ((1, 1), [(0, 1), (1, 2)]),  # this row runs backwards
        ((1, 0), [(0, 0), (1, 1)]),
        ((2, 0), [(1, 0)]),
        ((2, 2), [(1, 2), (2, 1)]),
    ],
)
def test_neighbours_are_those_imaged_before_in_a_serpentine(
    tmp_path: Path, place: tuple[int, int], before: list[tuple[int, int]]
) -> None:
    journal = Journal(tmp_path / "j")
    journal.add(serpentine(3, 3))
    found = {}
    while (job := journal.claim_next()) is not None:
        if job.step == "match":
            found[job.tile.place] = job.neighbours
        finish(journal, job)
    assert [n.place for n in found[place]] == before
    assert all(n.shape == SHAPE for n in found[place])


def test_other_acquisitions_are_no_neighbours(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0, acquisition="a"), tile(0, 1, acquisition="b")])
    for _ in range(4):
        job = journal.claim_next()
        assert job is not None
        assert job.neighbours == ()
        finish(journal, job)


def test_a_tile_waits_for_its_earlier_neighbours_whoever_has_them(
    tmp_path: Path,
) -> None:
    slow = Journal(tmp_path / "j", worker="slow")
    fast = Journal(tmp_path / "j", worker="fast")
    slow.add([tile(0, 0), tile(0, 1), tile(0, 2)])
    first = slow.claim_next()
    assert first is not None
    for _ in range(2):
        job = fast.claim_next()
        assert job is not None
        finish(fast, job)
    # (0, 2) has only (0, 1) before it and is ready; (0, 1) waits for (0, 0).
    ready = fast.claim_next()
    assert ready is not None
    assert (ready.step, ready.tile.place) == ("match", (0, 2))
    assert fast.claim_next() is None
    finish(slow, first)
    assert {fast.claim_next().tile.place, slow.claim_next().tile.place} == {
        (0, 0),
        (0, 1),
    }  # type: ignore[union-attr]


def test_a_neighbour_that_cannot_be_read_holds_nothing_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0), tile(0, 1)])
    bad = journal.claim_next()
    assert bad is not None
    journal.processed(bad.tile, shape=None, failure="a_000_000.tiff: cut short")
    steps = []
    while (job := journal.claim_next()) is not None:
        steps.append((job.step, job.tile.place, [n.failure for n in job.neighbours]))
        finish(journal, job)
    assert steps == [
        ("match", (0, 0), []),
        ("process", (0, 1), []),
        ("match", (0, 1), ["a_000_000.tiff: cut short"]),
    ]
    assert journal.failures() == {"a_000_000": "a_000_000.tiff: cut short"}


def test_a_lease_that_is_over_gives_the_tile_to_another(tmp_path: Path) -> None:
    hanging = Journal(tmp_path / "j", worker="hanging", lease_s=0.05)
    other = Journal(tmp_path / "j", worker="other", lease_s=60)
    hanging.add([tile(0, 0)])
    taken = hanging.claim_next()
    assert taken is not None
    assert other.claim_next() is None
    time.sleep(0.1)
    assert other.free() == 1
    again = other.claim_next()
    assert again is not None
    assert again.tile.key == taken.tile.key
    assert not hanging.renew(taken.tile)
    assert not hanging.processed(taken.tile, shape=SHAPE)
    assert other.processed(again.tile, shape=SHAPE)


def test_a_renewed_lease_is_held(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", worker="w", lease_s=0.05)
    other = Journal(tmp_path / "j", worker="o", lease_s=60)
    journal.add([tile(0, 0)])
    job = journal.claim_next()
    assert job is not None
    time.sleep(0.1)
    patient = Journal(tmp_path / "j", worker="w", lease_s=60)
    assert patient.renew(job.tile)
    assert other.free() == 0


def test_the_tile_of_a_process_that_ended_is_free_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, lease_s=3600)
    journal.add([tile(0, 0), tile(0, 1)])
    process = start(take_and_die, path)
    process.join(60)
    assert journal.counts() == {"taken": 1, "waiting": 1}
    assert journal.free() == 1
    job = journal.claim_next()
    assert job is not None
    assert (job.tile.place, job.tile.attempts) == ((0, 0), 1)


def test_a_living_process_keeps_its_tile(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", lease_s=3600)
    journal.add([tile(0, 0)])
    journal.claim_next()
    assert Journal(tmp_path / "j", worker="other", lease_s=3600).free() == 0


def test_what_is_given_back_was_no_attempt(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0)])
    for _ in range(MOST_ATTEMPTS + 2):
        job = journal.claim_next()
        assert job is not None
        assert job.tile.attempts == 0
        assert journal.give_back() == 1
    for attempt in range(3):
        job = journal.claim_next()
        assert job is not None
        assert job.tile.attempts == attempt
        journal.give_back(was_tried=True)


def test_what_is_pruned_is_not_done_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.add([tile(0, 0), tile(0, 0, acquisition="b")])
    first = journal.claim_next()
    assert first is not None
    finish(journal, first)
    assert journal.idle(for_s=0.0) == []
    while (job := journal.claim_next()) is not None:
        finish(journal, job)
    time.sleep(0.01)
    assert sorted(journal.idle(for_s=0.0)) == [("a", "m"), ("b", "m")]
    assert journal.idle(for_s=60.0) == []
    journal.prune("a")
    assert journal.is_pruned("a")
    assert journal.add([tile(0, 0)]) == 0
    assert Counter(journal.counts()) == {"done": 1}
    assert journal.existing("b") == {"b_000_000"}


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "pipeline").write_text("in the way")
    with pytest.raises(StorageError, match=r"pipeline: .* could not be read"):
        Journal(tmp_path / "pipeline" / "journal.sqlite")
