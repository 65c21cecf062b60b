"""`em-platform ingest` as a process of its own, for the tests that start it."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import zarr

from em_platform.ingest.manifest import NAME
from em_platform.standins.faults import Logged
from em_platform.standins.world import World
from em_platform.storage import layout
from tests.rig import fork_server

Part = tuple[str, int, int]
"""Name of a file, and the bytes from the first number to before the second."""
Items = Mapping[str, str | Sequence[str]]
"""Source -> its key, or its keys."""


class Forked:
    """A fork of a process that has imported the command, with the words of `Popen`."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._printed = [TemporaryFile("w+") for _ in range(2)]
        output, errors = (file.fileno() for file in self._printed)
        self._process = fork_server().start(
            "ingest",
            words,
            imports=("em_platform.cli.ingest",),
            environment=environment,
            output=output,
            errors=errors,
        )
        self.pid = self._process.pid
        self.poll, self.kill = self._process.poll, self._process.kill
        self.send_signal = self._process.send_signal

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed, when it has ended."""
        self._process.wait(timeout)
        found = []
        for file in self._printed:
            with file:
                file.seek(0)
                found.append(file.read())
        return found[0], found[1]


class Command:
    """`em-platform ingest` in a home of its own."""

    def __init__(self, world: World, home: Path, **settings: str) -> None:
        self.home, self.data = home, home / "data"
        self.environment = {
            **os.environ,
            **world.environment,
            "EM_INGEST__TRANSFER__BACKOFF_S": "0.05",
            **settings,
            "EM_HOME": str(home),
        }

    def start(self, *options: str, items: Items) -> "Forked":
        """As a fork, which does not show what the command imports by itself."""
        return Forked(self._words(options, items), self.environment)

    def start_alone(
        self,
        *options: str,
        items: Items,
        before: Callable[[], None],
    ) -> "subprocess.Popen[str]":
        """As a person does; `before` is called in the new process."""
        return subprocess.Popen(
            self._words(options, items),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def _words(self, options: Sequence[str], items: Items) -> tuple[str, ...]:
        chosen = [
            f"--item={source}/{key}"
            for source, keys in items.items()
            for key in ([keys] if isinstance(keys, str) else keys)
        ]
        python = (sys.executable, "-m", "em_platform")
        return (*python, "ingest", "--json", *options, *chosen)

    def run(
        self, *options: str, items: Items, before: Callable[[], None] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Exit status and report; with `before` as `start_alone`."""
        process: Forked | subprocess.Popen[str]
        if before is None:
            process = self.start(*options, items=items)
        else:
            process = self.start_alone(*options, items=items, before=before)
        out, errors = process.communicate()
        assert out, errors
        return process.returncode or 0, json.loads(out)

    def record(self, source: str, key: str) -> dict[str, Any]:
        content = (self.data / layout.record(source, key)).read_text()
        record: dict[str, Any] = json.loads(content)
        return record

    def catalog(self) -> dict[str, Any]:
        content = (self.data / "catalog/metadata_catalog.json").read_text()
        catalog: dict[str, Any] = json.loads(content)
        return catalog

    def voxels(self, source: str, key: str) -> Any:
        path = self.data / layout.volume(source, key) / "0"
        return zarr.open_array(path, mode="r")[:]


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {each["source"]: each["status"] for each in report["outcomes"]}


def finished_parts(folder: Path) -> set[Part]:
    """What the manifest of an item's raw folder holds for finished."""
    path = folder / NAME
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as manifest:
        try:
            parts = manifest.execute("SELECT name, start, stop FROM parts").fetchall()
            whole = manifest.execute(
                "SELECT name, 0, size_bytes FROM files WHERE state = 'whole'"
            ).fetchall()
        except sqlite3.OperationalError:
            return set()  # killed before it had tables
    return {*parts, *whole}


def asked_again(finished: Iterable[Part], asked: Iterable[Logged]) -> list[str]:
    """Requests for bytes that had come before, by the paths and ranges of both."""
    ranges = [
        (each.path, *map(int, each.range.removeprefix("bytes=").split("-")))
        for each in asked
        if each.method == "GET" and each.range
    ]
    whole = [(each.path, 0, 1 << 62) for each in asked
             if each.method == "GET" and not each.range]  # fmt: skip
    return [
        f"{path} {first}-{last}"
        for path, first, last in (*ranges, *whole)
        for name, start, stop in finished
        if path.endswith(f"/{name}") and first < stop and start <= last
    ]
