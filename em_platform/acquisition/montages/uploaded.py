"""Where the frames of a montage are: on the microscope's disk, or uploaded."""

from collections.abc import Callable
from pathlib import Path

from em_platform.model import Montage
from em_platform.storage import Store, layout

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
