"""One writer for an output: a lease beside it, on a disk, on NFS and in a bucket.

Whoever writes `volume.zarr` has the lease `.volume.zarr.lease` beside it, which names
the host and the process, and renews it while it works. A lease whose process has ended
on this computer is taken over at once; one of another computer when it was not renewed
for `EXPIRY_S`. No clocks are compared for that: who waits looks whether the lease
changes. See docs/explanations/decisions/one-writer.md.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from em_platform.errors import OutputBusy, StorageError
from em_platform.storage.layout import StorageOptions
from em_platform.storage.lease_places import LeaseContent, LeasePlace, place_at

log = logging.getLogger(__name__)

# A lease that did not change for so long has no owner any more.
EXPIRY_S = 30.0
_RENEW_S = 5.0  # six chances before it expires, for a busy computer
# While another writer is waited for: seldom enough for a bucket.
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that writes; `machine`: whether its process id means anything here.

    A container has process ids of its own, hence the namespace in `machine`. `started`
    distinguishes a process from a later one of the same id.
    """

    host: str
    machine: str
    process: int
    started: int
    work: str
    since: str
    expires_after_s: float = EXPIRY_S

    @property
    def shown(self) -> str:
        """For a sentence: what, where and since when."""
        return (
            f"{self.work} (process {self.process} on {self.host}, since {self.since})"
        )


class Lease:
    """The right to write one output, until it is released or lost."""

    def __init__(self, place: LeasePlace, version: str, owner: Owner) -> None:
        self._place = place
        self._version = version
        self._owner = owner
        self._renewed = time.monotonic()
        # Else the renewer's thread and `check` would each believe the lease taken over.
        self._changing = threading.Lock()
        self._is_lost = False

    def renew(self) -> None:
        """Show that the owner lives; a store that fails for a while is waited for."""
        with self._changing:
            if self._is_lost:
                return
            try:
                version = self._place.replace(self._version, _encoded(self._owner))
            except StorageError as error:
                log.warning("%s", error)
                self._is_lost = time.monotonic() - self._renewed > EXPIRY_S
                return
            if version is None:
                self._is_lost = True
                return
            self._version, self._renewed = version, time.monotonic()

    def check(self) -> None:
        """Renew it; raises OutputBusy where another process has taken it over."""
        self.renew()
        if self._is_lost:
            raise OutputBusy(
                f"storage: {self._place.shown} was taken over by another process, "
                "as this one did not answer for a while; nothing was published, run "
                "again"
            )

    def release(self) -> None:
        """Let others write."""
        with self._changing:
            if not self._is_lost:
                # The renewer may be about to renew it: after this it does nothing.
                self._is_lost = True
                self._place.remove(self._version)


@contextmanager
def one_writer(
    url: str,
    *,
    work: str,
    options: StorageOptions | None = None,
    patience_s: float = 0.0,
) -> Iterator[Lease]:
    """Be the only one, of all computers, who writes `url` within the block.

    Parameters
    ----------
    url
        The output, a path or any fsspec URL.
    work
        What is done, for the sentence that others read.
    options
        Of the fsspec file system.
    patience_s
        How long another process is waited for.

    Raises
    ------
    OutputBusy
        Another process writes it; the sentence says which.
    StorageError
        The lease cannot be written.
    """
    place = place_at(url, options or {})
    owner = _this_owner(work)
    version = _waited(place, owner, url=url, until=time.monotonic() + patience_s)
    lease = Lease(place, version, owner)
    _renewer.add(lease)
    try:
        yield lease
    finally:
        _renewer.remove(lease)
        lease.release()


def refuse_if_busy(url: str, *, options: StorageOptions | None = None) -> None:
    """Say at once what `one_writer` would find out, where it takes no wait to know.

    Raises
    ------
    OutputBusy
        A living process of this computer writes `url`.
    """
    seen = place_at(url, options or {}).read()
    owner = None if seen is None else _owner_of(seen.note)
    if owner is not None and owner.machine == _machine() and _is_alive(owner):
        raise _busy(url, owner)


def release_of_killed(url: str, *, options: StorageOptions | None = None) -> None:
    """Release the lease of a process of this computer that was killed.

    For an output that is finished: nobody will take the lease over any more.
    """
    place = place_at(url, options or {})
    seen = place.read()
    owner = None if seen is None else _owner_of(seen.note)
    if seen and owner and owner.machine == _machine() and not _is_alive(owner):
        place.remove(seen.version)


def _waited(place: LeasePlace, owner: Owner, *, url: str, until: float) -> str:
    while True:
        try:
            return _acquired(place, owner, url=url)
        except OutputBusy:
            if time.monotonic() > until:
                raise
        time.sleep(_LOOK_S)


def _acquired(place: LeasePlace, owner: Owner, *, url: str) -> str:
    """The version of the lease that we have now."""
    while True:
        # Between a look and the next step another process may take or release it.
        version = place.create(_encoded(owner))
        seen = None if version else place.read()
        if seen is not None:
            _refuse_if_held(place, seen, url=url)
            version = place.replace(seen.version, _encoded(owner))
        if version is not None:
            return version


def _refuse_if_held(place: LeasePlace, seen: LeaseContent, *, url: str) -> None:
    owner = _owner_of(seen.note)
    if owner is None and seen.note == b"":
        return  # released
    if owner is not None and owner.machine == _machine():
        if not _is_alive(owner):
            return
    elif not _is_renewed(place, seen, owner.expires_after_s if owner else EXPIRY_S):
        return
    raise _busy(url, owner)


def _busy(url: str, owner: Owner | None) -> OutputBusy:
    holder = owner.shown if owner else "another process"
    return OutputBusy(
        f"storage: {url} is being written by {holder}; wait until it has ended, or "
        "choose another output"
    )


def _is_renewed(place: LeasePlace, seen: LeaseContent, expiry_s: float) -> bool:
    """Whether the lease changes while we wait for as long as it may stand."""
    deadline = time.monotonic() + expiry_s
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        now = place.read()
        if now is None or now.version != seen.version:
            return now is not None  # released, where it is gone
    return False


class _Renewer:
    """One thread that renews all leases of this process."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changed:
            self._leases.add(lease)
            # A forked process has this object, but not its thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._renew, name="leases", daemon=True
                )
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._changed:
            self._leases.discard(lease)
            # Without a lease left the thread ends now, and not at its next turn.
            self._changed.notify()

    def _renew(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(_RENEW_S)
                if not self._leases:
                    # Under the lock: `add` finds a thread that goes on, or none.
                    self._thread = None
                    return
                due = tuple(self._leases)
            # Outside of the lock: a slow store must not make `add` wait.
            for lease in due:
                lease.renew()


_renewer = _Renewer()


def _encoded(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode()


def _owner_of(note: bytes) -> Owner | None:
    try:
        # Of another version it may have other fields: then its owner is unknown.
        return Owner(**json.loads(note))
    except (ValueError, TypeError):
        return None


def _this_owner(work: str) -> Owner:
    return Owner(
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        started=_started(os.getpid()) or 0,
        work=work,
        since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
    )


def _machine() -> str:
    """Names the boot of this computer, and the process ids that are seen in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _is_alive(owner: Owner) -> bool:
    return _started(owner.process) == owner.started


def _started(process: int) -> int | None:
    """When a process started, in ticks since the boot; None where it has ended.

    From Linux's own count, which does not jump with the clock (proc_pid_stat(5)).
    """
    try:
        # From the right: a process's name may have brackets and spaces in it.
        _, _, fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        # Where there is no /proc at all, a missing file says nothing.
        return None if Path("/proc/self").exists() else _created(process)
    # Zombies (Z) and dead ones (X) write no more; the start is field 22.
    state, *rest = fields.split()
    return None if state in ("Z", "X") else int(rest[18])


def _created(process: int) -> int | None:
    """As `_started`, where there is no /proc."""
    try:
        return int(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
