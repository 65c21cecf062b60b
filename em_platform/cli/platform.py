"""`em-platform up`: the processes of the platform, started, watched and ended."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

import em_platform
from em_platform.acquisition.session.rig import IMPORTS
from em_platform.cli.console_output import print_messages, verbosity
from em_platform.cli.databases import refuse_damaged_databases
from em_platform.cli.live import microscope_processes
from em_platform.config import Settings, load_settings
from em_platform.errors import ConfigError
from em_platform.processes import Child, Supervisor, end_session, free_port, listens
from em_platform.processes.ports import listens_at, private_socket
from em_platform.processes.single_instance import claim_home, try_lock
from em_platform.storage.atomic import write_bytes

_OURS = "em-platform up"
"""Stands in the first line of a dagster.yaml that we may replace."""
# As dagster.yaml names the folder of the runs' logs.
_HISTORY = "history/runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A platform that runs: its settings with the ports in use, and its processes."""

    settings: Settings
    supervisor: Supervisor
    url: str


@contextmanager
def running_platform(
    settings: Settings,
    *,
    beside: Sequence[Sequence[Child]] = (),
    on_ready: Callable[[str], None] = lambda _: None,
) -> Iterator[Platform]:
    """Start broker, recorder, code server, web UI and daemon; end them all after.

    Signals set `supervisor.stopping` within the block. `beside` are groups of further
    processes that need the broker; they stop before what they need, the last first.
    `on_ready` is called with the name of each process when it serves.

    Raises
    ------
    ConfigError
        The home is in use, or the broker's port is taken.
    ToolFailed
        A process does not start; with the end of its log.
    """
    home = settings.home.absolute()
    settings = settings.model_copy(update={"home": home})
    claim_home(settings)
    refuse_damaged_databases(settings, microscope=False)
    with _lock(home) as session_file:
        # A session whose parent was killed may have left orphans on our ports.
        if last := session_file.read_text():
            end_session(last, grace_s=3)
        settings = _with_free_ports(settings)
        environment = _environment(settings)
        # Into our own, from which every process below has its environment.
        os.environ.update(environment)
        workspace = _prepare_dagster(home)
        with (
            Supervisor(settings.logs_folder, on_ready=on_ready) as supervisor,
            supervisor.until_signalled(),
        ):
            session_file.write_text(supervisor.session)
            first = _children(settings, workspace)
            # 120 s, as in `live.py`: the microscope's processes may start beside them.
            supervisor.start_all([*first, *beside], timeout_s=120)
            # Only now: web UI and daemon read the definitions from the code server.
            supervisor.start(*_dagster(settings, workspace), timeout_s=120)
            host, port = settings.web.host, settings.web.port
            yield Platform(
                settings=settings,
                supervisor=supervisor,
                url=f"http://{host}:{port}",
            )


@contextmanager
def _lock(home: Path) -> Iterator[Path]:
    """Hold `home` for this process; gives the file that names the last session."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "session"
    path.touch()
    with try_lock(home / "lock") as ours:
        if not ours:
            raise ConfigError(
                f"up: a platform already runs in {home}, each needs a home of its own; "
                "stop that one, or name another home by EM_HOME"
            )
        yield path


def _with_free_ports(settings: Settings) -> Settings:
    web, broker = settings.web, settings.broker
    port = free_port(web.host, web.port)
    web = web.model_copy(update={"port": port})
    if broker.embedded and broker.port == 0:
        broker = broker.model_copy(update={"port": free_port(broker.host)})
    return settings.model_copy(update={"web": web, "broker": broker})


def _environment(settings: Settings) -> dict[str, str]:
    """Settings of the processes below, above every file of settings."""
    return {
        "EM_HOME": str(settings.home),
        "EM_BROKER__PORT": str(settings.broker.port),
        "EM_WEB__PORT": str(settings.web.port),
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",  # `ready` lines are read from the logs as they come
    }


def _prepare_dagster(home: Path) -> Path:
    """Put dagster.yaml and workspace.yaml in place; gives the latter."""
    folder = home / "dagster"
    # Replaced at each start, so that a new version of the platform brings its limits.
    instance = folder / "dagster.yaml"
    if not instance.is_file() or _OURS in instance.read_text(encoding="utf-8")[:200]:
        shipped = _shipped("dagster.yaml").read_text(encoding="utf-8")
        # Whole, for those who open the history without DAGSTER_HOME.
        history = json.dumps(str(folder.absolute() / _HISTORY))
        write_bytes(instance, shipped.replace(_HISTORY, history).encode())
    workspace = folder / "workspace.yaml"
    server = {
        "socket": str(private_socket(folder, "code")),
        "location_name": "em_platform",
    }
    content = yaml.safe_dump({"load_from": [{"grpc_server": server}]})
    write_bytes(workspace, content.encode())
    return workspace


def _shipped(name: str) -> Path:
    """A file of the repository's top level, which a wheel has in the package."""
    package = Path(em_platform.__file__).parent
    inside = package / name
    return inside if inside.is_file() else package.parent / name


def _children(settings: Settings, workspace: Path) -> list[list[Child]]:
    """Groups of processes that all others need; they can start at once."""
    # Not a port: it runs what it is sent, by whoever reaches it.
    socket = private_socket(workspace.parent, "code")
    code_server = Child(
        name="code_server",
        arguments=_python(
            *("em_platform.resources.code_server", "api", "grpc"),
            *("--socket", str(socket)),
            *("-m", "em_platform.definitions", "--location-name", "em_platform"),
            # Runs then start by this Python, not by the `dagster` of the PATH.
            "--use-python-environment-entry-point",
        ),
        imports=("dagster._cli", "dagster._grpc.server", "em_platform.definitions"),
        ready=lambda _: listens_at(socket),
        stop_grace_s=3,
    )
    recorder = Child(
        name="recorder",
        arguments=_python("em_platform", "recorder"),
        imports=IMPORTS["recorder"],
        ready=lambda log: "ready recorder\n" in log,
    )
    broker = [[_broker(settings)]] if settings.broker.embedded else []
    # The last group ends first, so the broker carries messages to the end.
    return [*broker, [recorder, code_server]]


def _broker(settings: Settings) -> Child:
    host, port = settings.broker.host, settings.broker.port
    if listens(host, port):
        raise ConfigError(
            f"up: port {port} on {host} is taken, the embedded broker needs it; "
            "set broker.port (EM_BROKER__PORT) to a free one, or broker.embedded to "
            "false to use the broker that is there, with its login"
        )
    return Child(
        name="broker",
        arguments=_python("em_platform", "broker"),
        imports=IMPORTS["broker"],
        ready=lambda log: "ready broker\n" in log,
    )


def _dagster(settings: Settings, workspace: Path) -> list[Child]:
    web = settings.web
    return [
        Child(
            name="web",
            arguments=_python(
                *("em_platform.resources.web_server", "-w", str(workspace)),
                *("-h", web.host, "-p", str(web.port)),
            ),
            imports=("dagster_webserver.cli",),
            ready=lambda _: listens(web.host, web.port),
        ),
        Child(
            name="daemon",
            arguments=_python("dagster._daemon", "run", "-w", str(workspace)),
            imports=("dagster._daemon.cli",),
            # It has no port to look at, only this line.
            ready=lambda log: "following daemons" in log,
        ),
    ]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


@click.command("up")
@click.option("--microscope", is_flag=True, help="The live microscope's services, too.")
def up(microscope: bool) -> None:
    """Start the platform: broker, recorder, web UI and daemon; Ctrl-C ends all.

    A process that dies is restarted. Logs are in `logs` in the data directory. A web
    port that is taken is replaced by a free one. A second platform needs a data
    directory and a broker port of its own: EM_HOME and EM_BROKER__PORT.
    """
    print_messages()
    settings = load_settings()
    if verbosity() >= 0:
        click.echo("starting broker, recorder, code server, web UI and daemon ...")
    with ExitStack() as stack:
        page = ""
        if microscope:
            beside = stack.enter_context(microscope_processes(settings))
            settings, page = beside.settings, beside.page
            running = running_platform(
                settings, beside=beside.groups, on_ready=_print_ready
            )
        else:
            running = running_platform(settings, on_ready=_print_ready)
        platform = stack.enter_context(running)
        _print_places(platform, settings, page)
        platform.supervisor.run()
        click.echo("stopping ...")


def _print_ready(name: str) -> None:
    if verbosity() >= 0:
        click.echo(f"  {name} is ready")


def _print_places(platform: Platform, asked: Settings, page: str) -> None:
    broker = platform.settings.broker
    wanted, got = asked.web.port, platform.settings.web.port
    if wanted != got:
        click.echo(f"port {wanted} is taken, the web UI is at {got}")
    click.echo(f"web UI    {platform.url}")
    if page:
        click.echo(f"operator  {page}")
    click.echo(f"broker    {broker.host}:{broker.port}")
    click.echo(f"home      {platform.settings.home}")
    click.echo("Ctrl-C ends all")
