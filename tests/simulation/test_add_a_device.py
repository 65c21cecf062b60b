"""The device in the how-to page is complete: it answers on a bus."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.session import rig
from em_platform.config import Settings, load_settings
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
    mark = client.mark("stage.absolute")
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


_OLD = """
  simulation:
    tile_px: 512
    rotation_deg: 30
"""
_NEW = """
  frame_px: 5000
  rotation_deg: 12
"""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("  simulated: false", (4096, 0)),
        (f"  simulated: true{_OLD}", (512, 30)),
        (f"  simulated: false{_OLD}", (512, 30)),  # as before there was frame_px
        (f"  simulated: false{_OLD}{_NEW}", (5000, 12)),
    ],
)
def test_a_real_camera_needs_no_setting_of_the_simulated_one(
    lines: str, expected: tuple[int, float], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"acquisition:\n{lines}\n")
    settings = load_settings(config, environment={}).acquisition
    assert (settings.expected_frame_px, settings.expected_rotation_deg) == expected
