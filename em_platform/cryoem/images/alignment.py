"""How the images of a tilt series were moved, in one picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from em_platform.cryoem.images.parameters import ImageParameters
from em_platform.cryoem.methods.mapped_mrc import mapped_volume
from em_platform.cryoem.methods.pictures import (
    encoded,
    shrunk,
    stretched,
    write_picture,
)
from em_platform.errors import DataError, FormatError

_SIDE_PX = 1024
_LEGEND = (
    (1000, "#f52407", "Shift over 1000 pixels"),
    (100, "#f5a927", "Shift 100 to 1000 pixels"),
    (10, "#f5e90a", "Shift 10 to 100 pixels"),
    (-1, "#0af549", "Shift up to 10 pixels"),
)
# Rows of AreTomo's global alignment; those of its patches are shorter.
_ALN_COLUMNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tilt:
    tilt_deg: float
    rotation_deg: float
    dx_px: float
    dy_px: float


def tilt_series_alignment(given: ImageParameters, folder: Path) -> tuple[str, ...]:
    """The image in the middle, and the outline of each tilt where it was moved to."""
    path = given.input()
    stack, _ = mapped_volume(path)
    image = np.asarray(stack[len(stack) // 2], np.float32)
    tilts = _tilts(given)
    pad = image.shape[0] // 8, image.shape[1] // 8
    padded = np.pad(
        image,
        ((pad[0], pad[0]), (pad[1], pad[1])),
        constant_values=float(image.mean()),
    )
    picture = PIL.Image.fromarray(stretched(padded, of=path)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for number, tilt in enumerate(tilts):
        width = max(int(20 - abs(len(tilts) / 2 - number)), 1)
        corners = _corners(tilt, image.shape, squeezed_y=given.projection == "XZ")
        corners += (padded.shape[1] / 2, padded.shape[0] / 2)
        outline = [(float(x), float(y)) for x, y in corners]
        pen.polygon(outline, width=width, outline=_colour(tilt))
    _write_legend(pen, tilts, image.shape[0], padded.shape[0])
    name = f"{path.stem}_alignment.jpeg"
    picture = shrunk(picture, (_SIDE_PX, _SIDE_PX))
    write_picture(folder / name, encoded(picture, ".jpeg"), inputs=given.inputs)
    return (name,)


def _corners(tilt: _Tilt, shape: tuple[int, ...], *, squeezed_y: bool) -> np.ndarray:
    """Corners `(4, 2)` of `(x, y)` from the middle: foreshortened, turned, moved."""
    cosine = float(np.cos(np.deg2rad(tilt.tilt_deg)))
    half_y, half_x = shape[0] / 2, shape[1] / 2
    if squeezed_y:
        half_y *= cosine
    else:
        half_x *= cosine
    turn = tilt.rotation_deg
    turn += -90 if turn > 45 else 90 if turn < -45 else 0
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    turned = (signs * (half_x, half_y)) @ np.array([[c, s], [-s, c]])
    return np.asarray(turned + np.array([tilt.dx_px, tilt.dy_px]))


def _colour(tilt: _Tilt) -> str:
    shift = np.hypot(tilt.dx_px, tilt.dy_px)
    return next(colour for limit, colour, _ in _LEGEND if shift > limit)


def _write_legend(
    pen: ImageDraw.ImageDraw, tilts: list[_Tilt], image_px: int, height_px: int
) -> None:
    # Sizes are those of a camera of 4096 pixels.
    scale = image_px / 4096
    font = ImageFont.load_default(size=max(150 * scale, 1))
    for line, (_, colour, text) in enumerate(_LEGEND):
        place = 100 * scale, 10 + 150 * scale * line
        pen.text(place, text, fill=colour, font=font)
    far = [f"{t.tilt_deg:g}" for t in tilts if _colour(t) == _LEGEND[0][1]]
    if far:
        place = 100 * scale, height_px - 200 * scale
        text = f"Outliers (deg): {' '.join(far)}"
        pen.text(place, text, fill=_LEGEND[0][1], font=font)


def _tilts(given: ImageParameters) -> list[_Tilt]:
    try:
        if given.aln_file is not None:
            return _from_aln(given.aln_file)
        if given.xf_file is not None:
            return _from_xf(given.xf_file)
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(
            f"{given.aln_file or given.xf_file}: cannot be read as an alignment "
            f"({error}); repeat the alignment"
        ) from error
    raise DataError(
        "tilt_series_alignment: found neither `aln_file` nor `xf_file`, one was "
        "expected; name the alignment"
    )


def _from_aln(path: Path) -> list[_Tilt]:
    lines = [line.split() for line in path.read_text().splitlines()]
    rows = [
        [float(number) for number in line]
        for line in lines
        if len(line) >= _ALN_COLUMNS and not line[0].startswith("#")
    ]
    return [
        _Tilt(tilt_deg=row[-1], rotation_deg=row[1], dx_px=row[3], dy_px=row[4])
        for row in rows
    ]


def _from_xf(path: Path) -> list[_Tilt]:
    rows = np.loadtxt(path, ndmin=2)
    beside = [path.with_suffix(suffix) for suffix in (".rawtlt", ".tlt")]
    angles = next((each for each in beside if each.is_file()), None)
    if angles is None:
        raise DataError(
            f"{path}: found no {beside[0].name} or {beside[1].name} beside it, the "
            "tilt angles were expected; put them there"
        )
    degrees = np.loadtxt(angles, ndmin=1)
    return [
        _Tilt(
            tilt_deg=float(degree),
            rotation_deg=float(np.rad2deg(np.arcsin(np.clip(row[1], -1, 1)))),
            dx_px=float(row[4]),
            dy_px=float(row[5]),
        )
        for degree, row in zip(degrees, rows, strict=True)
    ]
