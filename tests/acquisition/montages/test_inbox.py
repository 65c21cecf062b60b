import os
import time
from pathlib import Path

import numpy as np
import pytest

from em_platform.acquisition.montages.inbox import FolderState, Inbox, key_of
from em_platform.formats import write_tiff

QUIET_S = 5.0


def drop(folder: Path, *, tiles: int = 2, images: int = 2) -> None:
    folder.mkdir(parents=True)
    lines = ["file,x_px,y_px"] + [f"t{i}.tiff,{i * 90},0" for i in range(tiles)]
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
    for i in range(images):
        image = np.full((100, 100), 100 + i, np.uint8)
        write_tiff(folder / f"t{i}.tiff", image)


def ready(inbox: Inbox, now: float) -> list[str]:
    """What the first look finds."""
    return inbox.look({}, now, most=50, within_s=10)[1]


class Looks:
    """One look after the other, each with what the one before remembered."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.seen: dict[str, FolderState] = {}

    def __call__(self, now: float) -> list[str]:
        """Run keys of what is to be stitched."""
        self.seen, found = self.inbox.look(self.seen, now, most=50, within_s=10)
        return [f"{key} {self.seen[key].run_key}" for key in found]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(folder=tmp_path / "inbox", quiet_s=QUIET_S)


def test_no_inbox_has_no_montage(inbox: Inbox) -> None:
    assert ready(inbox, time.time()) == []
    assert inbox.montage("m") is None


def test_a_folder_counts_only_when_it_is_quiet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    now = time.time()
    assert ready(inbox, now + 1) == []
    assert ready(inbox, now + QUIET_S + 1) == ["m-1"]


def test_old_content_that_was_copied_just_now_is_not_quiet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    for path in (inbox.folder / "m-1").iterdir():
        os.utime(path, (1.0, 1.0))
    assert ready(inbox, time.time() + 1) == []


def test_images_without_a_list_are_not_a_montage_yet(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    (inbox.folder / "m-1" / "tiles.csv").unlink()
    look = Looks(inbox)
    assert look(time.time() + 1000) == []
    assert look.seen["m-1"].left_alone


def test_names_that_fill_a_grid_need_no_list_but_more_time(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    (inbox.folder / "m-1" / "tiles.csv").unlink()
    tiles = sorted((inbox.folder / "m-1").iterdir())
    for number, name in enumerate(("r0_c0.tiff", "r0_c1.tiff")):
        tiles[number].rename(inbox.folder / "m-1" / name)
    content = (inbox.folder / "m-1" / "r0_c0.tiff").read_bytes()
    (inbox.folder / "m-1" / "r1_c0.tiff").write_bytes(content)
    now = time.time()
    assert ready(inbox, now + 100 * QUIET_S) == []  # the fourth is missing
    (inbox.folder / "m-1" / "r1_c1.tiff").write_bytes(content)
    now = time.time()
    assert ready(inbox, now + QUIET_S + 1) == []
    assert ready(inbox, now + 100 * QUIET_S) == ["m-1"]


def test_a_copy_that_pauses_is_waited_for_longer(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1", tiles=3, images=2)
    now = time.time()
    assert ready(inbox, now + QUIET_S + 1) == []
    assert ready(inbox, now + 100 * QUIET_S) == ["m-1"]


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


def test_a_folder_is_asked_for_once(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    look, now = Looks(inbox), time.time()
    assert look(now + 1) == []
    assert len(look(now + 10)) == 1
    assert look(now + 20) == look(now + 1000) == []


def test_a_corrected_folder_under_the_same_name_is_taken_again(inbox: Inbox) -> None:
    folder = inbox.folder / "m-1"
    drop(folder)
    look, now = Looks(inbox), time.time()
    [first] = look(now + 10)
    # In place: of this the folder's own entry says nothing.
    write_tiff(folder / "t0.tiff", np.full((100, 100), 7, np.uint8))
    assert look(time.time() + 1) == []  # it may still be written to
    [second] = look(time.time() + 10)
    assert second != first
    # By another file under its name.
    write_tiff(folder / "new", np.full((100, 100), 8, np.uint8))
    os.replace(folder / "new", folder / "t1.tiff")
    [third] = look(time.time() + 10)
    assert len({first, second, third}) == 3


def test_what_was_there_before_and_comes_back_is_stitched_once_more(
    inbox: Inbox,
) -> None:
    folder = inbox.folder / "m-1"
    drop(folder)
    look = Looks(inbox)
    [first] = look(time.time() + 10)
    os.rename(folder / "t0.tiff", inbox.folder / "kept")
    write_tiff(folder / "t0.tiff", np.full((100, 100), 7, np.uint8))
    [second] = look(time.time() + 10)
    os.replace(inbox.folder / "kept", folder / "t0.tiff")
    # Of the same content as the first: Dagster would start that key no second time.
    [third] = look(time.time() + 10)
    assert len({first, second, third}) == 3


def test_each_known_folder_is_looked_through_again_within_sixty_looks(
    inbox: Inbox,
) -> None:
    for number in range(150):
        folder = inbox.folder / f"m-{number}"
        folder.mkdir(parents=True)
        (folder / "tiles.csv").write_text("file,x_px,y_px\n")
    look, now = Looks(inbox), time.time() + 1000
    while any(key not in look.seen for key in inbox.folders()):
        look(now)
    changed = inbox.folder / "m-77" / "tiles.csv"
    changed.write_text("file,x_px,y_px\nt.tiff,0,0\n")
    found = [key for step in range(60) for key in look(now + 5 * step)]
    assert [key.split()[0] for key in found] == ["m-77"]


def test_what_a_file_browser_leaves_is_no_correction(inbox: Inbox) -> None:
    drop(inbox.folder / "m-1")
    look = Looks(inbox)
    assert look(time.time() + 10)
    (inbox.folder / "m-1" / ".DS_Store").write_bytes(b"1")
    (inbox.folder / "m-1" / "Thumbs.db").write_bytes(b"1")
    assert look(time.time() + 10) == []


def test_a_known_folder_costs_no_look_at_its_files(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        drop(inbox.folder / f"m-{number}")
    look, now = Looks(inbox), time.time() + 10
    assert len(look(now)) == 5
    looked: list[str] = []
    scandir = os.scandir

    def counted(path: str) -> object:
        looked.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    assert look(now + 5) == []
    # One in turn, so that what is written over is seen within minutes.
    assert len([path for path in looked if Path(path) != inbox.folder]) == 1
