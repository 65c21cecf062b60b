"""One tile in full resolution, as a picture that every browser shows."""

from pathlib import Path

import imagecodecs
import numpy as np

from em_platform.acquisition.frame_paths import frame_path
from em_platform.formats.image import read_image
from em_platform.imaging.contrast import stretch
from em_platform.stitching.beside_frames import processed_path

_PERCENTILES = (0.1, 99.9)  # of a raw frame: a few hot pixels must not make it dark

_FASTEST = 1  # zlib: a 36 MP tile is encoded in 0.5 s, and read once


def full_tile(frames: Path, montage_id: str, tile_id: str) -> tuple[bytes, str]:
    """The processed tile as PNG, else its raw frame stretched to 8 bit, and which.

    Raises
    ------
    FormatError, StorageError
        Neither is on the disk: it was uploaded and deleted, or was never saved.
    """
    raw = frame_path(frames, montage_id, tile_id)
    processed = Path(processed_path(str(raw)))
    kind = "processed" if processed.is_file() else "raw"
    image = read_image(str(processed if kind == "processed" else raw))
    if image.dtype != np.uint8:
        low, high = np.percentile(image, _PERCENTILES)
        image = stretch(image, float(low), float(high))
    return bytes(imagecodecs.png_encode(image, level=_FASTEST)), kind
