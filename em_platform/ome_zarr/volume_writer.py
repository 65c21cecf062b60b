"""A volume into a sharded OME-Zarr 0.5 with its pyramid and statistics, in one pass."""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from em_platform.config import OutputSettings
from em_platform.errors import FormatError
from em_platform.formats.volume import Volume
from em_platform.imaging.resample import POOLINGS, Pooling
from em_platform.imaging.voxel_statistics import (
    Measured,
    measured_of,
    statistics_of,
)
from em_platform.model.volume import LevelInfo, VolumeInfo, WrittenVolume
from em_platform.ome_zarr.image_output import ImageOutput, image_output
from em_platform.ome_zarr.layout import VolumeLayout, group_attributes, plan_volume
from em_platform.ome_zarr.level_arrays import (
    DoneUnit,
    FinishedUnit,
    Levels,
    Run,
    done_unit,
    this_process,
)
from em_platform.ome_zarr.pyramid import Array, Region, Shape, Unit
from em_platform.storage.layout import StorageOptions
from em_platform.storage.manifest import Product


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a worker must know to make one unit."""

    levels: Levels
    layout: VolumeLayout
    volume: Volume
    pooling: Pooling


def write_volume(
    target: str,
    volume: Volume,
    *,
    settings: OutputSettings,
    name: str,
    product: Product,
    fingerprint: str,
    attributes: dict[str, Any] | None = None,
    pooling: Pooling = "mean",
    storage_options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
    run: Run = map,
    progress: Callable[[int], None] | None = None,
    keep: Callable[[WrittenVolume], None] | None = None,
) -> WrittenVolume:
    """The volume that now is at `target`, with the statistics of its voxels.

    Every voxel is read once, every shard is written once, by one task. The same input
    gives the same bytes, in one go or after a kill, with any `run`. A volume of the
    same product that stands at the target is replaced, in one step, when the new one
    is whole; nothing else is.

    Parameters
    ----------
    target
        Path or fsspec URL (`s3://bucket/volume.zarr`).
    product
        For which purpose the volume is made.
    fingerprint
        Names the voxels: when it differs from that of an interrupted call, the work
        starts anew.
    attributes
        Further attributes of the group, by name.
    pooling
        How voxels become those of the next level: `mean` for grey levels, `mode` or
        `nearest` for labels.
    storage_options
        Of the fsspec file system, for example `client_kwargs`.
    inputs, overwrite
        As in `storage.guard.check_output`.
    run
        A map over the units of work; `volume` goes to its workers.
    progress
        Hears how many bytes of level 0 have been written, each time some more are;
        first of those that an interrupted call had finished.
    keep
        Writes down what comes out, once the volume stands. Until that is done, a call
        that is killed is gone on with.

    Raises
    ------
    OutputRefused
        What stands at the target must not be replaced.
    OutputBusy
        Another process writes it.
    StorageError
        The store did not take the bytes; what is done is kept.
    FormatError
        The volume gave other voxels than its header says.
    SourceUnavailable
        And whatever else `volume.read` raises; what is done is kept.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    info = volume.info
    dtype = np.dtype(info.dtype)
    layout = _planned(info, settings)
    metadata = group_attributes(
        layout.pyramid,
        name,
        edges=info.voxel_size_nm,
        kind=pooling,
        origin=info.origin_nm,
    ) | (attributes or {})
    made_from = (info.shape, dtype.str, layout, settings.compression_level, metadata)
    digest = hashlib.sha256(repr((made_from, pooling, fingerprint)).encode())
    with image_output(
        target,
        product,
        fingerprint=digest.hexdigest(),
        options=storage_options,
        inputs=inputs,
        overwrite=overwrite,
    ) as work:
        # A killed call had published it, and not yet noted what came out.
        if (stands := work.result()) is not None:
            return _kept(WrittenVolume.model_validate_json(stands), work, keep)
        done = work.resume()
        job = _created(work, layout, volume, settings=settings, pooling=pooling)
        measured, cpu_elsewhere = _write_units(job, done, run=run, progress=progress)
        written = WrittenVolume(
            url=target,
            dtype=dtype.name,
            voxel_size_nm=info.voxel_size_nm,
            origin_nm=info.origin_nm,
            levels=_levels(layout, info, folder=work.staging.levels),
            chunk_shape=_three(layout.chunk_shape),
            shard_shape=_three(layout.pyramid.shard_shape),
            compression="zstd",
            size_bytes=work.close(metadata, done.values()),
            statistics=statistics_of(measured, info.shape, dtype),
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu_started + cpu_elsewhere,
        )
        work.publish(written.model_dump_json().encode())
        return _kept(written, work, keep)


def _created(
    work: ImageOutput,
    layout: VolumeLayout,
    volume: Volume,
    *,
    settings: OutputSettings,
    pooling: Pooling,
) -> _Job:
    levels = Levels(staging=work.staging, pyramid=layout.pyramid)
    levels.create(
        dtype=np.dtype(volume.info.dtype),
        chunk_shape=layout.chunk_shape,
        compression_level=settings.compression_level,
        fill_value=0,
    )
    return _Job(levels=levels, layout=layout, volume=volume, pooling=pooling)


def _planned(info: VolumeInfo, settings: OutputSettings) -> VolumeLayout:
    return plan_volume(
        info.shape,
        itemsize=np.dtype(info.dtype).itemsize,
        settings=settings,
        voxel_size_nm=info.voxel_size_nm,
        source_chunk=info.chunk_shape,
    )


def _kept(
    written: WrittenVolume,
    work: ImageOutput,
    keep: Callable[[WrittenVolume], None] | None,
) -> WrittenVolume:
    if keep is not None:
        keep(written)
    # Only now: a call that is killed before finds the result again.
    work.forget()
    return written


def _write_units(
    job: _Job,
    done: dict[str, FinishedUnit],
    *,
    run: Run,
    progress: Callable[[int], None] | None,
) -> tuple[Measured, float]:
    """What was measured, now or before, and the CPU-seconds of other processes.

    What is finished now is added to `done`.
    """
    measured, elsewhere = Measured(), 0.0

    def take(unit: Unit, finished: FinishedUnit) -> None:
        # Only level 0 is measured; later rounds begin above it.
        if unit.new:
            return
        measured.join(measured_of(finished.measured.encode()))
        if progress is not None:
            progress(_bytes_of(job, unit))

    for units in job.layout.rounds:
        missing = [unit for unit in units if unit.name not in done]
        for unit in units:
            if unit.name in done:
                take(unit, done[unit.name])
        for each in run(partial(_write_unit, job), missing):
            done[each.unit.name] = each.finished
            take(each.unit, each.finished)
            if each.cost.process != this_process():
                elsewhere += each.cost.cpu_seconds
    return measured, elsewhere


def _write_unit(job: _Job, unit: Unit) -> DoneUnit:
    started = time.process_time()
    measured = Measured()
    edge = job.layout.pyramid.shard_shape[0]

    def seen(index: Shape, pixels: Array) -> None:
        measured.add(index, pixels, first=index[0] * edge)

    files = job.levels.fill(
        unit,
        render=partial(_read, job.volume),
        seen=seen,
        pool=POOLINGS[job.pooling],
        # Later rounds read our own shards, which need no bars.
        spans=job.layout.spans if unit.new == 0 else (),
    )
    content = "" if unit.new else measured.to_json().decode()
    finished = FinishedUnit(files=files, measured=content)
    job.levels.staging.mark_done(unit.name, finished)
    return done_unit(unit, finished, since=started)


def _read(volume: Volume, region: Region) -> Array:
    """The voxels of a region, as the header promises them."""
    z, y, x = region
    voxels = volume.read((z, y, x))
    wanted = tuple(part.stop - part.start for part in region)
    if voxels.shape != wanted or voxels.dtype.name != volume.info.dtype:
        place = ", ".join(f"{part.start}:{part.stop}" for part in region)
        raise FormatError(
            f"volume: {volume.info.uri} gave {voxels.dtype.name} voxels of shape "
            f"{voxels.shape} at {place}, expected {volume.info.dtype} of shape "
            f"{wanted}; fetch it again, or report its reader",
            uri=volume.info.uri,
        )
    return np.ascontiguousarray(voxels, volume.info.dtype)  # in native byte order


def _bytes_of(job: _Job, unit: Unit) -> int:
    region = job.layout.pyramid.box_region(0, unit.leaves(job.layout.pyramid))
    voxels = int(np.prod([part.stop - part.start for part in region]))
    return voxels * np.dtype(job.volume.info.dtype).itemsize


def _levels(
    layout: VolumeLayout, info: VolumeInfo, *, folder: str
) -> tuple[LevelInfo, ...]:
    edges = info.voxel_size_nm
    return tuple(
        LevelInfo(
            path=f"{folder}{level}",
            shape=_three(shape),
            voxel_size_nm=edges and _sizes(edges, scale=layout.pyramid.scale(level)),
        )
        for level, shape in enumerate(layout.pyramid.shapes)
    )


def _sizes(
    edges: tuple[float, float, float], *, scale: Shape
) -> tuple[float, float, float]:
    z, y, x = (edge * step for edge, step in zip(edges, scale, strict=True))
    return z, y, x


def _three(shape: Shape) -> tuple[int, int, int]:
    z, y, x = shape
    return z, y, x
