"""The making of an image, by one process at a time, in one step for its readers.

It replaces nothing but what was made for the same purpose (`storage.guard`), while no
other process does (`storage.lease`), and seals what it has made (`storage.manifest`).
What is finished is remembered, so that a second call resumes where a killed one
stopped.

On a local disk the image grows in `<target>.partial/<own name>/image` and takes the
target's name at the end, in one step. In a bucket it grows at the target, and is no
image until its group metadata is written last; where another image stands there, its
levels grow in a folder of their own, so that the old one stands until that moment.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from em_platform.errors import StorageError
from em_platform.ome_zarr.level_arrays import (
    Files,
    FinishedUnit,
    Staging,
    finished_of,
    plain_errors,
    staging_of,
)
from em_platform.storage.atomic import put_folder
from em_platform.storage.guard import check_output
from em_platform.storage.layout import StorageOptions, local_path
from em_platform.storage.lease import Lease, one_writer, release_of_killed
from em_platform.storage.manifest import (
    BEGUN,
    ROOT,
    SECOND,
    FileMark,
    Manifest,
    Product,
    Standing,
    crc32_of,
    sealed,
)


class ImageOutput:
    """The making of one image by one process; see `image_output`."""

    def __init__(
        self,
        staging: Staging,
        product: Product,
        *,
        fingerprint: str,
        lease: Lease,
        look: Callable[[], Standing | None],
    ) -> None:
        self.staging = staging
        self._product = product
        self._fingerprint = fingerprint
        self._lease = lease
        self._look = look
        self._standing = look()
        self._is_local = local_path(staging.target) is not None
        self._manifest = Manifest(product=product)
        self._attributes: dict[str, Any] = {}
        self._root = b""

    def result(self) -> bytes | None:
        """What was given to `publish`, where just that image stands at the target."""
        standing = self._standing
        if standing is None or not self._begun() or not self._has("result"):
            return None
        mark, _, found = self._read("result").partition(b"\n")
        if mark != self._mark(self.staging.target, standing.seal):
            return None
        return None if standing.damaged() else found

    def resume(self) -> dict[str, FinishedUnit]:
        """The units that an earlier call with the same fingerprint has finished."""
        with plain_errors(self.staging.target):
            if self._begun() and self._holds_ours():
                return self._finished()
            self._clear()
            self._choose_levels()
            filesystem, path = self._partial()
            filesystem.makedirs(f"{path}/done", exist_ok=True)
            begun = {
                "fingerprint": self._fingerprint,
                "levels": self.staging.levels,
                "product": asdict(self._product),
            }
            mark = f"{self.staging.partial}/{BEGUN}"
            self.staging.write(mark, json.dumps(begun).encode())
        return {}

    def close(self, attributes: dict[str, Any], units: Iterable[FinishedUnit]) -> int:
        """Write the manifest, and what makes an image of the levels; bytes in all.

        Raises
        ------
        StorageError
            A file is not there as it was written.
        """
        staging = self.staging
        with plain_errors(staging.target):
            files = {name: mark for unit in units for name, mark in unit.files.items()}
            files |= self._metadata_of_levels()
            manifest = Manifest(
                product=self._product, levels=staging.levels, files=files
            )
            self._compare(files)
            self._manifest = manifest
            filesystem, path = staging.opened(f"{staging.image}/{manifest.place}")
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            staging.write(f"{staging.image}/{manifest.place}", manifest.content())
            self._attributes = attributes
            self._root = self._root_with(manifest)
            # In a bucket this file makes the image: `publish` alone puts it there.
            if self._is_local:
                staging.write(f"{staging.image}/{ROOT}", self._root)
        sizes = sum(mark.size_bytes for mark in files.values())
        return sizes + len(self._root) + len(manifest.content())

    def _root_with(self, manifest: Manifest) -> bytes:
        """The image's own metadata."""
        group = {
            "attributes": sealed(
                _in_folder(self._attributes, manifest.levels), manifest
            ),
            "zarr_format": 3,
            "node_type": "group",
        }
        return json.dumps(group, indent=2).encode()

    def publish(self, result: bytes | None = None) -> None:
        """Let the image stand at the target, in one step; an older one goes.

        With a `result` all is remembered until `forget`, and the result with it.
        """
        staging = self.staging
        with plain_errors(staging.target):
            filesystem, path = self._partial()
            if result is None:
                # What remains after a kill from here on is not resumed.
                filesystem.rm_file(f"{path}/{BEGUN}")
            else:
                mark = self._mark(staging.image, self._manifest.crc32)
                staging.write(f"{staging.partial}/result", mark + b"\n" + result)
        # Once more: who stood still for long may have lost it.
        self._lease.check()
        with plain_errors(staging.target):
            self._look()  # since we began a file of others may have come there
            local = local_path(staging.target)
            if local is not None:
                put_folder(Path(staging.image), local)
            elif not self._stands_already():
                staging.write(f"{staging.image}/{ROOT}", self._root)
                # Only now: until the metadata are there, the old image is read.
                self._remove_others(self._manifest)
        if result is None:
            self.forget()

    def forget(self) -> None:
        """Remove all that was remembered."""
        with plain_errors(self.staging.target):
            filesystem, path = self._partial()
            if filesystem.exists(f"{path}/{BEGUN}"):
                # First the mark to resume by: what a kill leaves then is not resumed.
                filesystem.rm_file(f"{path}/{BEGUN}")
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
            if self._is_local:
                with suppress(OSError):  # another one was begun
                    Path(path).parent.rmdir()

    # --- what an earlier call has left ---

    def _begun(self) -> bool:
        """Whether an earlier call with this fingerprint was not finished."""
        if not self._has(BEGUN):
            return False
        try:
            begun = json.loads(self._read(BEGUN))
            is_ours = bool(begun["fingerprint"] == self._fingerprint)
            self.staging = replace(self.staging, levels=str(begun["levels"]))
        except (ValueError, KeyError, TypeError):
            return False
        return is_ours

    def _holds_ours(self) -> bool:
        """Whether `image` is what the finished units have been written to.

        Once it was to change places with an older one, it may be that one.
        """
        if not self._is_local or not self._has("result"):
            return True
        mark = self._read("result").partition(b"\n")[0]
        return mark == self._mark(self.staging.image, "")

    def _finished(self) -> dict[str, FinishedUnit]:
        filesystem, path = self._partial()
        names = filesystem.find(f"{path}/done")
        found = filesystem.cat(names) if names else {}
        units = {name.rpartition("/")[2]: finished_of(c) for name, c in found.items()}
        return {name: unit for name, unit in units.items() if unit is not None}

    def _clear(self) -> None:
        """Remove what was begun from other inputs, and is no part of what stands."""
        filesystem, path = self._partial()
        if self._is_local:
            shutil.rmtree(path, ignore_errors=True)
            return
        standing = self._standing
        if standing is not None:
            self._remove_others(standing.manifest if standing.seal else None)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def _choose_levels(self) -> None:
        """In a bucket the levels of an image that stands whole are not written over."""
        standing, levels = self._standing, ""
        if standing is not None and standing.manifest is not None:
            levels = standing.manifest.levels
            if not standing.damaged():
                levels = "" if levels else SECOND
        if self._is_local:
            levels = ""
        self.staging = replace(self.staging, levels=levels)

    def _stands_already(self) -> bool:
        """Whether a bucket's image is the one that stands there; ours goes then."""
        standing, ours = self._standing, self._manifest
        if standing is None or standing.manifest is None or standing.damaged():
            return False
        older = standing.manifest
        if replace(older, levels="", files=_inside(older)) != replace(
            ours, levels="", files=_inside(ours)
        ):
            return False
        filesystem, path = self.staging.opened(self.staging.target)
        if self._root_with(older) != filesystem.cat_file(f"{path}/{ROOT}"):
            return False
        if ours.levels != older.levels:
            filesystem.rm([f"{path}/{n}" for n in (ours.place, *ours.files)])
        return True

    def _remove_others(self, kept: Manifest | None) -> None:
        """Remove from a bucket what was there and is no part of the image."""
        if self._standing is None:
            return
        names = {ROOT, kept.place, *kept.files} if kept else set()
        filesystem, path = self.staging.opened(self.staging.target)
        gone = [f"{path}/{name}" for name in self._standing.files.keys() - names]
        if gone:
            filesystem.rm(gone)

    def _mark(self, image: str, seal: str) -> bytes:
        """Tells an image from others: a folder keeps its number with another name."""
        local = local_path(image)
        if local is None:
            return seal.encode()
        return b"%d" % (local.stat().st_ino if local.exists() else -1)

    # --- files ---

    def _metadata_of_levels(self) -> dict[str, FileMark]:
        staging = self.staging
        filesystem, path = staging.opened(staging.levels_url)
        found = {}
        for level in sorted(filesystem.ls(path, detail=False)):
            name = str(level).rstrip("/").rpartition("/")[2]
            if name.isdigit():
                file = f"{path}/{name}/{ROOT}"
                found[f"{staging.levels}{name}/{ROOT}"] = FileMark(
                    size_bytes=int(filesystem.size(file) or 0),
                    crc32=crc32_of(filesystem, file),
                )
        return found

    def _compare(self, files: Files) -> None:
        """Refuse to publish what is not on the disk, or not in the bucket, as written.

        Units that a killed call had finished are not read again, but are listed.
        """
        staging = self.staging
        filesystem, path = staging.opened(staging.image)
        listed = filesystem.find(path, detail=True)
        sizes = {n.removeprefix(path).lstrip("/"): e["size"] for n, e in listed.items()}
        lost = [n for n, mark in files.items() if sizes.get(n) != mark.size_bytes]
        if lost:
            # Else the next call would resume from units whose files are lost.
            self.forget()
            raise StorageError(
                f"image: {staging.target}: {len(lost)} of {len(files)} files are not "
                f"there as they were written (first: {lost[0]}); check the disk, then "
                "run again: all is made anew",
                url=staging.target,
            )

    def _partial(self) -> tuple[AbstractFileSystem, str]:
        return self.staging.opened(self.staging.partial)

    def _has(self, name: str) -> bool:
        filesystem, path = self._partial()
        return bool(filesystem.exists(f"{path}/{name}"))

    def _read(self, name: str) -> bytes:
        filesystem, path = self._partial()
        return bytes(filesystem.cat_file(f"{path}/{name}"))


@contextmanager
def image_output(
    target: str,
    product: Product,
    *,
    fingerprint: str,
    options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
) -> Iterator[ImageOutput]:
    """Be the one who makes the image at `target`, within the block.

    Parameters
    ----------
    fingerprint
        Names all that goes in: an interrupted call with another one is not resumed.
    inputs, overwrite
        As in `storage.guard.check_output`.

    Raises
    ------
    OutputRefused
        What stands at the target must not be replaced.
    OutputBusy
        Another process makes it.
    StorageError
        The store cannot be read or written.
    """
    look = partial(
        check_output,
        target,
        product,
        options=options,
        inputs=tuple(inputs),
        overwrite=overwrite,
    )
    with plain_errors(target):
        look()  # nothing is written, and no lease, where it refuses
    work = f"another run of {product.shown}"
    with one_writer(target, work=work, options=options) as lease:
        with plain_errors(target):
            staging = staging_of(target, dict(options or {}), fingerprint)
            output = ImageOutput(
                staging, product, fingerprint=fingerprint, lease=lease, look=look
            )
        yield output


def forget_unfinished(target: str, options: StorageOptions | None = None) -> None:
    """Remove what a killed process left beside an image that has been finished."""
    release_of_killed(target, options=options)
    with plain_errors(target):
        staging = staging_of(target, dict(options or {}), None)
        filesystem, path = staging.opened(staging.partial)
        if filesystem.exists(f"{path}/{BEGUN}"):
            filesystem.rm(path, recursive=True)


def _in_folder(attributes: dict[str, Any], folder: str) -> dict[str, Any]:
    """The attributes of an image whose levels are in a folder of it."""
    if not folder:
        return attributes
    moved: dict[str, Any] = json.loads(json.dumps(attributes))  # the caller's own stay
    for image in moved["ome"]["multiscales"]:
        for level in image["datasets"]:
            level["path"] = f"{folder}{level['path']}"
    return moved


def _inside(manifest: Manifest) -> Files:
    """The files of the levels, wherever those are."""
    return {n.removeprefix(manifest.levels): m for n, m in manifest.files.items()}
