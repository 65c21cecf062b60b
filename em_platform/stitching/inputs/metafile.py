"""The metafile of an Allen TEMCA (TileQC): stage places in nm, turned by an angle.

Conversion after em_stitch (github.com/AllenInstitute/em_stitch, BSD-2-Clause): with
x, y the stage place over the pixel size and a the calibration angle,
`X = x cos a + y sin a` and `Y = -x sin a + y cos a`, less the smallest.
"""

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats import join_uri
from em_platform.model import Failure
from em_platform.stitching.inputs.table import number
from em_platform.stitching.tile_list import InputOptions, ListedTile, Place, TileList


def claims(name: str, content: Any) -> bool:
    """Whether this is a list of `{"metadata"}` and `{"data"}` objects."""
    return isinstance(content, list) and {"metadata", "data"} <= _keys(content)


def read(place: Place, name: str, *, content: Any, options: InputOptions) -> TileList:
    """The tiles of `data`, placed by stage, pixel size and angle of the calibration."""
    parts = {
        k: v for part in content if isinstance(part, dict) for k, v in part.items()
    }
    uri, about = place.uri(name), parts["metadata"] or {}
    highmag = (about.get("calibration") or {}).get("highmag") or {}
    tiles: list[ListedTile] = []
    failures: list[Failure] = []
    for entry in parts["data"] or []:
        if not isinstance(entry, dict) or not entry.get("img_path"):
            failures.append(_no_path(uri, entry))
            continue
        tiles.append(_tile(place, entry, highmag=highmag, options=options))
    if not tiles:
        raise FormatError(
            f"{uri}: found no tile with an img_path, expected some in data; give the "
            "metafile of a montage"
        )
    first = (parts["data"][0].get("img_meta") or {}) if parts["data"] else {}
    size = options.pixel_nm or _pixel_nm(first, highmag)
    return TileList(
        uri=uri,
        tiles=_from_corner(tiles),
        failures=tuple(failures),
        pixel_nm=size if size > 0 else None,
        microscope=str(about.get("temca_id") or "unknown"),
        started_at=_time(about.get("roi_creation_time")),
    )


def _tile(
    place: Place,
    entry: dict[str, Any],
    *,
    highmag: dict[str, Any],
    options: InputOptions,
) -> ListedTile:
    # The path on the microscope's computer; the file lies beside the list now.
    name = str(entry["img_path"]).replace("\\", "/").rpartition("/")[2]
    seen = entry.get("img_meta") or {}
    # Padded: a tile without a place is a failure of its own.
    stage = [*map(number, seen.get("stage_pos") or ()), math.nan, math.nan]
    stage_x, stage_y = stage[:2]
    pixel_nm = options.pixel_nm or _pixel_nm(seen, highmag)
    angle = math.radians(number(seen.get("angle", highmag.get("angle", 0.0))))
    x, y = stage_x / pixel_nm, stage_y / pixel_nm
    # em_stitch has the column first.
    raster = seen.get("raster_pos") or (None, None)
    return ListedTile(
        name=name,
        uri=join_uri(place.folder, name),
        x_px=x * math.cos(angle) + y * math.sin(angle),
        y_px=-x * math.sin(angle) + y * math.cos(angle),
        row=raster[1],
        column=raster[0],
        stage_nm=(stage_y, stage_x) if math.isfinite(stage_x + stage_y) else None,
    )


def _pixel_nm(seen: dict[str, Any], highmag: dict[str, Any]) -> float:
    return number(seen.get("pixel_size", highmag.get("nm_per_pix")))


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


def _no_path(uri: str, entry: Any) -> Failure:
    return Failure(
        item=str(entry)[:60],
        error="FormatError",
        sentence=f"{uri}: an entry of data has no img_path ({str(entry)[:60]}); "
        "complete it",
    )
