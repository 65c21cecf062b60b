"""What blocks the upload, in one sentence: from the buffer to the operator's page.

`buffer.status` has figures only. The sentence stands in `<home>/buffer/blocked.json`
while something is in the way, and is gone when the upload goes on.
"""

import json
from pathlib import Path

from em_platform.storage.atomic import write_bytes

_NAME = "blocked.json"


def write_backlog(home: Path, sentence: str) -> None:
    """Write what blocks the upload; an empty sentence means nothing does.

    Raises
    ------
    StorageError
        It cannot be written; the sentence before stays.
    """
    path = home / "buffer" / _NAME
    if sentence:
        write_bytes(path, json.dumps({"sentence": sentence}).encode())
    else:
        path.unlink(missing_ok=True)


def read_backlog(home: Path) -> str:
    """The sentence; empty where nothing is in the way, or no buffer runs."""
    try:
        return str(json.loads((home / "buffer" / _NAME).read_bytes())["sentence"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
