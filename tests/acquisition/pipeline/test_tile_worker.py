"""A message's path is believed only where it is that of its own frame."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.pipeline.journal import Journal
from em_platform.messaging.bus import Bus

TILE = {"tile_id": "t1", "montage_id": "evil", "row": 0, "column": 0, "overlap": 8}


def files_in(*folders: Path) -> dict[Path, bytes]:
    found = (path for folder in folders for path in folder.rglob("*"))
    return {path: path.read_bytes() for path in found if path.is_file()}


@pytest.mark.parametrize("kind", ["outside", "another montage", "link", "network"])
def test_a_path_that_is_not_the_tiles_own_is_refused_and_recorded(
    start: Callable[..., Journal],
    open_bus: Callable[[str], Bus],
    frames: Path,
    tmp_path: Path,
    image_montage: Callable[..., list[Any]],
    kind: str,
) -> None:
    other = image_montage(tmp_path / "elsewhere", rows=1, columns=1)[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = str(other.body["path"])
        if kind == "network":
            path = f"http://127.0.0.1:{server.getsockname()[1]}/evil/t1.tiff"
        elif kind == "another montage":
            # Not looked through for missed tiles: it has no body.
            victim = frames / "victim" / "t1.tiff"
            victim.parent.mkdir(parents=True)
            victim.write_bytes(Path(path).read_bytes())
            path = str(victim)
        elif kind == "link":
            link = frames / "evil" / "t1.tiff"
            link.parent.mkdir(parents=True)
            link.symlink_to(path)
            path = str(link)
        journal, bus = start(), open_bus("stranger")
        frames.mkdir(parents=True, exist_ok=True)
        before = files_in(tmp_path / "elsewhere", frames)
        mark = bus.mark("tile.matches")
        bus.publish("tile.raw", **TILE, path=path)
        # Nobody waits for it: it has matched nothing.
        answer = bus.wait_for(
            "tile.matches", lambda m: m.tile_id == "t1", 60, since=mark
        )
        assert answer.matches == []
        deadline = time.monotonic() + 60
        while journal.counts() != {"done": 1}:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert files_in(tmp_path / "elsewhere", frames) == before
        (sentence,) = journal.failures().values()
        assert "tile t1: its message names the frame" in sentence
        assert str(frames / "evil" / "t1.tiff") in sentence
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
