"""Denoising of a tomogram whose clean volume is known.

Particles of many small balls in a slab; images from -60 to 60 degrees with noise, once
for even and once for odd frames. All tomograms are made by the `reconstruct` stage, the
clean one of images without noise. Each method goes through the `denoise` stage at its
defaults, and filters also at the best of several strengths, which no user knows. The
score is the correlation with the clean tomogram. PyTorch comes from an environment of
its own where the project's has none.
"""

import importlib.util
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.peers import PeerMissing, environment
from benchmarks.tilt_data import Blobs, tilt_series
from benchmarks.timing import Cost, arguments, cost_of, finish, report
from em_platform.cryoem.alignment_files import AlignedImage, write_aln
from em_platform.cryoem.stages import denoise, reconstruct

_ANGLES = np.arange(-60, 61, 3.0)
_FIRST_SEED = 6101
_SNR = 0.1
_BALLS = 14


def main() -> int:
    given = arguments(__doc__ or "", repeats=5)
    side, steps = (64, 50) if given.quick else (160, 300)
    count = 1 if given.quick else given.repeats
    found = []
    for number in range(count):
        with tempfile.TemporaryDirectory() as place:
            found.append(
                _judged(Path(place), side, steps=steps, seed=_FIRST_SEED + number)
            )
    accuracy: dict[str, float | str] = {}
    for name in found[0].scores:
        values = [each.scores[name] for each in found]
        accuracy[f"correlation, {name}"] = (
            f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        )
    costs = {
        name: Cost(
            cpu_s=float(np.median([each.costs[name].cpu_s for each in found])),
            wall_s=float(np.median([each.costs[name].wall_s for each in found])),
        )
        for name in found[0].costs
    }
    title = f"denoise {side // 2} x {side}^2, 41 tilts, {count} seeds"
    made = report(title, costs, accuracy=accuracy)
    passed = made["passed"] and all(each.passed for each in found)
    return finish([{**made, "passed": passed}], path=given.json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Correlations and costs of one specimen, by the method."""

    scores: dict[str, float]
    costs: dict[str, Cost]
    passed: bool


def _judged(folder: Path, side: int, *, steps: int, seed: int) -> _Judged:
    clean = _made(folder, side, seed=seed)
    inner = (slice(None), *(slice(side // 8, -side // 8),) * 2)

    def score(name: str, **asked: object) -> tuple[float, Cost]:
        parameters = denoise.Parameters.model_validate(
            {"volume": folder / "all_Vol.mrc", "pixel_size": 10,
             "suffix": f".{name}"} | asked
        )  # fmt: skip
        cost = cost_of(lambda: denoise.run(parameters, folder))
        found = mrcfile.read(folder / f"all_Vol.{name}.mrc")
        return _correlation(found[inner], clean[inner]), cost

    raw = mrcfile.read(folder / "all_Vol.mrc")
    scores = {"not denoised": _correlation(raw[inner], clean[inner])}
    score("warm", method="tv")  # compilation
    costs = {}
    for method in ("tv", "gaussian"):
        scores[method], costs[method] = score(method, method=method)
    tuned = {
        f"tv, strength {s:g}": score("t", method="tv", strength=s)[0] for s in (2, 3, 4)
    } | {
        f"gaussian, sigma {s:g}": score("t", method="gaussian", sigma=s)[0]
        for s in (1, 1.5, 3)
    }
    passed = True
    try:
        _find_torch()
        halves = {half: folder / f"{half}_Vol.mrc" for half in ("even", "odd")}
        network = {"method": "n2n", "training_steps": steps, **halves}
        scores["n2n"], costs["n2n"] = score("n2n", **network)
        passed = scores["n2n"] > max(scores["tv"], scores["gaussian"])
        few = network | {"training_steps": 3}
        for name in ("once", "twice"):
            score(name, **few)
        same = {
            (folder / f"all_Vol.{name}.mrc").read_bytes() for name in ("once", "twice")
        }
        passed = passed and len(same) == 1
    except PeerMissing as missing:
        print(f"  left out: {missing}")
    scores["best of other strengths"] = max(tuned.values())
    return _Judged(scores=scores, costs=costs, passed=passed)


def _made(folder: Path, side: int, *, seed: int) -> np.ndarray:
    """Tomograms of all, even and odd frames in `folder`; the clean one is returned."""
    rng = np.random.default_rng(seed)
    particles = _particles(rng, side)
    series = tilt_series(particles, rng, size=side, angles_deg=_ANGLES)
    spread = float(series.images[len(_ANGLES) // 2].std()) / np.sqrt(_SNR)
    # A half has twice the variance of the whole.
    even, odd = (
        series.images
        + np.float32(np.sqrt(2) * spread)
        * rng.standard_normal(series.images.shape, dtype=np.float32)
        for _ in range(2)
    )
    stacks = {"clean": series.images, "even": even, "odd": odd, "all": (even + odd) / 2}
    for name, images in stacks.items():
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(images)
        aligned = [
            AlignedImage(
                section=i, angle_deg=float(a), dx_px=0, dy_px=0, rotation_deg=0
            )
            for i, a in enumerate(_ANGLES)
        ]
        write_aln(
            folder / f"{name}.aln", aligned, shape=images.shape, excluded=[],
            offset_deg=0, thickness_px=None,
        )  # fmt: skip
        asked = reconstruct.Parameters(
            stack_file=folder / f"{name}.mrc", pixel_size=10, out_bin=1,
            vol_z=side // 2,
        )  # fmt: skip
        reconstruct.run(asked, folder)
    return np.asarray(mrcfile.read(folder / "clean_Vol.mrc"))


def _particles(rng: np.random.Generator, side: int) -> Blobs:
    """Hollow particles: small balls on spheres, so that they have an inside to lose."""
    width = 2.2 * side
    count = int(2.5e-3 * width**2)
    half = np.array([width / 2, width / 2, 0.18 * side])
    middles = rng.uniform(-half, half, (count, 3))
    ways = rng.standard_normal((count, _BALLS, 3))
    ways /= np.linalg.norm(ways, axis=2, keepdims=True)
    places = (middles[:, None] + 5 * ways).reshape(-1, 3)
    return Blobs(
        places=places,
        sigma_px=np.full(len(places), 1.3),
        weights=np.ones(len(places)),
    )


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def _find_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        folder = environment("torch").parent.parent / "lib" / version / "site-packages"
        sys.path.append(str(folder))  # last: the project's own packages count first


if __name__ == "__main__":
    raise SystemExit(main())
