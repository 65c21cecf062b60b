"""A picture into a sharded OME-Zarr 0.5 with its pyramid, in one pass.

Sources: https://ngff.openmicroscopy.org/0.5/ (metadata) and
https://zarr-specs.readthedocs.io (sharding codec).
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from em_platform.config import RenderSettings
from em_platform.ome_zarr.image_output import image_output
from em_platform.ome_zarr.layout import group_attributes
from em_platform.ome_zarr.level_arrays import (
    DoneUnit,
    FinishedUnit,
    Levels,
    Run,
    done_unit,
    this_process,
)
from em_platform.ome_zarr.pyramid import (
    Array,
    Region,
    Shape,
    Unit,
    count_levels,
    plan_pyramid,
    plan_rounds,
)
from em_platform.storage.layout import StorageOptions
from em_platform.storage.manifest import Product


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
