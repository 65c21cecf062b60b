"""A message of a recipe as a service sees it, and what the service sends on.

What goes over the wire is python-workflows' own: its `RecipeWrapper` reads and makes
the envelopes (https://github.com/DiamondLightSource/python-workflows).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import workflows
from pydantic import ValidationError
from workflows.recipe import RecipeWrapper

from em_platform.cryoem.ispyb import Ispyb, open_ispyb
from em_platform.cryoem.message_rules import check_message
from em_platform.cryoem.optics import stated_optics
from em_platform.cryoem.project import Dialect
from em_platform.cryoem.recipes.read import RecipeContent, is_placeholder
from em_platform.cryoem.stage import (
    GivenStages,
    RawParameters,
    StageParameters,
    overlaid,
)
from em_platform.cryoem.stages import set_parameters
from em_platform.errors import MessageRejected
from em_platform.model import Json, JsonObject
from em_platform.model.base import first_problem

RECIPE_HEADER = "workflows-recipe"

Headers: TypeAlias = dict[str, Any]
"""Of AMQP: texts and numbers, and RabbitMQ's own lists of tables, such as `x-death`."""
Fields: TypeAlias = dict[str, Json]
"""Parameters by their names, as a message or a step of a recipe has them."""
# What a short recipe can make of a service's memory: the text and its lists in Python.
_MOST_BYTES, _ITEM, _LIST = 150_000_000, 16, 64
P = TypeVar("P", bound=StageParameters)


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A message that waits to be sent."""

    queue: str
    body: Any
    headers: Headers = field(default_factory=dict)
    is_topic: bool = False

    def encoded(self) -> bytes:
        """The body as it goes over the wire."""
        return json.dumps(self.body).encode()


@dataclass
class Outbox:
    """Takes what is sent, until the work is done: then all goes out, or nothing.

    It stands where `workflows` expects a transport.
    """

    messages: list[Outgoing] = field(default_factory=list)
    on_failure: list[Outgoing] = field(default_factory=list)
    """What goes out where the work fails for good, instead of the others."""
    is_reconnectable = False
    _weight: int = 0

    def send(
        self, destination: str, message: Any, headers: Any = None, **_: Any
    ) -> None:
        """Keep a message for a queue."""
        self._keep(destination, message, headers, is_topic=False)

    def broadcast(
        self, destination: str, message: Any, headers: Any = None, **_: Any
    ) -> None:
        """Keep a message for all who listen."""
        self._keep(destination, message, headers, is_topic=True)

    def _keep(self, queue: str, body: Any, headers: Any, *, is_topic: bool) -> None:
        # A copy as the wire makes one: the sender goes on changing its own.
        text = json.dumps(body, default=str)
        lists = text.count("[") + text.count("{")
        self._weight += len(text) + _ITEM * text.count(",") + _LIST * lists
        if self._weight > _MOST_BYTES:
            raise MessageRejected(
                f"message: what it makes this service send has more than {_MOST_BYTES} "
                "bytes, a part of it was expected; send a smaller recipe"
            )
        self.messages.append(
            Outgoing(
                queue=queue,
                body=json.loads(text),
                headers=dict(headers or {}),
                is_topic=is_topic,
            )
        )


@dataclass(kw_only=True)
class ServiceContext:
    """Where services put what they find; each is opened when it is first needed."""

    ispyb_url: str
    recipe_folder: str = ""
    dialect: Dialect = "labels"
    """Of a new project's pipeline."""
    stages: GivenStages = field(default_factory=dict)
    """Stage -> its parameters, where a message says nothing of them."""
    roots: tuple[Path, ...] | None = None
    """Real paths of the folders in which all files lie that messages name; None where
    these are the owner's own, who is not bound."""
    made: Mapping[str, tuple[Any, Path]] | None = None
    """Stage -> its result and the folder of its files, where all were made before;
    services then take these and compute nothing."""
    _ispyb: Ispyb | None = None

    def parameters_of(self, stage: str) -> RawParameters:
        """What the settings say of a stage; ConfigError where it has no such."""
        return set_parameters(stage, self.stages)

    @property
    def ispyb(self) -> Ispyb:
        """The open database."""
        if self._ispyb is None:
            self._ispyb = open_ispyb(self.ispyb_url)
        return self._ispyb

    def close(self) -> None:
        """End what was opened."""
        if self._ispyb is not None:
            self._ispyb.close()
            self._ispyb = None


class Step:
    """One message at its service: parameters in, messages out."""

    def __init__(
        self,
        wrapper: RecipeWrapper | None,
        message: Any,
        outbox: Outbox,
        *,
        is_repeat: bool = False,
        roots: tuple[Path, ...] | None = None,
    ) -> None:
        self._roots = roots
        self.is_repeat = is_repeat
        """Whether a service that had it before may have been killed."""
        self._wrapper = wrapper
        self._outbox = outbox
        own = (wrapper.recipe_step.get("parameters") or {}) if wrapper else {}
        self.recipe_parameters: Fields = own
        """Those of the recipe's step."""
        # A start of a recipe has an empty list; old clients send a line of text.
        if isinstance(message, str) and message:
            message = {"status_message": message}
        self.message: Fields = message if isinstance(message, dict) else {}
        """Those of the message, which win."""

    @property
    def parameters(self) -> Fields:
        """All of them; what nobody filled in is not there."""
        both = {**self.recipe_parameters, **self.message}
        return {k: v for k, v in both.items() if not is_placeholder(v)}

    @property
    def environment(self) -> Fields:
        """What steps leave for those after them; it goes with what is sent next."""
        if self._wrapper is None:
            return {}
        found: Fields = self._wrapper.environment
        return found

    def validated(self, kind: type[P], **defaults: Any) -> P:
        """The parameters as those of a stage; `defaults` where a message has none.

        Of the microscope its `relion_options` count before them.

        Raises
        ------
        MessageRejected
            One is missing or wrong, or is not for messages to choose; the sentence
            names it.
        """
        brought = self.parameters
        try:
            handed_on = stated_optics(brought.get("relion_options"))
            below = overlaid(kind, defaults, handed_on)
            found = kind.model_validate(overlaid(kind, below, brought))
        except ValidationError as error:
            raise MessageRejected(
                f"message: {first_problem(error)}; send it with the message or write "
                "it into the recipe's step"
            ) from error
        if self._roots is not None:
            check_message(found, brought, roots=self._roots, settings=defaults)
        return found

    def parameters_at(self, channel: str) -> Fields:
        """Those that the recipe has for who gets what is sent to a channel."""
        recipe = self._wrapper.recipe.recipe if self._wrapper else {}
        outputs = self._wrapper and self._wrapper.recipe_step.get("output")
        number = outputs.get(channel) if isinstance(outputs, dict) else None
        there = recipe.get(number, {}) if isinstance(number, int) else {}
        found = there.get("parameters") or {}
        return {k: v for k, v in found.items() if not is_placeholder(v)}

    def send(self, channel: str, payload: Any) -> None:
        """Send to whoever the recipe has at that channel; without one to nobody.

        A message without a recipe answers at the queue that has the channel's name.
        """
        if channel == "node_creator":
            # Upstream's takes no report without them.
            payload = {"command": "", "stdout": "", "stderr": "", **payload}
        if self._wrapper is None:
            self._outbox.send(channel, payload)
        elif channel == "output":
            self._wrapper.set_default_channel("output")
            self._wrapper.send(payload)
        else:
            self._wrapper.send_to(channel, payload)

    def send_on_failure(self, channel: str, payload: Any) -> None:
        """As `send`, for the case that this message fails for good."""
        before = len(self._outbox.messages)
        self.send(channel, payload)
        self._outbox.on_failure.extend(self._outbox.messages[before:])
        del self._outbox.messages[before:]

    def start(self, recipe: RecipeContent, environment: JsonObject) -> None:
        """Send what a recipe begins with."""
        started = RecipeWrapper(
            recipe=dict(recipe), transport=self._outbox, environment=dict(environment)
        )
        started.start()


Handler = Callable[[Step, ServiceContext], None]


def handle_message(
    handler: Handler,
    headers: Headers,
    body: Any,
    place: ServiceContext,
    *,
    on_failure: list[Outgoing] | None = None,
    is_repeat: bool = False,
) -> list[Outgoing]:
    """Let a service handle a message; what it sends, when all of it worked.

    Parameters
    ----------
    on_failure
        Gets what is to be sent if the error that is raised will not pass.
    is_repeat
        A service had the message before, and did not end it.

    Raises
    ------
    MessageRejected
        It is no message of a recipe, or a parameter is missing or wrong.
    PlatformError
        The service could not do it.
    """
    outbox = Outbox(on_failure=[] if on_failure is None else on_failure)
    known: Any = {"is_repeat": is_repeat, "roots": place.roots}
    if str(headers.get(RECIPE_HEADER)).lower() in ("true", "1"):
        wrapper = _unwrapped(body, outbox)
        payload = body.get("payload")
        step = Step(wrapper, payload, outbox, **known)
    elif isinstance(body, dict):
        step = Step(None, _plain(body), outbox, **known)
    else:
        raise MessageRejected(
            f"message: {str(body)[:80]!r} was found, a table of parameters was "
            "expected; send JSON with names and values"
        )
    try:
        handler(step, place)
    except RecursionError as error:
        raise MessageRejected(
            "message: found lists in lists without end, a few were expected; correct it"
        ) from error
    return outbox.messages


def _plain(body: Fields) -> Fields:
    inner = body.get("parameters")
    # Murfey puts a service's parameters one deeper; the dispatcher's are its own.
    is_request = "recipes" in body or "custom_recipe" in body
    return inner if isinstance(inner, dict) and not is_request else body


def _unwrapped(body: Any, outbox: Outbox) -> RecipeWrapper:
    try:
        wrapper = RecipeWrapper(message=body, transport=outbox)
        for name, table in (
            ("parameters", wrapper.recipe_step.get("parameters") or {}),
            ("environment", wrapper.environment),
        ):
            if not isinstance(table, dict):
                raise TypeError(f"{name} is a {type(table).__name__}")
        return wrapper
    except (
        *(workflows.Error, KeyError, TypeError, ValueError, AttributeError),
    ) as error:
        raise MessageRejected(
            f"message: its recipe cannot be read ({type(error).__name__}: {error}), "
            "`recipe`, `recipe-pointer` and `payload` were expected; send it by "
            "workflows' RecipeWrapper"
        ) from error
