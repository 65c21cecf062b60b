"""Any volume as a Dask array, for those who go on in Python."""

from typing import Any

import numpy as np

from em_platform.formats.volume import Volume

_BLOCK_VOXELS = 128**3


class _Sliceable:
    """What Dask asks of an array; goes to workers with the volume."""

    ndim = 3

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.shape = volume.info.shape
        self.dtype = np.dtype(volume.info.dtype)

    def __getitem__(self, region: tuple[slice, slice, slice]) -> Any:
        return self._volume.read(region)

    def __dask_tokenize__(self) -> object:
        return type(self._volume).__name__, self._volume.info.model_dump_json()


def lazy_array(volume: Volume, chunks: tuple[int, int, int] | None = None) -> Any:
    """The volume as a `dask.array` of z, y, x; nothing is read before it is computed.

    Parameters
    ----------
    chunks
        Edges of a block; without them whole chunks of the source, about 128 cubed.
    """
    import dask.array as da

    return da.from_array(  # type: ignore[no-untyped-call]
        _Sliceable(volume),
        chunks=chunks or _blocks(volume),
        asarray=False,
        fancy=False,
        # One small graph: the volume stands in each task, a few hundred bytes.
        inline_array=True,
    )


def _blocks(volume: Volume) -> tuple[int, ...]:
    """The source's chunks, doubled while a block is small, at most the volume."""
    shape = volume.info.shape
    edges = list(volume.info.chunk_shape or (min(128, n) for n in shape))
    while np.prod(edges) < _BLOCK_VOXELS:
        short = [n for n in range(3) if edges[n] < shape[n]]
        if not short:
            break
        smallest = min(short, key=lambda axis: edges[axis])
        edges[smallest] *= 2
    return tuple(min(edge, n) for edge, n in zip(edges, shape, strict=True))
