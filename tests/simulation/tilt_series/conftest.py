"""A small data set: one map without any symmetry, few tilts, small images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.plan_file import plan_of


def blobs(size: int = 24) -> NDArray[np.float32]:
    """A potential `(z, y, x)`, V: balls of different sizes, so no turn is like another.

    It falls to zero well before the border.
    """
    z, y, x = np.indices((size,) * 3) - size // 2
    found = np.zeros((size,) * 3)
    scale = size / 24
    for centre, width, height in (
        ((0, 0, 0), 2.5, 3.0),
        ((0, 1, 5), 1.5, 5.0),
        ((2, -5, 0), 1.8, 4.0),
        ((-5, 0, 1), 1.4, 5.0),
    ):
        square = sum(
            (axis - scale * at) ** 2 for axis, at in zip((z, y, x), centre, strict=True)
        )
        found += height * np.exp(-square / (2 * (scale * width) ** 2))
    return np.where(found > 0.02, found, 0).astype(np.float32)


@pytest.fixture
def particle_file(tmp_path: Path) -> Path:
    """An MRC map of 24 voxels of 1 nm."""
    path = tmp_path / "particle.mrc"
    with mrcfile.new(path, blobs()) as file:
        file.voxel_size = 10.0
    return path


@pytest.fixture
def fields(particle_file: Path) -> dict[str, Any]:
    """What the YAML of a small plan says: 5 tilts of 64 x 48 pixels, errors of all."""
    return {
        "name": "small",
        "seed": 11,
        "pixel_nm": 2.0,
        "tilts": {"first_deg": -40, "step_deg": 20, "tilts": 5, "axis_deg": 85},
        "beam": {"dose_per_tilt_e_per_nm2": 500, "dose_spread": 0.05},
        "objective": {"defocus_um": [2.0, 3.0], "defocus_spread_um": 0.05},
        "camera": {"width_px": 64, "height_px": 48, "dqe": 0.5, "gain": 2.0},
        "ice": {"thickness_nm": 60},
        "errors": {"tilt_deg": 0.3, "rotation_deg": 0.2, "shift_nm": 3},
        "particles": [{"name": "blob", "file": particle_file.name}],
        "assembly": {"kind": "crowded", "options": {"counts": {"blob": 6}}},
        "beads": {"count": 2, "diameter_nm": 8},
    }


@pytest.fixture
def plan(fields: dict[str, Any], particle_file: Path) -> Plan:
    """That plan."""
    fields["particles"][0]["file"] = str(particle_file)
    return plan_of(fields, source="a test")


@pytest.fixture
def config(fields: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write the YAML of that plan, with changes, and give its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(fields | changes))
        return path

    return write
