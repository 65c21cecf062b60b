"""The verdict that a mosaic carries in its own attributes, for who finds it later."""

from collections.abc import Mapping, Sequence
from typing import Any

from em_platform.model import Review

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


def review_at(url: str, *, options: Mapping[str, Any]) -> Review | None:
    """The review of the OME-Zarr image at `url`; None for one that was not stitched."""
    import zarr

    from em_platform.formats.zarr_store import store_at

    group = zarr.open_group(store_at(url, dict(options)), mode="r", zarr_format=3)
    return review_in(group.attrs.asdict())
