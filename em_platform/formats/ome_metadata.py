"""What the group of an image states: OME-NGFF 0.5's axes and levels, and our review.

Source: https://ngff.openmicroscopy.org/0.5/
"""

from collections.abc import Mapping, Sequence
from typing import Any

from em_platform.formats.pyramid import Pyramid
from em_platform.model import Review


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
    # OME-NGFF demands a scale also of axes whose length nobody knows.
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


AXES = "tczyx"
"""Names of axes in the order of storage; an image has the last ones."""

_OURS = "em_platform"


def mosaic_attributes(origin_px: Sequence[int], review: Review) -> dict[str, Any]:
    """What the group of a mosaic says beside OME-NGFF: its place and its review."""
    ours = {"origin_px": list(origin_px), "review": review.model_dump(mode="json")}
    return {_OURS: ours}


def review_in(attributes: Mapping[str, Any]) -> Review | None:
    """The review in a group's attributes; None where there is none that we know."""
    ours = attributes.get(_OURS)
    found = ours.get("review") if isinstance(ours, Mapping) else None
    try:
        return Review.model_validate(found)
    except ValueError:  # not ours, or of a version to come: it says nothing to us
        return None
