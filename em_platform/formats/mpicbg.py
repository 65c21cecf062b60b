"""The affine transforms of mpicbg, as TrakEM2 and render write them.

Source of the data strings: github.com/axtimwalde/mpicbg and the tile specs of
github.com/saalfeldlab/render; matrices are in x, y order there and here.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError

_COUNTS = {
    "TranslationModel2D": 2,
    "RigidModel2D": 3,
    "SimilarityModel2D": 4,
    "AffineModel2D": 6,
}


_MOST_DEPTH = 20
"""Of lists and references in each other; a reference may be to itself."""


def compose_affine(
    specs: list[Any], shared: Mapping[str, Mapping[str, Any]]
) -> NDArray[np.float64] | None:
    """One `(3, 3)` matrix of a list of transforms, first one innermost.

    Transforms that bend (lens, polynomial, thin plate) are left out; None where
    nothing else is there. `shared` resolves references by id.
    """
    matrix: NDArray[np.float64] | None = None
    for spec in _flat(specs, shared):
        one = _matrix(spec)
        if one is not None:
            matrix = one if matrix is None else one @ matrix
    return matrix


def _flat(
    specs: Any, shared: Mapping[str, Mapping[str, Any]], depth: int = 0
) -> Iterable[Mapping[str, Any]]:
    specs = specs if isinstance(specs, list) else [None]
    for spec in specs:
        if not isinstance(spec, dict) or depth > _MOST_DEPTH:
            raise FormatError(
                f"transforms: found {str(spec)[:60]!r}, expected transforms that end; "
                "correct the tile spec"
            )
        if spec.get("type") == "ref":
            found = shared.get(str(spec.get("refId")), {})
            yield from _flat([found], shared, depth + 1)
        elif "specList" in spec:
            yield from _flat(spec["specList"], shared, depth + 1)
        else:
            yield spec


def _matrix(spec: Mapping[str, Any]) -> NDArray[np.float64] | None:
    name = str(spec.get("className", "")).rpartition(".")[2]
    if name not in _COUNTS:
        return None
    text = str(spec.get("dataString", ""))
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if len(values) != _COUNTS[name] or not all(map(math.isfinite, values)):
        raise FormatError(
            f"{name}: found data {text[:60]!r}, expected {_COUNTS[name]} numbers; "
            "correct the tile spec"
        )
    if name == "AffineModel2D":
        # Column by column, as AffineModel2D.toDataString writes them.
        xx, yx, xy, yy, x, y = values
    else:
        x, y = values[-2:]
        # Rigid: angle, x, y. Similarity: scale, angle, x, y.
        scale = values[0] if name == "SimilarityModel2D" else 1.0
        angle = 0.0 if name == "TranslationModel2D" else values[-3]
        xx = yy = scale * math.cos(angle)
        yx = scale * math.sin(angle)
        xy = -yx
    return np.array([[xx, xy, x], [yx, yy, y], [0.0, 0.0, 1.0]])
