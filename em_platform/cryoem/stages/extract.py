"""Particles cut out of a micrograph where they were picked."""

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from em_platform.cryoem.image_files import write_mrc
from em_platform.cryoem.methods.boxes import box_for, cut_boxes, small_box_for
from em_platform.cryoem.methods.coordinates import read_points, read_scores
from em_platform.cryoem.methods.particle_star import OpticsGroup, particle_star
from em_platform.cryoem.methods.pictures import stretched
from em_platform.cryoem.movies import read_image
from em_platform.cryoem.optics import Optics
from em_platform.cryoem.stage import Option, StageResult
from em_platform.errors import DataError
from em_platform.storage.atomic import write_bytes

_NO_DEFOCUS = "defocus, Å; without it particles have no CTF"


class Parameters(Optics):
    """A micrograph, its picks, its CTF, and how the boxes are made."""

    micrographs_file: Annotated[Path, Option("INPUT", "the micrograph")]
    coord_list_file: Annotated[
        Path, Option("--coordinates", "STAR or CBOX of its picks")
    ]
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å a pixel", header="pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size", "angpix"))
    defocus_u: Annotated[
        float | None, Option("--defocus-u-a", f"larger {_NO_DEFOCUS}")
    ] = None
    defocus_v: Annotated[
        float | None, Option("--defocus-v-a", "smaller defocus, Å; else the larger one")
    ] = None
    defocus_angle: Annotated[float, Option("--astigmatism-deg", "of the larger")] = 0
    phase_shift: Annotated[float, Option("--phase-shift-deg", "of a plate")] = 0
    ctf_max_resolution: float = 0
    ctf_figure_of_merit: float = 0
    particle_diameter: Annotated[
        float, Option("--diameter-a", "sets the boxes; 0: they are given")
    ] = Field(0, ge=0)
    boxsize: Annotated[int, Option("--box-px", "side that is cut")] = Field(
        256, ge=8, multiple_of=2
    )
    small_boxsize: Annotated[int, Option("--small-box-px", "side after it")] = Field(
        64, ge=8, multiple_of=2
    )
    downscale: Annotated[bool, Option("--downscale", "shrink the boxes")] = False
    invert_contrast: Annotated[bool, Option("--invert", "dark becomes bright")] = True
    norm: Annotated[bool, Option("--normalise", "background: mean 0, deviation 1")] = (
        True
    )
    bg_radius: Annotated[
        int, Option("--background-px", "radius of the particle; -1: 3/8 of the box")
    ] = Field(-1, ge=-1)
    confidence_threshold: Annotated[
        float, Option("--min-score", "of a pick; 0: all")
    ] = 0

    @property
    def sides_px(self) -> tuple[int, int]:
        """What is cut, and what it becomes."""
        box, small = self.boxsize, self.small_boxsize
        if self.particle_diameter:
            box = box_for(self.particle_diameter, self.pixel_size)
            small = small_box_for(box, self.pixel_size)
        return box, min(small, box) if self.downscale else box


class Result(StageResult):
    """What was cut out."""

    particles: int
    box_px: int
    pixel_size_a: float
    star: str
    stack: str | None


def run(parameters: Parameters, folder: Path) -> Result:
    """Cut the particles of one micrograph.

    Writes `<stem>.mrcs` and `particles.star`, whose image names begin at 1. Without
    picks there is no stack, and the STAR file has no rows.

    Raises
    ------
    FormatError
        The micrograph or the coordinates cannot be read.
    DataError
        The micrograph has no contrast, or a pick lies outside of it.
    """
    path = parameters.micrographs_file
    image = read_image(path)
    stretched(image, of=path)
    points = read_points(parameters.coord_list_file)
    scores = read_scores(parameters.coord_list_file)
    if parameters.confidence_threshold and scores is not None:
        good = scores > parameters.confidence_threshold
        points = tuple(p for p, kept in zip(points, good, strict=True) if kept)
    _check_inside(points, image.shape, parameters)
    box, small = parameters.sides_px
    pixel_a = parameters.pixel_size * box / small
    stack = f"{path.name.removesuffix('.gz').rpartition('.')[0]}.mrcs"
    if points:
        boxes = cut_boxes(
            image,
            points,
            box_px=box,
            small_px=small,
            invert=parameters.invert_contrast,
            normalise=parameters.norm,
            background_px=None if parameters.bg_radius < 0 else parameters.bg_radius,
        )
        write_mrc(folder / stack, boxes, pixel_size_a=pixel_a)
    optics = OpticsGroup(
        voltage_kv=parameters.voltage,
        spherical_mm=parameters.spher_aber,
        amplitude_contrast=parameters.ampl_contrast,
        pixel_size_a=pixel_a,
        box_px=small,
    )
    common: dict[str, str | float] = {
        "MicrographName": str(path),
        "CtfMaxResolution": parameters.ctf_max_resolution,
        "CtfFigureOfMerit": parameters.ctf_figure_of_merit,
    }
    if (defocus := parameters.defocus_u) is not None:
        lower = parameters.defocus_v
        common |= {
            "DefocusU": defocus,
            "DefocusV": defocus if lower is None else lower,
            "DefocusAngle": parameters.defocus_angle,
            "PhaseShift": parameters.phase_shift,
        }
    star = particle_star(points, stack=stack, optics=optics, common=common)
    write_bytes(folder / "particles.star", star)
    return Result(
        particles=len(points),
        box_px=small,
        pixel_size_a=pixel_a,
        star="particles.star",
        stack=stack if points else None,
    )


def _check_inside(
    points: tuple[tuple[float, float], ...],
    shape: tuple[int, ...],
    parameters: Parameters,
) -> None:
    height, width = shape
    outside = [p for p in points if not (0 <= p[0] < width and 0 <= p[1] < height)]
    if outside:
        x, y = outside[0]
        raise DataError(
            f"{parameters.coord_list_file}: found {len(outside)} picks outside of the "
            f"micrograph, such as ({x:.0f}, {y:.0f}), places within {width} x {height} "
            f"pixels were expected; give the picks of {parameters.micrographs_file}"
        )
