"""What a data set of simulated tilt series is made of: one validated file, with units.

`em-platform simulate` reads it as YAML; a configuration of ETSimulations is turned into
it by `ets_config`. Every random number follows from `seed` and what it is drawn for, so
any tilt of any stack can be made again alone, with the same bits.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from em_platform.model import Model

Fraction = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=1e-4, le=1e5)]
Mtf = Annotated[float, Field(ge=-1e6, le=1e6)]
Defocus = Annotated[float, Field(ge=-1e4, le=1e4)]
Count = Annotated[int, Field(ge=0, le=100_000)]
# Beyond these a number is a slip of the keyboard, and takes all memory or gives NaN.
_MOST_MM, _MOST_MRAD, _MOST_UM, _MOST_NM = 1e5, 1e3, 1e4, 1e5
_MOST_BEAD_PX = 512
_MOST_LABELS = 1 << 30

FIDUCIAL = "Fiducial"
"""The map of gold beads; ETSimulations calls them so."""


class Order(StrEnum):
    """In which order the angles of a tilt series are taken."""

    LINEAR = "linear"
    BIDIRECTIONAL = "bidirectional"
    DOSE_SYMMETRIC = "dose_symmetric"


class TiltScheme(Model):
    """The nominal angles, and when each is taken."""

    first_deg: float = Field(-60, gt=-90, lt=90)
    step_deg: float = Field(3, gt=0, le=30)
    tilts: int = Field(41, ge=1, le=2000)
    axis_deg: float = Field(0, ge=-360, le=360)
    """Of the tilt axis from the image's x axis."""
    order: Order = Order.DOSE_SYMMETRIC
    group: int = Field(1, ge=1)
    """Tilts of one side in a row, with `dose_symmetric` (Hagen et al. 2017)."""

    @model_validator(mode="after")
    def _stays_below_90(self) -> "TiltScheme":
        last = self.first_deg + (self.tilts - 1) * self.step_deg
        if last >= 90:
            raise ValueError(
                f"the last of {self.tilts} tilts is at {last:g} degrees, less than 90 "
                "was expected; lower tilts or step_deg"
            )
        return self


class Beam(Model):
    """The electrons before the sample."""

    voltage_kv: float = Field(300, ge=20, le=1500)
    energy_spread_ev: float = Field(0.7, ge=0, le=1000)
    """Standard deviation."""
    convergence_mrad: float = Field(0.05, ge=0, le=_MOST_MRAD)
    """Half-width of the illumination, where it falls to 1/e."""
    dose_per_tilt_e_per_nm2: float = Field(300, gt=0, le=1e8)
    """3 e/A^2, as most tilt series have."""
    dose_spread: Fraction = 0
    """Standard deviation of a tilt's dose, as a share of it."""
    energy_filter: bool = True


class Objective(Model):
    """The objective lens; defocus i belongs to the stacks i, i + n, ..."""

    defocus_um: tuple[Defocus, ...] = Field((3.0,), min_length=1)
    """Underfocus is positive."""
    defocus_spread_um: float = Field(0, ge=0, le=_MOST_UM)
    """Standard deviation of a tilt's defocus."""
    astigmatism_nm: float = Field(0, ge=-_MOST_NM, le=_MOST_NM)
    """Half of the difference of the two defoci."""
    astigmatism_azimuth_deg: float = Field(0, ge=-360, le=360)
    spherical_mm: float = Field(2.7, ge=0, le=_MOST_MM)
    chromatic_mm: float = Field(2.7, ge=0, le=_MOST_MM)
    aperture_mrad: float = Field(0, ge=0, le=_MOST_MRAD)
    """Half of the opening angle; 0: none."""
    amplitude_contrast: Fraction = 0.07
    phase_plate_deg: float = Field(0, ge=0, lt=180)


class Camera(Model):
    """The detector; see `detector.Detector` for its transfer function."""

    width_px: int = Field(1024, ge=16, le=16384)
    height_px: int = Field(1024, ge=16, le=16384)
    gain: float = Field(1, gt=0, le=1e6)
    dqe: float = Field(0.8, gt=0, le=1)
    mtf_a: Mtf = 0
    mtf_b: Mtf = 0
    mtf_c: Mtf = 1
    mtf_alpha: Mtf = 0
    mtf_beta: Mtf = 0
    frames: int = Field(1, ge=1, le=1000)
    """Of each tilt's movie; 1: no movies are written."""


class Ice(Model):
    """The film of ice that holds the particles, and the carbon round its hole."""

    thickness_nm: float = Field(100, gt=0, le=10_000)
    edge_thickness_nm: float = Field(0, ge=0, le=10_000)
    """At the hole's edge; 0: as in the middle."""
    hole_nm: float = Field(0, ge=0, le=1e6)
    """Diameter; 0: ice without end."""
    grain: bool = True
    """Whether the ice itself scatters, which draws Thon rings."""
    density_g_per_cm3: float = Field(0.93, gt=0, le=2)
    inelastic_nm: float = Field(310, ge=0, le=1e6)
    """Mean free path between losses of energy (Rice et al. 2018 at 300 kV); 0: by the
    cross sections of the atoms, as TEM-simulator has it."""


class Errors(Model):
    """What goes wrong with the stage and the sample; standard deviations."""

    tilt_deg: float = Field(0, ge=0, le=90)
    rotation_deg: float = Field(0, ge=0, le=360)
    shift_nm: float = Field(0, ge=0, le=_MOST_NM)
    drift_nm_per_frame: float = Field(0, ge=0, le=_MOST_NM)
    """Of the sample between two frames of a movie, in each direction."""
    radiation_damage: bool = True
    """Fine detail fades with the dose (Grant & Grigorieff 2015)."""


class ParticleKind(Model):
    """One map of the library: a model of atoms or a density."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")
    file: str
    """PDB, mmCIF (also `.gz`) or MRC."""
    voxel_nm: Length | None = None
    """Of the map that is made of atoms, or of an MRC whose header is wrong."""
    peak_v: float | None = Field(None, gt=0, le=1e5)
    """Scale of a density that is no potential: its largest value above ice, V."""
    assembly: str = ""
    """Of an mmCIF: the number of its biological assembly; empty: the model itself."""


class Assembly(Model):
    """Which assembler arranges the particles, and its options."""

    kind: str = "crowded"
    options: dict[str, Any] = Field(default_factory=dict)


class Beads(Model):
    """Gold fiducials, spread at random over the ice."""

    count: Count = 0
    diameter_nm: Length = 10
    file: str = ""
    """A map (or model of atoms) to be taken instead of a ball of gold."""


class Outputs(Model):
    """What is written beside images, tables and truth."""

    label_pixels: int = Field(4, ge=0, le=64)
    """Pixels in an edge of a voxel of the label volume; 0: no labels."""
    previews: bool = True
    """Whether pictures for the eye are written."""


class Plan(Model):
    """A data set: `stacks` tilt series that differ in their random numbers only."""

    version: Literal[1] = 1
    name: str = Field("simulation", pattern=r"^[A-Za-z0-9_.-]{1,80}$")
    seed: int = Field(0, ge=0)
    """All random numbers follow from it."""
    stacks: int = Field(1, ge=1, le=100_000)
    pixel_nm: Length = 0.5
    mode: Literal["linear", "multislice"] = "linear"
    """`linear` for weak objects such as protein; `multislice` for gold, too."""
    tilts: TiltScheme = TiltScheme()
    beam: Beam = Beam()
    objective: Objective = Objective()
    camera: Camera = Camera()
    ice: Ice = Ice()
    errors: Errors = Errors()
    particles: tuple[ParticleKind, ...] = ()
    assembly: Assembly = Assembly()
    beads: Beads = Beads()
    outputs: Outputs = Outputs()

    @model_validator(mode="after")
    def _names_differ(self) -> "Plan":
        names = [kind.name for kind in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two particles are named {twice[0]}, each needs its own name"
            )
        return self

    @model_validator(mode="after")
    def _fits_into_memory(self) -> "Plan":
        bead_px = self.beads.diameter_nm / self.pixel_nm
        if self.beads.count and bead_px > _MOST_BEAD_PX:
            raise ValueError(
                f"beads.diameter_nm: a bead has {bead_px:.0f} pixels, at most "
                f"{_MOST_BEAD_PX} were expected"
            )
        if edge := self.outputs.label_pixels:
            deep = self.ice.thickness_nm / self.pixel_nm
            voxels = self.camera.width_px * self.camera.height_px * deep / edge**3
            if voxels > _MOST_LABELS:
                raise ValueError(
                    f"outputs.label_pixels: labels of {voxels:.1e} voxels, at most "
                    f"{_MOST_LABELS:.1e} were expected"
                )
        return self

    @property
    def sources(self) -> tuple[ParticleKind, ...]:
        """All whose map comes from a file: the particles, then the bead if it does."""
        if not self.beads.file:
            return self.particles
        bead = ParticleKind(name=FIDUCIAL, file=self.beads.file)
        return (*self.particles, bead)

    def stack_name(self, number: int) -> str:
        """The name of a stack, which is its folder and its partition."""
        return f"{self.name}-{number:04d}"


PURPOSES = ("sample", "geometry", "dose", "defocus", "grain", "noise", "drift", "beads")
"""What random numbers are drawn for; a new one goes to the end, so none moves."""


def generator(plan: Plan, purpose: str, *indices: int) -> np.random.Generator:
    """The random numbers of one purpose in one place, such as the noise of one tilt.

    Each has a seed of its own, so none depends on what was drawn before it, in which
    order, or by how many processes.
    """
    entropy = (plan.seed, PURPOSES.index(purpose), *indices)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def angles(scheme: TiltScheme) -> list[tuple[float, int]]:
    """Each nominal angle by rising angle, deg, with its number in time."""
    degrees = [scheme.first_deg + i * scheme.step_deg for i in range(scheme.tilts)]
    by_time = _in_time(degrees, scheme)
    number = {index: time for time, index in enumerate(by_time)}
    return [(angle, number[index]) for index, angle in enumerate(degrees)]


def _in_time(degrees: list[float], scheme: TiltScheme) -> list[int]:
    everything = list(range(len(degrees)))
    if scheme.order is Order.LINEAR:
        return everything
    start = min(everything, key=lambda i: (abs(degrees[i]), i))
    up, down = everything[start:], everything[:start][::-1]
    if scheme.order is Order.BIDIRECTIONAL:
        return up + down
    taken = [up.pop(0)]
    while up or down:
        for side in (up, down):
            taken += side[: scheme.group]
            del side[: scheme.group]
    return taken
