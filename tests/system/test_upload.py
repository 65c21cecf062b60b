"""Buffer, aloha and TEM DB as processes, killed and refused: no tile is lost."""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.montages.stored import located
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.config import Settings, StorageSettings, TemdbSettings
from em_platform.formats import read_image
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload
from em_platform.processes.fork_server import NewPythons
from em_platform.storage import Store, layout, open_store, store_of
from em_platform.temdb import register_of
from tests.ports import broker_at
from tests.rig import Process, start_service

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WAIT_S = 120.0


class Service:
    """One of our processes, which can be killed and started again."""

    def __init__(
        self,
        name: str,
        environment: dict[str, str],
        home: Path,
        first: NewPythons | None,
    ) -> None:
        self.name = name
        self.log = home / f"{name}.log"
        self._environment = environment
        self._first = first
        self._process: Process | None = None

    def start(self, **more: str) -> None:
        """Start it, and wait until it says that it is ready."""
        self.log.touch()
        before = self.output().count(f"ready {self.name}")
        with self.log.open("ab") as log:
            self._process = start_service(
                self.name,
                environment={**self._environment, **more},
                output=log.fileno(),
                programs=self._first if self._process is None else None,
            )
        wait_for(
            lambda: self.output().count(f"ready {self.name}") > before, self.output
        )

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """End it politely."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)


def wait_for(
    truth: Callable[[], bool], what: Callable[[], str] = str, *, pause_s: float = 0.05
) -> None:
    deadline = time.monotonic() + WAIT_S
    while not truth():
        assert time.monotonic() < deadline, what()
        time.sleep(pause_s)


@pytest.fixture
def montage_of(repository: Path) -> Any:
    """The stand-in of the microscope that the buffer's own tests use."""
    path = repository / "tests/acquisition/buffer/imaged.py"
    spec = importlib.util.spec_from_file_location("imaged", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ImagedMontage


@pytest.fixture
def ports(free_port: Callable[[], int]) -> dict[str, int]:
    return {name: free_port() for name in ("broker", "aloha", "temdb")}


@contextmanager
def running(
    home: Path, ports: dict[str, int], first: NewPythons | None = None, **more: str
) -> Iterator[dict[str, Service]]:
    """All processes, not yet started; none is left after the block.

    With `first` each is a Python of its own until it is started again.
    """
    environment = {
        **os.environ,
        "EM_HOME": str(home),
        "EM_BROKER__PORT": str(ports["broker"]),
        "EM_ALOHA__PORT": str(ports["aloha"]),
        "EM_TEMDB__PORT": str(ports["temdb"]),
        "EM_ALOHA__MIN_FREE_GB": "0",
        "EM_ACQUISITION__BUFFER__STATISTICS_WAIT_S": "1",
        "EM_ACQUISITION__BUFFER__RETRY_S": "0.2",
        "EM_ACQUISITION__BUFFER__RETRY_MOST_S": "1",
        "EM_ACQUISITION__BUFFER__KEEP_S": "0",
        **more,
    }
    names = ("broker", "recorder", "temdb", "aloha", "buffer")
    processes = {name: Service(name, environment, home, first) for name in names}
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()


class Watch(threading.Thread):
    """Looks that no frame is missing on the disk before aloha has verified all."""

    def __init__(self, montage: Any, is_verified: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._montage = montage
        self._is_verified = is_verified
        self.stop = threading.Event()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.stop.wait(0.02):
            frames = [self._montage.path(t) for t in self._montage.tile_ids]
            gone = [path.name for path in frames if not path.exists()]
            if gone and not self._is_verified():
                self.wrong += gone


def stored_at(folder: Path) -> dict[str, int]:
    """Each whole pyramid, and when it was written."""
    found = folder.glob("*.zarr/zarr.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def sentences(home: Path) -> str:
    with closing(Journal(home / "buffer" / "journal.sqlite")) as journal:
        montages = [journal.montage(key) for key in journal.open_ids()]
        return " ".join(montage.sentence for montage in montages if montage)


def refused_and_killed(
    processes: dict[str, Service],
    home: Path,
    montage: Any,
    session: Bus,
    watch: Watch,
) -> None:
    """Image a montage; aloha refuses, is killed amid a tile, then the buffer is."""
    aloha, buffer = processes["aloha"], processes["buffer"]
    uploaded = home / "data" / layout.uploaded_acquisition(montage.acquisition_id)
    scratch = home / "aloha" / "scratch"
    buffer.start(EM_ALOHA__TOKEN="a wrong one")
    montage.image(session.publish)
    montage.process(session.publish)
    montage.complete(session.publish)
    watch.start()
    wait_for(lambda: "HTTP 401" in sentences(home), buffer.output)
    assert "HTTP 401" in buffer.output()
    assert not uploaded.exists()
    assert buffer.terminate() == 0
    before: dict[str, int] = {}

    def nothing_was_written_again() -> None:
        now = stored_at(uploaded)
        assert before.items() <= now.items()
        before.update(now)

    buffer.start()
    wait_for(lambda: any(scratch.iterdir()), buffer.output, pause_s=0.0)
    aloha.kill()  # a tile was on its way
    wait_for(lambda: "does not serve" in sentences(home), buffer.output)
    nothing_was_written_again()
    aloha.start()
    wait_for(lambda: len(stored_at(uploaded)) > len(before) + 1, buffer.output)
    buffer.kill()
    nothing_was_written_again()


def test_no_tile_is_lost_or_stored_twice_whatever_is_killed_or_refuses(
    home: Path, ports: dict[str, int], montage_of: Any
) -> None:
    montage = montage_of(home / "frames", "m1", tiles=16, size_px=1024)
    key = montage.acquisition_id
    store = open_store(str(home / "data"))
    uploaded = home / "data" / layout.uploaded_acquisition(key)
    scratch = home / "aloha" / "scratch"
    watch = Watch(montage, lambda: store.exists(layout.upload(key)))
    with (
        running(home, ports, NewPythons()) as processes,
        Bus(broker_at(ports["broker"], home), "session") as session,
    ):
        buffer, temdb = processes["buffer"], processes["temdb"]
        processes["broker"].start()
        session.connect()
        for name in ("recorder", "aloha"):
            processes[name].start()

        refused_and_killed(processes, home, montage, session, watch)
        before = stored_at(uploaded)
        buffer.start()
        wait_for(lambda: len(stored_at(uploaded)) == 16, buffer.output)
        assert before.items() <= stored_at(uploaded).items()
        before = stored_at(uploaded)
        wait_for(lambda: "HTTP 503" in sentences(home), buffer.output)
        assert "TEM DB" in sentences(home)
        assert len(list(montage.folder.glob("*.tiff"))) == 32
        temdb.start()
        wait_for(lambda: not list(montage.folder.glob("*.tiff")), buffer.output)
        assert before == stored_at(uploaded)
        wait_for(lambda: len(list(montage.folder.glob("*.json"))) == 1, buffer.output)
        watch.stop.set()
        watch.join()
        assert not watch.wrong
        settings = Settings(home=home, temdb=TemdbSettings(port=ports["temdb"]))
        run = register_of(settings).run_of(key)
        assert run is not None
        assert (run.status, run.transfer_state) == ("complete", "complete")
        assert run.tile_count == 16
        for name in ("buffer", "aloha", "temdb", "recorder", "broker"):
            assert processes[name].terminate() == 0, processes[name].output()
    upload = store.read(layout.upload(key), AcquisitionUpload)
    assert [tile.tile_id for tile in upload.tiles] == montage.tile_ids
    assert not list(scratch.iterdir())
    assert not list(uploaded.glob("*.partial"))
    same_as_imaged(home, montage, store)


def same_as_imaged(home: Path, montage: Any, store: Store) -> None:
    """Read the montage as Dagster does, and compare with what the camera saw."""
    with Ledger(f"sqlite:///{home / 'recorder.sqlite'}") as recorder:
        recorded = recorder.montage(montage.acquisition_id, store=store)
    assert not recorded.failures
    assert len(recorded.tiles) == len(montage.tile_ids)
    for tile in located(recorded, store).tiles:
        pixels = read_image(tile.uri, options=store.options)
        # A tile's own id depends on the reader; its place tells which it is.
        assert np.array_equal(pixels, montage.pixels(montage.tile_ids[tile.column]))


@pytest.fixture
def bucket() -> Iterator[StorageSettings]:
    """A bucket on a real S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    storage = StorageSettings(
        root=f"s3://uploads-{port}/em",
        endpoint_url=f"http://{host}:{port}",
        access_key="key",
        secret_key="secret",
    )
    options = store_of(Settings(storage=storage)).options
    fsspec.filesystem("s3", **options).mkdir(f"uploads-{port}")
    yield storage
    server.stop()


def test_a_montage_is_uploaded_into_a_bucket_though_aloha_is_killed(
    home: Path, ports: dict[str, int], montage_of: Any, bucket: StorageSettings
) -> None:
    montage = montage_of(home / "frames", "m1", tiles=6, size_px=700)
    key = montage.acquisition_id
    store = store_of(Settings(storage=bucket))
    environment = {
        "EM_STORAGE__ROOT": bucket.root,
        "EM_STORAGE__ENDPOINT_URL": bucket.endpoint_url,
        "EM_STORAGE__ACCESS_KEY": bucket.access_key,
        "EM_STORAGE__SECRET_KEY": bucket.secret_key.get_secret_value(),
    }
    with (
        running(home, ports, **environment) as processes,
        Bus(broker_at(ports["broker"], home), "session") as session,
    ):
        for name in ("broker", "recorder", "temdb", "aloha", "buffer"):
            processes[name].start()
        session.connect()
        montage.image(session.publish)
        montage.complete(session.publish)
        filesystem = fsspec.filesystem("s3", **store.options)
        folder = store.url(layout.uploaded_acquisition(key))
        wait_for(lambda: bool(filesystem.glob(f"{folder}/*.zarr/zarr.json")))
        processes["aloha"].kill()
        assert len(list(montage.folder.glob("*.tiff"))) == 6
        processes["aloha"].start()
        output = processes["buffer"].output
        wait_for(lambda: not list(montage.folder.glob("*.tiff")), output)
    assert store.exists(layout.upload(key))
    same_as_imaged(home, montage, store)
    objects = filesystem.find(f"{folder}/{montage.tile_ids[0]}.zarr")
    assert len(objects) == 6  # group, manifest, and for each of two levels two
