"""A tilt series that a platform is to simulate, and what has come of it."""

from pathlib import Path
from typing import Any

import dagster as dg
import mrcfile
import numpy as np

PLAN = """
name: grains
pixel_nm: 2
tilts: {first_deg: -40, step_deg: 20, tilts: 5}
camera: {width_px: 64, height_px: 64}
ice: {thickness_nm: 40}
assembly: {options: {counts: {grain: 4}}}
particles: [{name: grain, file: grain.mrc}]
"""


def put_plan(folder: Path) -> str:
    """Put a plan of five tilts into the folder of plans; gives its stack's name."""
    folder.mkdir()
    grain = np.zeros((12, 12, 12), np.float32)
    grain[3:8, 4:8, 5:8] = 9
    with mrcfile.new(folder / "grain.mrc", grain) as file:
        file.voxel_size = 20.0
    (folder / "grains.yaml").write_text(PLAN)
    return "grains-0000"


def tilts_made(platform: Any, key: str) -> list[int]:
    """How many tilts each materialization of a stack has made."""
    asked = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey("sim_tilt_stack"), asset_partitions=[key]
    )
    with platform.instance() as instance:
        found = instance.fetch_materializations(asked, limit=10, ascending=True)
    return [
        record.asset_materialization.metadata["tilts made now"].value
        for record in found.records
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Each file below, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
