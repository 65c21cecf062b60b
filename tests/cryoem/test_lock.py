"""The lock of a project: RELION's is waited for, that of a killed service is taken."""

import json
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from em_platform.cryoem.project.lock import LOCK, project_lock
from em_platform.errors import OutputBusy


def test_the_lock_of_relion_is_waited_for_and_that_of_a_dead_process_is_not(
    tmp_path: Path,
) -> None:
    lock = tmp_path / LOCK
    lock.mkdir()
    (lock / "lock_default_pipeline.star").touch()  # as RELION makes it
    with pytest.raises(OutputBusy, match="wait for RELION or doppio"):
        with project_lock(tmp_path, timeout_s=0.1):
            pass
    (lock / "lock_default_pipeline.star").unlink()
    # Killed with its name written, half of it, and before; another may have its number.
    own = {"host": socket.gethostname(), "process": os.getpid()}
    half = f".default_pipeline.star.{socket.gethostname()}.{2**22 + 1}.0.partial"
    for left in (json.dumps(own), "{", None):
        shutil.rmtree(lock)
        os.mkdir(lock, 0o1755)
        if left is not None:
            (lock / "em_platform.json").write_text(left)
        (tmp_path / half).touch()
        with project_lock(tmp_path, timeout_s=60):
            assert json.loads((lock / "em_platform.json").read_text()) == own
            lock_of_another_thread(tmp_path)
        assert list(tmp_path.iterdir()) == []
        lock.mkdir()
    (lock / "em_platform.json").write_text(json.dumps(own | {"host": "elsewhere"}))
    with pytest.raises(OutputBusy):
        with project_lock(tmp_path, timeout_s=0.1):
            pass


def lock_of_another_thread(project: Path) -> None:
    """It is busy as long as the caller has it."""

    def take() -> None:
        with pytest.raises(OutputBusy), project_lock(project, timeout_s=0.1):
            pass

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()


def test_a_lock_of_ours_that_does_not_go_away_is_waited_for(tmp_path: Path) -> None:
    """round3 4.5: a file in it, or a link to /tmp, blocked the service without end."""
    lock, elsewhere = tmp_path / LOCK, tmp_path / "elsewhere"
    os.mkdir(lock, 0o1755)
    (lock / "another").touch()
    with pytest.raises(OutputBusy), project_lock(tmp_path, timeout_s=0.1):
        pass
    lock.rename(elsewhere)
    os.chmod(elsewhere, 0o1755)
    (elsewhere / "em_platform.json").write_text("{}")
    lock.symlink_to(elsewhere)
    with pytest.raises(OutputBusy), project_lock(tmp_path, timeout_s=0.1):
        pass
    assert (elsewhere / "em_platform.json").exists()
