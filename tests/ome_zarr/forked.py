"""A program of these tests as a fork of one process that has imported Zarr."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from em_platform.processes.fork_server import ForkedProcess
from tests.rig import fork_server

_IMPORTS = (
    "em_platform.ome_zarr.pyramid_writer",
    "em_platform.formats.open",
    "em_platform.ome_zarr.volume_writer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that runs, and what it prints."""

    process: ForkedProcess
    lines: TextIO


@contextmanager
def forked(module: str, *arguments: str) -> Iterator[Program]:
    """`python -m MODULE ARGUMENTS`; killed after the block."""
    read, written = os.pipe()
    try:
        process = fork_server().start(
            "writer",
            (sys.executable, "-m", module, *arguments),
            imports=_IMPORTS,
            environment=os.environ,
            output=written,
        )
    finally:
        os.close(written)
    with open(read) as lines:
        yield Program(process=process, lines=lines)
    process.kill()
    process.wait()
