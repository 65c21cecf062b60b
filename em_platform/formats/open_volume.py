"""Any supported image as a volume, told apart by its content and not by its name."""

import re
from collections.abc import Mapping
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats.open_file import open_file
from em_platform.formats.source import (
    is_folder,
    join_uri,
    list_folder,
    local_path,
    open_source,
)
from em_platform.formats.stack import stack_of
from em_platform.formats.volume import Volume

_SUFFIXES = (".dm3", ".dm4", ".tif", ".tiff", ".mrc", ".png", ".jpg", ".jpeg")
"""Names of images in a folder that is one stack."""

_FILE_PROTOCOLS = ("http", "https", "s3", "ftp", "memory")
_CHUNK_PROTOCOLS = ("precomputed", "zarr", "zarr2", "zarr3", "n5", "gs")
_CHUNK_OPTIONS = ("region", "requests_at_once", "retries", "channel", "time")


def open_volume(uri: str, options: Mapping[str, Any] | None = None) -> Volume:
    """The image at a path or URL: a file, a folder of images, or a chunked array.

    `options` are those of the store, `endpoint_url` and `anon` for `s3://`. Of a file
    behind a URL only what describes it is fetched now, and ranges of it later.

    Raises
    ------
    FormatError
        There is nothing, or nothing that can be read as grey levels along z, y, x.
    StorageError, SourceError
        The store or server does not give the bytes.
    """
    path = local_path(uri)
    if path is not None:
        return _open_folder(uri, options) if is_folder(uri) else open_file(uri)
    protocol = uri.partition("://")[0]
    if protocol in _CHUNK_PROTOCOLS:
        return _open_chunked(uri, options)
    if protocol not in _FILE_PROTOCOLS:
        raise FormatError(
            f"{uri}: found the protocol {protocol}, expected a path, file, http, "
            "https, s3 or ftp; copy it to one of these",
            uri=uri,
        )
    return _open_remote(uri, options)


def file_options(uri: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a file behind a URL; buckets are public unless a key is given."""
    found = {k: v for k, v in (options or {}).items() if k not in _CHUNK_OPTIONS}
    if uri.startswith("s3://") and not found.keys() & {"key", "profile", "anon"}:
        found["anon"] = True
    return found


def _open_remote(uri: str, options: Mapping[str, Any] | None) -> Volume:
    """A file, else a chunked array, else a folder: in the order of what they cost."""
    for_file = file_options(uri, options)
    try:
        start = open_source(uri, for_file).read(0, 1)
    except FormatError as error:
        if _is_chunked(uri, options):
            return _open_chunked(uri, options)
        if is_folder(uri, for_file):
            return _open_folder(uri, options)
        raise error
    # A page instead of a file is what servers of folders answer with.
    if start == b"<" and _is_chunked(uri, options):
        return _open_chunked(uri, options)
    if start == b"<" and uri.endswith("/"):
        return _open_folder(uri, options)
    return open_file(uri, for_file)


def _open_folder(uri: str, options: Mapping[str, Any] | None) -> Volume:
    if local_path(uri) is not None and _is_chunked(uri, options):
        return _open_chunked(uri, options)
    for_file = file_options(uri, options)
    names = list_folder(uri, for_file)
    images = [name for name in names if name.lower().endswith(_SUFFIXES)]
    images.sort(key=_counted)
    if not images:
        raise FormatError(
            f"{uri}: found a folder without images, expected DM3, DM4, TIFF, MRC, PNG "
            "or JPEG files, Zarr, N5 or precomputed; name the file or the array in it",
            uri=uri,
        )
    return stack_of([open_file(join_uri(uri, name), for_file) for name in images])


def _counted(name: str) -> tuple[tuple[int, str], ...]:
    """A key that puts `slice_10` behind `slice_9`."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdecimal() else (0, part) for part in parts)


def _is_chunked(uri: str, options: Mapping[str, Any] | None) -> bool:
    from em_platform.formats.chunked import chunked_format

    if not uri.startswith(("http", "s3:")) and local_path(uri) is None:
        return False
    return chunked_format(uri, options) is not None


def _open_chunked(uri: str, options: Mapping[str, Any] | None) -> Volume:
    from em_platform.formats.chunked import open_chunked

    return open_chunked(uri, options=options)
