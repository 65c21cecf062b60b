"""One image file of any format, told apart by its first bytes."""

from collections.abc import Mapping
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats.dm import is_dm, open_dm
from em_platform.formats.mrc_volume import is_mrc, open_mrc
from em_platform.formats.source import Source, open_source
from em_platform.formats.tiff_stack import is_tiff, open_tiff
from em_platform.formats.volume import Volume


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
    if is_dm(start):
        return open_dm(source)
    if is_mrc(source):
        return open_mrc(source)
    raise FormatError(
        f"{source.uri}: found a file that starts with {start[:4]!r}, expected DM3, "
        "DM4, MRC, TIFF, PNG or JPEG; convert it",
        uri=source.uri,
    )
