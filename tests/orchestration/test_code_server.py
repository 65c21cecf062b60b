"""What the code server changes of Dagster's own."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._grpc import impl

from em_platform.resources.code_server import KeptInstance


def test_looks_of_sensors_share_one_instance_until_dagster_yaml_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dg.DagsterInstance] = []

    @dg.sensor(job_name="none")
    def looking(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        seen.append(context.instance)
        return dg.SkipReason(f"{context.instance.get_runs_count()} runs")

    @dg.job(name="none")
    def nothing() -> None: ...

    repository = dg.Definitions(jobs=[nothing], sensors=[looking]).get_repository_def()
    origin = InProcessCodeLocationOrigin(LoadableTargetOrigin())
    # By the name that Dagster looks up, so that the test notices a new one.
    monkeypatch.setattr(impl, "SensorEvaluationContext", KeptInstance().sensor_context)
    homes = (tmp_path / "one", tmp_path / "one", tmp_path / "two")
    for home in homes:
        home.mkdir(exist_ok=True)
        ref = dg.DagsterInstance.local_temp(str(home)).get_ref()
        found = impl.get_external_sensor_execution(
            repository, origin, ref, "looking", None, None, None, None, None
        )
        assert getattr(found, "skip_message", found) == "0 runs"
    first, again, other = seen
    assert first is again
    assert other is not first
