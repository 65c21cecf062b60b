"""A tile's row from a request, and its answer from a row."""

from typing import Any

from fastapi import HTTPException
from temdb.models import Matcher, TileCreate

from em_platform.temdb.tables import Tile, now, uuid7

_SIDES = {"left", "right"}


def tile_values(new: TileCreate) -> dict[str, Any]:
    """The columns of one tile, without those that name its run."""
    stage, raster = dict(new.stage_position), new.raster_position
    if not {"x", "y"} <= stage.keys() or raster.keys() != {"row", "col"}:
        raise HTTPException(
            422,
            f"TEM DB: tile {new.raster_index} lies at stage {sorted(stage)}, raster "
            f"{sorted(raster)}; expected x and y, row and col",
        )
    matches = new.matcher or []
    return {
        "raster_index": new.raster_index,
        "tile_id": new.tile_id or uuid7(),
        "stage_x_nm": stage.pop("x"),
        "stage_y_nm": stage.pop("y"),
        "stage_other": stage or None,
        "montage_row": raster["row"],
        "montage_col": raster["col"],
        "focus_score": new.focus_score,
        "min_value": new.min_value,
        "max_value": new.max_value,
        "mean_value": new.mean_value,
        "std_value": new.std_value,
        "image_path": str(new.image_path),
        "supertile_id": new.supertile_id,
        "supertile_raster_position": new.supertile_raster_position,
        "matcher": [match.model_dump(mode="json") for match in matches] or None,
        "created_at": now(),
        **_quality(matches),
    }


def tile_answer(tile: Tile, acquisition_id: str) -> dict[str, Any]:
    """One tile as the API shows it."""
    return {
        "tile_id": str(tile.tile_id),
        "dataset_id": str(tile.dataset_id),
        "acquisition_id": acquisition_id,
        "raster_index": tile.raster_index,
        "stage_position": {
            "x": tile.stage_x_nm,
            "y": tile.stage_y_nm,
            **(tile.stage_other or {}),
        },
        "raster_position": {"row": tile.montage_row, "col": tile.montage_col},
        "focus_score": tile.focus_score,
        "min_value": tile.min_value,
        "max_value": tile.max_value,
        "mean_value": tile.mean_value,
        "std_value": tile.std_value,
        "image_path": tile.image_path,
        "matcher": tile.matcher,
        "supertile_id": tile.supertile_id,
        "supertile_raster_position": tile.supertile_raster_position,
        "created_at": tile.created_at.isoformat(),
    }


def _quality(matches: list[Matcher]) -> dict[str, float | None]:
    """What filters and maps ask of the matches.

    The row quality is that of the match within the tile's row (its left or right
    neighbour), the column quality that of the one above or below. A quality below 0
    means that there is no such neighbour.
    """
    real = [match for match in matches if match.match_quality >= 0]
    row = [m.match_quality for m in real if m.position.value in _SIDES]
    column = [m.match_quality for m in real if m.position.value in ("top", "bottom")]
    return {
        "row_match_quality": min(row, default=None),
        "col_match_quality": min(column, default=None),
        "worst_match_quality": min(row + column, default=None),
        "most_dx": max((abs(m.dX) for m in real), default=None),
        "most_dy": max((abs(m.dY) for m in real), default=None),
    }
