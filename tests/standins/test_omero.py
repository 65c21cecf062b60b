"""The JSON API of IDR, by its documentation."""

from collections.abc import Callable
from typing import Any

import pytest
import requests

from em_platform.standins.world import World

Ask = Callable[[str], Any]


@pytest.fixture
def ask(world: World) -> Ask:
    def asked(path: str) -> Any:
        answer = requests.get(world.settings["ingest.idr.api_url"] + path, timeout=10)
        assert answer.headers["X-OMERO-ApiVersion"]
        answer.raise_for_status()
        return answer.json()

    return asked


def test_the_api_leads_from_its_root_to_the_image(ask: Ask, world: World) -> None:
    root = world.settings["ingest.idr.api_url"]

    def follow(url: str) -> Any:
        return ask(url.removeprefix(root))

    base = ask("/api/")["data"][0]["url:base"]
    projects = follow(follow(base)["url:projects"])["data"]
    study = next(p for p in projects if p["Name"].startswith("idr0086"))
    datasets = follow(study["url:datasets"])["data"]
    cells = next(d for d in datasets if d["Name"] == "U2OS_chromatin")
    assert cells["@id"] == 10740
    images = follow(cells["url:images"])["data"]
    assert [image["@id"] for image in images] == [9846137, 9846138]


def test_an_image_says_its_shape_voxel_size_and_type(ask: Ask, world: World) -> None:
    image = ask("/api/v0/m/images/9846137/")["data"]
    truth = world.truth("idr", "9846137")
    pixels = image["Pixels"]
    assert image["Name"] == "Figure_S3B_FIB-SEM_U2OS_20x20x20nm_xy.tif"
    assert image["@type"].endswith("2016-06#Image")
    assert (pixels["SizeZ"], pixels["SizeY"], pixels["SizeX"]) == truth.shape
    assert pixels["Type"]["value"] == truth.dtype.name
    assert pixels["PhysicalSizeX"] == {
        "Symbol": "µm",
        "Value": 0.02,
        "Unit": "MICROMETER",
        "@type": "TBD#LengthI",
    }
    assert "AcquisitionDate" not in image


def test_channels_come_only_with_a_single_image(ask: Ask) -> None:
    [listed, _] = ask("/api/v0/m/images/?dataset=10740")["data"]
    single = ask("/api/v0/m/images/9846137/")["data"]
    assert "Channels" not in listed["Pixels"]
    assert len(single["Pixels"]["Channels"]) == 1
    assert len(ask("/api/v0/m/images/6001240/")["data"]["Pixels"]["Channels"]) == 2


def test_lists_come_in_pages(ask: Ask) -> None:
    everything = ask("/api/v0/m/images/")
    total = everything["meta"]["totalCount"]
    assert everything["meta"] == {
        "totalCount": total,
        "maxLimit": 500,
        "limit": 200,
        "offset": 0,
    }
    pages = [ask(f"/api/v0/m/images/?limit=5&offset={n}") for n in range(0, total, 5)]
    seen = [image["@id"] for page in pages for image in page["data"]]
    assert seen == [image["@id"] for image in everything["data"]]
    assert len(seen) == total == 13


def test_children_are_counted_when_asked(ask: Ask) -> None:
    [cells] = [
        d
        for d in ask("/api/v0/m/datasets/?childCount=true")["data"]
        if d["@id"] == 10740
    ]
    assert cells["omero:childCount"] == 2
    assert "omero:childCount" not in ask("/api/v0/m/datasets/10740/")["data"]


def test_the_original_path_leads_to_the_archive(ask: Ask, world: World) -> None:
    [path] = ask("/webgateway/original_file_paths/9846137/")["client"]
    below = path.removeprefix("uod/idr/filesets/")
    url = f"{world.settings['ingest.idr.files_urls']}/{below}"
    assert requests.head(url, timeout=10).status_code == 200


def test_annotations_name_the_organism(ask: Ask) -> None:
    [found] = ask("/webclient/api/annotations/?type=map&image=9846137")["annotations"]
    assert ["Organism", "Homo sapiens"] in found["values"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/api/v0/m/images/1/", 404, "not found"),
        ("GET", "/api/v0/m/nothing/", 404, "Not Found"),
        ("GET", "/api/v0/m/images/?limit=foo", 400, "invalid literal"),
        ("POST", "/api/v0/m/images/9846137/", 405, "not allowed"),
    ],
)
def test_a_refusal_has_a_message(
    world: World, method: str, path: str, status: int, words: str
) -> None:
    url = world.settings["ingest.idr.api_url"] + path
    answer = requests.request(method, url, timeout=10)
    assert answer.status_code == status
    assert words in answer.json()["message"]


def test_a_rendered_download_is_a_picture_and_not_the_data(world: World) -> None:
    url = f"{world.urls['idr']}/webclient/render_image_download/9846137/?format=tif"
    answer = requests.get(url, timeout=10)
    assert answer.headers["Content-Type"] == "image/png"
