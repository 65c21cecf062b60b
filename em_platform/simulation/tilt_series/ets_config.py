"""A `configs.yaml` of ETSimulations, with its sim.txt and coordinates, as a plan.

The file is taken unchanged. What differs from ETSimulations on purpose: coordinates
are multiplied by `apix` once and keep their fractions, as angles do; `coord_error`
counts wherever it stands; all draws follow from a seed; unknown keys are refused.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import mrcfile
import numpy as np
from pydantic import Field, ValidationError

from em_platform.config.reading import read_regular
from em_platform.errors import ConfigError, FormatError
from em_platform.model import JsonObject, Model
from em_platform.model.base import first_problem
from em_platform.simulation.tilt_series.assemblers.t4ss import table_orientations
from em_platform.simulation.tilt_series.ets_physics import Numbers, Physics, physics
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.tem_config import parse, read_table

Kind = TypeVar("Kind", bound=Model)

ParticleFields: TypeAlias = dict[str, str | float | None]
BeadFields: TypeAlias = dict[str, str | float]

log = logging.getLogger(__name__)

_A_PER_NM = 10


class Spread(Model):
    """A normal distribution: pixels for coordinates, degrees for angles."""

    mu: float = 0
    sigma: float = Field(ge=0)


class BasicConfigs(Model):
    """`custom_configs` of the assembler `basic`."""

    use_common_model: bool
    orientations_source: str = "none"
    orientations_error: Spread | None = None
    coord_error: Spread | None = None


class T4ssConfigs(Model):
    """`custom_configs` of the assembler `t4ss`."""

    membrane_path: str
    barrel: str | None = None
    root: str | None = None
    """The barrel, as its documentation calls it; its code reads `barrel`."""
    rod: str
    num_rods: int
    rod_distance_from_center: float
    """In Å."""
    orientations_tbl: str
    orientations_error: Spread | None = None
    coord_error: Spread | None = None


class EtsConfig(Model):
    """All keys of a `configs.yaml`, with the units that it has: `apix` in nm."""

    tem_simulator_executable: str | None = None
    chimera_exec_path: str | None = None
    num_chimera_windows: int | None = None
    num_cores: int | None = None
    email: str | None = None
    root: str
    name: str | None = None
    model: str | None = None
    config: str
    coord: str
    coord_error: Spread | None = None
    num_stacks: int = Field(ge=1)
    apix: Annotated[float, Field(gt=0)]
    defocus_values: tuple[float, ...] = Field(min_length=1)
    bead_map: str | None = None
    bead_occupancy: float = Field(0, ge=0, le=1)
    assembler: str
    custom_configs: dict[str, Any] = Field(default_factory=dict)


def is_ets_config(content: JsonObject) -> bool:
    """Whether a YAML file is one of ETSimulations rather than a plan."""
    return bool({"apix", "coord", "assembler", "custom_configs"} & content.keys())


def ets_plan(content: JsonObject, *, folder: Path) -> Plan:
    """The plan of a `configs.yaml`.

    Parameters
    ----------
    folder
        Where it lies. A path in it that does not exist is looked for below this
        folder, by its last parts, so that a copied project needs no editing.

    Raises
    ------
    ConfigError
        A key is unknown, missing or wrong, or a file is missing.
    FormatError
        A file that it names cannot be read.
    """
    config = _valid(EtsConfig, content, "configs.yaml")
    template = _found("config", config.config, folder)
    text = read_regular(template).decode(errors="replace")
    fields = physics(
        parse(text, source=template.name), apix_nm=config.apix, source=template.name
    )
    fields["objective"]["defocus_um"] = config.defocus_values
    positions_nm = _positions_nm(config, folder)
    if config.assembler == "basic":
        particles, options = _basic(config, folder)
    elif config.assembler == "t4ss":
        particles, options = _t4ss(config, folder)
    else:
        raise ConfigError(
            f"configs.yaml: found the assembler {config.assembler}, basic or t4ss was "
            "expected; write a plan for others, see docs/how-to/simulate-tilt-series.md"
        )
    beads: BeadFields = {}
    if config.bead_map is not None and config.bead_occupancy:
        path = _found("bead_map", config.bead_map, folder)
        beads = _beads(path, config.bead_occupancy, fields, apix_nm=config.apix)
    plan = {
        **fields,
        "name": config.name or Path(config.root).name,
        "stacks": config.num_stacks,
        "pixel_nm": config.apix,
        "particles": particles,
        "assembly": {
            "kind": config.assembler,
            "options": {**options, "positions_nm": positions_nm},
        },
        "beads": beads,
    }
    return _valid(Plan, plan, "configs.yaml")


def _valid(kind: type[Kind], content: Mapping[str, object], source: str) -> Kind:
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise ConfigError(
            f"{source}: {first_problem(error, kind)}; correct it, the keys are in "
            "docs/explanations/simulation.md"
        ) from error


def _found(key: str, path: str, folder: Path) -> Path:
    given = Path(path).expanduser()
    if (folder / given).is_file():
        return folder / given
    for begin in range(1, len(given.parts)):
        if (other := folder.joinpath(*given.parts[begin:])).is_file():
            log.info("configs.yaml: %s is taken from %s", key, other)
            return other
    raise ConfigError(
        f"configs.yaml: {key}: found no file {given}, there or below {folder}; correct "
        "its path"
    )


def _positions_nm(config: EtsConfig, folder: Path) -> list[list[float]]:
    table = read_table(_found("coord", config.coord, folder), least_columns=3)
    positions: list[list[float]] = (table[:, :3] * config.apix).tolist()
    return positions


def _errors(config: EtsConfig, own: BasicConfigs | T4ssConfigs) -> dict[str, Numbers]:
    """The errors of what is recorded, in nm and degrees."""
    if config.coord_error and own.coord_error not in (None, config.coord_error):
        raise ConfigError(
            "configs.yaml: found two different coord_error, in custom_configs and "
            "outside; take one out"
        )
    wrong = own.coord_error or config.coord_error
    errors: dict[str, Numbers] = {}
    if wrong:
        errors["position_error_nm"] = {
            "mu": wrong.mu * config.apix,
            "sigma": wrong.sigma * config.apix,
        }
    if own.orientations_error:
        errors["orientation_error_deg"] = own.orientations_error.model_dump()
    return errors


def _basic(config: EtsConfig, folder: Path) -> tuple[list[ParticleFields], JsonObject]:
    own = _valid(BasicConfigs, config.custom_configs, "configs.yaml: custom_configs")
    if config.model is None:
        raise ConfigError(
            "configs.yaml: found no model, a map or PDB file was expected; add it"
        )
    source: str | list[list[float]] = own.orientations_source
    if source != "none" and not own.orientations_source.startswith("gauss("):
        path = _found("orientations_source", own.orientations_source, folder)
        source = _angles(path)
    kind = _particle("BasicParticle", "model", config.model, config, folder)
    return [kind], {
        "orientations": source,
        "use_common_model": own.use_common_model,
        **_errors(config, own),
    }


def _t4ss(config: EtsConfig, folder: Path) -> tuple[list[ParticleFields], JsonObject]:
    own = _valid(T4ssConfigs, config.custom_configs, "configs.yaml: custom_configs")
    barrel = own.barrel or own.root
    if barrel is None:
        raise ConfigError(
            "configs.yaml: custom_configs: found no barrel, the path of its map was "
            "expected; add it"
        )
    named = ("membrane", own.membrane_path), ("barrel", barrel), ("rod", own.rod)
    kinds = [_particle(name, name, path, config, folder) for name, path in named]
    table = _found("orientations_tbl", own.orientations_tbl, folder)
    return kinds, {
        "num_rods": own.num_rods,
        "rod_distance_nm": own.rod_distance_from_center / _A_PER_NM,
        "orientations_deg": table_orientations(table),
        **_errors(config, own),
    }


def _particle(
    name: str, key: str, path: str, config: EtsConfig, folder: Path
) -> ParticleFields:
    file = _found(key, path, folder)
    # TEM-simulator draws atoms on voxels of one pixel; a map has its own.
    voxel_nm = config.apix if file.suffix.lower() == ".pdb" else None
    return {"name": name, "file": str(file), "voxel_nm": voxel_nm}


def _angles(path: Path) -> list[list[float]]:
    try:
        angles = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise FormatError(
            f"{path}: it cannot be read as angles ({error}), three numbers a line were "
            "expected; correct it"
        ) from error
    if angles.shape[1:] != (3,) or not len(angles):
        raise FormatError(
            f"{path}: found {angles.shape[-1]} numbers a line, the three ZXZ angles "
            "were expected; correct it"
        )
    return list(angles.tolist())


def _beads(
    path: Path, occupancy: float, fields: Physics, *, apix_nm: float
) -> BeadFields:
    """As many beads in the field of view as the occupancy says for its ice.

    TEM-simulator takes a particle for a ball as wide as its map is on average.
    """
    try:
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            header = file.header
            sides = np.array([header.nx, header.ny, header.nz], float)
            voxel_nm = float(file.voxel_size.x) / _A_PER_NM
    except ValueError as error:
        raise FormatError(
            f"{path}: it cannot be read as an MRC map ({error}), that of a bead was "
            "expected; correct bead_map"
        ) from error
    diameter_nm = float(sides.mean()) * voxel_nm
    if not diameter_nm > 0:
        raise FormatError(
            f"{path}: its header names no voxel size, that of a bead was expected; "
            "write it there"
        )
    camera, ice = fields["camera"], fields["ice"]
    area_nm2 = camera["width_px"] * camera["height_px"] * apix_nm**2
    ball_nm3 = np.pi / 6 * diameter_nm**3
    count = round(occupancy * area_nm2 * ice["thickness_nm"] / ball_nm3)
    return {"count": count, "diameter_nm": diameter_nm, "file": str(path)}
