"""What is known of an image volume without its pixels."""

from pydantic import Field

from em_platform.model.base import Model

Tag = str | int | float | bool | tuple[float, ...] | tuple[int, ...] | tuple[str, ...]


class VolumeInfo(Model):
    """One image of any format: axes in the order z, y, x, lengths in nm.

    An image of one section has one plane. `chunk_shape` is what is read at once without
    waste. `origin_nm` is the place of the first voxel's centre in the whole of which
    the image is a crop. `tags` are those of the file that matter to a microscopist.
    """

    uri: str
    format: str
    """Such as `DM3`, `DM4`, `MRC`, `TIFF`, `OME-Zarr 0.4`, `Zarr v2`, `N5`."""
    shape: tuple[int, int, int]
    dtype: str
    """numpy's name without byte order, such as `uint8`."""
    voxel_size_nm: tuple[float, float, float] | None = None
    """None where the file states none; a plane that states no thickness has 0."""
    origin_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    chunk_shape: tuple[int, int, int] | None = None
    size_bytes: int | None = Field(default=None, ge=0)
    """Of the file or files as they lie there; None where nobody counted."""
    levels: int = Field(default=1, ge=1)
    tags: dict[str, Tag] = Field(default_factory=dict)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all voxels, uncompressed."""
        # Only here, since a model is imported by commands that need no numpy.
        import numpy as np

        z, y, x = self.shape
        return z * y * x * np.dtype(self.dtype).itemsize


class LevelInfo(Model):
    """One level of a pyramid that was written."""

    path: str
    shape: tuple[int, int, int]
    voxel_size_nm: tuple[float, float, float] | None


class VoxelStatistics(Model):
    """What the voxels of level 0 say, each counted once.

    `histogram` has 256 bins of equal width over `histogram_range`, the last edge
    excluded: for 8 bits a bin for each grey level, else the narrowest bins of 2**n (n
    may be negative) that begin at a multiple of their width and hold all voxels. So it
    comes out of one pass, whatever its order. Voxels that are NaN or infinite are left
    out of all figures; without any other these are 0. `blank_sections` are planes of
    one value.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    histogram: tuple[int, ...]
    histogram_range: tuple[float, float]
    blank_sections: tuple[int, ...] = ()
    content_sha256: str = Field(pattern=r"^[a-f0-9]{64}$")
    """Of shape, type and the digests of all shards' pixels: equal voxels, equal text,
    whatever the compression."""


class WrittenVolume(Model):
    """An OME-Zarr that stands whole at `url`."""

    url: str
    dtype: str
    voxel_size_nm: tuple[float, float, float] | None
    origin_nm: tuple[float, float, float]
    levels: tuple[LevelInfo, ...]
    chunk_shape: tuple[int, int, int]
    shard_shape: tuple[int, int, int]
    compression: str
    size_bytes: int
    statistics: VoxelStatistics
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of level 0."""
        return self.levels[0].shape
