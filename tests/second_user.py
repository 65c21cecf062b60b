"""What another account of this computer can do; needs root, who can become one."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

NOBODY = 65534  # of every Linux

# Imported before the account is left: it may not read where Python is installed.
_BEFORE = """
import json, os, pathlib, socket, ssl, sys, urllib.error, urllib.request
import dask, distributed, grpc, stomp
os.setgroups([])
os.setgid({0})
os.setuid({0})
given = json.loads(sys.argv[1])
"""


def as_another_user(code: str, **given: Any) -> Any:
    """What `code` leaves in `found`, run by another account with `given`."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; run as root, as .ci/run does")
    program = _BEFORE.format(NOBODY) + code + "\nprint(json.dumps(found))\n"
    ended = subprocess.run(
        (sys.executable, "-c", program, json.dumps(given)),
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


READ = """
found = {}
for name in given["files"]:
    try:
        found[name] = pathlib.Path(name).read_text()
    except PermissionError:
        found[name] = "refused"
"""

PUBLISH = """
found = []
for login in given["logins"]:
    client = stomp.Connection12([("127.0.0.1", given["port"])])
    try:
        client.connect(*login, wait=True)
        client.send("qc.status", '{"status": "STOP_NOW"}')
        found.append("published")
    except stomp.exception.StompException:
        found.append("refused")
"""
