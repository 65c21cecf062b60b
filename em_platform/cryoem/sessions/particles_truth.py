"""Comparison of picks and classes with the truth of a simulated session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.methods.averages2d import laid_over
from em_platform.cryoem.methods.mapped_mrc import mapped_volume
from em_platform.cryoem.methods.particle_star import read_particles
from em_platform.cryoem.sessions.truth import MovieTruth, resampled
from em_platform.errors import RecordError
from em_platform.model.check import Check, Severity

Float = NDArray[np.float32]

_LEAST_FOUND, _LEAST_PURE, _LEAST_ALIKE = 0.8, 0.8, 0.8
_NEAR = 0.25
"""Of a diameter: within it a pick is of that particle; classes shift that far."""
_STEP_DEG = 5.0
_CORE = 0.8
"""Of a box: averages are compared within, as neighbours reach into the corners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueParticles:
    """The particles of a movie, and how far from one a pick may be, px."""

    points: NDArray[np.float64]
    views: NDArray[np.int64]
    near_px: float

    def of(self, picks: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which particle each pick is, -1 for none; each particle has one pick."""
        found = np.full(len(picks), -1)
        if not len(picks) or not len(self.points):
            return found
        from scipy.optimize import linear_sum_assignment

        offsets = picks[:, None] - self.points[None]
        distance = np.hypot(offsets[..., 0], offsets[..., 1])
        # Beyond it all are equally wrong.
        rows, columns = linear_sum_assignment(np.minimum(distance, self.near_px))
        right = distance[rows, columns] < self.near_px
        found[rows[right]] = columns[right]
        return found


def true_particles(truth: MovieTruth, diameter_px: float) -> TrueParticles:
    """Those of a simulated movie."""
    return TrueParticles(
        points=np.array(truth.particles_px, float).reshape(-1, 2),
        views=np.array(truth.views, int),
        near_px=_NEAR * diameter_px,
    )


def picks_truth(
    picks: Sequence[tuple[float, float]], truth: TrueParticles
) -> list[Check]:
    """Whether the particles were found, and nothing else."""
    if not len(truth.points):
        return []
    right = int((truth.of(np.array(picks, float).reshape(-1, 2)) >= 0).sum())
    recall, precision = right / len(truth.points), right / max(1, len(picks))
    return [
        _check(
            "picks_match_truth",
            min(recall, precision),
            _LEAST_FOUND,
            f"{right} of {len(truth.points)} particles were found, "
            f"{right} of {len(picks)} picks are particles",
        )
    ]


def classes_truth(
    table: Path, averages: Path, *, truths: Mapping[str, TrueParticles], views: Path
) -> list[Check]:
    """Whether classes are of one view each, and their averages show it.

    Parameters
    ----------
    table, averages
        Particles with their classes, and the images of these.
    truths
        By the stem of the micrograph.
    views
        A stack of the true projections; contrast and size of a pixel are its own.

    Raises
    ------
    FormatError
        A file cannot be read.
    RecordError
        The stack does not say how large its pixels are.
    """
    classes, seen = _seen(table, truths)
    # Of each class, how many particles it has of each view.
    counts = {
        int(number): np.bincount(seen[(classes == number) & (seen >= 0)], minlength=1)
        for number in np.unique(classes)
    }
    known = int((seen >= 0).sum())
    pure = sum(int(each.max()) for each in counts.values()) / max(1, known)
    alike = _correlations(averages, views)
    # A class of false picks resembles nothing, and need not.
    sizes = [counts[number].sum() for number in sorted(counts)]
    mean = float(np.average(alike, weights=sizes)) if known else 0.0
    return [
        _check(
            "classes_match_truth",
            pure,
            _LEAST_PURE,
            f"of {known} true particles a share of {pure:.2f} is in a class of its "
            "own view",
        ),
        _check(
            "averages_match_truth",
            mean,
            _LEAST_ALIKE,
            f"averages correlate with the nearest true view by {mean:.2f} in the mean",
        ),
    ]


def best_correlations(image: Float, views: Float) -> NDArray[np.float64]:
    """Of an image with each view `(n, side, side)`, over all turns and shifts.

    The contrast's sign counts: what is bright in one is bright in the other.
    """
    side = image.shape[0]
    axis = np.arange(side) - side // 2
    inside = (np.hypot(axis[:, None], axis) < _CORE * side / 2).astype(np.float32)

    def centred(each: Float) -> Float:
        kept = each * inside
        kept = (kept - kept.sum() / inside.sum()) * inside
        return np.asarray(kept / max(float(np.linalg.norm(kept)), 1e-12), np.float32)

    waves = np.fft.rfft2(np.stack([centred(view) for view in views]))
    best = np.zeros(len(views))
    for angle in np.arange(0, 360, _STEP_DEG):
        turned = centred(laid_over(image, angle_deg=float(angle), shift=(0, 0)))
        surfaces = np.fft.irfft2(waves * np.fft.rfft2(turned).conj(), image.shape)
        best = np.maximum(best, surfaces.max(axis=(1, 2)))
    return best


def _seen(
    table: Path, truths: Mapping[str, TrueParticles]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class and view of each particle; the view of what is none is -1."""
    found = read_particles(table)
    at = {name: place for place, name in enumerate(found.columns)}
    stems = np.array([Path(row[at["MicrographName"]]).stem for row in found.rows])
    points = np.array(
        [[float(row[at[f"Coordinate{axis}"]]) for axis in "XY"] for row in found.rows]
    )
    views = np.full(len(stems), -1)
    for stem in np.unique(stems):
        if (truth := truths.get(str(stem))) is not None:
            mine = stems == stem
            which = truth.of(points[mine])
            views[mine] = np.where(which >= 0, truth.views[which], -1)
    return np.array([int(row[at["ClassNumber"]]) for row in found.rows]), views


def _correlations(averages: Path, views: Path) -> NDArray[np.float64]:
    """Of each average with the view that it is most like."""
    images, pixel_a = mapped_volume(averages)
    true, true_a = mapped_volume(views)
    if not pixel_a or not true_a:
        raise RecordError(
            f"{views}: found no size of a pixel, one was expected; make the simulation "
            "anew"
        )
    side = images.shape[-1]
    sized = [
        resampled(np.asarray(view), (side, side), ratio=pixel_a / true_a)
        for view in true
    ]
    stack = np.stack(sized)
    return np.array([best_correlations(np.asarray(i), stack).max() for i in images])


def _check(name: str, value: float, limit: float, found: str) -> Check:
    return Check(
        name=name,
        passed=value >= limit,
        severity=Severity.ERROR,
        sentence=f"{found}, at least {limit:g} is wanted",
        value=value,
        limit=limit,
    )
