"""Every DM, MRC and TIFF file of the shared data against what its manifest says."""

import csv
import gzip
import json
import re
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from ncempy.io.dm import fileDM

from em_platform.errors import FormatError
from em_platform.formats.dm_images import images_of, tags_of, voxel_size_of
from em_platform.formats.open import open_volume
from em_platform.formats.tiff_directory import imagej_scale
from tests.conftest import SHARED_DATA

GROUPS = {"dm", "sem_tiff", "maps", "volumes", "tem_tiles", "cryoem"}
SUFFIXES = (
    ".dm3",
    ".dm4",
    ".mrc",
    ".mrcs",
    ".map",
    ".tif",
    ".tif.tar.gz",
    ".dm3.tar.gz",
)
SUFFIXES += (".dm4.tar.gz", ".mrc.gz", "dataZeroed.tar.gz", ".zip")
ANGSTROM = re.compile(r"^\(([\d.e]+),([\d.e]+),([\d.e]+)\) A")
LENGTHS = {"pm": 1e-3, "nm": 1.0, "um": 1e3, "µm": 1e3}

MEANT_TO_FAIL = {
    "dm/ncempy/08_carbon.dm3": "found a spectrum of 2048 x 1 channels (eV) in this DM3",
    "dm/rosettasciio/test-5.dm4": "found complex pixels in this DM4 file",
    "dm/rosettasciio/test-13.dm4": "found complex pixels in this DM4 file",
    "dm/nexuslims/Titan_FFT.dm3.tar.gz": "found packed complex pixels (a Fourier",
}
"""Path -> what the sentence says."""

CAMERA_BEHIND_PREVIEW = "sem_tiff/rosettasciio/olympus_SIS.tif"
"""The manifest tells of page 0, a coloured preview; page 1 is the camera's image."""

SEM_NM = {
    "sem_tiff/nexuslims/quanta_image.tif.tar.gz": 441.942,
    "sem_tiff/nexuslims/tescan-pfib_dataZeroed.tar.gz": 1.5625,
    "sem_tiff/rosettasciio/tiff_Zeiss_SEM.zip": 2614.514,
    CAMERA_BEHIND_PREVIEW: 0.02392792,
    "cryoem/etspy/HAADF.mrc.gz": 3.36,
    "tem_tiles/render_single/49768_112_reduced.tif": 502.8,
}
"""Pixels that the microscope's own tags give; the manifest does not state them."""


def rows() -> list[dict[str, str]]:
    if not (SHARED_DATA / "MANIFEST.tsv").is_file():
        return []
    with open(SHARED_DATA / "MANIFEST.tsv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    return [r for r in found if r["group"] in GROUPS and r["path"].endswith(SUFFIXES)]


ROWS = rows()
READABLE = [row for row in ROWS if row["path"] not in MEANT_TO_FAIL]


@pytest.fixture(scope="session")
def unpacked(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The image of a path in the manifest, taken out of its packing."""
    folder = tmp_path_factory.mktemp("unpacked")

    def unpack(name: str) -> Path:
        packed, place = shared_data / name, folder / name.replace("/", "-")
        if name.endswith(".tar.gz") and not place.exists():
            with tarfile.open(packed) as archive:
                archive.extractall(place, filter="data")
        elif name.endswith(".zip") and not place.exists():
            zipfile.ZipFile(packed).extractall(place)
        elif name.endswith(".gz") and not place.exists():
            place.mkdir()
            with gzip.open(packed) as source, open(place / "x.mrc", "wb") as target:
                shutil.copyfileobj(source, target)
        if not place.exists():
            return packed
        images = sorted(p for p in place.rglob("*") if not p.name.endswith(".hdr"))
        return next((p for p in images if "1k" in p.name), images[0])

    return unpack


@pytest.mark.parametrize("row", READABLE, ids=lambda row: row["path"])
def test_shape_type_and_voxel_size_are_those_of_the_manifest(
    row: dict[str, str], unpacked: Callable[[str], Path]
) -> None:
    info = open_volume(str(unpacked(row["path"]))).info
    if row["path"] == CAMERA_BEHIND_PREVIEW:
        assert (info.shape, info.dtype) == ((1, 101, 112), "uint16")
    else:
        assert info.shape == manifest_shape(row)
        assert info.dtype == row["dtype"].strip(" ;")
    if row["path"] in SEM_NM:
        assert info.voxel_size_nm == (0.0, *[pytest.approx(SEM_NM[row["path"]])] * 2)
        return
    expected = manifest_voxel(row, info.shape[0])
    if expected is None:
        assert info.voxel_size_nm is None
    else:
        assert info.voxel_size_nm == pytest.approx(expected, rel=1e-3)
    if row["path"].startswith("cryoem") and info.tags.get("content") == "image stack":
        assert info.voxel_size_nm is not None and info.voxel_size_nm[0] == 0


def manifest_shape(row: dict[str, str]) -> tuple[int, ...]:
    text = re.findall(r"\(([\d, ]+)\)", row["shape"])[-1]
    shape = tuple(int(part) for part in text.split(",") if part.strip())
    return shape if len(shape) == 3 else (1, *shape)


def manifest_voxel(row: dict[str, str], planes: int) -> tuple[float, ...] | None:
    notes = row["notes"]
    if found := re.match(r"pix (\[.*?\]) (\[.*?\])", notes):
        sizes = [float(text) for text in json.loads(found[1].replace("'", '"'))]
        units = json.loads(found[2].replace("'", '"'))
        lengths = [s * LENGTHS.get(u, 0.0) for s, u in zip(sizes, units, strict=True)]
        lengths = [0.0] * (3 - len(lengths)) + lengths
        return tuple(lengths) if all(lengths[1:]) else None
    if found := ANGSTROM.match(notes):
        x, y, z = (float(text) / 10 for text in found.groups())
        stack = row["group"] == "cryoem" or row["path"].endswith("temp.mrc")
        return (0.0 if stack else z, y, x) if x else None
    if found := re.match(r"spacing=([\d.]+) nm xres=\((\d+), (\d+)\)", notes):
        pixel = int(found[3]) / int(found[2])
        return float(found[1]), pixel, pixel
    return None


@pytest.mark.parametrize("name", MEANT_TO_FAIL)
def test_what_is_no_image_of_grey_levels_is_refused_in_one_sentence(
    name: str, unpacked: Callable[[str], Path]
) -> None:
    with pytest.raises(FormatError) as caught:
        open_volume(str(unpacked(name)))
    assert MEANT_TO_FAIL[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", READABLE, ids=lambda row: row["path"])
def test_the_voxels_are_those_of_an_independent_reader(
    row: dict[str, str], unpacked: Callable[[str], Path]
) -> None:
    path = unpacked(row["path"])
    volume = open_volume(str(path))
    expected = independent(path, page=int(row["path"] == CAMERA_BEHIND_PREVIEW))
    expected = expected.reshape(volume.info.shape)
    assert volume.info.dtype == expected.dtype.newbyteorder("=").name
    assert np.array_equal(volume.read((slice(None),) * 3), expected)
    part = tuple(slice(length // 3, length // 2 + 1) for length in expected.shape)
    z, y, x = part
    assert np.array_equal(volume.read((z, y, x)), expected[part])


def independent(path: Path, *, page: int) -> np.ndarray[Any, Any]:
    start = path.read_bytes()[:1024]
    if path.suffix in (".dm3", ".dm4"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fileDM(path) as file:
                return np.asarray(file.getDataset(0)["data"])
    if start[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(path) as file:
            return file.pages[page].asarray() if page else file.asarray()
    words = np.frombuffer(start, "<i4")
    dtype = {1: "<i2", 2: "<f4", 6: "<u2"}[int(words[3])]
    count = int(np.prod(words[:3]))
    return np.fromfile(path, dtype, count, offset=1024 + int(words[23]))


def test_no_image_file_of_the_shared_data_is_left_out(shared_data: Path) -> None:
    names = (".dm3", ".dm4", ".mrc", ".mrcs", ".map", ".tif", ".tiff", ".st", ".rec")
    there = {
        str(path.relative_to(shared_data))
        for path in shared_data.rglob("*")
        if path.suffix in names
    }
    assert there - {row["path"] for row in ROWS} == set()


def test_tags_of_real_sbf_sem_sections_give_their_voxels_and_day(
    shared_data: Path,
) -> None:
    for name in ("0000", "0001"):
        path = f"api/empiar/F57-8_test1_3VBSED_slice_{name}_dm3_metadata.json"
        recorded = json.loads((shared_data / path).read_text())["full_original_tags"]
        tags = {
            key.removeprefix("root")
            .replace("Data.Size", "Data.arraySize")
            .replace("Data.Offset", "Data.arrayOffset"): value
            for key, value in recorded.items()
        }
        thumbnail, image = images_of(tags)
        assert thumbnail.thumbnail and not image.thumbnail
        assert image.sizes == (5496, 5500)
        assert image.data_bytes == 5496 * 5500
        assert voxel_size_of(image) == (50.0, 7.99825, 7.99825)
        found = tags_of(image)
        assert found["imaging_date"] == date(2018, 6, 11).isoformat()
        assert found["voltage_v"] == 1900
        assert found["microscope"] == "FEI Quanta"
        assert found["detector"] == "3VBSED"
        assert found["operation_mode"] == "SCANNING"
        assert found["section_thickness_nm"] == 50


def test_tags_of_the_real_fib_sem_stack_give_its_voxels(shared_data: Path) -> None:
    name = "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy_tif_metadata.json"
    recorded = json.loads((shared_data / "api/idr" / name).read_text())
    assert len(recorded["pages"]) == 184
    for page in recorded["pages"]:
        tags = page["page_tiff_tags"]
        per_unit = [tags[f"{axis}Resolution"] for axis in "YX"]
        found = imagej_scale(
            tags["ImageDescription"],
            per_unit=(per_unit[0][0] / per_unit[0][1], per_unit[1][0] / per_unit[1][1]),
            unit=tags["ResolutionUnit"],
        )
        assert found.voxel_size_nm == (20.0, 20.0, 20.0)
        assert found.axes == (1, 184, 1)
