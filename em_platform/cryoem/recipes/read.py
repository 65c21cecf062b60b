"""A recipe by its name or file, and with its parameters.

The format is that of python-workflows, whose own class reads it:
https://github.com/DiamondLightSource/python-workflows, `workflows/recipe`.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import workflows
from workflows.recipe import Recipe

from em_platform.errors import ConfigError, FormatError, RecordError
from em_platform.model import JsonObject

_OWN = Path(__file__).parent
# Of the same folder, but facts about services.
_OTHERS = {"services"}
_NAMED = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_STRUCTURE = re.compile(r"\{\$REPLACE:([A-Za-z_][\w.-]*)\}")
_PLACEHOLDER = re.compile(r"\{(?:\$REPLACE:)?([A-Za-z_][\w.-]*)\}")
# No file elsewhere, and none that is hidden.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,99}")
_SHOWN = 100
# A recipe goes with each message of a run.
_MOST_LETTERS = 4_000_000
_MOST_WAYS = 10_000


class RecipeStep(TypedDict, total=False):
    """A step, as far as services read it; each may be missing."""

    service: str
    queue: str
    topic: str
    parameters: JsonObject
    job_parameters: JsonObject
    """Of a step that goes to a cluster."""
    output: int | list[int] | dict[str, int | list[int]]
    """The steps after it, by channel if there are several."""


RecipeContent: TypeAlias = dict[int | str, Any]
"""Number -> step, and `start`: number and payload of each step that begins."""
Fillings: TypeAlias = Mapping[str, Any]
"""Name in braces -> what stands there in the recipe of a run."""


def recipe_names(folder: str = "") -> list[str]:
    """The names of all recipes: those of the site's folder, then ours."""
    places = [Path(folder)] if folder else []
    found = {path.stem for place in (*places, _OWN) for path in place.glob("*.json")}
    return sorted(found - _OTHERS)


def read_recipe_file(path: str, folder: str = "") -> RecipeContent:
    """The recipe of that file, or of that name; as `read_recipe`."""
    if path.endswith(".json"):
        return _read(Path(path), path)
    return read_recipe(path, folder)


def read_recipe(name: str, folder: str = "") -> RecipeContent:
    """The recipe of that name, which may come from a message; the site's before ours.

    Its steps are numbers, as `workflows` makes them.

    Raises
    ------
    ConfigError
        There is none.
    FormatError
        It is no JSON.
    RecordError
        It is no recipe: no start, a circle, a step that is missing or never reached.
    """
    return _read(_path_of(name, folder), name)


def _read(path: Path, name: str) -> RecipeContent:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("an object was expected")
    except (OSError, ValueError) as error:
        raise FormatError(
            f"recipe: {path} cannot be read ({error}), steps as JSON were expected; "
            "correct the file"
        ) from error
    return checked(content, name)


def checked(content: JsonObject, name: str) -> RecipeContent:
    """The content as a valid recipe.

    Raises
    ------
    RecordError
        It is none.
    """
    try:
        made = Recipe(dict(content))
        _check_ways(made.recipe)
        made.validate()
        for number, step in steps_of(made.recipe):
            _check_step(number, step, steps=made.recipe)
    except (workflows.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        # It says `Invalid recipe: ...`, or is python's own for a step that is no table.
        wrong = str(error).removeprefix("Invalid recipe: ")
        raise RecordError(
            f"recipe {name}: {wrong}; steps that follow from `start` without a circle "
            "were expected; correct it"
        ) from error
    recipe: RecipeContent = made.recipe
    return recipe


def _check_ways(steps: RecipeContent) -> None:
    """ValueError where there are very many ways through the steps.

    workflows goes each of them: for ever where 30 pairs of steps follow each other.
    """
    ways: list[tuple[Any, frozenset[Any]]] = [
        (to, frozenset()) for to, _ in steps.get("start", ())
    ]
    for _ in range(_MOST_WAYS):
        if not ways:
            return
        here, passed = ways.pop()
        step: Any = steps.get(here)
        if here in passed or not isinstance(step, dict):
            continue  # what is wrong with it comes next
        after = links_of(step) + links_of({"output": step.get("error")})  # type: ignore[arg-type,typeddict-item]
        ways += [(to, passed | {here}) for _, to in after[:_MOST_WAYS]]
    raise ValueError(f"there are more than {_MOST_WAYS} ways through its steps")


def _check_step(number: int, step: Any, *, steps: RecipeContent) -> None:
    """ValueError where a step is not what services read, which workflows leaves."""
    if not isinstance(step, dict):
        raise ValueError(f"step {number} is a {type(step).__name__}")
    for name, kind in (("parameters", dict), ("service", str), ("queue", str)):
        if not isinstance(step.get(name) or kind(), kind):
            found = type(step[name]).__name__
            raise ValueError(f"{name} of step {number} is a {found}")
    for channel, to in links_of(steps[number]):
        if not isinstance(channel, str) or to not in steps:
            raise ValueError(f"step {number} leads to {str(to)[:50]!r}")


def _path_of(name: str, folder: str) -> Path:
    if _NAME.fullmatch(name) and name not in _OTHERS:
        for place in (*([Path(folder)] if folder else []), _OWN):
            if (path := place / f"{name}.json").is_file():
                return path
    raise ConfigError(
        f"recipe: there is no {name[:_SHOWN]!r}, one of "
        f"{', '.join(recipe_names(folder))} or a .json file was expected; correct the "
        "name or set cryoem.recipe_folder"
    )


def placeholders_of(value: Any) -> set[str]:
    """The names in braces that stand anywhere in a recipe, or in a part of it."""
    return {name for text in _texts(value) for name in _PLACEHOLDER.findall(text)}


def is_placeholder(value: Any) -> bool:
    """Whether a value is nothing but a name in braces, which nobody filled in."""
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


def filled(recipe: RecipeContent, parameters: Fillings) -> RecipeContent:
    """The recipe with its parameters; names that are not among them stay in braces.

    Raises
    ------
    RecordError
        The queue of a step is not known then: no message could reach it. Or the recipe
        would be too long.
    """
    result: RecipeContent = _Filling(parameters).of(dict(recipe))
    for number, step in steps_of(result):
        place = step.get("queue") or step.get("topic")
        if names := placeholders_of(place):
            raise RecordError(
                f"recipe: step {number} ({step.get('service', '?')}) goes to "
                f"{str(place)[:_SHOWN]}, but there is no parameter "
                f"{', '.join(sorted(names))}; add it"
            )
    return result


class _Filling:
    """Puts values where their names stand in braces, and nothing else.

    workflows' own way is Python's format: `{a:>600000000}` has a length, `{a.b}` and
    `{a[0]}` look into values.
    """

    def __init__(self, parameters: Fillings) -> None:
        self._parameters = parameters
        self._letters = 0

    def of(self, item: Any) -> Any:
        """The item with all that is in it."""
        if isinstance(item, str):
            return self._text(item)
        if isinstance(item, Mapping):
            return {self._key(key): self.of(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return type(item)(self.of(each) for each in item)
        return item

    def _key(self, key: Any) -> Any:
        return self._replaced(key) if isinstance(key, str) else key

    def _text(self, text: str) -> Any:
        if whole := _STRUCTURE.fullmatch(text):
            value = self._parameters.get(whole[1])
            self._count(json.dumps(value, default=str))
            return copy.deepcopy(value)
        return self._replaced(text)

    def _replaced(self, text: str) -> str:
        return self._count(_NAMED.sub(self._value, text))

    def _value(self, found: re.Match[str]) -> str:
        # A name in braces may stand in a text very often.
        value = str(self._parameters.get(found[1], found[0]))
        return self._count(value)

    def _count(self, text: str) -> str:
        self._letters += len(text)
        if self._letters > _MOST_LETTERS:
            raise RecordError(
                f"recipe: found more than {_MOST_LETTERS} letters with its parameters, "
                "fewer were expected; shorten them"
            )
        return text


def steps_of(recipe: RecipeContent) -> Iterator[tuple[int, RecipeStep]]:
    """The number and content of each step, in order."""
    for number in sorted(key for key in recipe if isinstance(key, int)):
        yield number, recipe[number]


def links_of(step: RecipeStep) -> list[tuple[str, int]]:
    """Channel and target of each output of a step; unnamed ones have the channel ''."""

    def flat(value: Any) -> list[int]:
        return list(value) if isinstance(value, list | tuple) else [value]

    output = step.get("output")
    if isinstance(output, dict):
        return [(name, to) for name, each in output.items() for to in flat(each)]
    return [] if output is None else [("", to) for to in flat(output)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key)
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
