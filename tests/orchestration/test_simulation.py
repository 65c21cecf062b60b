"""Simulated tilt series through Dagster: partitions, assets, checks, record."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import mrcfile
import numpy as np
import pytest

from em_platform.catalog.record_files import content_of
from em_platform.catalog.validate import check_record
from em_platform.definitions import defs
from em_platform.model.dataset import DatasetRecord
from em_platform.partitions import sim_stacks
from em_platform.resources.simulation import Simulations
from em_platform.resources.storage import Configuration
from em_platform.sensors.simulation import simulation_plan_sensor
from em_platform.storage import Store, layout

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    # Resources of a sensor under test: Dagster asks them by its own old name.
    pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
]

PLAN = """
name: balls
seed: 3
stacks: {stacks}
pixel_nm: 1.0
tilts: {{first_deg: -30, step_deg: 30, tilts: 3}}
objective: {{defocus_um: [3]}}
camera: {{width_px: 128, height_px: 128}}
ice: {{thickness_nm: 60}}
errors: {{tilt_deg: 0.2, shift_nm: 2}}
particles: [{{name: ball, file: ball.mrc}}]
assembly: {{kind: crowded, options: {{counts: {{ball: 8}}}}}}
beads: {{count: 2, diameter_nm: 8}}
"""
CHECKS = {
    "stacks_are_valid",
    "counts_are_expected",
    "thon_rings_match_truth",
    "images_match_truth",
}


@pytest.fixture
def plan(home: Path) -> Callable[..., Path]:
    """Put a plan of small stacks, and the map of its particle, where plans lie."""

    def put(stacks: int = 1, text: str = PLAN) -> Path:
        folder = home / "plans"
        folder.mkdir(exist_ok=True)
        z, y, x = np.indices((24, 24, 24)) - 12
        ball = 6 * np.exp(-(z**2 + y**2 + x**2) / 30).astype(np.float32)
        with mrcfile.new(folder / "ball.mrc", ball, overwrite=True) as file:
            file.voxel_size = 10.0
        (folder / "balls.yaml").write_text(text.format(stacks=stacks))
        return folder

    return put


def simulate(
    instance: dg.DagsterInstance, key: str, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions(str(sim_stacks.name), [key, "other-0000"])
    job = defs.resolve_job_def("simulate_stacks")
    return job.execute_in_process(
        partition_key=key, instance=instance, raise_on_error=raise_on_error
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_plan_becomes_images_with_checked_truth_and_a_record(
    instance: dg.DagsterInstance, plan: Callable[..., Path], home: Path, store: Store
) -> None:
    plan()
    result = simulate(instance, "balls-0000")
    found = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert set(found) == CHECKS
    for name, check in found.items():
        assert check.passed, (name, check.description)
    values = {name: float(c.metadata["value"].value) for name, c in found.items()}
    assert values["counts_are_expected"] < 0.01
    assert values["thon_rings_match_truth"] < 0.02
    assert values["images_match_truth"] > 0.999
    folder = home / "simulations" / "balls-0000"
    assert mrcfile.validate(folder / "balls-0000.mrc")
    for project in ("imod", "relion5", "dynamo", "eman2", "motl"):
        made = home / "simulations" / "exports" / "balls-0000" / project
        assert (made / "em_platform.json").is_file()
    record = store.read(layout.record("simulation", "balls-0000"), DatasetRecord)
    assert record.metadata.core.modality == "cryo-ET"
    assert record.metadata.core.volume_shape == (3, 128, 128)
    assert record.metadata.core.sample == "8 ball, 2 beads"
    assert not check_record(content_of(record))
    shown = {
        name: value
        for event in result.get_asset_materialization_events()
        for name, value in event.materialization.metadata.items()
    }
    for name in (
        "central tilt",
        "power spectrum beside the expected rings",
    ):
        assert "data:image/webp" in str(shown[name].value)
    before = digests(folder)
    again = simulate(instance, "balls-0000")
    assert digests(folder) == before
    (made,) = [
        event.materialization.metadata["tilts made now"].value
        for event in again.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey("sim_tilt_stack")
    ]
    assert made == 0


def test_each_stack_of_each_plan_is_asked_for_once_and_more_alone(
    instance: dg.DagsterInstance, plan: Callable[..., Path]
) -> None:
    folder = plan(2)
    (folder / "broken.yaml").write_text("name: [")

    def look(cursor: str | None) -> dg.SensorResult:
        plans = {"simulations": Simulations(configuration=Configuration())}
        with dg.build_sensor_context(
            instance=instance, cursor=cursor, resources=plans
        ) as context:
            found = simulation_plan_sensor(context)
        assert isinstance(found, dg.SensorResult)
        return found

    first = look(None)
    keys = [each.partition_key for each in first.run_requests or ()]
    assert keys == ["balls-0000", "balls-0001"]
    second = look(first.cursor)
    assert not second.run_requests
    assert "is no YAML" in str(second.skip_reason)
    plan(3)
    third = look(second.cursor)
    assert [each.partition_key for each in third.run_requests or ()] == ["balls-0002"]
    plan(3, PLAN.replace("seed: 3", "seed: 4"))
    fourth = look(third.cursor)
    assert len(fourth.run_requests or ()) == 3


def test_a_stack_without_a_plan_fails_with_one_sentence(
    instance: dg.DagsterInstance, plan: Callable[..., Path]
) -> None:
    plan()
    result = simulate(instance, "balls-0007", raise_on_error=False)
    assert not result.success
    (failed,) = result.get_step_failure_events()
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert "has a stack balls-0007" in str(data.description)
