"""The demo's simulated tilt series: a plan, and what Dagster makes of it."""

import time
from pathlib import Path

import numpy as np

from em_platform.cli.console_output import ConsoleOutput, short
from em_platform.cli.platform import Platform
from em_platform.cli.runs import (
    PATIENCE_S,
    PartitionRuns,
    complaints,
    partition_runs,
    progress,
)
from em_platform.storage import layout, store_of
from em_platform.storage.atomic import write_bytes

_TICK_S = 1.0
_NAME = "demo"
_STACK = f"{_NAME}-0000"
_PARTICLE = "demo.mrc"
_PLAN = f"""\
# A small tilt series of a made-up particle; see docs/how-to/simulate-tilt-series.md.
name: {_NAME}
seed: 1
pixel_nm: 1.0
tilts: {{first_deg: -60, step_deg: 12, tilts: 11}}
camera: {{width_px: 192, height_px: 192}}
ice: {{thickness_nm: 60}}
errors: {{tilt_deg: 0.2, shift_nm: 3}}
particles: [{{name: particle, file: {_PARTICLE}}}]
assembly: {{kind: crowded, options: {{counts: {{particle: 20}}}}}}
beads: {{count: 4, diameter_nm: 8}}
"""


def simulate_one(platform: Platform, output: ConsoleOutput) -> bool:
    """Have one tilt series simulated; whether it is there and good.

    The plan is put where plans lie, and the sensor finds it. One that a former call has
    made is kept.
    """
    folder = platform.settings.plans_folder
    _put_plan(folder)
    output.line(f"plan {short(folder / f'{_NAME}.yaml')}: one tilt series of 11 images")
    runs = _followed(platform, output)
    there = store_of(platform.settings).exists(layout.record("simulation", _STACK))
    stack = short(platform.settings.simulations_folder / _STACK)
    output.result(f"{stack}: {runs.checks_passed} checks passed")
    for check in runs.checks.values():
        if check.passed:
            output.line(f"{_STACK}: {check.sentence}")
    for line in complaints(runs):
        output.line(f"{_STACK}: {line}")
    return there and runs.is_good


def _followed(platform: Platform, output: ConsoleOutput) -> PartitionRuns:
    runs, newest = PartitionRuns(), time.monotonic()
    while not runs.is_over and not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        before, runs = (
            runs,
            partition_runs(platform.url, _STACK, last_step="sim_record"),
        )
        for line in progress(_STACK, before, runs):
            output.line(line)
            newest = time.monotonic()
        if time.monotonic() > newest + PATIENCE_S:
            output.line(f"nothing new for {PATIENCE_S:.0f} s; see the web UI")
            break
    return runs


def _put_plan(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Last: the sensor looks at plans, and what they name must be there.
    put_particle(folder / _PARTICLE)
    plan = folder / f"{_NAME}.yaml"
    if not plan.is_file():
        write_bytes(plan, _PLAN.encode())


def put_particle(path: Path) -> None:
    """A bean of two blobs, in volts above ice; voxels of 1 nm."""
    if path.is_file():  # its header has a date: another one would be another particle
        return
    import mrcfile

    z, y, x = np.indices((24, 24, 24)) - 12
    large = np.exp(-(z**2 + y**2 + x**2) / 24)
    small = np.exp(-(z**2 + (y - 4) ** 2 + (x - 5) ** 2) / 10)
    with mrcfile.new(path) as file:
        file.set_data(np.float32(6 * (large + small)))
        file.voxel_size = 10.0
