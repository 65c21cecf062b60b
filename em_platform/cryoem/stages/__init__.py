"""The stages, one file each; each is loaded only when it is run."""

import importlib
from typing import Any

from em_platform.cryoem.stage import GivenStages, RawParameters, Stage, names_of
from em_platform.errors import ConfigError

STAGES: dict[str, str] = {
    "motion": "correct the motion of a movie and sum its frames, weighted by dose",
    "assemble": "put the micrographs of a tilt series into one stack",
    "tilt-align": "align the images of a tilt series",
    "reconstruct": "make the tomogram of an aligned tilt series",
    "ctf": "fit defocus, astigmatism and phase shift of a micrograph",
    "denoise": "take noise out of a tomogram",
    "pick": "find the particles of a micrograph",
    "extract": "cut the picked particles out of a micrograph",
    "classify": "sort particles into 2-D classes",
    "thumbnail": "make pictures of images, volumes, tilt series and picks",
}
"""Stage -> its one line; `tilt-align` stands in `tilt_align.py`."""


def load_stage(name: str) -> Stage:
    """The module of a stage, which has `Parameters`, `Result` and `run`."""
    module: Any = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return module  # type: ignore[no-any-return]


def set_parameters(name: str, stages: GivenStages) -> RawParameters:
    """What `cryoem.session.stages` says of a stage's parameters.

    Raises
    ------
    ConfigError
        It names a stage or a parameter that is not there.
    """
    for stage, given in stages.items():
        if stage not in STAGES:
            raise ConfigError(
                f"cryoem.session.stages: found {stage}, one of {', '.join(STAGES)} was "
                "expected; correct it"
            )
        if stage != name:
            continue  # its parameters are looked at when it is run
        known = set().union(*names_of(load_stage(name).Parameters))
        if unknown := sorted(given.keys() - known):
            raise ConfigError(
                f"cryoem.session.stages: {name} has no parameter {unknown[0]}; "
                f"`em-platform cryoem {name} --help` shows them, correct it"
            )
    return stages.get(name, {})


def wants_halves(stages: GivenStages, *, method: str | None = None) -> bool:
    """Whether the settings of stages ask for halves, or a denoising that needs them.

    `method` of denoising wins over theirs.
    """
    chosen = method or set_parameters("denoise", stages).get("method")
    return chosen == "n2n" or bool(set_parameters("reconstruct", stages).get("halves"))
