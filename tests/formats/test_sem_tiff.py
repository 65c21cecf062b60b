"""What scanning electron microscopes write; real files are in test_shared_images."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from em_platform.formats.open import open_volume
from em_platform.formats.sem_tiff import (
    fei_scale,
    openfibsem_scale,
    sections_of,
    tescan_scale,
    zeiss_scale,
)


def image() -> np.ndarray:
    return np.zeros((30, 40), np.uint8)


def test_openfibsems_description_gives_pixel_and_settings(tmp_path: Path) -> None:
    metadata_tags = {
        "image": {"beam_type": "ELECTRON", "dwell_time": 1e-6},
        "pixel_size": {"x": 1.5e-9, "y": 2e-9},
        "microscope_state": {
            "timestamp": 1700000000.0,
            "electron_beam": {"voltage": 2000, "working_distance": 0.004},
        },
    }
    tifffile.imwrite(
        tmp_path / "a.tif",
        image(),
        description=json.dumps(metadata_tags),
        metadata=None,
    )
    info = open_volume(str(tmp_path / "a.tif")).info
    assert info.format == "TIFF (OpenFIBSEM)"
    assert info.voxel_size_nm == (0.0, 2.0, 1.5)
    assert info.tags["voltage_v"] == 2000
    assert info.tags["working_distance_mm"] == 4
    assert info.tags["dwell_time_us"] == 1
    assert info.tags["imaging_date"] == "2023-11-14"


def test_hitachis_text_beside_the_image_gives_its_pixel(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), metadata=None)
    (tmp_path / "a.txt").write_text(
        "[SemImageFile]\r\nInstructName=SU8200\r\nPixelSize=2.480469\r\n"
        "AcceleratingVoltage=5000 Volt\r\nWorkingDistance=8300 um\r\n"
        "SignalName=SE(U)\r\nDate=11/23/2021\r\n"
    )
    info = open_volume(str(tmp_path / "a.tif")).info
    assert info.voxel_size_nm == (0.0, 2.480469, 2.480469)
    assert info.tags["voltage_v"] == 5000
    assert info.tags["working_distance_mm"] == 8.3
    assert info.tags["imaging_date"] == "2021-11-23"


def test_jeols_text_beside_the_image_gives_its_pixel(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), metadata=None)
    (tmp_path / "a.txt").write_text(
        "$CM_MAG 10000\n$CM_ACCEL_VOLT 5.00\n$CM_SIGNAL SEI\n$$SM_WD 8.1\n"
        "$$SM_MICRON_BAR 125\n$$SM_MICRON_MARKER 1um\n$CM_DATE 2019/05/23\n"
    )
    info = open_volume(str(tmp_path / "a.tif")).info
    assert info.format == "TIFF (JEOL)"
    assert info.voxel_size_nm == (0.0, 8.0, 8.0)
    assert info.tags["voltage_v"] == 5000
    assert info.tags["imaging_date"] == "2019-05-23"


def test_another_text_beside_the_image_is_none_of_a_microscope(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), metadata=None)
    (tmp_path / "a.txt").write_text("PixelSize=4\n")
    info = open_volume(str(tmp_path / "a.tif")).info
    assert (info.format, info.voxel_size_nm) == ("TIFF", None)


@pytest.mark.parametrize(
    ("text", "columns", "nm"),
    [
        # The screen is 1,024 wide: in an image of 2,048 a pixel is half of its.
        ("0\n0\n0\n1e-8\n", 2048, 5.0),
        ("0\n0\n0\n1e-8\nAP_IMAGE_PIXEL_SIZE\nImage Pixel Size = 5.0 nm", 2048, 5.0),
        ("0\n0\n0\n1e-8\nAP_IMAGE_PIXEL_SIZE\nImage Pixel Size = 4.0 nm", 2048, 4.0),
        ("0\n0\n0\n0\nAP_IMAGE_PIXEL_SIZE\nImage Pixel Size = 2.5 µm", 2048, 2500.0),
    ],
)
def test_a_pixel_of_zeiss_is_that_of_the_image_and_not_of_the_screen(
    text: str, columns: int, nm: float
) -> None:
    assert zeiss_scale(text, columns=columns).voxel_size_nm == (0.0, nm, nm)


def test_fei_images_with_an_ion_beam_take_its_settings() -> None:
    text = """[Beam]\nHV=2000\nBeam=IBeam\nScan=IScan\n[IBeam]\nHV=30000\nWD=0.016
    [EBeam]\nHV=2000\n[IScan]\nPixelWidth=1e-8\nPixelHeight=2e-8\nDwell=1e-6"""
    found = fei_scale(sections_of(text), rows=100)
    assert found.voxel_size_nm == (0.0, 20.0, 10.0)
    assert found.tags == {
        "voltage_v": 30_000,
        "working_distance_mm": 16,
        "dwell_time_us": 1,
        "beam": "IBeam",
        "modality": "FIB-SEM",
    }


def test_tescans_file_beside_is_enough() -> None:
    beside = sections_of("[MAIN]\nPixelSizeX=1e-9\nPixelSizeY=2e-9\n[SEM]\nHV=1e4")
    found = tescan_scale(beside, tag="")
    assert found.voxel_size_nm == (0.0, 2.0, 1.0)
    assert found.tags["voltage_v"] == 10_000


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"pixel_size": 3}', "{" * 100_000])
def test_json_of_others_is_no_openfibsem(text: str) -> None:
    assert openfibsem_scale(text) is None


def test_empty_texts_say_nothing() -> None:
    assert zeiss_scale("", columns=100).voxel_size_nm is None
    assert fei_scale(sections_of(""), rows=100).voxel_size_nm is None
    assert tescan_scale({}, tag="").voxel_size_nm is None
