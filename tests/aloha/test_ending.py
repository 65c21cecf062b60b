"""How an acquisition ends: complete or aborted, and known to a real TEM DB."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from em_platform.acquisition.montages.review import write_review
from em_platform.aloha import pyramids
from em_platform.aloha.journal import Journal, State
from em_platform.formats import encode_tiff
from em_platform.model import AcquisitionUpload, NeighbourMatch
from em_platform.storage import Store, layout
from em_platform.temdb.register import Register

KEY = "m1-20260102t030405"

Announced = Callable[..., AcquisitionUpload]


@pytest.fixture
def registered(start_aloha: Any, temdb: Register) -> Iterator[Any]:
    """An aloha with a TEM DB."""
    with start_aloha(register=temdb) as aloha:
        yield aloha


def send_all(aloha: Any, files: dict[str, bytes]) -> None:
    for tile_id, content in files.items():
        assert aloha.send(tile_id, content).status_code == 200


def test_a_complete_acquisition_is_registered_with_all_that_is_known(
    registered: Any,
    temdb: Register,
    store: Store,
    files: dict[str, bytes],
    announced: Announced,
) -> None:
    upload = announced(files)
    match = NeighbourMatch(
        row=0,
        column=0,
        position="left",
        dx_px=1.5,
        dy_px=-2,
        dx_std_px=0.1,
        dy_std_px=0.2,
        distance_px=2.5,
        rotation_rad=0.01,
        tile_points=((1, 2), (3, 4)),
        neighbour_points=((5, 6), (7, 8)),
    )
    first, second, third = upload.tiles
    third = third.model_copy(update={"statistics": None})
    second = second.model_copy(update={"matches": (match,)})
    upload = upload.model_copy(update={"tiles": (first, second, third)})
    registered.announce(upload)
    send_all(registered, files)
    for _ in range(2):
        answer = registered.ask("POST", f"{KEY}/complete")
        assert (answer.status_code, answer.json()) == (200, {"tiles": 3})
    run = temdb.run_of(KEY)
    assert run is not None
    assert (run.status, run.transfer_state, run.tile_count) == (
        "complete",
        "complete",
        3,
    )
    written = store.read(layout.upload(KEY), AcquisitionUpload)
    assert [tile.uri for tile in written.tiles] == [
        store.url(layout.uploaded_tile(KEY, tile_id)) for tile_id in files
    ]
    assert written.tiles[1].matches == (match,)
    measured = written.tiles[2].statistics
    assert measured is not None
    assert measured.measured_by == "aloha"
    assert 120 < measured.mean < 135  # uniform noise of 0..254
    assert 70 < measured.std < 76
    assert written.tiles[0].statistics == first.statistics


def test_what_was_not_made_is_in_its_record_and_a_person_looks_at_it(
    registered: Any, temdb: Register, files: dict[str, bytes], announced: Announced
) -> None:
    """round3 1.3.2: the record was `complete` without a word of 23 missing tiles."""
    upload = announced(files)
    first, *others = upload.tiles
    first = first.model_copy(update={"missing": ("processed frame", "verdict")})
    upload = upload.model_copy(update={"tiles": (first, *others)})
    registered.announce(upload)
    send_all(registered, files)
    for _ in range(2):
        assert registered.ask("POST", f"{KEY}/complete").status_code == 200
    run = temdb.run_of(KEY)
    assert run is not None
    assert run.status == "complete"
    assert (run.qc_state, run.qc_by) == ("needs_review", "aloha")
    record = requests.get(
        f"{temdb.base_url}/api/v2/acquisitions/{KEY}",
        headers={"Authorization": f"Bearer {temdb.token}"},
        timeout=30,
    ).json()
    assert "1 without processed frame, 1 without verdict" in record["error_message"]
    # The review of Dagster, which looks at all of it, may say otherwise.
    assert write_review(temdb, KEY, "qc_pass") == "qc_pass"
    run = temdb.run_of(KEY)
    assert run is not None
    assert run.qc_state == "qc_pass"


def test_a_complete_acquisition_stays(
    registered: Any, store: Store, files: dict[str, bytes], announced: Announced
) -> None:
    registered.announce(announced(files))
    send_all(registered, files)
    registered.ask("POST", f"{KEY}/complete")
    answer = registered.ask("POST", f"{KEY}/abort")
    assert answer.status_code == 409
    assert "is complete" in answer.json()["detail"]
    answer = registered.announce(announced(files))
    assert answer.json()["state"] == "complete"
    assert len(answer.json()["stored"]) == 3
    other = {**files, next(iter(files)): encode_tiff_of_zeros()}
    assert registered.announce(announced(other)).status_code == 409
    assert store.exists(layout.upload(KEY))


def encode_tiff_of_zeros() -> bytes:
    return encode_tiff(np.zeros((150, 151), np.uint8))


def test_a_complete_acquisition_is_known_by_an_aloha_that_lost_its_journal(
    start_aloha: Any,
    temdb: Register,
    tmp_path: Path,
    files: dict[str, bytes],
    announced: Announced,
) -> None:
    with start_aloha(register=temdb) as aloha:
        aloha.announce(announced(files))
        send_all(aloha, files)
        aloha.ask("POST", f"{KEY}/complete")
    shutil.rmtree(tmp_path / "aloha")
    with start_aloha() as aloha:  # its TEM DB is down: nobody has to be asked
        answer = aloha.announce(announced(files)).json()
        assert (answer["state"], len(answer["stored"])) == ("complete", 3)
        assert aloha.ask("POST", f"{KEY}/complete").json() == {"tiles": 3}


def test_an_aborted_acquisition_leaves_nothing_and_takes_nothing(
    registered: Any,
    temdb: Register,
    store: Store,
    tmp_path: Path,
    files: dict[str, bytes],
    announced: Announced,
) -> None:
    assert registered.ask("POST", f"{KEY}/abort").status_code == 404
    registered.announce(announced(files))
    first = next(iter(files))
    registered.send(first, files[first])
    for _ in range(2):
        answer = registered.ask("POST", f"{KEY}/abort", params={"reason": "enough"})
        assert answer.status_code == 200
    assert not store.exists(layout.uploaded_acquisition(KEY))
    run = temdb.run_of(KEY)
    assert run is not None
    assert (run.status, run.tile_count) == ("aborted", 0)
    assert registered.send(first, files[first]).status_code == 409
    answer = registered.announce(announced(files))
    assert answer.status_code == 409
    assert "was aborted" in answer.json()["detail"]
    assert registered.ask("POST", f"{KEY}/complete").status_code == 409


def test_an_abort_goes_on_when_the_tem_db_is_back(
    start_aloha: Any,
    temdb: Register,
    store: Store,
    files: dict[str, bytes],
    announced: Announced,
) -> None:
    first = next(iter(files))
    with start_aloha() as aloha:
        aloha.announce(announced(files))
        aloha.send(first, files[first])
        assert aloha.ask("POST", f"{KEY}/abort").status_code == 503
        assert aloha.send(first, files[first]).status_code == 409
    with start_aloha(register=temdb) as aloha:
        assert aloha.ask("GET", KEY).json()["state"] == "aborting"
        assert aloha.ask("POST", f"{KEY}/abort").status_code == 200
    run = temdb.run_of(KEY)
    assert run is not None
    assert run.status == "aborted"


def test_a_tile_that_is_finished_after_the_abort_is_removed(
    registered: Any,
    store: Store,
    files: dict[str, bytes],
    announced: Announced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered.announce(announced(files))
    first = next(iter(files))
    writing, aborted = threading.Event(), threading.Event()
    write = pyramids.write_pyramid

    def write_late(*args: Any, **more: Any) -> Any:
        writing.set()
        assert aborted.wait(60)
        return write(*args, **more)

    monkeypatch.setattr(pyramids, "write_pyramid", write_late)
    answers: list[Any] = []
    sender = threading.Thread(
        target=lambda: answers.append(registered.send(first, files[first]))
    )
    sender.start()
    assert writing.wait(60)
    url = f"{registered.url}/api/v1/acquisitions/{KEY}/abort"
    headers = dict(registered.session.headers)
    answer = requests.post(url, headers=headers, timeout=60)
    assert answer.status_code == 200
    aborted.set()
    sender.join()
    assert answers[0].status_code == 409
    assert not store.exists(layout.uploaded_tile(KEY, first))


def test_the_journal_keeps_what_is_stored_when_more_is_announced(
    tmp_path: Path, files: dict[str, bytes], announced: Announced
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    upload = announced(files)
    journal.announce(upload)
    first, second, _ = upload.tiles
    stored = {"uri": "file:///a", "measured": None}
    assert journal.note_stored(KEY, first.tile_id, first.sha256, **stored)
    assert not journal.note_stored(KEY, second.tile_id, "0" * 64, **stored)
    journal.announce(upload.model_copy(update={"tiles": (first, second)}))
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    rows = journal.tiles(KEY)
    assert [(row.tile_id, row.uri) for row in rows] == [
        (first.tile_id, "file:///a"),
        (second.tile_id, None),
    ]
    assert journal.state(KEY) is State.OPEN
    assert journal.pixel_nm(KEY) == 4.0
    journal.close()
