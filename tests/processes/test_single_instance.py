import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from em_platform.config import Settings
from em_platform.errors import OutputRefused, StorageError
from em_platform.processes.single_instance import claim_home, is_locked, try_lock

HOLDER = """
import sys, time
from pathlib import Path
from em_platform.processes.single_instance import try_lock
with try_lock(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(600)
"""


def test_one_holds_it_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lock"
    assert not is_locked(path)
    with subprocess.Popen(
        (sys.executable, "-c", HOLDER, str(path)), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert is_locked(path)
        with try_lock(path) as ours:
            assert not ours
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_locked(path)
    with try_lock(path) as ours:
        assert ours
        assert is_locked(path)


@pytest.mark.parametrize("place", ["a.txt", "a.txt/em", "a.txt/em/below"])
def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "a.txt").write_text("notes")
    with pytest.raises(OutputRefused, match=r"a\.txt is a file, a folder was expected"):
        claim_home(Settings(home=tmp_path / place))


def test_a_home_that_has_become_read_only_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path / "home")
    claim_home(settings)
    # Root may write everywhere: what the kernel answers to all others.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="home cannot be written"):
        claim_home(settings)
