"""What of the microscope decides the contrast of its images, in one place.

The fit of the CTF, the programs of others, STAR files and ISPyB's rows all have it from
here, by the names that messages of cryo-EM services give it.
"""

from typing import Annotated, Any

from pydantic import AliasChoices, Field, ValidationError

from em_platform.config.cryoem import (
    AMPLITUDE_CONTRAST,
    CS_MM,
    MOST_CS_MM,
    SessionSettings,
)
from em_platform.cryoem.stage import (
    GivenStages,
    Option,
    RawParameters,
    RelionOptions,
    StageParameters,
    names_of,
    overlaid,
)
from em_platform.errors import MessageRejected
from em_platform.model.base import first_problem

_STAGES = ("motion", "ctf", "extract", "tilt-align", "reconstruct")
"""Those that take it."""


class Optics(StageParameters):
    """Voltage, spherical aberration and amplitude contrast of images."""

    voltage: Annotated[
        float, Option("--voltage-kv", "of the microscope, in kV", "voltage_kv")
    ] = Field(300.0, ge=1, le=10_000, validation_alias=AliasChoices("voltage", "kv"))
    spher_aber: Annotated[float, Option("--cs-mm", "spherical aberration in mm")] = (
        Field(
            CS_MM,
            ge=0,
            le=MOST_CS_MM,
            validation_alias=AliasChoices("spher_aber", "cs"),
        )
    )
    ampl_contrast: Annotated[
        float, Option("--amplitude-contrast", "fraction, 0 to 1")
    ] = Field(
        AMPLITUDE_CONTRAST,
        ge=0,
        le=1,
        validation_alias=AliasChoices("ampl_contrast", "amplitude_contrast"),
    )

    @property
    def optics(self) -> RelionOptions:
        """These three, as steps hand them on."""
        return {name: getattr(self, name) for name in Optics.model_fields}


def stated_optics(blob: Any) -> RawParameters:
    """What a table of a message says of it; a null says nothing, 0 does."""
    names = set[str]().union(*names_of(Optics))
    there = blob if isinstance(blob, dict) else {}
    return {k: v for k, v in there.items() if k in names and v is not None}


def optics_of(*blobs: Any) -> Optics:
    """What tables of a message say of it, the last first; else what is usual.

    Raises
    ------
    MessageRejected
        A value is wrong.
    """
    stated: RawParameters = {}
    for blob in blobs:
        stated = overlaid(Optics, stated, stated_optics(blob))
    try:
        return Optics.model_validate(stated)
    except ValidationError as error:
        raise MessageRejected(
            f"message: {first_problem(error)}; correct it in relion_options or ctf"
        ) from error


def stages_of(own: SessionSettings) -> GivenStages:
    """What the settings of a session say of its stages, its microscope among it."""
    values = (own.voltage_kv, own.cs_mm, own.amplitude_contrast)
    stated = stated_optics(dict(zip(Optics.model_fields, values, strict=True)))
    return {
        **own.stages,
        **{stage: {**stated, **own.stages.get(stage, {})} for stage in _STAGES},
    }
