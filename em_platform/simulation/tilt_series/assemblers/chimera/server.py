"""One REST server of Chimera or ChimeraX: started here, or reached by its URL."""

import json
import logging
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import nullcontext, suppress
from urllib.parse import urlsplit

import requests

from em_platform.config.simulators import ChimeraSettings
from em_platform.errors import ConfigError, PlatformError, ToolFailed, ToolMissing
from em_platform.processes.gate import is_loopback
from em_platform.simulation.tilt_series.assemblers.chimera.commands import checked

log = logging.getLogger(__name__)

_STARTED = re.compile(r"REST server (?:started )?on host 127\.0\.0\.1 port (\d+)")
_ARGUMENTS = {
    "chimera": ["--start", "RESTServer"],
    "chimerax": ["--nogui", "--cmd", "remotecontrol rest start json true"],
}
_END_S = 5.0  # after a polite request to end


class ServerLost(PlatformError):
    """No answer came: the program hangs or is gone; the batch may be run again."""


class AttachedServer:
    """A server that already runs, at a URL of this computer."""

    def __init__(self, settings: ChimeraSettings, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
            raise ConfigError(
                f"chimera: found the URL {url}, one like http://127.0.0.1:PORT was "
                "expected, since whoever reaches such a server may run any program; "
                "start Chimera on this computer"
            )
        self._settings = settings
        self.url = url.rstrip("/")
        self._session = requests.Session()
        # A proxy of the environment would get our paths.
        self._session.trust_env = False

    def run(self, command: str) -> None:
        """Have one command done.

        Raises
        ------
        ServerLost
            No answer came in time.
        ToolFailed
            The answer is an error.
        """
        try:
            answer = self._session.get(
                f"{self.url}/run",
                params={"command": checked(command)},
                timeout=self._settings.timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ServerLost(
                f"chimera: {self.url} gave no answer to `{command}` within "
                f"{self._settings.timeout_s:g} s ({type(error).__name__}); look at its "
                "window, or raise tilt_series.chimera.timeout_s"
            ) from error
        if answer.status_code != 200:
            raise ToolFailed(
                f"chimera: {self.url} answered `{command}` with status "
                f"{answer.status_code}, 200 was expected; is it Chimera's REST server?"
            )
        if self._settings.flavour == "chimerax":
            _check_json(answer.text, command, self.url)

    def restart(self) -> bool:
        """Whether it could be made to work again: what others started, others end."""
        return False

    def close(self) -> None:
        """Leave it running."""
        self._session.close()


class OwnServer(AttachedServer):
    """A program that is started here, and ended here.

    Raises
    ------
    ToolMissing
        There is no such program.
    ToolFailed
        It did not say in time where its server is.
    """

    def __init__(self, settings: ChimeraSettings) -> None:
        program = shutil.which(os.path.expanduser(settings.program))
        if program is None:
            raise ToolMissing(
                f"chimera: found no program {settings.program}, {settings.flavour} was "
                "expected; correct tilt_series.chimera.program"
            )
        self._command = [program, *_ARGUMENTS[settings.flavour]]
        self._process, port = _started(self._command, settings.start_s)
        super().__init__(settings, f"http://127.0.0.1:{port}")

    def restart(self) -> bool:
        """End the program however it is, and start it again."""
        log.warning("chimera: %s is started again", self.url)
        _end(self._process)
        self._process, port = _started(self._command, self._settings.start_s)
        self.url = f"http://127.0.0.1:{port}"
        return True

    def close(self) -> None:
        """End the program; it has no command for it that both flavours know."""
        super().close()
        _end(self._process)


def _started(command: list[str], start_s: float) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, ports), daemon=True)
    reader.start()
    deadline = time.monotonic() + start_s
    with suppress(queue.Empty):
        port = ports.get(timeout=max(0.0, deadline - time.monotonic()))
        if port is not None:
            return process, port
    _end(process)
    raise ToolFailed(
        f"chimera: {command[0]} did not say within {start_s:g} s where its REST server "
        "is; try it by hand, or raise tilt_series.chimera.start_s"
    )


def _read(
    process: subprocess.Popen[str], ports: "queue.SimpleQueue[int | None]"
) -> None:
    """Read to the end: a program whose pipe is full would wait for ever."""
    with process.stdout or nullcontext(()) as lines:
        for line in lines:
            if found := _STARTED.search(line):
                ports.put(int(found[1]))
    ports.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    # Both are scripts that start the program proper, so the whole group is ended.
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return


def _check_json(text: str, command: str, url: str) -> None:
    try:
        error = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError) as caught:
        raise ToolFailed(
            f"chimera: {url} answered `{command}` with no JSON, ChimeraX's was "
            "expected; start its server by `remotecontrol rest start json true`"
        ) from caught
    if error is not None:
        message = error.get("message") if isinstance(error, dict) else error
        raise ToolFailed(
            f"chimera: `{command}` failed: {message}; correct the plan or the map"
        )
