"""From a list of tiles to a montage: each file looked at, what is wrong rejected."""

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from em_platform.errors import DataError, FormatError
from em_platform.formats import ImageHeader, local_path, read_header
from em_platform.formats.open import stated_modality
from em_platform.model import Failure, Montage, Size, Tile
from em_platform.model.sentences import size_of
from em_platform.stitching.canvas import FARTHEST_PX, within_reach
from em_platform.stitching.grid import estimate_pitch, rows_and_columns
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileList,
    pixel_size,
)

log = logging.getLogger(__name__)

PLAIN_NAMES = {"tiles", "tile", "positions", "montage", "layout", "index", "list"}
"""Lists of many montages have these names; the folder tells them apart."""
# Tiles that lie nearer to each other are one tile listed twice.
_SAME_PLACE_PX = 1.0
# Headers over a network wait for answers, not for the processor.
_REMOTE_READERS = 16


def montage_of(
    tile_list: TileList, options: InputOptions, *, name: str | None = None
) -> Montage:
    """The montage of all tiles that can be used; the others are its failures.

    Raises
    ------
    DataError
        Not one tile can be used.
    """
    failures = list(tile_list.failures)
    tiles = _reject_doubles(tile_list, failures)
    tiles = _reject_lost(tiles, tile_list, failures)
    headers = _reject_unreadable(tiles, options, failures)
    headers = _reject_odd(headers, failures)
    if not headers:
        first = failures[0].sentence if failures else "the list is empty"
        raise DataError(
            f"{tile_list.uri}: found no tile that can be used among "
            f"{len(tile_list.tiles)}, expected at least one (first: {first})"
        )
    size = headers[0][1].size
    kept = _reject_distant([tile for tile, _ in headers], tile_list, size, failures)
    for failure in failures:
        log.info("%s", failure.sentence)
    # By file: a tile listed twice was planned once.
    listed = len({tile.uri for tile in tile_list.tiles}) + len(tile_list.failures)
    return Montage(
        acquisition_id=name or acquisition_id(tile_list.uri),
        montage_id=_own_name(tile_list.uri),
        tiles=_tiles(kept, tile_list, size=size, options=options),
        tile_size=size,
        pixel_nm=pixel_size(tile_list.pixel_nm),
        microscope=tile_list.microscope,
        modality=tile_list.modality or stated_modality(kept[0].uri, options.options),
        magnification=tile_list.magnification,
        expected_tiles=max(listed, tile_list.planned_tiles),
        started_at=tile_list.started_at,
        ended_at=tile_list.ended_at,
        failures=tuple(failures),
    )


def acquisition_id(uri: str) -> str:
    """A path-safe name for the input at `uri`, the same each time, unlike others'.

    The name of the list (or of its folder, where the list is just called `tiles`) and
    eight digits of the SHA-256 of its address.
    """
    path = local_path(uri)
    # Resolved: one folder has one name however it was reached.
    address = uri if path is None else str(Path(path).resolve())
    digits = hashlib.sha256(address.encode()).hexdigest()[:8]
    # 150: with suffixes it stays below the 255 bytes of a file name.
    return f"{_own_name(address)[:150]}-{digits}"


def _own_name(uri: str) -> str:
    parts = [part for part in uri.rstrip("/").split("/") if part]
    stem = re.sub(r"(\.json|\.csv|\.tsv|\.mdoc|\.mrc|\.gz|\.st)+$", "", parts[-1])
    if stem.lower() in PLAIN_NAMES and len(parts) > 1:
        stem = parts[-2]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-")
    return safe or "montage"


def _reject_doubles(tile_list: TileList, failures: list[Failure]) -> list[ListedTile]:
    by_file: dict[str, ListedTile] = {}
    by_place: dict[tuple[int, int], ListedTile] = {}
    kept = []
    for tile in tile_list.tiles:
        if tile.uri in by_file:
            failures.append(
                _failure(
                    tile,
                    f"duplicate tile {tile.name}: found twice in {tile_list.uri}, "
                    "expected once; the first is used, take the other off the list",
                )
            )
            continue
        by_file[tile.uri] = tile
        twin = by_place.setdefault(_place(tile, tile_list.on_grid), tile)
        if twin is not tile and (tile_list.on_grid or math.isfinite(tile.x_px)):
            failures.append(
                _failure(
                    tile,
                    f"duplicate tile {tile.name}: found at the place of {twin.name}, "
                    "expected one tile a place; the first is used, take one off the "
                    "list",
                )
            )
            continue
        kept.append(tile)
    return kept


def _place(tile: ListedTile, on_grid: bool) -> tuple[int, int]:
    if on_grid:
        return tile.row or 0, tile.column or 0
    if not math.isfinite(tile.x_px + tile.y_px):
        # One for all: `_reject_doubles` does not compare these.
        return -1, -1
    return round(tile.y_px / _SAME_PLACE_PX), round(tile.x_px / _SAME_PLACE_PX)


def _reject_lost(
    tiles: Sequence[ListedTile], tile_list: TileList, failures: list[Failure]
) -> list[ListedTile]:
    if tile_list.on_grid:
        return list(tiles)
    kept = []
    for tile in tiles:
        # Neither a NaN is within it.
        if abs(tile.x_px) <= FARTHEST_PX and abs(tile.y_px) <= FARTHEST_PX:
            kept.append(tile)
            continue
        failures.append(
            _failure(
                tile,
                f"tile {tile.name}: found place x = {tile.x_px}, y = {tile.y_px} in "
                f"{tile_list.uri}, expected two numbers of at most {FARTHEST_PX:g}; "
                "correct the list",
            )
        )
    return kept


def _reject_unreadable(
    tiles: Sequence[ListedTile], options: InputOptions, failures: list[Failure]
) -> list[tuple[ListedTile, ImageHeader]]:
    def look(tile: ListedTile) -> ImageHeader | FormatError:
        try:
            return read_header(tile.uri, options.options)
        except FormatError as error:
            return error

    # The first tells for all: the files of a list lie in one place.
    remote = any(local_path(tile.uri) is None for tile in tiles[:1])
    with ThreadPoolExecutor(_REMOTE_READERS if remote else 1) as pool:
        found = list(pool.map(look, tiles) if remote else map(look, tiles))
    kept = []
    for tile, header in zip(tiles, found, strict=True):
        if isinstance(header, ImageHeader):
            kept.append((tile, header))
        else:
            failures.append(_failure(tile, str(header)))
    return kept


def _reject_odd(
    headers: list[tuple[ListedTile, ImageHeader]], failures: list[Failure]
) -> list[tuple[ListedTile, ImageHeader]]:
    """Keep the tiles of the size and type that most have."""
    if not headers:
        return []
    sizes = Counter((h.size.height_px, h.size.width_px) for _, h in headers)
    height, width = sizes.most_common(1)[0][0]
    types = Counter(h.dtype for _, h in headers)
    dtype = types.most_common(1)[0][0]
    kept = []
    for tile, header in headers:
        found = header.size
        if (found.height_px, found.width_px) != (height, width):
            failures.append(
                _failure(
                    tile,
                    f"tile {tile.name}: found {found}, expected "
                    f"{size_of((height, width))} as in the other tiles; image it again "
                    "or leave it out",
                )
            )
        elif header.dtype != dtype:
            failures.append(
                _failure(
                    tile,
                    f"tile {tile.name}: found {header.dtype}, expected {dtype} as in "
                    "the other tiles; convert it or leave it out",
                )
            )
        else:
            kept.append((tile, header))
    return kept


def _reject_distant(
    tiles: Sequence[ListedTile],
    tile_list: TileList,
    size: Size,
    failures: list[Failure],
) -> list[ListedTile]:
    """Keep the tiles that lie together; most of a mosaic would be empty with others."""
    if tile_list.on_grid:
        y_px = [float(tile.row or 0) * size.height_px for tile in tiles]
        x_px = [float(tile.column or 0) * size.width_px for tile in tiles]
    else:
        y_px, x_px = [t.y_px for t in tiles], [t.x_px for t in tiles]
    near = within_reach(y_px, x_px, size)
    lost = np.flatnonzero(~near).tolist()
    sentences = [
        f"tile {tiles[n].name}: found at x = {x_px[n]:g}, y = {y_px[n]:g} px, far from "
        f"all others, expected it within the montage; correct its place in "
        f"{tile_list.uri}, or the pixel size"
        for n in lost
    ]
    if 2 * len(lost) > len(tiles):
        raise DataError(
            f"{tile_list.uri}: found {len(tiles)} tiles that are spread over more than "
            "a hundred times their own area, expected a montage; correct the places or "
            f"the pixel size (first: {sentences[0]})"
        )
    failures += [
        _failure(tiles[n], sentence)
        for n, sentence in zip(lost, sentences, strict=True)
    ]
    return [tiles[n] for n in np.flatnonzero(near).tolist()]


def _tiles(
    kept: Sequence[ListedTile],
    tile_list: TileList,
    *,
    size: Size,
    options: InputOptions,
) -> tuple[Tile, ...]:
    if tile_list.on_grid:
        down, across = _pitch(kept, size, options)
        rows = np.array([tile.row or 0 for tile in kept])
        columns = np.array([tile.column or 0 for tile in kept])
        # Names may count from 1, or be a part of a larger montage.
        rows, columns = rows - rows.min(), columns - columns.min()
        y_px, x_px = rows * down, columns * across
    else:
        y_px = np.array([tile.y_px for tile in kept])
        x_px = np.array([tile.x_px for tile in kept])
        rows, columns = rows_and_columns(y_px, x_px, size=size)
        # Of all or of none: numbers of two kinds do not fit together.
        if all(tile.row is not None and tile.column is not None for tile in kept):
            rows = np.array([tile.row for tile in kept])
            columns = np.array([tile.column for tile in kept])
    return tuple(
        Tile(
            tile_id=tile.name,
            uri=tile.uri,
            row=int(rows[n]),
            column=int(columns[n]),
            y_px=float(y_px[n]),
            x_px=float(x_px[n]),
            size=size,
            stage_y_nm=tile.stage_nm[0] if tile.stage_nm else None,
            stage_x_nm=tile.stage_nm[1] if tile.stage_nm else None,
            mask_uri=tile.mask_uri,
        )
        for n, tile in enumerate(kept)
    )


def _pitch(
    tiles: Sequence[ListedTile], size: Size, options: InputOptions
) -> tuple[float, float]:
    overlap = options.overlap
    if overlap is None:
        grid = {(tile.row or 0, tile.column or 0): tile.uri for tile in tiles}
        return estimate_pitch(grid, size=size, options=options.options)
    if overlap < 1:
        return size.height_px * (1 - overlap), size.width_px * (1 - overlap)
    return size.height_px - overlap, size.width_px - overlap


def _failure(tile: ListedTile, sentence: str) -> Failure:
    return Failure(item=tile.name, error="FormatError", sentence=sentence)
