"""Simulated frames through the real pipeline: fitted places, maps, doubts, lens."""

import base64
import json
import random
import time

import cv2
import numpy as np
import pytest

from em_platform.acquisition.montage_fit.growing import as_montage, tile_matches
from em_platform.acquisition.montage_fit.remeasure import field_scale
from em_platform.config import SolveSettings
from em_platform.imaging.lens import lens_field
from em_platform.model import LensModel, Size
from em_platform.stitching.solve import solve_montage

pytestmark = pytest.mark.timeout(300)

TILE_TOPICS = (
    "tile.raw",
    "tile.mini",
    "tile.statistics.focus",
    "tile.matches",
)
MAPS, STATUS, LENS = "montage.minimaps", "qc.status", "lens_correction.transform"


def decoded(text: str, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), flag)


@pytest.fixture
def published(settings, image, live_pipeline, received, open_bus, tmp_path):
    """What the pipeline says about a simulated montage, and its truth."""

    def run(settings=settings, **more):
        imaged = image(settings, **more)
        listener = received(*TILE_TOPICS)
        with live_pipeline(settings, tmp_path):
            bus = open_bus("coordinator")
            for raw in imaged.raws:
                bus.publish("tile.raw", **raw)
            for topic in TILE_TOPICS:
                listener.wait(topic, len(imaged.raws))
        bodies = [
            (topic, message.model_dump(mode="json"))
            for topic, message in listener.published
        ]
        return imaged, bodies

    return run


def places(service, size: Size, model: str = "translation"):
    (growing,) = service.growing.values()
    montage = as_montage(growing, size)
    matches = tile_matches(growing, montage)
    fit = solve_montage(montage, matches, settings=SolveSettings(model=model))
    return {p.tile_id: (p.y_px, p.x_px) for p in fit.placements}, matches


def test_a_good_montage_is_fitted_as_it_truly_lies_and_drawn(
    settings, published, live_fit, received, open_bus, away_px
) -> None:
    imaged, bodies = published()
    listener = received(MAPS, STATUS)
    with live_fit(settings) as service:
        bus = open_bus("coordinator-2")
        for topic, body in random.Random(1).sample(bodies * 2, 2 * len(bodies)):
            bus.publish(topic, **body)
        bus.flush()
        growing_map = listener.wait(MAPS)[0]
        bus.publish("montage.complete", **imaged.complete)
        while not all(g.is_done for g in service.growing.values()):
            time.sleep(0.05)
        found, matches = places(service, Size(height_px=384, width_px=384))
    assert len(matches) == 12
    assert away_px(found, imaged.truth) < 0.15
    assert listener.of(STATUS) == []
    assert growing_map.montage_id == "m"
    last = listener.of(MAPS)[-1]
    picture = decoded(last.montage.image, cv2.IMREAD_GRAYSCALE)
    assert max(picture.shape) <= settings.acquisition.montage_fit.minimap_px
    assert picture.std() > 10
    focus = decoded(last.focus.image)
    assert focus.shape[0] == focus.shape[1]
    values = [b["focus"] for t, b in bodies if t == "tile.statistics.focus"]
    assert last.focus.min == pytest.approx(min(values))
    assert last.focus.max == pytest.approx(max(values))
    assert decoded(last.focus.colorbar).shape[:2] == (16, 256)


def test_a_message_that_names_another_file_counts_for_nothing(
    settings, image, live_fit, open_bus, tmp_path
) -> None:
    """round3 4.3, of the bus: its picture would have come onto the operator's page."""
    own, next_ = image(settings).raws[:2]
    (tmp_path / "other.tiff").touch()
    with live_fit(settings) as service:
        bus = open_bus("coordinator-2")
        for raw in (own, own | {"path": str(tmp_path / "other.tiff")}, next_):
            bus.publish("tile.raw", **raw)
        bus.flush()
        while not any(len(each.tiles) == 2 for each in service.growing.values()):
            time.sleep(0.05)
        (growing,) = service.growing.values()
        assert growing.tiles[own["tile_id"]].path == own["path"]


def test_a_tile_that_jumped_opens_seams_and_stops_at_the_end(
    settings, changed, published, live_fit, received, open_bus
) -> None:
    settings = changed(
        settings,
        {
            "acquisition.simulation.jumped": "1:1",
            "acquisition.simulation.jump_px": 90.0,
            "stitching.match.search_px": 30,
        },
    )
    imaged, bodies = published(settings)
    listener = received(STATUS)
    with live_fit(settings):
        bus = open_bus("coordinator-2")
        for topic, body in bodies:
            bus.publish(topic, **body)
        bus.publish("montage.complete", **imaged.complete)
        (stop,) = listener.wait(STATUS)
        time.sleep(1.0)
    assert listener.of(STATUS) == [stop]
    assert stop.status == "STOP_AT_END"
    assert stop.reason.startswith("Montage m-1: ")
    assert "m-1_001_001" in stop.reason


def test_what_was_not_heard_is_measured_from_the_frames(
    settings, published, live_fit, received, open_bus
) -> None:
    imaged, bodies = published()
    missed = {"m-1_001_001", "m-1_002_000"}
    listener = received(STATUS, MAPS)
    with live_fit(settings) as service:
        bus = open_bus("coordinator-2")
        for topic, body in bodies:
            if body["tile_id"] not in missed:
                bus.publish(topic, **body)
        bus.publish("montage.complete", **imaged.complete)
        while not any(g.is_done for g in service.growing.values()):
            time.sleep(0.05)
        (growing,) = service.growing.values()
    assert listener.of(STATUS) == []
    assert all(tile.mini and tile.focus is not None for tile in growing.tiles.values())
    focus = {b["tile_id"]: b["focus"] for t, b in bodies if "focus" in t}
    for tile_id in missed:
        assert growing.tiles[tile_id].focus == 1.0 - focus[tile_id]


def test_a_restart_goes_on_with_the_montage_even_if_its_end_was_missed(
    settings, published, live_fit, live_recorder, received, open_bus, tmp_path, away_px
) -> None:
    imaged, bodies = published()
    listener = received(MAPS)
    bus = open_bus("coordinator-2")
    with live_recorder(settings), live_fit(settings):
        for topic, body in bodies[: len(bodies) // 2]:
            bus.publish(topic, **body)
        listener.wait(MAPS)
    beside = tmp_path / "frames" / "m" / "m-1.complete.json"
    beside.write_text(json.dumps(imaged.complete))
    with live_recorder(settings), live_fit(settings) as service:
        for topic, body in bodies[len(bodies) // 2 :]:
            bus.publish(topic, **body)
        while not any(g.is_done for g in service.growing.values()):
            time.sleep(0.05)
        found, _ = places(service, Size(height_px=384, width_px=384))
    assert away_px(found, imaged.truth) < 0.15
    count = len(listener.of(MAPS))
    with live_fit(settings):  # what is done stays done
        time.sleep(1.5)
    assert len(listener.of(MAPS)) == count


def test_the_lens_is_measured_as_it_truly_is(
    settings, changed, image, live_fit, received, open_bus
) -> None:
    settings = changed(
        settings,
        {
            "acquisition.overlap": 0.6,
            "acquisition.simulation.tile_px": 768,
            "acquisition.simulation.lens_px": 6.0,
        },
    )
    imaged = image(settings, is_lens=True)
    listener = received(LENS, STATUS)
    with live_fit(settings):
        bus = open_bus("coordinator-2")
        for raw in imaged.raws:
            bus.publish("tile.raw", **raw)
        bus.publish("montage.complete", **imaged.complete)
        (answer,) = listener.wait(LENS, timeout_s=200)
    assert listener.of(STATUS) == []
    assert answer.ok
    assert answer.montage_id == "m"
    assert answer.residual_mean_px <= 0.2
    assert answer.residual_std_px <= 2.0
    assert answer.n_matches > 1000
    found = LensModel.model_validate_json(base64.b64decode(answer.transform))
    assert found.points == answer.n_matches
    assert abs(field_scale(found) - 1.0) < 0.1
    # Shift, turn, scale and shear cannot be found from the tiles: compare without; and
    # only where the middles of patches can lie. The true field reaches 16.6 px.
    y, x = np.mgrid[100:668:9j, 100:668:9j]
    off = np.stack(lens_field(found, y, x)) - np.stack(lens_field(imaged.lens, y, x))
    plane = np.stack([np.ones(81), y.ravel(), x.ravel()], axis=1)
    flat = off.reshape(2, -1).T
    left = flat - plane @ np.linalg.lstsq(plane, flat)[0]
    assert np.abs(left).max() < 0.4


def test_a_lens_that_cannot_be_measured_stops_at_the_end_after_the_last_try(
    settings, changed, image, live_fit, received, open_bus
) -> None:
    settings = changed(
        settings,
        {
            "acquisition.overlap": 0.6,
            "acquisition.simulation.blank": "9",
            "acquisition.coordinator.lens_tries": 2,
        },
    )
    listener = received(LENS, STATUS)
    with live_fit(settings):
        bus = open_bus("coordinator-2")
        for number, acquisition_id in enumerate(("m-1", "m-2"), 1):
            imaged = image(settings, acquisition_id, is_lens=True)
            for raw in imaged.raws:
                bus.publish("tile.raw", **raw)
            bus.publish("montage.complete", **imaged.complete)
            answer = listener.wait(LENS, number)[-1]
            assert not answer.ok
            assert answer.transform == ""
            time.sleep(0.3)
            assert len(listener.of(STATUS)) == number - 1
    (stop,) = listener.of(STATUS)
    assert stop.status == "STOP_AT_END"
    assert stop.reason.startswith("The lens was not measured, 2 times in a row: ")
