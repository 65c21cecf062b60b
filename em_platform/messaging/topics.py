"""The topics that installed packages define, and what fits them."""

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from em_platform.errors import MessageRejected
from em_platform.messaging.limits import within_limits
from em_platform.messaging.pigeon import Pigeon

Body: TypeAlias = Mapping[str, Any]
"""The fields of a message of any topic, by name."""

_SHOWN = 80  # characters of what a stranger may have written


@functools.cache
def topics() -> Mapping[str, type[BaseModel]]:
    """Every topic that an installed package defines, and the model of its body."""
    found: dict[str, type[BaseModel]] = Pigeon.get_topics()
    return found


def fitting(topic: str, fields: Body) -> BaseModel:
    """The message of `topic` with these fields; MessageRejected where they do not fit.

    Raises
    ------
    MessageRejected
        No such topic, a field is missing, unknown, of a wrong kind or beyond the
        limits.
    """
    model = model_of(topic)
    try:
        return within_limits(model(**fields))
    except ValidationError as error:
        raise MessageRejected(
            f"bus: a message for {topic} was not sent: {reason(error)}; "
            f"'pigeon doc {topic}' lists its fields",
            topic=topic,
        ) from error


def read_body(topic: str, body: str | bytes) -> BaseModel:
    """The message of `topic` that a body in JSON is, from the bus or from a file.

    Raises
    ------
    pydantic.ValidationError
        It does not fit the model, or a field is beyond the limits.
    MessageRejected
        No such topic.
    """
    return within_limits(model_of(topic).model_validate_json(body))


def model_of(topic: str) -> type[BaseModel]:
    """The model of a topic's body; MessageRejected where no package defines it."""
    if topic not in topics():
        raise MessageRejected(
            f"bus: no topic {topic!r} is known, one of {len(topics())} was expected; "
            "'pigeon list' shows them",
            topic=topic,
        )
    return topics()[topic]


def reason(error: ValidationError) -> str:
    """The first thing that does not fit, in one clause."""
    # Without the input, which may be a whole picture.
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(shortened(str(part)) for part in first["loc"])
    more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{place + ': ' if place else ''}{first['msg']}{more}"


def shortened(text: str) -> str:
    """A text of a stranger as one sentence can hold it: short, and on one line."""
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return text if text.isprintable() else ascii(text)


def inverted_focus(focus: float) -> float:
    """A focus score as messages have it, and back: here higher is sharper, there lower.

    Upstream's `tile.statistics.focus` falls as the image gets sharper. Scores are
    multiples of 2**-40 (imaging.focus), so that nothing is lost on the way.
    """
    return 1.0 - focus
