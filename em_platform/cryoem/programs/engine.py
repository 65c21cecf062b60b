"""The programs of others as engines of stages: one way for all of them."""

import importlib
from pathlib import Path
from typing import Any

from em_platform.cryoem.programs.run import logs_kept
from em_platform.errors import ConfigError

_MODULES = {
    "motion": "motion_engine",
    "ctf": "ctf_engine",
    "tilt-align": "align_engine",
    "reconstruct": "reconstruct_engine",
    "denoise": "denoise_engine",
    "pick": "pick_engine",
    "classify": "classify_engine",
}
"""Stage -> the module here whose `run(parameters, folder)` does it."""


def run_engine(stage: str, parameters: Any, folder: Path, **known: Any) -> Any:
    """What the program has found that `parameters.engine` names, read from its files.

    The stage makes its result of it, so that nothing behind it sees a difference; what
    the stage knows already goes on by `known`. What the program printed stays in a
    `.log` beside the files; where it fails, beside the folder.

    Raises
    ------
    ToolMissing
        It is not installed.
    ToolFailed
        It failed, did not end in time, or did not write its files to their end.
    FormatError
        What it wrote cannot be read.
    ConfigError
        It cannot do what was asked for.
    """
    module = importlib.import_module(f"{__package__}.{_MODULES[stage]}")
    with logs_kept(folder):
        return module.run(parameters, folder, **known)


def refuse(parameters: Any, *names: str, engine: str) -> None:
    """Refuse parameters that a program would pass over without a word.

    Raises
    ------
    ConfigError
        One of them was given.
    """
    for name in names:
        if getattr(parameters, name) not in (None, (), 0):
            raise ConfigError(
                f"{name}: it was given, which {engine} does not know; leave it out, or "
                "use another engine"
            )
