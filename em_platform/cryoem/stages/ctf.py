"""Defocus, astigmatism and phase shift of a micrograph, and how far its rings reach.

Field names and defaults are those of cryoem-services' CTFFind; the text files are laid
out as CTFFIND's.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator, model_validator

from em_platform.cryoem.movies import read_image
from em_platform.cryoem.optics import Optics
from em_platform.cryoem.stage import (
    ENGINE,
    Option,
    RelionOptions,
    StageResult,
    TimeLimit,
    named_engine,
)
from em_platform.errors import ConfigError, ProcessingError

if TYPE_CHECKING:
    from em_platform.cryoem.methods.ctf import Fit, Lens, Search
    from em_platform.cryoem.methods.ctf_profile import Profile
    from em_platform.cryoem.methods.ctf_tilt import Tilt

YesNo = Literal["yes", "no"]

_MOST_DEFOCUS_A = 1e6
"""100 µm: no image of single electrons has more."""
_LEAST_BOX_PX = 64
"""Of a spectrum with as many directions and rings as a fit needs."""


class Parameters(Optics):
    """Parameters of the fit; lengths and defocus in Å, underfocus positive."""

    input_image: Annotated[Path, Option("INPUT", "a micrograph: MRC or TIFF")]
    output_image: Path | None = None
    """Only its name counts here: files lie in the stage's folder."""
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å per pixel", "pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    ampl_spectrum: Annotated[
        int, Option("--box-px", "side of the spectrum, or less in a smaller image")
    ] = Field(512, ge=_LEAST_BOX_PX, le=4096)
    min_res: Annotated[float, Option("--min-res-a", "coarsest distance fitted")] = (
        Field(30.0, gt=0)
    )
    max_res: Annotated[float, Option("--max-res-a", "finest distance fitted")] = Field(
        5.0, gt=0
    )
    min_defocus: Annotated[
        float, Option("--min-defocus-a", "least defocus looked for")
    ] = Field(2000.0, ge=-_MOST_DEFOCUS_A, le=_MOST_DEFOCUS_A)
    max_defocus: Annotated[
        float, Option("--max-defocus-a", "largest defocus looked for")
    ] = Field(90000.0, ge=-_MOST_DEFOCUS_A, le=_MOST_DEFOCUS_A)
    additional_phase_shift: Annotated[
        YesNo, Option("--phase-shift", "whether a phase plate is looked for")
    ] = "no"
    determine_thickness: Annotated[
        YesNo, Option("--determine-thickness", "whether the specimen is thick")
    ] = "no"
    node_low_res: Annotated[
        float, Option("--node-low-res-a", "coarsest distance for the thickness")
    ] = Field(30.0, gt=0)
    node_high_res: Annotated[
        float, Option("--node-high-res-a", "finest distance for the thickness")
    ] = Field(3.0, gt=0)
    tilt_deg: Annotated[
        float | None, Option("--tilt-deg", "of the specimen [0]", "tilt_deg")
    ] = Field(None, gt=-85, lt=85)
    axis_deg: Annotated[
        float | None,
        Option("--axis-deg", "tilt axis, from y towards -x; else sought", "axis_deg"),
    ] = None
    determine_tilt: Annotated[
        YesNo, Option("--determine-tilt", "whether a tilt that is not given is sought")
    ] = "no"
    astigmatism_known: YesNo = "no"
    known_astigmatism: float = 0.0
    known_astigmatism_angle: float = 0.0
    engine: Annotated[Literal["builtin", "ctffind4", "ctffind5"], ENGINE] = "builtin"
    time_limit_s: TimeLimit = 3600.0
    # From here on by messages: steps and switches of CTFFIND's own search.
    defocus_step: float = 100.0
    slow_search: YesNo = "no"
    astigmatism_restrain: YesNo = "no"
    expert_options: YesNo = "no"
    brute_force_1d: YesNo = "yes"
    refinement_2d: YesNo = "yes"
    node_rounded_square: YesNo = "no"
    node_downweight: YesNo = "no"
    ctffind_version: Literal[4, 5] = 4
    experiment_type: Literal["spa", "tomography"] = "spa"
    movie: Path | None = None
    app_id: int | None = None
    mc_uuid: int | None = None
    picker_uuid: int | None = None
    autopick: RelionOptions = Field(default_factory=dict)
    relion_options: RelionOptions = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_the_version(cls, values: Any) -> Any:
        return named_engine(values, "ctffind", field="ctffind_version", latest=4)

    @field_validator("ampl_spectrum")
    @classmethod
    def _check_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an even number was expected")
        return value


class Result(StageResult):
    """What was found; underfocus is positive."""

    defocus_u_a: float
    defocus_v_a: float
    astigmatism_deg: float  # direction of defocus_u_a, from x to y
    astigmatism_a: float
    phase_shift_deg: float
    fit_resolution_a: float
    score: float  # correlation of rings and model, to 1; 0 where noise has as much
    defocus_error_a: float | None = None  # one standard deviation; of the built-in
    thickness_a: float | None = None  # None: not asked for, or too thin to see
    tilt_deg: float | None = None  # that of the fit; None: untilted
    tilt_axis_deg: float | None = None  # from y towards -x
    defocus_hand: int | None = None  # 1: defocus grows with height, -1: it falls
    ice_ring_density: float | None  # None where the pixels are too coarse to see it
    pixel_size_a: float
    box_px: int
    diagnostic: str
    picture: str
    table: str
    profile: str


def run(parameters: Parameters, folder: Path) -> Result:
    """Write the diagnostic spectrum, its picture, and CTFFIND's tables.

    Raises
    ------
    FormatError
        The micrograph cannot be read, or has values that are not finite.
    ProcessingError
        It has no contrast.
    ConfigError
        Ranges that contradict each other or the pixel size.
    ToolMissing, ToolFailed
        CTFFIND is not there, or did not do it.
    """
    if parameters.engine != "builtin":
        from em_platform.cryoem.programs.engine import run_engine

        return Result(**run_engine("ctf", parameters, folder))
    # scipy is loaded by who runs it, not by who asks for the options.
    from em_platform.cryoem.methods import ctf, ctf_fit, ctf_profile, ctf_tilt

    image = read_image(parameters.input_image)
    box = _box_px(parameters, image)
    parameters = parameters.model_copy(update={"ampl_spectrum": box})
    search = _search(parameters, (parameters.min_res, parameters.max_res))
    # Not the largest minus the least: one hot pixel is no contrast either.
    if float(image.std()) <= 1e-6 * abs(float(image.mean())) or not image.any():
        raise ProcessingError(
            f"{parameters.input_image}: all pixels are {float(image.flat[0]):g}, "
            "expected an image; look whether the beam was on"
        )
    lens = _lens(parameters)
    tilt = _tilt(parameters, image, lens, search)
    spectra, rings = ctf_tilt.rings_at(image, box, lens, search, tilt=tilt)
    fit = ctf_fit.fit_rings(rings, lens, search)
    if parameters.determine_thickness == "yes":
        nodes = _search(parameters, (parameters.node_low_res, parameters.node_high_res))
        fit = ctf_fit.fit_thickness(rings, lens, nodes, begin=fit)
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    profile = ctf_profile.profile_of(ctf.levelled(rings, lens, middle), lens, fit)
    resolution = ctf_profile.fit_resolution_a(
        profile, fit, min_res_a=parameters.min_res
    )
    power = ctf_tilt.levelled_power(spectra, rings, lens, fit)
    files = _write(parameters, folder, power, fit, profile, resolution)
    ice = ctf_profile.ice_ring_density(profile)
    return Result(
        defocus_u_a=round(fit.defocus_u_a, 2),
        defocus_v_a=round(fit.defocus_v_a, 2),
        astigmatism_deg=round(fit.azimuth_deg, 3),
        astigmatism_a=round(fit.defocus_u_a - fit.defocus_v_a, 2),
        phase_shift_deg=round(fit.phase_shift_deg, 3),
        fit_resolution_a=round(resolution, 3),
        score=round(fit.score, 5),
        defocus_error_a=round(fit.error_a, 2),
        thickness_a=round(fit.thickness_a, 1) if fit.thickness_a else None,
        tilt_deg=None if tilt is None else round(tilt.angle_deg, 2),
        tilt_axis_deg=None if tilt is None else round(tilt.axis_deg, 2),
        defocus_hand=None if tilt is None else tilt.hand,
        ice_ring_density=None if ice is None else round(ice, 5),
        pixel_size_a=parameters.pixel_size,
        box_px=parameters.ampl_spectrum,
        **files,
    )


def _box_px(parameters: Parameters, image: NDArray[np.float32]) -> int:
    """The side of the spectrum: no larger than the image, around which nothing is."""
    height, width = image.shape
    if min(height, width) < _LEAST_BOX_PX:
        raise ProcessingError(
            f"{parameters.input_image}: found an image of {width} x {height} px, "
            f"expected {_LEAST_BOX_PX} px or more along both sides; give a whole "
            "micrograph"
        )
    return min(parameters.ampl_spectrum, int(min(height, width)) // 2 * 2)


def _tilt(
    parameters: Parameters, image: NDArray[np.float32], lens: "Lens", search: "Search"
) -> "Tilt | None":
    """The tilt that counts; None: the rings are those of a flat specimen."""
    from em_platform.cryoem.methods.ctf_tilt import find_tilt

    angle = parameters.tilt_deg
    if angle is None and parameters.determine_tilt == "no":
        return None
    return find_tilt(
        image,
        parameters.ampl_spectrum,
        lens,
        search,
        angle_deg=angle,
        axis_deg=parameters.axis_deg,
    )


def _search(parameters: Parameters, resolutions_a: tuple[float, float]) -> "Search":
    from em_platform.cryoem.methods.ctf import Search

    finest = 2 * parameters.pixel_size
    coarsest = parameters.pixel_size * parameters.ampl_spectrum / 4
    low, high = resolutions_a
    if min(low, coarsest) <= 1.2 * max(high, finest):
        raise ConfigError(
            f"ctf: the range is {low:g} to {high:g} Å, "
            f"pixels of {parameters.pixel_size:g} Å show {coarsest:.3g} to "
            f"{finest:.3g} Å; give --min-res-a and --max-res-a (of a thickness "
            "--node-low-res-a and --node-high-res-a) in there"
        )
    if parameters.max_defocus <= parameters.min_defocus:
        raise ConfigError(
            f"ctf: the defocus range is {parameters.min_defocus:g} to "
            f"{parameters.max_defocus:g} Å, a larger end was expected; correct it"
        )
    known = parameters.astigmatism_known == "yes"
    return Search(
        min_res_a=min(low, coarsest),
        # The rim of the spectrum is of the camera, not of the lens.
        max_res_a=max(high, 1.02 * finest),
        min_defocus_a=parameters.min_defocus,
        max_defocus_a=parameters.max_defocus,
        phase_shift=parameters.additional_phase_shift == "yes",
        known_astigmatism_a=parameters.known_astigmatism if known else None,
        known_azimuth_deg=parameters.known_astigmatism_angle,
    )


def _write(
    parameters: Parameters,
    folder: Path,
    power: NDArray[np.float32],
    fit: "Fit",
    profile: "Profile",
    resolution_a: float,
) -> dict[str, str]:
    """Write all files; their names by the fields of the result."""
    from em_platform.cryoem import ctf_files
    from em_platform.cryoem.image_files import write_mrc

    stem = (parameters.output_image or parameters.input_image).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    names = {
        "diagnostic": f"{stem}_ctf.mrc",
        "picture": f"{stem}_ctf.png",
        "table": f"{stem}_ctf.txt",
        "profile": f"{stem}_ctf_avrot.txt",
    }
    lens = _lens(parameters)
    shown = ctf_files.diagnostic_image(power, lens, fit, resolution_a=resolution_a)
    spacing = parameters.pixel_size
    write_mrc(folder / names["diagnostic"], shown, pixel_size_a=spacing)
    ctf_files.write_picture(
        folder / names["picture"], shown, lens, fit, profile, resolution_a=resolution_a
    )
    head = (
        "# Output from em_platform\n"
        f"# Input file: {parameters.input_image} ; Number of micrographs: 1\n"
        f"# Pixel size: {parameters.pixel_size:.4f} Angstroms ; acceleration voltage: "
        f"{parameters.voltage:.1f} keV ; spherical aberration: "
        f"{parameters.spher_aber:.2f} mm ; amplitude contrast: "
        f"{parameters.ampl_contrast:.2f}\n"
        f"# Box size: {parameters.ampl_spectrum} pixels ; min. res.: "
        f"{parameters.min_res:.1f} Angstroms ; max. res.: {parameters.max_res:.1f} "
        f"Angstroms ; min. def.: {parameters.min_defocus:.1f} Angstroms; max. def. "
        f"{parameters.max_defocus:.1f} Angstroms"
    )
    ctf_files.write_table(folder / names["table"], head, fit, resolution_a=resolution_a)
    ctf_files.write_profile(folder / names["profile"], head, profile)
    return names


def _lens(parameters: Parameters) -> "Lens":
    from em_platform.cryoem.methods.ctf import Lens

    return Lens(
        pixel_size_a=parameters.pixel_size,
        voltage_kv=parameters.voltage,
        cs_mm=parameters.spher_aber,
        amplitude_contrast=parameters.ampl_contrast,
    )
