"""EPFL's and IDR's TIFFs, read by tifffile and held against what was recorded."""

import io
import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import requests
import tifffile

from em_platform.standins.idr import FOLDER, IMAGES, voxel_nm
from em_platform.standins.world import World


def fetched(url: str) -> tifffile.TiffFile:
    answer = requests.get(url, timeout=10)
    answer.raise_for_status()
    return tifffile.TiffFile(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", ["volumedata", "training", "testing_groundtruth"])
def test_epfl_has_strips_of_four_rows_and_no_voxel_size(
    world: World, name: str
) -> None:
    file = fetched(f"{world.settings['ingest.epfl.files_urls']}/{name}.tif")
    truth = world.truth("epfl", name)
    assert np.array_equal(file.asarray(), truth)
    assert len(file.pages) == len(truth)
    tags = file.pages[-1].tags  # type: ignore[union-attr]
    assert tags["RowsPerStrip"].value == 4
    assert tags["Compression"].value == 1
    assert tags["XResolution"].value == (1, 1)
    assert "ImageDescription" not in tags


def test_ground_truth_is_a_mask(world: World) -> None:
    mask = world.truth("epfl", "training_groundtruth")
    assert np.unique(mask).tolist() == [0, 255]


def test_idr_has_all_recorded_names_and_the_truth_in_them(
    world: World, shared_data: Path
) -> None:
    recorded = shared_data / "api/idr/idr0086-experimentD-filePaths.tsv"
    paths = [line.split("\t")[1] for line in recorded.read_text().splitlines() if line]
    names = {Path(path).name for path in paths}
    assert names == set(IMAGES.values())
    assert {
        path.removeprefix("/uod/idr/filesets/").rpartition("/")[0] for path in paths
    } == {FOLDER}
    for key, name in IMAGES.items():
        url = f"{world.settings['ingest.idr.files_urls']}/{FOLDER}/{quote(name)}"
        file = fetched(url)
        assert np.array_equal(file.asarray(), world.truth("idr", key))
        edge, depth = voxel_nm(name)
        meta = file.imagej_metadata
        assert meta is not None
        assert meta["spacing"] == pytest.approx(depth / 1000)
        across, by = file.pages.first.tags["XResolution"].value
        assert across / by == pytest.approx(1000 / edge)


def test_idr_writes_its_tags_as_the_recorded_file(
    world: World, shared_data: Path
) -> None:
    name = IMAGES["9846137"]
    recorded = f"api/idr/{name.removesuffix('.tif')}_tif_metadata.json"
    real = json.loads((shared_data / recorded).read_text())
    files = world.settings["ingest.idr.files_urls"]
    file = fetched(f"{files}/{FOLDER}/{name}")
    assert file.byteorder == real["global_info"]["byteorder"]
    assert file.is_bigtiff == real["global_info"]["is_bigtiff"]
    first, page = real["pages"][0], file.pages.first
    assert page.resolution == tuple(first["resolution"])
    assert page.resolutionunit == first["resolution_unit"]
    assert page.compression == first["compression"]
    assert page.photometric == first["photometric"]
    for line in ("spacing=0.02", "unit=\\u00B5m"):
        assert line in first["image_description"]
        assert line in page.description
