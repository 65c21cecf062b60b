"""Writes the image of `test_ome_zarr.py` slowly, to be killed; run as a program."""

import os
import sys
import time

import numpy as np

from em_platform.config import RenderSettings
from em_platform.ome_zarr import write_pyramid
from em_platform.storage.manifest import Product

image = np.random.default_rng(7).integers(1, 256, (700, 501), dtype=np.uint8)


def render(region):
    os.write(1, b"shard\n")
    time.sleep(0.05)
    return image[region]


write_pyramid(
    sys.argv[1],
    image.shape,
    dtype=image.dtype,
    render=render,
    settings=RenderSettings(chunk_px=32, shard_px=128),
    name="cells",
    product=Product(kind="mosaic", of="cells"),
    fingerprint="one",
    voxel_nm=(4.0, 4.0),
)
