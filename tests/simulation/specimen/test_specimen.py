"""Any tissue or volume can lie under the beam, a window at a time."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from em_platform.errors import FormatError
from em_platform.simulation.specimen import EMPTY_GREY, open_specimen
from em_platform.simulation.specimen.tissue import tissue

STACK = np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8)


def middle_of(path: Path, section: int) -> np.ndarray:
    """The whole of one section: a volume's middle is at the origin."""
    specimen = open_specimen(str(path), seed=1, pixel_nm=4.0)
    return specimen.window(-20, -30, height=40, width=60, section=section)


def test_without_a_path_it_is_procedural_tissue() -> None:
    specimen = open_specimen("", seed=7, pixel_nm=4.0)
    found = specimen.window(3, -4, height=50, width=60, section=2)
    expected = tissue(3, -4, height=50, width=60, section=2, seed=7)
    assert np.array_equal(found, expected)


def test_a_folder_of_images_is_a_stack_of_sections(tmp_path: Path) -> None:
    for z, image in enumerate(STACK):
        tifffile.imwrite(tmp_path / f"s{z}.tif", image)
    assert np.array_equal(middle_of(tmp_path, 1), STACK[1])
    assert np.array_equal(middle_of(tmp_path, 4), STACK[1])


def test_one_image_is_one_section(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "one.tif", STACK[2])
    assert np.array_equal(middle_of(tmp_path / "one.tif", 0), STACK[2])


def test_a_zarr_array_is_read_by_window(tmp_path: Path) -> None:
    zarr.save_array(str(tmp_path / "a.zarr"), STACK)
    assert np.array_equal(middle_of(tmp_path / "a.zarr", 2), STACK[2])


def test_the_finest_level_of_an_ome_zarr_is_taken(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "o.zarr"), mode="w")
    group.create_array("s0", data=STACK[0])
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "s0"}]}]}
    assert np.array_equal(middle_of(tmp_path / "o.zarr", 0), STACK[0])


def test_beyond_a_volume_lies_empty_film(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "one.tif", STACK[0])
    specimen = open_specimen(str(tmp_path / "one.tif"), seed=1, pixel_nm=4.0)
    window = specimen.window(-30, -30, height=40, width=40, section=0)
    assert (window[:10] == EMPTY_GREY).all()
    assert np.array_equal(window[10:], STACK[0, :30, :40])
    far = specimen.window(500, 500, height=4, width=4, section=0)
    assert (far == EMPTY_GREY).all()


def test_sixteen_bit_volumes_are_stretched_to_grey_levels(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 3000, 2400).reshape(40, 60).astype(np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", ramp)
    grey = middle_of(tmp_path / "one.tif", 0)
    assert grey.min() == pytest.approx(10, abs=1.5)
    assert grey.max() == pytest.approx(245, abs=1.5)


def test_an_empty_folder_is_refused_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no image, folder of images or zarr"):
        open_specimen(str(tmp_path), seed=1, pixel_nm=4.0)
