"""Dagster's web server behind the gate of the operator's page, as a process.

Started as `python -m em_platform.resources.web_server`, with the options of
`dagster-webserver`.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from dagster_webserver import cli

from em_platform.config import Settings, load_settings
from em_platform.errors import PlatformError
from em_platform.processes.gate import AuthMiddleware, AuthSettings, secrets_of

# Dagster does not promise to keep this name, by which its command line makes the
# application; tests/orchestration/test_web_server.py notices.
_MAKER = "create_app_from_workspace_process_context"
_NAME = "dagster-webserver"
_VARIABLES: Any = {"auto_envvar_prefix": "DAGSTER_WEBSERVER"}  # as Dagster's own main


def door_of(settings: Settings, host: str) -> AuthSettings:
    """What the gate has to know of Dagster's web UI, served at `host`."""
    password, cookie = secrets_of(settings.home, "web", settings.web.token)
    return AuthSettings(
        name="web",
        title="Dagster's web UI",
        host=host,
        names=settings.web.names,
        names_setting="web.names",
        password=password,
        password_setting="web.token",
        cookie=cookie,
        queries=("/graphql",),
    )


def gated(
    make: Callable[..., Any], door: AuthSettings
) -> Callable[..., AuthMiddleware]:
    """Make the same application, behind a gate."""
    return lambda *given, **named: AuthMiddleware(make(*given, **named), door)


def main(arguments: list[str]) -> None:
    """Serve the web UI until SIGTERM; `arguments` are those of `dagster-webserver`."""
    options = cli.cli.make_context(_NAME, list(arguments), **_VARIABLES).params
    settings = load_settings()
    # An AttributeError where Dagster has renamed it: never without the gate.
    make = getattr(cli, _MAKER)
    setattr(cli, _MAKER, gated(make, door_of(settings, options["host"])))
    # Dagster starts uvicorn without a word on proxies, which then asks this variable.
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.web.trusted_proxies)
    cli.cli(arguments, prog_name=_NAME, **_VARIABLES)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlatformError as error:
        sys.exit(str(error))
