"""The index pages and files of the archives."""

import re
from urllib.parse import unquote, urljoin

import requests

from em_platform.standins.faults import Fault
from em_platform.standins.world import World

_LINK = re.compile(r'<a href="([^"]+)">([^<]+)</a>')


def links(url: str) -> dict[str, str]:
    """What is shown -> where it leads."""
    answer = requests.get(url, timeout=10)
    answer.raise_for_status()
    return {name: urljoin(url, href) for href, name in _LINK.findall(answer.text)}


def test_the_folder_of_11759_has_its_18_names(world: World) -> None:
    found = links(f"{world.settings['ingest.ebi.files_urls']}/11759/data/")
    names = found.keys() - {"Parent Directory", "Name", "Last modified", "Size"}
    slices = {f"F57-8_test1_3VBSED_slice_{n:04d}.dm3" for n in range(16)}
    folder = "trakem2.1528909664283.981147357.856576865/"
    assert names == slices | {"F57-8_test1.xml.gz", folder}
    below = links(found[folder])
    assert "trakem2.mipmaps/" in below


def test_a_name_with_a_plus_or_a_space_is_found_by_its_link(world: World) -> None:
    files = world.settings["ingest.idr.files_urls"]
    study = "idr0086-miron-micrographs/20200610-ftp/experimentD/Miron_FIB-SEM"
    found = links(f"{files}/{study}/Miron_FIB-SEM_processed/")
    tifs = [name for name in found if name.endswith(".tif")]
    assert len(tifs) == 11
    for name in tifs:
        head = requests.head(found[name], timeout=10)
        assert head.status_code == 200
        assert unquote(head.url).endswith(name)


def test_a_folder_without_its_slash_is_redirected(world: World) -> None:
    url = world.settings["ingest.epfl.files_urls"]
    assert "%20Electron" in url
    answer = requests.get(url, timeout=10)
    assert answer.history[0].status_code == 301
    assert "volumedata.tif" in answer.text


def test_what_is_missing_is_not_listed_and_not_served(world: World) -> None:
    url = f"{world.settings['ingest.ebi.files_urls']}/11759/data/"
    world.faults.add(Fault("missing", "*_0003.dm3"))
    name = "F57-8_test1_3VBSED_slice_0003.dm3"
    assert name not in links(url)
    assert requests.get(url + name, timeout=10).status_code == 404


def test_nothing_outside_the_tree_is_served(world: World) -> None:
    root = world.settings["ingest.ebi.files_urls"]
    for path in ("/../ebi", "/%2e%2e/%2e%2e/etc/passwd", "/11759/none"):
        assert requests.get(root + path, timeout=10).status_code == 404
    assert requests.get(root + "/11759/data/F57-8_test1.xml.gz/", timeout=10).ok


def test_the_mirror_has_the_same_files(world: World) -> None:
    path = "/empiar/world_availability/11759/data/F57-8_test1_3VBSED_slice_0007.dm3"
    first, second = (
        requests.get(world.urls[site] + path, timeout=10)
        for site in ("ebi", "ebi-mirror")
    )
    assert first.content == second.content
    assert first.headers["ETag"] == second.headers["ETag"]
