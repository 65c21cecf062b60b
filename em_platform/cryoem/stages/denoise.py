"""A tomogram with less noise: by filters, a network of its own halves, or by Topaz.

It is read, denoised and written by slabs, so that memory holds one slab.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, field_validator

from em_platform.cryoem.halves import half_paths
from em_platform.cryoem.movies import Movie, open_movie
from em_platform.cryoem.stage import (
    ENGINE,
    Option,
    Rule,
    StageParameters,
    StageResult,
    TimeLimit,
    checked_name,
    report_progress,
)
from em_platform.cryoem.tomogram_file import (
    make_room,
    write_header,
    write_slab,
)
from em_platform.errors import ConfigError, FormatError, ProcessingError, ToolMissing
from em_platform.formats.mrc_stack import PartMark
from em_platform.storage import atomic

# Floats of a slab with its borders; total variation needs six times as much.
_SLAB_BYTES = 128 << 20
# A multiple of 4, so that the network's floors lie the same in all slabs.
_NETWORK_SLICES = 64

# Slices of border, slices of a slab, and what makes slices from `low` to `high`.
_Denoiser = tuple[int, int, Callable[[int, int], NDArray[np.float32]]]


class Parameters(StageParameters):
    """Parameters of denoising; cryoem-services' Denoise has the first two."""

    volume: Annotated[Path, Option("INPUT", "a tomogram: MRC")]
    suffix: Annotated[
        str, Option("--suffix", "behind the name of the tomogram"), Rule.NAME
    ] = ".denoised"
    pixel_size: Annotated[
        float, Option("--pixel-size-a", "Å per voxel", "pixel_size_a")
    ] = Field(gt=0, validation_alias=AliasChoices("pixel_size", "pix_size"))
    method: Annotated[
        Literal["tv", "gaussian", "n2n"],
        Option(
            "--method",
            "total variation, Gaussian, or a network (noise2noise) that the halves "
            "of `reconstruct --halves` train; it needs the extra torch",
        ),
    ] = "tv"
    even: Annotated[
        Path | None, Option("--even", "of even frames, for n2n  [NAME_EVN_Vol.mrc]")
    ] = None
    odd: Annotated[Path | None, Option("--odd", "of odd frames")] = None
    training_steps: Annotated[int, Option("--training-steps", "of n2n")] = Field(
        300, ge=1, le=100_000
    )
    seed: Annotated[int, Option("--seed", "of n2n")] = Field(0, ge=0)
    sigma: Annotated[float, Option("--sigma", "of the Gaussian, in voxels")] = Field(
        2.0, gt=0, le=50
    )
    strength: Annotated[
        float, Option("--strength", "of tv, in standard deviations of the noise")
    ] = Field(1.0, gt=0, le=100)
    iterations: Annotated[int, Option("--iterations", "of tv")] = Field(
        30, ge=1, le=500
    )

    engine: Annotated[Literal["builtin", "topaz"], ENGINE] = "builtin"
    time_limit_s: TimeLimit = 7200.0
    model: Annotated[
        str | None,
        Option("--model", "of Topaz: unet-3d, unet-3d-10a, -20a, or a file"),
        Rule.MODEL,
    ] = None
    device: Annotated[
        int | None, Option("--device", "of Topaz: number of the GPU, -1: processor")
    ] = None
    # From here on by messages; Topaz takes them.
    even_train_path: Path | None = None
    odd_train_path: Path | None = None
    n_train: int | None = None
    n_test: int | None = None
    crop: int | None = None
    base_kernel_width: int | None = None
    optim: Literal["adam", "adagrad", "sgd"] | None = None
    lr: float | None = None
    criteria: Literal["L1", "L2"] | None = None
    momentum: float | None = None
    batch_size: int | None = None
    num_epochs: int | None = None
    weight_decay: float | None = None
    save_interval: int | None = None
    save_prefix: Annotated[str | None, Rule.SETTINGS] = None
    gaussian: float | None = None
    patch_size: int | None = None
    patch_padding: int | None = None
    num_workers: int | None = None
    num_threads: int | None = None

    @field_validator("suffix")
    @classmethod
    def _is_no_path(cls, value: str) -> str:
        if not value or value.startswith("-"):
            raise ValueError("a suffix such as .denoised was expected")
        return checked_name(f"x{value}")[1:]


class Result(StageResult):
    """The denoised tomogram, and the noise that was found, in grey levels."""

    denoised: str
    method: str
    noise: float
    size_x: int
    size_y: int
    size_z: int
    pixel_size_a: float


def run(parameters: Parameters, folder: Path) -> Result:
    """Write `NAME.denoised.mrc`.

    Raises
    ------
    FormatError
        The tomogram cannot be read, or has values that are no numbers.
    ProcessingError
        All its voxels are equal.
    ConfigError
        The network lacks its halves.
    ToolMissing, ToolFailed
        PyTorch or Topaz is not there, or Topaz did not do it.
    """
    from em_platform.cryoem.methods.denoising import noise_of

    movie = open_movie(parameters.volume)
    deep, height, width = shape = movie.shape
    middle = np.asarray(movie.frame(deep // 2), np.float32)[None]
    noise = noise_of(_finite(parameters.volume, middle))
    if noise == 0 and middle.max() == middle.min():
        raise ProcessingError(
            f"{parameters.volume}: all voxels of its middle slice are equal, a "
            "tomogram was expected; look at it"
        )
    name = f"{parameters.volume.name.removesuffix('.gz').rpartition('.')[0]}"
    target = f"{name}{parameters.suffix}.mrc"
    if parameters.engine == "builtin":
        program = {}
        _write(parameters, folder / target, movie, noise)
    else:
        from em_platform.cryoem.programs.engine import run_engine

        program = run_engine("denoise", parameters, folder, target=target, shape=shape)
    return Result(
        **program,
        denoised=target,
        method=parameters.method if parameters.engine == "builtin" else "unet",
        noise=round(noise, 9),
        size_x=width,
        size_y=height,
        size_z=deep,
        pixel_size_a=parameters.pixel_size,
    )


def _write(parameters: Parameters, path: Path, movie: Movie, noise: float) -> None:
    """Write the denoised tomogram slab by slab."""
    deep, height, width = shape = movie.shape
    if parameters.method == "n2n":
        border, depth, made = _by_network(parameters, shape)
    else:
        border, depth, made = _by_filter(parameters, movie, noise)
    marks: list[PartMark] = []
    with atomic.whole_file(path) as own:
        # Slices are rows of a file whose first axis is one deep.
        flat = 1, deep * height, width
        make_room(own, flat)
        for first in range(0, deep, depth):
            last = min(first + depth, deep)
            low, high = max(0, first - border), min(deep, last + border)
            found = made(low, high)[first - low : last - low]
            rows = found.reshape(1, -1, width)
            marks.append(write_slab(own, flat, first * height, rows))
            report_progress("denoise", last, deep)
        write_header(own, shape, marks, pixel_size_a=parameters.pixel_size)


def _read(path: Path, movie: Movie, low: int, high: int) -> NDArray[np.float32]:
    slab = np.empty((high - low, *movie.shape[1:]), np.float32)
    for z in range(low, high):
        slab[z - low] = movie.frame(z)
    return _finite(path, slab)


def _finite(path: Path, slab: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(slab).all():
        wrong = int(slab.size - np.isfinite(slab).sum())
        raise FormatError(
            f"{path}: found {wrong} voxels that are no numbers (NaN or infinite), grey "
            "levels were expected; reconstruct it again"
        )
    return slab


def _by_filter(parameters: Parameters, movie: Movie, noise: float) -> _Denoiser:
    from em_platform.cryoem.methods.denoising import gaussian, total_variation

    border = (
        parameters.iterations
        if parameters.method == "tv"
        else int(np.ceil(4 * parameters.sigma))
    )
    _, height, width = movie.shape
    depth = max(border, _SLAB_BYTES // (4 * height * width) - 2 * border)
    weight = parameters.strength * noise

    def made(low: int, high: int) -> NDArray[np.float32]:
        slab = _read(parameters.volume, movie, low, high)
        if parameters.method == "gaussian":
            return gaussian(slab, sigma_px=parameters.sigma)
        return total_variation(slab, weight=weight, iterations=parameters.iterations)

    return border, depth, made


def _by_network(parameters: Parameters, shape: tuple[int, ...]) -> _Denoiser:
    beside = half_paths(parameters.volume)
    even_file = parameters.even or beside["even"]
    odd_file = parameters.odd or beside["odd"]
    for path in (even_file, odd_file):
        if not path.is_file():
            raise ConfigError(
                f"denoise: method n2n learns from tomograms of even and odd frames, "
                f"and {path} is not there; make them by `reconstruct --halves` of "
                "movies whose motion was corrected with both sums, or give them by "
                "--even and --odd"
            )
    try:
        from em_platform.cryoem.methods import noise2noise
    except ImportError as error:
        raise ToolMissing(
            f"denoise: method n2n needs PyTorch, which cannot be imported ({error}); "
            "install em-platform with the extra torch, or use --method tv"
        ) from error
    even, odd = (_half(path, shape) for path in (even_file, odd_file))
    steps = parameters.training_steps
    network = noise2noise.trained(
        even,
        odd,
        steps=steps,
        seed=parameters.seed,
        note=lambda step: report_progress("train", step, steps),
    )

    def made(low: int, high: int) -> NDArray[np.float32]:
        halves = (np.asarray(half[low:high], np.float32) for half in (even, odd))
        return noise2noise.denoised(network, *halves)

    return noise2noise.MARGIN, _NETWORK_SLICES, made


def _half(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """A memory map of one half; its voxels are numbers."""
    from em_platform.cryoem.methods.mapped_mrc import mapped_volume

    volume, _ = mapped_volume(path)
    if volume.shape != shape:
        raise FormatError(
            f"{path}: found {volume.shape} voxels (z, y, x), those of the tomogram, "
            f"{tuple(shape)}, were expected; reconstruct it with the same parameters"
        )
    for image in volume:
        _finite(path, np.asarray(image, np.float32))
    return volume
