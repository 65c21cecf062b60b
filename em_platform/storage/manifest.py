"""What an output of ours consists of: for which purpose it was made, and its files.

Each image has it inside, as the attributes of the Zarr group `em_platform`, which Zarr
readers pass over; `manifest_crc32` in the attributes of the image itself seals it. Only
what has a manifest is ever replaced, and only what agrees with it is believed to be
whole.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from em_platform.errors import OutputRefused
from em_platform.storage.crc32 import crc32
from em_platform.storage.layout import StorageOptions, local_path

# Where the manifest is in an image.
GROUP = "em_platform/zarr.json"
# The image's own metadata: written last, and not in the manifest.
ROOT = "zarr.json"
# The folder of the levels in a bucket, where those of an older image stand.
SECOND = "b/"
# Beside an image that grows, in `<image>.partial`: what it is to be.
BEGUN = "fingerprint"
# What Zarr 3 calls metadata and shards of a level, in either folder of levels.
_OF_A_LEVEL = re.compile(r"(b/)?(em_platform/zarr\.json|\d+/(zarr\.json|c(/\d+)+))")
# Read at a time: memory does not follow the size of a file.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """For which purpose an output is made; `of` names what it shows.

    Equal purposes may replace each other; others only where that is asked for.
    """

    kind: str
    of: str

    @property
    def shown(self) -> str:
        """For a sentence."""
        return f"the {self.kind} of {self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMark:
    """Size and CRC-32 of one file."""

    size_bytes: int
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All files of an output but `zarr.json` and the manifest itself.

    `levels` is the folder of the levels inside the output, "" for the output itself.
    """

    product: Product
    levels: str = ""
    files: Mapping[str, FileMark] = field(default_factory=dict)

    @property
    def crc32(self) -> str:
        """What seals it."""
        return f"{zlib.crc32(self.content()):08x}"

    @property
    def place(self) -> str:
        """Where it is inside the output."""
        return f"{self.levels}{GROUP}"

    def content(self) -> bytes:
        """The metadata of the group that holds it; equal outputs, equal bytes."""
        attributes = asdict(self) | {
            "files": {
                name: [mark.size_bytes, f"{mark.crc32:08x}"]
                for name, mark in sorted(self.files.items())
            }
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return json.dumps(group, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One file or object as the store lists it; `changed` by the store's clock."""

    size_bytes: int
    changed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands at an output's place: all its files, and its manifest if any."""

    url: str
    files: Mapping[str, Stored]
    manifest: Manifest | None
    seal: str
    """The manifest's CRC-32, where the image's own metadata say the same, else ""."""
    filesystem: AbstractFileSystem
    path: str

    @property
    def foreign(self) -> list[str]:
        """Files that are not ours; a shard of a level is, also one that was added."""
        if self.manifest is None:
            return sorted(self.files)
        ours = {ROOT, self.manifest.place, *self.manifest.files}
        others = sorted(self.files.keys() - ours)
        return [name for name in others if not _OF_A_LEVEL.fullmatch(name)]

    def damaged(self, *, deep: bool = False) -> list[str]:
        """Files that are not as they were written; `deep` reads all of them.

        Otherwise a file is read again only where it was changed after the manifest was
        written, so that what was changed later is noticed and the rest costs a listing.
        """
        if self.manifest is None or not self.seal:
            return [ROOT]
        sealed = self.files[self.manifest.place].changed
        found = []
        for name, mark in self.manifest.files.items():
            file = self.files.get(name)
            if file is None or file.size_bytes != mark.size_bytes:
                found.append(name)
            # Equal counts as later: a file system's clock goes in steps.
            elif (deep or file.changed >= sealed) and self._crc32(name) != mark.crc32:
                found.append(name)
        return found

    def note_whole(self) -> None:
        """Let the next look cost a listing again, where all files were read by one.

        After a copy or a change of the owner all are newer than the manifest.
        """
        if self.manifest is None or local_path(self.url) is None:
            return
        names = self.files.keys() & self.manifest.files.keys()
        sealed = self.files[self.manifest.place].changed
        if any(self.files[name].changed >= sealed for name in names):
            # Who may only read the image has it read at each look.
            with suppress(PermissionError):
                os.utime(f"{self.path}/{self.manifest.place}")

    def _crc32(self, name: str) -> int:
        return crc32_of(self.filesystem, f"{self.path}/{name}")


def standing_at(url: str, options: StorageOptions) -> Standing | None:
    """What stands at `url`, None where nothing does.

    Of what is not ours only some names are listed, however much it is.

    Raises
    ------
    OutputRefused
        A file stands there.
    OSError
        It cannot be listed or read.
    """
    local = local_path(url)
    # Another process may have written since this one last looked.
    more = {} if local else {"use_listings_cache": False, **options}
    filesystem, path = url_to_fs(str(local) if local else url.rstrip("/"), **more)
    # Through a link files of others would be replaced.
    if filesystem.isfile(path) or (local is not None and local.is_symlink()):
        raise OutputRefused(
            f"output: {url} is a file or a link, a folder of ours or a new name was "
            "expected; name another output"
        )
    manifest, seal = _manifest(filesystem, str(path))
    list_files = _walked if local is not None else _found
    if manifest is None:
        list_files = _named
    files = dict(list_files(filesystem, str(path)))
    if not files:
        return None
    return Standing(
        url=url,
        files=files,
        manifest=manifest,
        seal=seal,
        filesystem=filesystem,
        path=str(path),
    )


def crc32_of(filesystem: AbstractFileSystem, path: str) -> int:
    """The CRC-32 of a file's bytes."""
    found = 0
    with filesystem.open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = crc32(block, found)
    return found


def sealed(attributes: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The image's attributes that make `manifest` its own."""
    ours = dict(attributes.get("em_platform", {})) | {
        "product": manifest.product.kind,
        "of": manifest.product.of,
        "manifest": manifest.place,
        "manifest_crc32": manifest.crc32,
    }
    return {**attributes, "em_platform": ours}


def _walked(_: AbstractFileSystem, path: str) -> Iterator[tuple[str, Stored]]:
    """All files of a folder; a link is one of them, and not where it leads.

    The time is that of the entry (ctime), which no copy and no touch sets back.
    """
    for parent, folders, names in os.walk(path):
        links = [name for name in folders if os.path.islink(f"{parent}/{name}")]
        for name in (*names, *links):
            file = os.path.join(parent, name)
            status = os.lstat(file)
            stored = Stored(size_bytes=status.st_size, changed=status.st_ctime)
            yield os.path.relpath(file, path), stored


def _found(filesystem: AbstractFileSystem, path: str) -> Iterator[tuple[str, Stored]]:
    for name, each in filesystem.find(path, detail=True).items():
        # Without times all are equal: then every file is read.
        changed = each["LastModified"].timestamp() if "LastModified" in each else 0.0
        stored = Stored(size_bytes=int(each["size"] or 0), changed=changed)
        yield name.removeprefix(path).lstrip("/"), stored


def _named(filesystem: AbstractFileSystem, path: str) -> Iterator[tuple[str, Stored]]:
    """What lies directly there."""
    try:
        found = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return
    for name in found:
        # A bucket may list a folder as an object of its own.
        if (last := str(name).removeprefix(path).strip("/")) != "":
            yield last, Stored(size_bytes=0, changed=0.0)


def _manifest(filesystem: AbstractFileSystem, path: str) -> tuple[Manifest | None, str]:
    """The manifest inside an output, and its seal.

    One that cannot be read any more is as one without files.
    """
    root = _attributes(_content(filesystem, f"{path}/{ROOT}"))
    ours = root.get("em_platform")
    ours = ours if isinstance(ours, dict) else {}
    content = _content(filesystem, f"{path}/{ours.get('manifest', GROUP)}")
    manifest = _parsed(_attributes(content))
    if manifest is not None:
        seal = f"{zlib.crc32(content):08x}"
        return manifest, seal if ours.get("manifest_crc32") == seal else ""
    if {"product", "of"} <= ours.keys():
        product = Product(kind=str(ours["product"]), of=str(ours["of"]))
        return Manifest(product=product), ""
    return _begun(_content(filesystem, f"{path}.partial/{BEGUN}")), ""


def _begun(content: bytes) -> Manifest | None:
    """Of an image that grows in a bucket, or was left there by a killed process."""
    try:
        found = json.loads(content)
        return Manifest(product=Product(**found["product"]))
    except (ValueError, KeyError, TypeError):
        return None


def _content(filesystem: AbstractFileSystem, path: str) -> bytes:
    try:
        return bytes(filesystem.cat_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        # Others may have a folder or a file of these names.
        return b""


def _attributes(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)["attributes"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(found: Mapping[str, Any]) -> Manifest | None:
    try:
        return Manifest(
            product=Product(**found["product"]),
            levels=str(found["levels"]),
            files={
                name: FileMark(size_bytes=int(size), crc32=int(crc32, 16))
                for name, (size, crc32) in found["files"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
