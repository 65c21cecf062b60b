"""The outside world on 127.0.0.1: sources, their faults, and what was asked."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from em_platform.errors import ConfigError
from em_platform.standins.faults import Faults, RequestsLog, control
from em_platform.standins.http import Server
from em_platform.standins.part import Ground, Part, Size
from em_platform.standins.pixels import Voxels

log = logging.getLogger(__name__)

PARTS = {
    "ebi": "em_platform.standins.file_archives",
    "epfl": "em_platform.standins.file_archives",
    "flyem": "em_platform.standins.flyem",
    "idr": "em_platform.standins.idr",
    "openorganelle": "em_platform.standins.openorganelle",
}
"""Source -> the module whose function of that name gives its `Part`."""

ALL = tuple(PARTS)
_EDITION = 5
"""Raise it when the files of a world change; those of older editions are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A running world.

    `settings` are dotted settings that point the platform here; `environment` says
    the same to child processes. `urls` are the addresses of the servers by name.
    """

    folder: Path
    size: Size
    parts: Mapping[str, Part]
    servers: Mapping[str, Server]
    faults: Faults
    requests: RequestsLog
    control_url: str

    @property
    def urls(self) -> dict[str, str]:
        """Site -> address."""
        return {name: server.url for name, server in self.servers.items()}

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """Source -> keys that can be ingested."""
        return {name: part.keys for name, part in self.parts.items()}

    @property
    def settings(self) -> dict[str, str]:
        """Dotted settings that point the platform to this world."""
        # Only those that are here: any other would be asked in earnest.
        settings = {"ingest.sources": ",".join(self.parts)}
        for part in self.parts.values():
            settings |= part.settings(self.urls)
        return settings

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point a process to this world."""
        variables = {
            "EM_" + name.upper().replace(".", "__"): value
            for name, value in self.settings.items()
        }
        # Clients of S3 do not look for credentials elsewhere.
        return {
            **variables,
            "AWS_EC2_METADATA_DISABLED": "true",
            # Of the real bucket.
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def prepare(self) -> None:
        """Make all files now; else they are made when they are first asked for."""
        for part in self.parts.values():
            for tree in part.trees:
                log.info("made %s", tree.root)

    def truth(self, source: str, key: str) -> Voxels:
        """The voxels (z, y, x) that an ingest of this key must end with."""
        return self.parts[source].truth(key)


@contextmanager
def running_world(
    folder: Path, *, sources: Sequence[str] = ALL, size: Size = "small", port: int = 0
) -> Iterator[World]:
    """A world that serves until the block ends.

    Its files lie below `folder`, and are found there by the next world of that size.
    They are made when they are first asked for. `port` is that of the control server,
    the others follow it; 0: any free ports.

    Raises
    ------
    ConfigError
        A source that there is not.
    """
    faults = Faults()
    requests = RequestsLog()
    ground = Ground(folder=folder / f"{size}-{_EDITION}", size=size, faults=faults)
    parts = {source: _part(source, ground) for source in sources}
    with ExitStack() as stack:
        serve: Callable[..., Server] = _serving(stack, port)
        # First, so that it has the port that was asked for.
        desk = serve("control", control(faults, requests))
        servers = {
            name: serve(
                name,
                site.handler,
                refuse=site.refuse,
                tls=site.tls,
                faults=faults,
                requests=requests,
            )
            for part in parts.values()
            for name, site in part.sites.items()
        }
        yield World(
            folder=ground.folder,
            size=size,
            parts=parts,
            servers=servers,
            faults=faults,
            requests=requests,
            control_url=desk.url,
        )


def _serving(stack: ExitStack, first_port: int) -> Callable[..., Server]:
    started = 0

    def serve(name: str, handler: Any, **options: Any) -> Server:
        nonlocal started
        port = first_port + started if first_port else 0
        started += 1
        return stack.enter_context(Server(name, handler, port=port, **options))

    return serve


def _part(source: str, ground: Ground) -> Part:
    if source not in PARTS:
        raise ConfigError(
            f"standins: no source {source!r}, expected some of {', '.join(PARTS)}; "
            "correct the list"
        )
    build: Callable[[Ground], Part] = getattr(import_module(PARTS[source]), source)
    return build(ground)
