"""A volume that can be read region by region, whatever its format."""

from typing import Any, Protocol

from numpy.typing import NDArray

from em_platform.model.volume import VolumeInfo

Region = tuple[slice, slice, slice]


class Volume(Protocol):
    """Voxels in the order z, y, x; goes to other processes (pickles), holds no file.

    Raises
    ------
    FormatError
        The bytes are not what the header promised; the sentence names the file.
    SourceUnavailable
        A remote volume is not served.
    """

    @property
    def info(self) -> VolumeInfo:
        """What is known of it without its pixels."""
        ...

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`, in native byte order."""
        ...
