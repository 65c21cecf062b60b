"""`em-platform standins`: the public sources, small, on this machine."""

import shlex
from contextlib import ExitStack
from pathlib import Path

import click

from em_platform.config import load_settings
from em_platform.errors import ConfigError
from em_platform.standins.faults import KINDS, Fault
from em_platform.standins.part import Size
from em_platform.standins.world import ALL, running_world
from em_platform.storage.guard import mark_of, write_file

_ADDRESSES = "addresses of stand-ins"


@click.command(epilog=f"Faults: {', '.join(KINDS)}.")
@click.option(
    "--sources", default=",".join(ALL), show_default=True, help="Comma-separated."
)
@click.option(
    "--size",
    type=click.Choice(["small", "demo", "bench", "real"]),
    default="demo",
    show_default=True,
    help="Size of their volumes; bench: hundreds of MB, real: many GB.",
)
@click.option(
    "--port",
    default=0,
    metavar="PORT",
    help="Of the control server; the others have the ports after it.  [default: free]",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder of their files."
)
@click.option(
    "--write",
    "env_file",
    type=click.Path(path_type=Path),
    metavar="FILE.env",
    help="Write the variables here, too.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND:PATH[:TIMES]",
    help="Simulate a fault at matching paths, such as status:*_0003.dm3:2.",
)
@click.option("--writable", is_flag=True, help="Also serve an S3 bucket for results.")
def command(
    sources: str,
    size: Size,
    port: int,
    folder: Path | None,
    env_file: Path | None,
    faults: tuple[str, ...],
    writable: bool,
) -> None:
    """Serve stand-ins of the public sources on 127.0.0.1 until Ctrl-C.

    It prints the variables that point the platform to them, then `ready standins`.
    Faults and the log of requests are at /faults and /requests of the control server.
    """
    from em_platform.messaging.service import report_ready, stop_signals
    from em_platform.standins.s3 import running_writable_s3

    chosen = tuple(sources.replace(",", " ").split())
    # Before anything starts: a typing error costs no time.
    shown = [_fault(text) for text in faults]
    place = folder or load_settings().home / "standins"
    with stop_signals() as stop, ExitStack() as stack:
        world = stack.enter_context(
            running_world(place, sources=chosen, size=size, port=port)
        )
        world.faults.add(*shown)
        # Before `ready`: the files of a `real` world take many minutes.
        world.prepare()
        variables = dict(world.environment)
        if writable:
            bucket = stack.enter_context(running_writable_s3())
            variables |= {
                "EM_" + name.upper().replace(".", "__"): value
                for name, value in bucket.settings.items()
            }
        # A shell reads them: `. standins.env`.
        lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
        if env_file is not None:
            content = "\n".join((f"# {mark_of(_ADDRESSES).decode()}", *lines, ""))
            write_file(env_file, content.encode(), _ADDRESSES)
        for line in lines:
            click.echo(line)
        click.echo(f"# control: {world.control_url}")
        report_ready("standins")
        stop.wait()


def _fault(text: str) -> Fault:
    kind, colon, rest = text.partition(":")
    # From the right: a path may hold colons, too.
    path, _, times = rest.rpartition(":")
    if not path or not times.isdigit():
        path, times = rest, ""
    if not colon or not path:
        raise ConfigError(
            f"standins: --fault {text}: no path found, expected KIND:PATH[:TIMES]; "
            "write it so, as in status:*.dm3:2"
        )
    return Fault(kind, path, times=int(times) if times else None)  # type: ignore[arg-type]
