"""Acquisitions as the buffer announces them, filled in where a test does not care."""

from datetime import UTC, datetime
from typing import Any

from em_platform.model import (
    AcquisitionUpload,
    MeasuredTile,
    NeighbourMatch,
    Size,
    UploadedTile,
)

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def new_upload(name: str = "m-1-t1", **more: Any) -> AcquisitionUpload:
    """Acquisition `name` of the montage that its name begins with."""
    given: dict[str, Any] = {
        "acquisition_id": name,
        "montage_id": name.rpartition("-t")[0],
        "tile_size": Size(height_px=200, width_px=300),
        "started_at": START,
    }
    return AcquisitionUpload(**(given | more))


def new_tile(index: int, *, focus: float = 0.9, **more: Any) -> UploadedTile:
    """A tile of the first row; a larger `focus` is a sharper tile."""
    given: dict[str, Any] = {
        "tile_id": f"m-1-t1_000_{index:03d}",
        "raster_index": index,
        "row": 0,
        "column": index,
        "stage_x_nm": index * 1000,
        "stage_y_nm": 0,
        "sha256": "0" * 64,
        "bytes": 1,
        "statistics": MeasuredTile(
            minimum=1, maximum=250, mean=120, std=20, focus_score=focus
        ),
        "uri": f"file:///store/{index}.zarr",
    }
    return UploadedTile(**(given | more))


def new_match(*, points: int = 3, **more: Any) -> NeighbourMatch:
    """The neighbour on the left, where `points` templates were found again."""
    given: dict[str, Any] = {
        "row": 0,
        "column": 0,
        "position": "left",
        "dx_px": -2,
        "dy_px": 1,
        "dx_std_px": 0,
        "dy_std_px": 0,
        "distance_px": 2.2,
        "rotation_rad": 0,
        "tile_points": [(1.0, float(n)) for n in range(points)],
        "neighbour_points": [(2.0, float(n)) for n in range(points)],
    }
    return NeighbourMatch(**(given | more))
