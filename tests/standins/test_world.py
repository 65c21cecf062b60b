"""The world as a whole: what it tells of itself, to this process and to others."""

import time
from pathlib import Path

import pytest
import requests

from em_platform.config import load_settings
from em_platform.errors import ConfigError
from em_platform.standins.world import ALL, World, running_world


def test_the_settings_are_those_of_the_platform(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings().ingest
    assert settings.sources == ALL
    here = world.urls
    assert settings.ebi.api_url.startswith(here["ebi"])
    assert settings.epfl.files_urls[0].startswith(here["epfl"])
    assert settings.flyem.dvid_url == here["dvid"]
    assert settings.idr.ngff_urls[0].startswith(here["idr-s3"])
    assert settings.openorganelle.endpoint_url == here["s3"]
    for source in ALL:
        wanted = getattr(settings, source).items
        assert set(wanted) <= set(world.keys[source])


def test_every_key_has_its_truth(world: World) -> None:
    for source, keys in world.keys.items():
        for key in keys:
            truth = world.truth(source, key)
            assert truth.ndim == 3
            assert truth.std() > 0


def test_a_second_world_finds_the_files_of_the_first(tmp_path: Path) -> None:
    def etag() -> str:
        with running_world(tmp_path, sources=("epfl",)) as world:
            url = f"{world.settings['ingest.epfl.files_urls']}/training.tif"
            return requests.head(url, timeout=10).headers["ETag"]

    first = etag()
    [made] = tmp_path.glob("*/epfl")
    before = made.stat().st_ino
    assert etag() == first
    assert made.stat().st_ino == before


def test_files_made_anew_have_the_same_bytes_and_times(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        with running_world(tmp_path / name, sources=("ebi",)) as world:
            path = "11759/data/F57-8_test1_3VBSED_slice_0000.dm3"
            url = f"{world.settings['ingest.ebi.files_urls']}/{path}"
            answer = requests.get(url, timeout=10)
            found.append((answer.content, answer.headers["ETag"]))
    assert found[0] == found[1]


def test_it_is_up_and_down_quickly(tmp_path: Path) -> None:
    started = time.process_time()
    with running_world(tmp_path) as world:
        assert len(world.urls) == 11
    assert time.process_time() - started < 2


def test_faults_and_requests_are_reached_from_elsewhere(world: World) -> None:
    faults = f"{world.control_url}/faults"
    url = f"{world.settings['ingest.ebi.api_url']}/entry/11759/"
    given = {"kind": "status", "path": "/empiar/api/*", "times": 1, "status": 429}
    assert requests.post(faults, json=[given], timeout=10).status_code == 200
    assert requests.get(url, timeout=10).status_code == 429
    assert requests.get(url, timeout=10).status_code == 200
    assert requests.get(faults, timeout=10).json()[0]["seen"] == 2
    assert requests.delete(faults, timeout=10).json() == []
    assert world.faults.all() == []
    log = f"{world.control_url}/requests"
    seen = requests.get(log, params={"path": "/entry/11759"}, timeout=10).json()
    assert [entry["status"] for entry in seen] == [429, 200]
    assert world.requests.count(lambda r: "/faults" in r.path) == 0
    requests.delete(log, timeout=10)
    assert world.requests.all() == []


@pytest.mark.parametrize(
    "body", [b"no json", b'{"kind": "flood"}', b'[{"how": 1}]', b"7"]
)
def test_a_wrong_fault_is_refused_and_changes_nothing(
    world: World, body: bytes
) -> None:
    answer = requests.post(f"{world.control_url}/faults", data=body, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["message"]
    assert world.faults.all() == []


def test_files_can_be_made_beforehand(tmp_path: Path) -> None:
    with running_world(tmp_path, sources=("epfl", "idr")) as world:
        assert not world.folder.exists()
        world.prepare()
        made = {path.name for path in world.folder.iterdir()}
        assert made == {"epfl", "idr", "idr-ngff"}


def test_only_chosen_sources_run(tmp_path: Path) -> None:
    with running_world(tmp_path, sources=("idr",)) as world:
        assert set(world.urls) == {"idr", "idr-files", "idr-s3"}
        assert world.settings["ingest.sources"] == "idr"


def test_an_unknown_source_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="no source 'moon'"),
        running_world(tmp_path, sources=("moon",)),
    ):
        pass


def test_larger_worlds_have_larger_volumes(tmp_path: Path) -> None:
    with (
        running_world(tmp_path, size="demo") as demo,
        running_world(tmp_path, size="small") as small,
    ):
        for source in ALL:
            key = small.keys[source][0]
            larger = demo.truth(source, demo.keys[source][0])
            assert larger.nbytes > small.truth(source, key).nbytes


def test_the_writable_bucket_takes_results() -> None:
    from em_platform.standins.s3 import running_writable_s3
    from em_platform.storage.store import store_of

    with running_writable_s3("results") as bucket:
        store = store_of(load_settings(overrides=bucket.settings))
        store.write_bytes("a/b", b"1")
        assert store.url("a/b") == "s3://results/em/a/b"
        assert store.read_bytes("a/b") == b"1"
