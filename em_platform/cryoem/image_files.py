"""Files that stages write: whole or absent, and the same bytes for the same content."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from em_platform.model import JsonObject
from em_platform.storage import atomic

if TYPE_CHECKING:
    import pandas as pd

    StarBlock: TypeAlias = pd.DataFrame | Mapping[str, str | float]
    """A table, or names and values."""


def write_mrc(
    path: Path,
    image: NDArray[Any],
    *,
    pixel_size_a: float,
    is_volume: bool = False,
) -> None:
    """Write an image, `(h, w)`, stack or volume, `(z, h, w)`, as an MRC of its type.

    Raises
    ------
    StorageError
        It could not be written.
    """
    import mrcfile

    with atomic.whole_file(path) as own:
        # From an array, so that a memory map is copied piece by piece.
        with mrcfile.new(own, overwrite=True) as file:
            file.set_data(image)
            if image.ndim == 3 and is_volume:
                file.set_volume()
            elif image.ndim == 3:
                file.set_image_stack()
            file.voxel_size = pixel_size_a
            # mrcfile's own label has the time: the same image must give the same bytes.
            file.header.label[:] = b""
            file.header.label[0] = b"em_platform"
            file.header.nlabl = 1


def write_json(path: Path, content: JsonObject) -> None:
    """Write plain values as JSON.

    Raises
    ------
    StorageError
        It could not be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False)
    atomic.write_bytes(path, f"{text}\n".encode())


def write_star(path: Path, blocks: Mapping[str, "StarBlock"]) -> None:
    """Write blocks of a STAR file.

    Raises
    ------
    StorageError
        It could not be written.
    """
    # It loads pandas.
    import starfile

    # Its first comment names the moment: the same tables must give the same bytes.
    text = starfile.to_string(dict(blocks))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    atomic.write_bytes(path, ("# em_platform\n" + "\n".join(lines) + "\n").encode())


def write_figure(path: Path, figure: Any) -> None:
    """Write a matplotlib figure as PNG, without the time and version in it.

    Raises
    ------
    StorageError
        It could not be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": "em_platform"})
    atomic.write_bytes(path, content.getvalue())
