"""What a montage was meant to hold: its plan outlives the frames on the disk."""

import logging

from em_platform.errors import RecordError
from em_platform.model import Failure, Montage, PlannedTile
from em_platform.storage import Store, layout

log = logging.getLogger(__name__)


def as_first_planned(montage: Montage, store: Store) -> Montage:
    """The montage judged by what it held when the store first recorded it.

    A folder says only what lies in it now, so that a frame that has been taken away
    would leave no trace in a later run. A tile that was recorded and that is now
    neither there nor a failure, and whose place no new tile has, becomes a failure.
    """
    earlier = _earlier(store, layout.montage(montage.acquisition_id))
    return with_plan(montage, () if earlier is None else plan_of(earlier))


def with_plan(montage: Montage, plan: tuple[PlannedTile, ...]) -> Montage:
    """The montage with the tiles of the plan that are gone as failures."""
    known = {tile.tile_id for tile in montage.tiles}
    known |= {failure.item for failure in montage.failures}
    planned = {tile.tile_id for tile in plan}
    # A tile that was imaged again has another file name, but the place of the old one.
    replaced = {
        (tile.row, tile.column) for tile in montage.tiles if tile.tile_id not in planned
    }
    gone = [
        tile
        for tile in plan
        if tile.tile_id not in known and (tile.row, tile.column) not in replaced
    ]
    failures = (*montage.failures, *(_gone(tile, montage) for tile in gone))
    return montage.model_copy(
        update={
            "failures": failures,
            # Of a microscope's montage the plan is known beforehand: it stays.
            "expected_tiles": max(
                montage.expected_tiles, len(montage.tiles) + len(failures)
            ),
            "planned": plan_of(montage.model_copy(update={"planned": plan})),
        }
    )


def plan_of(montage: Montage) -> tuple[PlannedTile, ...]:
    """All tiles that the montage has or once had."""
    planned = {tile.tile_id: tile for tile in montage.planned}
    for tile in montage.tiles:
        planned.setdefault(
            tile.tile_id,
            PlannedTile(tile_id=tile.tile_id, row=tile.row, column=tile.column),
        )
    return tuple(planned.values())


def _earlier(store: Store, name: str) -> Montage | None:
    """The montage as it was recorded; a damaged file counts as none, or it would stay.

    The step that asks is the one that writes it anew.
    """
    if not store.exists(name):
        return None
    try:
        return store.read(name, Montage)
    except RecordError as error:
        log.warning("%s", error)
        return None


def _gone(tile: PlannedTile, montage: Montage) -> Failure:
    return Failure(
        item=tile.tile_id,
        error="DataError",
        sentence=(
            f"tile {tile.tile_id}: was there when montage {montage.acquisition_id} was "
            "first recorded, found no frame of it now, expected one; put it back, or "
            "give the montage another name"
        ),
    )
