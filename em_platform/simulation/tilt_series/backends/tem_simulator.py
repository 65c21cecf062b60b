"""TEM-simulator 1.3 (Rullgård et al. 2011) as the maker of the images.

It runs once for each tilt, with the angles, shifts, doses and defoci of our truth and a
seed of that tilt: so a stack is resumed and made by several cores as with our own, and
the same bytes come out again.
"""

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import sqrt
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from em_platform.errors import ConfigError, FormatError, ToolFailed, ToolMissing
from em_platform.formats.mrc import read_mrc
from em_platform.formats.source import open_source
from em_platform.model.sentences import size_of
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.plan import Plan, generator
from em_platform.simulation.tilt_series.series import TiltImage
from em_platform.simulation.tilt_series.tem_config import (
    Component,
    table_text,
    text_of,
)
from em_platform.simulation.tilt_series.truth import zxz_deg
from em_platform.stitching.compute import Mapper, serial

log = logging.getLogger(__name__)

_PROGRAM = "TEM-simulator"
_MOST_KINDS = 20  # components of one kind that it reads
_SENSOR_PIXEL_UM = 15.0  # any: only its ratio to the magnification counts
_FOCAL_MM = 3.0  # any: only its ratio to the aperture counts
_ENDLESS_NM = 1e5  # a hole without a border in any field of view

_NOT_MODELLED: dict[str, Callable[[Plan], bool]] = {
    "beam.energy_filter": lambda plan: plan.beam.energy_filter,
    "ice.grain": lambda plan: plan.ice.grain,
    "errors.radiation_damage": lambda plan: plan.errors.radiation_damage,
    "mode: linear": lambda plan: plan.mode == "linear",
}
"""What a plan has by default and this program has not: it is left out."""


class TemSimulator:
    """The program at `executable`, once a tilt; by `run` several at a time.

    ToolMissing where there is none.
    """

    name = "tem_simulator"

    def __init__(
        self, executable: str = "", *, run: Mapper = serial, timeout_s: float = 3600
    ) -> None:
        found = shutil.which(
            str(Path(executable).expanduser()) if executable else _PROGRAM
        )
        if found is None:
            raise ToolMissing(
                f"TEM-simulator: found no program {executable or _PROGRAM}"
                f"{'' if executable else ' on PATH'}, TEM-simulator 1.3 was expected; "
                "name it by --tem-simulator or tilt_series.tem_simulator, or leave "
                "--backend out"
            )
        self._executable = str(Path(found).absolute())
        self._run_all = run
        self._timeout_s = timeout_s

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        """The images of `tilts`, in their order.

        Raises
        ------
        ConfigError
            The plan asks for what the program cannot do.
        ToolFailed
            It ended with an error, left no images, or took too long.
        """
        check_plan(plan, sample)
        with tempfile.TemporaryDirectory(prefix="em-platform-tem-") as name:
            folder = Path(name)
            write_sample(folder, sample)
            make = partial(self._image, plan, stack, sample=sample, folder=folder)
            yield from self._run_all(make, tilts)

    def _image(
        self, plan: Plan, stack: int, tilt: Tilt, *, sample: Sample, folder: Path
    ) -> TiltImage:
        own = folder / f"tilt-{tilt.index}"
        own.mkdir()
        tables = tilt_tables(plan, tilt)
        for name, text in tables.items():
            (own / name).write_text(text)
        text = text_of(components(plan, stack, tilt, sample=sample, folder=folder))
        (own / "sim.txt").write_text(text)
        self._run(own)
        shape = plan.camera.height_px, plan.camera.width_px
        noisy, clean = (self._read(own, name, shape) for name in ("noisy", "clean"))
        shutil.rmtree(own)
        return TiltImage(noisy=noisy, clean=clean)

    def _run(self, folder: Path) -> None:
        try:
            subprocess.run(
                [self._executable, "sim.txt"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise ToolFailed(
                f"TEM-simulator: a tilt took longer than {self._timeout_s:g} s and was "
                "ended; raise tilt_series.tem_simulator_timeout_s or lower the image"
            ) from error
        except OSError as error:
            raise ToolFailed(
                f"TEM-simulator: {self._executable} cannot be run ({error.strerror}); "
                "name the program by --tem-simulator"
            ) from error
        except subprocess.CalledProcessError as error:
            raise ToolFailed(
                f"TEM-simulator: it ended with status {error.returncode}: "
                f"{_last_words(folder, error.stdout + error.stderr)}; correct the plan"
            ) from error

    def _read(
        self, folder: Path, name: str, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        # It ends with status 0 even where it could not write, so the file decides.
        try:
            return read_image(folder / f"{name}.mrc", shape=shape)
        except (OSError, FormatError) as error:
            raise ToolFailed(
                f"TEM-simulator: it left no {name} image of {size_of(shape)}: "
                f"{_last_words(folder, b'')}; correct the plan"
            ) from error


def check_plan(plan: Plan, sample: Sample) -> None:
    """Refuse what TEM-simulator cannot image; log what it leaves out.

    Raises
    ------
    ConfigError
        Astigmatism, a phase plate, movies, too many kinds of particles.
    """
    refused = {
        "objective.astigmatism_nm": plan.objective.astigmatism_nm != 0,
        "objective.phase_plate_deg": plan.objective.phase_plate_deg != 0,
        "camera.frames": plan.camera.frames > 1,
        f"more than {_MOST_KINDS} different maps": len(sample.maps) > _MOST_KINDS,
        "a density besides particles": sample.density is not None,
    }
    for what, asked in refused.items():
        if asked:
            raise ConfigError(
                f"TEM-simulator: found {what} in the plan, it has none of that; take "
                "it out or use --backend embedded"
            )
    left = [name for name, asked in _NOT_MODELLED.items() if asked(plan)]
    if left:
        log.warning(
            "TEM-simulator leaves out what it does not model: %s", ", ".join(left)
        )


def write_sample(folder: Path, sample: Sample) -> None:
    """Write the maps and, for each, the table of its particles.

    Coordinates are nm and angles ZXZ in degrees, with nine digits.
    """
    for number, each in enumerate(sample.maps):
        _write_map(folder / f"map-{number}.mrc", each)
        own = [p for p in sample.particles if p.template == number]
        turns = np.array([p.rotation for p in own]).reshape(-1, 3, 3)
        angles = zxz_deg(Rotation.from_matrix(turns)).tolist()
        rows = [(*p.position_nm, *a) for p, a in zip(own, angles, strict=True)]
        text = table_text(rows, columns=6)
        (folder / f"particles-{number}.txt").write_text(text)


def tilt_tables(plan: Plan, tilt: Tilt) -> dict[str, str]:
    """The tables of one tilt by the name of their file: all as in our truth."""
    axis, angle = tilt.axis_deg, tilt.tilt_deg
    # Its image has the specimen's middle between two pixels, ours on pixel n // 2.
    half_y, half_x = (
        plan.pixel_nm / 2 * (1 - size % 2)
        for size in (plan.camera.height_px, plan.camera.width_px)
    )
    y, x = tilt.shift_nm[0] + half_y, tilt.shift_nm[1] + half_x
    defocus_um = (tilt.defocus.u_nm + tilt.defocus.v_nm) / 2 / 1000
    return {
        "geometry.txt": table_text([(-axis, angle, axis)], columns=3),
        "errors.txt": table_text([(0, 0, 0, x, y)], columns=5),
        "dose.txt": table_text([(tilt.dose_per_nm2,)], columns=1),
        "defocus.txt": table_text([(defocus_um,)], columns=1),
    }


def components(
    plan: Plan, stack: int, tilt: Tilt, *, sample: Sample, folder: Path
) -> list[Component]:
    """The configuration of one tilt, to be run in a folder below `folder`."""
    seed = int(generator(plan, "noise", stack, tilt.index).integers(1, 2**31))
    ice, beam = plan.ice, plan.beam
    found = [
        Component(
            kind="simulation",
            values={
                "generate_micrographs": True,
                "log_file": "log.txt",
                "rand_seed": seed,
            },
        ),
        Component(
            kind="sample",
            values={
                "diameter": ice.hole_nm or _ENDLESS_NM,
                "thickness_center": ice.thickness_nm,
                "thickness_edge": ice.edge_thickness_nm or ice.thickness_nm,
            },
        ),
        Component(
            kind="geometry",
            values={
                "gen_tilt_data": False,
                "ntilts": 1,
                "geom_file_in": "geometry.txt",
                "geom_errors": "file",
                "error_file_in": "errors.txt",
            },
        ),
        Component(
            kind="electronbeam",
            values={
                "acc_voltage": beam.voltage_kv,
                # Its spread is sqrt(2) standard deviations, see ets_physics.
                "energy_spread": sqrt(2) * beam.energy_spread_ev,
                "gen_dose": False,
                "dose_file_in": "dose.txt",
            },
        ),
        _optics(plan),
        _detector(plan, "noisy"),
        _detector(plan, "clean"),
    ]
    for number in range(len(sample.maps)):
        if any(each.template == number for each in sample.particles):
            found += _particles(plan, number, folder)
    return found


def _particles(plan: Plan, number: int, folder: Path) -> list[Component]:
    """One kind of particle, and where its particles are."""
    amplitude = plan.objective.amplitude_contrast
    name = f"kind{number}"
    kind = Component(
        kind="particle",
        name=name,
        values={
            "source": "map",
            "map_file_re_in": folder / f"map-{number}.mrc",
            "use_imag_pot": False,
            "famp": amplitude / sqrt(1 - amplitude**2) if amplitude < 1 else 1.0,
        },
    )
    places = Component(
        kind="particleset",
        values={
            "particle_type": name,
            "particle_coords": "file",
            "coord_file_in": folder / f"particles-{number}.txt",
        },
    )
    return [kind, places]


def _optics(plan: Plan) -> Component:
    objective = plan.objective
    # Without an aperture one that lets all pass that a pixel can show.
    half_mrad = objective.aperture_mrad or 100.0
    return Component(
        kind="optics",
        values={
            "magnification": 1000 * _SENSOR_PIXEL_UM / plan.pixel_nm,
            "cs": objective.spherical_mm,
            "cc": objective.chromatic_mm,
            "aperture": 2 * half_mrad * _FOCAL_MM,
            "focal_length": _FOCAL_MM,
            "cond_ap_angle": plan.beam.convergence_mrad,
            "gen_defocus": False,
            "defocus_file_in": "defocus.txt",
        },
    )


def _detector(plan: Plan, name: str) -> Component:
    camera = plan.camera
    return Component(
        kind="detector",
        values={
            "det_pix_x": camera.width_px,
            "det_pix_y": camera.height_px,
            "pixel_size": _SENSOR_PIXEL_UM,
            "gain": camera.gain,
            "use_quantization": name == "noisy",
            "dqe": camera.dqe,
            "mtf_a": camera.mtf_a,
            "mtf_b": camera.mtf_b,
            "mtf_c": camera.mtf_c,
            "mtf_alpha": camera.mtf_alpha,
            "mtf_beta": camera.mtf_beta,
            "image_file_out": f"{name}.mrc",
        },
    )


def _write_map(path: Path, each: DensityMap) -> None:
    """Write a map whose middle voxel `n // 2` is its geometric middle: odd sides.

    TEM-simulator takes the mean of the border for that of the ice; ours is zero.
    """
    odd = [(0, 1 - size % 2) for size in each.potential_v.shape]
    with mrcfile.new(path, np.pad(each.potential_v, odd)) as file:
        file.voxel_size = 10 * each.voxel_nm


def read_image(path: Path, *, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The image of an MRC that TEM-simulator wrote, `(h, w)`.

    Its header has a version of 0, an extended header of two bytes a tilt and no RMS,
    so that `mrcfile.validate` refuses the file; grey levels are right. Our own stacks
    are written anew from them.

    Raises
    ------
    FormatError
        It is cut short, or the image has another size.
    """
    image = read_mrc(open_source(str(path)), 0)
    if image.shape != shape:
        raise FormatError(
            f"{path}: found an image of {size_of(image.shape)}, "
            f"{size_of(shape)} were expected; run TEM-simulator again"
        )
    return np.ascontiguousarray(image, np.float32)


def _last_words(folder: Path, printed: bytes) -> str:
    """The last warning that it printed or logged."""
    text = printed.decode(errors="replace")
    if (folder / "log.txt").is_file():
        text += (folder / "log.txt").read_text(errors="replace")
    lines = [line.strip("# ") for line in text.splitlines() if line.strip("# ")]
    warnings = [
        line for line in lines if "arning" in line or "rror" in line or "not" in line
    ]
    return (warnings or lines or ["it printed nothing"])[-1]
