"""The metafile of an Allen TEMCA (TileQC): stage places in nm, turned by an angle.

Conversion after em_stitch (github.com/AllenInstitute/em_stitch, BSD-2-Clause): with
x, y the stage place over the pixel size and a the calibration angle,
`X = x cos a + y sin a` and `Y = -x sin a + y cos a`, less the smallest.
"""

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from em_platform.errors import FormatError
from em_platform.formats import join_uri
from em_platform.model import Failure
from em_platform.model.base import Foreign, first_problem
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
    pixel_size,
)


def claims(name: str, content: Any) -> bool:
    """Whether this is a list of `{"metadata"}` and `{"data"}` objects."""
    return isinstance(content, list) and {"metadata", "data"} <= _keys(content)


class _Seen(Foreign):
    """What the microscope says of one image."""

    stage_pos: tuple[float, ...] | None = None
    pixel_size: float | None = None
    angle: float | None = None
    raster_pos: tuple[int, int] | None = None


class _Entry(Foreign):
    img_path: str = Field(min_length=1)
    img_meta: _Seen | None = None


class _Highmag(Foreign):
    nm_per_pix: float | None = None
    angle: float | None = None


class _Calibration(Foreign):
    highmag: _Highmag | None = None


class _About(Foreign):
    calibration: _Calibration | None = None
    temca_id: str | None = None
    roi_creation_time: str | None = None


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """The tiles of `data`, placed by stage, pixel size and angle of the calibration."""
    parts = {
        k: v for part in content if isinstance(part, dict) for k, v in part.items()
    }
    uri = place.uri(name)
    try:
        about = _About.model_validate(parts["metadata"] or {})
    except ValidationError as error:
        raise FormatError(
            f"{uri}: its metadata cannot be used ({first_problem(error)}), expected "
            "those of a TEMCA; copy it again from the microscope"
        ) from error
    highmag = (about.calibration and about.calibration.highmag) or _Highmag()
    tiles: list[ListedTile] = []
    failures: list[Failure] = []
    sizes: list[float | None] = []
    for found in parts["data"] if isinstance(parts["data"], list) else ():
        try:
            entry = _Entry.model_validate(found)
        except ValidationError as error:
            failures.append(_unusable(uri, found, first_problem(error)))
            continue
        seen = entry.img_meta or _Seen()
        stated = highmag.nm_per_pix if seen.pixel_size is None else seen.pixel_size
        sizes.append(options.pixel_nm or pixel_size(stated))
        tiles.append(_tile(place, entry.img_path, seen, highmag, sizes[-1]))
    if not tiles:
        raise FormatError(
            f"{uri}: found no tile with an img_path, expected some in data; give the "
            "metafile of a montage"
        )
    return TileList(
        uri=uri,
        tiles=_from_corner(tiles),
        failures=tuple(failures),
        pixel_nm=sizes[0],
        microscope=about.temca_id or "unknown",
        modality="TEM",  # a TEMCA: a TEM with a camera array
        started_at=_time(about.roi_creation_time),
    )


def _tile(
    place: TileFolder, path: str, seen: _Seen, highmag: _Highmag, pixel_nm: float | None
) -> ListedTile:
    # The path on the microscope's computer; the file lies beside the list now.
    name = path.replace("\\", "/").rpartition("/")[2]
    # Padded: a tile without a place is a failure of its own.
    stage_x, stage_y = (*(seen.stage_pos or ()), math.nan, math.nan)[:2]
    angle = math.radians((highmag.angle or 0.0) if seen.angle is None else seen.angle)
    x, y = stage_x / (pixel_nm or math.nan), stage_y / (pixel_nm or math.nan)
    # em_stitch has the column first.
    column, row = seen.raster_pos or (None, None)
    return ListedTile(
        name=name,
        uri=join_uri(place.folder, name),
        x_px=x * math.cos(angle) + y * math.sin(angle),
        y_px=-x * math.sin(angle) + y * math.cos(angle),
        row=row,
        column=column,
        stage_nm=(stage_y, stage_x) if math.isfinite(stage_x + stage_y) else None,
    )


def _from_corner(tiles: list[ListedTile]) -> tuple[ListedTile, ...]:
    x0 = min((t.x_px for t in tiles if math.isfinite(t.x_px)), default=0.0)
    y0 = min((t.y_px for t in tiles if math.isfinite(t.y_px)), default=0.0)
    return tuple(replace(t, x_px=t.x_px - x0, y_px=t.y_px - y0) for t in tiles)


def _keys(content: list[Any]) -> set[str]:
    # The first few: a long list of another kind is not walked through.
    return {key for part in content[:8] if isinstance(part, dict) for key in part}


def _time(text: Any) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _unusable(uri: str, entry: Any, problem: str) -> Failure:
    shown = repr(entry)[:60]
    return Failure(
        item=shown,
        error="FormatError",
        sentence=f"{uri}: an entry of data cannot be used ({problem}: {shown}), "
        "expected an img_path and an img_meta; complete it",
    )
