import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from em_platform.errors import StorageError
from em_platform.storage import atomic
from tests.small_disk import small_disk

WRITE_AGAIN_AND_AGAIN = """
import sys
from pathlib import Path
from em_platform.storage import atomic
path, old = Path(sys.argv[1]), True
print("started", flush=True)
while True:
    content = (b"a" if old else b"b") * 3_000_000
    if sys.argv[2] == "file":
        atomic.write_bytes(path, content)
    else:
        with atomic.whole_folder(path) as folder:
            (folder / "one").write_bytes(content)
            (folder / "two").write_bytes(content)
    old = not old
"""


def test_a_file_has_its_new_content_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    atomic.write_bytes(path, b"one")
    atomic.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_of_many_who_write_once_one_alone_is_the_first(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    contents = [str(n).encode() * 100_000 for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        was_first = list(threads.map(lambda c: atomic.write_once(path, c), contents))
    assert sum(was_first) == 1
    assert path.read_bytes() == contents[was_first.index(True)]
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic.whole_file(path) as beside:
        beside.write_bytes(b"new")
        raise KeyError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyError), atomic.whole_folder(path) as beside:
        (beside / "new").touch()
        raise KeyError("stop")
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_replaces_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with atomic.whole_folder(path) as beside:
            (beside / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_about_another_file_passes_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.whole_folder(tmp_path / "folder"):
        (tmp_path / "absent").read_bytes()


def test_a_path_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"could not be written \(.+\); free space"):
        atomic.write_bytes(tmp_path / "file" / "below", b"")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_kill_leaves_one_whole_version_and_its_rest_can_be_removed(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "results" / "target"
    for after_s in (0.05, 0.12, 0.21):
        _write_until_killed(path, kind, after_s)
        parts = [path] if kind == "file" else [path / "one", path / "two"]
        contents = {part.read_bytes() for part in parts}
        assert contents in ({b"a" * 3_000_000}, {b"b" * 3_000_000})
    atomic.remove_leftovers(tmp_path)
    assert list(path.parent.iterdir()) == [path]


def _write_until_killed(path: Path, kind: str, after_s: float) -> None:
    command = [sys.executable, "-c", WRITE_AGAIN_AND_AGAIN, str(path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while not path.exists():
            time.sleep(0.01)
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)


def test_what_a_living_process_or_another_machine_writes_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / ".file.another-host.1.abcdef01.partial"
    elsewhere.touch()
    with atomic.whole_file(tmp_path / "file") as beside:
        beside.touch()
        assert atomic.remove_leftovers(tmp_path) == 0
    assert sorted(tmp_path.iterdir()) == [elsewhere, tmp_path / "file"]


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        atomic.write_bytes(disk / "file", b"old")
        with pytest.raises(StorageError, match="No space left on device"):
            atomic.write_bytes(disk / "file", b"x" * 1_000_000)
        with (
            pytest.raises(StorageError, match="No space left on device"),
            atomic.whole_folder(disk / "folder") as beside,
        ):
            (beside / "part").write_bytes(b"x" * 1_000_000)
        assert (disk / "file").read_bytes() == b"old"
        assert list(disk.iterdir()) == [disk / "file"]
