"""Quality of a run from its tiles; upstream answers 501 to most of it."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from sqlalchemy import func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from temdb.models import AcquisitionFocusScoresResponse, BadFocusTilesResponse

from em_platform.temdb.routes.rows import Db, Limit, one
from em_platform.temdb.routes.tiles import tile_answer
from em_platform.temdb.tables import Acquisition, Tile

router = APIRouter(prefix="/qc", tags=["quality"])

_PNG = "image/png"
_Place = tuple[int, int, float | None]

_EDGE_PX = 900  # of the picture's longer side, at most
# A tile's square: 40 px shows a montage of few tiles, 1 px one of very many.
_CELL_PX = (1, 40)


class Heatmap(StrEnum):
    """What a map shows."""

    FOCUS_SCORE = "focus_score"
    STD_DEV = "std_dev"
    MATCHER_ROW_QUALITY = "matcher_row_quality"
    MATCHER_COL_QUALITY = "matcher_col_quality"


_COLUMNS: Mapping[Heatmap, InstrumentedAttribute[Any]] = {
    Heatmap.FOCUS_SCORE: Tile.focus_score,
    Heatmap.STD_DEV: Tile.std_value,
    Heatmap.MATCHER_ROW_QUALITY: Tile.row_match_quality,
    Heatmap.MATCHER_COL_QUALITY: Tile.col_match_quality,
}


@router.get("/{acquisition_id}/tile-stats")
def get_tile_stats(acquisition_id: str, db: Db) -> dict[str, float | int | None]:
    """How many tiles; the middle and the ends of their focus and grey level."""
    with db.reading() as session:
        where = _of(session, acquisition_id)
        row = session.execute(
            select(
                func.count(),
                func.avg(Tile.focus_score),
                func.min(Tile.focus_score),
                func.max(Tile.focus_score),
                func.avg(Tile.mean_value),
                func.avg(Tile.std_value),
            ).where(*where)
        ).one()
    return {
        "total_tiles": row[0],
        "average_focus_score": row[1],
        "min_focus_score": row[2],
        "max_focus_score": row[3],
        "average_intensity": row[4],
        "average_std_dev": row[5],
    }


@router.get("/{acquisition_id}/matcher-stats")
def get_matcher_stats(acquisition_id: str, db: Db) -> dict[str, float | int | None]:
    """How well the tiles match their neighbours; an edge counts once."""
    with db.reading() as session:
        where = _of(session, acquisition_id)
        rows = session.execute(
            select(Tile.row_match_quality, Tile.col_match_quality).where(*where)
        )
        edges = [value for row in rows for value in row if value is not None]
    return {
        "edges": len(edges),
        "average_match_quality": statistics.fmean(edges) if edges else None,
        "median_match_quality": statistics.median(edges) if edges else None,
        "min_match_quality": min(edges, default=None),
        "max_match_quality": max(edges, default=None),
        "edges_without_match": sum(value == 0 for value in edges),
    }


@router.get("/{acquisition_id}/low-quality-tiles")
def get_low_quality_tiles(
    acquisition_id: str,
    db: Db,
    # The middle of the scale, on which 1 is the sharpest.
    focus_lt: Annotated[float, Query(description="A focus score below is low.")] = 0.5,
    # Below 1 no template was found again.
    match_quality_lt: Annotated[
        float, Query(description="A match quality below is low.")
    ] = 1.0,
    # `min_mean_std_dev` of TileQC, the Allen Institute's production rules.
    std_lt: Annotated[
        float, Query(description="A spread of grey levels below is low.")
    ] = 5.0,
    limit: Limit = 1000,
) -> JSONResponse:
    """The tiles that are blurred, ill matched or without contrast, and why."""
    low = {
        "focus_score": (Tile.focus_score, focus_lt),
        "match_quality": (Tile.worst_match_quality, match_quality_lt),
        "std_value": (Tile.std_value, std_lt),
    }
    with db.reading() as session:
        query = (
            select(Tile)
            .where(*_of(session, acquisition_id))
            .where(or_(*(column < limit for column, limit in low.values())))
            .order_by(Tile.raster_index)
            .limit(limit)
        )
        tiles = session.scalars(query).all()
    return JSONResponse(
        [
            tile_answer(tile, acquisition_id)
            | {
                "reasons": [
                    name
                    for name, (column, below) in low.items()
                    if _is_below(getattr(tile, column.key), below)
                ]
            }
            for tile in tiles
        ]
    )


@router.get("/{acquisition_id}/heatmap")
def get_heatmaps(acquisition_id: str, db: Db) -> JSONResponse:
    """All maps, each `[row][column]`; and row and column of each tile."""
    columns: list[Any] = [Tile.montage_row, Tile.montage_col, *_COLUMNS.values()]
    with db.reading() as session:
        where = _of(session, acquisition_id)
        query = select(*columns).where(*where).order_by(Tile.raster_index)
        rows = [tuple(row) for row in session.execute(query)]
    maps = {
        name: _nested(_heatmap((row[0], row[1], row[2 + at]) for row in rows))
        for at, name in enumerate(_COLUMNS)
    }
    answer = {
        "focus_scores": maps[Heatmap.FOCUS_SCORE],
        "std_dev": maps[Heatmap.STD_DEV],
        "matcher_row_quality": maps[Heatmap.MATCHER_ROW_QUALITY],
        "matcher_col_quality": maps[Heatmap.MATCHER_COL_QUALITY],
        "raster_positions": [{"row": row[0], "col": row[1]} for row in rows],
    }
    return JSONResponse(answer)


@router.get(
    "/{acquisition_id}/heatmap/{kind}",
    responses={200: {"content": {_PNG: {}}}},
    response_model=list[list[float | None]],
)
def get_heatmap(
    acquisition_id: str, kind: Heatmap, db: Db, request: Request
) -> Response:
    """One map `[row][column]`, or as a picture with `Accept: image/png`."""
    with db.reading() as session:
        # Columns and no rows of `Tile`: the long matches are not read.
        query = select(Tile.montage_row, Tile.montage_col, _COLUMNS[kind])
        where = _of(session, acquisition_id)
        rows = session.execute(query.where(*where).order_by(Tile.raster_index))
        grid = _heatmap((row, column, value) for row, column, value in rows)
    if _PNG in request.headers.get("accept", ""):
        return Response(_picture(grid), media_type=_PNG)
    return JSONResponse(_nested(grid))


@router.get(
    "/{acquisition_id}/focus-scores",
    responses={200: {"model": AcquisitionFocusScoresResponse}},
)
def get_focus_scores(acquisition_id: str, db: Db) -> JSONResponse:
    """The focus score of every tile, and their middle and ends."""
    with db.reading() as session:
        query = select(Tile.tile_id, Tile.raster_index, Tile.focus_score)
        where = _of(session, acquisition_id)
        rows = session.execute(query.where(*where).order_by(Tile.raster_index)).all()
    scores = [row.focus_score for row in rows]
    # No model in between: a run may have a hundred thousand tiles.
    return JSONResponse(
        {
            "acquisition_id": acquisition_id,
            "tile_count": len(rows),
            "focus_scores": [
                {"tile_id": str(key), "raster_index": index, "focus_score": score}
                for key, index, score in rows
            ],
            "mean_focus": statistics.fmean(scores) if scores else None,
            "median_focus": statistics.median(scores) if scores else None,
            "stddev_focus": _spread(scores),
            "min_focus": min(scores, default=None),
            "max_focus": max(scores, default=None),
        }
    )


@router.get("/{acquisition_id}/bad-focus")
def get_bad_focus(
    acquisition_id: str, db: Db, threshold: float = 0.5, limit: Limit = 1000
) -> BadFocusTilesResponse:
    """The tiles whose focus score is below the threshold."""
    with db.reading() as session:
        run = one(session, Acquisition, acquisition_id)
        query = select(Tile).where(*_of(session, acquisition_id))
        query = query.where(Tile.focus_score < threshold).order_by(Tile.focus_score)
        tiles = session.scalars(query.limit(limit)).all()
    return BadFocusTilesResponse(
        threshold=threshold,
        count=len(tiles),
        tiles=[
            {
                "tile_id": str(tile.tile_id),
                "acquisition_id": acquisition_id,
                "raster_index": tile.raster_index,
                "focus_score": tile.focus_score,
                "image_path": tile.image_path,
                "stage_position": {"x": tile.stage_x_nm, "y": tile.stage_y_nm},
                "roi_id": run.roi_id,
                "specimen_id": run.specimen_id,
            }
            for tile in tiles
        ],
    )


def _of(session: Session, acquisition_id: str) -> tuple[Any, ...]:
    run = one(session, Acquisition, acquisition_id)
    # Both begin the table's key, so tiles of other runs are not looked at.
    return Tile.dataset_id == run.dataset_id, Tile.run_id == run.run_id


def _is_below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _spread(scores: Sequence[float]) -> float | None:
    # `stdev` needs two.
    if len(scores) < 2:
        return 0.0 if scores else None
    return statistics.stdev(scores)


def _heatmap(places: Iterable[_Place]) -> NDArray[np.float64]:
    """`(rows, columns)` from the first to the last of each; NaN where nothing is.

    Parameters
    ----------
    places
        `(row, column, value)` of each tile; of two at one place the last counts.
    """
    known = list(places)
    if not known:
        return np.zeros((0, 0))
    at = np.array([place[:2] for place in known])
    first = at.min(axis=0)
    values = [np.nan if value is None else value for _, _, value in known]
    grid = np.full(tuple(at.max(axis=0) - first + 1), np.nan)
    grid[tuple((at - first).T)] = values
    return grid


def _nested(grid: NDArray[np.float64]) -> list[list[float | None]]:
    """The map as JSON takes it: null for NaN."""
    return [[None if np.isnan(v) else float(v) for v in row] for row in grid]


def _picture(grid: NDArray[np.float64]) -> bytes:
    """The map as a PNG: dark is low, bright is high (viridis), grey is no value."""
    if not grid.size or np.isnan(grid).all():
        # A picture without pixels cannot be written.
        shown = np.full((1, 1, 3), 128, np.uint8)
    else:
        low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
        # NaN has no level: it is painted over below. One value alone is all dark.
        share = (np.nan_to_num(grid, nan=low) - low) / ((high - low) or 1.0)
        levels = np.round(share * 255).astype(np.uint8)
        shown = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS).astype(np.uint8)
        shown[np.isnan(grid)] = 128
    smallest, largest = _CELL_PX
    cell = min(largest, max(smallest, _EDGE_PX // max(shown.shape[:2])))
    # Squares with sharp edges: what is between two tiles has no value.
    large = cv2.resize(shown, None, fx=cell, fy=cell, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".png", large)[1].tobytes()
