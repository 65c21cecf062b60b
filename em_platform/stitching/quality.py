"""Is a montage good: rules with a limit each, and a sentence for who runs the scope.

The rules are those of the Allen Institute's TileQC (focus, spread, matches per edge)
and asap-modules' em_montage_qc (disconnected tiles, gaps, seams, distortion).
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

import numpy as np

from em_platform.config import StitchingSettings
from em_platform.config.stitching import QualitySettings
from em_platform.model import (
    Check,
    Montage,
    MontageFit,
    Severity,
    TileMatch,
    TileStats,
)
from em_platform.model.truth import MontageTruth
from em_platform.stitching.closure import find_holes, opened_pairs, seam_px, tile_scales
from em_platform.stitching.neighbours import abut
from em_platform.stitching.tile_rules import (
    TileRule,
    contrast_rule,
    edge_fails,
    focus_rule,
    plain_rules,
    usual_of,
)
from em_platform.stitching.truth import check_truth

_ABUT = "the tiles abut: nothing was matched, each has its nominal position."
_NAMED = 3  # items that a sentence names; `Check.items` has all of them


def check_montage(
    montage: Montage,
    stats: Sequence[TileStats],
    *,
    fit: MontageFit,
    settings: StitchingSettings,
    truth: MontageTruth | None = None,
) -> tuple[Check, ...]:
    """All rules, applied to one montage from which the bad tiles were excluded.

    Assets, `em-platform stitch`, the record and the review in TEM DB judge by these;
    all are known before the mosaic is made. With its `truth` the places are compared.
    """
    limits = settings.quality
    return (
        *check_completeness(montage),
        check_enough_tiles(montage, limits),
        *check_tiles(stats, limits),
        *check_matches(montage, fit.matches, limits),
        *check_fit(montage, fit, limits),
        check_enough_connected(montage, fit, limits),
        *check_truth(fit, truth, limits),
    )


def check_tiles(
    stats: Sequence[TileStats], limits: QualitySettings
) -> tuple[Check, ...]:
    """What the pixels of each tile say: focus, contrast, saturation.

    A tile without contrast shows no specimen, so that its focus is not judged.
    """
    shown = [tile for tile in stats if not contrast_rule(limits).fails(tile.std)]
    focus = {tile.tile_id: tile.focus for tile in shown}
    in_focus = focus_rule(limits, usual=usual_of(list(focus.values())))
    return (
        _judge_tiles(in_focus, focus),
        _judge_tiles(contrast_rule(limits), {tile.tile_id: tile.std for tile in stats}),
        *(
            _judge_tiles(
                rule, {tile.tile_id: getattr(tile, rule.value) for tile in stats}
            )
            for rule in plain_rules(limits)
        ),
    )


def check_matches(
    montage: Montage, matches: Sequence[TileMatch], limits: QualitySettings
) -> tuple[Check, ...]:
    """Is every pair of neighbours matched, but for the few that may stay without."""
    bad = {
        _edge(match): match.reason
        or f"{match.points} points, {limits.min_points_per_edge} needed"
        for match in matches
        if not match.kept or edge_fails(match.points, limits)
    }
    pairs = len(matches)
    # 1e-9: int() would cut 0.29 * 100, which is 28.999... in binary.
    allowed = int(limits.max_unmatched_fraction * pairs + 1e-9)
    if len(montage.tiles) <= 1:
        return (
            Check.not_applicable("edges_are_matched", "one tile has no neighbour."),
        )
    if abut(montage):
        return (Check.not_applicable("edges_are_matched", _ABUT),)
    if not pairs:
        sentence = "No two tiles overlap; check the positions and the pixel size."
    elif bad:
        named = _named(f"{edge} ({reason})" for edge, reason in bad.items())
        sentence = (
            f"Not matched: {len(bad)} of {pairs} pairs of neighbours, {allowed} "
            f"allowed: {named}; where they show specimen, check that no "
            "files are swapped, or image them again."
        )
    else:
        sentence = f"Every pair of neighbours is matched ({pairs})."
    return (
        Check(
            name="edges_are_matched",
            passed=len(bad) <= allowed and pairs > 0,
            severity=Severity.WARN,
            sentence=sentence,
            value=len(bad),
            limit=allowed,
            items=tuple(bad),
        ),
    )


def check_fit(
    montage: Montage, fit: MontageFit, limits: QualitySettings
) -> tuple[Check, ...]:
    """Are the fitted tiles closed, connected and in their shape."""
    return (
        _no_gaps(montage, fit),
        _closed_seams(fit, limits),
        Check.not_applicable("tiles_are_connected", _ABUT)
        if abut(montage)
        else _connected(fit, limits),
        _undistorted(fit, limits),
    )


def check_completeness(montage: Montage) -> tuple[Check, ...]:
    """Is every planned tile there; the montage is that of which bad ones are out.

    The plan is the raster that the microscope was to image, the list of a folder, or
    what the montage held when it was first recorded.
    """
    there, planned = len(montage.tiles), montage.expected_tiles
    # A plan that is too small must not hide what failed.
    lost = max(planned - there, len(montage.failures))
    if lost > 0:
        reasons = _named(failure.sentence for failure in montage.failures)
        sentence = (
            f"Missing: {lost} of {planned} tiles"
            + (f" ({reasons})" if reasons else "")
            + "; image them again, or use the mosaic without them."
        )
    elif there > planned:
        sentence = (
            f"Too many: {there} tiles, {planned} were planned; check that only one "
            "montage lies in the folder."
        )
    else:
        sentence = f"All expected tiles are present ({planned})."
    return (
        Check(
            name="montage_is_complete",
            passed=there == planned and not montage.failures,
            severity=Severity.ERROR,
            sentence=sentence,
            value=there,
            limit=planned,
            items=tuple(failure.item for failure in montage.failures),
        ),
    )


def check_enough_tiles(montage: Montage, limits: QualitySettings) -> Check:
    """Is there enough of the montage to be worth a mosaic; else Dagster makes none."""
    there, planned = len(montage.tiles), montage.expected_tiles
    needed = _least(planned, limits.min_present_fraction)
    sentence = f"Enough tiles can be used ({there} of {planned}, {needed} needed)."
    if there < needed:
        sentence = (
            f"Too few to be used: {there} of {planned} tiles, at least {needed} "
            "needed; image the montage again, or lower "
            "stitching.quality.min_present_fraction and stitch it again."
        )
    return _at_least("enough_tiles_are_present", there, needed, sentence)


def check_enough_connected(
    montage: Montage, fit: MontageFit, limits: QualitySettings
) -> Check:
    """Do the matches place enough of the tiles; else Dagster makes no mosaic."""
    if abut(montage):
        return Check.not_applicable("enough_tiles_are_connected", _ABUT)
    total = len(fit.placements)
    joined = sum(tile.component == 0 for tile in fit.placements)
    needed = _least(total, limits.min_connected_fraction)
    sentence = f"Enough tiles are connected ({joined} of {total}, {needed} needed)."
    if joined < needed:
        sentence = (
            f"Too few tiles are connected: at most {joined} of {total} are "
            f"connected by matches, at least {needed} needed; check the overlap, the "
            "pixel size and stitching.match.search_px, or lower "
            "stitching.quality.min_connected_fraction, and stitch it again."
        )
    return _at_least("enough_tiles_are_connected", joined, needed, sentence)


def _at_least(name: str, found: int, needed: int, sentence: str) -> Check:
    return Check(
        name=name,
        passed=found >= needed,
        severity=Severity.ERROR,
        sentence=sentence,
        value=found,
        limit=needed,
    )


def _least(total: int, fraction: float) -> int:
    """That part of `total` in whole tiles; one at least."""
    # 1e-9: 0.28 * 25 is 7.000000000000001 in binary.
    return max(1, ceil(fraction * total - 1e-9))


def _judge_tiles(rule: TileRule, values: Mapping[str, float]) -> Check:
    ranked = sorted(values, key=lambda tile: values[tile], reverse=rule.is_maximum)
    failed = [tile for tile in ranked if rule.fails(values[tile])]
    worst = values[ranked[0]] if ranked else None
    if worst is None:
        sentence = "No tile shows specimen, so there is nothing to judge."
    elif failed:
        sentence = (
            f"{rule.bad}: {len(failed)} of {len(values)} tiles ({_named(failed)}; "
            f"worst: {rule.figures_of(worst)}); {rule.advice}."
        )
    else:
        figures = rule.figures_of(worst)
        sentence = f"Every tile is {rule.good} (worst of {len(values)}: {figures})."
    return Check(
        name=rule.name,
        passed=not failed and bool(ranked),
        severity=rule.severity,
        sentence=sentence,
        value=worst,
        limit=rule.limit,
        items=tuple(failed),
    )


def _no_gaps(montage: Montage, fit: MontageFit) -> Check:
    holes = [f"row {row}, column {column}" for row, column in find_holes(montage)]
    opened = [" / ".join(pair) for pair in opened_pairs(montage, fit)]
    found = (*holes, *opened)
    sentence = "No hole amid the tiles, and all neighbours still overlap."
    parts = []
    if holes:
        parts.append(f"Holes amid the tiles: {len(holes)} ({_named(holes)})")
    if opened:
        parts.append(f"Neighbours moved apart: {len(opened)} ({_named(opened)})")
    if parts:
        sentence = f"{'. '.join(parts)}; image these tiles again."
    return Check(
        name="montage_has_no_gaps",
        passed=not found,
        severity=Severity.ERROR,
        sentence=sentence,
        value=len(found),
        limit=0,
        items=found,
    )


def _closed_seams(fit: MontageFit, limits: QualitySettings) -> Check:
    seams = {
        _edge(match): found
        for match, found in seam_px(fit, min_points=limits.min_seam_points)
    }
    ranked = sorted(seams, key=lambda edge: -seams[edge])
    if not ranked:
        return Check.not_applicable("seams_are_closed", "no two tiles are matched.")
    opened = [edge for edge in ranked if seams[edge] >= limits.max_seam_px]
    worst = seams[ranked[0]]
    limit = f"{limits.max_seam_px:g} px"
    sentence = (
        f"Every seam is closed (worst of {len(seams)}: {worst:.2f} px, the median "
        f"distance of its matched points; less than {limit} expected)."
    )
    if opened:
        named = _named(f"{edge} ({seams[edge]:.1f} px)" for edge in opened)
        sentence = (
            f"Open by {limit} or more: {len(opened)} of {len(seams)} seams: {named}; "
            "check the lens correction, and these tiles for drift."
        )
    return Check(
        name="seams_are_closed",
        passed=not opened,
        severity=Severity.ERROR,
        sentence=sentence,
        value=worst,
        limit=limits.max_seam_px,
        items=tuple(opened),
    )


def _connected(fit: MontageFit, limits: QualitySettings) -> Check:
    loose = tuple(tile.tile_id for tile in fit.placements if tile.component != 0)
    total, allowed = len(fit.placements), limits.max_disconnected_tiles
    sentence = f"All tiles are connected ({total})."
    if loose:
        sentence = (
            f"Not connected: {len(loose)} of {total} tiles, {allowed} allowed "
            f"({_named(loose)}); they are kept at their nominal position; "
            "check that no files are swapped."
        )
    return Check(
        name="tiles_are_connected",
        passed=len(loose) <= allowed,
        severity=Severity.ERROR,
        sentence=sentence,
        value=len(loose),
        limit=allowed,
        items=loose,
    )


def _undistorted(fit: MontageFit, limits: QualitySettings) -> Check:
    """Median absolute deviation of the tiles' scales, as em_montage_qc has it."""
    scales = tile_scales(fit)
    off = np.abs(scales - np.median(scales, axis=0)) if len(scales) else scales
    worst = float(np.median(off, axis=0).max()) if len(off) else 0.0
    # Named only where the usual deviation is too large: one odd tile passes.
    stretched = off.max(axis=1, initial=0.0) > limits.max_distortion
    passed = worst <= limits.max_distortion
    sentence = (
        f"The tiles keep their scale (usual deviation {worst:.2%}, at most "
        f"{limits.max_distortion:.2%})."
    )
    tiles = [fit.placements[i].tile_id for i in np.flatnonzero(stretched)]
    if not passed:
        sentence = (
            f"The fit had to scale tiles by {worst:.2%} as a rule, at most "
            f"{limits.max_distortion:.2%} expected (for instance {_named(tiles)}); "
            "calibrate the lens, or fit translations only."
        )
    return Check(
        name="montage_is_undistorted",
        passed=passed,
        severity=Severity.WARN,
        sentence=sentence,
        value=worst,
        limit=limits.max_distortion,
        items=() if passed else tuple(tiles),
    )


def _edge(match: TileMatch) -> str:
    return f"{match.a} / {match.b}"


def _named(items: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    names = list(items)
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
