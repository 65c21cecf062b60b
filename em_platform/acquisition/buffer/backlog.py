"""What holds up the upload, in one sentence: from the buffer to the operator's page.

`buffer.status` has figures only. The sentence stands in `<home>/buffer/held_up.json`
while something is in the way, and is gone when the upload goes on.
"""

import json
from pathlib import Path

from em_platform.storage.atomic import write_bytes

# Its old name: an operator's page of the release before reads it, too.
_NAME = "held_up.json"


def write_backlog(home: Path, sentence: str) -> None:
    """Leave word of what holds the upload up; an empty sentence says: nothing.

    Raises
    ------
    StorageError
        It cannot be written; the word that was left before stays.
    """
    path = home / "buffer" / _NAME
    if sentence:
        write_bytes(path, json.dumps({"sentence": sentence}).encode())
    else:
        path.unlink(missing_ok=True)


def read_backlog(home: Path) -> str:
    """The sentence; empty where nothing is in the way, or nobody left word."""
    try:
        return str(json.loads((home / "buffer" / _NAME).read_bytes())["sentence"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
