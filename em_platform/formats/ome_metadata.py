"""What OME-NGFF 0.5 says of a pyramid: axes, and the place of each level.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from collections.abc import Sequence
from typing import Any

from em_platform.formats.level_arrays import AXES
from em_platform.formats.pyramid import Pyramid


def group_attributes(
    pyramid: Pyramid,
    name: str,
    *,
    edges: Sequence[float] | None,
    kind: str = "area",
    origin: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The attributes of the group.

    Parameters
    ----------
    edges
        Of a pixel of level 0 along each axis in nm; an axis with 0, or all without it,
        has no unit.
    kind
        How a level is made of the one below.
    origin
        The place of the first pixel's centre in nm.
    """
    axes = AXES[-len(pyramid.shard_shape) :]
    known = edges or (0.0,) * len(axes)
    sizes = [edge or 1.0 for edge in known]
    image = {
        "name": name,
        "type": kind,
        "axes": [
            {"name": axis, "type": "space"} | ({"unit": "nanometer"} if edge else {})
            for axis, edge in zip(axes, known, strict=True)
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _transformations(
                    pyramid, level, sizes=sizes, origin=origin or (0.0,) * len(axes)
                ),
            }
            for level in range(len(pyramid.shapes))
        ],
    }
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _transformations(
    pyramid: Pyramid, level: int, *, sizes: Sequence[float], origin: Sequence[float]
) -> list[dict[str, Any]]:
    scale = pyramid.scale(level)
    return [
        {
            "type": "scale",
            "scale": [size * step for size, step in zip(sizes, scale, strict=True)],
        },
        {
            "type": "translation",
            # A coordinate is that of a pixel's centre, and the first pixel of a level
            # has its centre amid those of level 0 that it covers.
            "translation": [
                start + size * (step - 1) / 2
                for start, size, step in zip(origin, sizes, scale, strict=True)
            ],
        },
    ]
