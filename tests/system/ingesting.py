"""`em-platform ingest` as a process of its own, for the tests that start it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from em_platform.standins.world import World
from em_platform.storage import layout

Items = Mapping[str, str | Sequence[str]]
"""Source -> its key, or its keys."""


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

    def start(
        self, *options: str, items: Items, new_session: bool = False
    ) -> "subprocess.Popen[str]":
        chosen = [
            f"--item={source}/{key}"
            for source, keys in items.items()
            for key in ([keys] if isinstance(keys, str) else keys)
        ]
        return subprocess.Popen(
            (
                sys.executable,
                "-m",
                "em_platform",
                "ingest",
                "--json",
                *options,
                *chosen,
            ),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=new_session,
        )

    def run(self, *options: str, items: Items) -> tuple[int, dict[str, Any]]:
        """Exit status and report."""
        process = self.start(*options, items=items)
        out, errors = process.communicate()
        assert out, errors
        return process.returncode, json.loads(out)

    def record(self, source: str, key: str) -> dict[str, Any]:
        content = (self.data / layout.record(source, key)).read_text()
        record: dict[str, Any] = json.loads(content)
        return record

    def voxels(self, source: str, key: str) -> Any:
        path = self.data / layout.volume(source, key) / "0"
        return zarr.open_array(path, mode="r")[:]


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {each["source"]: each["status"] for each in report["outcomes"]}
