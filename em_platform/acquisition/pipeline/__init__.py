"""The online pipeline: each tile processed, measured and matched as it is imaged."""

from em_platform.config import Settings

TICK_S = 0.5  # so that a process that has died is noticed within a second


def run(settings: Settings, *, name: str) -> None:
    """Share the tiles with the other processes of the pipeline until SIGTERM."""
    # Loaded here: heavy, and the package is imported for its small modules too.
    import cv2

    from em_platform.acquisition.pipeline.journal import Journal
    from em_platform.acquisition.pipeline.service import PipelineService
    from em_platform.acquisition.pipeline.tile_worker import warm_up
    from em_platform.messaging.service import run_service

    cv2.setNumThreads(1)  # processes share the work, not threads
    # Kernels are compiled at their first call: not while a tile waits.
    warm_up(settings.acquisition.pipeline)
    path = settings.home.absolute() / "pipeline" / "journal.sqlite"
    journal = Journal(path, lease_s=settings.acquisition.pipeline.lease_s)
    run_service(
        name,
        settings.broker,
        setup=lambda bus: PipelineService(bus, journal, settings),
        tick_s=TICK_S,
    )
