"""Copies a volume slowly, to be killed; run as a program."""

import os
import sys
import time

from em_platform.config import OutputSettings
from em_platform.formats.open import open_volume
from em_platform.ome_zarr import write_volume
from em_platform.storage.manifest import Product


class Slow:
    def __init__(self, volume):
        self.volume, self.info = volume, volume.info

    def read(self, region):
        time.sleep(0.004)
        return self.volume.read(region)


target, source = sys.argv[1:]
write_volume(
    target,
    Slow(open_volume(source)),
    fingerprint="one",
    name="cells",
    product=Product(kind="volume", of="cells"),
    settings=OutputSettings(chunk_px=8, shard_px=16),
    progress=lambda size: os.write(1, b"%d\n" % size),
)
