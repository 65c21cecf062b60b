"""The entry API against the answer that EMPIAR once gave."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import requests
import tifffile
from ncempy.io import dm, mrc

from em_platform.standins.world import World


def entry(world: World, name: str) -> Any:
    url = f"{world.settings['ingest.ebi.api_url']}/entry/{name}"
    return requests.get(url, timeout=10).json()


def shape_of(value: Any) -> Any:
    """Keys and types, without the values; one element stands for a list."""
    if isinstance(value, dict):
        return {name: shape_of(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape_of(each) for each in value[:1]]
    return type(value)


def test_an_entry_has_the_keys_and_values_of_the_recorded_answer(
    world: World, shared_data: Path
) -> None:
    catalog = shared_data / "api/macroscope/metadata_catalog_20250611_221633.json"
    sample = json.loads(catalog.read_text())["valid_records_sample"][0]
    real = sample["additional_metadata"]
    found = entry(world, "11759/")
    assert shape_of(found) == shape_of(real)
    assert len(found["EMPIAR-11759"]) == 22
    for name in ("title", "experiment_type", "imagesets", "entry_doi", "release_date"):
        assert found["EMPIAR-11759"][name] == real["EMPIAR-11759"][name]


def test_the_header_has_elements_of_the_recorded_one(
    world: World, shared_data: Path
) -> None:
    real = ElementTree.parse(shared_data / "api/empiar/10934.xml").getroot()
    assert real is not None
    files = world.settings["ingest.ebi.files_urls"]
    answer = requests.get(f"{files}/99002/99002.xml", timeout=10)
    found = ElementTree.fromstring(answer.content)
    assert found.get("accessionCode") == "EMPIAR-99002"
    assert found.attrib.keys() == real.attrib.keys()
    assert set(paths(found)) <= set(paths(real))
    space = {"e": "http://pdbe.org/empiar"}
    sets = [each.text for each in found.findall("e:imageSet/e:directory", space)]
    assert sets == ["/data/sections", "/data/volume"]


def paths(element: ElementTree.Element, above: str = "") -> Iterator[str]:
    """Of the element and all below it."""
    here = f"{above}/{element.tag}"
    yield here
    for child in element:
        yield from paths(child, here)


@pytest.mark.parametrize("name", ["11759", "EMPIAR-11759", "EMPIAR-11759/"])
def test_the_number_is_known_in_every_way_it_is_written(
    world: World, name: str
) -> None:
    assert list(entry(world, name)) == ["EMPIAR-11759"]


def test_an_unknown_entry_is_not_found(world: World) -> None:
    url = f"{world.settings['ingest.ebi.api_url']}/entry/EMPIAR-1/"
    assert requests.get(url, timeout=10).status_code == 404


def test_what_is_made_up_says_so(world: World) -> None:
    made_up = {key.partition(".")[0] for key in world.keys["ebi"]} - {"11759"}
    assert made_up
    for number in made_up:
        assert "Made up" in entry(world, number)[f"EMPIAR-{number}"]["title"]


def test_the_files_hold_the_truth(world: World, tmp_path: Path) -> None:
    def file(path: str) -> Path:
        url = f"{world.settings['ingest.ebi.files_urls']}/{path}"
        answer = requests.get(url, timeout=10)
        answer.raise_for_status()
        here = tmp_path / Path(path).name
        here.write_bytes(answer.content)
        return here

    retina = world.truth("ebi", "11759")
    slices = file("11759/data/F57-8_test1_3VBSED_slice_0009.dm3")
    assert np.array_equal(dm.dmReader(str(slices))["data"], retina[9])
    volume = mrc.mrcReader(str(file("99001/data/medulla.mrc")))
    assert np.array_equal(volume["data"], world.truth("ebi", "99001"))
    section = file("99002/data/sections/section_004.tif")
    assert np.array_equal(tifffile.imread(section), world.truth("ebi", "99002")[4])
    second = mrc.mrcReader(str(file("99002/data/volume/medulla.mrc")))
    assert np.array_equal(second["data"], world.truth("ebi", "99002.2"))
    stack = dm.dmReader(str(file("99003/data/medulla.dm4")))
    assert np.array_equal(stack["data"], world.truth("ebi", "99003"))
