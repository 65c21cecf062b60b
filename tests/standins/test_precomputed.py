"""Precomputed volumes of the stand-in are read by tensorstore over HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from numpy.typing import NDArray

from em_platform.standins.faults import Faults
from em_platform.standins.flyem import Labels, write_precomputed
from em_platform.standins.http import Server
from em_platform.standins.part import FileHost, Tree
from em_platform.standins.pixels import Pixels

SHAPE = (70, 90, 130)
ORIGIN = (64, 128, 192)
VOLUME = Pixels(shape=SHAPE, variant=4)
GREY = VOLUME.whole()
LABELS = Labels(shape=SHAPE)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    def fill(folder: Path) -> None:
        grey = VOLUME
        write_precomputed(folder / "sharded", grey)
        write_precomputed(folder / "files", grey, origin=ORIGIN, layout="unsharded")
        write_precomputed(
            *(folder / "plain", grey), encoding="raw", voxel_size_nm=(40.0, 4.0, 5.0)
        )
        write_precomputed(folder / "labels", LABELS, encoding="compressed_segmentation")

    tree = Tree(tmp_path_factory.mktemp("bucket") / "files", fill)
    host = FileHost(tree, prefix="/bucket", faults=Faults())
    with Server("bucket", host) as server:
        yield f"{server.url}/bucket"


def read(url: str, scale: int = 0) -> tuple[NDArray[np.generic], tuple[int, ...]]:
    """Voxels (z, y, x) and the place of the first one."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "http", "base_url": f"{url}/"},
        "scale_index": scale,
    }
    store = ts.open(spec, open=True).result()[ts.d["channel"][0]].T
    return store.read().result(), tuple(store.domain.origin)


def info(url: str) -> dict[str, object]:
    spec = {"driver": "http", "base_url": f"{url}/"}
    found: dict[str, object] = json.loads(
        ts.KvStore.open(spec).result().read("info").result().value
    )
    return found


def test_uncompressed_voxels_are_those_that_were_given(url: str) -> None:
    voxels, origin = read(f"{url}/plain")
    assert np.array_equal(voxels, GREY)
    assert origin == (0, 0, 0)
    (fine, coarse) = info(f"{url}/plain")["scales"]  # type: ignore[misc]
    assert fine["size"] == [130, 90, 70]
    assert fine["resolution"] == [5, 4, 40]
    assert coarse["size"] == [65, 45, 35]


@pytest.mark.parametrize(
    ("name", "origin"), [("sharded", (0, 0, 0)), ("files", ORIGIN)]
)
def test_jpeg_is_near_and_lies_at_its_place(
    url: str, name: str, origin: tuple[int, ...]
) -> None:
    voxels, found = read(f"{url}/{name}")
    assert found == origin
    assert abs(voxels.astype(int) - GREY).mean() < 4
    sharding = info(f"{url}/{name}")["scales"][0].get("sharding")  # type: ignore[index]
    kind = "neuroglancer_uint64_sharded_v1"
    assert (sharding is not None and sharding["@type"] == kind) == (name == "sharded")
    smaller, _ = read(f"{url}/{name}", scale=1)
    assert smaller.shape == (35, 45, 65)


def test_labels_stay_what_they_are_on_every_scale(url: str) -> None:
    voxels, _ = read(f"{url}/labels")
    assert np.array_equal(voxels, LABELS.read((0, 0, 0), SHAPE))
    smaller, _ = read(f"{url}/labels", scale=1)
    assert set(np.unique(smaller)) <= set(np.unique(voxels))
    assert info(f"{url}/labels")["type"] == "segmentation"
