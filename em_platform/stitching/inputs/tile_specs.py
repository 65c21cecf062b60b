"""Tile specs of render: files by base name and mipmap level, masks, nominal places.

The files named in a spec often lie elsewhere by now; they are looked for beside the
list by base name, with or without the `_level_N_mipmap` that render appends. Which
level a file really is follows from its size. Places are level-0 pixels, so they are
divided by `2**level`; they are also freed of the transforms' mean scale and rotation,
so that a nominal shift is in the tiles' own pixels.

Source of the data strings: github.com/axtimwalde/mpicbg and the tile specs of
github.com/saalfeldlab/render; matrices are in x, y order there and here.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from em_platform.errors import DataError, FormatError
from em_platform.formats import SUFFIXES, read_header
from em_platform.model import Failure
from em_platform.model.base import Foreign, first_problem
from em_platform.stitching.inputs.table import number
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
)

Transform: TypeAlias = Mapping[str, JsonValue]
"""One of a tile spec's: `className` and `dataString`, a `specList` of others, or of the
`type` ref with the `refId` of a shared one."""
Shared: TypeAlias = Mapping[str, Transform]
"""The list's transforms to which its tiles refer, by their ids."""

_LEVEL = re.compile(r"_level_(?P<level>\d+)_mipmap\.[A-Za-z]+$")


class _Urls(Foreign):
    image: str | None = Field(None, alias="imageUrl")
    mask: str | None = Field(None, alias="maskUrl")


class _Layout(Foreign):
    row: int | None = Field(None, alias="imageRow")
    column: int | None = Field(None, alias="imageCol")
    x: float | None = Field(None, alias="stageX")
    y: float | None = Field(None, alias="stageY")


class _Spec(Foreign):
    tile_id: str = Field("a tile spec", alias="tileId")
    levels: dict[Annotated[int, Field(ge=0, le=30)], _Urls] = Field(
        alias="mipmapLevels", min_length=1
    )
    transforms: list[dict[str, Any]] | dict[str, Any] | None = None
    layout: _Layout | None = None
    x: float | None = Field(None, alias="minX")
    y: float | None = Field(None, alias="minY")
    width: float | None = None


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


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """The tiles whose files are there; the others are failures."""
    specs, shared = _specs(content)
    uri = place.uri(name)
    beside = _by_stem(place)
    placed: list[_Placed] = []
    failures: list[Failure] = []
    for spec in specs:
        try:
            known = _parsed(spec)
            tile = _find(place, known, beside=beside, shared=shared, options=options)
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


def _specs(content: Any) -> tuple[list[Any], Shared]:
    if isinstance(content, dict):
        specs = content.get("tileSpecs") or content.get("tileIdToSpecMap") or []
        found = content.get("transformSpecs") or content.get("transformIdToSpecMap")
        listed = found if isinstance(found, list) else []
        by_id = found.items() if isinstance(found, dict) else ()
        shared = {str(t.get("id")): t for t in listed if isinstance(t, dict)}
        shared |= {str(k): t for k, t in by_id if isinstance(t, dict)}
        specs = list(specs.values()) if isinstance(specs, dict) else specs
        return (specs if isinstance(specs, list) else []), shared
    return (content if isinstance(content, list) else []), {}


def _parsed(spec: Any) -> _Spec:
    try:
        return _Spec.model_validate(spec)
    except (ValidationError, RecursionError) as error:
        raise FormatError(
            f"{_item(spec)}: its tile spec cannot be used ({first_problem(error)}), "
            "expected that of render; correct it or take it off the list"
        ) from error


def _find(
    place: TileFolder,
    spec: _Spec,
    *,
    beside: Mapping[str, list[str]],
    shared: Shared,
    options: InputOptions,
) -> _Placed:
    # As numbers: as text 10 would come before 2.
    levels = sorted(spec.levels.items(), key=lambda level: level[0])
    seen: list[int] = []
    for named_level, urls in levels:
        uri = _file(place, urls.image, beside)
        if uri is None:
            continue
        level = _true_level(uri, spec, named_level=named_level, options=options)
        seen.append(level)
        if options.level is None or level == options.level:
            mask = _file(place, urls.mask, beside)
            return _placed(uri, spec, level=level, mask=mask, shared=shared)
    if seen:
        raise FormatError(
            f"{spec.tile_id}: found files of mipmap level {seen}, level "
            f"{options.level} was asked for; leave out --level"
        )
    raise FormatError(
        f"{spec.tile_id}: found no file {_base(levels[0][1].image)} in "
        f"{place.folder}, expected it there; copy it there or take it off the list"
    )


def _placed(
    uri: str,
    spec: _Spec,
    *,
    level: int,
    mask: str | None,
    shared: Shared,
) -> _Placed:
    transforms = spec.transforms or {}
    listed = transforms if isinstance(transforms, list) else [transforms]
    matrix = compose_affine(listed, shared)
    layout = spec.layout or _Layout()
    if matrix is None:
        matrix = np.eye(3)
        matrix[0, 2] = number(spec.x if layout.x is None else layout.x)
        matrix[1, 2] = number(spec.y if layout.y is None else layout.y)
    return _Placed(
        name=uri.rpartition("/")[2],
        uri=uri,
        level=level,
        mask_uri=mask,
        matrix=matrix,
        row=layout.row,
        column=layout.column,
    )


def _file(place: TileFolder, url: Any, beside: Mapping[str, list[str]]) -> str | None:
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
    uri: str, spec: _Spec, *, named_level: int, options: InputOptions
) -> int:
    if not spec.width or spec.width <= 0:
        return named_level
    found = read_header(uri, options.options).size.width_px
    return max(0, round(math.log2(spec.width / found)))


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


def _by_stem(place: TileFolder) -> dict[str, list[str]]:
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
    named = spec.get("tileId", "a tile spec") if isinstance(spec, dict) else spec
    return str(named)[:60]


_COUNTS = {
    "TranslationModel2D": 2,
    "RigidModel2D": 3,
    "SimilarityModel2D": 4,
    "AffineModel2D": 6,
}


_MOST_DEPTH = 20
"""Of lists and references in each other; a reference may be to itself."""


def compose_affine(specs: list[Any], shared: Shared) -> NDArray[np.float64] | None:
    """One `(3, 3)` matrix of a list of transforms, first one innermost.

    Transforms that bend (lens, polynomial, thin plate) are left out; None where
    nothing else is there. `shared` resolves references by id.
    """
    matrix: NDArray[np.float64] | None = None
    for spec in _flat(specs, shared):
        one = _matrix(spec)
        if one is not None:
            matrix = one if matrix is None else one @ matrix
    return matrix


def _flat(specs: Any, shared: Shared, depth: int = 0) -> Iterable[Transform]:
    specs = specs if isinstance(specs, list) else [None]
    for spec in specs:
        if not isinstance(spec, dict) or depth > _MOST_DEPTH:
            raise FormatError(
                f"transforms: found {str(spec)[:60]!r}, expected transforms that end; "
                "correct the tile spec"
            )
        if spec.get("type") == "ref":
            found = shared.get(str(spec.get("refId")), {})
            yield from _flat([found], shared, depth + 1)
        elif "specList" in spec:
            yield from _flat(spec["specList"], shared, depth + 1)
        else:
            yield spec


def _matrix(spec: Transform) -> NDArray[np.float64] | None:
    name = str(spec.get("className", "")).rpartition(".")[2]
    if name not in _COUNTS:
        return None
    text = str(spec.get("dataString", ""))
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != _COUNTS[name] or not all(map(math.isfinite, values)):
        raise FormatError(
            f"{name}: found data {text[:60]!r}, expected {_COUNTS[name]} numbers; "
            "correct the tile spec"
        )
    if name == "AffineModel2D":
        # Column by column, as AffineModel2D.toDataString writes them.
        xx, yx, xy, yy, x, y = values
    else:
        x, y = values[-2:]
        # Rigid: angle, x, y. Similarity: scale, angle, x, y.
        scale = values[0] if name == "SimilarityModel2D" else 1.0
        angle = 0.0 if name == "TranslationModel2D" else values[-3]
        xx = yy = scale * math.cos(angle)
        yx = scale * math.sin(angle)
        xy = -yx
    return np.array([[xx, xy, x], [yx, yy, y], [0.0, 0.0, 1.0]])
