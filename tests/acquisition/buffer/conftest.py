"""A buffer's parts, and an aloha on a port of its own."""

import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.buffer.aloha_client import AlohaClient
from em_platform.acquisition.buffer.intake import Intake, Reader
from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.uploading import Uploader
from em_platform.acquisition.recorder.events import Message
from em_platform.aloha.acquisitions import Acquisitions
from em_platform.aloha.app import make_app
from em_platform.config import AcquisitionSettings, AlohaSettings, BufferSettings
from em_platform.messaging.topics import fitting
from em_platform.storage import open_store
from em_platform.temdb.register import Register


@pytest.fixture(scope="session")
def imaged() -> Any:
    """The module that images montages; tests cannot import it."""
    path = Path(__file__).with_name("imaged.py")
    spec = importlib.util.spec_from_file_location("imaged", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def temdb(serve_temdb: Callable[[str], str]) -> Register:
    """A TEM DB that serves."""
    return Register(serve_temdb("secret"), "secret")


@pytest.fixture
def aloha_app(tmp_path: Path, temdb: Register) -> Iterator[Any]:
    """The application of an aloha; its token is `token`."""
    with ExitStack() as stack:
        settings = AlohaSettings(min_free_gb=0, chunk_px=64)
        acquisitions = Acquisitions(
            tmp_path / "aloha", open_store(str(tmp_path / "data")), temdb, settings
        )
        stack.callback(acquisitions.journal.close)
        yield make_app(
            acquisitions,
            token="token",
            settings=settings,
            waiters=stack.enter_context(ThreadPoolExecutor(4)),
            workers=stack.enter_context(ThreadPoolExecutor(2)),
        )


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    journal = Journal(tmp_path / "buffer" / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def hear(journal: Journal, tmp_path: Path) -> Callable[..., None]:
    """Tell the journal one message, as `publish` tells all."""
    intake = Intake(journal, tmp_path / "frames")

    def tell(topic: str, *, sent_at: str = "1000", **fields: Any) -> None:
        body = fitting(topic, fields).model_dump(mode="json")
        intake.note([Message(topic, body, {"sent_at": sent_at})])

    return tell


SETTINGS = BufferSettings(
    statistics_wait_s=0, retry_s=0.01, retry_most_s=0.05, parallel=3, timeout_s=20
)


@contextmanager
def uploader_at(
    journal: Journal, port: int, *, frames: Path, token: str = "token", **more: Any
) -> Iterator[Uploader]:
    buffer = SETTINGS.model_copy(update=more)
    client = AlohaClient(
        f"http://127.0.0.1:{port}",
        token,
        timeout_s=buffer.timeout_s,
        parallel=buffer.parallel,
    )
    settings = AcquisitionSettings(buffer=buffer)
    yield Uploader(journal, client, settings, frames=frames, stop=threading.Event())
    client.close()


@pytest.fixture
def uploading(tmp_path: Path) -> Callable[..., AbstractContextManager[Uploader]]:
    """Give an uploader that sends to a port, for the length of a block."""
    return partial(uploader_at, frames=tmp_path / "frames")


@pytest.fixture
def aloha_port(
    aloha_app: Any, serve_app: Callable[..., str], free_port: Callable[[], int]
) -> int:
    """The port of an aloha that serves."""
    port = free_port()
    serve_app(aloha_app, port)
    return port


def act_until(act: Callable[[], None], truth: Callable[[], bool]) -> None:
    """Act again and again until it is so."""
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline
        act()
        time.sleep(0.01)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`act_until`, for tests that cannot import it from here."""
    return act_until


@pytest.fixture
def montage(
    hear: Callable[..., None], imaged: Any, journal: Journal, tmp_path: Path
) -> Any:
    """A montage that has ended, its frames read."""
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=5)
    montage.image(hear)
    montage.process(hear)
    montage.complete(hear)
    Reader(journal).tick()
    return montage
