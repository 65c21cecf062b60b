"""The stages, one file each; each is loaded only when it is run."""

import importlib
from typing import Any

from em_platform.cryoem.stage import Stage

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
