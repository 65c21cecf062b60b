"""Which part of a cell a point of the procedural tissue belongs to.

As `shade` draws it: what is decided here by a limit is there a soft edge about it.
"""

# mypy: disable-error-code="no-any-return,arg-type"
# numba's types stand for what the compiled functions take, not for what they give

import numba
import numpy as np

from em_platform.imaging.hashed_noise import Bits, mix
from em_platform.simulation.specimen.cells import (
    BODY,
    BOUTON,
    KIND,
    MYELINATED,
    RADIUS,
)
from em_platform.simulation.specimen.shade import (
    NUCLEUS,
    density,
    depth_in,
    mitochondria,
    sheath,
    vesicle_radius,
)

CLASSES = (
    "fold", "cytoplasm", "membrane", "mitochondrion", "vesicle", "myelin", "nucleus",
    "synapse",
)  # fmt: skip
"""Names of the classes; a label is a place in here."""

FOLD, CYTOPLASM, MEMBRANE, MITOCHONDRION, VESICLE, MYELIN, NUCLEAR, SYNAPSE = range(8)

_WALL = 3.4  # half of the membrane between two cells: its middle and half width


@numba.njit(nogil=True, cache=True, error_model="numpy")
def class_of(
    cell: np.ndarray,
    other: np.ndarray,
    own_id: Bits,
    other_id: Bits,
    wy: float,
    wx: float,
    margin: float,
    jacobian: tuple[float, float, float, float],
    slow: tuple[float, float, float],
    y: float,
    x: float,
    z: float,
) -> int:
    """The class of a point; arguments are those of `shade`."""
    near, depth = depth_in(cell, other, wy, wx, margin, jacobian)
    if depth < _WALL:
        return MEMBRANE
    pair = mix(np.uint64(own_id) ^ np.uint64(other_id))
    if density(cell, other, own_id, other_id, wy, wx, depth, mix(pair)) > 0.5:
        return SYNAPSE
    kind = cell[KIND]
    if kind == MYELINATED and depth < 46.0:
        # The last 3.6 are the axon's own membrane.
        thickness = sheath(slow[0])
        if depth <= thickness:
            return MYELIN
        return MEMBRANE if depth <= thickness + 3.6 else CYTOPLASM
    if kind == BODY and near < NUCLEUS * cell[RADIUS]:
        return NUCLEAR
    inside = mitochondria(cell, wy, wx, depth - 8.0)[0]
    if inside > 0.0:
        return MITOCHONDRION
    if kind == BOUTON and inside < -7.0 and depth > 11.0:
        # 4.6: the ring's middle and half width
        if vesicle_radius(y, x, z, own_id) < 4.6:
            return VESICLE
    return CYTOPLASM
