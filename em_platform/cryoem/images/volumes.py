"""Pictures of volumes: a slice, projections, and slices one after another."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from em_platform.cryoem.images.parameters import ImageParameters
from em_platform.cryoem.methods.mapped_mrc import mapped
from em_platform.cryoem.methods.pictures import (
    SIGMAS,
    animation,
    encoded,
    frames_of,
    shrunk,
    stretched,
    with_bar,
    within,
    write_picture,
)
from em_platform.errors import DataError
from em_platform.model.sentences import size_of

SIDE_PX = 512
# Of the planes of a stack, which one a projection's name goes along; the field's web
# pages expect these names, although XZ and YZ are swapped for (z, y, x) data.
_ALONG = {"XY": 0, "YX": 0, "YZ": 1, "ZY": 1, "XZ": 2, "ZX": 2}
_EDGE_SLICES = 5
_COLOURS = (
    (255, 255, 255), (142, 59, 70), (111, 191, 170), (137, 128, 245), (196, 146, 177),
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0),
)  # fmt: skip


def volume_of(path: Path) -> NDArray[Any]:
    """The slices `(z, y, x)` of a file that must be a volume or stack."""
    volume, _ = mapped(path)
    if volume.ndim != 3:
        raise DataError(
            f"{path}: found one image of {size_of(volume.shape)}, "
            "a volume was expected; name a volume"
        )
    return volume


def mrc_central_slice(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """The slice in the middle of a volume, at most 512 px; only it is read."""
    path = given.input()
    volume = volume_of(path)
    sigmas = None if given.skip_rescaling else SIGMAS
    levels = stretched(volume[len(volume) // 2], of=path, sigmas=sigmas)
    picture = shrunk(PIL.Image.fromarray(levels), (SIDE_PX, SIDE_PX))
    name = f"{path.stem}_thumbnail.jpeg"
    write_picture(folder / name, encoded(picture, ".jpeg"), inputs=given.inputs)
    return (name,)


def mrc_projection(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """The mean of a volume along an axis, with a bar of its thickness or of a third."""
    path = given.input()
    kind = given.projection
    if kind.upper() not in _ALONG:
        raise DataError(
            f"{path}: found the projection {kind}, XY, XZ or YZ was expected; name one"
        )
    levels = stretched(projected(volume_of(path), _ALONG[kind.upper()]), of=path)
    picture = PIL.Image.fromarray(levels)
    if pixel_a := given.pixel_spacing:
        length_px = levels.shape[0] / 3
        text = f"{pixel_a / 10 * length_px:.0f} nm"
        if given.thickness_ang:
            length_px = given.thickness_ang / pixel_a
            text = f"Thickness: {given.thickness_ang / 10:.0f} nm"
        picture = with_bar(levels, length_px=length_px, text=text)
    name = f"{path.stem}_proj{kind}.jpeg"
    write_picture(folder / name, encoded(picture, ".jpeg"), inputs=given.inputs)
    return (name,)


def projected(volume: NDArray[Any], axis: int) -> NDArray[np.float32]:
    """The mean along an axis of `(z, y, x)`; one slice at a time is in memory."""
    if axis:
        rows = [np.asarray(each, np.float32).mean(axis=axis - 1) for each in volume]
        return np.asarray(rows, np.float32)
    total = np.zeros(volume.shape[1:], np.float32)
    for image in volume:
        total += image
    return total / np.float32(len(volume))


def mrc_to_apng(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """All slices of a volume one after another, each at most 512 px."""
    path = given.input()
    sigmas = None if given.skip_rescaling else SIGMAS
    frames: Iterable[NDArray[np.uint8]] = frames_of(
        volume_of(path), of=path, sigmas=sigmas
    )
    if given.jitter_edge:
        frames = (_dotted(frame, seed) for seed, frame in enumerate(frames))
    name = f"{path.stem}_movie.png"
    write_picture(
        folder / name,
        animation([within(each, SIDE_PX) for each in frames]),
        inputs=given.inputs,
    )
    return (name,)


def _dotted(frame: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    # Viewers drop frames that equal the one before; a dotted edge makes all differ.
    dots = np.random.default_rng(seed).integers(0, 2, frame.shape, dtype=np.uint8)
    dots[2:-2, 2:-2] = frame[2:-2, 2:-2]
    return dots


def mrc_to_apng_colour(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """Segmentations in one film, each in its colour, and the slice in the middle."""
    paths: tuple[Path, ...] = given.need("file_list")
    name = (given.outfile or paths[0].with_name(f"{paths[0].stem}_movie.png")).name
    if len(paths) > len(_COLOURS):
        raise DataError(
            f"{name}: found {len(paths)} segmentations, at most {len(_COLOURS)} were "
            "expected; split them"
        )
    volumes = [volume_of(path) for path in paths]
    mask = volume_of(given.mask) if given.mask else None
    for path, volume in zip(paths, volumes, strict=True):
        for other in (volumes[0], mask):
            if other is not None and other.shape != volume.shape:
                raise DataError(
                    f"{path}: found a volume of {volume.shape}, {other.shape} as of "
                    "the others was expected; give volumes of one tomogram"
                )
    limits = [float(volume.max()) / 2 for volume in volumes]
    hidden_above = None if mask is None else float(mask.max()) / 2
    frames = []
    for z in range(len(volumes[0])):
        frame = np.zeros((*volumes[0].shape[1:], 3), np.uint8)
        if mask is None:
            # Segmentations are unsure in the outermost slices.
            inside = _EDGE_SLICES <= z < len(volumes[0]) - _EDGE_SLICES
            shown = np.full(frame.shape[:2], inside)
        else:
            shown = np.asarray(mask[z] < hidden_above)
        for volume, limit, colour in zip(volumes, limits, _COLOURS, strict=False):
            frame[(volume[z] > limit) & shown] = colour
        frames.append(within(frame, SIDE_PX))
    write_picture(folder / name, animation(frames), inputs=given.inputs)
    middle = PIL.Image.fromarray(frames[len(frames) // 2])
    still = f"{name.removesuffix('movie.png')}thumbnail.jpeg"
    write_picture(folder / still, encoded(middle, ".jpeg"), inputs=given.inputs)
    return name, still
