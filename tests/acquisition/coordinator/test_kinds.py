"""Tilt series, surveys, calibrations and lens montages."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from em_platform.acquisition.machines.requests import CLOSE_NM
from em_platform.config import Settings

SETUP = {"enabled": True, "center": {"x": 3000.0, "y": -2000.0}}


def transform(operator: Any, montage_id: str, **fields: Any) -> None:
    operator.publish(
        "lens_correction.transform", montage_id=montage_id, transform="", **fields
    )


def test_a_tilt_series_is_imaged_at_each_angle(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    angles = [-20.0, 0.0, 20.0]
    operator.queue("t-1", 1, 2, acquisition_type="tilt_series", tilt_angles=angles)
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait_montage("completed", "m-2")
    done = [m for m in operator.all("montage.complete") if m.montage_id == "t-1"]
    assert [m.tilt_angle for m in done] == angles
    assert [(m.tilt_index, m.tilt_total) for m in done] == [(0, 3), (1, 3), (2, 3)]
    assert len({m.tilt_series_id for m in done}) == 1
    assert len({m.acquisition_id for m in done}) == 3
    raws = [r for r in operator.all("tile.raw") if r.montage_id == "t-1"]
    assert [r.tilt_angle for r in raws] == [-20.0, -20.0, 0.0, 0.0, 20.0, 20.0]
    assert len({r.tile_id for r in raws}) == 6
    tilted = [c.angle_x for c in operator.all("stage.rotation.command")]
    wanted = [*map(math.radians, angles), 0.0]  # level again for the next region
    assert tilted == pytest.approx(wanted)
    statuses = [
        m for m in operator.all("montage.status") if m.state.value == "completed"
    ]
    assert [m.tilt_index for m in statuses] == [0, 1, 2, None]
    assert operator.statuses("t-1") == ["pending", "active", "complete"]


def test_a_tilt_series_that_stops_at_the_end_goes_on_with_the_next_angle(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("t-1", 2, 2, acquisition_type="tilt_series", tilt_angles=[0.0, 5.0])
    operator.run("start")
    operator.wait("montage.status", lambda m: m.current_tile >= 1)
    operator.run("abort_at_end")
    operator.wait_montage("completed")
    operator.wait_state("Preview", since=operator.mark())
    assert operator.statuses("t-1")[-1] == "paused"
    operator.run("start")
    operator.wait("montage.complete", lambda m: m.tilt_index == 1)
    assert len(operator.all("tile.raw")) == 8


def test_a_survey_is_imaged_at_its_low_magnification(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start(survey_magnification=500)
    # four times the length of a pixel: 3 x 3 tiles at 2000 are one at 500
    operator.queue("s-1", 3, 3, acquisition_type="survey")
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait_montage("completed", "m-2")
    survey, montage = operator.all("montage.complete")
    assert survey.pixel_size == pytest.approx(16.0)
    assert len(survey.tiles) == 1
    assert montage.pixel_size == pytest.approx(4.0)
    modes = [(m.mag_mode, m.mag) for m in operator.all("scope.command") if m.mag]
    assert modes[-2:] == [("LOWMAG", 500), ("MAG", 2000)]


def test_calibrations_are_done_before_the_montage_in_their_order(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start()
    wanted = {"dark_field": True, "bright_field": True}
    operator.queue("m-1", 1, 1, calibrations=wanted)
    operator.run("start")
    operator.wait_montage("completed", "m-1")
    states = [m.state for m in operator.all("state.current")]
    begun = [
        next(n for n, s in enumerate(states) if s.startswith(f"Acquisition_{name}"))
        for name in ("Brightfield", "Darkfield", "Montage")
    ]
    assert begun == sorted(begun)
    for name in ("bright.tiff", "dark.tiff"):
        assert (settings.home / "frames" / "m-1" / name).is_file()


def test_an_unknown_calibration_is_refused(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.queue("m-1", 1, 1, calibrations={"characterize_tilt_focus": True})
    found = operator.wait("roi.status", lambda m: m.montage_id == "m-1")
    assert found.status == "failed"
    assert "characterize_tilt_focus" in found.error_message


def test_a_routine_is_run_from_the_preview(
    operator: Any, start: Callable[..., Any], settings: Settings
) -> None:
    start()
    operator.publish("ui.setup", dark_field=True)
    operator.wait_state("Preview_Darkfield")
    operator.wait(
        "state.current",
        lambda m: m.state == "Preview_UpdateImage_Wait",
        since=operator.mark(),
    )
    assert (settings.home / "frames" / "references" / "dark.tiff").is_file()


def test_a_lens_montage_is_imaged_between_regions(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.publish("lens_correction.setup", **SETUP, every_n_rois=2, tiles_x=2)
    for number in range(1, 5):
        operator.queue(f"m-{number}", 1, 1)
    operator.run("start")
    operator.wait_state("Acquisition_LensCorrection_AwaitTransform")
    lens = operator.all("roi.current")[-1]
    assert lens.acquisition_type.value == "lens_correction"
    transform(operator, "another")
    transform(operator, lens.montage_id)
    operator.wait_montage("completed", "m-4")
    order = [m.montage_id for m in operator.all("montage.complete")]
    assert order == ["m-1", "m-2", lens.montage_id, "m-3", "m-4"]
    raws = [r for r in operator.all("tile.raw") if r.lens_correction]
    assert {r.montage_id for r in raws} == {lens.montage_id}
    assert len(raws) == 6  # 3 rows (default) of 2
    assert raws[0].overlap == round(0.6 * 64)
    x = sum(r.stage_position[0] for r in raws) / 6
    y = sum(r.stage_position[1] for r in raws) / 6
    # The rows are 104 nm apart, and the stage counts as arrived within CLOSE_NM.
    assert (x, y) == pytest.approx((3000, -2000), abs=CLOSE_NM)


def test_a_bad_lens_is_imaged_again_and_then_the_session_stops(
    operator: Any, start: Callable[..., Any]
) -> None:
    start(lens_tries=2)
    operator.queue("m-1", 1, 1, calibrations={"lens_correction": True})
    operator.run("start")
    tried: list[str] = []
    for _ in range(2):
        done = operator.wait(
            "montage.complete", lambda m: m.montage_id not in (*tried, "m-1")
        )
        tried.append(done.montage_id)
        operator.wait_state("AwaitTransform", since=operator.mark())
        transform(operator, tried[-1], ok=False, residual_mean_px=3.5, n_matches=12)
    operator.wait_state("Acquisition_LensCorrection_Failure")
    failed = operator.wait_montage("error")
    assert "3.50" in failed.error_message
    assert "12 matches" in failed.error_message
    assert operator.statuses("m-1")[-1] == "failed"
    operator.run("retry")
    done = operator.wait(
        "montage.complete", lambda m: m.montage_id not in (*tried, "m-1")
    )
    operator.wait_state("AwaitTransform", since=operator.mark())
    transform(operator, done.montage_id)
    operator.wait_montage("completed", "m-1")


def test_a_transform_that_does_not_come_has_its_time_limit(
    operator: Any, start: Callable[..., Any]
) -> None:
    start(lens_tries=1, lens_timeout_s=0.5)
    operator.queue("l-1", 2, 2, acquisition_type="lens_correction")
    operator.run("start")
    failed = operator.wait_montage("error")
    assert "no lens_correction.transform of l-1 came within 0.5 s" in (
        failed.error_message
    )


def test_a_region_of_the_type_lens_correction_is_done_with_its_transform(
    operator: Any, start: Callable[..., Any]
) -> None:
    start(lens_timeout_s=30.0)
    operator.queue("l-1", acquisition_type="lens_correction", vertices=[])
    operator.queue("m-2", 1, 1)
    operator.run("start")
    operator.wait_state("AwaitTransform")
    assert len(operator.all("tile.raw")) == 9
    transform(operator, "l-1")
    operator.wait_montage("completed", "m-2")
    assert operator.statuses("l-1") == ["pending", "active", "complete"]


def test_the_lens_is_imaged_every_so_many_tilt_steps(
    operator: Any, start: Callable[..., Any]
) -> None:
    start(lens_timeout_s=30.0)
    operator.publish("lens_correction.setup", **SETUP, every_n_tilt_steps=2, tiles_y=1)
    operator.queue(
        "t-1", 1, 1, acquisition_type="tilt_series", tilt_angles=[0.0, 1.0, 2.0]
    )
    operator.run("start")
    operator.wait_state("AwaitTransform")
    lens = operator.all("montage.complete")[-1]
    assert lens.montage_id.startswith("t-1-lens-")
    transform(operator, lens.montage_id)
    operator.wait("montage.complete", lambda m: m.tilt_index == 2)
    order = [m.tilt_index for m in operator.all("montage.complete")]
    assert order == [0, 1, None, 2]


def test_a_lens_montage_from_the_preview_needs_no_region(
    operator: Any, start: Callable[..., Any]
) -> None:
    start(lens_timeout_s=30.0)
    operator.publish("stage.aperture.command", aperture_id=3)
    operator.wait("camera.status", lambda _: True, since=operator.mark())
    operator.publish("ui.setup", lens_correction=True)
    operator.wait_state("Preview_LensCorrection_AwaitTransform")
    transform(operator, operator.all("montage.complete")[0].montage_id)
    operator.wait("state.change", lambda m: m.new == "Preview_UpdateImage_Wait")


def test_calibrated_pixels_are_used_for_the_next_region(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    scale = {"nm_per_px": [4.1, 4.1], "rotation": 0.01}
    operator.publish("calibration.resolution", lowmag={}, mag={2000: scale})
    operator.publish("calibration.centroid", aperture_id=1, x=70, y=-80)
    operator.queue("m-1", 1, 2)
    operator.run("start")
    operator.wait_montage("completed", "m-1")
    done = operator.all("montage.complete")[0]
    assert done.pixel_size == pytest.approx(4.1)
    assert done.rotation_angle == pytest.approx(0.01)
    assert tuple(done.aperture_centroid) == (70, -80)
    assert len(done.tiles) == 2
