"""The verdict on a stitched montage: its checks, its upload, its review in TEM DB."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from em_platform.acquisition.montages.stored import truth_of
from em_platform.config import StitchingSettings
from em_platform.errors import FormatError
from em_platform.formats import open_level
from em_platform.model import (
    AcquisitionUpload,
    Check,
    Montage,
    MontageFit,
    Review,
    Severity,
    TileStats,
    review_of,
)
from em_platform.stitching.quality import check_montage
from em_platform.storage import Store, layout
from em_platform.temdb.known_run import QcState

if TYPE_CHECKING:
    from em_platform.temdb.register import Register

BY = "em-platform review"
"""As whom the review writes to TEM DB; what a person has written there it leaves."""

_NOBODY = (None, BY, "aloha")  # no person: aloha reports what had not come yet
_HASHED = 8  # frames that are read again, evenly over the montage
_NAMED = 20  # A sentence with hundreds of tile ids is read by nobody

TemdbState = Literal["qc_pass", "qc_fail", "needs_review"]
"""TEM DB's words; its `needs_review` is our passed with warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMontage:
    """The tiles that are used, their statistics and places, and all checks."""

    montage: Montage
    stats: tuple[TileStats, ...]
    fit: MontageFit
    checks: tuple[Check, ...]

    @property
    def review(self) -> Review:
        """The verdict that follows from the checks."""
        return review_of(self.checks)


def judged_montage(
    acquisition_id: str, store: Store, settings: StitchingSettings
) -> JudgedMontage:
    """What was made of a montage so far, judged by all rules.

    The mosaic, the catalog record and the review in TEM DB ask here, so that none
    judges by other tiles than the others.

    Raises
    ------
    StorageError
        Its tiles, their statistics or its fit are not there.
    """
    montage = store.read(layout.tiles(acquisition_id), Montage)
    stats = store.read(layout.tile_statistics(acquisition_id), tuple[TileStats, ...])
    fit = store.read(layout.montage_fit(acquisition_id), MontageFit)
    return JudgedMontage(
        montage=montage,
        stats=stats,
        fit=fit,
        checks=check_montage(
            montage,
            stats,
            fit=fit,
            settings=settings,
            truth=truth_of(acquisition_id, store),
        ),
    )


def uploaded_ids(store: Store) -> list[str]:
    """The acquisitions of which something was uploaded."""
    return store.names(layout.UPLOADS)


def is_uploaded(acquisition_id: str, store: Store) -> bool:
    """Whether all of the acquisition was uploaded and verified."""
    return store.exists(layout.upload(acquisition_id))


def uploaded_montage(acquisition_id: str, store: Store) -> AcquisitionUpload:
    """What aloha wrote when all tiles of the acquisition were verified.

    Raises
    ------
    StorageError
        Nothing was uploaded, or not all of it.
    """
    return store.read(layout.upload(acquisition_id), AcquisitionUpload)


def check_upload(
    upload: AcquisitionUpload, montage: Montage, store: Store
) -> tuple[Check, ...]:
    """Whether every tile of the montage is in the upload, and whole."""
    uploaded = {tile.tile_id for tile in upload.tiles if tile.uri}
    absent = [t.tile_id for t in montage.tiles if t.tile_id not in uploaded]
    broken = [*_of_wrong_size(upload, store), *_of_other_content(upload, montage)]
    return (
        _check(
            "all_tiles_are_uploaded",
            absent,
            good=f"All {len(montage.tiles)} tiles were uploaded.",
            bad=f"{len(absent)} of {len(montage.tiles)} tiles are not in the upload",
        ),
        _check(
            "uploaded_tiles_are_whole",
            broken,
            good=f"All {len(uploaded)} uploaded tiles have their size and content.",
            bad=f"{len(broken)} uploaded tiles are not what was imaged",
        ),
    )


def verdict(checks: Sequence[Check]) -> TemdbState:
    """The review of the montage in the words of TEM DB."""
    if not review_of(checks).passed:
        return "qc_fail"
    return "qc_pass" if all(check.passed for check in checks) else "needs_review"


def write_review(
    register: "Register", acquisition_id: str, state: TemdbState
) -> QcState:
    """Write the verdict into TEM DB, unless a person has; what stands there then."""
    known = register.run_of(acquisition_id)
    by_other = known is not None and known.qc_by not in _NOBODY
    if known is not None and known.qc_state != "pending" and by_other:
        return known.qc_state
    register.set_qc(acquisition_id, state, by=BY)
    return state


def _of_wrong_size(upload: AcquisitionUpload, store: Store) -> list[str]:
    shape = (upload.tile_size.height_px, upload.tile_size.width_px)
    wrong = []
    for tile in upload.tiles:
        url = store.url(layout.uploaded_tile(upload.acquisition_id, tile.tile_id))
        try:
            found = open_level(url, 0, storage_options=store.options).shape
        except FormatError:  # absent or damaged: of no size at all
            found = ()
        if tuple(found) != shape:
            wrong.append(tile.tile_id)
    return wrong


def _of_other_content(upload: AcquisitionUpload, montage: Montage) -> list[str]:
    """Frames still on the disk whose checksum is not the one that was sent."""
    paths = {tile.tile_id: tile.uri for tile in montage.tiles if "://" not in tile.uri}
    there = [t for t in upload.tiles if Path(paths.get(t.tile_id, "")).is_file()]
    step = max(1, len(there) // _HASHED)
    wrong = []
    for tile in there[::step]:
        with open(paths[tile.tile_id], "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != tile.sha256:
            wrong.append(tile.tile_id)
    return wrong


def _check(name: str, items: list[str], *, good: str, bad: str) -> Check:
    named = ", ".join(items[:_NAMED])
    return Check(
        name=name,
        passed=not items,
        severity=Severity.ERROR,
        sentence=f"{bad}: {named}; upload the montage again." if items else good,
        value=float(len(items)),
        limit=0.0,
        items=tuple(items[:_NAMED]),
    )
