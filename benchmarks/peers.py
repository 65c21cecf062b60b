"""The peers that we are measured against, each in an environment of its own.

`environment("feabas")` builds `.bench/<peer>` once and gives its Python; it is never
the project's own environment. A peer that cannot be built raises `PeerMissing` with
one sentence, and the benchmark says so instead of comparing.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".bench"

REQUIREMENTS = {
    "feabas": ["feabas==3.0.6"],
    "ashlar": ["ashlar==1.20.0", "numpy<2", "zarr<3", "scikit-image<0.26"],
    "em_stitch": ["em_stitch==0.3.4"],
    "multiview": ["multiview-stitcher==0.1.62"],
    "ngff-zarr": [
        "ngff-zarr[dask-image]==0.50.0",
        "itkwasm-downsample",
        "s3fs",
        "zarr",
    ],
    "scikit-image": ["scikit-image"],
    "astra": ["astra-toolbox==2.5.0"],
    "torch": ["torch==2.13.0"],
}
"""Peer -> what pip installs for it."""


class PeerMissing(Exception):
    """A peer could not be built here."""


def environment(peer: str) -> Path:
    """The Python of the peer's own environment, built where it is not there yet."""
    folder = ROOT / peer
    python = folder / "bin" / "python"
    wanted = json.dumps(REQUIREMENTS[peer])
    stamp = folder / "built.json"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    folder.parent.mkdir(exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], peer)
    _run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS[peer]], peer)
    stamp.write_text(wanted)
    return python


def tem_simulator() -> Path:
    """TEM-simulator: the one on PATH, else built from sources in `.bench`.

    It is licensed under the GPL, so that its sources are no part of this project.
    """
    if there := shutil.which("TEM-simulator"):
        return Path(there)
    folder = ROOT / "tem-simulator" / "src"
    if not (folder / "Makefile").is_file():
        raise PeerMissing(
            f"TEM-simulator: it is not on PATH, and there are no sources in {folder}; "
            "put those of its public repository there (they need gcc and FFTW 3)"
        )
    _run(["make", "-C", str(folder)], "TEM-simulator")
    return folder / "TEM-simulator"


def _run(command: list[str], peer: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerMissing(f"{peer}: its environment could not be built ({last})")
