"""A PostgreSQL server of a test's own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import reserve_port

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@contextmanager
def serving_postgres() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """URL and process of an empty server, which does not run as root."""
    if not _PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    programs = _PROGRAMS[-1].parent
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    # Not under pytest's folder: only its owner may enter that.
    folder = Path(tempfile.mkdtemp(prefix="em-postgres-"))
    run_as: dict[str, Any] = {"user": user} if os.getuid() == 0 else {}
    port = str(reserve_port())
    try:
        shutil.chown(folder, user)
        made = (programs / "initdb", "-D", folder / "data", "-U", "em", "--no-sync")
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **run_as)
        place = ("-D", folder / "data", "-p", port, "-k", folder, "-h", "127.0.0.1")
        process = subprocess.Popen(
            (programs / "postgres", *place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **run_as,
        )
        # It listens a while before it lets anybody in.
        is_ready = (programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port)
        deadline = time.monotonic() + 120
        while subprocess.run(is_ready, check=False).returncode != 0:
            assert process.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < deadline, "PostgreSQL did not start in time"
            time.sleep(0.1)
        yield f"postgresql://em@127.0.0.1:{port}/postgres", process
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
