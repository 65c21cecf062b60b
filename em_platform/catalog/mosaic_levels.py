"""How a mosaic is stored: its levels, chunks and shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from em_platform.formats import describe, open_level
from em_platform.model.dataset import StoredLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicLevels:
    """The levels from the finest on; sizes in px, in the order y, x."""

    levels: tuple[StoredLevel, ...]
    chunk_px: tuple[int, ...]
    shard_px: tuple[int, ...] | None
    size_bytes: int
    """Of all its files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of level 0."""
        return self.levels[0].shape


def mosaic_levels(
    url: str, *, pixel_nm: float | None, options: Mapping[str, Any]
) -> MosaicLevels:
    """The levels of the mosaic at `url`, as the image states them.

    Raises
    ------
    FormatError
        There is no such image.
    """
    options = dict(options)
    paths = describe(url, storage_options=options).paths
    images = [open_level(url, n, storage_options=options) for n in range(len(paths))]
    levels = tuple(
        StoredLevel(
            path=paths[number],
            shape=image.shape,
            voxel_size_nm=(pixel_nm * 2**number,) * 2 if pixel_nm else None,
        )
        for number, image in enumerate(images)
    )
    filesystem, path = url_to_fs(url, **options)
    return MosaicLevels(
        levels=levels,
        chunk_px=images[0].chunks,
        shard_px=images[0].shards,
        size_bytes=int(filesystem.du(path)),
    )
