"""A frame's grey levels are the same whoever works them out."""

import numpy as np
import pytest

from em_platform.imaging.correct import FlatField
from em_platform.imaging.grey import to_grey
from em_platform.imaging.tile import process_tile

RANGES = {"uint8": (3.7, 201.3), "uint16": (1234.567, 54321.1)}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("has_dark", [False, True])
def test_a_part_of_a_frame_has_the_pixels_of_the_processed_tile(
    dtype: str, has_dark: bool
) -> None:
    chance = np.random.default_rng(1)
    shape = (1003, 2001)
    raw = chance.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    gain = chance.normal(1, 0.2, shape).astype(np.float32)
    dark = chance.normal(5, 2, shape).astype(np.float32) if has_dark else None
    flat = FlatField(gain=gain, dark=dark)
    whole = process_tile(raw, tile_id="t", flat_field=flat, grey_range=RANGES[dtype])
    part = np.s_[101:900, 333:1999]
    found = to_grey(
        raw[part],
        gain=gain[part],
        dark=None if dark is None else dark[part],
        grey_range=RANGES[dtype],
    )
    assert np.array_equal(found, whole.image[part])
