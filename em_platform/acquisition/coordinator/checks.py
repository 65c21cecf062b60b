"""What must be so before an aperture is imaged."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from em_platform.config import CoordinatorSettings

_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known before an aperture is imaged.

    `needed_bytes` is what its frames will take, `beam_mean` the mean grey of the last
    tile (None: unknown), `calibrations` those that the region asks for.
    """

    montage_id: str
    frames: Path
    needed_bytes: int
    errors: int
    beam_mean: float | None
    calibrations: frozenset[str]
    is_continued: bool


def problem(situation: Situation, settings: CoordinatorSettings) -> str:
    """Why the aperture must not be imaged now, in a sentence; empty when it may."""
    return next(_problems(situation, settings), "")


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder that need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _problems(situation: Situation, settings: CoordinatorSettings) -> Iterator[str]:
    who = f"coordinator: {situation.montage_id} is not imaged"
    yield from _disk(who, situation, settings.min_free_gb * _GB)
    if situation.errors >= settings.max_errors:
        yield (
            f"{who}: {situation.errors} requests failed in this session, at most "
            f"{settings.max_errors - 1} are passed over; see to the devices, then retry"
        )
    mean, least = situation.beam_mean, settings.min_beam_mean
    if least > 0 and mean is not None and mean < least:
        yield (
            f"{who}: the last tile's mean is {mean:g} grey levels, at least {least:g} "
            "is expected; see to the beam, then retry"
        )
    for kind, required in (
        ("bright", settings.require_brightfield),
        ("dark", settings.require_darkfield),
    ):
        path = situation.frames / "references" / f"{kind}.tiff"
        asked = f"{kind}_field" in situation.calibrations
        if required and not asked and not path.is_file():
            yield (
                f"{who}: there is no {kind}field ({path}), one is required; acquire "
                "one, then retry"
            )
    folder = situation.frames / situation.montage_id
    if settings.existing_data == "refuse" and not situation.is_continued:
        if next(folder.glob("*_[0-9]*_[0-9]*.tiff"), None) is not None:
            yield (
                f"{who}: {folder} holds frames already, an empty folder is expected; "
                "choose another montage_id, or move them, then retry"
            )


def _disk(who: str, situation: Situation, least: float) -> Iterator[str]:
    folder = situation.frames
    free = free_bytes(folder)
    if free < least + situation.needed_bytes:
        yield (
            f"{who}: {folder} has {free / _GB:.1f} GB free, its frames take "
            f"{situation.needed_bytes / _GB:.1f} GB and {least / _GB:g} GB are to stay "
            "free; free space, then retry"
        )
