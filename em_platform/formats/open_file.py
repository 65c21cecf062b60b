"""One image file of any format, told apart by its first bytes."""

from collections.abc import Mapping
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats.dm import is_dm, open_dm
from em_platform.formats.mrc_volume import is_mrc, open_mrc
from em_platform.formats.raster_volume import is_raster, open_raster
from em_platform.formats.source import Source, open_source
from em_platform.formats.tiff_stack import is_tiff, open_tiff
from em_platform.formats.volume import Volume

_PACKED = {
    b"\x1f\x8b\x08": "a gzip file",
    b"PK\3\4": "a ZIP archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"(\xb5/\xfd": "a Zstandard file",
    b"\x89HDF": "an HDF5 file",
    b"II\x97\1": "an image series of TIA",
    b"\xd3\xed\xf5\xf2": "a Janelia FIB-SEM DAT file",
    b"%PDF": "a PDF document",
    b"<!": "a web page or XML",
    b"<html": "a web page or XML",
    b"<?xml": "a web page or XML",
}
"""First bytes of what comes instead of an image."""


def open_file(uri: str, options: Mapping[str, Any] | None = None) -> Volume:
    """The image in one file, at a path or URL; only what describes it is read now."""
    return open_from(open_source(uri, options))


def open_from(source: Source) -> Volume:
    """The image in a file that was looked at already.

    Raises
    ------
    FormatError
        The file is no image, or one without grey levels along z, y, x.
    """
    start = source.read(0, 16)
    if is_tiff(start):
        return open_tiff(source)
    if is_raster(start):
        return open_raster(source)
    if is_dm(start) and source.read(208, 4) != b"MAP ":
        return open_dm(source)
    packed = next(
        (name for mark, name in _PACKED.items() if start.startswith(mark)), ""
    )
    if is_mrc(source) and not packed:
        return open_mrc(source)
    if packed:
        raise FormatError(
            f"{source.uri}: found {packed}, expected DM3, DM4, MRC, TIFF, PNG or JPEG; "
            "unpack or convert it first",
            uri=source.uri,
        )
    raise FormatError(
        f"{source.uri}: found a file that starts with {start[:4]!r}, expected DM3, "
        "DM4, MRC, TIFF, PNG or JPEG; convert it",
        uri=source.uri,
    )
