"""What another account of this computer can do; needs root, who can become one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534  # of every Linux

# Imported before the account is left: it may not read where Python is installed.
_BEFORE = """
import json, os, pathlib, socket, ssl, sys, urllib.error, urllib.request
import dask, distributed, grpc, stomp
{1}
os.setgroups([])
os.setgid({0})
os.setuid({0})
given = json.loads(sys.argv[1])
"""


def skip_without_root() -> None:
    """Skip the test where this account cannot become another one."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; run as root, as .ci/run does")


def as_another_user(code: str, *, before: str = "", **given: Any) -> Any:
    """What `code` leaves in `found`, run by another account with `given`.

    `before` is run while the account is still this one.
    """
    skip_without_root()
    program = _BEFORE.format(NOBODY, before) + code + "\nprint(json.dumps(found))\n"
    ended = subprocess.run(
        (sys.executable, "-c", program, json.dumps(given)),
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def open_the_way_to(folder: Path) -> None:
    """Let others reach what is in `folder` as far as its own mode allows it.

    pytest closes the folder of its temporary ones.
    """
    for each in (folder, *folder.parents):
        if os.geteuid() == each.stat().st_uid and each.stat().st_mode & 0o077 == 0:
            each.chmod(0o711)


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

LOAD_ALL = """
with distributed.Client(processes=False, dashboard_address="127.0.0.1:0") as client:
    client.submit(os.getuid).result()
"""

RUN_CODE = """
found = {}
for address in given["addresses"]:
    host = address.partition("://")[2]
    own = distributed.security.Security.temporary()
    for name, scheme, security in (("plain", "tcp", None), ("own key", "tls", own)):
        where = f"{scheme}://{host}"
        try:
            with distributed.Client(where, security=security, timeout=5) as client:
                found[f"{name} {host}"] = client.submit(os.getuid).result(timeout=20)
        except (OSError, ValueError):  # a plain server spoke before the greeting
            found[f"{name} {host}"] = "refused"
"""

PAGES = """
found = {}
for url in given["urls"]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found[url] = [answer.status, answer.read(4000).decode(errors="replace")]
    except urllib.error.HTTPError as error:
        found[url] = [error.code, error.read(4000).decode(errors="replace")]
"""

CALL = """
found = {}
for name in given["sockets"]:
    channel = grpc.insecure_channel(f"unix:{name}")
    try:
        grpc.channel_ready_future(channel).result(timeout=3)
        found[name] = "connected"
    except grpc.FutureTimeoutError:
        found[name] = "refused"
"""
