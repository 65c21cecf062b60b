"""Files of our DM writer, read by ncempy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ncempy.io import dm

from em_platform.standins.image_files import write_dm
from em_platform.standins.pixels import Pixels
from em_platform.standins.world import World


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("depth", [1, 5])
def test_ncempy_reads_pixels_and_scale(
    tmp_path: Path, version: int, dtype: str, depth: int
) -> None:
    image = Pixels(shape=(depth, 61, 47), dtype=dtype).whole()
    image = image[0] if depth == 1 else image
    path = tmp_path / f"a.dm{version}"
    write_dm(path, image, pixel_um=0.008, name="a", tags={}, version=version)
    found = dm.dmReader(str(path))
    assert found["data"].dtype == image.dtype
    assert np.array_equal(found["data"], image)
    assert found["pixelUnit"][-2:] == ["µm", "µm"]
    assert found["pixelSize"][-2:] == pytest.approx([0.008, 0.008])
    with dm.fileDM(str(path)) as file:
        assert file.thumbnail
        assert np.array_equal(file.getMemmap(0), image)


def test_a_stack_states_its_step_only_where_reported(tmp_path: Path) -> None:
    image = Pixels(shape=(3, 10, 12)).whole()
    steps = []
    for section_um in (None, 0.04):
        path = tmp_path / "a.dm4"
        write_dm(
            path,
            image,
            pixel_um=0.008,
            name="a",
            tags={},
            version=4,
            section_um=section_um,
        )
        found = dm.dmReader(str(path))
        steps.append((found["pixelUnit"][0], float(found["pixelSize"][0])))
    assert steps == [("", 1.0), ("µm", pytest.approx(0.04))]


def test_the_slices_have_tags_of_the_real_ones(world: World, shared_data: Path) -> None:
    recorded = "api/empiar/F57-8_test1_3VBSED_slice_0000_dm3_metadata.json"
    real: dict[str, Any] = json.loads((shared_data / recorded).read_text())
    tree = world.parts["ebi"].sites["ebi-mirror"].handler._tree.root  # type: ignore[attr-defined]
    path = tree / "11759/data/F57-8_test1_3VBSED_slice_0000.dm3"
    with dm.fileDM(str(path)) as file:
        found = {
            name.removeprefix(".ImageList.2."): value
            for name, value in file.allTags.items()
            if name.startswith(".ImageList.2.ImageTags.")
        }
        edge = file.scale[-1]
    tags = {
        name.removeprefix("root.ImageList.1."): value
        for name, value in real["full_original_tags"].items()
    }
    assert found.keys() <= tags.keys()
    for name, value in found.items():
        if "Image Height" in name or "Image Width" in name:
            continue
        assert str(value) == tags[name] or float(value) == float(tags[name]), name
    assert edge == pytest.approx(real["image_summary"]["pixel_size_value"])
