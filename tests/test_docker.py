"""The container files agree with the code: commands, ports, names, configuration."""

import re
import shutil
import sys
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from em_platform.cli import COMMANDS
from em_platform.cli.processes import SERVICES
from em_platform.config import FIELDS, load_settings
from em_platform.config.settings import OTHER_NAMES, Settings

DOCKER = Path(__file__).parent.parent / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
OURS = {n: s for n, s in COMPOSE["services"].items() if s["image"] == "em_platform"}
SETTINGS = {field.environment_name for field in FIELDS.values()}


def flat(value: Any) -> str:
    return yaml.safe_dump(value)


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_the_installation_has(name: str) -> None:
    program, *arguments = OURS[name]["command"]
    assert shutil.which(program, path=str(Path(sys.executable).parent))
    if program == "em-platform":
        assert arguments[0] in COMMANDS


def test_the_services_are_those_of_the_whole_platform() -> None:
    commands = [" ".join(service["command"][:3]) for service in OURS.values()]
    for part in (
        "web_server",
        "docker_launcher",
        "daemon",
        "api grpc",
        "broker",
        "recorder",
        "scheduler",
    ):
        assert any(part in command for command in commands), part
    simulated = [n for n, s in OURS.items() if s.get("profiles") == ["simulated"]]
    assert sorted(simulated) == ["camera", "scope", "stage"]
    live = [n for n, s in OURS.items() if s.get("profiles") == ["microscope"]]
    assert sorted(live) == sorted(SERVICES)
    assert all(OURS[n]["command"] == ["em-platform", "service", n] for n in live)


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert OURS[name]["environment"].keys() <= SETTINGS | OTHER_NAMES


def test_runs_get_every_variable_that_the_daemon_has() -> None:
    config = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    passed_on = config["run_launcher"]["config"]["env_vars"]
    assert sorted(passed_on) == sorted(OURS["daemon"]["environment"])


def test_published_ports_are_those_on_which_the_services_listen() -> None:
    defaults = Settings()
    assert OURS["broker"]["ports"] == [f"127.0.0.1:{defaults.broker.port}:61616"]
    assert OURS["webserver"]["ports"] == [f"127.0.0.1:{defaults.web.port}:3000"]
    assert "3000" in OURS["webserver"]["command"]
    page = defaults.acquisition.operator.port
    assert OURS["operator"]["ports"] == [f"127.0.0.1:{page}:{page}"]


def test_the_broker_and_its_clients_have_a_login() -> None:
    for service in OURS.values():
        environment = service["environment"]
        assert environment["EM_BROKER__USERNAME"] == "${EM_BROKER__USERNAME:-em}"
        # None that all installations share.
        assert environment["EM_BROKER__PASSWORD"].startswith("${EM_BROKER__PASSWORD:?")


def test_services_are_called_by_the_names_and_ports_where_they_listen() -> None:
    defaults, environment = Settings(), OURS["buffer"]["environment"]
    aloha = f"http://aloha:{defaults.aloha.port}"
    assert environment["EM_ACQUISITION__BUFFER__URL"] == aloha
    assert environment["EM_TEMDB__URL"] == f"http://temdb:{defaults.temdb.port}"


def test_services_find_each_other_by_name_and_port() -> None:
    workspace = yaml.safe_load((DOCKER / "workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    assert server["host"] in COMPOSE["services"]
    assert str(server["port"]) in OURS[server["host"]]["command"]
    environment = OURS["recorder"]["environment"]
    host, port = re.findall(r"tcp://([a-z]+):(\d+)", flat(environment))[0]
    assert port in OURS[host]["command"]
    assert environment["EM_BROKER__HOST"] in OURS
    assert f"@{environment['EM_PG_HOST']}/" in flat(environment)
    assert environment["EM_PG_HOST"] in COMPOSE["services"]


def test_the_network_and_volume_of_runs_are_those_of_the_services() -> None:
    config = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    [mount] = config["run_launcher"]["config"]["container_kwargs"]["volumes"]
    volume, _, _ = mount.partition(":")
    assert volume == COMPOSE["volumes"]["data"]["name"]
    network = OURS["daemon"]["environment"]["EM_DOCKER_NETWORK"]
    assert network == f"{COMPOSE['name']}_{next(iter(COMPOSE['networks']))}"


def test_only_runs_and_workers_reach_the_dask_scheduler() -> None:
    inside = [n for n, s in COMPOSE["services"].items() if "compute" in s["networks"]]
    assert sorted(inside) == ["scheduler", "worker"]
    assert all(OURS[name]["networks"] == ["compute"] for name in inside)
    # Dask's profiler hangs workers at times, see `stitching/compute.py`.
    image = (DOCKER / "Dockerfile").read_text()
    assert "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False" in image
    config = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    networks = config["run_launcher"]["config"]["networks"]
    assert networks == [{"env": "EM_DOCKER_NETWORK"}, f"{COMPOSE['name']}_compute"]


def test_dagster_accepts_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OURS["daemon"]["environment"].items():
        monkeypatch.setenv(name, value)
    config, _ = dagster_instance_config(str(DOCKER))
    assert config["run_launcher"]["class"] == "LimitedDockerRunLauncher"


def test_sources_have_in_containers_what_they_have_elsewhere(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name, value in OURS["daemon"]["environment"].items():
        if name.startswith("EM_INGEST"):
            default = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value))
            monkeypatch.setenv(name, default)
    assert load_settings().ingest == Settings().ingest


def test_everything_that_the_image_copies_is_sent_to_the_build() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    sent = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    copied = [
        w
        for line in re.findall(r"^COPY (.+)", dockerfile, re.M)
        for w in line.split()[:-1]
    ]
    assert copied
    assert not [name for name in copied if f"!{name}" not in sent]
    assert not [name for name in copied if not (DOCKER.parent / name).exists()]


def test_there_is_no_password_that_all_installations_share() -> None:
    used = re.findall(
        r"\$\{EM_PG_PASSWORD(.*?)\}", (DOCKER / "compose.yaml").read_text()
    )
    assert len(used) == 3
    assert all(kind == "" or kind.startswith(":?") for kind in used)
    # Docker Compose refuses to start without it, and says this.
    asked = COMPOSE["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert asked.startswith("${EM_PG_PASSWORD:?choose a password for PostgreSQL")
    assert OURS["daemon"]["environment"]["EM_PG_PASSWORD"] == asked


def test_only_what_starts_and_ends_runs_may_use_docker() -> None:
    with_socket = [
        name
        for name, service in COMPOSE["services"].items()
        if "docker.sock" in flat(service.get("volumes", []))
    ]
    assert sorted(with_socket) == ["daemon", "terminator"]
    assert not any("ports" in OURS[name] for name in with_socket)
    config = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    runs = config["run_launcher"]["config"]["container_kwargs"]["volumes"]
    assert "docker.sock" not in flat(runs)


def test_the_password_of_the_installation_is_not_copied_into_the_image() -> None:
    sent = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    assert sent.index("docker/.env") > sent.index("!docker")  # the last one wins


def test_foreign_images_can_be_named_by_their_digests() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    [(name, base)] = re.findall(r"^ARG (\w+)=(\S+)\nFROM \$\{\1\}$", dockerfile, re.M)
    assert OURS["code"]["build"]["args"] == {name: f"${{{name}:-{base}}}"}
    image = COMPOSE["services"]["postgres"]["image"]
    assert re.fullmatch(r"\$\{POSTGRES_IMAGE:-postgres:\d+\}", image)


def test_the_setuptools_of_python_is_not_kept_as_nothing_needs_it() -> None:
    for name in ("docker/Dockerfile", "Makefile"):
        text = (DOCKER.parent / name).read_text()
        assert re.search(r"pip uninstall .*\bsetuptools$", text, re.M), name
    # It asks for setuptools, and imports nothing of it.
    workflows = files("workflows").rglob("*.py")  # type: ignore[attr-defined]
    imports = re.compile(r"^\s*(import|from) (setuptools|pkg_resources)\b", re.M)
    assert not [path for path in workflows if imports.search(path.read_text())]
    needing = [
        each.name
        for each in distributions()
        for needed in each.requires or ()
        if re.match(r"setuptools\b", needed) and "extra ==" not in needed
    ]
    assert needing == ["workflows"]
