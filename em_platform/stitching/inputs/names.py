"""File names that carry row and column: `r003c007`, `_003_007`, `col0075_row0021`."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex  # gives up in time, which `re` cannot

from em_platform.errors import ConfigError, FormatError
from em_platform.formats import SUFFIXES, local_path
from em_platform.model import Failure
from em_platform.model.sentences import counted
from em_platform.stitching.sidecar_files import REFERENCES, frame_stem, is_processed
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
)

# Looked for in this order; case does not matter.
COMMON = (
    r"r(?:ow)?[-_]?(?P<row>\d+)[-_]?c(?:ol(?:umn)?)?[-_]?(?P<col>\d+)",
    r"c(?:ol(?:umn)?)?[-_]?(?P<col>\d+)[-_]?r(?:ow)?[-_]?(?P<row>\d+)",
    r"y[-_]?(?P<row>\d+)[-_]?x[-_]?(?P<col>\d+)",
    r"x[-_]?(?P<col>\d+)[-_]?y[-_]?(?P<row>\d+)",
    r"(?:^|[-_])(?P<row>\d+)[-_](?P<col>\d+)\.[A-Za-z]+$",
)
_LOOKED_INTO, _NAMED = 100, 3  # folders below one without images
# For all names together; ten thousand take a hundredth of it.
_MATCHING_S = 2.0
# A word of the name: masks beside the tiles, as of render or Fiji, are no tiles.
_MASK = re.compile(r"(?:^|[-_. ])masks?(?:[-_. ]|\d*\.)", re.IGNORECASE)


def claims(name: str, content: Any) -> bool:
    """Never by content: names are what is left when there is no list."""
    return False


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """Tiles on a grid by their names.

    Raises
    ------
    ConfigError
        The pattern given is not a pattern, or no name fits it.
    FormatError
        No pattern was given, and none of the common ones fits.
    """
    images = _images(place.names)
    if options.pattern is not None:
        places = _places(images, compile_pattern(options.pattern))
        if not places:
            raise ConfigError(
                f"--pattern {options.pattern!r}: fits no name in {place.folder}, which "
                f"has {counted(len(images), 'image')}{_below(place)}; "
                "correct it, e.g. 'tile_r{row}_c{col}*.tif'"
            )
    else:
        places = _best_of_common(images)
    if not places:
        raise FormatError(
            f"{place.folder}: found {counted(len(images), 'image')} and no list of "
            f"places{_below(place)}, expected a CSV or JSON with file,x_px,y_px, a "
            "metafile, tile specs, an mdoc, or names with row and column; add one or "
            "give --pattern"
        )
    return TileList(
        uri=place.folder,
        tiles=tuple(
            ListedTile(name=image, uri=place.uri(image), row=row, column=column)
            for image, (row, column) in places.items()
        ),
        failures=_misfits(images, places),
        on_grid=True,
        pixel_nm=options.pixel_nm,
    )


def _below(place: TileFolder) -> str:
    """Which folders below have images, where the folder itself has none."""
    local = None if _images(place.names) else local_path(place.folder)
    if local is None:
        return ""
    # They are among the names: of a local folder all are listed.
    folders = [Path(local, name) for name in place.names[:_LOOKED_INTO]]
    found = [f.name for f in folders if f.is_dir() and _images(_listed(f))]
    if not found:
        return ""
    more = ", ..." if len(found) > _NAMED else ""
    return f" (there are images in {', '.join(found[:_NAMED])}{more}: name that folder)"


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    # It may not be looked into.
    except OSError:
        return []


def _images(names: Sequence[str]) -> list[str]:
    """Without references, masks, and tiles that the pipeline made of these images."""
    images = [
        n
        for n in names
        if n.lower().endswith(SUFFIXES)
        if n.partition(".")[0].lower() not in REFERENCES
        if not _MASK.search(n)
    ]
    raw = {frame_stem(n) for n in images if not is_processed(n)}
    return [n for n in images if not is_processed(n) or frame_stem(n) not in raw]


def compile_pattern(pattern: str) -> "regex.Pattern[str]":
    """A regular expression with groups row and col, or a name with {row}, {col}, *."""
    if "{row}" in pattern and "{col}" in pattern:
        text = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
        text = text.replace(r"\{row\}", r"(?P<row>\d+)")
        return regex.compile("^" + text.replace(r"\{col\}", r"(?P<col>\d+)") + "$")
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(
            f"--pattern {pattern!r}: not a regular expression ({error}); correct it"
        ) from error
    if not {"row", "col"} <= set(compiled.groupindex):
        raise ConfigError(
            f"--pattern {pattern!r}: found no row and col, expected {{row}} and "
            "{col} or groups (?P<row>...) and (?P<col>...); add them"
        )
    return compiled


def _places(
    images: list[str], pattern: "regex.Pattern[str]"
) -> dict[str, tuple[int, int]]:
    end = time.monotonic() + _MATCHING_S
    try:
        found = [
            (image, pattern.search(image, timeout=max(0.001, end - time.monotonic())))
            for image in images
        ]
        return {i: (int(m["row"]), int(m["col"])) for i, m in found if m is not None}
    except TimeoutError as error:
        raise ConfigError(
            f"--pattern {pattern.pattern!r}: found no end of trying within "
            f"{_MATCHING_S:g} s, expected a pattern that fits or does not; write it "
            "without repeats within repeats"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--pattern {pattern.pattern!r}: row and col fit what is no number "
            f"({error}), expected digits; write (?P<row>\\d+) and (?P<col>\\d+)"
        ) from error


def _best_of_common(images: list[str]) -> dict[str, tuple[int, int]]:
    best: dict[str, tuple[int, int]] = {}
    for text in COMMON:
        places = _places(images, regex.compile(text, regex.IGNORECASE))
        # Two images at one place: it caught other numbers than these.
        if len(set(places.values())) < len(places):
            continue
        if len(places) > len(best):
            best = places
    return best


def _misfits(
    images: list[str], places: dict[str, tuple[int, int]]
) -> tuple[Failure, ...]:
    """Images of the tiles' own kind whose names say no place; overviews are not."""
    kinds = Counter(image.rpartition(".")[2] for image in places)
    kind = kinds.most_common(1)[0][0]
    return tuple(
        Failure(
            item=image,
            error="FormatError",
            sentence=f"{image}: found no row and column in the name, expected them as "
            "in the other names; rename it",
        )
        for image in images
        if image not in places and image.endswith(f".{kind}")
    )
