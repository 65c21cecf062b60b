import signal
import subprocess
import sys
from pathlib import Path

from em_platform.processes.single_instance import is_locked, try_lock

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
