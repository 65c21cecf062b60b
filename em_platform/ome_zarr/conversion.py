"""Any image as OME-Zarr."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from em_platform.config import OutputSettings
from em_platform.errors import ConfigError, FormatError
from em_platform.formats.open import left_out, open_volume
from em_platform.formats.source import local_path
from em_platform.imaging.resample import Pooling
from em_platform.model.volume import WrittenVolume
from em_platform.ome_zarr.volume_writer import write_volume
from em_platform.storage.layout import StorageOptions
from em_platform.storage.manifest import Product

log = logging.getLogger(__name__)

# Of an edge that is given: finer than any atom, longer than any specimen.
_VOXEL_NM = 1e-6, 1e9


def convert(
    source: str,
    target: str,
    *,
    settings: OutputSettings,
    voxel_nm: tuple[float, float, float] | None = None,
    pooling: Pooling = "mean",
    options: StorageOptions | None = None,
    overwrite: bool = False,
) -> WrittenVolume:
    """The OME-Zarr at `target` with the voxels of `source`, any that can be opened.

    Parameters
    ----------
    voxel_nm
        Edges of a voxel along z, y, x, where the file states none or a wrong one.
    options
        Of the source's store, as for `open_volume`.

    Raises
    ------
    FormatError
        The source cannot be read, or the target is no name of an OME-Zarr.
    OutputRefused
        What stands at the target must not be replaced.
    """
    if not target.rstrip("/").endswith(".zarr"):
        raise FormatError(
            f"convert: {target} was given as the output, expected a path or URL ending "
            "in .zarr; name one"
        )
    volume: Any = open_volume(source, options)
    if voxel_nm is not None:
        _check_voxel(voxel_nm)
        info = volume.info.model_copy(update={"voxel_size_nm": voxel_nm})
        volume = replace(volume, info=info)
    if others := left_out(volume.info):
        log.warning("%s: left out %s", source, others)
    local = local_path(source)
    name = Path(local).resolve().name if local else source.rstrip("/").rsplit("/")[-1]
    # A file that was changed may have the same shape: it is not resumed from.
    changed_ns = Path(local).stat().st_mtime_ns if local else 0
    made_from = f"{volume.info.model_dump_json()} {changed_ns} {pooling}"
    return write_volume(
        target,
        volume,
        settings=settings,
        name=name,
        product=Product(
            kind="volume", of=str(Path(local).resolve()) if local else source
        ),
        fingerprint=hashlib.sha256(made_from.encode()).hexdigest(),
        pooling=pooling,
        inputs=(source,),
        overwrite=overwrite,
    )


def _check_voxel(voxel_nm: tuple[float, float, float]) -> None:
    low, high = _VOXEL_NM
    if not all(low <= edge <= high for edge in voxel_nm):
        raise ConfigError(
            f"convert: a voxel of {' x '.join(f'{e:g}' for e in voxel_nm)} nm (z, y, "
            f"x) was given, edges from {low:g} to {high:g} nm were expected; correct it"
        )
