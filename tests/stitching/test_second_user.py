"""Another account of this computer, and the Dask workers of a run."""

import os

import pytest
from distributed import LocalCluster

from em_platform.stitching.compute import local_cluster
from tests.second_user import LOAD_ALL, PAGES, RUN_CODE, as_another_user


@pytest.mark.system
def test_another_user_runs_no_code_on_a_local_worker() -> None:
    with local_cluster(1) as client:
        scheduler = client.scheduler.address
        [worker] = client.scheduler_info()["workers"]
        assert client.submit(os.getuid).result() == os.getuid()
        found = as_another_user(
            RUN_CODE, before=LOAD_ALL, addresses=[scheduler, worker]
        )
        assert list(found.values()) == ["refused"] * 4
        page = client.dashboard_link.removesuffix("/status")
        urls = [f"{page}/{name}" for name in ("info/main/workers.html", "metrics")]
        pages = as_another_user(PAGES, urls=urls)
        assert [status for status, _ in pages.values()] == [404, 404]
    # The same attempt succeeds where nothing is asked for.
    plain = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **plain) as cluster:
        address = cluster.scheduler_address
        found = as_another_user(RUN_CODE, before=LOAD_ALL, addresses=[address])
        assert found[f"plain {address.removeprefix('tcp://')}"] == os.getuid()
