"""An aloha on a store of its own, and a TEM DB that is down."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from em_platform.aloha.acquisitions import Acquisitions
from em_platform.aloha.app import make_app
from em_platform.config import AlohaSettings
from em_platform.formats import encode_tiff
from em_platform.model import AcquisitionUpload, MeasuredTile, Size, UploadedTile
from em_platform.storage import Store, open_store
from em_platform.temdb.register import Register

TOKEN = "let me in"
KEY = "m1-20260102t030405"
SETTINGS = AlohaSettings(chunk_px=64, min_free_gb=0)


def frame(seed: int, *, size_px: int = 150, dtype: Any = np.uint8) -> NDArray[Any]:
    """Noise that no compression can lose unnoticed."""
    top = 255 if np.dtype(dtype) == np.uint8 else 4000
    return np.random.default_rng(seed).integers(0, top, (size_px, size_px + 1), dtype)


def frames(count: int = 3) -> dict[str, bytes]:
    """Tile id -> the file of a frame."""
    return {f"{KEY}_000_{i:03d}": encode_tiff(frame(i)) for i in range(count)}


def announcement(files: dict[str, bytes], **more: Any) -> AcquisitionUpload:
    """What a buffer would announce for these files."""
    tiles = [
        UploadedTile(
            tile_id=tile_id,
            raster_index=index,
            row=0,
            column=index,
            stage_x_nm=1000 * index,
            stage_y_nm=0,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            statistics=MeasuredTile(
                minimum=0, maximum=254, mean=127, std=73, focus_score=0.2
            ),
        )
        for index, (tile_id, content) in enumerate(files.items())
    ]
    fields: dict[str, Any] = {
        "acquisition_id": KEY,
        "montage_id": "m1",
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "pixel_nm": 4.0,
        "tile_size": Size(height_px=150, width_px=151),
        "tiles": tuple(tiles),
    }
    return AcquisitionUpload(**fields | more)


class Client:
    """What is asked of an aloha, by HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    def ask(self, method: str, place: str, **more: Any) -> requests.Response:
        """`place` below `/acquisitions/`."""
        url = f"{self.url}/api/v1/acquisitions/{place}"
        return self.session.request(method, url, timeout=30, **more)

    def announce(self, upload: AcquisitionUpload) -> requests.Response:
        """Announce an acquisition."""
        body = upload.model_dump_json()
        return self.ask("PUT", upload.acquisition_id, data=body)

    def send(self, tile_id: str, content: Any) -> requests.Response:
        """Send a tile of KEY."""
        return self.ask("PUT", f"{KEY}/tiles/{tile_id}", data=content)


@contextmanager
def aloha_at(
    folder: Path,
    store: Store,
    register: Register,
    settings: AlohaSettings = SETTINGS,
    *,
    served: Callable[..., AbstractContextManager[str]],
) -> Iterator[Client]:
    """An aloha that works in `folder`."""
    with ExitStack() as stack:
        acquisitions = Acquisitions(folder, store, register, settings)
        stack.callback(acquisitions.journal.close)
        app = make_app(
            acquisitions,
            token=TOKEN,
            settings=settings,
            waiters=stack.enter_context(ThreadPoolExecutor(4)),
            workers=stack.enter_context(ThreadPoolExecutor(2)),
        )
        client = Client(stack.enter_context(served(app)))
        stack.callback(client.session.close)
        yield client


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Where aloha stores."""
    return open_store(str(tmp_path / "data"))


@pytest.fixture
def no_temdb(free_port: Any) -> Register:
    """Where a TEM DB should answer, and none does."""
    return Register(f"http://127.0.0.1:{free_port()}", "token", timeout_s=2)


@pytest.fixture
def temdb(serve_temdb: Callable[[str], str]) -> Register:
    """A TEM DB that serves."""
    return Register(serve_temdb("secret"), "secret")


@pytest.fixture
def start_aloha(
    tmp_path: Path,
    store: Store,
    no_temdb: Register,
    served: Callable[..., AbstractContextManager[str]],
) -> Callable[..., AbstractContextManager[Client]]:
    """Start an aloha, again in the same folder if called again."""

    def start(**more: Any) -> AbstractContextManager[Client]:
        given = {"store": store, "register": no_temdb} | more
        return aloha_at(tmp_path / "aloha", **given, served=served)

    return start


@pytest.fixture
def aloha(start_aloha: Any) -> Iterator[Client]:
    """An aloha whose TEM DB is down."""
    with start_aloha() as client:
        yield client


@pytest.fixture(scope="session")
def announced() -> Callable[..., AcquisitionUpload]:
    """`announcement`, for tests that cannot import it from here."""
    return announcement


@pytest.fixture
def files() -> dict[str, bytes]:
    """Three frames of KEY by tile id."""
    return frames()
