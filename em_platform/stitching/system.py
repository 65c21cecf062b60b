"""The normal equations of a montage: every tile's place from weighted matches."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import splu

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

ABSOLUTE = 1e-3  # weight of a tile's own nominal place, per weight of the stage
UPRIGHT = 1e3  # weight of a tile's zero rotation, likewise: the mosaic is not turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Pairs of tiles by number, `(n,)`, and the shift of b against a, `(n, 2)` px."""

    a: Index
    b: Index
    shift: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPairs:
    """Points `(k, 2)` seen from tile a and from tile b; `edge` is `(k,)`, ascending.

    Points are in pixels from the centre of their tile; `centre_a, centre_b` `(k, 2)`
    are those centres.
    """

    edge: Index
    a: Array
    b: Array
    centre_a: Array
    centre_b: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the stage says: `places` `(tiles, 2)`, and the shifts of neighbours.

    `weight` is that of a neighbour's nominal shift against a perfect match.
    """

    places: Array
    neighbours: Edges
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Corners `(tiles, 2)` and linear parts `(tiles, 2, 2)` of all tiles."""

    places: Array
    linear: Array


def laplacian(
    edges: Edges, weights: Array, *, tiles: int
) -> tuple[sparse.csc_array, Array]:
    """Matrix and right-hand sides of `sum(weight * |x_b - x_a - shift|**2)`."""
    rows = np.concatenate([edges.a, edges.b, edges.a, edges.b])
    columns = np.concatenate([edges.a, edges.b, edges.b, edges.a])
    values = np.concatenate([weights, weights, -weights, -weights])
    pull = weights[:, None] * edges.shift
    right = np.zeros((tiles, 2))
    # Not +=, which counts a tile once however many edges it has.
    np.add.at(right, edges.b, pull)
    np.subtract.at(right, edges.a, pull)
    # scipy adds up entries of one place.
    return sparse.csc_array((values, (rows, columns)), shape=(tiles, tiles)), right


def solved(matrix: sparse.csc_array, right: Array) -> Array:
    """Solution of a symmetric positive definite system."""
    # SuperLU's symmetric mode, as its guide has it: scipy has no sparse Cholesky.
    factor = splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return np.asarray(factor.solve(right))


class TranslationSystem:
    """Every tile is moved, none is turned: one unknown move a tile.

    Moves from the nominal places and not places: only the weak weight of the stage
    holds the whole montage, so that thousands of pixels would lose four digits more.
    """

    def __init__(self, edges: Edges, stage: Stage) -> None:
        self._edges = edges
        self._nominal = stage.places
        self._tiles = len(stage.places)
        self._moves = _moves(edges, stage.places)
        ones = np.full(len(stage.neighbours.a), stage.weight)
        beside = _moves(stage.neighbours, stage.places)
        matrix, self._right = laplacian(beside, ones, tiles=self._tiles)
        absolute = stage.weight * ABSOLUTE
        self._matrix = matrix + absolute * sparse.eye_array(self._tiles, format="csc")

    def solve(self, weights: Array) -> Placed:
        """Places that the matches ask for with these weights."""
        matrix, right = laplacian(self._moves, weights, tiles=self._tiles)
        moves = solved(matrix + self._matrix, right + self._right)
        places = self._nominal + moves
        return Placed(places=places, linear=np.tile(np.eye(2), (self._tiles, 1, 1)))

    def residuals(self, placed: Placed) -> Array:
        """Distance in pixels of each match from the places."""
        shifts = placed.places[self._edges.b] - placed.places[self._edges.a]
        return np.asarray(np.hypot(*(shifts - self._edges.shift).T))


def _moves(edges: Edges, places: Array) -> Edges:
    """The shifts as differences from those of the nominal places."""
    return replace(edges, shift=edges.shift - (places[edges.b] - places[edges.a]))


class LinearSystem:
    """Every tile is moved and turned, or moved and sheared: 3 or 6 unknowns a tile.

    The unknowns are the place of the tile's centre and the displacement in pixels at
    half a tile's length by rotation, scale, and the two shears. The last three are
    held near zero by `shape_weight`; without it a montage would shrink freely.
    """

    def __init__(
        self,
        edges: Edges,
        stage: Stage,
        *,
        points: PatchPairs,
        unknowns: int,
        length_px: float,
        shape_weight: float,
    ) -> None:
        self._edges, self._points = edges, points
        self._tiles, self._unknowns = len(stage.places), unknowns
        self._length_px = length_px
        self._stage = stage
        count = np.bincount(points.edge, minlength=len(edges.a)).astype(float)
        self._count = np.maximum(count, 1.0)
        self._model = np.concatenate(
            [
                # In half tile lengths: turns are then as large as moves.
                motion(points.a / length_px, unknowns=unknowns),
                -motion(points.b / length_px, unknowns=unknowns),
            ],
            axis=2,
        )
        start = (
            stage.places[edges.a[points.edge]]
            + points.centre_a
            + points.a
            - stage.places[edges.b[points.edge]]
            - points.centre_b
            - points.b
        )
        self._start = start
        gram = np.einsum("kri,krj->kij", self._model, self._model)
        pull = -np.einsum("kri,kr->ki", self._model, start)
        # Means: an edge counts once, however many patches it has. They stay the same,
        # so that an iteration has only to weigh them.
        self._gram = self._mean(gram)
        self._pull = self._mean(pull)
        self._matrix, self._right = self._prior(shape_weight)

    def _mean(self, values: Array) -> Array:
        out = np.zeros((len(self._edges.a), *values.shape[1:]))
        np.add.at(out, self._points.edge, values)
        count = self._count.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(out / count)

    def _prior(self, shape_weight: float) -> tuple[sparse.csc_array, Array]:
        stage, n = self._stage, self._tiles
        ones = np.full(len(stage.neighbours.a), stage.weight)
        matrix, right = laplacian(stage.neighbours, ones, tiles=n)
        # Moves and not places, as in `TranslationSystem`.
        right = right - matrix @ stage.places
        matrix = matrix + stage.weight * ABSOLUTE * sparse.eye_array(n, format="csc")
        moves = np.zeros((self._unknowns, self._unknowns))
        moves[0, 0] = moves[1, 1] = 1.0
        holds = [
            0.0,
            0.0,
            UPRIGHT * stage.weight,
            *[shape_weight] * (self._unknowns - 3),
        ]
        whole = sparse.kron(matrix, moves) + sparse.kron(
            sparse.eye_array(n), np.diag(holds)
        )
        sides = np.zeros((n, self._unknowns))
        sides[:, :2] = right
        return sparse.csc_array(whole), sides.ravel()

    def solve(self, weights: Array) -> Placed:
        """Places and linear parts that the matches ask for with these weights."""
        each = np.arange(self._unknowns)
        own = np.concatenate(
            [
                self._edges.a[:, None] * self._unknowns + each,
                self._edges.b[:, None] * self._unknowns + each,
            ],
            axis=1,
        )
        wide = own.shape[1]
        rows, columns = np.repeat(own, wide, axis=1), np.tile(own, (1, wide))
        values = (weights[:, None, None] * self._gram).reshape(len(weights), -1)
        size = self._tiles * self._unknowns
        matrix = sparse.csc_array(
            (values.ravel(), (rows.ravel(), columns.ravel())), shape=(size, size)
        )
        right = self._right.copy()
        np.add.at(right, own, weights[:, None] * self._pull)
        state = solved(matrix + self._matrix, right)
        return self._placed(state.reshape(self._tiles, self._unknowns))

    def _placed(self, state: Array) -> Placed:
        r = state[:, 2] / self._length_px
        s, p, q = np.zeros((3, self._tiles))
        if self._unknowns == 6:
            s, p, q = state[:, 3:].T / self._length_px
        linear = np.stack([1 + s + p, q - r, q + r, 1 + s - p], axis=1)
        linear = linear.reshape(-1, 2, 2)
        centre = self._centres()
        places = self._stage.places + state[:, :2] + centre
        places -= np.einsum("nij,nj->ni", linear, centre)
        return Placed(places=places, linear=linear)

    def _centres(self) -> Array:
        centres = np.zeros((self._tiles, 2))
        centres[self._edges.a[self._points.edge]] = self._points.centre_a
        centres[self._edges.b[self._points.edge]] = self._points.centre_b
        return centres

    def residuals(self, placed: Placed) -> Array:
        """Rms distance in pixels of each match's patches from each other."""
        k = self._points
        a, b = self._edges.a[k.edge], self._edges.b[k.edge]
        at_a = placed.places[a] + np.einsum(
            "kij,kj->ki", placed.linear[a], k.a + k.centre_a
        )
        at_b = placed.places[b] + np.einsum(
            "kij,kj->ki", placed.linear[b], k.b + k.centre_b
        )
        squared = np.square(at_a - at_b).sum(axis=1)
        return np.asarray(np.sqrt(self._mean(squared)))


def motion(points: Array, *, unknowns: int) -> Array:
    """`(k, 2, unknowns)` derivative of a point's place by its tile's unknowns."""
    y, x = points.T
    one, zero = np.ones_like(y), np.zeros_like(y)
    dy = np.stack([one, zero, -x, y, y, x], axis=1)[:, :unknowns]
    dx = np.stack([zero, one, y, x, -x, y], axis=1)[:, :unknowns]
    return np.stack([dy, dx], axis=1)
