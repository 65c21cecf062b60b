"""How finely and how high a tomogram is made, by its images and its specimen."""

from dataclasses import dataclass

from em_platform.errors import ConfigError

# Those of cryoem-services' AreTomo service, which are for a camera of this side.
_SIDE_PX = 4096
_LEAST_HEIGHT_PX, _MORE_PX = 600, 400
# Of a binned image; 4 for a camera of 4096 px leaves 1024 px.
_LEAST_SIDE_PX = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TomogramSize:
    """Pixels of the stack, but for the binning of them; `reason` says both."""

    binning: int
    height_px: int
    reason: str


def tomogram_size(
    shape: tuple[int, int, int],
    *,
    thickness_px: float | None,
    binning: int | None,
    height_px: int | None,
    least_px: int | None,
    more_px: int | None,
    most_px: int,
) -> TomogramSize:
    """The size of a tomogram of a stack `(images, h, w)`; what is None is chosen.

    Parameters
    ----------
    thickness_px
        Of the specimen, where it was found; then the height is at least `least_px`, and
        `more_px` more than it.

    Raises
    ------
    ConfigError
        The least height is above the greatest.
    """
    if least_px is not None and least_px > most_px:
        raise ConfigError(
            f"reconstruct: found the least height {least_px} px above the greatest, "
            f"{most_px} px; correct --min-vol or --max-vol"
        )
    short, side = min(shape[1:]), max(shape[1:])
    why = "as asked"
    if binning is None:
        binning = next((n for n in (4, 2) if short // n >= _LEAST_SIDE_PX), 1)
        why = f"of {short} px {short // binning} are left"
    reason = f"binned by {binning}: {why}"
    if height_px is not None:
        why = "as asked"
    elif thickness_px is None:
        height_px = min(most_px, side // 2)
        why = "half of an image, as no thickness was found"
    else:
        share = min(1.0, side / _SIDE_PX)
        least = round(_LEAST_HEIGHT_PX * share) if least_px is None else least_px
        more = round(_MORE_PX * share) if more_px is None else more_px
        height_px = min(max(round(thickness_px) + more, least), most_px)
        why = f"of a thickness of {thickness_px:g} px and {more} px more"
        if height_px in (least, most_px):
            why = f"the {'least' if height_px == least else 'most'}, {why}"
    return TomogramSize(
        binning=binning,
        height_px=height_px,
        reason=f"{reason}; {height_px} px of the stack high: {why}",
    )
