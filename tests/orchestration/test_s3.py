"""The whole of a montage with its results in a bucket."""

from collections.abc import Callable, Iterator
from pathlib import Path

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
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a real S3 server, which the settings name as the results' root."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("EM_STORAGE__ROOT", "s3://montage-results/em")
    monkeypatch.setenv("EM_STORAGE__ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("EM_STORAGE__ACCESS_KEY", "key")
    monkeypatch.setenv("EM_STORAGE__SECRET_KEY", "secret")
    options = store_of(load_settings()).options
    fsspec.filesystem("s3", **options).mkdir("montage-results")
    yield "s3://montage-results/em"
    server.stop()


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
