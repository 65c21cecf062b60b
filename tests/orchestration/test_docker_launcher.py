from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.test_utils import create_run_for_test, instance_for_test

from em_platform.resources.docker_launcher import LimitedDockerRunLauncher


def limits_of(tags: dict[str, str]) -> dict[str, object]:
    launcher = LimitedDockerRunLauncher(
        image="em_platform", container_kwargs={"auto_remove": True}
    )
    with instance_for_test() as instance:
        run: DagsterRun = create_run_for_test(instance, tags=tags)
        return dict(launcher.get_container_context(run).container_kwargs)


def test_a_run_has_the_memory_and_cpus_that_its_tags_name() -> None:
    assert limits_of({"em/memory_mb": "10240", "em/cpus": "0.25"}) == {
        "auto_remove": True,
        "mem_limit": "10240m",
        "nano_cpus": 250_000_000,
    }


def test_a_run_without_such_tags_has_no_limits_of_its_own() -> None:
    assert limits_of({}) == {"auto_remove": True}
