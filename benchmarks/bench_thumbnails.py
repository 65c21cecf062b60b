"""Benchmark: pictures of a volume of 300 x 1024 x 1024, 1.2 GB of float32.

    python benchmarks/bench_thumbnails.py [--quick] [--repeats N] [--json FILE]

The peer reads the whole file as the images service of cryoem-services 1.5 does and
makes the same pictures; both write to disk, with the file in the system's cache. The
pixels of both are compared first.
"""

import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import PIL.Image
from timing import arguments, finish, measure, report

from em_platform.cryoem.stages import thumbnail

WANTED = {"central slice": 10.0, "projection XY": 1.0, "film": 1.0}
"""Least ratios of the peer's CPU seconds to ours."""


def ours(path: Path, folder: Path, command: str) -> None:
    given = thumbnail.Parameters(image_command=command, file=path)
    thumbnail.run(given, folder)


def whole(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.asarray(file.data)


def grey(image: np.ndarray) -> PIL.Image.Image:
    image = np.clip(
        image, image.mean() - 3 * image.std(), image.mean() + 3 * image.std()
    )
    image = image - image.min()
    return PIL.Image.fromarray((image / image.max() * 255).astype("uint8"))


def slice_of_whole(path: Path, made: Path) -> None:
    volume = whole(path)
    picture = grey(volume[len(volume) // 2])
    picture.thumbnail((512, 512))
    picture.save(made)


def projection_of_whole(path: Path, made: Path) -> None:
    grey(whole(path).mean(axis=0)).save(made)


def film_of_whole(path: Path, made: Path) -> None:
    frames = [grey(image) for image in whole(path)]
    for frame in frames:
        frame.thumbnail((512, 512))
    frames[0].save(made, save_all=True, append_images=frames[1:])


PICTURES: dict[str, tuple[str, str, Callable[[Path, Path], None], str]] = {
    "central slice": (
        "mrc_central_slice", "_thumbnail.jpeg", slice_of_whole, "s.jpeg"
    ),
    "projection XY": ("mrc_projection", "_projXY.jpeg", projection_of_whole, "p.jpeg"),
    "film": ("mrc_to_apng", "_movie.png", film_of_whole, "f.png"),
}  # fmt: skip


def main() -> int:
    given = arguments(__doc__ or "", repeats=3)
    shape = (30, 512, 512) if given.quick else (300, 1024, 1024)
    reports = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "tomo.mrc"
        rng = np.random.default_rng(0)
        with mrcfile.new_mmap(path, shape, mrc_mode=2) as file:
            for image in file.data:
                image[:] = rng.standard_normal(shape[1:], np.float32)
        for title, (command, ending, peer, made) in PICTURES.items():
            peer(path, folder / made)
            ours(path, folder, command)
            ours_made = folder / f"tomo{ending}"
            shown = [
                np.asarray(PIL.Image.open(p), np.float64)
                for p in (ours_made, folder / made)
            ]
            differs = float(np.abs(shown[0] - shown[1]).mean())
            costs = measure(
                {
                    "em_platform": partial(ours, path, folder, command),
                    "whole volume": partial(peer, path, folder / made),
                },
                repeats=given.repeats,
                warm_up=0,
            )
            accuracy: dict[str, float | str] = {
                "mean difference, grey levels": differs,
                "file, MB (ours; peer)": f"{ours_made.stat().st_size / 1e6:.2f}; "
                f"{(folder / made).stat().st_size / 1e6:.2f}",
                "most memory of this process so far, MB": resource.getrusage(
                    resource.RUSAGE_SELF
                ).ru_maxrss
                / 1e3,
            }
            wanted = {} if given.quick else {"whole volume": WANTED[title]}
            found = report(
                f"thumbnail: {title}", costs, accuracy=accuracy, wanted=wanted
            )
            # By the rounding of a few grey levels alone, which JPEG spreads.
            reports.append(found | {"passed": found["passed"] and differs < 0.1})
    return finish(reports, path=given.json)


if __name__ == "__main__":
    sys.exit(main())
