import os
import time
from pathlib import Path

import numpy as np
import pytest

from em_platform.acquisition.montages.inbox import Inbox, key_of
from em_platform.formats import write_tiff

QUIET_S = 5.0


def drop(folder: Path, *, tiles: int = 2, images: int = 2) -> None:
    folder.mkdir(parents=True)
    lines = ["file,x_px,y_px"] + [f"t{i}.tiff,{i * 90},0" for i in range(tiles)]
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
    for i in range(images):
        image = np.full((100, 100), 100 + i, np.uint8)
        write_tiff(folder / f"t{i}.tiff", image)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(folder=tmp_path / "inbox", quiet_s=QUIET_S)


def test_no_inbox_has_no_montage(inbox: Inbox) -> None:
    assert inbox.ready(time.time()) == []
    assert inbox.montage("m") is None


def test_a_folder_counts_only_when_it_is_quiet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    now = time.time()
    assert inbox.ready(now + 1) == []
    assert inbox.ready(now + QUIET_S + 1) == ["m-1"]


def test_old_content_that_was_copied_just_now_is_not_quiet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    for path in (inbox.folder / "m-1").iterdir():
        os.utime(path, (1.0, 1.0))
    assert inbox.ready(time.time() + 1) == []


def test_images_without_a_list_are_not_a_montage_yet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    (inbox.folder / "m-1" / "tiles.csv").unlink()
    assert inbox.ready(time.time() + 1000) == []


def test_a_copy_that_pauses_is_waited_for_longer(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1", tiles=3, images=2)
    now = time.time()
    assert inbox.ready(now + QUIET_S + 1) == []
    assert inbox.ready(now + 100 * QUIET_S) == ["m-1"]


def test_the_key_is_the_acquisition_id(inbox: Inbox) -> None:
    drop(inbox.folder / "grid 3, hole 7")
    key = key_of("grid 3, hole 7")
    montage = inbox.montage(key)
    assert montage is not None
    assert montage.acquisition_id == key
    assert len(montage.tiles) == 2


def test_keys_are_path_safe_and_do_not_clash() -> None:
    assert key_of("m-0001.a_b") == "m-0001.a_b"
    assert key_of("a b") != key_of("a,b")
    assert key_of("...").startswith("montage-")
