"""From a montage to its mosaic: statistics, matches, fit, image, checks."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from em_platform.config import StitchingSettings
from em_platform.model import (
    Check,
    LensModel,
    Montage,
    MontageFit,
    Review,
    TileStats,
    review_of,
)
from em_platform.stitching.compute import Mapper, own_usage, serial
from em_platform.stitching.match import match_pairs
from em_platform.stitching.quality import check_montage
from em_platform.stitching.recipe import Recipe, choose_recipe
from em_platform.stitching.recipe_file import images_by, recipe_beside
from em_platform.stitching.render import Mosaic, render_mosaic
from em_platform.stitching.solve import solve_montage
from em_platform.stitching.tile_images import TileImages, exclude_tiles, measure_tiles
from em_platform.stitching.truth import truth_beside
from em_platform.storage.layout import StorageOptions

A = TypeVar("A")
B = TypeVar("B")


class Progress(Protocol):
    """Called when a step begins (`done` 0) and after each of its `total` pieces."""

    def __call__(self, step: str, done: int, total: int, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StitchResult:
    """All that came out; `montage` also names what was excluded on the way.

    `seconds` are of the clock, per step and `total`. `cpu_seconds` and
    `peak_memory_mb` are of this process alone; whoever started workers adds theirs.
    """

    montage: Montage
    images: TileImages
    stats: tuple[TileStats, ...]
    fit: MontageFit
    mosaic: Mosaic
    checks: tuple[Check, ...]
    review: Review
    seconds: dict[str, float]
    cpu_seconds: float
    peak_memory_mb: float


def stitch_montage(
    montage: Montage,
    target: str,
    *,
    settings: StitchingSettings,
    lens: LensModel | None = None,
    storage_options: StorageOptions | None = None,
    input_options: StorageOptions | None = None,
    inputs: Iterable[str] = (),
    overwrite: bool = False,
    run: Mapper = serial,
    progress: Progress | None = None,
) -> StitchResult:
    """Stitch a montage into an OME-Zarr mosaic at `target`.

    Tiles that cannot be read, or that show nothing, are excluded; the rest is
    stitched. Beside frames that were imaged with these settings lies how they became
    tiles and with which lens, which is then done again. The options are fsspec's, for
    the target and for the tiles; `inputs` and `overwrite` are as in
    `storage.guard.check_output`.

    Raises
    ------
    OutputRefused
        What stands at the target must not be replaced.
    OutputBusy
        Another process writes the target.
    DataError
        No tile can be used.
    StorageError
        The mosaic cannot be written; nothing then stands at `target`.
    """
    before = own_usage()
    steps = _Steps(run=run, progress=progress)
    with steps.step("statistics") as run_step:
        recipe = _recipe_of(montage, settings, input_options)
        lens = lens or recipe.tile.lens
        images = images_by(recipe, montage, input_options)
        survey = measure_tiles(montage, images, run=run_step)
        # Before matching: what shows nothing must not be placed.
        montage = exclude_tiles(montage, survey.failures)
    with steps.step("matches") as run_step:
        matches = match_pairs(
            montage, images, settings=settings.match, lens=lens, run=run_step
        )
    with steps.step("fit"):
        fit = solve_montage(montage, matches, settings=settings.solve)
    # Before the mosaic, which carries the review with it.
    checks = _checks_of((montage, survey.stats, fit), settings, input_options)
    review = review_of(checks)
    with steps.step("mosaic") as run_step:
        mosaic = render_mosaic(
            montage,
            fit,
            images,
            target,
            settings=settings.render,
            review=review,
            lens=lens,
            storage_options=dict(storage_options) if storage_options else None,
            inputs=inputs,
            overwrite=overwrite,
            run=run_step,
        )
    usage = own_usage()
    return StitchResult(
        montage=montage,
        images=images,
        stats=survey.stats,
        fit=fit,
        mosaic=mosaic,
        checks=checks,
        review=review,
        seconds=steps.seconds | {"total": sum(steps.seconds.values())},
        cpu_seconds=usage.cpu_seconds - before.cpu_seconds,
        peak_memory_mb=usage.peak_memory_mb,
    )


def _recipe_of(
    montage: Montage, settings: StitchingSettings, options: StorageOptions | None
) -> Recipe:
    """That of the live session, where the settings still ask for the same."""
    recipe = recipe_beside(montage, options=options)
    if recipe is None or not recipe.tile.follows(settings.tile):
        return choose_recipe(montage, settings.tile, options=options)
    return recipe


def _checks_of(
    result: tuple[Montage, Sequence[TileStats], MontageFit],
    settings: StitchingSettings,
    options: StorageOptions | None,
) -> tuple[Check, ...]:
    """All rules, and the comparison with the truth where it lies beside the tiles."""
    montage, stats, fit = result
    truth = truth_beside(montage, options=options)
    return check_montage(montage, stats, fit=fit, settings=settings, truth=truth)


@dataclass(slots=True, kw_only=True)
class _Steps:
    """Times each step and reports how far it is."""

    run: Mapper
    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Mapper]:
        started = time.perf_counter()
        self._report(name, 0, 0)
        yield self._counted(name)
        self.seconds[name] = time.perf_counter() - started

    def _counted(self, name: str) -> Mapper:
        def counted(act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
            # All at once: the total is shown from the beginning.
            pieces = list(items)
            for done, result in enumerate(self.run(act, pieces), start=1):
                self._report(name, done, len(pieces))
                yield result

        return counted

    def _report(self, name: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(name, done, total)
