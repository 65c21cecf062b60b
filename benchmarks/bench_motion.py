"""Motion of synthetic movies against RELION's own motion correction.

Movies of 2048^2 x 30 frames, with contrast 0.10, 0.06 and 0.041, each with five fresh
seeds, and one of 4096^2 x 32; 1 Å pixels, 1 electron a pixel and frame, about 10 px of
drift and 2 to 3 px of local motion. Judged is the root mean square error of the
shifts on 24 x 24 places and all frames, and the Fourier ring correlation of the sum
with the undamaged image. Ours is the whole stage with its files, in this process and
compiled before; RELION's is `relion_run_motioncorr` with one thread as well.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import starfile

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from cryoem_truth import TrueMovie, correlation_near, grid, motion_error, write_movie
from timing import Cost, arguments, cost_of, finish, report

from em_platform.cryoem.methods import motion
from em_platform.cryoem.stages.motion import Parameters, Result, run

CONTRASTS = (0.10, 0.06, 0.041)
NORMAL = 0.10
LARGE = "4096"
SEEDS = (7301, 7302, 7303, 7304, 7305)
"""None of them was used while constants were chosen."""
MOST_OF_RELION = 0.6
RELION = "relion_run_motioncorr"


def ours(
    movie: TrueMovie, folder: Path, patches: int
) -> tuple[Cost, Result, np.ndarray]:
    """Cost and result of the stage, and the shifts `(t, n, 2)` that its sum uses.

    Its STAR file has RELION's polynomial, which is coarser.
    """
    found: list[Result] = []
    measured: list[motion.Motion] = []
    folder.mkdir()
    parameters = Parameters.model_validate(
        {
            "movie": movie.movie,
            "pixel_size": 1.0,
            "dose_per_frame": 1.0,
            "gain_ref": movie.gain,
            "patch_sizes": {"x": patches, "y": patches},
        }
    )
    measure = motion.measure_motion

    def keep(*args: Any, **more: Any) -> motion.Motion:
        measured.append(measure(*args, **more))
        return measured[0]

    motion.measure_motion = keep
    try:
        cost = cost_of(lambda: found.append(run(parameters, folder)))
    finally:
        motion.measure_motion = measure
    return cost, found[0], measured[0].at(*grid())


def shifts_of(star: Path) -> np.ndarray:
    """Shifts `(t, n, 2)` on the grid, as RELION's STAR file has them."""
    blocks = starfile.read(star, always_dict=True)
    table = blocks["global_shift"]
    y, x = grid()
    rows = zip(table["rlnMicrographShiftY"], table["rlnMicrographShiftX"], strict=True)
    found = -np.array([[pair] * len(y) for pair in rows], float)
    if "local_motion_model" in blocks:
        numbers = np.array(blocks["local_motion_model"]["rlnMotionModelCoeff"])
        z = np.arange(len(found), dtype=float)
        time = np.stack([z, z**2, z**3], 1)
        space = np.stack([np.ones_like(x), x, x**2, y, y**2, x * y])
        # X stands before Y.
        for axis, part in ((1, numbers[:18]), (0, numbers[18:])):
            found[..., axis] -= time @ part.reshape(6, 3).T @ space
    return found


def relion(movie: TrueMovie, folder: Path, patches: int) -> tuple[Cost, Path]:
    folder.mkdir()
    name = f"Movies/{movie.movie.name}"
    (folder / "Movies").mkdir()
    (folder / name).symlink_to(movie.movie)
    (folder / "out").mkdir()  # it fails where this is missing
    (folder / "movies.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n"
        "_rlnMicrographOriginalPixelSize\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\nopticsGroup1 1 1.0 300 2.7 0.07\n\n"
        "data_movies\n\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\n"
        f"{name} 1\n"
    )
    command = [RELION, "--i", "movies.star", "--o", "out/", "--use_own", "--j", "1"]
    command += ["--bin_factor", "1", "--bfactor", "150", "--dose_per_frame", "1"]
    command += ["--preexposure", "0", "--dose_weighting", "--gainref", str(movie.gain)]
    command += ["--patch_x", str(patches), "--patch_y", str(patches)]

    def act() -> None:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{RELION}: {done.stderr.strip()[-300:]}")

    cost = cost_of(act)
    return cost, folder / "out" / name


def judge(movie: TrueMovie, folder: Path, *, with_relion: bool) -> dict[str, Any]:
    """Errors, ring correlations and costs of one movie."""
    rows: dict[str, Any] = {}
    for patches in (1, 5):
        where = folder / f"ours{patches}"
        cost, result, field = ours(movie, where, patches)
        rows[f"ours {patches}x{patches}"] = {
            "error_px": motion_error(field, movie),
            "frc": correlation_near(
                mrcfile.read(where / result.micrograph), movie.clean, 1
            ),
            "cost": cost,
            "is_local": result.is_local,
        }
        shutil.rmtree(where)
        if with_relion:
            where = folder / f"relion{patches}"
            cost, micrograph = relion(movie, where, patches)
            rows[f"RELION {patches}x{patches}"] = {
                "error_px": motion_error(
                    shifts_of(micrograph.with_suffix(".star")), movie
                ),
                "frc": correlation_near(
                    mrcfile.read(micrograph.with_suffix(".mrc")), movie.clean, 1
                ),
                "cost": cost,
            }
            shutil.rmtree(where)
    return rows


def main() -> int:
    args = arguments(__doc__ or "", cases=(*map(str, CONTRASTS), LARGE))
    with_relion = shutil.which(RELION) is not None
    if not with_relion:
        print(f"{RELION} is not on PATH: left out")
    seeds = SEEDS[:1] if args.quick else SEEDS
    side, frames = (1024, 20) if args.quick else (2048, 30)
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Compiled and loaded before anything is measured.
        warm = write_movie(Path(folder), side=256, frames=4, contrast=0.1, seed=1)
        ours(warm, Path(folder) / "warm", 5)
        contrasts = [each for each in CONTRASTS if str(each) in args.only]
        cases = [(side, frames, c, seed) for seed in seeds for c in contrasts]
        if not args.quick and LARGE in args.only:
            cases.append((4096, 32, NORMAL, SEEDS[0]))
        for case in cases:
            own = Path(folder) / "-".join(map(str, case))
            own.mkdir()
            movie = write_movie(
                own, side=case[0], frames=case[1], contrast=case[2], seed=case[3]
            )
            rows = judge(movie, own, with_relion=with_relion)
            shown = ", ".join(
                f"{name} {row['error_px']:.3f} px {row['cost'].cpu_s:.1f} s"
                for name, row in rows.items()
            )
            print(
                f"{case[0]}^2 x {case[1]}, {case[2]}, seed {case[3]}: {shown}",
                flush=True,
            )
            found.setdefault(f"{case[0]}^2 x {case[1]}, contrast {case[2]}", []).append(
                rows
            )
            shutil.rmtree(own)
    reports = [summary(title, rows) for title, rows in found.items()]
    return finish(reports, path=args.json)


def summary(title: str, movies: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the movies, with the promises."""
    accuracy: dict[str, float | str] = {}
    for name in movies[0]:
        errors = [rows[name]["error_px"] for rows in movies]
        accuracy[f"{name}: error px"] = (
            f"{np.median(errors):.3f} ({min(errors):.3f} to {max(errors):.3f})"
        )
        frc = [list(rows[name]["frc"].values()) for rows in movies]
        accuracy[f"{name}: FRC at 10, 6, 4 Å"] = json.dumps(
            [round(float(v), 3) for v in np.median(frc, axis=0)]
        )
    costs = {
        name: Cost(
            cpu_s=float(np.median([rows[name]["cost"].cpu_s for rows in movies])),
            wall_s=float(np.median([rows[name]["cost"].wall_s for rows in movies])),
        )
        for name in ("ours 5x5", "ours 1x1", "RELION 5x5", "RELION 1x1")
        if name in movies[0]
    }
    for rows in movies:
        local, whole = rows["ours 5x5"]["error_px"], rows["ours 1x1"]["error_px"]
        assert local <= whole * 1.001, f"{title}: local {local} is worse than {whole}"
    if f"contrast {NORMAL}" in title and "RELION 5x5" in movies[0]:
        local, theirs = (
            float(np.median([rows[name]["error_px"] for rows in movies]))
            for name in ("ours 5x5", "RELION 5x5")
        )
        assert local <= MOST_OF_RELION * theirs, f"{title}: {local}, RELION {theirs}"
    wanted = {"RELION 5x5": 1.0} if "RELION 5x5" in costs else {}
    return report(f"motion, {title}", costs, accuracy=accuracy, wanted=wanted)


if __name__ == "__main__":
    sys.exit(main())
