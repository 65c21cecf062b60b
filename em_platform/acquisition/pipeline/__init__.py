"""The online pipeline: each tile processed, measured and matched as it is imaged."""

from em_platform.config import Settings

TICK_S = 0.5


def run(settings: Settings, *, name: str) -> None:
    """Share the tiles with the other processes of the pipeline until SIGTERM."""
    import cv2

    from em_platform.acquisition.pipeline.journal import Journal
    from em_platform.acquisition.pipeline.service import PipelineService
    from em_platform.acquisition.pipeline.tile_worker import warm_up
    from em_platform.messaging.service import run_service

    cv2.setNumThreads(1)  # processes share the work, not threads
    warm_up(settings.acquisition.pipeline)
    path = settings.home.absolute() / "pipeline" / "journal.sqlite"
    journal = Journal(path, lease_s=settings.acquisition.pipeline.lease_s)
    run_service(
        name,
        settings.broker,
        setup=lambda bus: PipelineService(bus, journal, settings),
        tick_s=TICK_S,
    )
