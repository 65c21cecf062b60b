"""CRC-32 by libdeflate."""

import zlib

import numpy as np
import pytest

from em_platform.storage.crc32 import crc32


@pytest.mark.parametrize("size", [0, 1, 15, 4097, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"what came before"])
def test_it_is_that_of_zlib(size: int, before: bytes) -> None:
    content = np.random.default_rng(size).bytes(size)
    assert crc32(content, crc32(before)) == zlib.crc32(before + content)
