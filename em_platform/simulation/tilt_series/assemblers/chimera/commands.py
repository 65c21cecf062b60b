"""Commands for Chimera 1.x and ChimeraX that put a particle together from its parts.

Sources: the user guides of Chimera 1.15 (open, turn, move, vop, volume, close) and of
ChimeraX (open, turn, move, volume, save, close).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.assemblers.parts import Move, Part, Turn

Flavour = Literal["chimera", "chimerax"]

VERBS = frozenset({"open", "close", "turn", "move", "vop", "volume", "save"})
"""All that is ever sent: the servers would run `shell` and scripts as well."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_FORBIDDEN = re.compile(r"[;\x00-\x1f\x7f\u0085\u2028\u2029]")

_A_PER_NM = 10
_WHOLE, _FACTOR_OF_WHOLE, _SUM = 98, 108, 100  # numbers of models, as ETSimulations has


def checked(command: str) -> str:
    """The command, if it may be sent.

    Raises
    ------
    ConfigError
        Its verb is not allowed, or it would become several commands.
    """
    verb = command.split(" ", 1)[0]
    if verb not in VERBS:
        raise ConfigError(
            f"chimera: found the command {verb}, one of {', '.join(sorted(VERBS))} was "
            "expected; use another"
        )
    if _FORBIDDEN.search(command):
        raise ConfigError(
            f"chimera: found a semicolon or a line break in {command!r}, one command "
            "was expected; rename the file"
        )
    return command


def quoted(path: Path) -> str:
    """A path as one word of a command.

    Raises
    ------
    ConfigError
        It has a quotation mark.
    """
    text = str(path)
    if '"' in text or "\\" in text:
        raise ConfigError(
            f"chimera: found a quotation mark or backslash in {text}, a path without "
            "was expected; rename it"
        )
    return text if _PLAIN.fullmatch(text) else f'"{text}"'


def sum_commands(
    parts: Sequence[Part], files: Sequence[Path], output: Path, *, flavour: Flavour
) -> list[str]:
    """Commands that save the sum of all parts on the grid of the first one's file.

    Parameters
    ----------
    files
        The map of each part, its middle voxel at the origin of its header.

    Notes
    -----
    All maps are opened before the first is moved: in Chimera a map that is opened
    takes over the place of the lowest-numbered one.
    """
    write = _Dialect(flavour)
    first, *others = parts
    numbers = range(1, len(others) + 1)
    commands = [
        write.opened(_FACTOR_OF_WHOLE, files[0]),
        f"{write.volume} scale #{_FACTOR_OF_WHOLE} factor {first.factor:.3f} "
        f"modelId #{_WHOLE}",
        f"close #{_FACTOR_OF_WHOLE}",
    ]
    for number, file in zip(numbers, files[1:], strict=True):
        commands.append(write.opened(number, file))
    for number, part in zip(numbers, others, strict=True):
        commands += write.steps(number, part)
    last = f"#1-{len(others)},{_WHOLE}" if others else f"#{_WHOLE}"
    commands += [
        f"{write.volume} add {last} onGrid #{_WHOLE} boundingGrid false "
        f"modelId #{_SUM}",
        write.saved(_SUM, output),
        "close session",
    ]
    return [checked(command) for command in commands]


class _Dialect:
    """The commands that the two programs spell in different ways."""

    def __init__(self, flavour: Flavour) -> None:
        self._old = flavour == "chimera"
        self.volume = "vop" if self._old else "volume"

    def opened(self, number: int, file: Path) -> str:
        name = quoted(file)
        return f"open #{number} {name}" if self._old else f"open {name} id {number}"

    def saved(self, number: int, file: Path) -> str:
        name = quoted(file)
        return (
            f"volume #{number} save {name}"
            if self._old
            else f"save {name} models #{number}"
        )

    def steps(self, number: int, part: Part) -> list[str]:
        commands = []
        for step in part.steps:
            if isinstance(step, Turn):
                frame = number if step.own else _WHOLE
                commands.append(
                    f"turn {step.axis} {step.degrees:.6f} models #{number} "
                    f"center 0,0,0 coordinateSystem #{frame}"
                )
            else:
                commands += self._moves(number, step)
        return commands

    def _moves(self, number: int, step: Move) -> list[str]:
        by_a = [_A_PER_NM * by for by in step.by_nm]
        rest = f"models #{number} coordinateSystem #{_WHOLE}"
        if self._old:
            x, y, z = by_a
            return [f"move {x:.6f},{y:.6f},{z:.6f} {rest}"]
        # ChimeraX moves by a distance along an axis.
        return [
            f"move {axis} {by:.6f} {rest}" for axis, by in zip("xyz", by_a, strict=True)
        ]
