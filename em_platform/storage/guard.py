"""What may be written where: only what this program made is ever replaced.

Every output that a person names goes through here, and every folder in which we work:
images by `check_output`, single files by `write_file`, folders of files by
`whole_folder`, and those in which we work by `claim_folder`.
"""

import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from zlib import crc32

from fsspec.core import url_to_fs

from em_platform.errors import OutputRefused
from em_platform.storage import atomic
from em_platform.storage.layout import StorageOptions, local_path
from em_platform.storage.manifest import Product, Standing, standing_at

log = logging.getLogger(__name__)

# In a folder or bucket in which this program works.
FOLDER_MARK = "em_platform.json"
# Marks of ours are at the beginning of a file; the rest is not read for them.
_HEAD_BYTES = 4096
_PNG_START = 8 + 25  # the signature and the header, which come first
# Read at a time: memory does not follow the size of a file.
_BLOCK_BYTES = 1 << 20
# Foreign files that a sentence names.
_SOME = 3


def check_output(
    url: str,
    product: Product,
    *,
    options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
) -> Standing | None:
    """What stands at the place of an image and may be replaced; None: nothing does.

    Parameters
    ----------
    inputs
        What the image is made from: none of it may be where the image is to be.
    overwrite
        Also another product of this program may be replaced, and nothing else.

    Raises
    ------
    OutputRefused
        Something else stands there, or an input, or the folder that one works in.
    """
    refuse_place(url, inputs)
    standing = standing_at(url, options or {})
    if standing is None:
        return None
    if foreign := standing.foreign:
        found = "was not made by em-platform" if standing.manifest is None else "holds"
        raise OutputRefused(
            f"output: {url} {found} ({_named(foreign)}), an image of ours or a new "
            "name was expected; name another output, or move these files away"
        )
    there = standing.manifest.product if standing.manifest else product
    if there != product and not overwrite:
        raise OutputRefused(
            f"output: {url} holds {there.shown}, it was to be {product.shown}; name "
            "another output, or replace it by --overwrite"
        )
    return standing


def is_whole(
    target: str,
    product: Product,
    options: StorageOptions | None = None,
    *,
    deep: bool = False,
) -> bool:
    """Whether that product stands at the target as it was written.

    What is not as it was written is logged; `deep` reads all of it.
    """
    standing = standing_at(target, options or {})
    if standing is None or standing.manifest is None:
        return False
    if standing.manifest.product != product:
        return False
    damaged = standing.damaged(deep=deep)
    if damaged:
        log.warning(
            "image: %s: %d of %d files are not as they were written (first: %s); it is "
            "made anew",
            *(target, len(damaged), len(standing.manifest.files), damaged[0]),
        )
    else:
        standing.note_whole()
    return not damaged


def refuse_place(url: str, inputs: Iterable[str] = ()) -> None:
    """Refuse an output where an input lies, or the folder that one works in.

    Raises
    ------
    OutputRefused
        It does.
    """
    own = _real(url)
    # An empty path is the folder that one works in.
    for each in (*inputs, "", str(Path.home())):
        other = _real(each)
        if own is None or other is None:
            # Names in a bucket have no links to follow: prefixes are enough.
            inside = own is other is None and _is_within(each, url)
        else:
            # A folder above an input would be replaced with the input in it.
            inside = other == own or own in other.parents
        if inside:
            what = f"the input {each}" if each else "the folder that you work in"
            raise OutputRefused(
                f"output: {url} is or holds {what}, a place of its own was expected; "
                "name another output"
            )


def check_file(
    path: Path, kind: str, *, inputs: Iterable[str] = (), overwrite: bool = False
) -> None:
    """Refuse to put a file of some kind where another one is, or an input.

    Files of ours say what they are: the words of `mark_of(kind)` are near their
    beginning.

    Raises
    ------
    OutputRefused
        A folder, an input, or another file stands there.
    """
    refuse_place(str(path), inputs)
    # The nearest that exists: below a file no folder can be made.
    above = next((each for each in path.absolute().parents if each.exists()), path)
    if path.is_dir() or not above.is_dir():
        wrong, found = (path, "a folder") if path.is_dir() else (above, "a file")
        raise OutputRefused(
            f"{kind}: {wrong} is {found}, the name of a file in a folder was expected; "
            "name another file"
        )
    if not path.exists():
        return
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES) if path.is_file() else b""
    # Without a kind the mark is the beginning of all marks of ours.
    wanted = mark_of("" if overwrite else kind)
    if wanted not in head:
        raise OutputRefused(
            f"{kind}: {path} is there and is not {_article(kind)} of em-platform, "
            "which alone would be replaced; name another file, or move it away"
        )


def write_file(
    path: Path,
    content: bytes,
    kind: str,
    *,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
) -> None:
    """Put a file that says what it is at `path`, whole or not at all.

    Raises
    ------
    OutputRefused
        As `check_file`.
    StorageError
        It could not be written.
    """
    if mark_of(kind) not in content[:_HEAD_BYTES]:
        raise AssertionError(f"a {kind} does not say that it is one")
    check_file(path, kind, inputs=inputs, overwrite=overwrite)
    # What a link points at is replaced, and the link stays.
    atomic.write_bytes(path.resolve(), content)


def marked_png(content: bytes, kind: str) -> bytes:
    """The picture with a text that says what it is (PNG 1.2, 11.3.4.3: tEXt)."""
    body = b"tEXtSoftware\0" + mark_of(kind)
    # The length leaves out the chunk's type, the CRC has it (PNG 1.2, 3.2).
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", crc32(body))
    return content[:_PNG_START] + chunk + content[_PNG_START:]


@contextmanager
def whole_folder(path: Path, kind: str) -> Iterator[Path]:
    """Give a folder to fill; it becomes `path` when the block ends without error.

    Only a folder that was made so, and was not changed since, is replaced by it.

    Raises
    ------
    OutputRefused
        Another folder stands there, or a file.
    StorageError
        It could not be written.
    """
    refuse_place(str(path))
    check_folder(path, kind)
    with atomic.whole_folder(path) as own:
        yield own
        listed = {"made_by": mark_of(kind).decode(), "files": digests(own)}
        (own / FOLDER_MARK).write_text(json.dumps(listed, indent=1) + "\n")


def check_folder(path: Path, kind: str) -> None:
    """Refuse to put a folder of files where another one is, or where one was changed.

    Raises
    ------
    OutputRefused
        A file stands there, or a folder that is not as this program made it.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        listed = json.loads((path / FOLDER_MARK).read_bytes())
        is_ours = listed["made_by"] == mark_of(kind).decode()
        # Both ways: a file that others added must not be lost either.
        changed = {*digests(path).items()} ^ {*listed["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A mark that cannot be understood is no mark of ours.
        is_ours, changed = False, set()
    if is_ours and not changed:
        return
    found = (
        f"was changed ({_named(sorted({n for n, _ in changed}))})"
        if changed
        else (f"is not {_article(kind)} of em-platform")
    )
    raise OutputRefused(
        f"{kind}: {path} {found}, a new name or a folder made by this command was "
        "expected; name another folder"
    )


def digests(folder: Path) -> dict[str, str]:
    """Each file of a folder but the mark, with the CRC-32 of its bytes."""
    return {
        str(file.relative_to(folder)): f"{_crc32(file):08x}"
        for file in sorted(folder.rglob("*"))
        if (file.is_symlink() or file.is_file()) and file.name != FOLDER_MARK
    }


def _crc32(path: Path) -> int:
    # Of a link what it says: what it leads to is another's, and may be large.
    if path.is_symlink():
        return crc32(os.fsencode(path.readlink()))
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = crc32(block, found)
    return found


def mark_of(kind: str) -> bytes:
    """The words by which a file of ours is known."""
    return f"em_platform {kind}".encode()


def claim_folder(
    url: str,
    kind: str,
    *,
    options: StorageOptions | None = None,
    known: Iterable[str] = (),
) -> None:
    """Make a folder or a bucket's prefix ours to work in: it is new, empty, or was.

    `known` are patterns of names that may be there before.

    Raises
    ------
    OutputRefused
        It holds what we did not make.
    """
    if (local := local_path(url)) is not None:
        _refuse_below_a_file(local, kind)
    filesystem, path = url_to_fs(url, **(options or {}))
    mark = f"{path}/{FOLDER_MARK}"
    if filesystem.exists(mark):
        return
    if filesystem.isfile(path):
        raise OutputRefused(f"{kind}: {url} is a file, a folder was expected; name one")
    try:
        listed = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        listed = []
    names = {str(name).rstrip("/").rpartition("/")[2] for name in listed}
    # `lost+found` is on each new disk, hidden names are of desktops and systems.
    allowed = (".*", "lost+found", *known)
    foreign = sorted(n for n in names if not any(fnmatch(n, each) for each in allowed))
    if FOLDER_MARK in names:  # another process was faster
        return
    if foreign:
        raise OutputRefused(
            f"{kind}: {url} holds what em-platform did not make ({_named(foreign)}), "
            "an empty or a new folder was expected; name another one"
        )
    content = json.dumps({"made_by": mark_of(kind).decode()}) + "\n"
    if local is not None:
        # An empty mark counts too, and a killed process leaves no other file.
        atomic.write_in_place(local / FOLDER_MARK, content.encode())
    else:
        filesystem.pipe_file(mark, content.encode())


def _refuse_below_a_file(path: Path, kind: str) -> None:
    # The nearest that is there: all below it will be made.
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise OutputRefused(
            f"{kind}: {there} is a file, a folder was expected; name one"
        )


def _real(url: str) -> Path | None:
    local = local_path(url)
    return None if local is None else local.resolve()


def _is_within(url: str, folder: str) -> bool:
    return f"{url.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouR' else 'a'} {kind}"  # R: an RO-Crate


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more
