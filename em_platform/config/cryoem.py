"""Settings of cryo-EM processing: its recipes, its broker, its records."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from em_platform.model import Model

MOST_CS_MM = 100_000.0
"""A Lorentz lens has some metres."""
CS_MM, AMPLITUDE_CONTRAST = 2.7, 0.1
"""Of most microscopes, and of proteins in ice as CTFFIND and RELION take it."""

# Names that stages have for what a session sets once.
_SET_ONCE = {
    **dict.fromkeys(("voltage", "kv"), "voltage_kv"),
    **dict.fromkeys(("spher_aber", "cs"), "cs_mm"),
    **dict.fromkeys(("ampl_contrast", "amplitude_contrast"), "amplitude_contrast"),
}


def _absolute(roots: tuple[str, ...]) -> tuple[str, ...]:
    # Another one would be the folder in which a service happens to be started.
    for root in roots:
        if not Path(root).is_absolute() and "://" not in root:
            raise ValueError(f"an absolute folder was expected, {root!r} was found")
    return roots


class RabbitmqSettings(Model):
    """Which RabbitMQ carries the messages of recipes.

    `host`, `port`, `vhost`, `username` and `password` are those of a site's zocalo or
    cryo-EM services; without a password it is the username, as for RabbitMQ's `guest`.
    `tls` encrypts and trusts `tls_ca`, or what the system trusts
    where it is empty. A message that cannot be handled yet is tried `tries` times,
    every `retry_s`, and then goes to the dead letters (`dlq.` and the queue's name).
    """

    host: str = "127.0.0.1"
    port: int = Field(default=5672, gt=0, lt=65536)  # AMQP's own
    vhost: str = "/"
    username: str = "guest"  # RabbitMQ's own, which it accepts from its host only
    password: SecretStr = SecretStr("")
    tls: bool = False
    tls_ca: str = ""
    tries: int = Field(default=5, gt=0)
    retry_s: float = Field(default=5.0, gt=0)


class SessionSettings(Model):
    """How the movies of a session are processed; what is not set is read from headers.

    `pixel_size_a` is of the movies, `dose_per_frame` in electrons per Å²; `voltage_kv`,
    `cs_mm` (spherical aberration) and `amplitude_contrast` are the microscope's. `gain`
    is the gain reference, `tilt_axis_deg` the tilt axis as SerialEM counts it.
    Particles of `particle_diameter_a` are picked, cut out and sorted into at most
    `classes`; without it movies end with their CTF. Tomograms are binned by
    `tomogram_bin`, else by up to 4 where 512 pixels are left, and are
    `tomogram_thickness_a` deep, or as deep as the ice was found to be. `ispyb_dcid` and
    `ispyb_program_id` are the data collection and the program of a site's own ISPyB;
    without them they are registered. `stages` has any other parameter of a stage by the
    name that messages give it, such as `{motion: {engine: relion}}`; live services take
    it where a message says nothing.
    """

    pixel_size_a: float | None = Field(default=None, gt=0)
    voltage_kv: float | None = Field(default=None, ge=1, le=10_000)
    dose_per_frame: float | None = Field(default=None, ge=0)
    cs_mm: float = Field(default=CS_MM, ge=0, le=MOST_CS_MM)
    amplitude_contrast: float = Field(default=AMPLITUDE_CONTRAST, ge=0, le=1)
    gain: str = ""
    tilt_axis_deg: float | None = None
    particle_diameter_a: float | None = Field(default=None, gt=0)
    classes: int = Field(default=50, ge=1, le=500)
    tomogram_bin: int | None = Field(default=None, ge=1, le=16)
    tomogram_thickness_a: float | None = Field(default=None, gt=0)
    ispyb_dcid: int | None = Field(default=None, gt=0)
    ispyb_program_id: int | None = Field(default=None, gt=0)
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _microscope_is_set_once(self) -> "SessionSettings":
        for stage, given in self.stages.items():
            for name in given.keys() & _SET_ONCE.keys():
                raise ValueError(
                    f"stages.{stage}.{name}: it is the same for all stages; set "
                    f"{_SET_ONCE[name]} of the session instead"
                )
        return self


class CryoemLimits(Model):
    """What the checks of cryo-EM warn of.

    `motion_a` is the whole way of the frames, `ctf_resolution_a` the finest fitted
    ring, `ctf_score` the least correlation of the fit, `alignment_residual_px` what is
    left between a tilt and the others, `thickness_nm` the deepest useful ice,
    `missing_tilts` how many of a series may be absent.
    """

    motion_a: float = Field(default=100.0, gt=0)
    ctf_resolution_a: float = Field(default=10.0, gt=0)
    ctf_score: float = Field(default=0.05, ge=-1, le=1)
    alignment_residual_px: float = Field(default=10.0, gt=0)
    thickness_nm: float = Field(default=400.0, gt=0)
    missing_tilts: int = Field(default=2, ge=0)


class CryoemSettings(Model):
    """Where recipes are read, and where what is found goes.

    `sessions` is the folder of acquisition sessions, one folder each, with movies and
    mdocs at any depth (empty: `cryoem` in `home`); `results` is where what is made of
    them lies (empty: `cryoem_results` in `home`). A file is complete when its size and
    times have not changed for `settle_s`. A tilt series without an mdoc, and the
    particles of a session, are taken when nothing was added for `quiet_s`. `session`
    is how sessions are processed; a `session.yaml` in a session's folder goes first.

    Files that messages of RabbitMQ name must lie in `roots`; empty means `sessions`,
    `results` and the store.

    A recipe is looked for in `recipe_folder` first, then among the platform's own.
    `ispyb_url` is the database of ISPyB's rows (`sqlite:///file`, or `mysql://`,
    `mariadb://` or `postgresql://user:password@host/name`); empty means an SQLite file
    under `home`. `rabbitmq` is the broker of live services. A new project's pipeline is
    written for `project_dialect`: `labels` for doppio and RELION from 4, `relion31`.
    """

    sessions: str = ""
    results: str = ""
    roots: Annotated[tuple[str, ...], AfterValidator(_absolute)] = ()
    settle_s: float = Field(default=60.0, ge=0)
    quiet_s: float = Field(default=1800.0, ge=0)
    session: SessionSettings = SessionSettings()
    limits: CryoemLimits = CryoemLimits()
    recipe_folder: str = ""
    ispyb_url: str = ""
    project_dialect: Literal["labels", "relion31"] = "labels"
    rabbitmq: RabbitmqSettings = RabbitmqSettings()
