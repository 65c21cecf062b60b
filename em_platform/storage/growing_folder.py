"""A folder of files that takes long to make: whole or absent, and resumed if killed.

It grows as `.<name>.partial` beside its place, which no reader looks at, and becomes
`<name>` in one step. `of` names what is made: only a growing folder of the same is
resumed, only a finished one of the same counts as done.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from em_platform.errors import OutputRefused
from em_platform.storage import atomic
from em_platform.storage.guard import (
    FOLDER_MARK,
    check_folder,
    digests,
    mark_of,
    refuse_place,
)
from em_platform.storage.lease import one_writer

# In the mark, which is there from the beginning; the list of files comes last.
_OF = "of"


def is_done(path: Path, kind: str, *, of: str) -> bool:
    """Whether the folder of that making stands at `path`, as it was written.

    Raises
    ------
    OutputRefused
        Something stands there that this program did not make, or that was changed.
    """
    check_folder(path, kind)
    return _mark(path).get(_OF) == of


@contextmanager
def growing_folder(
    path: Path, kind: str, *, of: str, overwrite: bool = False
) -> Iterator[Path]:
    """Give a folder to fill, with what an interrupted call of the same left there.

    It becomes `path` when the block ends without error. An error removes it; only a
    process that was killed, or stopped by Ctrl-C, leaves it to be resumed.

    Parameters
    ----------
    overwrite
        A finished folder of another making may be replaced.

    Raises
    ------
    OutputRefused
        Another folder stands there, or a file.
    OutputBusy
        Another process fills it.
    StorageError
        It could not be written.
    """
    refuse_place(str(path))
    if not is_done(path, kind, of=of) and _is_filled(path) and not overwrite:
        raise OutputRefused(
            f"{kind}: {path} was made with other settings, or of other files; name "
            "another output, or replace it by --overwrite"
        )
    own = path.with_name(f".{path.name}.partial")
    mark = {"made_by": mark_of(kind).decode(), _OF: of}
    with one_writer(str(path), work=f"a {kind}"):
        _begin(own, kind, mark)
        try:
            with atomic.full_disk_errors(path):
                yield own
            content = json.dumps({**mark, "files": digests(own)}, indent=1) + "\n"
            atomic.write_bytes(own / FOLDER_MARK, content.encode())
            atomic.put_folder(own, path)
        except Exception:
            shutil.rmtree(own, ignore_errors=True)
            raise


def digest_of(*inputs: object) -> str:
    """A name for what is made of these inputs: SHA-256 of their text."""
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def _begin(own: Path, kind: str, mark: dict[str, str]) -> None:
    there = _mark(own)
    if own.exists() and there.get("made_by") != mark["made_by"]:
        raise OutputRefused(
            f"{kind}: {own} is there and is no unfinished {kind} of em-platform; move "
            "it away"
        )
    if own.exists() and there.get(_OF) != mark[_OF]:
        shutil.rmtree(own)
    if not own.exists():
        atomic.write_bytes(own / FOLDER_MARK, json.dumps(mark).encode())


def _is_filled(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _mark(folder: Path) -> dict[str, JsonValue]:
    try:
        found = json.loads((folder / FOLDER_MARK).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
