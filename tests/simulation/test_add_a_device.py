"""The device in the how-to page is complete: it answers on a bus."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.session import rig
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.simulation import devices
from em_platform.simulation.devices import device_of


def test_the_device_of_the_page_publishes_what_it_reads(
    repository: Path,
    tmp_path: Path,
    rig_settings: Settings,
    open_bus: Callable[[str], Bus],
    serve: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (repository / "docs/how-to/add-a-device.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert max(map(len, code.splitlines())) <= 88
    (tmp_path / "encoder.py").write_text(code)
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(tmp_path)])
    client = open_bus("client")
    mark = client.mark()
    client.latest("stage.absolute")
    device = device_of("encoder")
    serve(device.make, rig_settings, tick_s=device.tick_s)
    client.publish(
        "stage.motion.status", x=1234, y=-56, in_motion=False, calibrated=True
    )
    found = client.wait_for("stage.absolute", lambda _: True, 10.0, since=mark)
    assert found.linear == {"x": 1230, "y": -60}


@pytest.mark.parametrize("name", rig.DEVICES)
def test_each_device_of_the_table_can_be_made(name: str) -> None:
    device = device_of(name)
    assert 0 < device.tick_s <= 1
    assert device.make.__name__.lower() == name  # type: ignore[attr-defined]


def test_the_page_names_a_line_of_the_table_and_its_topic(repository: Path) -> None:
    page = (repository / "docs/how-to/add-a-device.md").read_text()
    (line,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert re.fullmatch(r'    "\w+": "[a-z.]+",\n', line)
    source = (repository / "em_platform/acquisition/session/rig.py").read_text()
    assert 'DEVICE_STATUS = {\n    "scope": "scope.status",\n' in source


def test_live_services_read_no_setting_of_the_simulation(repository: Path) -> None:
    package = repository / "em_platform"
    reading = [
        str(path.relative_to(package))
        for room in ("acquisition", "messaging", "operator")
        for path in (package / room).rglob("*.py")
        if re.search(r"\.simulation\b(?!\.devices)", path.read_text())
    ]
    assert reading == []


def test_a_real_camera_needs_no_setting_of_the_simulated_one() -> None:
    settings = Settings().acquisition
    simulation = settings.simulation.model_copy(
        update={"tile_px": 512, "rotation_deg": 30.0}
    )
    simulated = settings.model_copy(update={"simulation": simulation})
    real = simulated.model_copy(update={"simulated": False})
    given = real.model_copy(update={"frame_px": 5000, "rotation_deg": 12.0})
    assert (simulated.expected_frame_px, simulated.expected_rotation_deg) == (512, 30)
    assert (real.expected_frame_px, real.expected_rotation_deg) == (4096, 0)
    assert (given.expected_frame_px, given.expected_rotation_deg) == (5000, 12)
