"""Montages reach a real aloha, whatever happens on the way; nothing is lost."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.acquisition.buffer.journal import Journal
from em_platform.formats import read_image
from em_platform.model import AcquisitionUpload
from em_platform.storage import layout, open_store
from em_platform.temdb.register import Register

Hear = Callable[..., None]


def sentences(journal: Journal) -> list[str]:
    return [journal.montage(key).sentence for key in journal.open_ids()]


def test_a_montage_is_uploaded_verified_and_registered(
    uploading: Any,
    journal: Journal,
    montage: Any,
    temdb: Register,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    assert journal.queue_length() == 5
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    assert journal.open_ids() == []
    assert journal.queue_length() == 0
    assert {t.state for t in journal.tiles(montage.acquisition_id)} == {"sent"}
    store = open_store(str(tmp_path / "data"))
    upload = store.read(layout.upload(montage.acquisition_id), AcquisitionUpload)
    for tile in upload.tiles:
        pixels = read_image(f"{tile.uri}/0")
        assert np.array_equal(pixels, montage.pixels(tile.tile_id))
    run = temdb.run_of(montage.acquisition_id)
    assert run is not None
    assert (run.status, run.transfer_state, run.tile_count) == (
        "complete",
        "complete",
        5,
    )
    assert run.places == (store.url(layout.uploaded_acquisition(run.acquisition_id)),)


def test_while_aloha_is_away_all_waits_and_goes_on_when_it_is_back(
    uploading: Any,
    until: Any,
    journal: Journal,
    montage: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
    free_port: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with uploading(journal, port) as uploader:
        for _ in range(20):
            uploader.tick()
            time.sleep(0.01)
        (sentence,) = sentences(journal)
        assert "does not serve" in sentence
        assert "Connection refused" in sentence
        reported = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(reported) == 1  # not once a try
        assert journal.queue_length() == 5
        serve_app(aloha_app, port)
        until(uploader.tick, lambda: not journal.open_ids())
    assert journal.queue_length() == 0


def test_while_aloha_is_away_one_montage_tries_for_all(
    uploading: Any,
    until: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    for number in range(4):
        montage = imaged.ImagedMontage(tmp_path / "frames", f"m{number}", tiles=1)
        montage.image(hear)
        montage.complete(hear)
    port = free_port()
    with uploading(journal, port, retry_s=0.5) as uploader:
        uploader.tick()
        reported = sentences(journal)
        assert "does not serve" in reported[0]
        assert reported[1:] == ["", "", ""]
        serve_app(aloha_app, port)
        uploader.tick()
        assert len(journal.open_ids()) == 4  # it is too early
        until(uploader.tick, lambda: not journal.open_ids())


def test_while_the_tem_db_is_away_the_tiles_of_all_montages_are_stored(
    uploading: Any,
    until: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    for number in range(3):
        montage = imaged.ImagedMontage(tmp_path / "frames", f"m{number}", tiles=2)
        montage.image(hear)
        montage.complete(hear)
    is_down = True

    async def without_register(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/complete") and is_down:
            asked.append(scope["path"])
            headers = [(b"content-type", b"application/json")]
            await send(
                {"type": "http.response.start", "status": 503, "headers": headers}
            )
            body = b'{"detail": "TEM DB is down"}'
            await send({"type": "http.response.body", "body": body})
            return
        await aloha_app(scope, receive, send)

    asked: list[str] = []
    port = free_port()
    serve_app(without_register, port)
    with uploading(journal, port, retry_s=5.0, retry_most_s=5.0) as uploader:
        for _ in range(5):
            uploader.tick()
        assert journal.queue_length() == 0  # all tiles are stored
        assert len(asked) == 3  # once each, then they wait
        assert all("TEM DB is down" in sentence for sentence in sentences(journal))
    is_down = False
    with uploading(journal, port) as uploader:
        until(uploader.tick, lambda: not journal.open_ids())


def test_a_wrong_token_is_reported_and_the_upload_goes_on_with_the_right_one(
    uploading: Any,
    journal: Journal,
    montage: Any,
    aloha_port: int,
) -> None:
    with uploading(journal, aloha_port, token="wrong") as uploader:
        uploader.tick()
    (sentence,) = sentences(journal)
    assert "HTTP 401" in sentence
    assert "token" in sentence
    assert journal.queue_length() == 5
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    assert journal.open_ids() == []


class Hindered:
    """An application before which something goes wrong with chosen requests."""

    def __init__(self, app: Any, hinder: Callable[[Any], Any]) -> None:
        self.app = app
        self.hinder = hinder
        self.tiles = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and "/tiles/" in scope["path"]:
            self.tiles += 1
            if await self.hinder(self):
                await send({"type": "http.response.start", "status": 500})
                await send({"type": "http.response.body", "body": b"no JSON"})
                return
        await self.app(scope, receive, send)


def test_a_slow_aloha_is_reported_and_asked_again(
    uploading: Any,
    until: Any,
    journal: Journal,
    montage: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
    free_port: Callable[[], int],
) -> None:
    port = free_port()

    async def first_tile_slow(app: Hindered) -> bool:
        if app.tiles == 1:
            await asyncio.sleep(3)
        return False

    serve_app(Hindered(aloha_app, first_tile_slow), port)
    with uploading(journal, port, timeout_s=1.0) as uploader:
        uploader.tick()
        (sentence,) = sentences(journal)
        assert "no answer in time" in sentence
        until(uploader.tick, lambda: not journal.open_ids())
    assert journal.queue_length() == 0


def test_an_aloha_that_fails_is_asked_again_for_what_it_does_not_have(
    uploading: Any,
    until: Any,
    journal: Journal,
    montage: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
    free_port: Callable[[], int],
) -> None:
    port = free_port()

    async def third_fails(app: Hindered) -> bool:
        return app.tiles == 3

    app = Hindered(aloha_app, third_fails)
    serve_app(app, port)
    with uploading(journal, port, parallel=1) as uploader:
        uploader.tick()
        assert "in JSON" in sentences(journal)[0]
        assert journal.queue_length() == 3
        until(uploader.tick, lambda: not journal.open_ids())
    assert app.tiles == 6  # five, and the third once more


def test_statistics_are_waited_for_and_not_for_ever(
    uploading: Any,
    until: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    first = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    first.image(hear)
    first.complete(hear)
    with uploading(journal, aloha_port, statistics_wait_s=600.0) as uploader:
        uploader.tick()
        assert len(journal.open_ids()) == 1
        first.process(hear)
        uploader.tick()
        assert journal.open_ids() == []
    second = imaged.ImagedMontage(tmp_path / "frames", "m2", tiles=2)
    second.image(hear)
    second.complete(hear)
    with uploading(journal, aloha_port, statistics_wait_s=0.3) as uploader:
        until(uploader.tick, lambda: not journal.open_ids())
    store = open_store(str(tmp_path / "data"))
    measured_by = [
        store.read(layout.upload(m.acquisition_id), AcquisitionUpload)
        .tiles[0]
        .statistics.measured_by  # type: ignore[union-attr]
        for m in (first, second)
    ]
    assert measured_by == ["pipeline", "aloha"]


def test_a_verdict_without_figures_is_waited_for_and_what_never_came_is_named(
    uploading: Any,
    until: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    """round3 1.3.1, 1.3.2: it was sent so, as complete, what was missing unnamed."""
    late = {"fault_type": "incomplete", "severity": 1, "scope": "transient"}
    found = {}
    for name, comes in (("m1", True), ("m2", False)):
        montage = imaged.ImagedMontage(tmp_path / "frames", name, tiles=2)
        montage.image(hear)
        montage.complete(hear)
        for tile_id in montage.tile_ids:
            verdict = {"passed": False, "faults": [{**late, "confidence": 0.3}]}
            hear("qc.tile", **montage.fields(tile_id), **verdict)
        with uploading(journal, aloha_port, statistics_wait_s=600.0) as uploader:
            uploader.tick()
            assert len(journal.open_ids()) == 1
            if comes:
                montage.process(hear)
                uploader.tick()
        with uploading(journal, aloha_port, statistics_wait_s=0.1) as uploader:
            until(uploader.tick, lambda: not journal.open_ids())
        name = layout.upload(montage.acquisition_id)
        found[comes] = open_store(str(tmp_path / "data")).read(name, AcquisitionUpload)
    assert [tile.passed for tile in found[True].tiles] == [True, False]
    assert found[True].what_is_missing == ""
    assert [tile.passed for tile in found[False].tiles] == [False, False]
    assert (
        "2 without processed frame, 2 without figures, 2 without matches, "
        "2 without verdict, expected all of its 2 tiles"
    ) in found[False].what_is_missing


def test_a_montage_that_cannot_be_sent_does_not_hold_up_the_next(
    uploading: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    lost = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    lost.complete(hear)
    good = imaged.ImagedMontage(tmp_path / "frames", "m2", tiles=2)
    good.image(hear)
    good.complete(hear)
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    (key,) = journal.open_ids()
    montage = journal.montage(key)
    assert montage.acquisition_id == lost.acquisition_id
    assert "not one of its 2 tiles" in montage.sentence


def test_a_cancelled_montage_is_registered_as_aborted(
    uploading: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    temdb: Register,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    montage.image(hear)
    hear("montage.status", montage_id="m1", state="cancelled", error_message="enough")
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    assert journal.open_ids() == []
    run = temdb.run_of(montage.acquisition_id)
    assert run is not None
    assert (run.status, run.tile_count) == ("aborted", 0)
    assert not list((tmp_path / "data" / layout.UPLOADS).rglob("*"))


def test_a_journal_of_an_older_version_uploads_no_other_file(
    uploading: Any,
    journal: Journal,
    montage: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    first, second = journal.tiles(montage.acquisition_id)[:2]
    elsewhere = tmp_path / "private.tiff"
    elsewhere.write_bytes(Path(first.path).read_bytes())
    with sqlite3.connect(tmp_path / "buffer" / "journal.sqlite") as older:
        older.execute(
            "UPDATE tiles SET body = json_set(body, '$.path', ?) WHERE tile_id = ?",
            (str(elsewhere), first.tile_id),
        )
        older.execute(
            "UPDATE tiles SET body = json_set(body, '$.path', ?) WHERE tile_id = ?",
            (first.path, second.tile_id),
        )
    older.close()
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    found = {t.tile_id: t for t in journal.tiles(montage.acquisition_id)}
    for tile in (first, second):
        assert found[tile.tile_id].state == "refused"
        assert "its message names the frame" in found[tile.tile_id].sentence
        stored = (
            tmp_path
            / "data"
            / layout.uploaded_tile(montage.acquisition_id, tile.tile_id)
        )
        assert not stored.exists()
