"""A lens is calibrated from one montage, and closes the seams of the next."""

from pathlib import Path

import dagster as dg
import pytest

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.roi import roi_of
from em_platform.acquisition.session.rig import DEVICES
from em_platform.cli.watch import begin
from em_platform.config import Settings, export, load_settings
from em_platform.definitions import defs
from em_platform.messaging.bus import Bus
from em_platform.model import MontageFit
from em_platform.partitions import lens_key, lenses, montages
from em_platform.storage import layout, store_of
from tests.ports import reserve_port
from tests.rig import running_rig
from tests.system.conftest import wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
]

LENS_PX, TILES = 6, 9


def acquire(settings: Settings, bus: Bus, number: int, *, overlap: float) -> None:
    """Image a montage, and have the online pipeline process its tiles."""
    region = roi_of(f"m-{number}", number, 3, 3, overlap, settings)
    received = begin(bus, settings, [region])
    folder = frames_folder(settings) / region["montage_id"]
    wait_until(
        lambda: (
            [run.state for run in received.runs] == ["completed"]
            and len(list(folder.glob("*.processed.tiff"))) == TILES
        ),
        timeout_s=120,
        what=lambda: str(received.runs),
    )


def run(instance: dg.DagsterInstance, job: str, key: str, **config: object) -> None:
    result = defs.resolve_job_def(job).execute_in_process(
        partition_key=key, instance=instance, run_config=config
    )
    assert result.success


def test_a_calibrated_lens_closes_the_seams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {
        "home": str(tmp_path / "home"),
        "broker.port": str(reserve_port()),
        "acquisition.rows": "3",
        "acquisition.columns": "3",
        "acquisition.simulation.tile_px": "768",
        "acquisition.simulation.lens_px": str(LENS_PX),
        "stitching.match.search_px": "64",
        "dask.workers": "1",
    }
    for name, value in export(chosen).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    services = (*DEVICES, "coordinator", "pipeline")
    with (
        running_rig(settings, environment=export(chosen), wanted=services),
        Bus(settings.broker, "acquire") as bus,
    ):
        bus.connect(30)
        acquire(settings, bus, 1, overlap=0.6)
        acquire(settings, bus, 2, overlap=0.15)
    with ledger_of(settings) as recorder:
        for folder in frames_folder(settings).iterdir():
            recorder.reconcile_montage(folder)
        lens_set, montage = [key for _, key in recorder.montages()]
    store = store_of(settings)
    fit = layout.montage_fit(montage)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(montages.name), [lens_set, montage])
        lens = lens_key("sim", 2000)
        instance.add_dynamic_partitions(str(lenses.name), [lens])
        run(instance, "stitch_montages", montage)
        before = store.read(fit, MontageFit)
        shown = {"lens_correction": {"config": {"acquisition_id": lens_set}}}
        run(instance, "calibrate_lens", lens, ops=shown)
        run(instance, "stitch_tiles", montage)
        after = store.read(fit, MontageFit)
    assert before.residual_px > 0.1
    assert after.residual_px < before.residual_px / 2
