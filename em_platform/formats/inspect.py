"""What a file or URL is, in words and numbers, without its pixels."""

from collections.abc import Mapping
from typing import Any

from em_platform.formats.open_volume import open_volume
from em_platform.model.volume import VolumeInfo

Described = dict[str, Any]
"""JSON-ready: `uri format shape dtype voxel_size_nm origin_nm … tags`."""


def inspect(uri: str, options: Mapping[str, Any] | None = None) -> VolumeInfo:
    """What is known of the image at a path or URL; errors as of `open_volume`."""
    return open_volume(uri, options).info


def described(info: VolumeInfo) -> Described:
    """The same as plain values: axes z, y, x, lengths nm, sizes bytes."""
    found: Described = info.model_dump(mode="json")
    found["pixel_bytes"] = info.pixel_bytes
    return found


def extent_nm(info: VolumeInfo) -> tuple[float, float, float] | None:
    """Edges of the whole along z, y, x; 0 where a plane states no thickness."""
    if info.voxel_size_nm is None:
        return None
    z, y, x = (
        length * count
        for length, count in zip(info.voxel_size_nm, info.shape, strict=True)
    )
    return z, y, x
