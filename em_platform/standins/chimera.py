"""UCSF Chimera 1.x and ChimeraX behind their REST servers, as far as maps go.

It opens, turns, moves, adds, scales and saves MRC maps, so what comes out can be
compared with what was meant. As the real ones it answers 200 whatever happens:
Chimera with text, ChimeraX with text or JSON. In Chimera a map that is opened takes
the place of the lowest-numbered one that is there.
"""

import json
import os
import shlex
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs

import mrcfile
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from em_platform.standins.faults import Faults
from em_platform.standins.http import Server
from em_platform.standins.messages import InMemory, Request, Response

_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


class UserError(Exception):
    """A command that cannot be done; its text goes to the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A map `(z, y, x)`, its grid in Å `(x, y, z)`, and where it was moved `(4, 4)`."""

    grey: NDArray[np.float32]
    origin: NDArray[np.float64]
    step: NDArray[np.float64]
    place: NDArray[np.float64]

    def to_scene(self) -> NDArray[np.float64]:
        """From indices `(x, y, z)` of voxels to the scene, `(4, 4)`."""
        grid = np.diag([*self.step, 1.0])
        grid[:3, 3] = self.origin
        return self.place @ grid


class Program:
    """The models that are open, and the commands that change them."""

    def __init__(self, flavour: str, *, ignoring: Collection[str] = ()) -> None:
        self.flavour = flavour
        self.ignoring = ignoring
        self.volumes: dict[int, Volume] = {}
        self.commands: list[str] = []
        self._lock = threading.Lock()

    def run(self, command: str) -> None:
        """Do one command; UserError where it cannot be done."""
        with self._lock:
            self.commands.append(command)
            words = shlex.split(command)
            verb = words[0] if words else ""
            if verb in self.ignoring:
                return
            if (
                verb == "volume"
                and self.flavour == "chimera"
                and words[2:3] == ["save"]
            ):
                self._save(words[3], _one(words[1]))
            elif verb == ("vop" if self.flavour == "chimera" else "volume"):
                self._operate(words[1:])
            elif verb == "save" and self.flavour == "chimerax":
                self._save(words[1], _one(_options(words[2:])["models"]))
            elif verb in ("open", "turn", "move", "close"):
                getattr(self, f"_{verb}")(words[1:])
            else:
                raise UserError(f"Unknown command: {command}")

    def _open(self, words: Sequence[str]) -> None:
        if self.flavour == "chimera":
            number, path = _one(words[0]), words[1]
        else:
            number, path = int(_options(words[1:])["id"]), words[0]
        if number in self.volumes:
            raise UserError(f"Model number {number} is in use")
        if not os.path.isfile(path):
            raise UserError(f"No such file/path: {path}")
        with mrcfile.open(path) as file:
            origin, size = file.header.origin, file.voxel_size
            opened = Volume(
                grey=np.array(file.data, np.float32),
                origin=np.array([origin.x, origin.y, origin.z], float),
                step=np.array([size.x, size.y, size.z], float),
                place=np.eye(4),
            )
        if self.flavour == "chimera" and self.volumes:
            opened = replace(opened, place=self.volumes[min(self.volumes)].place)
        self.volumes[number] = opened

    def _turn(self, words: Sequence[str]) -> None:
        options = _options(words[2:])
        angle = np.deg2rad(float(words[1]))
        x, y, z = _AXES[words[0]]
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(4)
        turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        centre = np.eye(4)
        centre[:3, 3] = [float(each) for each in options["center"].split(",")]
        self._transform(centre @ turn @ np.linalg.inv(centre), options)

    def _move(self, words: Sequence[str]) -> None:
        shift = np.eye(4)
        if "," in words[0]:
            if self.flavour != "chimera":
                raise UserError("Missing distance")
            shift[:3, 3] = [float(each) for each in words[0].split(",")]
            options = _options(words[1:])
        else:
            shift[:3, 3] = float(words[1]) * np.array(_AXES[words[0]])
            options = _options(words[2:])
        self._transform(shift, options)

    def _transform(self, by: NDArray[np.float64], options: dict[str, str]) -> None:
        frame = self._volume(_one(options["coordinateSystem"])).place
        scene = frame @ by @ np.linalg.inv(frame)
        for number in _many(options["models"]):
            volume = self._volume(number)
            self.volumes[number] = replace(volume, place=scene @ volume.place)

    def _operate(self, words: Sequence[str]) -> None:
        options = _options(words[2:])
        numbers = _many(words[1])
        first = self._volume(numbers[0])
        if words[0] == "scale":
            grey = first.grey * np.float32(options.get("factor", 1))
            grey = grey + np.float32(options.get("shift", 0))
            made = replace(first, grey=grey)
        elif words[0] == "add":
            grid = self._volume(_one(options.get("onGrid", f"#{numbers[0]}")))
            total = np.zeros_like(grid.grey)
            for number in numbers:
                total += _resampled(self._volume(number), grid)
            made = replace(grid, grey=total)
        else:
            raise UserError(f"Unknown volume operation {words[0]}")
        self.volumes[_one(options["modelId"])] = made

    def _save(self, path: str, number: int) -> None:
        volume = self._volume(number)
        with mrcfile.new(path, volume.grey, overwrite=True) as file:
            file.voxel_size = tuple(volume.step)
            file.header.origin.x, file.header.origin.y, file.header.origin.z = (
                volume.origin
            )

    def _close(self, words: Sequence[str]) -> None:
        if words[0] == "session":
            self.volumes.clear()
        for number in [] if words[0] == "session" else _many(words[0]):
            self._volume(number)
            del self.volumes[number]

    def _volume(self, number: int) -> Volume:
        if number not in self.volumes:
            raise UserError(f"No model number {number}")
        return self.volumes[number]


def serve(
    program: Program, *, answers_json: bool = False, faults: Faults | None = None
) -> Server:
    """Its REST server on a free port of 127.0.0.1."""

    def handle(request: Request) -> Response:
        if request.path != "/run":
            return Response(status=404)
        commands = request.query.get("command", [])
        commands += parse_qs(request.body.decode()).get("command", [])
        error = None
        for command in commands:
            try:
                program.run(command)
            except (UserError, ValueError, KeyError, IndexError) as caught:
                error = {"type": type(caught).__name__, "message": str(caught)}
                break
        text = error["message"] if error else ""
        if answers_json:
            levels: dict[str, list[str]] = {"error": [text] if error else []}
            fields = {"json values": [], "python values": [], "log messages": levels}
            text = json.dumps({**fields, "error": error})
        return Response(content=InMemory(text.encode()), media_type="text/plain")

    return Server("chimera", handle, faults=faults)


def run_program(
    arguments: Sequence[str], *, dies_at: int = 0, marker: str = ""
) -> None:
    """Be the program: serve, say where, and stay.

    With `dies_at` it ends at that command, once: then the file `marker` is there.
    """
    chimera = arguments[:2] == ["--start", "RESTServer"]
    program = Program("chimera" if chimera else "chimerax")
    if dies_at and not os.path.exists(marker):
        run = program.run

        def dying(command: str) -> None:
            if len(program.commands) + 1 == dies_at:
                Path(marker).touch()
                os._exit(1)
            run(command)

        program.run = dying  # type: ignore[method-assign]
    with serve(program, answers_json="json true" in " ".join(arguments)) as server:
        begun = "REST server" if chimera else "REST server started"
        sys.stdout.write(f"{begun} on host 127.0.0.1 port {server.port}\n")
        sys.stdout.flush()
        server.ended.wait()


def _resampled(volume: Volume, grid: Volume) -> NDArray[np.float32]:
    """A map on the grid of another, by linear interpolation."""
    back = np.linalg.inv(volume.to_scene()) @ grid.to_scene()
    # Indices of arrays are (z, y, x).
    found = scipy.ndimage.affine_transform(
        volume.grey,
        back[2::-1, 2::-1],
        offset=back[2::-1, 3],
        output_shape=grid.grey.shape,
        output=np.float32,
        order=1,
    )
    return np.asarray(found, np.float32)


def _options(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _one(spec: str) -> int:
    return int(spec.removeprefix("#"))


def _many(spec: str) -> list[int]:
    """The numbers of `#1-3,98`."""
    found: list[int] = []
    for part in spec.removeprefix("#").split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
