"""A lens is calibrated from one montage, and closes the seams of the next."""

import subprocess
import sys

import dagster as dg
import pytest

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.recorder import ledger_of
from em_platform.config import load_settings
from em_platform.definitions import defs
from em_platform.model import MontageFit
from em_platform.partitions import lens_key, lenses, montages
from em_platform.storage import layout, store_of

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
]

LENS_PX = 6


def acquire(environment: dict[str, str], number: int, *, overlap: float) -> None:
    size = ("--rows", "3", "--columns", "3", "--tile-px", "768")
    told = subprocess.run(
        (
            *(sys.executable, "-m", "em_platform", "acquire", "--first", str(number)),
            *("--overlap", str(overlap), *size),
        ),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def run(instance: dg.DagsterInstance, job: str, key: str, **config: object) -> None:
    result = defs.resolve_job_def(job).execute_in_process(
        partition_key=key, instance=instance, run_config=config
    )
    assert result.success


def test_a_calibrated_lens_closes_the_seams(
    make_platform, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_platform(tmp_path / "home") as platform:
        environment = platform.environment | {
            "EM_ACQUISITION__SIMULATION__LENS_PX": str(LENS_PX),
            "EM_STITCHING__MATCH__SEARCH_PX": "64",
        }
        acquire(environment, 1, overlap=0.6)
        acquire(environment, 2, overlap=0.15)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
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
