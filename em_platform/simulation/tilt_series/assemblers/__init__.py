"""Assemblers: each arranges particles into the sample of a tilt series.

One of another package is an entry point of the group `em_platform.assemblers`, named as
`assembly.kind` names it.
"""

from importlib import import_module
from importlib.metadata import entry_points

from em_platform.errors import ConfigError
from em_platform.simulation.tilt_series.assemblers.assembler import Assembler

GROUP = "em_platform.assemblers"
"""Of entry points."""

KINDS = {
    "basic": "em_platform.simulation.tilt_series.assemblers.basic:Basic",
    "crowded": "em_platform.simulation.tilt_series.assemblers.crowded:Crowded",
    "filament": "em_platform.simulation.tilt_series.assemblers.filament:Filament",
    "t4ss": "em_platform.simulation.tilt_series.assemblers.t4ss:T4ss",
    "vesicle": "em_platform.simulation.tilt_series.assemblers.vesicle:Vesicle",
}
"""`assembly.kind` -> module and class; a kind of our own is a file here and a line."""


def assembler_of(kind: str) -> type[Assembler]:
    """The class of assemblers that goes by this name.

    Raises
    ------
    ConfigError
        No package has one of this name.
    """
    if kind in KINDS:
        module, _, name = KINDS[kind].partition(":")
        found: type[Assembler] = getattr(import_module(module), name)
        return found
    others = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in others:
        raise ConfigError(
            f"simulation: found the assembler {kind!r}, one of "
            f"{', '.join(sorted({*KINDS, *others}))} was expected; correct "
            "assembly.kind, or install the package that has it"
        )
    loaded: type[Assembler] = others[kind].load()
    return loaded
