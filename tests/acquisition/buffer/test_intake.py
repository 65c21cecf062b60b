"""What is received is in the journal, once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.buffer.assembling import (
    EndedAcquisition,
    cancelled_upload,
    complete_upload,
)
from em_platform.acquisition.buffer.intake import Intake, Reader
from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.recorder.events import Message
from em_platform.config import AcquisitionSettings
from em_platform.errors import RecordError
from em_platform.model import AcquisitionUpload
from tests.messages import CAMERA

Hear = Callable[..., None]


def known(journal: Journal, acquisition_id: str) -> EndedAcquisition:
    montage = journal.montage(acquisition_id)
    assert montage is not None
    return EndedAcquisition(
        montage=montage,
        tiles=journal.tiles(acquisition_id),
        notes=journal.notes(acquisition_id),
        roi=journal.roi(montage.montage_id),
        instrument=journal.instrument(montage.montage_id),
    )


def upload_of(journal: Journal, acquisition_id: str) -> AcquisitionUpload:
    Reader(journal).tick()
    return complete_upload(known(journal, acquisition_id), AcquisitionSettings())


def test_all_that_was_said_of_a_montage_is_in_its_announcement(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    hear("camera.status", **CAMERA)
    hear("scope.status", **imaged.SCOPE)
    hear(
        "roi.current",
        montage_id="m1",
        vertices=[{"x": 1, "y": 2}],
        rotation_angle=0.1,
        specimen_id="S1",
        section_id="sec",
        aperture_id=5,
        metadata={"replaces_acquisition_id": "old", "more": [1]},
        acquisition_type="lens_correction",
    )
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=3)
    montage.image(hear)
    montage.process(hear)
    hear("scope.status", **{**imaged.SCOPE, "mag": 50, "mag_mode": "LOWMAG"})
    montage.complete(lambda topic, **f: hear(topic, sent_at="5000", **f))

    upload = upload_of(journal, montage.acquisition_id)
    assert upload.kind == "lens_correction"
    assert (upload.specimen_id, upload.section_id, upload.aperture_id) == (
        "S1",
        "sec",
        5,
    )
    assert upload.replaces_acquisition_id == "old"
    assert upload.roi["metadata"]["more"] == [1]
    assert (upload.pixel_nm, upload.rotation_rad, upload.overlap_px) == (4.0, 0.5, 8)
    assert (upload.aperture_centroid_x_nm, upload.aperture_centroid_y_nm) == (7, 8)
    assert (upload.tile_size.height_px, upload.bit_depth) == (96, 8)
    assert upload.ended_at is not None
    assert upload.ended_at.timestamp() == 5.0
    instrument = upload.instrument
    assert (instrument.camera_model, instrument.camera_serial) == ("CB500", "12345")
    assert (instrument.exposure_us, instrument.magnification) == (50_000.0, 2500)
    assert [tile.tile_id for tile in upload.tiles] == montage.tile_ids
    second = upload.tiles[1]
    assert (second.raster_index, second.column, second.stage_x_nm) == (1, 1, 4000)
    assert second.statistics is not None
    assert second.statistics.focus_score == 0.25  # 1 - 0.75: higher is sharper
    assert (second.statistics.minimum, second.statistics.mean) == (1, 128)
    assert second.passed is False
    assert upload.tiles[0].passed is True
    (match,) = second.matches
    assert (match.dx_px, match.dy_px, match.position) == (-1.5, 0.5, "left")
    assert match.tile_points == ((1.0, 4.0), (2.0, 5.0))
    assert match.neighbour_points == ((3.0, 88.0), (4.0, 89.0))
    assert upload.failures == ()


def test_saying_it_twice_changes_nothing(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    for _ in range(2):
        montage.image(hear)
        montage.process(hear)
        montage.complete(hear)
    first = upload_of(journal, montage.acquisition_id)
    journal.note_sent(montage.tile_ids)
    montage.image(hear)
    montage.complete(hear)
    assert {tile.state for tile in journal.tiles(montage.acquisition_id)} == {"sent"}
    assert upload_of(journal, montage.acquisition_id) == first
    assert journal.queue_length() == 0


def test_what_is_said_before_the_frame_is_kept(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    montage.process(hear)
    montage.complete(hear)
    montage.image(hear)
    upload = upload_of(journal, montage.acquisition_id)
    assert all(tile.statistics for tile in upload.tiles)


def test_a_frame_for_the_operators_screen_is_not_noted(
    journal: Journal, hear: Hear
) -> None:
    tile = {"tile_id": "x", "montage_id": "", "row": 0, "column": 0, "overlap": 0}
    hear("tile.raw", **tile, path="/nowhere.tiff")
    hear("tile.statistics.focus", **tile, focus=0.5)
    assert journal.tile_ids("") == set()
    assert journal.queue_length() == 0


def test_frames_that_lack_are_failures_and_the_rest_is_announced(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=4)
    first, second, third, fourth = montage.tile_ids
    for tile_id in (first, second, third):
        montage.image_tile(tile_id, hear)
    montage.path(second).unlink()
    montage.path(third).write_bytes(b"no image")
    montage.complete(hear)
    upload = upload_of(journal, montage.acquisition_id)
    assert [tile.tile_id for tile in upload.tiles] == [first]
    sentences = {failure.item: failure.sentence for failure in upload.failures}
    assert sentences.keys() == {second, third, fourth}
    assert "no such file" in sentences[second]
    assert "expected TIFF" in sentences[third]
    assert "no frame of it was saved" in sentences[fourth]


def test_tiles_of_another_microscopes_names_are_found_by_the_completion(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    montage.tile_ids = ["69005602-15b0", "77005602-15b1"]
    montage.image(hear)
    montage.complete(hear)
    upload = upload_of(journal, montage.acquisition_id)
    assert len(upload.tiles) == 2


def cancel(hear: Hear, montage_id: str, **more: Any) -> None:
    hear("montage.status", montage_id=montage_id, state="cancelled", **more)


def test_only_a_cancelled_montage_is_given_up(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    failed = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    stopped = imaged.ImagedMontage(tmp_path / "frames", "m2", tiles=2)
    failed.image(hear)
    stopped.image(hear)
    for state in ("started", "in_progress", "paused", "resumed", "error"):
        for montage_id in ("m1", "m2"):
            hear("montage.status", montage_id=montage_id, state=state)
    assert journal.open_ids() == []
    cancel(hear, "m2", error_message="the operator pressed cancel")
    (key,) = journal.open_ids()
    montage = journal.montage(key)
    assert montage.is_cancelled
    assert montage.acquisition_id == stopped.acquisition_id
    assert montage.body["reason"] == "the operator pressed cancel"
    assert journal.queue_length() == 2  # those of m1, which may be retried
    Reader(journal).tick()
    upload = cancelled_upload(
        known(journal, montage.acquisition_id), AcquisitionSettings()
    )
    assert upload.tiles == ()
    assert upload.tile_size.width_px == 96


def test_an_old_cancellation_does_not_touch_the_next_try(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    first = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=1)
    first.image(lambda topic, **f: hear(topic, sent_at="1000", **f))
    cancel(hear, "m1", sent_at="2000")
    again = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=1)
    again.acquisition_id = "m1-again"
    again.tile_ids = ["m1-again_000_000"]
    again.image(lambda topic, **f: hear(topic, sent_at="3000", **f))
    cancel(hear, "m1", sent_at="2000")  # delivered once more
    assert journal.open_ids() == [first.acquisition_id]
    again.complete(hear)
    assert [journal.montage(key).is_cancelled for key in journal.open_ids()] == [
        True,
        False,
    ]


def test_a_completed_montage_cannot_be_cancelled(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=1)
    montage.image(hear)
    montage.complete(hear)
    cancel(hear, "m1", sent_at="9000")
    assert [journal.montage(key).is_cancelled for key in journal.open_ids()] == [False]


def test_a_montage_that_contradicts_itself_is_reported(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    montage.image(hear)
    place = {"raster_index": 3, "stage_position": (0, 0), "raster_position": (0, 0)}

    def with_one_place(topic: str, **fields: Any) -> None:
        hear(topic, **{**fields, "tiles": dict.fromkeys(montage.tile_ids, place)})

    montage.complete(with_one_place)
    with pytest.raises(RecordError, match="raster_index 3 stands twice"):
        upload_of(journal, montage.acquisition_id)


def test_a_message_that_cannot_be_noted_is_left_out_and_the_others_are_noted(
    journal: Journal, imaged: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=2)
    messages: list[Message] = []
    montage.image(lambda topic, **body: messages.append(Message(topic, body, {})))
    # As no receiver lets it through: half a character is no Unicode.
    bad = {**montage.fields(montage.tile_ids[0]), "tile_id": "\ud800"}
    messages.insert(1, Message("qc.tile", bad, {}))
    Intake(journal, tmp_path / "frames").note(messages)
    assert journal.tile_ids("m1") == set(montage.tile_ids)
    assert "qc.tile (tile '\\ud800', montage m1) is left out" in caplog.text


def test_a_time_that_no_clock_shows_counts_as_none(
    journal: Journal, hear: Hear, imaged: Any, tmp_path: Path
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=1)
    began = time.time()
    for sent_at in ("9" * 400, "²", "9" * 15):
        hear("montage.status", montage_id="m1", state="cancelled", sent_at=sent_at)
    montage.image(lambda topic, **fields: hear(topic, sent_at="9" * 400, **fields))
    (tile,) = journal.tiles(montage.acquisition_id)
    assert began <= tile.sent_at <= time.time()
