"""How the frames of a montage become 8-bit tiles, decided once for all of them.

Flat field, grey range, valid box, mirroring and lens are chosen here and nowhere else:
live at the first tile that shows something, afterwards from a sample of all tiles.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.config import TileSettings
from em_platform.errors import DataError, FormatError
from em_platform.imaging.contrast import percentile_range, sampled_levels
from em_platform.imaging.valid import finite, valid_region
from em_platform.model import Box, LensModel, Model, Montage, Size, Tile
from em_platform.stitching.flat_field import (
    Kind,
    KnownFlatField,
    acquired_flat_field,
    demanded_flat_field,
    estimated_flat_field,
    mirrored,
    misfit,
)
from em_platform.stitching.tile_images import TileImages
from em_platform.storage.layout import StorageOptions

KERNEL = 2
"""Raise it when the same frame and recipe give other pixels, figures or matches."""

# One more reading each; a range of one tile clips more (decision 0019).
_SAMPLE_TILES = 12
_FLAT_TILES = 49  # few would give their tissue and not the light
_MOST_FRAME = 0.12  # of a side can be a camera's black frame; more is dark specimen


class UsedFlatField(Model):
    """The flat field of a recipe, by its content: the SHA-256 of its planes."""

    kind: Kind
    digest: str


class TileRecipe(Model):
    """What was decided for one montage; equal digests give equal tiles and matches.

    `grey_range` and `valid_box` are as in `TileImages`. With `flip` frames are mirrored
    left to right before anything else. `lens` corrects the matches.

    `settings` is the digest of the settings that it follows. `is_live`: it was decided
    while the montage was imaged, when `stored_lens` was the digest of what the store
    held for this lens (empty: nothing).
    """

    size: Size
    flip: bool = False
    flat_field: UsedFlatField | None = None
    grey_range: tuple[float, float] | None = None
    valid_box: Box | None = None
    lens: LensModel | None = None
    kernel: int = KERNEL
    settings: str = ""
    is_live: bool = False
    stored_lens: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of all that changes a tile or a match."""
        return _digest(self, leave_out={"settings", "is_live", "stored_lens"})

    def follows(self, settings: TileSettings, *, flip: bool | None = None) -> bool:
        """Whether these settings would be followed by it, still.

        A flat field that is asked for and was not there while the montage was imaged
        may be there now. `flip` of None asks for none in particular.
        """
        kind = None if self.flat_field is None else self.flat_field.kind
        # `auto` and `none` take any kind: the digest of the settings decides.
        asked = {"acquired": "acquired", "estimate": "estimated"}
        return (
            self.kernel == KERNEL
            and self.settings == settings_digest(settings)
            and flip in (None, self.flip)
            and asked.get(settings.flat_field, kind) == kind
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe with what is needed to act by it: the planes of its flat field."""

    tile: TileRecipe
    flat_field: KnownFlatField | None = None

    def images(self, options: StorageOptions | None = None) -> TileImages:
        """Reads raw frames by it."""
        return TileImages(
            flat_field=None if self.flat_field is None else self.flat_field.field,
            grey_range=self.tile.grey_range,
            valid_box=self.tile.valid_box,
            flip=self.tile.flip,
            options=options or {},
        )

    def processed_images(self, options: StorageOptions | None = None) -> TileImages:
        """Reads tiles that were made by it: as they are, within the valid box."""
        return processed_images(self.tile, options)


def decide_recipe(
    sample: Iterable[NDArray[Any]],
    settings: TileSettings,
    *,
    flat_field: KnownFlatField | None,
    flip: bool = False,
) -> Recipe:
    """The one recipe of a montage, from some of its frames.

    Parameters
    ----------
    sample
        `(h, w)` each, mirrored already where `flip` says so; each is looked at once.
    flat_field
        What may be applied; of frames as they are after mirroring.

    Raises
    ------
    DataError
        None of the frames shows anything.
    """
    flat = None if flat_field is None else flat_field.field
    cuts, levels = [], []
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    size = Size(height_px=1, width_px=1)
    for frame in map(finite, sample):
        size = Size(height_px=frame.shape[0], width_px=frame.shape[1])
        box = valid_region(frame)
        if box.y1 <= box.y0 or box.x1 <= box.x0:
            continue
        cuts.append((box.y0, box.x0, size.height_px - box.y1, size.width_px - box.x1))
        dtype = frame.dtype
        if settings.grey_range is None and dtype != np.uint8:
            levels.append(sampled_levels(frame, box, flat))
    if not cuts:
        raise DataError(
            "the frames that were looked at show nothing, expected images of a "
            "specimen; check shutter and beam"
        )
    grey_range = settings.grey_range
    if levels:
        grey_range = percentile_range(levels, settings.percentiles)
    return Recipe(
        tile=TileRecipe(
            size=size,
            flip=flip,
            flat_field=_used(flat_field),
            grey_range=grey_range,
            valid_box=_common_box(cuts, size),
            settings=settings_digest(settings),
        ),
        flat_field=flat_field,
    )


def choose_recipe(
    montage: Montage,
    settings: TileSettings,
    *,
    options: StorageOptions | None = None,
    references: str | None = None,
    flip: bool = False,
) -> Recipe:
    """As `decide_recipe`, from tiles spread over a montage that is there as a whole.

    An acquired flat field lies in the folder `references`, by default beside the first
    tile.

    Raises
    ------
    ConfigError
        An acquired flat field is asked for, and no bright frame lies there.
    DataError
        None of the tiles looked at shows anything.
    """
    plain = TileImages(flip=flip, options=options or {})
    folder = references or folder_of(montage)
    flat = _flat_field(montage, settings, images=plain, folder=folder)
    sample = _readable(montage.tiles, plain, count=_SAMPLE_TILES)
    try:
        return decide_recipe(sample, settings, flat_field=flat, flip=flip)
    except DataError as error:
        raise DataError(
            f"montage {montage.acquisition_id}: none of its {len(montage.tiles)} tiles "
            "shows anything, expected images; copy them again from the microscope"
        ) from error


def processed_images(
    recipe: TileRecipe, options: StorageOptions | None = None
) -> TileImages:
    """Reads tiles that were made by a recipe: as they are, within the valid box."""
    return TileImages(
        valid_box=recipe.valid_box, flip_masks=recipe.flip, options=options or {}
    )


def folder_of(montage: Montage) -> str:
    """Where the first tile lies; empty for a montage without tiles."""
    return montage.tiles[0].uri.rpartition("/")[0] if montage.tiles else ""


def settings_digest(settings: Model) -> str:
    """By which it is found out whether something was made with these settings."""
    return _digest(settings)


def lens_digest(lens: LensModel | None) -> str:
    """Of a lens model; empty for none."""
    return "" if lens is None else _digest(lens)


def _digest(model: Model, leave_out: set[str] | None = None) -> str:
    text = model.model_dump_json(exclude=leave_out)
    return hashlib.sha256(text.encode()).hexdigest()


def _used(flat_field: KnownFlatField | None) -> UsedFlatField | None:
    if flat_field is None:
        return None
    return UsedFlatField(kind=flat_field.kind, digest=flat_field.digest)


def _common_box(cuts: Sequence[tuple[int, ...]], size: Size) -> Box | None:
    """The part of the frame that shows specimen in all tiles; None for all of it.

    Cameras of one microscope differ a little in their black frames, so that each side
    is cut as far as in the worst tile, unless that is more than a frame can be.
    """
    height, width = size.height_px, size.width_px
    most = _MOST_FRAME * np.array([height, width, height, width])
    worst = np.where(np.array(cuts) <= most, cuts, 0).max(axis=0).tolist()
    y0, x0, below, right = worst
    if not any(worst):
        return None
    return Box(y0=y0, x0=x0, y1=height - below, x1=width - right)


def _flat_field(
    montage: Montage, settings: TileSettings, *, images: TileImages, folder: str
) -> KnownFlatField | None:
    size = montage.tile_size
    if settings.flat_field == "none":
        return None
    if settings.flat_field == "estimate":
        tiles = _readable(montage.tiles, images, count=_FLAT_TILES)
        # From frames that are mirrored already; reference files are not.
        return estimated_flat_field(tiles, size)
    if settings.flat_field == "acquired":
        found = demanded_flat_field(folder, size=size, options=images.options)
    else:
        there = acquired_flat_field(folder, images.options)
        # `auto` goes on without what is of another camera; `acquired` complains.
        if there is None or misfit(there, size, folder):
            return None
        found = there
    return mirrored(found) if images.flip else found


def _readable(
    tiles: Sequence[Tile], images: TileImages, *, count: int
) -> Iterator[NDArray[Any]]:
    """Up to `count` tiles spread over the montage, without those that cannot be read.

    A tile of one constant grey level says nothing and is passed over too.
    """
    step = max(1, len(tiles) / count)
    spread = [tiles[int(n * step)] for n in range(min(count, len(tiles)))]
    for tile in spread:
        try:
            raw = finite(images.read_raw(tile))
        except FormatError:
            continue
        # One pixel in 64 shows whether there is more than one grey.
        if raw[::8, ::8].min() < raw[::8, ::8].max():
            yield raw
