"""What the store knows of a montage: its frames, its plan, its lens."""

import logging
from collections.abc import Callable
from pathlib import Path

from em_platform.errors import RecordError
from em_platform.model import Failure, LensModel, Montage, PlannedTile
from em_platform.model.truth import MontageTruth
from em_platform.stitching.recipe import lens_digest
from em_platform.stitching.recipe_file import read_tile_recipe
from em_platform.stitching.truth import truth_beside
from em_platform.storage import Store, layout

log = logging.getLogger(__name__)

Locate = Callable[[str, str], str]
"""`(tile_id, uri as imaged)` -> where the tile can be read now."""


def located(montage: Montage, store: Store) -> Montage:
    """The montage whose tiles are where they can be read now.

    A frame that is still on the microscope's disk stays where it is. One that the
    buffer has deleted is level 0 of what aloha verified and stored, with the same
    pixels; read it with the store's options.
    """
    locate = locator(montage.acquisition_id, store)
    tiles = tuple(
        tile.model_copy(update={"uri": locate(tile.tile_id, tile.uri)})
        for tile in montage.tiles
    )
    return montage.model_copy(update={"tiles": tiles})


def locator(acquisition_id: str, store: Store) -> Locate:
    """Give for each tile of an acquisition where it can be read now."""
    is_verified: list[bool] = []  # asked once, and only when a frame has gone

    def locate(tile_id: str, uri: str) -> str:
        if "://" in uri or Path(uri).exists():
            return uri
        if not is_verified:
            is_verified.append(store.exists(layout.upload(acquisition_id)))
        if not is_verified[0]:
            return uri
        return f"{store.url(layout.uploaded_tile(acquisition_id, tile_id))}/0"

    return locate


def as_first_planned(montage: Montage, store: Store) -> Montage:
    """The montage judged by what it had when the store first recorded it.

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


def keep_truth(montage: Montage, frames: str, store: Store) -> None:
    """Keep what a simulation left in the folder `frames` of the montage, if it did.

    The store keeps it for the steps that follow: frames leave their folder.
    """
    truth = truth_beside(montage, frames)
    if truth is not None:
        name = layout.montage_truth(montage.acquisition_id)
        store.write(name, truth, MontageTruth)


def truth_of(acquisition_id: str, store: Store) -> MontageTruth | None:
    """Where the tiles of a montage truly lay; None where no simulation knows it."""
    name = layout.montage_truth(acquisition_id)
    return store.read(name, MontageTruth) if store.exists(name) else None


def choose_lens(montage: Montage, store: Store) -> LensModel | None:
    """The model of the lens that imaged `montage`, saved for its later steps.

    That of its recipe, where the store still has what it had when this was decided
    live; else the present one. Without a calibration of that microscope and
    magnification it is None.
    """
    lens = None
    if montage.magnification is not None:
        name = layout.lens(montage.microscope, montage.magnification)
        lens = store.read(name, LensModel) if store.exists(name) else None
    recipe = store.url(layout.recipe(montage.acquisition_id))
    kept = read_tile_recipe(recipe, store.options)
    if kept is not None and kept.is_live and kept.stored_lens == lens_digest(lens):
        lens = kept.lens
    # an empty one, too: later steps must not take a lens that came since
    saved = () if lens is None else (lens,)
    name = layout.lens_in_use(montage.acquisition_id)
    store.write(name, saved, tuple[LensModel, ...])
    return lens


def lens_in_use(acquisition_id: str, store: Store) -> LensModel | None:
    """The model with which the montage was matched, even if there is a newer one."""
    saved = store.read(layout.lens_in_use(acquisition_id), tuple[LensModel, ...])
    return saved[0] if saved else None
