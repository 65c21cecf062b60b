"""The stores of OpenOrganelle and IDR, read by zarr and tensorstore."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import zarr

from em_platform.standins.openorganelle import BUCKET
from em_platform.standins.world import World

STORE = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr"
EM = "recon-2/em/fibsem-int16"


def store(world: World) -> Path:
    """The bucket's folder; tests/standins/test_s3.py reads it by its protocol."""
    tree: Any = world.parts["openorganelle"].sites["s3"].handler
    root: Path = tree._buckets[BUCKET].root
    return root


def test_every_level_holds_the_truth(world: World) -> None:
    group = zarr.open_group(store(world) / STORE, mode="r")
    prefix = "jrc_mus-nacc-2."
    keys = [key for key in world.keys["openorganelle"] if key.startswith(prefix)]
    assert len(keys) == 6
    for key in keys:
        array = group[key.removeprefix(prefix).replace(".", "/")]
        truth = world.truth("openorganelle", key)
        assert isinstance(array, zarr.Array)
        assert array.dtype == truth.dtype
        assert np.array_equal(array[...], truth)


def test_the_arrays_are_stored_as_in_the_real_bucket(world: World) -> None:
    answer = requests.get(
        f"{world.urls['s3']}/{BUCKET}/{STORE}/{EM}/s0/.zarray", timeout=10
    )
    array = answer.json()
    assert array["compressor"] == {"id": "zstd", "level": 1}
    assert array["dimension_separator"] == "/"
    assert array["dtype"] == "<i2"


def test_levels_are_means_rounded_down(world: World) -> None:
    key = "jrc_mus-nacc-2.recon-2.em.fibsem-int16"
    fine = world.truth("openorganelle", f"{key}.s0").astype(int)
    coarse = world.truth("openorganelle", f"{key}.s1")
    assert coarse.shape == tuple(n // 2 for n in fine.shape)
    assert coarse[3, 5, 7] == fine[6:8, 10:12, 14:16].sum() // 8


def test_scales_and_translations_are_the_recorded_ones(
    world: World, shared_data: Path
) -> None:
    recorded = shared_data / "api/openorganelle/jrc_mus_nacc_zarr_metadata.json"
    [real] = json.loads(recorded.read_text())["attrs"]["multiscales"]
    group = zarr.open_group(store(world) / STORE / EM, mode="r")
    [found] = dict(group.attrs)["multiscales"]  # type: ignore[misc]
    assert found.keys() == real.keys()  # type: ignore[union-attr]
    for ours, theirs in zip(found["datasets"], real["datasets"], strict=False):  # type: ignore
        assert ours["path"] == theirs["path"]
        for mine, other in zip(
            ours["coordinateTransformations"],
            theirs["coordinateTransformations"],
            strict=True,
        ):
            assert mine["type"] == other["type"]
            kind = mine["type"]
            assert mine[kind] == pytest.approx(other[kind])


def test_a_crop_is_cut_from_its_array(world: World) -> None:
    key = "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s0"
    whole = world.truth("openorganelle", key)
    crop = world.truth("openorganelle", f"{key}.crop_10_20_30_4_5_6")
    assert np.array_equal(crop, whole[10:14, 20:25, 30:36])


@pytest.mark.parametrize("level", [0, 1])
def test_tensorstore_reads_the_n5_with_x_first(world: World, level: int) -> None:
    import tensorstore

    folder = store(world) / f"jrc_hela-2/jrc_hela-2.n5/em/fibsem-uint16/s{level}"
    found = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    ).result()
    voxels = found.read().result().transpose(2, 1, 0)
    key = f"jrc_hela-2.em.fibsem-uint16.s{level}"
    assert np.array_equal(voxels, world.truth("openorganelle", key))


@pytest.mark.parametrize("dataset", ["jrc_hela-2", "jrc_mus-nacc-2"])
def test_manifests_fit_the_published_schema(
    world: World, shared_data: Path, dataset: str
) -> None:
    import jsonschema

    folder = shared_data / "api/openorganelle"
    schema = json.loads((folder / "manifest.schema.json").read_text())
    url = world.settings["ingest.openorganelle.metadata_url"]
    found = requests.get(f"{url}/{dataset}/manifest.json", timeout=10).json()
    jsonschema.validate(found, schema)
    if dataset == "jrc_hela-2":
        real = json.loads((folder / "jrc_hela-2.manifest.json").read_text())
        for name in ("title", "DOI", "id"):
            listed = real["metadata"][name]
            assert found["metadata"][name] in (listed, listed[:1])
        stated = real["metadata"]["imaging"]
        ours = found["metadata"]["imaging"]
        for name in ("gridSpacing", "dimensions", "startDate"):
            assert ours[name] == stated[name]


def test_idr_serves_ome_zarr_with_and_without_channels(world: World) -> None:
    from ome_zarr_models.v04.image import ImageAttrs

    root = world.parts["idr"].sites["idr-s3"].handler._buckets["idr"].root  # type: ignore
    for name, index in (
        ("idr0062A/6001240", np.s_[0]),
        ("idr0086D/9846199", np.s_[:]),
    ):
        folder = root / f"zarr/v0.4/{name}.zarr"
        group = zarr.open_group(folder, mode="r")
        stated = ImageAttrs.model_validate(dict(group.attrs))
        assert len(stated.multiscales[0].datasets) == 3
        array = group["0"]
        assert isinstance(array, zarr.Array)
        truth = world.truth("idr", name.partition("/")[2])
        assert np.array_equal(array[index], truth)
    url = f"{world.settings['ingest.idr.ngff_urls']}/v0.4/idr0086D/9846199.zarr/.zattrs"
    assert requests.get(url, timeout=10).json()["multiscales"]
