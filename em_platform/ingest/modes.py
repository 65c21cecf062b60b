"""Run the sources in the order of a mode, each in a process of its own."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import psutil
from pydantic import ValidationError

from em_platform.config import Settings
from em_platform.config.ingest import Mode
from em_platform.errors import OutputBusy, ProcessingError, ToolFailed
from em_platform.ingest.plan import Lane, Load, loads, plan, startable
from em_platform.model import Model
from em_platform.model.dataset import Status
from em_platform.processes.fork_server import (
    ForkedProcess,
    ForkServer,
    NewPythons,
    python_programs,
)
from em_platform.storage import Store, layout, store_of


class ItemOutcome(Model):
    """The result of one item."""

    source: str
    key: str
    status: str
    """`complete`, `failed` or `cancelled`."""
    sentence: str = ""
    title: str = ""
    shape: tuple[int, int, int] | None = None
    dtype: str = ""
    voxel_size_nm: tuple[float, float, float] | None = None
    fetched_bytes: int = 0
    volume_bytes: int = 0
    was_there: bool = False
    """Whether the volume stood before, so that nothing was read."""
    seconds: float = 0.0
    failed_checks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it is complete and no check of severity ERROR failed."""
        return self.status == "complete" and not self.failed_checks


class SourceEvent(Model):
    """One line that the process of a source writes."""

    source: str
    key: str = ""
    step: str = ""
    total_bytes: int = 0
    came_bytes: int = 0
    outcome: ItemOutcome | None = None


Report = Callable[[SourceEvent], None]


log = logging.getLogger(__name__)

# How often ends of processes and Ctrl-C are looked for while no line arrives.
_TICK_S = 0.2
_PATIENCE_S = 20.0
"""How long a source may take to stop and write down where it is."""

# What the process of any source needs; one process imports it for all of them.
_IMPORTS = ("em_platform.cli.ingest", "em_platform.ingest.worker")


@dataclass(slots=True)
class _Running:
    process: "ForkedProcess | subprocess.Popen[bytes]"
    reader: threading.Thread
    alive: int
    """Our end of its standard input."""
    key: str = ""
    """Of the item that it is at."""


@dataclass(slots=True, kw_only=True)
class Ingest:
    """One call of a mode; `stopping` ends it early, with what is done kept."""

    settings: Settings
    keys: Mapping[str, Sequence[str]]
    """Source -> its wanted items; empty means all that it lists."""
    report: Report
    stopping: threading.Event = field(default_factory=threading.Event)
    _lines: "Queue[SourceEvent]" = field(default_factory=Queue)
    _running: dict[str, _Running] = field(default_factory=dict)
    _outcomes: list[ItemOutcome] = field(default_factory=list)
    _programs: ForkServer | NewPythons = field(
        default_factory=lambda: python_programs(os.environ)
    )

    def run(self, mode: Mode) -> list[ItemOutcome]:
        """Ingest everything; the outcome of each item, in the order of their ends."""
        work = {load.source: load for load in loads(self.settings, tuple(self.keys))}
        lanes = plan(mode, tuple(work.values()))
        finished: set[str] = set()
        try:
            while len(finished) < len(work) and not self.stopping.is_set():
                for source in self._startable(lanes, work, finished):
                    self._start(source)
                self._listen()
                finished |= self._ended()
        finally:
            self._stop_all()
            self._programs.close()
        return self._outcomes

    def _startable(
        self, lanes: Sequence[Lane], work: Mapping[str, Load], finished: set[str]
    ) -> tuple[str, ...]:
        return startable(
            lanes,
            work,
            running=self._running,
            finished=finished,
            budget_mb=memory_budget_mb(self.settings),
            most=self.settings.ingest.at_once,
        )

    def _start(self, source: str) -> None:
        path = log_file(self.settings, source)
        path.parent.mkdir(parents=True, exist_ok=True)
        # It ends with us, however we end: then the kernel closes `alive`.
        given, alive = os.pipe()
        lines, printed = os.pipe()
        # Appended: what an earlier run has logged stays.
        with path.open("ab") as errors:
            try:
                process = self._programs.start(
                    f"ingest {source}",
                    _worker_command(source, self.keys[source]),
                    imports=_IMPORTS,
                    environment=os.environ,
                    stdin=given,
                    output=printed,
                    errors=errors.fileno(),
                )
            except OSError as error:
                raise ToolFailed(
                    f"{source}: its process cannot be started ({error}); see what ends "
                    "processes on this computer (memory?), and run again",
                    command="em-platform ingest",
                ) from error
        os.close(given)
        os.close(printed)
        # Reading blocks, so each process has a thread that reads it.
        reader = threading.Thread(target=self._read, args=(source, lines))
        reader.start()
        self._running[source] = _Running(process, reader, alive)

    def _read(self, source: str, printed: int) -> None:
        with open(printed, encoding="utf-8") as lines:
            for line in lines:
                try:
                    self._lines.put(SourceEvent.model_validate_json(line))
                except ValidationError:
                    # A library may print, too; that must not end the reader.
                    log.warning("%s: unexpected output %r", source, line.rstrip())

    def _listen(self) -> None:
        try:
            self._receive(self._lines.get(timeout=_TICK_S))
            while True:
                self._receive(self._lines.get_nowait())
        except Empty:
            return

    def _receive(self, event: SourceEvent) -> None:
        if event.outcome is not None:
            self._outcomes.append(event.outcome)
        if event.source in self._running:
            self._running[event.source].key = "" if event.outcome else event.key
        self.report(event)

    def _ended(self) -> set[str]:
        ended = set()
        for source, running in list(self._running.items()):
            if running.process.poll() is None:
                continue
            # All its lines must be here before its end is judged.
            running.reader.join()
            os.close(running.alive)
            while not self._lines.empty():
                self._receive(self._lines.get_nowait())
            self._note_end(source, running)
            del self._running[source]
            ended.add(source)
        return ended

    def _note_end(self, source: str, running: _Running) -> None:
        """A process that ended without an outcome for its item has failed at it."""
        code = running.process.wait()
        reported = [o for o in self._outcomes if o.source == source]
        # At no item, and it has reported or ended well: nothing is missing.
        if not running.key and (reported or not code):
            return
        stopped = self.stopping.is_set()
        sentence = (
            f"{source}: stopped; run again to go on"
            if stopped
            else f"{source}: its process {_ending(code)}, expected it to finish; see "
            f"{log_file(self.settings, source)}, and run again"
        )
        status = Status.CANCELLED if stopped else Status.FAILED
        outcome = ItemOutcome(
            source=source, key=running.key, status=status.value, sentence=sentence
        )
        if running.key:
            _record_end(store_of(self.settings), outcome, status)
        self._receive(SourceEvent(source=source, key=running.key, outcome=outcome))

    def _stop_all(self) -> None:
        for running in self._running.values():
            # As Ctrl-C, so that a worker marks its item as cancelled.
            running.process.send_signal(signal.SIGINT)
        for running in self._running.values():
            try:
                # All were asked before the first is waited for: they stop side by side.
                running.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        self._ended()


def memory_budget_mb(settings: Settings) -> float:
    """What all sources may have together: as set, else what the machine has."""
    limit = settings.ingest.memory_limit_gb
    # In MiB, as the limits of the sources.
    return limit * 1024 if limit else psutil.virtual_memory().total / 2**20


def _worker_command(source: str, keys: Sequence[str]) -> list[str]:
    """The arguments of `em-platform`'s own process for one source."""
    # The same Python and package as here, whatever PATH finds.
    command = [sys.executable, "-m", "em_platform", "ingest", "--worker", source]
    for key in keys:
        command += ["--item", f"{source}/{key}"]
    return command


def _record_end(store: Store, outcome: ItemOutcome, status: Status) -> None:
    from em_platform.catalog.record_files import mark

    error = None if status is Status.CANCELLED else ProcessingError(outcome.sentence)
    place = layout.item_folder(outcome.source, outcome.key)
    try:
        with store.one_writer(place, work="the end of an ingest"):
            mark(store, outcome.source, outcome.key, status, error=error)
    except OutputBusy as busy:  # the record is of the one who writes now
        log.info("%s", busy)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    # `subprocess` states an end by a signal as its negative number.
    name = signal.Signals(-code).name
    # The signal of Linux's out-of-memory killer.
    cure = ", probably for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{cure}"


def log_file(settings: Settings, source: str) -> Path:
    """Where the process of a source writes what it logs."""
    return settings.logs_folder / f"ingest_{source}.log"
