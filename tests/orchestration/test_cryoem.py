"""A session's movies in Dagster: found by the sensor, processed, judged, and shown."""

from pathlib import Path

import dagster as dg
import mrcfile
import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.definitions import defs
from em_platform.resources.cryoem import CryoemSessions
from em_platform.resources.storage import Configuration
from em_platform.sensors.cryoem import cryoem_session_sensor
from em_platform.simulation.single_particles import ParticlePlan, movie

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PLAN = ParticlePlan(
    views=2,
    particles=12,
    side_px=384,
    pixel_a=3.0,
    signal_to_noise=1.0,
    ice=0.15,
    seed=2,
)
DRIFT_PX = 4.0
OWN = "particle_diameter_a: 150\npixel_size_a: 3\nvoltage_kv: 300\ndose_per_frame: 1\n"


@pytest.fixture
def session(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `grid1` with two movies that arrived long ago."""
    folder = home / "cryoem/grid1"
    folder.mkdir(parents=True)
    (folder / "session.yaml").write_text(OWN)
    monkeypatch.setenv("EM_CRYOEM__SETTLE_S", "0")
    monkeypatch.setenv("EM_CRYOEM__QUIET_S", "0")
    for number in range(2):
        frames, _, _ = movie(PLAN, number, frames=4, drift_px=DRIFT_PX)
        with mrcfile.new(folder / f"FoilHole_{number}_fractions.mrc") as file:
            file.set_data(frames)
    return folder


def tick(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult | dg.SkipReason:
    cryoem = CryoemSessions(configuration=Configuration())
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"cryoem": cryoem}
    ) as context:
        found = cryoem_session_sensor(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def run(
    instance: dg.DagsterInstance, request: dg.RunRequest
) -> dg.ExecuteInProcessResult:
    assert request.job_name
    return defs.resolve_job_def(request.job_name).execute_in_process(
        partition_key=request.partition_key, instance=instance, raise_on_error=False
    )


def test_a_session_goes_from_movies_to_classes(
    instance: dg.DagsterInstance, session: Path
) -> None:
    found = tick(instance)
    assert isinstance(found, dg.SensorResult)
    requests = found.run_requests or []
    assert [(r.job_name, r.partition_key) for r in requests] == [
        ("process_particles", "grid1~FoilHole_0_fractions"),
        ("process_particles", "grid1~FoilHole_1_fractions"),
        ("classify_particles", "grid1"),
    ]
    assert {r.tags["em/part"] for r in requests} == {"cryoem"}
    for added in found.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(
            added.partitions_def_name, list(added.partition_keys)
        )
    assert isinstance(tick(instance, found.cursor), dg.SkipReason)

    for request in requests:
        result = run(instance, request)
        assert result.success
        assert all(c.passed for c in result.get_asset_check_evaluations())
    with open_sessions(load_settings()) as sessions:
        made = sessions.micrograph("grid1~FoilHole_0_fractions")
        assert made is not None
        moved = np.hypot(made.result.shift_x_px[-1], made.result.shift_y_px[-1])
        assert moved == pytest.approx(DRIFT_PX, abs=0.5)
        fit = sessions.fit_ctf("grid1~FoilHole_0_fractions").result
        _, truth, _ = movie(PLAN, 0, frames=4, drift_px=DRIFT_PX)
        assert fit.defocus_u_a == pytest.approx(truth.defocus_a, abs=1000)
        classes = sessions.classify("grid1").result
        assert classes.particles > 15
    shown = instance.get_latest_materialization_event(dg.AssetKey("micrographs"))
    assert shown is not None
    metadata = shown.asset_materialization.metadata  # type: ignore[union-attr]
    assert "data:image/webp" in str(metadata["picture"].value)

    # Nothing is computed twice: the same files stay.
    folder = load_settings().home / "cryoem_results"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert run(instance, requests[0]).success
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
