"""Any supported image as a volume, told apart by its content and not by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats.open_file import open_file
from em_platform.formats.source import is_folder, list_folder, local_path
from em_platform.formats.stack import open_stack
from em_platform.formats.volume import Volume

_SUFFIXES = (
    ".dm3",
    ".dm4",
    ".tif",
    ".tiff",
    ".mrc",
    ".png",
    ".jpg",
    ".jpeg",
)
"""Names of images in a folder that is one stack."""

_CHUNKED_MARKS = (
    "zarr.json",
    ".zarray",
    ".zattrs",
    ".zgroup",
    "attributes.json",
    "info",
)


def open_volume(uri: str, options: Mapping[str, Any] | None = None) -> Volume:
    """The image at a path or URL: a file, a folder of images, or a chunked array.

    Raises
    ------
    FormatError
        There is nothing, or nothing that can be read as grey levels along z, y, x.
    StorageError
        The store does not give the bytes.
    """
    if local_path(uri) is None and not _is_file(uri, options):
        return _open_chunked(uri, options)
    if is_folder(uri, options):
        return _open_folder(uri, options)
    return open_file(uri, options)


def _is_file(uri: str, options: Mapping[str, Any] | None) -> bool:
    return not is_folder(uri, options)


def _open_folder(uri: str, options: Mapping[str, Any] | None) -> Volume:
    names = list_folder(uri, options)
    if set(names) & set(_CHUNKED_MARKS):
        return _open_chunked(uri, options)
    images = [name for name in names if name.lower().endswith(_SUFFIXES)]
    if not images:
        raise FormatError(
            f"{uri}: found a folder without images, expected DM3, DM4, TIFF, MRC, PNG "
            "or JPEG files, Zarr, N5 or precomputed; name the file or the array in it",
            uri=uri,
        )
    return open_stack([Path(local_path(uri) or uri) / name for name in images])


def _open_chunked(uri: str, options: Mapping[str, Any] | None) -> Volume:
    from em_platform.formats.chunked import open_chunked

    return open_chunked(uri, options=options)
