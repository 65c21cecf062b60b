"""Aloha by its HTTP interface; its TEM DB is down unless a test starts it."""

import errno
import http.client
import io
import json
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v05
import pytest
import requests
import tifffile
import zarr

from em_platform.config import AlohaSettings
from em_platform.formats import encode_tiff, read_image
from em_platform.model import AcquisitionUpload
from em_platform.storage import Store, layout

KEY = "m1-20260102t030405"

Announced = Callable[..., AcquisitionUpload]


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file's bytes and time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_tile_becomes_a_pyramid_that_validates_and_is_equal_to_the_frame(
    aloha: Any, store: Store, files: dict[str, bytes], announced: Announced
) -> None:
    upload = announced(files)
    answer = aloha.announce(upload)
    assert answer.status_code == 200, answer.text
    assert answer.json()["stored"] == []
    for tile_id, content in files.items():
        answer = aloha.send(tile_id, content)
        assert answer.status_code == 200, answer.text
        stored = answer.json()
        announced_tile = upload.tile(tile_id)
        assert announced_tile is not None
        assert stored["sha256"] == announced_tile.sha256
        assert stored["bytes"] == len(content)
        path = Path(stored["uri"].removeprefix("file://"))
        image = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(path, mode="r"))
        assert len(image.attributes.ome.multiscales[0].datasets) == 3  # 151, 76, 38
        (scale, _) = (
            image.attributes.ome.multiscales[0].datasets[1].coordinateTransformations
        )
        assert scale.scale == [8.0, 8.0]
        expected = read_image_of(content)
        level_0 = read_image(f"{stored['uri']}/0")
        assert level_0.dtype == expected.dtype
        assert np.array_equal(level_0, expected)
        shards = [p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json"]
        assert len(shards) == 3  # one a level


def read_image_of(content: bytes) -> np.ndarray:
    return tifffile.imread(io.BytesIO(content))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_frames_of_other_types_are_kept_bit_exact_and_measured(
    aloha: Any, announced: Announced, dtype: Any
) -> None:
    image = (np.random.default_rng(5).normal(0, 200, (90, 70)) + 700).astype(dtype)
    files = {f"{KEY}_000_000": encode_tiff(image)}
    bare = announced(files)
    bare = bare.model_copy(
        update={"tiles": (bare.tiles[0].model_copy(update={"statistics": None}),)}
    )
    aloha.announce(bare)
    uri = aloha.send(f"{KEY}_000_000", files[f"{KEY}_000_000"]).json()["uri"]
    found = read_image(f"{uri}/0")
    assert found.dtype == image.dtype
    assert np.array_equal(found, image)


def test_a_tile_that_comes_again_is_answered_and_not_written_again(
    aloha: Any,
    tmp_path: Path,
    files: dict[str, bytes],
    announced: Announced,
    start_aloha: Any,
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    first = aloha.send(tile_id, content).json()
    before = everything_in(tmp_path / "data")
    assert aloha.send(tile_id, content).json() == first
    assert aloha.announce(announced(files)).json()["stored"] == [tile_id]
    assert everything_in(tmp_path / "data") == before


def test_a_pyramid_that_stands_is_known_by_an_aloha_that_lost_its_journal(
    start_aloha: Any, tmp_path: Path, files: dict[str, bytes], announced: Announced
) -> None:
    tile_id, content = next(iter(files.items()))
    with start_aloha() as aloha:
        aloha.announce(announced(files))
        first = aloha.send(tile_id, content).json()
    before = everything_in(tmp_path / "data")
    shutil.rmtree(tmp_path / "aloha")
    with start_aloha() as aloha:
        assert aloha.send(tile_id, content).status_code == 404
        aloha.announce(announced(files))
        assert aloha.send(tile_id, content).json() == first
    assert everything_in(tmp_path / "data") == before


def test_other_bytes_than_announced_are_refused_and_leave_nothing(
    aloha: Any, tmp_path: Path, files: dict[str, bytes], announced: Announced
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    answer = aloha.send(tile_id, flipped)
    assert answer.status_code == 409
    assert "sha256" in answer.json()["detail"]
    answer = aloha.send(tile_id, content[:-1])
    assert answer.status_code == 409
    assert f"{len(content)} were announced" in answer.json()["detail"]
    assert not list((tmp_path / "aloha/scratch").iterdir())
    assert not (tmp_path / "data").exists()
    assert aloha.send(tile_id, content).status_code == 200
    assert aloha.send(tile_id, flipped).status_code == 409  # it stands by now


def test_other_content_under_the_same_id_is_refused(
    aloha: Any, files: dict[str, bytes], announced: Announced
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    aloha.send(tile_id, content)
    other = {**files, tile_id: encode_tiff(np.zeros((150, 151), np.uint8))}
    answer = aloha.announce(announced(other))
    assert answer.status_code == 409
    assert tile_id in answer.json()["detail"]


def test_what_is_not_announced_or_no_image_is_refused(
    aloha: Any, files: dict[str, bytes], announced: Announced
) -> None:
    (tile_id, content) = next(iter(files.items()))
    assert aloha.send(tile_id, content).status_code == 404
    text = {**files, tile_id: b"this is no image" * 4}
    aloha.announce(announced(text))
    answer = aloha.send(f"{KEY}_009_009", content)
    assert answer.status_code == 422
    assert "not among the announced" in answer.json()["detail"]
    answer = aloha.send(tile_id, text[tile_id])
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"aloha: tile {tile_id}: ")
    assert "expected TIFF" in answer.json()["detail"]
    answer = aloha.ask("PUT", KEY, data="{}")
    assert answer.status_code == 422
    assert "AcquisitionUpload" in answer.json()["detail"]
    answer = aloha.ask("PUT", "another", data=announced(files).model_dump_json())
    assert answer.status_code == 422


@pytest.mark.parametrize("shown", [None, "Bearer wrong", "Basic let me in", "Bearer "])
def test_without_the_right_token_nothing_is_done(
    aloha: Any, files: dict[str, bytes], announced: Announced, shown: str | None
) -> None:
    headers = {} if shown is None else {"Authorization": shown}
    for method, place in (
        ("GET", KEY),
        ("PUT", KEY),
        ("PUT", f"{KEY}/tiles/x"),
        ("POST", f"{KEY}/complete"),
        ("POST", f"{KEY}/abort"),
    ):
        url = f"{aloha.url}/api/v1/acquisitions/{place}"
        answer = requests.request(method, url, headers=headers, data="{", timeout=20)
        assert answer.status_code == 401, place
        assert "Bearer" in answer.json()["detail"]
    health = requests.get(f"{aloha.url}/api/v1/health", timeout=20)
    assert health.status_code == 200
    assert aloha.ask("GET", KEY).status_code == 404


def test_a_body_above_the_limit_is_refused(
    start_aloha: Any, files: dict[str, bytes], announced: Announced
) -> None:
    settings = AlohaSettings(tile_limit_mb=0.02, min_free_gb=0)
    with start_aloha(settings=settings) as aloha:
        aloha.announce(announced(files))
        tile_id, content = next(iter(files.items()))
        assert len(content) > 20_000
        answer = aloha.send(tile_id, content)
        assert answer.status_code == 413
        assert "tile_limit_mb" in answer.json()["detail"]


def test_a_sender_that_leaves_amid_a_tile_leaves_nothing(
    aloha: Any, tmp_path: Path, files: dict[str, bytes], announced: Announced
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    host = aloha.url.removeprefix("http://")
    for _ in range(3):
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.putrequest("PUT", f"/api/v1/acquisitions/{KEY}/tiles/{tile_id}")
        for name, value in aloha.session.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders()
        connection.send(content[:9000])
        connection.close()
    assert aloha.send(tile_id, content).status_code == 200
    deadline = 200
    while list((tmp_path / "aloha/scratch").iterdir()) and deadline:
        deadline -= 1
        threading.Event().wait(0.05)
    assert not list((tmp_path / "aloha/scratch").iterdir())


def test_a_full_disk_is_reported_and_the_tile_is_taken_later(
    aloha: Any,
    files: dict[str, bytes],
    announced: Announced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(1, 2, -1))
        answer = aloha.send(tile_id, content)
    assert answer.status_code == 507
    assert answer.headers["Retry-After"]
    assert "free space" in answer.json()["detail"]
    assert aloha.send(tile_id, content).status_code == 200


def test_a_disk_that_fills_amid_a_pyramid_leaves_none(
    aloha: Any,
    tmp_path: Path,
    files: dict[str, bytes],
    announced: Announced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert aloha.send(tile_id, content).status_code == 507
    assert aloha.ask("GET", KEY).json()["stored"] == []
    assert aloha.send(tile_id, content).status_code == 200


def test_an_incomplete_acquisition_is_not_completed(
    aloha: Any, store: Store, files: dict[str, bytes], announced: Announced
) -> None:
    assert aloha.ask("POST", f"{KEY}/complete").status_code == 404
    aloha.announce(announced(files))
    first, *_, last = files
    aloha.send(first, files[first])
    answer = aloha.ask("POST", f"{KEY}/complete")
    assert answer.status_code == 409
    assert "2 of 3" in answer.json()["detail"]
    for tile_id in files:
        aloha.send(tile_id, files[tile_id])
    store.remove(layout.uploaded_tile(KEY, last))
    answer = aloha.ask("POST", f"{KEY}/complete")
    assert answer.status_code == 409
    assert last in answer.json()["detail"]
    assert last not in aloha.ask("GET", KEY).json()["stored"]
    assert not store.exists(layout.upload(KEY))


def test_while_the_tem_db_is_down_completing_is_put_off_and_nothing_is_lost(
    aloha: Any, store: Store, files: dict[str, bytes], announced: Announced
) -> None:
    aloha.announce(announced(files))
    for tile_id, content in files.items():
        aloha.send(tile_id, content)
    answer = aloha.ask("POST", f"{KEY}/complete")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "TEM DB" in answer.json()["detail"]
    assert not store.exists(layout.upload(KEY))
    known = aloha.ask("GET", KEY).json()
    assert known["state"] == "open"
    assert len(known["stored"]) == 3


def test_tiles_that_come_at_once_are_each_stored_once(
    aloha: Any, files: dict[str, bytes], announced: Announced, caplog: Any
) -> None:
    aloha.announce(announced(files))
    answers: list[Any] = []

    def send(tile_id: str) -> None:
        url = f"{aloha.url}/api/v1/acquisitions/{KEY}/tiles/{tile_id}"
        headers = dict(aloha.session.headers)
        answers.append(
            requests.put(url, data=files[tile_id], headers=headers, timeout=60)
        )

    threads = [
        threading.Thread(target=send, args=(tile_id,)) for tile_id in list(files) * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len({json.dumps(answer.json()) for answer in answers}) == 3


def test_a_pyramid_that_does_not_read_back_equal_is_not_called_stored(
    aloha: Any,
    files: dict[str, bytes],
    announced: Announced,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from em_platform.aloha import pyramids

    aloha.announce(announced(files))
    tile_id, content = next(iter(files.items()))
    write = pyramids.write_pyramid

    def write_and_flip(target: str, *args: Any, **more: Any) -> Any:
        done = write(target, *args, **more)
        shard = Path(target) / "0/c/0/0"
        image = zarr.open_array(Path(target) / "0", mode="r+")
        image[3, 3] = 255 - int(image[3, 3])
        assert shard.exists()
        return done

    with monkeypatch.context() as patch:
        patch.setattr(pyramids, "write_pyramid", write_and_flip)
        answer = aloha.send(tile_id, content)
    assert answer.status_code == 503
    assert "read back" in answer.json()["detail"]
    assert aloha.ask("GET", KEY).json()["stored"] == []
    assert aloha.send(tile_id, content).status_code == 200


def test_a_small_file_of_many_pixels_is_refused_by_its_header(
    start_aloha: Any, announced: Announced, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    tifffile.imwrite(packed, np.zeros((2000, 1000), np.uint8), compression="zlib")
    files = {f"{KEY}_000_000": packed.getvalue()}
    settings = AlohaSettings(chunk_px=64, min_free_gb=0, tile_limit_mb=1)
    with start_aloha(settings=settings) as aloha:
        aloha.announce(announced(files))
        answer = aloha.send(f"{KEY}_000_000", files[f"{KEY}_000_000"])
    assert answer.status_code == 413
    assert "1000 x 2000 px of uint8" in answer.json()["detail"]
    assert "expected at most 1 MB; raise aloha.tile_limit_mb" in answer.json()["detail"]
    assert not list((tmp_path / "aloha/scratch").iterdir())
