"""Crops of a large volume by their key, `z_y_x_dz_dy_dx` in voxels."""

import re

from em_platform.errors import ConfigError

Three = tuple[int, int, int]
Crop = tuple[Three, Three]
"""Corner and shape, z, y, x."""

_KEY = re.compile(r"\d+(_\d+){5}")


def crop_of(key: str) -> Crop:
    """Corner and shape that a key names.

    Raises
    ------
    ConfigError
        It names none.
    """
    numbers = [int(n) for n in key.split("_")] if _KEY.fullmatch(key) else []
    if not numbers or 0 in numbers[3:]:
        raise ConfigError(
            f"flyem: {key!r} is no crop, expected its corner and its shape in voxels "
            "as z_y_x_dz_dy_dx, such as 20000_18000_16000_512_512_512; correct "
            "ingest.flyem.items"
        )
    z, y, x, dz, dy, dx = numbers
    return (z, y, x), (dz, dy, dx)


def key_of(crop: Crop) -> str:
    """The key of a crop."""
    return "_".join(str(n) for part in crop for n in part)


def middle_crop(low: Three, high: Three, *, shape: Three, block: Three) -> Crop:
    """A crop in the middle that begins at a block, and ends at the volume's end.

    The same for the same volume, so that it is fetched once and not at each run anew.
    """
    corner, edges = [], []
    for first, end, wanted, edge in zip(low, high, shape, block, strict=True):
        length = min(wanted, end - first)
        begin = (first + (end - first - length) // 2) // edge * edge
        corner.append(max(begin, first))
        edges.append(length)
    return (corner[0], corner[1], corner[2]), (edges[0], edges[1], edges[2])


def extents(low: Three, high: Three) -> str:
    """First and last voxel along each axis, in words."""
    return ", ".join(
        f"{axis} {first}-{end - 1}"
        for axis, first, end in zip("zyx", low, high, strict=True)
    )
