import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from em_platform.config import Settings, StorageSettings
from em_platform.errors import RecordError, StorageError
from em_platform.model import Box
from em_platform.storage import Store, open_store, store_of
from em_platform.storage.guard import claim_folder

BOXES = (Box(y0=0, x0=0, y1=2, x1=3), Box(y0=1, x0=1, y1=4, x1=4))


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_settings(endpoint: str, bucket: str = "results") -> Settings:
    storage = StorageSettings(
        root=f"s3://{bucket}/results",
        endpoint_url=endpoint,
        access_key="key",
        secret_key="secret",
    )
    return Settings(storage=storage)


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return open_store(str(tmp_path / "a folder with spaces"))
    store = store_of(s3_settings(request.getfixturevalue("s3_endpoint")))
    fsspec.filesystem("s3", **store.options).makedirs("results", exist_ok=True)
    return store


def test_models_come_back_as_they_were_written(store: Store) -> None:
    store.write("some/boxes.json", BOXES, tuple[Box, ...])
    assert store.read("some/boxes.json", tuple[Box, ...]) == BOXES
    assert store.exists("some/boxes.json")
    assert not store.exists("some/other.json")


def test_writing_twice_gives_the_same_bytes(store: Store) -> None:
    store.write("twice.json", BOXES, tuple[Box, ...])
    first = store.read_bytes("twice.json")
    store.write("twice.json", BOXES, tuple[Box, ...])
    assert store.read_bytes("twice.json") == first


def test_an_absent_object_names_its_url_and_the_cure(store: Store) -> None:
    with pytest.raises(StorageError, match=r"absent.json could not be read .* run the"):
        store.read_bytes("absent.json")


def test_a_broken_object_names_the_field_and_the_cure(store: Store) -> None:
    store.write_bytes("box.json", b'{"y0": 0, "x0": 0, "y1": 1}')
    with pytest.raises(RecordError, match=r"is not a Box \(1 errors, first: x1: Field"):
        store.read("box.json", Box)


def test_a_name_may_not_lead_out_of_the_root(store: Store) -> None:
    for name in ("../secret", "/etc/passwd", "a/../../b"):
        with pytest.raises(StorageError, match="leads out of"):
            store.write_bytes(name, b"")


def test_a_local_root_has_paths_and_a_bucket_has_none(
    tmp_path: Path, s3_endpoint: str
) -> None:
    assert open_store(str(tmp_path)).local_path("a/b") == tmp_path / "a/b"
    assert open_store(tmp_path.as_uri()).local_path("a/b") == tmp_path / "a/b"
    assert store_of(s3_settings(s3_endpoint)).local_path("a/b") is None


def test_without_a_root_results_lie_in_data_under_home(tmp_path: Path) -> None:
    store = store_of(Settings(home=tmp_path))
    assert store.local_path("x") == tmp_path / "data" / "x"


def test_a_bucket_that_does_not_exist_is_one_sentence(s3_endpoint: str) -> None:
    store = store_of(s3_settings(s3_endpoint, bucket="nobody-made-it"))
    with pytest.raises(StorageError, match=r"nobody-made-it.* could not be written"):
        store.write_bytes("x", b"")


def test_a_server_that_is_down_is_one_sentence(free_port: Any) -> None:
    store = store_of(s3_settings(f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(StorageError, match=r"could not be written .*[Cc]onnect"):
        store.write_bytes("x", b"")


def test_keys_are_not_shown(s3_endpoint: str) -> None:
    settings = s3_settings(s3_endpoint)
    assert store_of(settings).options["secret"] == "secret"
    assert "secret'" not in repr(store_of(settings)) + repr(settings)


def test_a_document_takes_away_what_a_killed_writer_left_of_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write_document("records/epfl/v[1].json", b"")
    folder = tmp_path / "records/epfl"
    owners = (f"{socket.gethostname()}.4194305", "another-host.4194305")
    dead, elsewhere = (folder / f".v[1].json.{o}.ab.partial" for o in owners)
    other = folder / f".v2.json.{owners[0]}.ab.partial"
    for path in (dead, elsewhere, other):
        path.write_bytes(b"half")
    store.write_document("records/epfl/v[1].json", b"{}")
    assert store.read_bytes("records/epfl/v[1].json") == b"{}"
    assert sorted(p for p in folder.iterdir() if "partial" in p.name) == sorted(
        (elsewhere, other)
    )


@pytest.mark.parametrize("cut", [0, 5])
def test_a_mark_whose_writer_was_killed_is_a_mark(tmp_path: Path, cut: int) -> None:
    claim_folder(str(tmp_path), "storage.root")
    (mark,) = tmp_path.iterdir()
    mark.write_bytes(mark.read_bytes()[:cut])
    (tmp_path / "montage.zarr").mkdir()
    claim_folder(str(tmp_path), "storage.root")
