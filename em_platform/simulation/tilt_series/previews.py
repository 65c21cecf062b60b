"""The pictures that lie in a stack's folder."""

from collections.abc import Mapping
from pathlib import Path

from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.pictures import (
    central_tilt,
    sample_slice,
    thon_rings,
    truth_overlay,
)
from em_platform.simulation.tilt_series.truth import Truth

PREVIEWS = "previews"
"""Folder of the pictures, in the folder of a stack."""


def previews(folder: Path, *, truth: Truth, sample: Sample) -> Mapping[str, bytes]:
    """PNG pictures of a stack's folder by their names."""
    return {
        "central_tilt": central_tilt(folder, truth),
        "thon_rings": thon_rings(folder, truth),
        "truth": truth_overlay(folder, truth),
        "sample": sample_slice(truth.plan, sample),
    }


def write_previews(folder: Path, *, truth: Truth, sample: Sample) -> None:
    """Write them into `previews/` of the stack's folder."""
    (folder / PREVIEWS).mkdir(exist_ok=True)
    for name, picture in previews(folder, truth=truth, sample=sample).items():
        (folder / PREVIEWS / f"{name}.png").write_bytes(picture)
