"""The whole of a montage with its results in a bucket."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import fsspec
import pytest

from em_platform.config import load_settings
from em_platform.definitions import defs
from em_platform.formats import open_level
from em_platform.model import Montage
from em_platform.partitions import montages
from em_platform.storage import layout, store_of

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def servers() -> Iterator[list[Any]]:
    """The S3 server that runs; the last of the list where it was started again."""
    running = [serve_s3(0)]
    yield running
    running[-1].stop()


def serve_s3(port: int) -> Any:
    """What another one of this process has stored is there."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    return server


@pytest.fixture
def bucket(servers: list[Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket on a real S3 server, which the settings name as the results' root."""
    host, port = servers[0].get_host_and_port()
    monkeypatch.setenv("EM_STORAGE__ROOT", "s3://montage-results/em")
    monkeypatch.setenv("EM_STORAGE__ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("EM_STORAGE__ACCESS_KEY", "key")
    monkeypatch.setenv("EM_STORAGE__SECRET_KEY", "secret")
    options = store_of(load_settings()).options
    fsspec.filesystem("s3", **options).makedirs("montage-results", exist_ok=True)
    return "s3://montage-results/em"


def test_a_montage_is_made_in_a_bucket(
    instance: dg.DagsterInstance, drop_montage: Callable[..., Path], bucket: str
) -> None:
    drop_montage("grid-1")
    instance.add_dynamic_partitions(str(montages.name), ["grid-1", "another-one"])
    result = defs.resolve_job_def("stitch_montages").execute_in_process(
        partition_key="grid-1", instance=instance
    )
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations())
    store = store_of(load_settings())
    tiles = store.read(layout.tiles("grid-1"), Montage)
    assert all(tile.uri.startswith(f"{bucket}/") for tile in tiles.tiles)
    url = store.url(layout.mosaic("grid-1"))
    assert url.startswith(bucket)
    image = open_level(url, 0, storage_options=store.options)
    assert image[100:200, 100:200].std() > 1
    assert store.exists(layout.dataset_record("grid-1"))
    shown = " ".join(
        str(value.value)
        for event in result.get_asset_materialization_events()
        for value in event.materialization.metadata.values()
    )
    assert f"em-platform view {url}" in shown
    assert "secret" not in shown


def test_a_bucket_that_is_away_for_a_while_fails_no_montage(
    instance: dg.DagsterInstance,
    drop_montage: Callable[..., Path],
    bucket: str,
    servers: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.assets.checks._PAUSES_S", (2.0,) * 10)
    drop_montage("grid-2")
    instance.add_dynamic_partitions(str(montages.name), ["grid-2", "another-one"])
    _, port = servers[0].get_host_and_port()
    servers[0].stop()
    back = Thread(target=serve_again_after_a_retry, args=(instance, servers, port))
    back.start()
    result = defs.resolve_job_def("process_tiles").execute_in_process(
        partition_key="grid-2", instance=instance
    )
    back.join()
    assert result.success
    again = [e for e in result.all_events if e.is_step_up_for_retry]
    assert again, "the bucket was away"
    [event] = {str(e.step_key) for e in again}
    assert event == "raw_tiles"
    found = store_of(load_settings()).read(layout.tiles("grid-2"), Montage)
    assert len(found.tiles) == 4


def serve_again_after_a_retry(
    instance: dg.DagsterInstance, servers: list[Any], port: int
) -> None:
    retry = dg.DagsterEventType.STEP_UP_FOR_RETRY
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(instance.all_logs(run.run_id, retry) for run in instance.get_runs()):
            break
        time.sleep(0.1)
    servers.append(serve_s3(port))
