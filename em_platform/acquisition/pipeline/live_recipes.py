"""The recipe of each montage that is being imaged, decided at its first tile."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.acquisition.live_products import keep_first, recipe_path
from em_platform.acquisition.pipeline.journaled import JournaledTile
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.config import Settings
from em_platform.errors import DataError
from em_platform.model import LensModel, Size
from em_platform.model.sentences import size_of
from em_platform.stitching.flat_field import (
    KnownFlatField,
    acquired_flat_field,
    mirrored,
    misfit,
)
from em_platform.stitching.recipe import (
    Recipe,
    TileRecipe,
    decide_recipe,
    lens_digest,
)
from em_platform.stitching.recipe_file import read_recipe

log = logging.getLogger(__name__)

_REFERENCES = "references"  # beside the montages; they hold for frames of none
_MONTAGES_REMEMBERED = 16  # others are read again; each may hold a flat field
BRIGHT, DARK = "bright.tiff", "dark.tiff"

_KEPT = 4  # folders; planes of 5000 x 5000 px have 200 MB (decision 19)
_State = tuple[tuple[int, int], ...]


class LiveRecipes:
    """Reads a recipe that any process has kept, or decides it from the frame at hand.

    So all processes, and all that look at the montage later, go by the same one.
    """

    def __init__(self, settings: Settings, lens: LensInForce) -> None:
        self._tile = settings.stitching.tile
        self._flip = settings.acquisition.pipeline.flip
        self._lens = lens
        self._references = References(flip=self._flip)
        self._known: dict[Path, Recipe] = {}
        self._logged: set[str] = set()

    def known(self, tile: JournaledTile) -> Recipe | None:
        """What was decided for a tile's montage; None where nothing is yet."""
        path = recipe_path(tile.path, tile.montage)
        # Read until it is there: another process may have decided since.
        found = self._known.get(path) or read_recipe(str(path))
        return None if found is None else self._remember(path, found)

    def of(self, tile: JournaledTile, raw: NDArray[Any]) -> Recipe:
        """That of a frame, `(h, w)` as its file has it.

        A frame of no montage has its own. So has one that shows nothing: the next may.

        Raises
        ------
        DataError
            The frame is of another size than its montage.
        StorageError
            The recipe cannot be kept.
        """
        found = self.known(tile) if tile.montage else None
        recipe = found or self._decide(tile, raw)
        size = recipe.tile.size
        if raw.shape == (size.height_px, size.width_px):
            return recipe
        raise DataError(
            f"tile {tile.tile_id}: found {size_of(raw.shape)}, expected one grey image "
            f"of {size} as the first of its montage; image it again"
        )

    def _decide(self, tile: JournaledTile, raw: NDArray[Any]) -> Recipe:
        if raw.ndim != 2:
            # `of` refuses the frame then: its shape is not that of a grey image.
            size = Size(height_px=raw.shape[0], width_px=raw.shape[1])
            return Recipe(tile=TileRecipe(size=size))
        # All that is decided is of frames as they are after mirroring.
        frame = np.ascontiguousarray(raw[:, ::-1]) if self._flip else raw
        size = Size(height_px=frame.shape[0], width_px=frame.shape[1])
        flat = self._flat_field(tile, size)
        try:
            recipe = decide_recipe(
                [frame], self._tile, flat_field=flat, flip=self._flip
            )
        except DataError:  # black: the next tile may tell
            blank = TileRecipe(size=size, flip=self._flip)
            return Recipe(tile=blank, flat_field=flat)
        if not tile.montage:
            return recipe
        path = recipe_path(tile.path, tile.montage)
        # Another process may have been first: then its recipe holds for all.
        kept = keep_first(self._with_lens(recipe, tile), path)
        return self._remember(path, kept)

    def _with_lens(self, recipe: Recipe, tile: JournaledTile) -> Recipe:
        """Say also by which lens; by none where it is measured from the frames."""
        is_lens = bool(tile.body.get("lens_correction"))
        lens = None if is_lens else self._fitting(self._lens.model(), recipe, tile)
        live = {
            "is_live": True,
            "lens": lens,
            # Dagster goes by this lens while the store has the same one as now.
            "stored_lens": lens_digest(self._lens.stored()),
        }
        decided = recipe.tile.model_copy(update=live)
        return Recipe(tile=decided, flat_field=recipe.flat_field)

    def _fitting(
        self, lens: LensModel | None, recipe: Recipe, tile: JournaledTile
    ) -> LensModel | None:
        size = recipe.tile.size
        if lens is None or lens.size == size:
            return lens
        self._warn_once(
            f"pipeline: the lens model is for {lens.size}, tiles of "
            f"{tile.montage} are {size}; their matches are not "
            "corrected, measure the lens again"
        )
        return None

    def _flat_field(self, tile: JournaledTile, size: Size) -> KnownFlatField | None:
        """What is applied; of what lies there and is not, why not is logged."""
        is_reference = tile.body.get("brightfield") or tile.body.get("darkfield")
        if is_reference or self._tile.flat_field == "none":
            return None  # of these frames the flat field is made
        folder = Path(tile.path).parent
        found = self._references.flat_field(folder)
        if found is None and not tile.montage:
            folder = folder.parent / _REFERENCES
            found = self._references.flat_field(folder)
        if found is None:
            if tile.montage and self._tile.flat_field == "acquired":
                self._warn_once(
                    f"pipeline: {folder} holds no bright frame that can be used, "
                    "expected one as stitching.tile.flat_field is acquired; tiles "
                    "stay as they are, run the brightfield calibration"
                )
            return None
        if complaint := misfit(found, size, str(folder)):
            self._warn_once(f"pipeline: {complaint}; the frames stay as they are")
            return None
        return found

    def _remember(self, path: Path, recipe: Recipe) -> Recipe:
        self._known[path] = recipe
        # A dict keeps its order: the first one is the oldest.
        while len(self._known) > _MONTAGES_REMEMBERED:
            del self._known[next(iter(self._known))]
        return recipe

    def _warn_once(self, sentence: str) -> None:
        """Say a sentence once."""
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("%s", sentence)


class References:
    """Flat fields of folders; one that cannot be used is complained of and left out."""

    def __init__(self, *, flip: bool = False) -> None:
        self._flip = flip
        self._cached: dict[Path, tuple[_State, KnownFlatField | None]] = {}

    def flat_field(self, folder: Path) -> KnownFlatField | None:
        """From the bright frame in `folder`, and the dark one; None without these."""
        # Looked at each time: a calibration may have written newer ones.
        state = (_state(folder / BRIGHT), _state(folder / DARK))
        cached = self._cached.get(folder)
        if cached is None or cached[0] != state:
            field = self._read(folder) if state[0] != (0, 0) else None
            cached = (state, field)
            self._cached.pop(folder, None)  # so that it counts as the newest below
            self._cached[folder] = cached
            while len(self._cached) > _KEPT:
                del self._cached[next(iter(self._cached))]
        return cached[1]

    def _read(self, folder: Path) -> KnownFlatField | None:
        try:
            found = acquired_flat_field(str(folder))
        except DataError as error:
            log.warning("%s; tiles stay as they are until there is a better one", error)
            return None
        return mirrored(found) if found is not None and self._flip else found


def _state(path: Path) -> tuple[int, int]:
    """Changes with the file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    # The inode too: a file that replaces another may have the same time.
    return found.st_mtime_ns, found.st_ino
