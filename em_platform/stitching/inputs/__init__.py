"""Where montages come from: each kind of list of tiles in a file of its own.

In a folder that holds several lists the first kind of `KINDS` that is there is taken;
of several lists of one kind the one called `tiles`, else the first by name.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from em_platform.errors import ConfigError, FormatError
from em_platform.formats import SUFFIXES, is_folder, local_path
from em_platform.model import Montage
from em_platform.stitching.inputs import (
    mdoc,
    metafile,
    montage_json,
    names,
    table,
    tile_specs,
)
from em_platform.stitching.intake import PLAIN_NAMES, montage_of
from em_platform.stitching.tile_list import (
    InputOptions,
    TileFolder,
    TileList,
    TileListKind,
    open_tile_folder,
    pixel_size,
)
from em_platform.storage.layout import StorageOptions

__all__ = ["KINDS", "InputOptions", "open_montage"]

log = logging.getLogger(__name__)

# Kind -> its reader, in the order of preference.
KINDS: dict[str, TileListKind] = {
    "table": table,
    "metafile": metafile,
    "tile specs": tile_specs,
    "montage": montage_json,
    "mdoc": mdoc,
    "names": names,
}

_JSON = (".json", ".json.gz")
_LISTS = (".csv", ".tsv", *_JSON, ".mdoc")
# What SerialEM and IMOD call an MRC stack; its mdoc lists the tiles.
_STACKS = (".mrc", ".st", ".map")


def open_montage(
    path: str | Path,
    *,
    pixel_nm: float | None = None,
    overlap: float | None = None,
    pattern: str | None = None,
    level: int | None = None,
    section: int | None = None,
    image: str | None = None,
    name: str | None = None,
    options: StorageOptions | None = None,
) -> Montage:
    """The montage of a folder of tiles or of a list of them, path or URL.

    Parameters
    ----------
    pixel_nm
        Pixel size; needed where places are in nm and the list does not say it.
    overlap
        For names with row and column: fraction of a tile below 1, else pixels;
        without it a few pairs of tiles are compared.
    pattern
        For names: `tile_{row}_{col}*.tif`, or a regular expression with groups.
    level, section, image
        Mipmap level of tile specs; section and stack of an mdoc.
    name
        The acquisition id; without it name and hash of the path.
    options
        fsspec's options for a URL.

    Raises
    ------
    ConfigError, FormatError, StorageError, DataError
        Nothing there can be used; single bad tiles become `Montage.failures` instead.
    """
    if pixel_nm is not None and pixel_size(pixel_nm) is None:
        raise ConfigError(
            f"--pixel-nm {pixel_nm}: found no length of a pixel in nm, expected 0.001 "
            "to 1e9; correct it"
        )
    asked = InputOptions(
        pixel_nm=pixel_nm,
        overlap=overlap,
        pattern=pattern,
        level=level,
        section=section,
        image=image,
        options=options or {},
    )
    return montage_of(_read_list(_address(path), asked), asked, name=name)


def _address(path: str | Path) -> str:
    text = str(path)
    local = local_path(text)
    return text if local is None else str(Path(local).absolute())


def _read_list(address: str, asked: InputOptions) -> TileList:
    if is_folder(address, asked.options):
        return _read_folder(address.rstrip("/"), asked)
    local = local_path(address)
    if local is not None and not Path(local).exists():
        raise ConfigError(
            f"input: found nothing at {address}, expected a folder or a list of tiles; "
            "correct the path"
        )
    folder, _, name = address.rpartition("/")
    place = TileFolder(folder=folder, names=(name,), options=asked.options)
    if name.lower().endswith((*_LISTS, *_STACKS)):
        place = open_tile_folder(folder, asked.options)
    if name.lower().endswith(_STACKS):
        asked = replace(asked, image=address)
        name = _mdoc_of(place, name)
    content = _content(place, name)
    for kind in KINDS.values():
        if content is not None and kind.claims(name, content):
            return kind.read(place, name, content=content, options=asked)
    # No kind claims it; these readers say best what is missing in it.
    if name.endswith(".mdoc"):
        return mdoc.read(place, name, content=content, options=asked)
    if name.endswith((".csv", ".tsv")):
        return table.read(place, name, content=content, options=asked)
    raise FormatError(
        f"input: {address} is not a list of tiles, expected a CSV or JSON with "
        "file,x_px,y_px (or x_nm,y_nm), an Allen metafile, render tile specs, a "
        "SerialEM montage mdoc, or a folder; convert it"
    )


def _mdoc_of(place: TileFolder, stack: str) -> str:
    if f"{stack}.mdoc" not in place.names:
        raise FormatError(
            f"{place.uri(stack)}: found a stack without {stack}.mdoc beside it, "
            "expected both; copy the mdoc there"
        )
    return f"{stack}.mdoc"


def _read_folder(address: str, asked: InputOptions) -> TileList:
    place = open_tile_folder(address, asked.options)
    if asked.pattern is not None:
        return names.read(place, "", content=None, options=asked)
    found, broken = _lists(place)
    for label, kind in KINDS.items():
        mine = [
            (name, content) for name, content in found if kind.claims(name, content)
        ]
        if mine:
            name, content = mine[0]
            log.info("input: %s is read as %s", place.uri(name), label)
            return kind.read(place, name, content=content, options=asked)
    # Only now: another list in the folder may serve.
    if broken:
        raise broken[0]
    _refuse_lists(place, found)
    return names.read(place, "", content=None, options=asked)


def _refuse_lists(place: TileFolder, found: list[tuple[str, Any]]) -> None:
    """Refuse to guess places from names where a list is there that no kind claims.

    Others than lists of tiles may lie there, too: these have another name, and name no
    image.
    """
    images = [name for name in place.names if name.lower().endswith(SUFFIXES)]
    for name, content in found:
        if name.endswith(".mdoc"):
            continue  # SerialEM writes one beside each image
        text = content if isinstance(content, str) else json.dumps(content)
        is_list = name.partition(".")[0].lower() in PLAIN_NAMES
        if is_list or any(image in text for image in images):
            raise FormatError(
                f"{place.uri(name)}: found no lines with a file and a place, expected "
                "columns file and x_px, y_px or x_nm, y_nm; correct the list, or take "
                "it out of the folder to have places read from file names"
            )


def _lists(place: TileFolder) -> tuple[list[tuple[str, Any]], list[FormatError]]:
    found: list[tuple[str, Any]] = []
    broken: list[FormatError] = []
    stems = {n.rpartition(".")[0] for n in place.names if not n.endswith(_LISTS)}
    lists = [n for n in place.names if n.lower().endswith(_LISTS)]
    for name in sorted(lists, key=lambda n: (n.partition(".")[0] != "tiles", n)):
        # A JSON beside each image says something of that image, not of the montage.
        if name.endswith(".json") and name.removesuffix(".json") in stems:
            continue
        try:
            found.append((name, _content(place, name)))
        except FormatError as error:
            broken.append(error)
    return found, broken


def _content(place: TileFolder, name: str) -> Any:
    """Parsed JSON, or text; None where it is neither."""
    if not name.lower().endswith(_LISTS):
        return None
    text = place.text(name)
    if not name.endswith(_JSON):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{place.uri(name)}: not valid JSON ({error}), expected a list of tiles; "
            "correct it or take it out of the folder"
        ) from error
