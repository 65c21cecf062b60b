"""A frame's file -> its OME-Zarr pyramid in the store, whole and proven equal."""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.aloha.body import TooLarge
from em_platform.config import AlohaSettings, RenderSettings
from em_platform.errors import FormatError, StorageError
from em_platform.formats import open_level, read_header, read_image, read_pixels
from em_platform.imaging.focus import focus_score
from em_platform.imaging.grey import to_grey
from em_platform.model import MeasuredTile
from em_platform.ome_zarr import plain_errors, write_pyramid
from em_platform.storage import Store
from em_platform.storage.guard import check_output
from em_platform.storage.manifest import GROUP, ROOT, Product

_OURS = "em_platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame on its way: who it is, and where its pyramid is to stand."""

    name: str
    """In the store."""
    tile_id: str
    sha256: str
    pixel_nm: float | None

    @property
    def product(self) -> Product:
        """Other pixels under its name are another product."""
        return Product(kind="frame", of=f"{self.tile_id} {self.sha256}")


def store_frame(
    file: Path,
    frame: Frame,
    store: Store,
    *,
    settings: AlohaSettings,
    scratch: Path,
    measure: bool,
) -> MeasuredTile | None:
    """Put the pyramid of a frame's TIFF into the store; what its pixels say, if asked.

    Level 0 is read again and compared before the pyramid is called whole. In a bucket
    the group's metadata comes last: before it there is no image.

    Raises
    ------
    FormatError
        The file is no image of grey levels.
    TooLarge
        Its pixels are more than the settings allow.
    StorageError
        The store did not take it.
    """
    store.claim()
    try:
        _check_size(file, frame, settings)
        image = read_image(str(file))
    except FormatError as error:
        # Its name in scratch says nothing to who sent it.
        named = str(error).replace(str(file), f"aloha: tile {frame.tile_id}")
        raise FormatError(named, tile_id=frame.tile_id) from error
    local = store.local_path(frame.name)
    if local is not None:
        _write(local, image, frame, settings)
        # Before the answer: what was answered outlives a power cut.
        with plain_errors(str(local)):
            _reach_the_disk(local)
    else:
        url = store.url(frame.name)
        # Made here first: it is read back and compared before it is sent.
        beside = scratch / f"{uuid.uuid4().hex}.zarr"
        with store.one_writer(frame.name, work=f"an upload of {frame.tile_id}"):
            check_output(url, frame.product, options=store.options)
            try:
                _write(beside, image, frame, settings)
                _send(beside, frame.name, store)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
    return measured(image) if measure else None


def _check_size(file: Path, frame: Frame, settings: AlohaSettings) -> None:
    """Refuse by its header, before pixels are read, what is no frame."""
    header = read_header(str(file))
    height, width = header.size.height_px, header.size.width_px
    size_bytes = height * width * np.dtype(header.dtype).itemsize
    # Half a megabyte of Deflate may be 500 MB of pixels.
    if size_bytes > settings.tile_limit_mb * 1e6:
        raise TooLarge(
            f"aloha: tile {frame.tile_id}: found {header.size} of "
            f"{header.dtype} ({size_bytes} bytes), expected at most "
            f"{settings.tile_limit_mb:g} MB; raise aloha.tile_limit_mb"
        )


def is_stored(frame: Frame, store: Store) -> bool:
    """Whether the pyramid of just this frame stands whole in the store."""
    name = f"{frame.name}/{ROOT}"
    if not store.exists(name):
        return False
    attributes = json.loads(store.read_bytes(name)).get("attributes", {})
    if attributes.get(_OURS, {}).get("sha256") != frame.sha256:
        return False
    local = store.local_path(frame.name)
    if local is not None:
        with plain_errors(str(local)):
            _reach_the_disk(local)  # whoever wrote it may have been killed before
    return True


def measured(image: NDArray[Any]) -> MeasuredTile:
    """What the pixels of a frame say, in its own grey levels."""
    low, high = float(image.min()), float(image.max())
    grey = image if image.dtype == np.uint8 else _to_8_bit(image, low, high)
    return MeasuredTile(
        minimum=low,
        maximum=high,
        mean=float(image.mean(dtype=np.float64)),  # else float32 is summed in float32
        std=float(image.std(dtype=np.float64)),
        focus_score=focus_score(grey),
        measured_by="aloha",
    )


def _to_8_bit(image: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # + 1: a uniform frame has no range that could be stretched.
    return to_grey(image, gain=None, dark=None, grey_range=(low, max(high, low + 1)))


def _write(
    target: Path, image: NDArray[Any], frame: Frame, settings: AlohaSettings
) -> None:
    # Even, as the edge of a shard must be.
    longest = max(image.shape) + max(image.shape) % 2
    chunk_px = min(settings.chunk_px, longest)
    write_pyramid(
        str(target),
        image.shape,
        dtype=image.dtype,
        render=lambda region: image[region],
        settings=RenderSettings(
            chunk_px=chunk_px,
            shard_px=-(-longest // chunk_px) * chunk_px,  # one object a level
            compression_level=settings.compression_level,
        ),
        name=frame.tile_id,
        product=frame.product,
        fingerprint=frame.sha256,
        voxel_nm=None if frame.pixel_nm is None else (frame.pixel_nm,) * 2,
        attributes={_OURS: {"tile_id": frame.tile_id, "sha256": frame.sha256}},
    )
    try:
        # A disk can write other bytes than it was given, and report success.
        stored = read_pixels(str(target), open_level(str(target), 0))
        is_equal = np.array_equal(stored, image)
    except FormatError:
        is_equal = False
    if not is_equal:
        shutil.rmtree(target, ignore_errors=True)  # else `is_stored` would find it
        raise StorageError(
            f"aloha: tile {frame.tile_id}: other pixels were read back from {target} "
            "than were written; check that disk, then send the tile again"
        )


def _reach_the_disk(folder: Path) -> None:
    """Return when a power cut could not take the folder back."""
    # The parent too: its entry is what makes the folder be there.
    paths = [folder.parent, folder, *folder.rglob("*")]
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _send(folder: Path, name: str, store: Store) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # The manifest says that what a killed call leaves is ours.
    first, last = folder / GROUP, folder / ROOT
    for path in [first, *(p for p in files if p not in (first, last)), last]:
        store.write_bytes(f"{name}/{path.relative_to(folder)}", path.read_bytes())
