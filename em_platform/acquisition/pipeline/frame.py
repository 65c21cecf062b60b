"""One raw frame becomes a processed one and what the messages say of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.pipeline.noted import NotedTile, Shape
from em_platform.acquisition.pipeline.pictures import preview_and_mini
from em_platform.acquisition.pipeline.references import References
from em_platform.config import TileSettings
from em_platform.config.pipeline import PipelineSettings
from em_platform.errors import DataError
from em_platform.formats.image import read_image
from em_platform.formats.tiff import encode_tiff
from em_platform.imaging.contrast import grey_range
from em_platform.imaging.correct import FlatField
from em_platform.imaging.tile import ProcessedTile, process_tile
from em_platform.imaging.valid import valid_region
from em_platform.model import Box, Size, TileStats
from em_platform.storage.atomic import whole_file

GreyRange = tuple[float, float]
Agree = Callable[[str, GreyRange | None], GreyRange | None]
"""Montage and a proposed grey range -> the one that all of its tiles use."""

Said = tuple[str, dict[str, Any]]
"""A topic and the fields of a message."""

_REFERENCES = "references"  # beside the montages; they hold for frames of none
_MOST_FRAME = 0.12  # of a side can be a camera's black frame; as in stitching.measure


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessedFrame:
    """The 8-bit tile, where it shows specimen, and its flat field's complaint if any.

    `complaint` is empty, or the sentence why the flat field could not be applied.
    """

    tile: ProcessedTile
    shape: Shape
    complaint: str = ""


def process_frame(
    noted: NotedTile,
    *,
    references: References,
    settings: TileSettings,
    agree: Agree,
    flip: bool = False,
) -> ProcessedFrame:
    """Read the frame of a tile and finish it.

    Raises
    ------
    DataError
        The frame cannot be read, or is not a grey image.
    """
    raw = read_image(noted.path)
    if flip:
        raw = np.ascontiguousarray(raw[:, ::-1])
    flat, complaint = _flat_field(noted, raw, references)
    limits = settings.grey_range or _grey_range(noted, raw, flat, settings, agree)
    valid = _valid_box(raw)
    tile = process_tile(
        raw, tile_id=noted.tile_id, flat_field=flat, grey_range=limits, valid=valid
    )
    size = Size(height_px=raw.shape[0], width_px=raw.shape[1])
    return ProcessedFrame(
        tile=tile, shape=Shape(size=size, valid=valid), complaint=complaint
    )


def write_processed(noted: NotedTile, image: NDArray[np.uint8]) -> None:
    """Put the processed TIFF beside the frame, whole or not at all.

    It is not forced to the disk: the raw frame is the master, from which it can be made
    again after a power cut.
    """
    with whole_file(Path(noted.processed_path)) as beside:
        beside.write_bytes(encode_tiff(image))


def results(
    noted: NotedTile, done: ProcessedFrame, settings: PipelineSettings
) -> list[Said]:
    """The messages that need no neighbour."""
    stats, fields = done.tile.stats, noted.fields()
    longer_px = max(done.tile.image.shape)
    preview, mini = preview_and_mini(done.tile.half, settings, longer_px=longer_px)
    said: list[Said] = [
        ("tile.statistics.min_max_mean", fields | _figures(stats)),
        # Upstream's focus falls as the image gets sharper; ours rises.
        ("tile.statistics.focus", fields | {"focus": 1.0 - stats.focus}),
        ("tile.statistics.histogram", fields | {"hist": list(stats.histogram)}),
        ("tile.preview", fields | {"image": preview}),
    ]
    if noted.montage:
        said += [
            ("tile.mini", fields | {"image": mini}),
            ("tile.processed", fields | {"path": noted.processed_path}),
        ]
    return said


def _figures(stats: TileStats) -> dict[str, int]:
    return {
        "min": stats.minimum,
        "max": stats.maximum,
        "mean": round(stats.mean),
        "std": round(stats.std),
    }


def _flat_field(
    noted: NotedTile, raw: NDArray[Any], references: References
) -> tuple[FlatField | None, str]:
    """What is applied, and why what lies there is not."""
    if noted.body.get("brightfield") or noted.body.get("darkfield"):
        return None, ""  # of these the flat field is made
    folder = Path(noted.path).parent
    field = references.flat_field(folder)
    if field is None and not noted.montage:
        folder = folder.parent / _REFERENCES
        field = references.flat_field(folder)
    if field is None or field.gain.shape == raw.shape:
        return field, ""
    found = " x ".join(map(str, field.gain.shape))
    expected = " x ".join(map(str, raw.shape))
    return None, (
        f"pipeline: the flat field in {folder} is {found} px, the frames are "
        f"{expected}, which stay as they are; take it again with these settings"
    )


def _grey_range(
    noted: NotedTile,
    raw: NDArray[Any],
    flat: FlatField | None,
    settings: TileSettings,
    agree: Agree,
) -> GreyRange | None:
    """None where 8-bit levels stay; of other frames one range for all of a montage."""
    if raw.dtype == np.uint8:
        return None
    known = agree(noted.montage, None) if noted.montage else None
    if known is not None:
        return known
    try:
        own = grey_range([raw], settings.percentiles, flat_field=flat)
    except DataError:
        return None  # black: the next tile may tell
    return agree(noted.montage, own) if noted.montage else own


def _valid_box(raw: NDArray[Any]) -> Box:
    """Without a camera's black frame; a side on which more is black stays whole."""
    height, width = raw.shape
    box = valid_region(raw)
    if box.y1 <= box.y0 or box.x1 <= box.x0:
        return Box(y0=0, x0=0, y1=height, x1=width)
    return Box(
        y0=box.y0 if box.y0 <= _MOST_FRAME * height else 0,
        x0=box.x0 if box.x0 <= _MOST_FRAME * width else 0,
        y1=box.y1 if height - box.y1 <= _MOST_FRAME * height else height,
        x1=box.x1 if width - box.x1 <= _MOST_FRAME * width else width,
    )
