"""Frames leave the disk only after aloha has verified them, or were cancelled."""

import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.buffer.freeing import Freer
from em_platform.acquisition.buffer.journal import Journal
from em_platform.config import BufferSettings
from em_platform.errors import StorageError

Hear = Callable[..., None]


def freer(
    journal: Journal, frames: Path, *, recorded: Any = None, **more: Any
) -> Freer:
    fields = {"keep_s": 0, "keep_cancelled_s": 0, "min_free_gb": 0} | more
    everything = frozenset(
        tile_id
        for folder in frames.iterdir()
        for tile_id in journal.tile_ids(folder.name)
    )
    return Freer(
        journal,
        BufferSettings(**fields),
        frames=frames,
        recorded=recorded or (lambda *_: everything),
    )


@pytest.fixture
def montages(hear: Hear, imaged: Any, tmp_path: Path) -> list[Any]:
    """Two montages that have ended."""
    made = [
        imaged.ImagedMontage(tmp_path / "frames", name, tiles=3)
        for name in ("m1", "m2")
    ]
    for montage in made:
        montage.image(hear)
        montage.process(hear)
        montage.complete(hear)
    return made


def verified(journal: Journal, montage: Any, *, but: tuple[str, ...] = ()) -> None:
    journal.note_sent([t for t in montage.tile_ids if t not in but])
    journal.note_answered(montage.acquisition_id)


def names_in(montage: Any) -> set[str]:
    return {path.name for path in montage.folder.iterdir()}


def end_of(montage: Any) -> str:
    return f"{montage.acquisition_id}.complete.json"


def test_only_verified_montages_are_deleted(
    journal: Journal, montages: list[Any], tmp_path: Path
) -> None:
    first, second = montages
    journal.note_sent(second.tile_ids)  # all sent, but not verified as a whole
    untouched = names_in(second)
    freer(journal, tmp_path / "frames").tick()
    assert len(names_in(first)) == 10
    verified(journal, first)
    freer(journal, tmp_path / "frames").tick()
    assert names_in(first) == {end_of(first)}
    assert names_in(second) == untouched
    freer(journal, tmp_path / "frames").tick()
    assert journal.answered_montages() == journal.freed_montages() == []


def test_a_tile_that_was_set_aside_stays(
    journal: Journal, montages: list[Any], tmp_path: Path
) -> None:
    first, _ = montages
    bad = first.tile_ids[1]
    journal.note_refused(bad, "it is broken")
    verified(journal, first, but=(bad,))
    freer(journal, tmp_path / "frames").tick()
    assert names_in(first) == {
        end_of(first),
        f"{bad}.tiff",
        f"{bad}.json",
        f"{bad}.processed.tiff",
    }


def test_frames_stay_for_a_while_unless_the_disk_is_short(
    journal: Journal,
    montages: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = montages
    verified(journal, first)
    time.sleep(0.01)
    verified(journal, second)
    frames = tmp_path / "frames"
    freer(journal, frames, keep_s=600).tick()
    assert len(names_in(first)) == len(names_in(second)) == 10
    usage = namedtuple("usage", "total used free")

    def one_montage_too_many(_: Path) -> Any:
        return usage(10, 5, 5 if len(names_in(first)) < 10 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", one_montage_too_many)
        freer(journal, frames, keep_s=600, min_free_gb=4e-9).tick()
    assert len(names_in(first)) < 10  # the oldest
    assert len(names_in(second)) == 10


def test_bodies_stay_until_the_recorder_has_them(
    journal: Journal, montages: list[Any], tmp_path: Path
) -> None:
    first, _ = montages
    verified(journal, first)
    frames = tmp_path / "frames"
    bodies = {f"{tile_id}.json" for tile_id in first.tile_ids} | {end_of(first)}
    freer(journal, frames, recorded=lambda *_: frozenset(first.tile_ids[:2])).tick()
    assert names_in(first) == bodies

    def unreadable(*_: str) -> frozenset[str]:
        raise StorageError("recorder: the table could not be read")

    freer(journal, frames, recorded=unreadable).tick()
    assert names_in(first) == bodies
    freer(journal, frames).tick()
    assert names_in(first) == {end_of(first)}


def test_a_file_outside_of_the_frames_is_never_deleted(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    (tmp_path / "frames").mkdir()
    elsewhere = imaged.ImagedMontage(tmp_path / "elsewhere", "m1", tiles=1)
    elsewhere.image(hear)
    elsewhere.complete(hear)
    (tmp_path / "frames" / "m2").symlink_to(tmp_path / "elsewhere")
    linked = imaged.ImagedMontage(tmp_path / "frames" / "m2", "deep", tiles=1)
    linked.image(hear)
    linked.complete(hear)
    for montage in (elsewhere, linked):
        verified(journal, montage)
    freer(journal, tmp_path / "frames").tick()
    assert elsewhere.path(elsewhere.tile_ids[0]).exists()
    assert linked.path(linked.tile_ids[0]).exists()


def test_a_message_that_names_another_montages_frame_deletes_nothing(
    journal: Journal,
    montages: list[Any],
    hear: Hear,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    victim, other = montages
    kept = [names_in(victim), names_in(other)]
    tile = {"montage_id": "evil", "row": 0, "column": 0, "overlap": 8}
    for tile_id in ("evil-20260102t030405_000_000", victim.tile_ids[0]):
        path = str(victim.path(victim.tile_ids[0]))
        hear("tile.raw", **tile, tile_id=tile_id, path=path)
    # A path of its own, but for a tile that another montage has.
    own = tmp_path / "frames" / "evil" / f"{victim.tile_ids[1]}.tiff"
    hear("tile.raw", **tile, tile_id=victim.tile_ids[1], path=str(own))
    hear("montage.status", montage_id="evil", state="cancelled")
    freer(journal, tmp_path / "frames").tick()
    assert [names_in(victim), names_in(other)] == kept
    assert "expected" in caplog.text
    assert "evil" not in str([t.path for t in journal.tiles(victim.acquisition_id)])


def test_a_path_that_an_older_journal_took_is_not_deleted(
    journal: Journal, montages: list[Any], hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    victim, _ = montages
    stopped = imaged.ImagedMontage(tmp_path / "frames", "m3", tiles=1)
    stopped.image(hear)
    hear("montage.status", montage_id="m3", state="cancelled")
    with journal.writing() as cursor:
        cursor.execute(
            "UPDATE tiles SET body = json_set(body, '$.path', ?) WHERE tile_id = ?",
            (str(victim.path(victim.tile_ids[0])), stopped.tile_ids[0]),
        )
    before = names_in(victim)
    freer(journal, tmp_path / "frames").tick()
    assert names_in(victim) == before


def test_a_cancelled_montage_is_deleted_and_a_failed_one_is_not(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    failed = imaged.ImagedMontage(frames, "m1", tiles=2)
    stopped = imaged.ImagedMontage(frames, "m2", tiles=2)
    failed.image(hear)
    stopped.image(hear)
    hear("montage.status", montage_id="m1", state="error", error_message="stuck")
    hear("montage.status", montage_id="m2", state="cancelled")
    freer(journal, frames, keep_cancelled_s=600).tick()
    assert len(names_in(stopped)) == 4
    freer(journal, frames).tick()
    assert names_in(stopped) == set()
    assert len(names_in(failed)) == 4
    late = f"{stopped.acquisition_id}_000_002"
    stopped.tile_ids.append(late)
    stopped.image_tile(late, hear)
    freer(journal, frames).tick()
    assert names_in(stopped) == set()


def test_a_frame_that_was_imaged_again_is_neither_sent_nor_kept(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m3", tiles=3)
    montage.image(hear)
    montage.process(hear)
    rejected = montage.tile_ids[1]
    montage.tile_ids[1] = f"{rejected}r1"
    montage.image_tile(montage.tile_ids[1], hear)
    assert journal.queue_length() == 4  # nobody knows yet
    montage.complete(hear)
    assert journal.queue_length() == 3
    key = montage.acquisition_id
    # The retry is not judged: the verdict on the rejected frame does not count for it.
    assert journal.noted(key, "qc.tile") == 2
    montage.process(hear)
    assert journal.noted(key, "qc.tile") == 3
    freer(journal, tmp_path / "frames").tick()
    names = names_in(montage)
    assert not {name for name in names if name.startswith(f"{rejected}.")}
    assert {f"{name}.tiff" for name in montage.tile_ids} <= names
    assert journal.tile_ids("m3") == set(montage.tile_ids)
