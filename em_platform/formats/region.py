"""The part of a volume that is asked for, in whole numbers."""

from em_platform.formats.volume import Region

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def bounds_of(region: Region, shape: tuple[int, int, int]) -> Bounds:
    """First and end voxel along z, y, x; cut at the volume's edges as numpy does.

    Raises
    ------
    ValueError
        A step other than 1.
    """
    found = []
    for part, length in zip(region, shape, strict=True):
        first, end, step = part.indices(length)
        if step != 1:
            raise ValueError(f"a region of every {step}. voxel cannot be read")
        found.append((first, max(first, end)))
    z, y, x = found
    return z, y, x


def shape_of(bounds: Bounds) -> tuple[int, int, int]:
    """How many voxels along z, y, x."""
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return z1 - z0, y1 - y0, x1 - x0
