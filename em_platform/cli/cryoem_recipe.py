"""`em-platform cryoem recipe` and `service`: recipes here, on a broker, and served."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from em_platform.errors import ConfigError

if TYPE_CHECKING:
    from em_platform.config import Settings
    from em_platform.cryoem.recipes.read import Fillings
    from em_platform.cryoem.services.local import StepRun
    from em_platform.cryoem.services.step import ServiceContext
    from em_platform.model import JsonObject

_PARAMETERS = [
    click.option(
        "--parameter",
        "given",
        multiple=True,
        metavar="NAME=VALUE",
        help="one parameter of the recipe; may be repeated",
    ),
    click.option(
        "--parameters",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="parameters as a JSON object",
    ),
]


def _with_parameters(command: Any) -> Any:
    for option in reversed(_PARAMETERS):
        command = option(command)
    return command


@click.group("recipe")
def recipe() -> None:
    """Check, draw, run or send a recipe in zocalo's format.

    RECIPE is a name (`recipe list`) or a .json file.
    """


@recipe.command("list")
def list_() -> None:
    """Print the names of all recipes."""
    from em_platform.cryoem.recipes import recipe_names

    for name in recipe_names(_settings().cryoem.recipe_folder):
        click.echo(name)


@recipe.command("lint")
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@_with_parameters
@click.option("--json", "as_json", is_flag=True, help="a line of JSON for each problem")
def lint(
    recipes: tuple[str, ...], given: tuple[str, ...], file: Path | None, as_json: bool
) -> None:
    """Print what is wrong with each RECIPE; with an error the exit status is 1.

    With parameters it also says which names in braces they do not fill in.
    """
    from em_platform.cryoem.recipes import lint_recipe, read_recipe_file

    parameters = _parameters(given, file)
    errors = 0
    for name in recipes:
        content = read_recipe_file(name, _settings().cryoem.recipe_folder)
        problems = lint_recipe(content, parameters if given or file else None)
        errors += sum(each.severity == "error" for each in problems)
        for each in problems:
            line = {"recipe": name, **each.model_dump()}
            click.echo(json.dumps(line) if as_json else f"{name}: {each}")
        if not problems and not as_json:
            click.echo(f"{name}: no problems")
    if errors:
        sys.exit(1)


@recipe.command("graph")
@click.argument("name", metavar="RECIPE")
@click.option(
    "--form",
    type=click.Choice(["text", "mermaid", "dot"]),
    default="text",
    show_default=True,
    help="lines to read, or a diagram for Mermaid or Graphviz",
)
def graph(name: str, form: Any) -> None:
    """Print the steps of RECIPE and what goes from one to the next."""
    from em_platform.cryoem.recipes import draw_recipe, read_recipe_file

    content = read_recipe_file(name, _settings().cryoem.recipe_folder)
    click.echo(draw_recipe(content, form))


@recipe.command("run")
@click.argument("name", metavar="RECIPE")
@_with_parameters
@click.option("--json", "as_json", is_flag=True, help="a line of JSON for each message")
def run(name: str, given: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Run RECIPE here, to its end, without a broker.

    A step that fails ends its branch, the rest goes on, and the exit status is 1.
    Messages to services that are not the platform's own are printed. Where the recipe
    asks for `dcid` and `appid` and none is given, the data are registered in ISPyB.
    """
    from em_platform.cryoem.recipes import placeholders_of, read_recipe_file
    from em_platform.cryoem.services.local import completed, run_recipe
    from em_platform.cryoem.services.process_recipe import requested

    settings = _settings()
    parameters = _parameters(given, file)
    content = read_recipe_file(name, settings.cryoem.recipe_folder)
    wanted = placeholders_of(content)
    failed = 0
    place = _place(settings)
    try:
        parameters = completed(
            parameters, recipe=Path(name).stem, wanted=wanted, place=place
        )
        request: JsonObject = {"custom_recipe": content, "parameters": parameters}  # type: ignore[dict-item]
        guid, content = requested(request)
        for ran in run_recipe(content, place, guid=guid):
            failed += ran.error is not None
            _show(ran, as_json=as_json)
    finally:
        place.close()
    if failed:
        sys.exit(1)


@recipe.command("send")
@click.argument("names", metavar="RECIPE...", nargs=-1, required=True)
@_with_parameters
@click.option(
    "--queue", default="processing_recipe", show_default=True, help="of the dispatcher"
)
def send(
    names: tuple[str, ...], given: tuple[str, ...], file: Path | None, queue: str
) -> None:
    """Ask a dispatcher, ours or zocalo's, to start each RECIPE with the parameters.

    The names are the dispatcher's: they need not be known here.
    """
    from em_platform.cryoem.services.broker import connected, publish
    from em_platform.cryoem.services.step import Outgoing

    body = {"recipes": list(names), "parameters": _parameters(given, file)}
    with connected(_settings().cryoem.rabbitmq) as channel:
        publish(channel, Outgoing(queue=queue, body=body))
    click.echo(f"sent to {queue}: {', '.join(names)}")


@click.command("service")
@click.argument("name", metavar="SERVICE")
@click.option("--queue", help="listen here instead of at the service's own queue")
def service(name: str, queue: str | None) -> None:
    """Serve one queue of RabbitMQ until SIGTERM or Ctrl-C.

    SERVICE has the name that recipes give it (EMISPyB, ProcessRecipe...). It stands
    beside the services of cryo-EM sites, or instead of one of them.
    """
    from em_platform.cryoem.services import OTHER_NAMES, SERVICES, load_service
    from em_platform.cryoem.services.live import Service, serve
    from em_platform.messaging.service import report_ready, stop_signals
    from em_platform.processes.logs import setup_logging

    known = OTHER_NAMES.get(name, name)
    if known not in SERVICES:
        raise ConfigError(
            f"cryoem service: there is no {name}, one of {', '.join(sorted(SERVICES))} "
            "was expected; name one of them"
        )
    settings = _settings()
    setup_logging(known, settings)
    place = _place(settings, bound=True)
    served = Service(
        name=known,
        queue=queue or SERVICES[known],
        handler=load_service(known),
        place=place,
    )
    with stop_signals() as stop:
        serve(served, settings.cryoem.rabbitmq, stop, ready=lambda: report_ready(known))
    place.close()


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that a service could not handle."""


@dead_letters.command("list")
@click.argument("queue")
def list_dead(queue: str) -> None:
    """Print each dead letter of QUEUE with its sentence, a line of JSON each."""
    from em_platform.cryoem.services import live

    for letter in live.dead_letters(_settings().cryoem.rabbitmq, queue):
        click.echo(json.dumps(letter))


@dead_letters.command("reinject")
@click.argument("queue")
def reinject(queue: str) -> None:
    """Send the dead letters of QUEUE once more to where they were to go."""
    from em_platform.cryoem.services import live

    count = live.reinject(_settings().cryoem.rabbitmq, queue)
    click.echo(f"{queue}: {count} sent once more")


@click.group("project")
def project() -> None:
    """A project folder of RELION or doppio."""


@project.command("rebuild")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--dialect",
    type=click.Choice(["labels", "relion31"]),
    help="for doppio and RELION from 4, or for 3.1  [default: cryoem.project_dialect]",
)
def rebuild(folder: Path, dialect: Any) -> None:
    """Write default_pipeline.star in FOLDER anew from the jobs that lie there.

    Jobs that RELION or doppio ran stay in it while the dialect stays.
    """
    from em_platform.cryoem.project import rebuild_pipeline

    own = dialect or _settings().cryoem.project_dialect
    count = rebuild_pipeline(folder.absolute(), dialect=own)
    click.echo(f"{folder}: {count} jobs")


COMMANDS = (recipe, service, dead_letters, project)


def _settings() -> "Settings":
    from em_platform.config import load_settings

    return load_settings()


def _place(settings: "Settings", *, bound: bool = False) -> "ServiceContext":
    from em_platform.cryoem.services.local import bound_place_of, place_of
    from em_platform.processes.single_instance import claim_home

    if not settings.cryoem.ispyb_url:
        claim_home(settings)
    return bound_place_of(settings) if bound else place_of(settings)


def _parameters(given: tuple[str, ...], file: Path | None) -> "Fillings":
    found = {}
    if file is not None:
        try:
            found = json.loads(file.read_bytes())
            if not isinstance(found, dict):
                raise ValueError("an object was expected")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--parameters: {file} cannot be read ({error}), a JSON object was "
                "expected; correct it"
            ) from error
    for each in given:
        name, separator, value = each.partition("=")
        if not separator:
            raise ConfigError(
                f"--parameter: {each!r} has no =, NAME=VALUE was expected; write it so"
            )
        found[name] = value
    return found


def _show(ran: "StepRun", *, as_json: bool) -> None:
    if as_json:
        shown = {
            "step": ran.step,
            "service": ran.service,
            "sent": ran.sent,
            "error": None if ran.error is None else str(ran.error),
            "outside": ran.payload if ran.is_outside else None,
        }
        click.echo(json.dumps(shown))
        return
    place = f"step {ran.step} {ran.service}"
    if ran.error is not None:
        click.echo(f"{place}: {ran.error}", err=True)
    elif ran.is_outside:
        text = json.dumps(ran.payload)
        click.echo(f"{place}: no service of ours; its message: {text}")
    else:
        click.echo(f"{place}: done, {ran.sent} messages sent")
