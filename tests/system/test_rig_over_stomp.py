"""A simulated microscope of real processes images montages over the real topics."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import tifffile
from pigeon import Pigeon

from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.session.rig import DEVICES
from em_platform.cli.watch import begin, regions
from em_platform.config import Settings, export, load_settings
from em_platform.definitions import defs
from em_platform.imaging.exposure import camera_gain
from em_platform.messaging.bus import Bus
from em_platform.messaging.login import login_of
from em_platform.model.dataset import DatasetRecord
from em_platform.model.truth import MontageTruth
from em_platform.partitions import montages
from em_platform.processes import Supervisor
from em_platform.simulation.devices.optics import view
from em_platform.simulation.specimen import Tissue
from em_platform.storage import layout, store_of
from tests.ports import reserve_port
from tests.rig import running_rig

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

Rig = tuple[Settings, Supervisor]


def variables(port: int) -> dict[str, str]:
    """What every process of the rig gets."""
    return export(
        {
            "broker.port": str(port),
            "acquisition.rows": "3",
            "acquisition.columns": "3",
            "acquisition.overlap": "0.25",
            "acquisition.simulation.tile_px": "256",
            "acquisition.simulation.electrons": "0",
            "acquisition.simulation.jitter_px": "5",
            "acquisition.simulation.lens_px": "2",
            "acquisition.simulation.turn_sd_deg": "0.05",
            "acquisition.simulation.missing": "2:2",
        }
    )


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("rig")
    environment = variables(reserve_port())
    settings = load_settings(environment={**environment, "EM_HOME": str(home)})
    wanted = (*DEVICES, "coordinator")
    with running_rig(settings, environment=environment, wanted=wanted) as supervisor:
        tending = threading.Thread(target=supervisor.run)
        tending.start()
        yield settings, supervisor
        supervisor.stopping.set()
        tending.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imaged:
    """One montage that was imaged."""

    acquisition_id: str
    montage_id: str
    folder: Path


def image(settings: Settings, *, montages: int = 1) -> list[Imaged]:
    with Bus(settings.broker, "acquire") as bus:
        bus.connect(10)
        received = begin(bus, settings, regions(settings, montages))
        deadline = time.monotonic() + 100
        while not all(run.state == "completed" for run in received.runs) or (
            len(received.runs) < montages
        ):
            assert time.monotonic() < deadline, received.runs
            time.sleep(0.1)
    return [
        Imaged(
            acquisition_id=run.acquisition_id,
            montage_id=run.montage_id,
            folder=settings.home / "frames" / run.montage_id,
        )
        for run in received.runs
    ]


def check_frames(made: Imaged) -> None:
    """Each frame shows, to half a grey level, what the truth says that it shows."""
    path = made.folder / f"{made.acquisition_id}.truth.json"
    truth = MontageTruth.model_validate_json(path.read_bytes())
    assert len(truth.tiles) == 9
    gain = camera_gain(256, 256, **truth.gain.model_dump())
    for tile in truth.tiles.values():
        frame = made.folder / f"{tile.tile_id}.tiff"
        if "missing" in tile.faults:
            assert (tile.row, tile.column) == (2, 2)
            assert not frame.exists()
            continue
        light = view(
            Tissue(truth.seed),
            tile.placement,
            size=truth.size,
            section=int(made.montage_id[-1]),
            lens=truth.lens,
        )
        seen = tifffile.imread(frame)
        assert seen.dtype == np.uint8
        assert np.abs(np.clip(light * gain * tile.beam, 0, 255) - seen).max() <= 0.52


def test_frames_are_what_the_truth_says(rig: Rig) -> None:
    (made,) = image(rig[0])
    check_frames(made)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster")
def test_a_live_montage_without_one_of_its_frames_needs_review(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = rig
    (made,) = image(settings)
    for name, value in variables(settings.broker.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EM_HOME", str(settings.home))
    with ledger_of(settings) as recorder:
        recorder.reconcile_montage(made.folder)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(montages.name), [made.acquisition_id])
        result = defs.resolve_job_def("stitch_montages").execute_in_process(
            partition_key=made.acquisition_id, instance=instance
        )
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    complete = checks["montage_is_complete"]
    assert not complete.passed
    assert (complete.description or "").startswith("Missing: 1 of 9 tiles")
    assert checks["placements_match_truth"].passed, checks["placements_match_truth"]
    name = layout.dataset_record(made.acquisition_id)
    assert store_of(settings).read(name, DatasetRecord).status == "needs_review"


def test_any_pigeon_client_hears_a_whole_montage(rig: Rig) -> None:
    settings, _ = rig
    received: dict[str, list[Any]] = {}
    client = Pigeon("listener", port=settings.broker.port)
    client.connect(*login_of(settings.broker))
    for topic in ("scope.status", "stage.motion.status", "camera.status"):
        client.subscribe(topic, lambda m, t: received.setdefault(t, []).append(m))
    for topic in ("camera.image", "tile.raw", "montage.status", "montage.complete"):
        client.subscribe(topic, lambda m, t: received.setdefault(t, []).append(m))
    time.sleep(0.2)
    (made,) = image(settings)
    time.sleep(0.5)
    client._connection.remove_listener("listener")
    client.disconnect()
    counts = {topic: len(messages) for topic, messages in received.items()}
    # Before and after a montage, previews come with the same topics.
    for topic in ("tile.raw", "camera.image"):
        tiles = [m for m in received[topic] if m.montage_id == made.montage_id]
        assert len(tiles) == 9, topic
    assert counts["montage.complete"] == 1
    assert counts["montage.status"] == 11
    assert counts["stage.motion.status"] >= 18
    assert {"scope.status", "camera.status"} <= set(counts)


@pytest.mark.parametrize("victim", ["camera", "stage", "broker"])
def test_a_process_that_is_killed_costs_time_and_no_tile(rig: Rig, victim: str) -> None:
    settings, supervisor = rig
    killing = threading.Timer(
        0.6, lambda: os.kill(supervisor.pids[victim], signal.SIGKILL)
    )
    killing.start()
    made = image(settings, montages=2)
    killing.join()
    assert supervisor.restarts[victim] == 1
    for each in made:
        check_frames(each)
        bodies = each.folder.glob(f"{each.acquisition_id}_*.json")
        complete = json.loads(
            (each.folder / f"{each.acquisition_id}.complete.json").read_text()
        )
        assert {path.stem for path in bodies} == set(complete["tiles"])
        assert len(complete["tiles"]) == 9
