"""What all tests share: real data where it exists, a home of its own, free ports."""

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import reserve_port

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = Path(os.environ.get("EM_SHARED_DATA", REPOSITORY.parent / "shared/data"))

# Before numpy and numba are imported: tests and their children run beside each other.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# It can hang a process for ever, see `stitching/compute.py`.
os.environ["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"

# A job in the background ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of the person who runs the tests must not reach the tests.
for _name in list(os.environ):
    if _name.startswith(("EM_", "PIGEON_", "DAGSTER_", "AWS_")):
        del os.environ[_name]
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
# Services whose default port is fixed: rigs of two test processes run side by side.
for _name in ("ACQUISITION__OPERATOR", "ALOHA", "TEMDB"):
    os.environ[f"EM_{_name}__PORT"] = str(reserve_port())

# Until all is collected: what is imported stays, and searching it for garbage again and
# again took half of the collection's time, in each worker.
gc.disable()

from em_platform.config import (  # noqa: E402
    AcquisitionSettings,
    BrokerSettings,
    Settings,
    SimulationSettings,
)
from em_platform.messaging.broker import Broker  # noqa: E402
from em_platform.messaging.bus import Bus  # noqa: E402

# Seconds of the files that take longest, on two idle cores. Begun first, so that none
# of them is left over at the end.
SLOWEST = {
    "test_platform": 220,
    "test_demo_ingest": 135,
    "test_how_to": 80,
    "test_routines": 80,
    "test_fault_table": 75,
    "test_recovery": 75,
    "test_up_microscope": 70,
    "test_verdicts": 65,
    "test_transfer": 60,
    "test_control": 50,
    "test_demo_cryoem": 120,
    "test_tilt_align": 50,
    "test_races": 45,
    "test_operator_page": 40,
    "test_coordinator": 40,
    "test_rabbitmq": 40,
    "test_live": 35,
    "test_feedback": 30,
    "test_live_recipe": 30,
    "test_run_logs": 30,
    "test_docs": 30,
    "test_upload": 30,
    "test_foreign_data": 30,
    "test_rig_over_stomp": 30,
    "test_demo": 30,
    "test_volume_resumed": 30,
    "test_tutorials": 30,
    "test_uploading": 25,
    "test_resume": 25,
    "test_ingest_modes": 25,
    "test_register": 25,
    "test_house": 25,
    "test_ome_zarr": 25,
    "test_compute": 25,
    "test_assets": 25,
    "test_web_server": 25,
    "test_pipeline": 25,
    "test_finished": 20,
    "test_temdb_postgres": 20,
    "test_ingest_killed": 20,
    "test_restarts": 20,
    "test_lens": 20,
}
_SYSTEM_S, _UNIT_S = 15, 3
"""Of any other file with processes, and of any without."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--many-kills",
        action="store_true",
        help="kill at many random moments: minutes, see `python -m benchmarks faults`",
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mix files that wait for processes with files that compute, the longest first.

    So both cores are busy from the first minute to the last: a worker takes the next
    file when it is through with one (`--dist loadfile --no-loadscope-reorder`).
    """
    if not config.getoption("--many-kills"):
        left = [item for item in items if item.get_closest_marker("many_kills")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    seconds: dict[Path, int] = {}
    for item in items:
        usual = _SYSTEM_S if item.get_closest_marker("system") else _UNIT_S
        known = SLOWEST.get(item.path.stem, usual)
        seconds[item.path] = max(known, seconds.get(item.path, 0))
    longest_first = sorted(seconds, key=lambda path: -seconds[path])
    begun: dict[Path, float] = {}
    for is_system in (True, False):
        own = [p for p in longest_first if (seconds[p] >= _SYSTEM_S) is is_system]
        whole, passed = sum(seconds[p] for p in own), 0.0
        for path in own:
            begun[path] = passed / whole
            passed += seconds[path]
    items.sort(key=lambda item: begun[item.path])


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Where REQUIRE_PACKAGES is set, a test skipped for a missing package fails."""
    report = yield
    missing = report.skipped and "not installed" in str(report.longrepr)
    if missing and os.environ.get("REQUIRE_PACKAGES"):
        report.outcome = "failed"
        report.longrepr = str(report.longrepr)
    return report


@pytest.fixture(scope="session")
def many_kills(request: pytest.FixtureRequest) -> bool:
    """Whether to kill at many random moments, or at a few."""
    return bool(request.config.getoption("--many-kills"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real microscope data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}; name its folder by EM_SHARED_DATA")
    return SHARED_DATA


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is EM_HOME for this test and for what it starts."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("EM_HOME", str(folder))
    return folder


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Give a TCP port that is reserved for this process, a new one each call."""
    return reserve_port


@contextmanager
def served_at(app: Any, port: int = 0, proxies: Sequence[str] = ()) -> Iterator[str]:
    """The address of an application that is served within the block; 0: a free port.

    As our services serve theirs, behind trusted `proxies`.
    """
    import uvicorn

    from em_platform.processes.web import server_config

    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(server_config(app, trusted_proxies=proxies))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """`served_at`, for tests that cannot import it from here."""
    return served_at


@pytest.fixture
def serve_app() -> Iterator[Callable[..., str]]:
    """Serve an application until the test has ended, and give its address."""
    with ExitStack() as stack:
        yield lambda app, port=0, proxies=(): stack.enter_context(
            served_at(app, port, proxies)
        )


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, Any]]:
    """The fsspec options of `s3://bucket`, which all tests share."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="bucket")
    yield {
        "key": "key",
        "secret": "secret",
        "client_kwargs": {"endpoint_url": endpoint},
    }
    client.close()
    server.stop()


@pytest.fixture(scope="session")
def one_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The public sources on this machine, once for all tests."""
    from em_platform.standins.world import running_world

    with running_world(tmp_path_factory.mktemp("standins")) as running:
        yield running


@pytest.fixture
def world(one_world: Any) -> Any:
    """The public sources on this machine, without faults, asked nothing yet."""
    one_world.faults.clear()
    one_world.requests.clear()
    return one_world


@pytest.fixture
def serve_temdb(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Serve an empty TEM DB that asks for a token, and give its address."""
    from em_platform.temdb.app import create_app
    from em_platform.temdb.database import Database, migrate

    with ExitStack() as stack:

        def serve(token: str) -> str:
            url = f"sqlite:///{tmp_path / 'temdb.sqlite'}"
            migrate(url)
            database = Database(url)
            stack.callback(database.close)
            return stack.enter_context(served_at(create_app(database, token)))

        yield serve


@pytest.fixture
def brokers() -> Iterator[list[Broker]]:
    """The broker that runs; the last of the list where it was restarted."""
    running = [Broker(BrokerSettings(port=0))]
    running[0].start()
    yield running
    running[-1].stop()


@pytest.fixture
def restart_broker(brokers: list[Broker]) -> Callable[[], None]:
    """Stop the broker and, a moment later, start another at the same port."""

    def restart() -> None:
        port = brokers[-1].port
        brokers[-1].stop()
        time.sleep(0.5)
        brokers.append(Broker(BrokerSettings(port=port)))
        brokers[-1].start()

    return restart


@pytest.fixture
def rig_settings(tmp_path: Path, brokers: list[Broker]) -> Settings:
    """Small, fast devices and an embedded broker that runs for the test."""
    return Settings(
        home=tmp_path,
        broker=BrokerSettings(port=brokers[0].port),
        acquisition=AcquisitionSettings(
            rows=2,
            columns=2,
            request_timeout_s=2.0,
            request_tries=3,
            simulation=SimulationSettings(
                tile_px=64, exposure_ms=5.0, jitter_px=3.0, stage_settle_ms=5.0
            ),
        ),
    )


@pytest.fixture
def open_bus(rig_settings: Settings) -> Iterator[Callable[[str], Bus]]:
    """Give a connected bus; all are closed after the test."""
    with ExitStack() as stack:

        def connect(name: str) -> Bus:
            bus = stack.enter_context(Bus(rig_settings.broker, name))
            bus.connect(5.0)
            return bus

        yield connect


@pytest.fixture
def serve(open_bus: Callable[[str], Bus]) -> Iterator[Callable[..., Any]]:
    """Run a device as its process would: handlers, and ticks in a thread."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    devices: list[Any] = []

    def start(kind: Any, settings: Settings, *, tick_s: float = 0.02) -> Any:
        device = kind(open_bus(kind.__name__.lower()), settings)

        def run() -> None:
            while not stop.wait(tick_s):
                device.tick()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        devices.append(device)
        return device

    yield start
    stop.set()
    for thread in threads:
        thread.join(5)
    for device in devices:
        device.close()
