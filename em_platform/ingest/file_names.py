"""Names that a source gives to files, before they become paths of ours."""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from em_platform.errors import FormatError
from em_platform.ingest.manifest import NAME as MANIFEST

_MOST_BYTES = 240
"""Of one name, so that a suffix has room: file systems allow 255."""
OURS = (".partial", ".bad")


def check_names(names: Iterable[str], *, who: str) -> None:
    """Whether all names stay in their folder, and no two are the same file.

    Raises
    ------
    FormatError
        A name leads out, is none, belongs to us, or is there twice.
    """
    seen: dict[str, str] = {}
    for name in names:
        wrong = _wrong(name)
        # The same to a disk that ignores case or the way in which accents are written.
        same = unicodedata.normalize("NFC", name).casefold()
        if not wrong and same in seen:
            wrong = f"is the same file as {seen[same]!r}"
        if wrong:
            raise FormatError(
                f"{who}: the source names a file {name[:200]!r}, which {wrong}; tell "
                "the source, or take the item off the list",
                name=name[:200],
            )
        seen[same] = name


def _wrong(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ".." in parts:
        return "leads out of its folder"
    if not name or "" in parts or "." in parts:
        return "is no name"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
        return "holds letters that are not seen"
    if any(len(part.encode()) > _MOST_BYTES for part in parts):
        return f"is longer than {_MOST_BYTES} bytes"
    first = PurePosixPath(name).parts[0]
    if name.endswith(OURS) or first.startswith((MANIFEST, ".")):
        return "is a name of the platform's own"
    return ""
