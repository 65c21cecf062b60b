"""A mosaic from placed tiles: blended shard by shard into a sharded OME-Zarr."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from em_platform.config import RenderSettings
from em_platform.errors import PlatformError
from em_platform.formats import level_count, open_level, read_pixels
from em_platform.model import (
    Box,
    Check,
    LensModel,
    Montage,
    MontageFit,
    Review,
    Severity,
)
from em_platform.model.sentences import size_of
from em_platform.ome_zarr import mosaic_attributes, preview, write_pyramid
from em_platform.stitching import blend
from em_platform.stitching.compute import Mapper, serial
from em_platform.stitching.placed import (
    Layout,
    PlacedTile,
    SpatialIndex,
    lay_out,
    lens_grid,
    node_grid,
)
from em_platform.stitching.tile_images import TileImages
from em_platform.storage.layout import StorageOptions, local_path
from em_platform.storage.manifest import Product

# What Dagster shows on a page: seen whole on a screen, about 50 kB.
_PREVIEW_PX = 800
_JPEG_QUALITY = 80
_BLOCK_PX = (128, 512)  # sums of a block fit into the processor's second cache
_ALL_VALID = np.zeros((0, 0), np.bool_)

Region = tuple[slice, ...]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mosaic:
    """A stitched image: where it lies, how large it is, what it cost.

    `origin_px` is the place `(y, x)` of its first pixel in the frame of the fit.
    `mpix` counts the pixels of level 0.
    """

    url: str
    shape: tuple[int, int]
    levels: int
    origin_px: tuple[int, int]
    seconds: float
    cpu_seconds: float
    mpix: float
    review: Review


def render_mosaic(
    montage: Montage,
    fit: MontageFit,
    images: TileImages,
    target: str,
    *,
    settings: RenderSettings,
    review: Review,
    lens: LensModel | None = None,
    storage_options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
    run: Mapper = serial,
) -> Mosaic:
    """The mosaic at `target`, an OME-Zarr 0.5 image with a pyramid.

    Where tiles overlap, each counts by its distance from the edge of its valid region;
    where one tile alone lies, its grey levels are taken as they are. Memory follows the
    shard and not the montage. The image carries its `review`, so that who finds it
    later, without Dagster or catalog, sees whether tiles are missing. See
    `ome_zarr.write_pyramid` for what happens when it is interrupted, and for
    its errors.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    layout = lay_out(montage, fit, images, lens=lens)
    pixels = MosaicPixels(layout, images, settings=settings, lens=lens)
    edge_nm = montage.pixel_nm
    written = write_pyramid(
        target,
        layout.shape,
        dtype=np.uint8,
        render=pixels,
        settings=settings,
        name=montage.montage_id,
        product=mosaic_product(montage),
        fingerprint=_fingerprint(layout, images, lens),
        voxel_nm=(edge_nm, edge_nm) if edge_nm else None,
        attributes=mosaic_attributes(layout.origin_px, review),
        storage_options=storage_options,
        inputs=inputs,
        overwrite=overwrite,
        run=run,
    )
    return Mosaic(
        url=target,
        shape=layout.shape,
        levels=len(written.shapes),
        origin_px=layout.origin_px,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started + written.workers_cpu_seconds,
        mpix=layout.shape[0] * layout.shape[1] / 1e6,
        review=review,
    )


def mosaic_product(montage: Montage) -> Product:
    """For which purpose the mosaic of a montage is made."""
    return Product(kind="mosaic", of=montage.acquisition_id)


def mosaic_preview(url: str, *, options: StorageOptions) -> bytes:
    """The whole mosaic, small, as a JPEG."""
    image = preview(url, _PREVIEW_PX, storage_options=dict(options))
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(encoded)


def check_mosaic(mosaic: Mosaic, *, options: StorageOptions) -> tuple[Check, ...]:
    """Whether every level of the mosaic can be opened and has the expected size."""
    wrong = _what_is_wrong(mosaic, dict(options))
    good = f"{mosaic.levels} levels from {size_of(mosaic.shape)} can be read"
    return (
        Check(
            name="mosaic_is_valid",
            passed=not wrong,
            severity=Severity.ERROR,
            sentence=f"mosaic {mosaic.url}: {wrong or good}",
        ),
    )


class MosaicPixels:
    """Gives the pixels of any region of a mosaic; can be sent to other processes.

    Remembers the tiles it read last, as many as `settings.tile_cache_mb` holds.
    """

    def __init__(
        self,
        layout: Layout,
        images: TileImages,
        *,
        settings: RenderSettings,
        lens: LensModel | None = None,
    ) -> None:
        # What remakes it in a worker: caches and views of arrays do not travel.
        self._made_from = partial(
            MosaicPixels, layout, images, settings=settings, lens=lens
        )
        self._tiles, self._images = layout.tiles, images
        self._background = np.uint8(settings.background)
        self._lens = lens_grid(lens) if lens else None
        largest = max(
            p.tile.size.height_px * p.tile.size.width_px for p in layout.tiles
        )
        self._index = SpatialIndex(
            [p.box for p in layout.tiles], cell_px=settings.shard_px
        )
        remembered = settings.tile_cache_mb * 2**20 // largest
        self._read = lru_cache(remembered)(self._read_tile)
        self._nodes = lru_cache(max(1, remembered))(self._node_grid)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made_from, ()

    def __call__(self, region: Region) -> Image:
        """The pixels of a region, `(h, w)`."""
        y0, x0 = region[0].start, region[1].start
        out = np.full(
            (region[0].stop - y0, region[1].stop - x0), self._background, np.uint8
        )
        whole = Box(y0=y0, x0=x0, y1=region[0].stop, x1=region[1].stop)
        numbers = np.array(self._index.near(whole), dtype=np.intp)
        boxes = np.array([_edges(self._tiles[n].box) for n in numbers]).reshape(-1, 4)
        # Kept for the whole region: the cache may hold fewer than it needs.
        tiles: dict[int, Image] = {}
        for block in _blocks(whole):
            top, left, bottom, right = boxes.T
            inside = (top < block.y1) & (bottom > block.y0)
            inside &= (left < block.x1) & (right > block.x0)
            hits = numbers[inside].tolist()
            tiles |= {n: self._read(n) for n in hits if n not in tiles}
            self._fill(out, whole, block, {n: tiles[n] for n in hits})
        return out

    def _fill(
        self, out: Image, whole: Box, block: Box, tiles: dict[int, Image]
    ) -> None:
        if not tiles:
            return
        only = self._tiles[next(iter(tiles))]
        # Blending one tile gives the very same levels, and takes longer.
        if len(tiles) == 1 and only.is_shifted:
            _paste(out, whole, block, placed=only, image=next(iter(tiles.values())))
            return
        sums = np.zeros((2, block.y1 - block.y0, block.x1 - block.x0))
        for number, image in tiles.items():
            self._add(sums, block, number, image)
        blend.finish_block(
            out,
            block.y0 - whole.y0,
            block.x0 - whole.x0,
            sums[0],
            sums[1],
            self._background,
        )

    def _add(
        self, sums: NDArray[np.float64], block: Box, number: int, image: Image
    ) -> None:
        placed = self._tiles[number]
        valid = np.array(_edges(placed.valid))
        if placed.is_shifted:
            y, x, fy, fx = placed.whole_shift
            both = _common(placed.box, block)
            blend.add_shifted(
                sums[0],
                sums[1],
                both.y0 - block.y0,
                both.x0 - block.x0,
                both.y1 - both.y0,
                both.x1 - both.x0,
                image,
                both.y0 + y,
                both.x0 + x,
                np.float32(fy),
                np.float32(fx),
                valid,
            )
            return
        mask = self._images.mask(placed.tile)
        blend.add_warped(
            sums[0],
            sums[1],
            block.y0 - placed.box.y0,
            block.x0 - placed.box.x0,
            image,
            _ALL_VALID if mask is None else mask,
            self._nodes(number),
            valid,
        )

    def _read_tile(self, number: int) -> Image:
        image = np.ascontiguousarray(self._images.read(self._tiles[number].tile))
        # All regions of this process get this one array.
        image.flags.writeable = False
        return image

    def _node_grid(self, number: int) -> NDArray[np.float64]:
        return node_grid(self._tiles[number], self._lens)


def _paste(
    out: Image, whole: Box, block: Box, *, placed: PlacedTile, image: Image
) -> None:
    y, x, fy, fx = placed.whole_shift
    both = _common(placed.box, block)
    blend.paste_shifted(
        out,
        both.y0 - whole.y0,
        both.x0 - whole.x0,
        both.y1 - both.y0,
        both.x1 - both.x0,
        image,
        both.y0 + y,
        both.x0 + x,
        np.float32(fy),
        np.float32(fx),
    )


def _blocks(whole: Box) -> Iterable[Box]:
    for y0 in range(whole.y0, whole.y1, _BLOCK_PX[0]):
        for x0 in range(whole.x0, whole.x1, _BLOCK_PX[1]):
            yield Box(
                y0=y0,
                x0=x0,
                y1=min(y0 + _BLOCK_PX[0], whole.y1),
                x1=min(x0 + _BLOCK_PX[1], whole.x1),
            )


def _common(one: Box, other: Box) -> Box:
    return Box(
        y0=max(one.y0, other.y0),
        x0=max(one.x0, other.x0),
        y1=min(one.y1, other.y1),
        x1=min(one.x1, other.x1),
    )


def _edges(box: Box) -> tuple[int, int, int, int]:
    return box.y0, box.x0, box.y1, box.x1


def _fingerprint(layout: Layout, images: TileImages, lens: LensModel | None) -> str:
    """Names the pixels: all that places them, and when their files last changed."""
    digest = hashlib.sha256()
    for placed in layout.tiles:
        digest.update(placed.place.model_dump_json().encode())
        digest.update(placed.tile.model_dump_json().encode())
        for uri in (placed.tile.uri, placed.tile.mask_uri or ""):
            # A frame imaged again under its name has another size or time; a URL has
            # neither at hand, and its own name is all that tells it.
            path = local_path(uri)
            if path is not None and path.is_file():
                status = os.stat(path)
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    how = (lens, images.grey_range, images.valid_box, images.flip)
    digest.update(repr(how).encode())
    if images.flat_field is not None:
        digest.update(images.flat_field.gain.tobytes())
        if images.flat_field.dark is not None:
            digest.update(images.flat_field.dark.tobytes())
    return digest.hexdigest()


def _what_is_wrong(mosaic: Mosaic, options: StorageOptions) -> str:
    try:
        levels = level_count(mosaic.url, storage_options=options)
        first = open_level(mosaic.url, 0, storage_options=options)
        last = open_level(mosaic.url, levels - 1, storage_options=options)
        # Opening reads metadata only; one pixel shows that a shard can be decoded.
        read_pixels(mosaic.url, last, np.s_[-1:, -1:])
    except PlatformError as error:
        return str(error)
    if levels != mosaic.levels or tuple(first.shape) != mosaic.shape:
        return (
            f"found {levels} levels from {first.shape}, expected {mosaic.levels} from "
            f"{mosaic.shape}; run the step again"
        )
    return ""
