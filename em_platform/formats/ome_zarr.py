"""Images as OME-Zarr 0.5: sharded, with a pyramid, written in one pass.

Sources: https://ngff.openmicroscopy.org/0.5/ (metadata) and
https://zarr-specs.readthedocs.io (sharding codec).
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray

from em_platform.config import RenderSettings
from em_platform.errors import FormatError, PlatformError
from em_platform.formats.chunked.metadata import Axis, Multiscale, parsed
from em_platform.formats.header_values import check_image
from em_platform.formats.image_output import image_output
from em_platform.formats.level_arrays import (
    DoneUnit,
    FinishedUnit,
    Levels,
    Run,
    done_unit,
    open_array,
    store_at,
    this_process,
)
from em_platform.formats.ome_layout import group_attributes, review_in
from em_platform.formats.pyramid import (
    Array,
    Region,
    Shape,
    Unit,
    count_levels,
    plan_pyramid,
    plan_rounds,
)
from em_platform.model import Review
from em_platform.storage.layout import StorageOptions
from em_platform.storage.manifest import Product

# Of what others may have written; ours have 256 KiB and at most 4096 in a shard.
_MOST_CHUNK_BYTES, _MOST_PARTS = 1 << 30, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The sizes of the levels, and what was spent outside of the calling process."""

    shapes: tuple[Shape, ...]
    workers_cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a worker must know to make one unit."""

    levels: Levels
    render: Callable[[Region], Array]


def write_pyramid(
    target: str,
    shape: Shape,
    *,
    dtype: DTypeLike,
    render: Callable[[Region], Array],
    settings: RenderSettings,
    name: str,
    product: Product,
    fingerprint: str,
    voxel_nm: tuple[float, ...] | None = None,
    attributes: dict[str, Any] | None = None,
    storage_options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
    run: Run = map,
) -> Written:
    """The sizes of the levels of the image that now is at `target`.

    Every shard is written once, by one task; a worker holds a few shards at a time.
    The same input gives the same bytes, in one go or after a kill, with any `run`. An
    image of the same product that stands at the target is replaced, in one step, when
    the new one is whole; nothing else is.

    Parameters
    ----------
    target
        Path or fsspec URL (`s3://bucket/mosaic.zarr`).
    shape
        Size of level 0, `(y, x)`.
    render
        Gives the pixels of one region (a slice for each axis) of level 0; called once
        a shard, in the order of the tree; goes to the workers.
    product
        For which purpose the image is made.
    fingerprint
        Names the pixels that `render` gives: when it differs from that of an
        interrupted call, the work starts anew.
    voxel_nm
        Edge of a pixel along each axis; without it the axes have no unit.
    attributes
        Further attributes of the group, by name.
    storage_options
        Of the fsspec file system, for example `client_kwargs`.
    inputs, overwrite
        As in `storage.guard.check_output`.
    run
        A map over the units of work.

    Raises
    ------
    OutputRefused
        What stands at the target must not be replaced.
    OutputBusy
        Another process writes it.
    StorageError
        The store did not take the bytes; nothing half-made stands at the target.
    """
    dtype = np.dtype(dtype)
    count = settings.levels or count_levels(shape, smallest_px=settings.chunk_px)
    pyramid = plan_pyramid(shape, shard_px=settings.shard_px, levels=count)
    metadata = group_attributes(pyramid, name, edges=voxel_nm) | (attributes or {})
    made_from = (shape, dtype.str, settings.model_dump(), metadata, fingerprint)
    spent = 0.0
    with image_output(
        target,
        product,
        fingerprint=hashlib.sha256(repr(made_from).encode()).hexdigest(),
        options=storage_options,
        inputs=inputs,
        overwrite=overwrite,
    ) as work:
        done = work.resume()
        levels = Levels(staging=work.staging, pyramid=pyramid)
        levels.create(
            dtype=dtype,
            chunk_shape=(settings.chunk_px,) * len(shape),
            compression_level=settings.compression_level,
            fill_value=settings.background,
        )
        job = _Job(levels=levels, render=render)
        for units in plan_rounds(pyramid):
            missing = [unit for unit in units if unit.name not in done]
            for each in run(partial(_write_unit, job), missing):
                done[each.unit.name] = each.finished
                # What this process spends its caller measures.
                spent += each.cost.cpu_seconds * (each.cost.process != this_process())
        work.close(metadata, done.values())
        work.publish()
    return Written(shapes=pyramid.shapes, workers_cpu_seconds=spent)


def _write_unit(job: _Job, unit: Unit) -> DoneUnit:
    started = time.process_time()
    finished = FinishedUnit(files=job.levels.fill(unit, render=job.render))
    # Behind the shards: the mark promises that they are written.
    job.levels.staging.mark_done(unit.name, finished)
    return done_unit(unit, finished, since=started)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the metadata of an image say of its axes and levels, `paths` from the image.

    `scales[k]` is the edge of a pixel of level k along each axis and `origins[k]` the
    centre of its first one, in `units` ("" where none is stated). `kind` says how a
    level is made of the one below.
    """

    axes: tuple[str, ...]
    units: tuple[str, ...]
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    origins: tuple[tuple[float, ...], ...]
    kind: str


def describe(url: str, *, storage_options: StorageOptions | None = None) -> Described:
    """What is known of the image at `url`; FormatError where there is none."""
    with read_plainly(url):
        group = zarr.open_group(
            store_at(url, storage_options or {}), mode="r", zarr_format=3
        )
        attributes: Any = group.attrs["ome"]
        image = parsed(Multiscale, attributes["multiscales"][0], url)
        axes = [axis for axis in image.axes or () if isinstance(axis, Axis)]
        stated = [
            {each.type: each for each in level.steps or ()} for level in image.datasets
        ]
        scales = tuple(each["scale"].scale or () for each in stated)
        moved = (each.get("translation") for each in stated)
        origins = tuple(
            (each and each.translation) or (0.0,) * len(axes) for each in moved
        )
        if any(len(each) != len(axes) for each in (*scales, *origins)):
            raise ValueError(
                f"scales {scales} and places {origins} of {len(axes)} axes"
            )
        return Described(
            axes=tuple(axis.name for axis in axes),
            units=tuple(axis.unit or "" for axis in axes),
            paths=tuple(level.path for level in image.datasets),
            scales=scales,
            origins=origins,
            kind=image.kind or "",
        )


def review_at(url: str, *, options: StorageOptions) -> Review | None:
    """The review of the OME-Zarr image at `url`; None for one that was not stitched."""
    group = zarr.open_group(store_at(url, dict(options)), mode="r", zarr_format=3)
    return review_in(group.attrs.asdict())


def level_count(url: str, *, storage_options: StorageOptions | None = None) -> int:
    """How many levels the image at `url` has; FormatError where there is none."""
    return len(describe(url, storage_options=storage_options).scales)


def open_level(
    url: str, level: int, *, storage_options: StorageOptions | None = None
) -> zarr.Array[Any]:
    """One level of the image at `url`, to be sliced; FormatError where it is not."""
    with read_plainly(url):
        path = describe(url, storage_options=storage_options).paths[level]
        # The levels may lie in a folder, `b/0`; `open_array` adds the number.
        place = f"{url.rstrip('/')}/{path}".removesuffix(f"/{level}")
        array = open_array(place, level, mode="r", options=storage_options or {})
        _check_cut(array)
        return array


def _check_cut(array: zarr.Array[Any]) -> None:
    """Refuse chunks that no memory holds: zarrs ends by them without an error."""
    objects, item = array.shards or array.chunks, np.dtype(array.dtype).itemsize
    parts = math.prod(objects) // max(1, math.prod(array.chunks))
    if (
        min(*array.chunks, *array.shape) < 1
        or math.prod(array.chunks) * item > _MOST_CHUNK_BYTES
        or parts > _MOST_PARTS
        or math.prod(array.shape) > 2**60
    ):
        raise ValueError(
            f"shape {array.shape} in chunks of {array.chunks}, shards of {objects}"
        )


def preview(
    url: str, max_px: int, *, storage_options: StorageOptions | None = None
) -> NDArray[np.uint8]:
    """The whole image, small; of a volume its middle section.

    Parameters
    ----------
    max_px
        The longer side of the result; an image that is smaller stays as it is.

    Returns
    -------
    NDArray[np.uint8]
        `(h, w)`; grey levels of more than 8 bits are mapped from darkest to brightest.
    """
    chosen = open_level(url, 0, storage_options=storage_options)
    for level in range(1, level_count(url, storage_options=storage_options)):
        smaller = open_level(url, level, storage_options=storage_options)
        if max(smaller.shape[-2:]) < max_px:
            break
        chosen = smaller
    middle = tuple(length // 2 for length in chosen.shape[:-2])
    plane: tuple[Any, ...] = (*middle, ...)
    height, width = chosen.shape[-2:]
    check_image(url, (height, width), pixel_bytes=1, file_bytes=1 << 40)
    with read_plainly(url):
        pixels: NDArray[Any] = np.asarray(chosen[plane])
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels)
    # OpenCV resizes few types, these and float32 among them.
    if pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32)
    factor = max_px / max(pixels.shape)
    if factor < 1:
        height, width = (max(1, round(length * factor)) for length in pixels.shape)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return pixels.astype(np.uint8)


@contextmanager
def read_plainly(url: str) -> Iterator[None]:
    """Turn what zarr and its codecs raise of damaged images into FormatError."""
    try:
        yield
    except (PlatformError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # Errors of nearly any kind; zarrs' own are not even an Exception.
        if not isinstance(error, Exception) and not _is_of_rust(error):
            raise
        raise FormatError(
            f"image: {url} is not an OME-Zarr 0.5 image with that level ({error}); "
            "name one that 'em-platform stitch' or a run has finished",
            url=url,
        ) from error


def _is_of_rust(error: BaseException) -> bool:
    return type(error).__module__.startswith("pyo3")
