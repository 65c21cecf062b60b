"""Files of our MRC writer, read by ncempy."""

from pathlib import Path

import numpy as np
import pytest
from ncempy.io import mrc

from em_platform.standins.image_files import write_mrc
from em_platform.standins.pixels import Pixels


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float32"])
def test_ncempy_reads_voxels_and_size(tmp_path: Path, dtype: str) -> None:
    voxels = Pixels(shape=(7, 30, 41), dtype=dtype).whole()
    path = tmp_path / "a.mrc"
    write_mrc(path, voxels, voxel_nm=1.25)
    found = mrc.mrcReader(str(path))
    assert found["data"].dtype == voxels.dtype
    assert np.array_equal(found["data"], voxels)
    assert found["pixelSize"] == pytest.approx([12.5, 12.5, 12.5])
    assert path.stat().st_size == 1024 + voxels.nbytes
