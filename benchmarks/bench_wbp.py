"""Weighted back-projection of 41 images of 1024^2 to 512 x 1024 x 1024.

The same images, of blobs whose density is known, go through the `reconstruct` stage:
reading, filter, back-projection, and the tomogram's file. Beside it astra-toolbox
(GPL-3, an environment of its own) makes the same slices by FBP on the CPU, in one
thread, without reading or writing files. Both are compared with the density, shell by
shell, where the tilts have it.
"""

import json
import resource
import subprocess
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.peers import PeerMissing, environment
from benchmarks.rings import ring_correlation
from benchmarks.tilt_data import blobs, tilt_series, volume_of
from benchmarks.timing import Cost, arguments, cost_of, finish, report
from em_platform.cryoem.alignment_files import AlignedImage, write_aln
from em_platform.cryoem.stages.reconstruct import Parameters, run

_ANGLES = np.arange(-60, 61, 3.0)
_SEED = 2024
# In the middle; compared with the density.
_ROWS = 8
_SHELLS = 20
_MOST_MB = 3072

_PEER = """
import json, sys, time
import astra
import numpy as np
lines = np.load(sys.argv[1])
angles, deep = np.deg2rad(np.array(json.loads(sys.argv[2]))), int(sys.argv[3])
rows, tilts, width = lines.shape
first, last = json.loads(sys.argv[5])
volume = astra.create_vol_geom(deep, width)
shape = astra.create_proj_geom("parallel", 1.0, width, angles)
projector = astra.create_projector("linear", shape, volume)
out = np.empty((last - first, deep, width), np.float32)
started = time.process_time(), time.perf_counter()
for row in range(rows):
    sinogram = astra.data2d.create("-sino", shape, lines[row])
    target = astra.data2d.create("-vol", volume)
    settings = astra.astra_dict("FBP")
    settings["ProjectorId"] = projector
    settings["ProjectionDataId"] = sinogram
    settings["ReconstructionDataId"] = target
    identity = astra.algorithm.create(settings)
    astra.algorithm.run(identity)
    found = astra.data2d.get(target)
    if first <= row < last:
        out[row - first] = found
    astra.algorithm.delete(identity)
    astra.data2d.delete([sinogram, target])
took = time.process_time() - started[0], time.perf_counter() - started[1]
np.save(sys.argv[4], out)
print(json.dumps(took))
"""


def main() -> int:
    given = arguments(__doc__ or "", repeats=1)
    side = 256 if given.quick else 1024
    deep = side // 2
    rng = np.random.default_rng(_SEED)
    specimen = blobs(rng, size=side, thickness_px=0.8 * deep)
    series = tilt_series(specimen, rng, size=side, angles_deg=_ANGLES)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, series.images)
        asked = Parameters(
            stack_file=folder / "wbp.mrc", pixel_size=10, out_bin=1, vol_z=deep,
            cutoff=0.45,
        )  # fmt: skip
        _warm_up(folder)
        costs = {"ours": cost_of(lambda: run(asked, folder))}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        costs["ours"] = Cost(
            cpu_s=costs["ours"].cpu_s, wall_s=costs["ours"].wall_s, peak_mb=peak
        )
        middle = side // 2
        rows = slice(middle - _ROWS // 2, middle + _ROWS // 2)
        with mrcfile.mmap(folder / "wbp_Vol.mrc") as file:
            ours = np.array(file.data[:, rows])
        true = volume_of(specimen, (deep, side, side), rows=rows)
        accuracy = {"ours": shells(ours, true)}
        try:
            costs["astra FBP, 1 thread"], peer = _peer(folder, series.images, rows)
            accuracy["astra"] = shells(peer, true)
        except PeerMissing as missing:
            print(f"  left out: {missing}")
    figures = {
        f"FSC with the density, {name}": " ".join(f"{v:.2f}" for v in values[1::3])
        for name, values in accuracy.items()
    }
    made = report(
        f"back-project 41 x {side}^2 to {deep} x {side} x {side}",
        costs,
        accuracy=figures,
        wanted={name: 2.0 for name in costs if name != "ours"},
    )
    made["passed"] = made["passed"] and peak <= _MOST_MB
    return finish([made], path=given.json)


def _write(folder: Path, images: np.ndarray) -> None:
    with mrcfile.new(folder / "wbp.mrc") as file:
        file.set_data(images)
    count, height, width = images.shape
    aligned = [
        AlignedImage(
            section=i, angle_deg=float(a), dx_px=0, dy_px=0, rotation_deg=0
        )
        for i, a in enumerate(_ANGLES)
    ]  # fmt: skip
    write_aln(
        folder / "wbp.aln", aligned, shape=(count, height, width), excluded=[],
        offset_deg=0, thickness_px=width / 2,
    )  # fmt: skip


def _warm_up(folder: Path) -> None:
    """Compilation, which a process pays once."""
    (folder / "small").mkdir()
    _write(folder / "small", np.ones((len(_ANGLES), 32, 32), np.float32))
    asked = Parameters(
        stack_file=folder / "small/wbp.mrc", pixel_size=10, out_bin=1, vol_z=8
    )
    run(asked, folder / "small")


def _peer(folder: Path, images: np.ndarray, rows: slice) -> tuple[Cost, np.ndarray]:
    """What astra costs for all rows, and its volume `(z, y, x)` of some of them."""
    side = images.shape[2]
    # Its rows: sinograms with the axis in the middle, as ours.
    np.save(folder / "lines.npy", np.ascontiguousarray(images.transpose(1, 0, 2)))
    command = [
        str(environment("astra")), "-c", _PEER, str(folder / "lines.npy"),
        json.dumps((-_ANGLES).tolist()), str(side // 2), str(folder / "peer.npy"),
        json.dumps([rows.start, rows.stop]),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissing(f"astra: {done.stderr.strip().splitlines()[-1]}")
    cpu_s, wall_s = json.loads(done.stdout.splitlines()[-1])
    volume = np.load(folder / "peer.npy").transpose(1, 0, 2)
    # Its z may run the other way: the one that is right counts.
    return Cost(cpu_s=cpu_s, wall_s=wall_s), volume


def shells(volume: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Correlation with the density, ring by ring across y, where the tilts have it."""
    ways = [_shells(volume, true), _shells(volume[::-1], true)]
    return max(ways, key=lambda each: float(each[:5].sum()))


def _shells(volume: np.ndarray, true: np.ndarray) -> np.ndarray:
    deep, _, side = volume.shape
    inner = (slice(deep // 8, -deep // 8), slice(None), slice(side // 4, -side // 4))
    first, second = (
        np.fft.rfft2(each[inner] - each[inner].mean(), axes=(0, 2))
        for each in (volume.astype(np.float64), true.astype(np.float64))
    )
    kz = np.fft.fftfreq(first.shape[0])[:, None, None]
    kx = np.fft.rfftfreq(volume[inner].shape[2])[None, None, :]
    covered = np.abs(kz) <= np.tan(np.deg2rad(_ANGLES.max())) * kx
    ring = np.where(covered, np.hypot(kz, kx) / 0.5 * _SHELLS, _SHELLS)
    return ring_correlation(first, second, ring, rings=_SHELLS)[0]


if __name__ == "__main__":
    raise SystemExit(main())
