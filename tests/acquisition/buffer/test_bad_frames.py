"""Frames that are not what they were, or no frames at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from em_platform.acquisition.buffer.journal import Journal
from em_platform.formats import read_image, write_tiff
from em_platform.model import AcquisitionUpload
from em_platform.storage import layout, open_store
from em_platform.temdb.register import Register

Hear = Callable[..., None]


def test_a_frame_that_is_no_image_is_set_aside_and_the_others_go_on(
    uploading: Any,
    journal: Journal,
    hear: Hear,
    imaged: Any,
    temdb: Register,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    montage = imaged.ImagedMontage(tmp_path / "frames", "m1", tiles=4)
    montage.image(hear)
    montage.complete(hear)
    cut, lost = montage.tile_ids[1:3]
    whole = montage.path(cut).read_bytes()
    montage.path(cut).write_bytes(whole[: len(whole) // 2])
    montage.path(lost).unlink()
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    assert journal.open_ids() == []
    states = {t.tile_id: t for t in journal.tiles(montage.acquisition_id)}
    assert states[cut].state == states[lost].state == "refused"
    assert "truncated" in states[cut].sentence
    assert "no such file" in states[lost].sentence
    store = open_store(str(tmp_path / "data"))
    upload = store.read(layout.upload(montage.acquisition_id), AcquisitionUpload)
    assert {failure.item for failure in upload.failures} == {cut, lost}
    assert len(upload.tiles) == 2
    run = temdb.run_of(montage.acquisition_id)
    assert run is not None
    assert run.tile_count == 2


def test_a_frame_that_rots_on_the_disk_is_found_out(
    uploading: Any,
    until: Any,
    journal: Journal,
    montage: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    rotten = montage.tile_ids[2]
    path = montage.path(rotten)
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with uploading(journal, aloha_port) as uploader:
        until(uploader.tick, lambda: not journal.open_ids())
    (tile,) = [t for t in journal.tiles(montage.acquisition_id) if t.tile_id == rotten]
    assert tile.state == "refused"
    assert "changed on the disk" in tile.sentence
    assert path.exists()
    store = open_store(str(tmp_path / "data"))
    assert not store.exists(layout.uploaded_tile(montage.acquisition_id, rotten))


def test_a_frame_that_was_imaged_again_is_announced_as_it_is(
    uploading: Any,
    journal: Journal,
    montage: Any,
    aloha_port: int,
    tmp_path: Path,
) -> None:
    tile_id = montage.tile_ids[0]
    write_tiff(montage.path(tile_id), np.full((96, 96), 7, np.uint8))
    with uploading(journal, aloha_port) as uploader:
        uploader.tick()
    assert journal.open_ids() == []
    store = open_store(str(tmp_path / "data"))
    uri = store.url(layout.uploaded_tile(montage.acquisition_id, tile_id))
    assert read_image(f"{uri}/0").tolist() == [[7] * 96] * 96
