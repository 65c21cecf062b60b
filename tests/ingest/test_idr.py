"""Images of IDR: found by their number, as originals or OME-Zarr, at true size."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.ingest.omero import image_of
from em_platform.ingest.source import Silent
from em_platform.ingest.sources import open_source
from em_platform.ingest.sources.idr import Idr
from em_platform.standins.faults import Fault
from em_platform.standins.http import Server
from em_platform.standins.messages import Request, Response, as_file, as_json
from em_platform.standins.world import World

FAST = {"ingest.transfer.backoff_s": "0.001", "ingest.transfer.retries": "1"}

NAME = "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif"


def idr(world: World, **more: str) -> Idr:
    named = {f"ingest.idr.{name}": value for name, value in more.items()}
    overrides = {**world.settings, **FAST, **named}
    source = open_source("idr", load_settings(overrides=overrides))
    assert isinstance(source, Idr)
    return source


def stated(**changes: Any) -> dict[str, Any]:
    """An image in OMERO's words; what is None is left out, as OMERO does."""
    pixels = {
        **{"SizeX": 4, "SizeY": 3, "SizeZ": 2, "SizeC": 1, "SizeT": 1},
        "Type": {"value": "uint8"},
        **{key: value for key, value in changes.items() if key[:2] in ("Si", "Ph")},
    }
    others = {key: value for key, value in changes.items() if key not in pixels}
    whole = {"Name": "a.tif", "Pixels": pixels, **others}
    return {key: value for key, value in whole.items() if value is not None}


def length(value: float, unit: str) -> dict[str, Any]:
    return {"Value": value, "Unit": unit, "@type": "TBD#LengthI"}


def test_the_image_is_chromatin_of_a_cell_and_no_hippocampus(world: World) -> None:
    entry = idr(world).describe("9846137")
    assert entry.title == NAME
    assert entry.modality == "FIB-SEM"
    assert entry.organism == "Homo sapiens"
    assert entry.sample == "U2OS, G1"
    assert entry.voxel_size_nm == (20.0, 20.0, 20.0)
    assert entry.shape == world.truth("idr", "9846137").shape
    assert entry.dtype == "uint8"
    assert entry.license == "CC BY 4.0"
    assert entry.doi == "10.17867/10000141"
    assert entry.citation.startswith("Miron E, Oldenkamp R")
    assert entry.imaging_start_date is None
    assert entry.aliases == ("IDR0086", "Hippocampus volume")
    assert entry.additional["study"] == "idr0086"
    assert entry.additional["experiment"] == "idr0086D"
    assert entry.snapshot["image"]["Name"] == NAME
    (file,) = entry.files
    assert file.url.endswith(f"/Miron_FIB-SEM_processed/{NAME}")
    assert file.size_bytes == entry.estimated_bytes


def test_every_image_of_both_kinds_is_fetched_as_it_is_served(
    world: World, tmp_path: Path
) -> None:
    source = idr(world)
    for key in world.keys["idr"]:
        entry = source.describe(key)
        raw = source.fetch(entry, tmp_path / key, Silent())
        volume = source.open(entry, tmp_path / key)
        truth = world.truth("idr", key)
        assert volume.info.shape == truth.shape
        assert volume.info.voxel_size_nm == pytest.approx(entry.voxel_size_nm)
        whole = volume.read((slice(None), slice(None), slice(None)))
        np.testing.assert_array_equal(whole, truth)
        assert raw.missing_chunks in (None, 0)
        assert bool(entry.files) is (entry.array is None)


def test_a_voxel_that_is_not_a_cube_has_its_edges_in_order(world: World) -> None:
    entry = idr(world).describe("9846134")  # 4x4x3nm
    assert entry.voxel_size_nm == (3.0, 4.0, 4.0)
    assert entry.additional["voxel_nm_in_name"] == "3 x 4 x 4"


def test_a_plus_in_a_name_is_a_plus_in_its_address(world: World) -> None:
    (file,) = idr(world).describe("9846133").files
    assert file.name == "Figure_S3F+1F_FIB-SEM_HeLa_G1_4x4x4nm_FIB-SEM_Ilastik_xz.tif"
    assert file.size_bytes


def test_an_image_of_the_bucket_is_read_there(world: World) -> None:
    entry = idr(world).describe("9846199")
    assert entry.array is not None
    assert entry.array.url.endswith("/idr/zarr/v0.4/idr0086D/9846199.zarr")
    assert entry.files == ()


def test_of_several_channels_the_first_is_taken(world: World) -> None:
    entry = idr(world).describe("6001240")
    assert entry.array is not None
    assert entry.array.options == {"channel": 0}
    assert entry.shape is None
    assert entry.additional["channels"] == 2


def test_while_the_bucket_is_down_the_original_is_taken(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.faults.add(Fault("status", site="idr-s3"))
    entry = idr(world).describe("9846137")
    assert entry.files[0].name == NAME
    assert "the next address is asked" in caplog.text


def test_without_a_reported_path_the_folder_of_the_study_is_looked_through(
    world: World,
) -> None:
    world.faults.add(Fault("missing", path="/webgateway/original_file_paths/*"))
    for key in world.keys["idr"][:11]:
        entry = idr(world).describe(key)
        assert entry.files[0].name == entry.title
        assert entry.files[0].size_bytes


def test_without_annotations_and_projects_the_studys_own_facts_are_reported(
    world: World,
) -> None:
    world.faults.add(
        Fault("missing", path="/webclient/api/annotations/"),
        Fault("missing", path="/api/v0/m/datasets/"),
    )
    entry = idr(world).describe("9846137")
    assert entry.organism == "Homo sapiens"
    assert entry.files[0].name == NAME
    assert entry.sample == ""


def test_an_original_that_is_not_there_is_reported(world: World) -> None:
    world.faults.add(Fault("missing", path=f"*{NAME}"))
    with pytest.raises(SourceRefused, match=f"no original named '{NAME}' was found"):
        idr(world).describe("9846137")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("1", r"answered 404 .*Image 1 not found"),
        ("hippocampus", "is no image, expected its number"),
    ],
)
def test_an_image_that_there_is_not_is_reported(
    world: World, key: str, message: str
) -> None:
    with pytest.raises(SourceRefused, match=message):
        idr(world).describe(key)


def test_a_server_that_is_down_is_reported(world: World) -> None:
    world.faults.add(Fault("status", site="idr"))
    with pytest.raises(SourceUnavailable, match="answered 503"):
        idr(world).describe("9846137")


def test_images_of_a_dataset_are_found_page_by_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert idr(world).list() == ("9846137",)
    monkeypatch.setattr("em_platform.ingest.omero._PAGE", 4)
    found = idr(world, discover="true", datasets="10740,10739").list()
    assert found[:2] == ("9846137", "9846138")
    assert set(found) == set(world.keys["idr"][:11])
    assert world.requests.count(lambda r: r.path.endswith("/m/images/")) == 4


def test_a_server_may_answer_with_a_list_of_one() -> None:
    image = stated(Name="b.tif")

    def answer(request: Request) -> Response:
        if "/m/images/" in request.path:
            return as_json({"data": [image]})
        return as_json({"message": "no"}, status=404)

    with Server("omero", answer) as server:
        given = {"ingest.idr.api_url": server.url, "ingest.idr.files_urls": server.url}
        source = Idr(load_settings(overrides={**FAST, **given}))
        with pytest.raises(
            SourceRefused, match=r"no original named 'b\.tif' was found"
        ):
            source.describe("5")


def test_a_voxel_of_which_name_and_server_differ_is_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    from em_platform.ingest.sources.idr import _voxel_nm

    sizes = {f"PhysicalSize{axis}": length(20, "NANOMETER") for axis in "XYZ"}
    same = image_of(stated(**sizes, Name="a_20x20x20nm.tif"), "1")
    other = image_of(stated(**sizes, Name="a_4x4x3nm.tif"), "2")
    caplog.set_level(logging.WARNING)
    assert _voxel_nm(same) == (20.0, 20.0, 20.0)
    assert caplog.text == ""
    assert _voxel_nm(other) == (20.0, 20.0, 20.0)
    assert "idr 2: its voxel is" in caplog.text
    assert _voxel_nm(image_of(stated(Name="a_4x4x3nm.tif"), "3")) == (3.0, 4.0, 4.0)


def test_a_studys_repository_is_asked_where_one_is_named(
    world: World, shared_data: Path
) -> None:
    def answer(request: Request) -> Response:
        name = request.path.rpartition("/")[2]
        path = shared_data / "api/idr" / name
        if request.path.startswith("/idr0086-miron-micrographs/") and path.is_file():
            return as_file(path)
        return as_json({"message": "no"}, status=404)

    world.faults.add(
        Fault("missing", path="/webgateway/*"), Fault("missing", path="/webclient/*")
    )
    with Server("repository", answer) as server:
        entry = idr(world, metadata_urls=f"{server.url}/{{study}}").describe("9846137")
        asked = [request.path for request in server.requests.all()]
        elsewhere = f"{server.url}/no/{{study}}"
        plain = idr(world, metadata_urls=elsewhere).describe("9846137")
    assert entry.sample == "U2OS, G1"
    assert entry.citation.startswith("Miron E, Oldenkamp R")
    assert entry.files[0].name == NAME
    assert asked == [
        f"/idr0086-miron-micrographs/{name}"
        for name in (
            "experimentD/idr0086-experimentD-annotation.csv",
            "experimentD/idr0086-experimentD-filePaths.tsv",
            "idr0086-study.txt",
        )
    ]
    assert plain.sample == ""
    assert plain.files == entry.files
