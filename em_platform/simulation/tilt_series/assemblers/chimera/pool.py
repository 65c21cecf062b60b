"""Several servers of Chimera, each lent to one batch of commands at a time."""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mrcfile
import numpy as np
from numpy.typing import NDArray

from em_platform.config.simulators import ChimeraSettings
from em_platform.errors import ConfigError, PlatformError, ToolFailed
from em_platform.simulation.tilt_series.assemblers.chimera.server import (
    AttachedServer,
    OwnServer,
    ServerLost,
)

log = logging.getLogger(__name__)

_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Commands that belong together, and the map that they leave."""

    commands: Sequence[str]
    output: Path


class ChimeraPool:
    """Servers by URL, or as many programs as wanted, started when first needed.

    Raises
    ------
    ConfigError
        Neither a program nor a URL is set, or a URL is not of this computer.
    """

    def __init__(self, settings: ChimeraSettings) -> None:
        if not settings.urls and not settings.program:
            raise ConfigError(
                "chimera: found neither tilt_series.chimera.program nor .urls, one of "
                "them was expected; set it, or leave `composed_by` out"
            )
        self._settings = settings
        self.flavour = settings.flavour
        self.size = len(settings.urls) or settings.windows
        self._lock = threading.Lock()
        self._servers: list[AttachedServer] = [
            AttachedServer(settings, url) for url in settings.urls
        ]
        self._free: queue.LifoQueue[AttachedServer | None] = queue.LifoQueue()
        for server in self._servers:
            self._free.put(server)
        # Each of them stands for a program that is not started yet.
        for _ in range(0 if settings.urls else settings.windows):
            self._free.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """The map `(z, y, x)` that a batch leaves.

        Where a server hangs or dies it is started again, or another one is taken, and
        the batch begins with its first command.

        Raises
        ------
        ToolFailed
            A command failed, no map came of it, or no server lived long enough.
        """
        for attempt in range(1, self._settings.attempts + 1):
            with self._lent() as server:
                try:
                    return self._run_on(server, batch)
                except ServerLost as lost:
                    log.warning("attempt %d: %s", attempt, lost)
                    last = lost
                    self._mend(server)
        raise ToolFailed(
            f"{last}; it was tried {self._settings.attempts} times"
        ) from last

    def close(self) -> None:
        """End what was started; servers given by URL stay."""
        with self._lock:
            servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    def _run_on(self, server: AttachedServer, batch: Batch) -> NDArray[np.float32]:
        # What is there afterwards is then newer than the request.
        batch.output.unlink(missing_ok=True)
        try:
            # An interrupted batch may have left models.
            for command in ("close session", *batch.commands):
                server.run(command)
            return _read_map(batch.output)
        except PlatformError:
            batch.output.unlink(missing_ok=True)
            raise

    @contextmanager
    def _lent(self) -> Iterator[AttachedServer]:
        """A server for one user; waits until one is free."""
        server = self._next()
        try:
            if server is None:
                server = OwnServer(self._settings)
                with self._lock:
                    self._servers.append(server)
            yield server
        finally:
            if server in self._servers:
                self._free.put(server)
            elif not self._settings.urls:
                self._free.put(None)

    def _next(self) -> AttachedServer | None:
        while True:
            with suppress(queue.Empty):
                return self._free.get(timeout=_LOOK_S)
            # All of them may have been lost by others meanwhile.
            if self._settings.urls and not self._servers:
                raise ToolFailed(
                    "chimera: none of the servers in tilt_series.chimera.urls answers "
                    "any more; start them again"
                )

    def _mend(self, server: AttachedServer) -> None:
        """Start a server again; one that we did not start is not asked any more."""
        try:
            mended = server.restart()
        except PlatformError:
            self._drop(server)
            raise
        if not mended:
            self._drop(server)

    def _drop(self, server: AttachedServer) -> None:
        with self._lock, suppress(ValueError):
            self._servers.remove(server)
        server.close()


def _read_map(path: Path) -> NDArray[np.float32]:
    """The map that must be there now: replies of a server are no proof of it."""
    if not path.is_file():
        raise ToolFailed(
            f"chimera: all commands were answered, but there is no {path.name}; look "
            "at its log"
        )
    try:
        with mrcfile.open(path) as file:
            grey = np.array(file.data, np.float32)
    except (ValueError, OSError) as error:
        raise ToolFailed(
            f"chimera: {path.name} is no valid MRC ({error}); free space and try again"
        ) from error
    if grey.ndim != 3 or not np.isfinite(grey).all():
        raise ToolFailed(
            f"chimera: {path.name} is an array of {grey.ndim} dimensions or has no "
            "finite numbers, a map was expected; try again"
        )
    return grey
