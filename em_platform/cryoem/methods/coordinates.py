"""Places of particles in STAR files of RELION and CBOX files of crYOLO.

STAR: middles in pixels, block of any name with `_rlnCoordinateX`, `_rlnCoordinateY`.
CBOX (crYOLO 1.8 and later): lower corners of boxes, block `cryolo`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from em_platform.cryoem.methods.star_text import table
from em_platform.errors import FormatError

_CBOX_COLUMNS = (
    "CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth",
    "EstWidth", "EstHeight", "Confidence", "NumBoxes", "Angle",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes3d:
    """Lower corners of boxes in a tomogram, and the sizes of what is in them, px."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    z: NDArray[np.float64]
    width: NDArray[np.float64]
    height: NDArray[np.float64]
    depth: NDArray[np.float64]


def read_points(path: Path) -> tuple[tuple[float, float], ...]:
    """Middles `(x, y)` of the particles of a STAR or CBOX file, px; () for none.

    Raises
    ------
    FormatError
        There is no such file, or it is neither.
    """
    document = _document(path)
    for block in document:
        if (boxes := _columns(path, block, "_", ("CoordinateX", "CoordinateY"))) and (
            sides := _columns(path, block, "_", ("Width", "Height"))
        ):
            x, y = (c + s / 2 for c, s in zip(boxes, sides, strict=True))
            return tuple(zip(x.tolist(), y.tolist(), strict=True))
        names = "CoordinateX", "CoordinateY"
        if found := _columns(path, block, "_rln", names):
            return tuple(zip(found[0].tolist(), found[1].tolist(), strict=True))
    if _is_empty(document):
        return ()
    raise FormatError(
        f"{path}: found no coordinates, _rlnCoordinateX and _rlnCoordinateY or a CBOX "
        "were expected; name the file of the picks"
    )


def read_scores(path: Path) -> NDArray[np.float64] | None:
    """The score of each particle of such a file: higher is surer; None: not there."""
    for block in _document(path):
        for prefix, name in (("_", "Confidence"), ("_rln", "AutopickFigureOfMerit")):
            if found := _columns(path, block, prefix, (name,)):
                return found[0]
    return None


def read_sizes(path: Path) -> NDArray[np.float64]:
    """The diameter of each particle of a CBOX file, px: the mean of its two sides."""
    for block in _document(path):
        for names in (("EstWidth", "EstHeight"), ("Width", "Height")):
            if found := _columns(path, block, "_", names):
                return np.asarray((found[0] + found[1]) / 2)
    return np.zeros(0)


def read_boxes_3d(path: Path) -> Boxes3d:
    """The boxes of a CBOX file of a tomogram; none where nothing was picked.

    Raises
    ------
    FormatError
        There is no such file, or it is no CBOX.
    """
    names = "CoordinateX", "CoordinateY", "CoordinateZ"
    sizes = "EstWidth", "EstHeight", "NumBoxes"
    document = _document(path)
    for block in document:
        places = _columns(path, block, "_", names)
        extents = _columns(path, block, "_", sizes)
        if places and extents:
            return Boxes3d(
                x=places[0], y=places[1], z=places[2],
                width=extents[0], height=extents[1], depth=extents[2],
            )  # fmt: skip
    if not _is_empty(document):
        raise FormatError(
            f"{path}: found no boxes in 3-D, a CBOX file of crYOLO was expected; name "
            "the file of the picks"
        )
    none = np.zeros(0)
    return Boxes3d(x=none, y=none, z=none, width=none, height=none, depth=none)


def star_of_picks(points: NDArray[np.float64], *, scores: NDArray[np.float64]) -> bytes:
    """A STAR file of middles `(n, 2)` of `(x, y)`, px, as RELION's AutoPick writes."""
    columns = ["CoordinateX", "CoordinateY", "AutopickFigureOfMerit"]
    # RELION's words for angles and classes that are not known.
    rest = ["-999.000000", "-999"]
    rows = [
        [f"{x:.3f}", f"{y:.3f}", f"{score:.6f}", *rest]
        for (x, y), score in zip(points.tolist(), scores.tolist(), strict=True)
    ]
    columns += ["AnglePsi", "ClassNumber"]
    return table("", columns, rows, prefix="_rln").encode()


def cbox_of_picks(
    points: NDArray[np.float64],
    *,
    scores: NDArray[np.float64],
    diameters_px: NDArray[np.float64],
    box_px: int,
) -> bytes:
    """A CBOX file of the same picks: lower corners, boxes, sizes and confidences."""
    rows = []
    found = zip(points.tolist(), scores.tolist(), diameters_px.tolist(), strict=True)
    for (x, y), score, diameter in found:
        corner = f"{x - box_px / 2:.3f}", f"{y - box_px / 2:.3f}"
        sides = f"{box_px}", f"{box_px}", "1"
        seen = f"{diameter:.3f}", f"{diameter:.3f}", f"{score:.6f}", "1", "<NA>"
        rows.append([*corner, "0", *sides, *seen])
    start = "data_global\n\n_version 1.0\n\n"
    return (start + table("cryolo", _CBOX_COLUMNS, rows, prefix="_")).encode()


def _document(path: Path) -> cif.Document:
    try:
        return cif.read(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(
            f"{path}: cannot be read as STAR ({error}); name the file of the picks"
        ) from error


def _is_empty(document: cif.Document) -> bool:
    """Whether it has no rows at all, as where nothing was picked."""
    return not any(
        item.loop is not None and item.loop.length()
        for block in document
        for item in block
    )


def _columns(
    path: Path, block: cif.Block, prefix: str, names: Sequence[str]
) -> list[NDArray[np.float64]] | None:
    texts = [list(block.find_loop(f"{prefix}{name}")) for name in names]
    if not all(texts):
        return None
    try:
        return [np.array([float(text) for text in column]) for column in texts]
    except ValueError as error:
        raise FormatError(
            f"{path}: {error} in {', '.join(names)}, numbers were expected; repeat the "
            "picking"
        ) from error
