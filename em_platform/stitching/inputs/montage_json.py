"""A montage as this platform writes it (`montage.json`, `tiles.json`)."""

from typing import Any

from pydantic import ValidationError

from em_platform.errors import RecordError
from em_platform.formats import join_uri
from em_platform.model import Montage
from em_platform.model.base import first_problem
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
)


def claims(name: str, content: Any) -> bool:
    """Whether this is a montage of ours."""
    return isinstance(content, dict) and {"acquisition_id", "tile_size"} <= set(content)


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """Its tiles, and what was excluded when it was written."""
    uri = place.uri(name)
    try:
        montage = Montage.model_validate(content)
    except ValidationError as error:
        raise RecordError(
            f"{uri}: not a montage ({first_problem(error, Montage)}); run the step "
            "that makes it again"
        ) from error
    return TileList(
        uri=uri,
        tiles=tuple(
            ListedTile(
                name=tile.tile_id,
                uri=join_uri(place.folder, tile.uri),
                x_px=tile.x_px,
                y_px=tile.y_px,
                row=tile.row,
                column=tile.column,
                mask_uri=tile.mask_uri,
            )
            for tile in montage.tiles
        ),
        failures=montage.failures,
        planned_tiles=montage.expected_tiles,
        pixel_nm=options.pixel_nm or montage.pixel_nm,
        microscope=montage.microscope,
        modality=montage.modality,
        magnification=montage.magnification,
        started_at=montage.started_at,
        ended_at=montage.ended_at,
    )
