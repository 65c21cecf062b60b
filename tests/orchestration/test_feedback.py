"""What Dagster says to the microscope, over a real broker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from em_platform.acquisition.roi import stops_of
from em_platform.config import BrokerSettings, load_settings
from em_platform.definitions import defs
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload, Size
from em_platform.partitions import montages
from em_platform.temdb.register import Register
from tests.messages import repeated
from tests.uploads import new_upload

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

KEY = "m-1-t1"
ImageMontage = Callable[..., Path]


@pytest.fixture
def bus(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    """A connection to the broker that the settings name."""
    with Broker(BrokerSettings(port=0)) as broker:
        monkeypatch.setenv("EM_BROKER__PORT", str(broker.port))
        with Bus(load_settings().broker, "test") as bus:
            bus.connect(20)
            yield bus


class Coordinator:
    """Takes regions into a queue and says so, as the real one does."""

    def __init__(self, bus: Bus) -> None:
        self.regions: list[Any] = []
        self._bus = bus
        bus.subscribe("roi.create", self._take)

    def _take(self, region: Any, _: Any) -> None:
        self.regions.append(region)
        self.publish_queue()

    def publish_queue(self) -> None:
        """As it does each two seconds."""
        now = int(time.time())
        entries = [
            {"montage_id": r.montage_id, "status": "pending", "timestamp": now}
            for r in self.regions
        ]
        self._bus.publish(
            "roi.queue.status", queue=entries, completed_count=0, timestamp=now
        )


def process(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions(str(montages.name), [KEY])
    return defs.resolve_job_def("process_tiles").execute_in_process(
        partition_key=KEY, instance=instance, raise_on_error=False
    )


def image_again(
    instance: dg.DagsterInstance, **config: Any
) -> dg.ExecuteInProcessResult:
    given = {"config": {"acquisition_id": KEY, **config}}
    return defs.resolve_job_def("image_again").execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {"ask_again": given}},
    )


def test_a_failed_check_of_a_fresh_montage_stops_the_scope_at_the_end(
    instance: dg.DagsterInstance, image_montage: ImageMontage, bus: Bus
) -> None:
    folder = image_montage("m-1")
    frame = next(folder.glob("*.tiff"))
    frame.write_bytes(frame.read_bytes()[:500])
    bus.latest("qc.status")
    result = process(instance)
    assert result.success
    status = bus.wait_for("qc.status", lambda _: True, 20)
    assert status.status == "STOP_AT_END"
    assert KEY in status.reason
    assert "montage_is_complete" in status.reason


def test_a_good_montage_stops_nothing(
    instance: dg.DagsterInstance, image_montage: ImageMontage, bus: Bus
) -> None:
    image_montage("m-1")
    received: list[Any] = []
    bus.subscribe("qc.status", lambda message, _: received.append(message))
    assert process(instance).success
    time.sleep(1)
    assert received == []


def test_a_failed_check_without_a_broker_does_not_fail_the_run(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_BROKER__PORT", str(free_port()))
    folder = image_montage("m-1")
    next(folder.glob("*.tiff")).unlink()
    result = process(instance)
    assert result.success
    found = result.get_asset_check_evaluations()
    assert "montage_is_complete" in {c.check_name for c in found if not c.passed}


def test_a_montage_is_imaged_again_as_a_task_that_supersedes_its_own(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Callable[[Path], AcquisitionUpload],
    temdb: Register,
    bus: Bus,
) -> None:
    upload(image_montage("m-1"))
    coordinator = Coordinator(bus)
    result = image_again(instance)
    assert result.success
    assert result.output_for_node("ask_again") == "m-1-r2"
    [region] = coordinator.regions
    assert (region.montage_id, region.aperture_id, region.overlap) == ("m-1-r2", 7, 25)
    assert [(v.x, v.y) for v in region.vertices] == [(0, 0), (900, 0), (900, 9)]
    assert region.rotation_angle == pytest.approx(0.1)
    assert region.metadata == {
        "note": "first",
        "task_id": "m-1-r2",
        "replaces_acquisition_id": KEY,
    }
    assert dict(temdb.task_counts()) == {"pending": 1}


def test_asked_twice_a_montage_is_imaged_once(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Callable[[Path], AcquisitionUpload],
    bus: Bus,
) -> None:
    upload(image_montage("m-1"))
    coordinator = Coordinator(bus)
    assert image_again(instance).success
    with repeated(coordinator.publish_queue, 0.5):
        assert image_again(instance).success
    assert len(coordinator.regions) == 1


def test_a_region_that_no_coordinator_takes_is_reported(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Callable[[Path], AcquisitionUpload],
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.acquisition.session.reimage._TAKEN_S", 0.5)
    monkeypatch.setattr("em_platform.acquisition.session.reimage._LOOK_S", 0.5)
    monkeypatch.setattr("em_platform.assets.checks._PAUSES_S", ())
    upload(image_montage("m-1"))
    result = image_again(instance)
    assert not result.success


def test_without_an_upload_the_aperture_must_be_said(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    temdb: Register,
    bus: Bus,
) -> None:
    image_montage("m-1")
    temdb.ensure_acquisition(new_upload(KEY, montage_id="m-1"))
    coordinator = Coordinator(bus)
    refused = image_again(instance)
    [event] = [e for e in refused.all_events if e.is_step_failure]
    assert "give aperture_id" in event.step_failure_data.user_failure_data.description
    assert coordinator.regions == []
    assert image_again(instance, aperture_id=3).success
    [region] = coordinator.regions
    assert (region.aperture_id, region.overlap) == (3, 25)
    frame = Size(height_px=256, width_px=256)
    stops = stops_of(region, frame, pixel_nm=4.0, overlap=0.25)
    assert [(s.x_nm, s.y_nm) for s in stops] == [
        (0, 0),
        (768, 0),
        (768, 768),
        (0, 768),
    ]
