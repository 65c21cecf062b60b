"""Particles found in a micrograph as blobs of a known size, or by a program."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, model_validator

from em_platform.cryoem.images.micrographs import with_circles
from em_platform.cryoem.methods.boxes import box_for
from em_platform.cryoem.methods.coordinates import cbox_of_picks, star_of_picks
from em_platform.cryoem.methods.pick_log import Picks, find_particles
from em_platform.cryoem.methods.pictures import encoded, stretched
from em_platform.cryoem.movies import read_image
from em_platform.cryoem.stage import (
    ENGINE,
    GPUS,
    Option,
    Rule,
    StageParameters,
    StageResult,
    TimeLimit,
)
from em_platform.errors import DataError
from em_platform.storage.atomic import write_bytes

THRESHOLD = 3.0
"""Best for weak particles; clear ones allow 3.5 to 4 (benchmarks/bench_pick_log.py)."""
_SPREAD = 1.2
"""Particles of one diameter are looked for from 1 / 1.2 to 1.2 of it."""


class Parameters(StageParameters):
    """A micrograph, and how large its particles are."""

    micrograph: Annotated[Path, Option("INPUT", "a micrograph: MRC or TIFF")] = Field(
        validation_alias=AliasChoices("micrograph", "input_path")
    )
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å a pixel", header="pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size", "angpix"))
    particle_diameter: Annotated[
        float | None, Option("--diameter-a", "of the particles, Å")
    ] = Field(None, gt=0)
    min_diameter: Annotated[
        float | None, Option("--min-diameter-a", "of the smallest, Å")
    ] = Field(None, gt=0)
    max_diameter: Annotated[
        float | None, Option("--max-diameter-a", "of the largest, Å")
    ] = Field(None, gt=0)
    log_threshold: Annotated[
        float | None,
        Option(
            "--threshold",
            f"least score: in deviations of the noise [{THRESHOLD:g}]; of crYOLO 0 to "
            "1 [0.3]; of Topaz a log-likelihood [-6]",
        ),
    ] = None
    bright: Annotated[
        bool, Option("--bright", "particles are brighter than the ice")
    ] = False
    min_distance: Annotated[
        float, Option("--min-distance-px", "of two particles; 0: half a diameter")
    ] = Field(0, ge=0)
    retained_fraction: Annotated[
        float, Option("--retained-fraction", "of the picks, the best ones")
    ] = Field(1, gt=0, le=1)
    min_particles: Annotated[
        int, Option("--min-particles", "are kept whatever the fraction")
    ] = Field(30, ge=0)

    engine: Annotated[Literal["builtin", "cryolo", "topaz"], ENGINE] = "builtin"
    time_limit_s: TimeLimit = 3600.0
    cryolo_model_weights: Annotated[
        Path | None, Option("--cryolo-weights", "model of crYOLO, .h5"), Rule.MODEL
    ] = None
    topaz_model: Annotated[
        str,
        Option("--topaz-model", "resnet16, resnet8, conv127 ..., or a file"),
        Rule.MODEL,
    ] = "resnet16"
    # From here on by messages; crYOLO and Topaz take them.
    experiment_type: Literal["spa", "tomography"] = "spa"
    cryolo_command: Annotated[str, Rule.SETTINGS] = "cryolo_predict.py"
    cryolo_threshold: float | None = None
    cryolo_box_size: int | None = Field(None, gt=0)
    cryolo_gpus: Annotated[str | None, Rule.NAME] = Field(None, pattern=GPUS)
    normalization_margin: float = 0
    batch_size: int = 3
    cpu_count: int = 1
    on_the_fly: bool = True
    scale: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _has_a_size(self) -> "Parameters":
        if self.engine == "cryolo":
            return self  # it knows from its model
        if self.particle_diameter is None and None in (
            self.min_diameter,
            self.max_diameter,
        ):
            raise ValueError(
                "found no size of the particles, particle_diameter (--diameter-a), or "
                "min_diameter and max_diameter, were expected"
            )
        if self.engine == "builtin" and (self.log_threshold or 1) <= 0:
            raise ValueError(f"log_threshold {self.log_threshold:g} is not above 0")
        low, high = self.diameters_a
        if low > high:
            raise ValueError(
                f"min_diameter {low:g} is above max_diameter {high:g}; swap them"
            )
        return self

    @property
    def diameters_a(self) -> tuple[float, float]:
        """The least and the largest, Å."""
        middle = self.particle_diameter or 0.0
        return (
            self.min_diameter or middle / _SPREAD,
            self.max_diameter or middle * _SPREAD,
        )


class Result(StageResult):
    """What was picked."""

    particles: int
    median_diameter_a: float | None
    median_score: float | None
    coordinates: str
    cbox: str
    picture: str


def run(parameters: Parameters, folder: Path) -> Result:
    """Pick the particles of a micrograph.

    Writes `<stem>_autopick.star` as RELION does, `<stem>.cbox` as crYOLO does, and
    `<stem>_picks.jpeg`. A micrograph without particles has files without rows.

    Raises
    ------
    FormatError
        The micrograph cannot be read, or has values that are not finite.
    DataError
        It has no contrast, or is smaller than the particles.
    ToolMissing, ToolFailed
        The program on PATH is not there, or did not do it.
    """
    path = parameters.micrograph
    image = read_image(path)
    levels = stretched(image, of=path)
    program = {}
    if parameters.engine == "builtin":
        found = _blobs(parameters, image)
    else:
        from em_platform.cryoem.programs.engine import run_engine

        found, program = run_engine("pick", parameters, folder)
    found = _best(found, parameters)
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    median_a = _median(found.diameters_px, parameters.pixel_size)
    result = Result(
        **program,
        particles=len(found.points),
        median_diameter_a=median_a,
        median_score=_median(found.scores, 1),
        coordinates=f"{stem}_autopick.star",
        cbox=f"{stem}.cbox",
        picture=f"{stem}_picks.jpeg",
    )
    star = star_of_picks(found.points, scores=found.scores)
    write_bytes(folder / result.coordinates, star)
    low, high = parameters.diameters_a
    middle = (low + high) / 2 or median_a or 0.0
    box = box_for(high or middle, parameters.pixel_size)
    cbox = cbox_of_picks(
        found.points,
        scores=found.scores,
        diameters_px=found.diameters_px,
        box_px=box,
    )
    write_bytes(folder / result.cbox, cbox)
    points = tuple((float(x), float(y)) for x, y in found.points)
    radius = middle / parameters.pixel_size / 2
    # Thin enough that small particles stay to be seen.
    width = min(8, max(2, round(radius / 10)))
    picture = with_circles(levels, radius=radius, points=points, width=width)
    write_bytes(folder / result.picture, encoded(picture, ".jpeg"))
    return result


def _blobs(parameters: Parameters, image: NDArray[np.float32]) -> Picks:
    low, high = (each / parameters.pixel_size for each in parameters.diameters_a)
    if high > min(image.shape) / 2:
        raise DataError(
            f"{parameters.micrograph}: found {min(image.shape)} pixels across and "
            f"particles of {high:.0f}, at most half of it was expected; correct the "
            "diameter or the pixel size"
        )
    return find_particles(
        image,
        diameters_px=(low, high),
        threshold=parameters.log_threshold or THRESHOLD,
        bright=parameters.bright,
        apart_px=parameters.min_distance,
    )


def _best(found: Picks, parameters: Parameters) -> Picks:
    share = int(np.ceil(parameters.retained_fraction * len(found.points)))
    kept = slice(max(share, parameters.min_particles))
    return Picks(
        points=found.points[kept],
        diameters_px=found.diameters_px[kept],
        scores=found.scores[kept],
    )


def _median(values: np.ndarray, scale: float) -> float | None:
    return float(np.median(values)) * scale if len(values) else None
