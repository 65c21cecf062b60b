"""The live microscope for one command: the one that runs, or one started for it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from em_platform.acquisition.session.rig import (
    answering,
    broker_children,
    free_ports,
    missing,
    refuse_without_devices,
    rig_children,
)
from em_platform.cli.console_output import ConsoleOutput
from em_platform.cli.databases import refuse_damaged_databases
from em_platform.config import Settings, export, load_settings
from em_platform.errors import ConfigError, DeviceError
from em_platform.processes import Child, Supervisor
from em_platform.processes.single_instance import claim_home, is_locked, try_lock
from em_platform.storage.atomic import write_bytes

START_S = 120.0  # 14 Python processes that import at once, on two busy cores
_LOCK = "rig.lock"
_NOTE = "rig.json"
"""In the home of a microscope that runs: where its operator's page is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A microscope that runs; `supervisor` tends what this process has `started`."""

    settings: Settings
    supervisor: Supervisor
    page: str
    started: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A microscope that is still to be started, group by group."""

    settings: Settings
    groups: list[list[Child]]
    page: str


@contextmanager
def live_microscope(settings: Settings, output: ConsoleOutput) -> Iterator[Live]:
    """The microscope that answers, or one that runs within the block.

    Signals set `supervisor.stopping` within the block.

    Raises
    ------
    DeviceError
        Another process starts a microscope in this home and it does not come up, or
        real devices are expected and do not answer.
    ToolFailed
        A process does not start; with the end of its log.
    """
    home = settings.home.absolute()
    claim_home(settings)
    with try_lock(home / _LOCK) as ours:
        if not ours:
            _await_other(settings)
        with (
            Supervisor(settings.logs_folder) as supervisor,
            supervisor.until_signalled(),
        ):
            wanted = _to_start(settings) if ours else []
            if wanted:
                refuse_damaged_databases(settings, microscope=True)
                output.line(f"starting {', '.join(wanted)}")
                # Absolute: a child may have another folder.
                settings = export_settings({"home": str(home), **free_ports(settings)})
                rig = rig_children(settings, wanted=wanted)
                # All at once: they wait for broker and each other by themselves.
                supervisor.start_all(
                    [*broker_children(settings), *rig], timeout_s=START_S
                )
                with page_published(settings) as page:
                    yield Live(
                        settings=settings,
                        supervisor=supervisor,
                        page=page,
                        started=True,
                    )
            else:
                output.line("a microscope answers, it is used")
                yield Live(
                    settings=settings,
                    supervisor=supervisor,
                    page=_page_of(home),
                    started=False,
                )


@contextmanager
def microscope_processes(settings: Settings) -> Iterator[Beside]:
    """The microscope's processes for a platform that has broker and recorder itself.

    Real devices need not answer yet.

    Raises
    ------
    ConfigError
        Another process runs a microscope in this home.
    """
    home = settings.home.absolute()
    claim_home(settings)
    with try_lock(home / _LOCK) as ours:
        if not ours:
            raise ConfigError(
                f"up: a microscope already runs in {home}, each needs a home of its "
                "own; stop that one, or name another home by EM_HOME"
            )
        refuse_damaged_databases(settings, microscope=True)
        settings = export_settings({"home": str(home), **free_ports(settings)})
        wanted = missing(settings, recorder=False)
        with page_published(settings) as page:
            groups = rig_children(settings, wanted=wanted)
            yield Beside(settings=settings, groups=groups, page=page)


@contextmanager
def page_published(settings: Settings) -> Iterator[str]:
    """The operator's page; other commands find it in the home while the block lasts."""
    operator = settings.acquisition.operator
    page = f"http://{operator.host}:{operator.port}"
    note = settings.home.absolute() / _NOTE
    write_bytes(note, json.dumps({"page": page}).encode())
    try:
        yield page
    finally:
        note.unlink(missing_ok=True)


def export_settings(overrides: dict[str, str]) -> Settings:
    """The settings with `overrides`, which child processes get, too."""
    os.environ.update(export(overrides))
    return load_settings()


def _to_start(settings: Settings) -> list[str]:
    """What is missing; nothing where a coordinator runs, which has all it needs."""
    # `up` has a recorder of its own.
    platform_runs = is_locked(settings.home.absolute() / "lock")
    wanted = missing(settings, recorder=not platform_runs)
    if "coordinator" not in wanted:
        return []
    refuse_without_devices(settings, wanted)
    return wanted


def _await_other(settings: Settings) -> None:
    deadline = time.monotonic() + START_S
    while "coordinator" not in answering(settings, wanted=frozenset({"coordinator"})):
        if time.monotonic() > deadline:
            home = settings.home.absolute()
            raise DeviceError(
                f"microscope: another process starts one in {home}, and after "
                f"{START_S:g} s no coordinator answers on {settings.broker.host}:"
                f"{settings.broker.port}; end that one, or name another home by EM_HOME"
            )
        time.sleep(0.5)  # each look asks the bus, and waits for answers itself


def _page_of(home: Path) -> str:
    try:
        return str(json.loads((home / _NOTE).read_bytes())["page"])
    except (OSError, ValueError, KeyError):
        return ""  # a microscope that this program has not started has none of ours
