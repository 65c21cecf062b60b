"""Writes MRC files by the MRC2014 definition: 1024 bytes of header, then the voxels."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}


def write_mrc(path: Path, voxels: NDArray[Any], *, voxel_nm: float) -> None:
    """Write a volume `(z, y, x)` of cubic voxels, little-endian."""
    z, y, x = voxels.shape
    edge = voxel_nm * 10
    # Words 1-10, cell in angstrom, angles, axes, density, space group 1: a volume.
    head = struct.pack("<10i", x, y, z, _MODES[voxels.dtype.name], 0, 0, 0, x, y, z)
    head += struct.pack("<6f", x * edge, y * edge, z * edge, 90, 90, 90)
    head += struct.pack("<3i", 1, 2, 3)
    head += struct.pack("<3f", voxels.min(), voxels.max(), voxels.mean())
    head += struct.pack("<2i", 1, 0)
    head = head.ljust(104, b"\0") + b"    " + struct.pack("<i", 20140)
    head = head.ljust(208, b"\0") + b"MAP " + bytes((0x44, 0x44, 0, 0))
    head += struct.pack("<f", voxels.std()) + struct.pack("<i", 1)
    head += b"made for a stand-in".ljust(80)
    values = voxels.astype(np.dtype(voxels.dtype.name).newbyteorder("<"))
    path.write_bytes(head.ljust(1024, b"\0") + values.tobytes())
