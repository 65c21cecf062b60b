"""The tiles of a run, and where they are stored."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from temdb.models import (
    AcquisitionResponse,
    Matcher,
    StorageLocation,
    StorageLocationCreate,
    TileCreate,
    TileResponse,
)

from em_platform.temdb.columns import Document, now, uuid7
from em_platform.temdb.routes.rows import (
    Db,
    Limit,
    Values,
    has,
    missing,
    one,
    uuid_of,
    wrong,
)
from em_platform.temdb.tables import Acquisition, Dataset, Tile

router = APIRouter(prefix="/acquisitions/{acquisition_id}", tags=["tiles"])

_INSERT: dict[str, Callable[[type[Tile]], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
# A match with these is within the tile's row.
_SIDES = {"left", "right"}
# A tile that is sent again has the same key, and is passed over.
_KEY = ("dataset_id", "run_id", "raster_index")
_ROWS_A_STATEMENT = 500
"""SQLite takes 32766 values a statement; a tile has 25."""


@router.post("/tiles", status_code=201)
def add_tile(acquisition_id: str, new: TileCreate, db: Db) -> TileResponse:
    """One more tile; 409 where its place in the raster is taken."""
    with db.writing() as session:
        run = _taking_tiles(session, acquisition_id)
        # One that is passed over adds nothing.
        if not _add(session, run, [new]):
            raise wrong(
                409,
                f"acquisition {acquisition_id} has a tile {new.raster_index} already; "
                "a tile never changes",
            )
        mine = _of(run), Tile.raster_index == new.raster_index
        made = session.scalars(select(Tile).where(*mine)).one()
        return TileResponse.model_validate(tile_answer(made, acquisition_id))


@router.post("/tiles/bulk", status_code=201)
def add_tiles(acquisition_id: str, tiles: list[TileCreate], db: Db) -> Document:
    """Many tiles; one whose place in the raster is taken is passed over."""
    with db.writing() as session:
        run = _taking_tiles(session, acquisition_id)
        inserted = _add(session, run, tiles)
    return {
        "acquisition_id": acquisition_id,
        "total_received": len(tiles),
        "inserted": inserted,
        "skipped_existing": len(tiles) - inserted,
    }


@router.get("/tiles")
def list_tiles(
    acquisition_id: str,
    db: Db,
    cursor: int | None = None,
    limit: Limit = 100,
    fields: Annotated[list[str] | None, Query()] = None,
) -> JSONResponse:
    """One page of tiles in the order of the raster, behind raster index `cursor`."""
    with db.reading() as session:
        run = one(session, Acquisition, acquisition_id)
        query = select(Tile).where(_of(run)).order_by(Tile.raster_index)
        if cursor is not None:
            query = query.where(Tile.raster_index > cursor)
        found = session.scalars(query.limit(limit + 1)).all()
    tiles, has_more = found[:limit], len(found) > limit
    shown = [tile_answer(tile, acquisition_id) for tile in tiles]
    if fields:
        names = dict.fromkeys(("raster_index", *fields))
        shown = [{name: tile.get(name) for name in names} for tile in shown]
    return JSONResponse(
        {
            "tiles": shown,
            "metadata": {
                "returned_count": len(shown),
                "limit": limit,
                "current_cursor": cursor,
                "next_cursor": tiles[-1].raster_index if has_more else None,
                "has_more": has_more,
            },
        }
    )


@router.get("/tiles/{tile_id}")
def get_tile(acquisition_id: str, tile_id: str, db: Db) -> TileResponse:
    """One tile of this run."""
    with db.reading() as session:
        found = _tile(session, acquisition_id, tile_id)
    return TileResponse.model_validate(tile_answer(found, acquisition_id))


@router.delete("/tiles/{tile_id}", status_code=204)
def delete_tile(acquisition_id: str, tile_id: str, db: Db) -> None:
    """Remove one tile of this run."""
    with db.writing() as session:
        session.delete(_tile(session, acquisition_id, tile_id))


@router.get("/tile-count")
def count_tiles(acquisition_id: str, db: Db) -> dict[str, int]:
    """How many tiles there are."""
    with db.reading() as session:
        run = one(session, Acquisition, acquisition_id)
        query = select(func.count()).select_from(Tile).where(_of(run))
        return {"tile_count": session.scalar(query) or 0}


@router.post("/storage-locations", response_model=AcquisitionResponse)
def add_storage_location(
    acquisition_id: str, location: StorageLocationCreate, db: Db
) -> Acquisition:
    """One more place where the run is stored, now its current one."""
    with db.writing() as session:
        found = one(session, Acquisition, acquisition_id)
        # A new list: SQLAlchemy does not see a change within a JSON value.
        before = [{**at, "is_current": False} for at in found.storage_locations or ()]
        new = location.model_dump(mode="json")
        new |= {"is_current": True, "date_added": now().isoformat()}
        found.storage_locations = [*before, new]
        found.updated_at = now()
    return found


@router.get("/current-storage", response_model=StorageLocation | None)
def get_current_storage(acquisition_id: str, db: Db) -> Document | None:
    """Where the run is stored now; null where that is not known."""
    with db.reading() as session:
        found = one(session, Acquisition, acquisition_id)
    return _current(found.storage_locations or ())


@router.get("/minimap-uri")
def get_minimap_uri(acquisition_id: str, db: Db) -> dict[str, str | None]:
    """Where the small picture of the run is: beside its tiles."""
    with db.reading() as session:
        found = one(session, Acquisition, acquisition_id)
    current = _current(found.storage_locations or ())
    base = current["base_path"].rstrip("/") if current else None
    return {"minimap_uri": f"{base}/minimap.png" if base else None}


def _taking_tiles(session: Session, acquisition_id: str) -> Acquisition:
    run = one(session, Acquisition, acquisition_id)
    if run.dataset_id is None:
        raise wrong(
            409,
            f"acquisition {acquisition_id} is in no dataset, and tiles are kept by "
            "dataset; create it with a dataset_id",
        )
    if has(session, Dataset.parent_dataset_id == run.dataset_id):
        raise wrong(409, f"dataset {run.dataset_id} has parts; tiles go into those")
    return run


def _add(session: Session, run: Acquisition, tiles: Sequence[TileCreate]) -> int:
    """How many were new."""
    added = 0
    upsert = _INSERT[session.get_bind().dialect.name]
    for first in range(0, len(tiles), _ROWS_A_STATEMENT):
        rows = [
            tile_values(tile) | {"dataset_id": run.dataset_id, "run_id": run.run_id}
            for tile in tiles[first : first + _ROWS_A_STATEMENT]
        ]
        # Only by this key: a tile_id that another tile has is an error.
        statement = upsert(Tile).on_conflict_do_nothing(index_elements=_KEY)
        # Rows that are passed over are not returned, so these are the new ones.
        returned = session.execute(statement.returning(Tile.raster_index), rows)
        added += len(returned.all())
    return added


def _of(run: Acquisition) -> ColumnElement[bool]:
    return (Tile.dataset_id == run.dataset_id) & (Tile.run_id == run.run_id)


def _tile(session: Session, acquisition_id: str, tile_id: str) -> Tile:
    run = one(session, Acquisition, acquisition_id)
    mine = _of(run), Tile.tile_id == uuid_of("tile", tile_id)
    found = session.scalars(select(Tile).where(*mine)).one_or_none()
    if found is None:
        raise missing("tile", f"{tile_id} in acquisition {acquisition_id}")
    return found


def _current(places: Sequence[Document]) -> Document | None:
    return next((place for place in places if place.get("is_current")), None)


def tile_values(new: TileCreate) -> Values:
    """The columns of one tile, without those that name its run."""
    stage, raster = dict(new.stage_position), new.raster_position
    if not {"x", "y"} <= stage.keys() or raster.keys() != {"row", "col"}:
        raise wrong(
            422,
            f"tile {new.raster_index} is at stage {sorted(stage)}, raster "
            f"{sorted(raster)}; expected x and y, row and col",
        )
    matches = new.matcher or []
    return {
        "raster_index": new.raster_index,
        "tile_id": new.tile_id or uuid7(),
        "stage_x_nm": stage.pop("x"),
        "stage_y_nm": stage.pop("y"),
        # What is left when x and y are taken out.
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


def tile_answer(tile: Tile, acquisition_id: str) -> Document:
    """One tile as the API shows it."""
    return {
        # Not by the model: a page has 1000 tiles with all their matches.
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
    # -1 and such say "no neighbour", and would be the worst of all.
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
