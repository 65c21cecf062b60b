import signal
import subprocess
import sys
from pathlib import Path

from em_platform.processes.lock import held, is_held

HOLDER = """
import sys, time
from pathlib import Path
from em_platform.processes.lock import held
with held(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(600)
"""


def test_one_holds_it_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "home" / "lock"
    assert not is_held(path)
    with subprocess.Popen(
        (sys.executable, "-c", HOLDER, str(path)), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert is_held(path)
        with held(path) as ours:
            assert not ours
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not is_held(path)
    with held(path) as ours:
        assert ours
        assert is_held(path)
