"""The camera saves what lies under the beam, once, where and when it was wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from TEM_comms.camera import Command
from TEM_comms.camera import Settings as Change
from TEM_comms.scope import Status as ScopeStatus
from TEM_comms.stage.motion import Status

from em_platform.config import AcquisitionSettings, Settings, SimulationSettings
from em_platform.errors import DeviceError
from em_platform.imaging.exposure import camera_gain
from em_platform.messaging.bus import Bus
from em_platform.model.truth import MontageTruth
from em_platform.simulation.devices.camera import Camera, check_stage
from em_platform.simulation.devices.optics import view
from em_platform.simulation.devices.scope import start_status
from em_platform.simulation.devices.sensor import Frame, Sensor
from em_platform.simulation.specimen import Tissue


def at(x: int, y: int, *, in_motion: bool = False) -> Status:
    return Status(x=x, y=y, in_motion=in_motion, calibrated=True)


def command(row: int = 0, column: int = 0, **fields: Any) -> Command:
    defaults = {
        "tile_id": f"m-1-20260101t000000_{row:03d}_{column:03d}",
        "montage_id": "m-1",
        "row": row,
        "column": column,
        "overlap": 8,
    }
    return Command(**{**defaults, **fields})


def frame(
    *,
    wanted: Command | None = None,
    scope: ScopeStatus | None = None,
    **simulation: Any,
) -> Frame:
    defaults = {"tile_px": 128, "electrons": 0, "jitter_px": 3.0}
    settings = SimulationSettings(**{**defaults, **simulation})
    sensor = Sensor(AcquisitionSettings(simulation=settings))
    sensor.stage, sensor.scope = at(4000, -8000), scope
    return sensor.frame(wanted or command())


def test_a_frame_shows_the_tissue_at_its_true_place() -> None:
    made = frame()
    truth = made.tile
    # the middle is at 4000 nm / 4 nm and the corner half a tile before it
    assert (truth.nominal_y_px, truth.nominal_x_px) == (-2000 - 64, 1000 - 64)
    light = view(Tissue(1), truth.placement, size=made.montage.size)
    gain = camera_gain(128, 128, **made.montage.gain.model_dump())
    assert np.abs(light * gain * truth.beam - made.image).max() <= 0.51


def test_the_stage_misses_within_the_jitter_and_the_truth_has_it() -> None:
    truth = frame(jitter_px=5.0).tile
    off = truth.placement.y_px - truth.nominal_y_px
    assert 0 < abs(off) <= 5.0


def test_another_section_lies_in_another_aperture() -> None:
    sensor = Sensor(AcquisitionSettings(simulation=SimulationSettings(tile_px=64)))
    sensor.stage = at(0, 0)
    frames = []
    for section in (1, 1, 200):
        sensor.section = section
        frames.append(sensor.frame(command()).image.astype(float))
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_a_sixteen_bit_camera_counts_finer() -> None:
    eight, sixteen = frame(bit_depth=8).image, frame(bit_depth=16).image
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 128.0 - eight).max() <= 0.51


def test_a_blank_tile_has_no_tissue_and_a_blurred_one_no_detail() -> None:
    plain = {"vignette": 0, "pattern": 0, "dust": 0}
    sharp = frame(**plain).image.std()
    assert frame(blank="0:0", **plain).image.std() < 0.1
    assert frame(blurred="0:0", blur_px=6, **plain).image.std() < 0.6 * sharp


def test_a_jumped_tile_lies_the_jump_away() -> None:
    truth = frame(jumped="0:0", jump_px=60, jitter_px=0).tile
    off_y = truth.placement.y_px - truth.nominal_y_px
    off_x = truth.placement.x_px - truth.nominal_x_px
    assert np.hypot(off_y, off_x) == pytest.approx(60)
    assert truth.faults == ("jumped",)


def test_a_closed_screen_gives_a_dark_frame_and_defocus_a_soft_one() -> None:
    status = start_status(2000)
    dark = frame(scope=status.model_copy(update={"screen": "down"}))
    assert dark.image.max() <= 2
    soft = frame(scope=status.model_copy(update={"focus": 300}), pattern=0).image
    assert soft.std() < 0.7 * frame(scope=status, pattern=0).image.std()


def test_a_lower_magnification_shows_more_of_the_specimen() -> None:
    status = start_status(1000)
    made = frame(scope=status)
    assert made.montage.pixel_nm == 8.0
    assert made.tile.nominal_x_px == 500 - 64


def test_a_longer_exposure_is_brighter_and_less_noisy() -> None:
    settings = SimulationSettings(tile_px=64, electrons=100, blank="0:0", pattern=0)
    sensor = Sensor(AcquisitionSettings(simulation=settings))
    sensor.stage = at(0, 0)
    sensor.change(Change(exposure=10_000.0))
    short = sensor.frame(command()).image.astype(float)
    sensor.change(Change(exposure=20_000.0))
    long = sensor.frame(command()).image.astype(float)
    assert long.mean() == pytest.approx(2 * short.mean(), rel=0.05)


def test_the_camera_takes_another_frame_size() -> None:
    sensor = Sensor(AcquisitionSettings())
    sensor.stage = at(0, 0)
    sensor.change(Change(width=96, height=80))
    assert sensor.frame(command()).image.shape == (80, 96)
    assert sensor.status()["width"] == 96


def made_by(**changes: Any) -> Sensor:
    """A camera over the middle of its aperture, without noise, jitter and drift."""
    settings = SimulationSettings(tile_px=128, electrons=0, jitter_px=0, drift=0)
    sensor = Sensor(AcquisitionSettings(simulation=settings))
    sensor.stage = at(0, 0)
    for name, value in changes.items():
        setattr(sensor, name, value)
    return sensor


def test_an_image_shift_shows_what_lies_beside() -> None:
    shifted = made_by(shift_nm=(400, -200)).frame(command())
    moved = made_by(stage=at(400, -200)).frame(command())
    assert np.array_equal(shifted.image, moved.image)
    assert shifted.tile.nominal_x_px == moved.tile.nominal_x_px - 100


def test_a_tilted_beam_shifts_an_image_that_is_out_of_focus() -> None:
    status = start_status(2000).model_copy(update={"beam_tilt": (100, 0)})
    sharp = made_by(scope=status).frame(command()).tile
    assert sharp.placement.x_px == sharp.nominal_x_px
    soft = made_by(scope=status.model_copy(update={"focus": 500})).frame(command()).tile
    assert soft.placement.x_px - soft.nominal_x_px == pytest.approx(5.0)


def test_without_a_sample_there_is_only_light() -> None:
    image = made_by(holds_sample=False).frame(command()).image
    assert image.mean() > 150
    assert image.std() < 0.15 * image.mean()


def test_low_magnification_shows_the_edge_of_the_aperture() -> None:
    status = start_status(2000).model_copy(update={"mag_mode": "LOWMAG", "mag": 100})
    middle = made_by(scope=status).frame(command()).image
    assert middle.min() > 50
    edge = made_by(scope=status, stage=at(1_000_000, 0)).frame(command()).image
    assert edge[:, :60].mean() > 100
    assert edge[:, 68:].mean() < 20
    outside = made_by(scope=status, stage=at(0, 900_000)).frame(command()).image
    assert outside.mean() < 20


def test_frames_of_no_montage_have_no_faults_and_noise_of_their_own() -> None:
    settings = SimulationSettings(tile_px=64, missing="0:0", jitter_px=9.0)
    sensor = Sensor(AcquisitionSettings(simulation=settings))
    sensor.stage = at(0, 0)
    one = sensor.frame(command(montage_id="", tile_id="a"))
    other = sensor.frame(command(montage_id="", tile_id="b"))
    assert one.tile.faults == ()
    assert one.tile.placement.x_px == one.tile.nominal_x_px
    assert not np.array_equal(one.image, other.image)
    assert np.array_equal(
        one.image, sensor.frame(command(montage_id="", tile_id="a")).image
    )


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (None, "has not reported its position"),
        (at(100, 200, in_motion=True), "the stage moves"),
        (at(100, 900), "the stage is at 100, 900 nm, the command says 100, 200"),
    ],
)
def test_it_does_not_expose_where_the_stage_is_not_at_rest_in_place(
    status: Status | None, sentence: str
) -> None:
    with pytest.raises(DeviceError, match=sentence):
        check_stage(status, command(stage_position=(100, 200)), section=1)


def test_a_frame_of_a_montage_needs_an_aperture() -> None:
    with pytest.raises(DeviceError, match="holds no aperture"):
        check_stage(at(0, 0), command(), section=None)
    check_stage(at(0, 0), command(montage_id=""), section=None)


@pytest.fixture
def camera(serve: Callable[..., Any], rig_settings: Settings) -> Camera:
    found: Camera = serve(Camera, rig_settings, tick_s=0.1)
    return found


def ask(client: Bus, wanted: Command) -> None:
    mark = client.mark()
    client.publish("camera.command", **wanted.model_dump())
    client.wait_for(
        "camera.image", lambda i: i.tile_id == wanted.tile_id, 10.0, since=mark
    )


def client_at(open_bus: Callable[[str], Bus], x: int, y: int) -> Bus:
    client = open_bus("client")
    client.latest("camera.image")
    client.publish("stage.motion.status", **at(x, y).model_dump())
    client.publish("stage.aperture.status", current_aperture=1, calibrated=True)
    return client


def test_the_same_command_twice_gives_the_same_file(
    camera: Camera, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = client_at(open_bus, 0, 0)
    wanted = command(0, 1)
    ask(client, wanted)
    path = rig_settings.home / "frames" / "m-1" / f"{wanted.tile_id}.tiff"
    first, changed_at = path.read_bytes(), path.stat().st_mtime_ns
    assert tifffile.imread(path).shape == (64, 64)
    ask(client, wanted)
    assert path.stat().st_mtime_ns == changed_at
    path.unlink()
    ask(client, wanted)
    assert path.read_bytes() == first


def test_the_truth_lies_beside_the_frames(
    camera: Camera, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = client_at(open_bus, 400, 800)
    for column in (0, 1):
        ask(client, command(1, column))
    folder = rig_settings.home / "frames" / "m-1"
    content = (folder / "m-1-20260101t000000.truth.json").read_bytes()
    truth = MontageTruth.model_validate_json(content)
    assert truth.acquisition_id == "m-1-20260101t000000"
    assert sorted(truth.tiles) == [command(1, c).tile_id for c in (0, 1)]
    assert {tile.nominal_y_px for tile in truth.tiles.values()} == {200 - 32}


def test_a_missing_tile_is_said_and_not_saved(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    simulation = rig_settings.acquisition.simulation.model_copy(
        update={"missing": "1:1"}
    )
    acquisition = rig_settings.acquisition.model_copy(update={"simulation": simulation})
    serve(Camera, rig_settings.model_copy(update={"acquisition": acquisition}))
    client = client_at(open_bus, 0, 0)
    ask(client, command(1, 1))
    saved = list((rig_settings.home / "frames" / "m-1").glob("*.tiff"))
    assert saved == []


def test_an_id_that_leads_out_of_the_folder_saves_nothing(
    camera: Camera, open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = client_at(open_bus, 0, 0)
    bad = command(tile_id="../../escaped")
    client.publish("camera.command", **bad.model_dump())
    ask(client, command(0, 0))
    assert not list(Path(rig_settings.home).rglob("escaped*"))


def test_it_says_its_state_each_second(
    camera: Camera, open_bus: Callable[[str], Bus]
) -> None:
    client = open_bus("client")
    status = client.wait_for("camera.status", lambda _: True, 20.0)
    assert (status.width, status.height, status.bit_depth) == (64, 64, 8)
    assert status.exposure == 5000.0  # microseconds
