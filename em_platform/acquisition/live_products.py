"""What the pipeline makes of a frame, kept beside it with the proof of how it was made.

Three files a frame: the processed tile, its statistics and its matches. The latter two
name the digest of the recipe and are sealed: their first line is the SHA-256 of their
second one. The statistics also name the SHA-256 of the tile, and which state of the
frame was processed. So all that looks at the tile later can prove that it holds what it
would compute itself, and adopts it instead.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.acquisition.recorder.events import safe_id
from em_platform.config import MatchSettings
from em_platform.formats import read_image, tiff_parts
from em_platform.model import LensModel, Model, Shift, TileMatch, TileStats
from em_platform.stitching.neighbours import Neighbours
from em_platform.stitching.recipe import Recipe, TileRecipe, settings_digest
from em_platform.stitching.recipe_file import (
    encode_recipe,
    keep_planes,
    read_recipe,
    read_tile_recipe,
)
from em_platform.stitching.sidecar_files import (
    RECIPE,
    matches_path,
    processed_path,
    statistics_path,
)
from em_platform.storage.atomic import whole_file, write_bytes, write_once

if TYPE_CHECKING:
    from em_platform.imaging.tile import ProcessedTile

M = TypeVar("M", bound=Model)
log = logging.getLogger(__name__)


class LiveTile(Model):
    """One processed tile: by which recipe, of which frame, and what its pixels say.

    `frame` is the frame's size in bytes and its time in ns: another frame at the same
    path has another tile. `sha256` is of the processed file.
    """

    recipe: str
    frame: tuple[int, int]
    sha256: str
    statistics: TileStats


class LiveMatch(Model):
    """The match of one pair; `nominal` is where it was looked for.

    `sha256` are those of the processed files of `match.a` and `match.b`.
    """

    nominal: Shift
    sha256: tuple[str, str]
    match: TileMatch


class LiveMatches(Model):
    """A tile against the neighbours that were imaged before it; `settings`: a digest.

    Points are those of the lens of the recipe.
    """

    recipe: str
    settings: str
    matches: tuple[LiveMatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedTile:
    """A live tile that was proved: the bytes of its file, and what is known of it."""

    content: bytes
    live: LiveTile


def frame_state(frame: str) -> tuple[int, int]:
    """Changes with the frame: its size in bytes and its time in ns; zeros without."""
    try:
        found = Path(frame).stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def write_tile(
    frame: str, done: "ProcessedTile", *, recipe: TileRecipe, state: tuple[int, int]
) -> None:
    """Put the tile and its proof beside the frame, each whole or not at all.

    They are not forced to the disk: the frame is the master, from which they are made
    again after a power cut. `state` is that of the frame before it was read.

    Raises
    ------
    StorageError
        The disk does not take them.
    """
    parts = tiff_parts(done.image)
    with whole_file(Path(processed_path(frame))) as beside, beside.open("wb") as file:
        file.writelines(parts)
    sha256 = hashlib.sha256(parts[0])
    sha256.update(parts[1])
    live = LiveTile(
        recipe=recipe.digest,
        frame=state,
        sha256=sha256.hexdigest(),
        statistics=done.stats,
    )
    # the proof last: a tile without it counts as not made
    _write_sealed(statistics_path(frame), live)


def read_tile(frame: str, recipe: TileRecipe) -> LiveTile | None:
    """What is known of the tile of a frame, made by `recipe`; its pixels are unread."""
    live = _read_sealed(statistics_path(frame), LiveTile)
    if live is None or live.recipe != recipe.digest:
        return None
    return live if live.frame == frame_state(frame) else None


def adopt_tile(frame: str, recipe: TileRecipe) -> AdoptedTile | None:
    """The tile that the pipeline made of a frame by `recipe`, where it is undamaged."""
    live = read_tile(frame, recipe)
    if live is None:
        return None
    path = Path(processed_path(frame))
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != live.sha256:
        log.warning("%s: damaged since it was made; the tile is made again", path)
        return None
    return AdoptedTile(content=content, live=live)


def measured_tile(frame: str, tile_id: str, recipe: TileRecipe) -> TileStats | None:
    """What the pixels of a frame's processed tile say, within the valid box.

    As the pipeline found it, else as its kernels find it in the processed file; None
    where there is no such file.

    Raises
    ------
    DataError
        The processed tile cannot be read.
    """
    live = read_tile(frame, recipe)
    if live is not None:
        return live.statistics
    if not Path(processed_path(frame)).is_file():
        return None
    return processed_tile(frame, tile_id, recipe).stats


def processed_tile(frame: str, tile_id: str, recipe: TileRecipe) -> "ProcessedTile":
    """The processed tile of a frame with what its pixels say within the valid box.

    Raises
    ------
    DataError
        There is no processed tile, or it cannot be read.
    """
    from em_platform.imaging.tile import process_tile  # slow to load, seldom needed

    image = read_image(processed_path(frame))
    return process_tile(image, tile_id=tile_id, valid=recipe.valid_box)


def write_matches(
    frame: str,
    found: Sequence[LiveMatch],
    *,
    recipe: TileRecipe,
    settings: MatchSettings,
) -> None:
    """Put the matches of a frame's tile beside it; StorageError as of `write_tile`."""
    live = LiveMatches(
        recipe=recipe.digest, settings=settings_digest(settings), matches=tuple(found)
    )
    _write_sealed(matches_path(frame), live)


def adopt_matches(
    pairs: Sequence[Neighbours],
    frames: Mapping[str, str],
    *,
    recipe: TileRecipe,
    lens: LensModel | None,
    settings: MatchSettings,
) -> dict[tuple[str, str], TileMatch]:
    """The live matches of those pairs that would be measured in the same way now.

    That is: of the same two tiles, byte by byte, from the same place, by the same
    recipe, lens and settings.

    Parameters
    ----------
    pairs
        Of tiles whose `sha256` is that of their processed files.
    frames
        Tile -> path of its frame.
    """
    if recipe.lens != lens:
        return {}
    wanted = {(p.a.tile_id, p.b.tile_id): p for p in pairs if p.a.sha256 and p.b.sha256}
    digests = recipe.digest, settings_digest(settings)
    found = {}
    # both: a match is kept with that of the two that was imaged later
    for tile_id in {tile_id for pair in wanted for tile_id in pair}:
        live = _read_sealed(matches_path(frames.get(tile_id, "")), LiveMatches)
        if live is None or (live.recipe, live.settings) != digests:
            continue
        for each in live.matches:
            key = each.match.a, each.match.b
            pair = wanted.get(key)
            if (
                pair is not None
                and each.nominal == pair.nominal
                and each.sha256 == (pair.a.sha256, pair.b.sha256)
            ):
                found[key] = each.match
    return found


def _write_sealed(path: str, product: Model) -> None:
    text = product.model_dump_json().encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    with whole_file(Path(path)) as beside:
        beside.write_bytes(seal + b"\n" + text + b"\n")


def _read_sealed(path: str, kind: type[M]) -> M | None:
    """The product at `path`; None where there is none, or it is damaged."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    # the JSON has no line end of its own
    seal, _, text = content.removesuffix(b"\n").partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != seal:
        log.warning("%s: damaged since it was made; it is computed anew", path)
        return None
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None  # of another version


def recipe_path(frame: str, acquisition_id: str) -> Path:
    """Of the recipe of a frame's acquisition."""
    return Path(frame).with_name(f"{safe_id(acquisition_id)}{RECIPE}")


def recipe_of_tile(frame: str, tile_id: str, montage_id: str) -> TileRecipe | None:
    """What was decided for the montage of a tile; None where nothing is yet."""
    acquisition_id = acquisition_of(tile_id)
    # A tile that another system has named: all of its montage go together.
    own = acquisition_id if acquisition_id != tile_id else montage_id
    return read_tile_recipe(str(recipe_path(frame, own)))


def keep_first(recipe: Recipe, path: Path) -> Recipe:
    """Keep a recipe at `path`; the one that counts: that of the process that was first.

    Raises
    ------
    StorageError
        The disk does not take it.
    """
    # the planes first: a recipe that is found refers to them
    keep_planes(recipe, str(path), lambda name, content: _write(Path(name), content))
    write = partial(write_once, path, encode_recipe(recipe))
    if write():
        return recipe
    first = read_recipe(str(path))
    if first is None:  # one that cannot be used must not stand in the way for ever
        write_bytes(path, encode_recipe(recipe))
    return first or recipe


def _write(path: Path, content: bytes) -> None:
    if not path.is_file():  # its name says its content
        write_bytes(path, content)
