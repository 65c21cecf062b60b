"""A recipe from its start to its end, in this process and without a broker."""

import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from workflows.recipe import RecipeWrapper

from em_platform.config import Settings
from em_platform.cryoem.ispyb import register_collection
from em_platform.cryoem.optics import stages_of
from em_platform.cryoem.project.jobs import JOB
from em_platform.cryoem.recipes.read import Fillings, RecipeContent
from em_platform.cryoem.services import OTHER_NAMES, SERVICES, load_service
from em_platform.cryoem.services.step import (
    RECIPE_HEADER,
    Outbox,
    Outgoing,
    ServiceContext,
    handle_message,
)
from em_platform.errors import NoAnswer, PlatformError
from em_platform.model import JsonObject
from em_platform.storage.layout import local_path


@dataclass(frozen=True, kw_only=True)
class StepRun:
    """What became of one message."""

    step: int
    service: str
    payload: Any
    sent: int = 0
    environment: JsonObject = field(default_factory=dict)
    error: PlatformError | None = None
    is_outside: bool = False
    """No service of ours: the message would leave the platform here."""


def place_of(settings: Settings) -> ServiceContext:
    """Where services put what they find, as the settings have it."""
    cryoem = settings.cryoem
    own = f"sqlite:///{settings.home.absolute() / 'ispyb.sqlite'}"
    return ServiceContext(
        ispyb_url=cryoem.ispyb_url or own,
        recipe_folder=cryoem.recipe_folder,
        dialect=cryoem.project_dialect,
        stages=stages_of(cryoem.session),
    )


def bound_place_of(settings: Settings) -> ServiceContext:
    """As `place_of`, for messages of others: their files lie in `cryoem.roots`."""
    usual = (
        str(settings.sessions_folder),
        str(settings.session_results_folder),
        settings.storage.root or str(settings.home / "data"),
    )
    folders = [local_path(each) for each in settings.cryoem.roots or usual]
    roots = tuple(Path(os.path.realpath(each)) for each in folders if each is not None)
    return replace(place_of(settings), roots=roots)


def completed(
    parameters: Fillings, *, recipe: str, wanted: set[str], place: ServiceContext
) -> Fillings:
    """The parameters with what an instrument's program would have registered.

    `wanted` are the names that the recipe has in braces. Where none is given, the data
    are registered by the project that they are processed in, so that tilts and their
    tomogram are of one collection; else by the folder and name of movie or stack.

    Raises
    ------
    RecordError
        The database refuses it.
    """
    path = Path(str(_first(parameters, "movie", "stack_file") or recipe))
    classes = _first(parameters, "class2d_dir") or path
    made: dict[str, str | int] = {
        # One number for each movie of a program, the same each time.
        "mc_uuid": _number(path),
        "picker_uuid": _number(f"{path}:picks"),
        "class2d_grp_uuid": _number(f"{classes}:group"),
        "class_uuids": json.dumps(
            {
                str(number): _number(f"{classes}:{number}")
                for number in range(1, int(parameters.get("nr_classes") or 50) + 1)
            }
        ),
        "image_number": 1,
        "feedback_queue": "murfey_feedback",
    }
    programs = {"appid", "autoproc_program_id"}
    if wanted & {"dcid", *programs} - parameters.keys():
        made_in = _first(parameters, "mrc_out", "output_file", "class2d_dir") or path
        inside = JOB.fullmatch(f"{Path(str(made_in)).absolute()}/run")
        named = Path(inside["project"]) if inside else path
        folder = named if inside else path.parent
        with place.ispyb.write() as writer:
            parents = register_collection(
                writer,
                image_directory=str(folder.absolute()),
                image_prefix=named.name[:45],  # so long is the column
                recipe=recipe[:50],
            )
        made |= {"dcid": parents.dcid, **dict.fromkeys(programs, parents.program_id)}
    return {**{k: v for k, v in made.items() if k in wanted}, **parameters}


def _first(parameters: Fillings, *names: str) -> Any:
    return next((parameters[name] for name in names if parameters.get(name)), None)


def _number(text: object) -> int:
    # The column has no sign, and 31 bits on some servers.
    return crc32(str(text).encode()) >> 1


def run_recipe(
    recipe: RecipeContent, place: ServiceContext, *, guid: str
) -> Iterator[StepRun]:
    """Run a recipe that is filled in; what became of each message, as it becomes so.

    A step that fails ends its own branch; the rest goes on, as with live services.
    """
    outbox = Outbox()
    RecipeWrapper(
        recipe=dict(recipe), transport=outbox, environment={"ID": guid}
    ).start()
    waiting = deque(outbox.messages)
    # How many failed for a row that is not there yet, since anything succeeded.
    fruitless = 0
    while waiting:
        message = waiting.popleft()
        ran, sent = _run(message, place)
        if isinstance(ran.error, NoAnswer) and fruitless < len(waiting):
            # As a live one is delivered again later.
            waiting.append(message)
            fruitless += 1
            continue
        if ran.error is None:
            fruitless = 0
        waiting.extend(sent)
        yield ran


def _run(message: Outgoing, place: ServiceContext) -> tuple[StepRun, list[Outgoing]]:
    body = message.body
    pointer = int(body["recipe-pointer"])
    steps = body["recipe"]
    named = str(steps[str(pointer)].get("service", ""))
    name = OTHER_NAMES.get(named, named)
    payload = body["payload"]
    if name not in SERVICES:
        ran = StepRun(step=pointer, service=named, payload=payload, is_outside=True)
        return ran, []
    failures: list[Outgoing] = []
    try:
        headers = {**message.headers, RECIPE_HEADER: True}
        sent = handle_message(
            load_service(name), headers, body, place, on_failure=failures
        )
    except PlatformError as error:
        ran = StepRun(step=pointer, service=named, payload=payload, error=error)
        # Nothing is tried again here but rows that are not there yet.
        return ran, [] if isinstance(error, NoAnswer) else failures
    ran = StepRun(
        step=pointer,
        service=named,
        payload=payload,
        sent=len(sent),
        environment=body["environment"],
    )
    return ran, sent
