"""What a stage is: parameters in, files in a folder and a result out.

A stage is one module of `em_platform.cryoem.stages` with three names: `Parameters`,
`Result`, and `run(parameters, folder) -> Result`. The command line, a Dagster asset and
a live service call the same `run`, so the same parameters give the same files.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeAlias

from pydantic import AfterValidator, AliasChoices, Field
from pydantic.fields import FieldInfo

from em_platform.model import Model
from em_platform.model.base import Foreign

RESULT = "result.json"
"""In a folder of results: what a stage found, and of what."""

ResultFields: TypeAlias = dict[str, Any]
"""Fields of a stage's `Result`, which checks them, from a part of the stage."""
RawParameters: TypeAlias = Mapping[str, Any]
"""Parameters of a stage by their names, before its `Parameters` check them."""
GivenStages: TypeAlias = Mapping[str, RawParameters]
"""Stage -> parameters that win over its caller's, as `cryoem.session.stages` has."""
MOST_OF_A_NAME = 200


class Rule(StrEnum):
    """What a field may be in a message; stands in its `Annotated`."""

    PLAIN = "a number, or one of the words that the field knows"
    PATH = "paths within cryoem.roots; this is the rule of each field of `Path`"
    PATHS = "paths within cryoem.roots with : between them"
    PATTERN = "a pattern of paths within cryoem.roots"
    NAME = "a name without blanks and slashes"
    TEXT = "text that is kept or looked up, never opened"
    TABLE = "for other services, each of which looks at its own"
    MODEL = "a word, or a file beside the one of the settings: programs run models"
    SETTINGS = "only as the settings have it"


def checked_name(text: str) -> str:
    """The text, where it is the name of a file or a block and nothing else.

    Raises
    ------
    ValueError
        It is not.
    """
    plain = text.isprintable() and " " not in text and "/" not in text
    if not plain or not 0 < len(text) <= MOST_OF_A_NAME or text[0] in ".-":
        raise ValueError(
            f"{text[:80]!r} is no name, letters and digits without blanks and "
            "slashes were expected"
        )
    return text


Name = Annotated[str, AfterValidator(checked_name), Rule.NAME]
"""A text that becomes a part of a path or of a table."""
Text = Annotated[str, Rule.TEXT]
"""A text that is only kept, or that is one of some words."""
RelionOptions: TypeAlias = Annotated[dict[str, Any], Rule.TABLE]
"""A blob in a message for the steps after this one: each adds what it knows, by the
names of cryo-EM services, and hands it on."""


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line names a field of `Parameters`; stands in its `Annotated`.

    A name without dashes is the positional INPUT. Where the option is not given,
    `header` names the value of the input's header (`headers.Header`) that is taken.
    A field without an option is one of messages only.
    """

    name: str
    help: str = ""
    header: str | None = None

    @property
    def is_input(self) -> bool:
        """Whether it has no dashes."""
        return not self.name.startswith("-")


class StageParameters(Foreign):
    """Parameters of a stage, named as the services of cryoem-services name them.

    Messages carry the parameters of other stages too, so unknown names are passed over.
    A field that had another name before has `validation_alias=AliasChoices(...)` with
    today's name first, which wins.
    """


def names_of(kind: type[StageParameters]) -> list[set[str]]:
    """The names of each field, those of the past among them."""
    found = []
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [name]
        found.append({str(each) for each in choices})
    return found


def overlaid(
    kind: type[StageParameters], below: RawParameters, above: RawParameters
) -> RawParameters:
    """Both as one; a field that `above` has, by whichever of its names, is its own."""
    hidden: set[str] = set()
    for names in names_of(kind):
        if names & above.keys():
            hidden |= names
    return {k: v for k, v in below.items() if k not in hidden} | dict(above)


GPUS = r"^[0-9 ,:]{1,40}$"
"""Of a field with the numbers of processors for graphics, as programs write them."""
ENGINE = Option("--engine", "built in, or a program on PATH")
"""Of the field `engine`, a `Literal` whose first word is `builtin`."""
TimeLimit = Annotated[
    float, Option("--time-limit-s", "for a program on PATH"), Field(gt=0, le=2_592_000)
]
"""Of the field `time_limit_s`, beside `engine`."""


def named_engine(values: Any, family: str, *, field: str, latest: int) -> Any:
    """The values with an engine of a version: `aretomo` becomes `aretomo3`.

    Messages of cryo-EM services say the version in a field of its own, which wins;
    where they say nothing, and the engine has no number, it is `latest`.
    """
    if not isinstance(values, dict) or "engine" not in values:
        return values
    engine = str(values["engine"])
    if not engine.startswith(family):
        return values
    number = str(values.get(field) or engine.removeprefix(family) or latest)
    # What is no number is refused by the fields themselves.
    version = int(number) if number.isdigit() else number
    return {**values, "engine": f"{family}{number}", field: version}


class StageResult(Model):
    """What a stage found, as its JSON says it; paths are relative to its folder."""

    program: str = f"em-platform {version('em-platform')}"
    """Name and version of what has computed it."""


class Stage(Protocol):
    """The module of a stage."""

    Parameters: type[StageParameters]
    Result: type[StageResult]

    @staticmethod
    def run(parameters: Any, folder: Path) -> StageResult:
        """Write the files of one input into `folder`, which exists."""


def options_of(kind: type[StageParameters]) -> dict[str, tuple[Option, FieldInfo]]:
    """Field -> its option, of those fields that have one."""
    return {
        name: (each, field)
        for name, field in kind.model_fields.items()
        for each in field.metadata
        if isinstance(each, Option)
    }


Progress = Callable[[str, int, int], None]
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def progress_to(listener: Progress | None) -> Iterator[None]:
    """Let `listener` know of each step of the stages that run in this block."""
    token = _progress.set(listener)
    try:
        yield
    finally:
        _progress.reset(token)


def report_progress(step: str, done: int, total: int) -> None:
    """Say how much of a step is done; nothing happens where nobody asked for it."""
    if (listener := _progress.get()) is not None:
        listener(step, done, total)
