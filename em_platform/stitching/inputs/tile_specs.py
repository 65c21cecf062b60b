"""Tile specs of render: files by base name and mipmap level, masks, nominal places.

The files named in a spec often lie elsewhere by now; they are looked for beside the
list by base name, with or without the `_level_N_mipmap` that render appends. Which
level a file really is follows from its size. Places are level-0 pixels, so they are
divided by `2**level`; they are also freed of the transforms' mean scale and rotation,
so that a nominal shift is in the tiles' own pixels.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import DataError, FormatError
from em_platform.formats import SUFFIXES, compose_affine, read_header
from em_platform.model import Failure
from em_platform.stitching.inputs.table import number
from em_platform.stitching.tile_list import InputOptions, ListedTile, Place, TileList

_LEVEL = re.compile(r"_level_(?P<level>\d+)_mipmap\.[A-Za-z]+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    name: str
    uri: str
    level: int
    mask_uri: str | None
    matrix: NDArray[np.float64]
    row: int | None
    column: int | None


def claims(name: str, content: Any) -> bool:
    """Whether this is a list of tile specs, or render's resolved tiles."""
    specs, _ = _specs(content)
    return bool(specs) and isinstance(specs[0], dict) and "mipmapLevels" in specs[0]


def read(place: Place, name: str, *, content: Any, options: InputOptions) -> TileList:
    """The tiles whose files are there; the others are failures."""
    specs, shared = _specs(content)
    uri = place.uri(name)
    beside = _by_stem(place)
    placed: list[_Placed] = []
    failures: list[Failure] = []
    for spec in specs:
        try:
            tile = _find(place, spec, beside=beside, shared=shared, options=options)
            placed.append(tile)
        except DataError as error:
            failures.append(
                Failure(
                    item=_item(spec), error=type(error).__name__, sentence=str(error)
                )
            )
    if not placed:
        first = failures[0].sentence if failures else "the list is empty"
        raise FormatError(
            f"{uri}: none of its {len(specs)} tiles can be used, expected their files "
            f"beside it; copy them there (first: {first})"
        )
    return TileList(
        uri=uri,
        tiles=_in_own_pixels(placed),
        failures=tuple(failures),
        pixel_nm=options.pixel_nm,
    )


def _specs(content: Any) -> tuple[list[Any], dict[str, Mapping[str, Any]]]:
    if isinstance(content, dict):
        specs = content.get("tileSpecs") or content.get("tileIdToSpecMap") or []
        shared = content.get("transformSpecs") or content.get("transformIdToSpecMap")
        shared = shared or {}
        if isinstance(shared, list):
            shared = {str(t.get("id")): t for t in shared}
        return list(specs.values() if isinstance(specs, dict) else specs), shared
    return (content if isinstance(content, list) else []), {}


def _find(
    place: Place,
    spec: Mapping[str, Any],
    *,
    beside: Mapping[str, list[str]],
    shared: Mapping[str, Mapping[str, Any]],
    options: InputOptions,
) -> _Placed:
    # As numbers: as text 10 would come before 2.
    levels = sorted((int(k), v) for k, v in spec["mipmapLevels"].items())
    seen: list[int] = []
    for named_level, urls in levels:
        uri = _file(place, urls.get("imageUrl"), beside)
        if uri is None:
            continue
        level = _true_level(uri, spec, named_level=named_level, options=options)
        seen.append(level)
        if options.level is None or level == options.level:
            mask = _file(place, urls.get("maskUrl"), beside)
            return _placed(uri, spec, level=level, mask=mask, shared=shared)
    if seen:
        raise FormatError(
            f"{_item(spec)}: found files of mipmap level {seen}, level {options.level} "
            "was asked for; leave out --level"
        )
    raise FormatError(
        f"{_item(spec)}: found no file {_base(levels[0][1].get('imageUrl'))} in "
        f"{place.folder}, expected it there; copy it there or take it off the list"
    )


def _placed(
    uri: str,
    spec: Mapping[str, Any],
    *,
    level: int,
    mask: str | None,
    shared: Mapping[str, Mapping[str, Any]],
) -> _Placed:
    transforms = spec.get("transforms") or {}
    listed = transforms if isinstance(transforms, list) else [transforms]
    matrix = compose_affine(listed, shared)
    layout = spec.get("layout") or {}
    if matrix is None:
        matrix = np.eye(3)
        matrix[0, 2] = number(layout.get("stageX", spec.get("minX")))
        matrix[1, 2] = number(layout.get("stageY", spec.get("minY")))
    return _Placed(
        name=uri.rpartition("/")[2],
        uri=uri,
        level=level,
        mask_uri=mask,
        matrix=matrix,
        row=layout.get("imageRow"),
        column=layout.get("imageCol"),
    )


def _file(place: Place, url: Any, beside: Mapping[str, list[str]]) -> str | None:
    """A file of that base name beside the list, else the file itself."""
    if not url:
        return None
    base = _base(url)
    if base in place.names:
        return place.uri(base)
    plain = _LEVEL.sub("", base)
    if plain in place.names:
        return place.uri(plain)
    found = beside.get(_stem(plain), [])
    if found:
        return place.uri(found[0])
    # Written as file:/path and as file:///path.
    path = re.sub(r"^file:/*", "/", str(url))
    return path if path.startswith("/") and Path(path).is_file() else None


def _true_level(
    uri: str, spec: Mapping[str, Any], *, named_level: int, options: InputOptions
) -> int:
    width = number(spec.get("width"))
    if not width > 0:
        return named_level
    found = read_header(uri, options.options).size.width_px
    return max(0, round(math.log2(width / found)))


def _in_own_pixels(placed: list[_Placed]) -> tuple[ListedTile, ...]:
    mean = np.mean([p.matrix[:2, :2] for p in placed], axis=0)
    # Transforms whose mean has no area cannot be undone.
    back = np.linalg.inv(mean) if abs(np.linalg.det(mean)) > 1e-6 else np.eye(2)
    corners = [back @ p.matrix[:2, 2] / 2**p.level for p in placed]
    return tuple(
        ListedTile(
            name=p.name,
            uri=p.uri,
            x_px=float(corner[0]),
            y_px=float(corner[1]),
            row=p.row,
            column=p.column,
            mask_uri=p.mask_uri,
        )
        for p, corner in zip(placed, corners, strict=True)
    )


def _by_stem(place: Place) -> dict[str, list[str]]:
    images: dict[str, list[str]] = {}
    for name in place.names:
        if name.lower().endswith(SUFFIXES):
            images.setdefault(_stem(name), []).append(name)
    return images


def _base(url: Any) -> str:
    return str(url).replace("\\", "/").rpartition("/")[2]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _item(spec: Any) -> str:
    return str(spec.get("tileId", "a tile spec") if isinstance(spec, dict) else spec)
