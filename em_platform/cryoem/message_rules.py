"""What a message may say in the fields of parameters: no program, no file elsewhere.

Whoever may publish to RabbitMQ has no more rights than that: the folders are those of
`cryoem.roots`, the programs those of the settings. Each field that can hold a path or a
name has its rule where it is declared; one without a rule is a fault of ours. Settings,
the command line and Dagster are the owner's own choice and are not bound.
"""

import glob
import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from em_platform.cryoem.stage import (
    GivenStages,
    RawParameters,
    Rule,
    StageParameters,
    names_of,
)
from em_platform.cryoem.stages import STAGES, load_stage
from em_platform.errors import MessageRejected

# Of Linux and its file systems.
_MOST_OF_A_PATH, _MOST_OF_A_PART = 4096, 255
_SHOWN = 120


@cache
def rules_of(kind: type[StageParameters]) -> Mapping[str, Rule]:
    """The rule of each field; AssertionError where one that needs it has none."""
    return {
        name: _rule(f"{kind.__module__}.{name}", field)
        for name, field in kind.model_fields.items()
    }


def _rule(name: str, field: FieldInfo) -> Rule:
    stated = [each for each in field.metadata if isinstance(each, Rule)]
    stated += [each for each in _parts(field.annotation) if isinstance(each, Rule)]
    kinds = set(_parts(field.annotation))
    if stated:
        return stated[0]
    if Path in kinds:
        return Rule.PATH
    if kinds & {str, Any, object, dict}:
        raise AssertionError(f"{name} may hold a path or a name, and has no rule")
    return Rule.PLAIN


def _parts(annotation: Any) -> Iterator[Any]:
    """The types that a type is made of; of a table its values alone."""
    if get_origin(annotation) is dict:
        yield from _parts(get_args(annotation)[1])
        return
    if not (parts := get_args(annotation)):
        yield annotation
    for part in parts:
        yield from _parts(part)


def check_message(
    given: StageParameters,
    brought: Collection[str],
    *,
    roots: Collection[Path],
    settings: RawParameters,
) -> None:
    """Refuse what a message brought and may not say.

    Parameters
    ----------
    brought
        The names of the message.
    roots
        Folders, by their real paths.
    settings
        What the settings say of these parameters.

    Raises
    ------
    MessageRejected
        The sentence names the field.
    """
    rules = rules_of(type(given))
    for (field, rule), names in zip(rules.items(), names_of(type(given)), strict=True):
        value = getattr(given, field)
        if value is None or not (names | {field}) & set(brought):
            continue
        if rule in (Rule.PATH, Rule.PATHS, Rule.PATTERN):
            for text in _paths(value, rule):
                _check_path(field, text, roots)
        elif rule is Rule.MODEL and getattr(given, "engine", "") != "builtin":
            _check_model(field, str(value), settings)
        elif rule is Rule.SETTINGS:
            _check_setting(type(given), field, value, settings)


def refuse_programs(stages: GivenStages) -> None:
    """Refuse programs and models in what a session says of its stages.

    Who may put a file into a session's folder is not the owner.

    Raises
    ------
    ValueError
        The sentence names the field.
    """
    for stage in stages.keys() & STAGES.keys():
        kind = load_stage(stage).Parameters
        for field, rule in rules_of(kind).items():
            if rule in (Rule.SETTINGS, Rule.MODEL) and field in stages[stage]:
                found = str(stages[stage][field])[:_SHOWN]
                raise ValueError(
                    f"stages.{stage}.{field} is {found!r}, which "
                    "cryoem.session.stages of the settings alone may name"
                )


def _paths(value: Any, rule: Rule) -> Iterator[str]:
    if rule is Rule.PATHS:
        yield from filter(None, str(value).split(":"))
    elif rule is Rule.PATTERN:
        # What is before its first star is checked, too: a pattern may fit nothing yet.
        fixed = Path(value)
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        # First, as who looks at each may refuse it: nothing elsewhere is searched.
        yield str(fixed)
        yield from glob.glob(value) if _is_path(value) else [value]
        # Stages take the folder by this very name, stars in it included, and a star
        # for hidden files, too.
        folder, name = Path(value).parent, Path(value).name
        yield from (str(folder), *(str(p) for p in folder.glob(name or "*")))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths(each, rule)
    elif isinstance(value, str | Path) and str(value):
        yield str(value)


def _is_path(text: str) -> bool:
    if not (text.startswith("/") and text.isprintable()) or len(text) > _MOST_OF_A_PATH:
        return False
    parts = Path(text).parts
    return ".." not in parts and all(len(p.encode()) <= _MOST_OF_A_PART for p in parts)


def _check_path(field: str, text: str, roots: Collection[Path]) -> None:
    if _is_path(text):
        from em_platform.cryoem.project.jobs import JOB  # with gemmi, at first use

        job = JOB.fullmatch(text)
        # Beside a job we make others, in the same project.
        places = (text, job["project"]) if job else (text,)
        if all(_is_within(each, roots) for each in places):
            if os.path.exists(text) and not (
                os.path.isfile(text) or os.path.isdir(text)
            ):
                raise MessageRejected(
                    f"message: {field} is {text[:_SHOWN]!r}, a pipe or a device, a "
                    "file was expected; correct the message"
                )
            return
    raise MessageRejected(
        f"message: {field} is {text[:_SHOWN]!r}, which does not lie in the folders of "
        "cryoem.roots, a whole path in one of them was expected, and that of a job's "
        "project; correct the message, or add its folder to this setting"
    )


def _is_within(path: str, roots: Collection[Path]) -> bool:
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(root) for root in roots)


def _check_model(field: str, text: str, settings: RawParameters) -> None:
    known = settings.get(field)
    is_word = text.isprintable() and text.replace("-", "").replace("_", "").isalnum()
    if is_word and not text.startswith("-"):
        return  # of the program's own models
    if known and _is_path(text) and "/" in str(known):
        there, own = (Path(os.path.realpath(each)).parent for each in (text, known))
        if there == own:
            return
    raise MessageRejected(
        f"message: {field} is {text[:_SHOWN]!r}, a model beside the one that "
        "cryoem.session.stages names was expected, as a model can run a program; name "
        "one there"
    )


def _check_setting(
    kind: type[StageParameters], field: str, value: Any, settings: RawParameters
) -> None:
    if value != settings.get(field, kind.model_fields[field].default):
        raise MessageRejected(
            f"message: {field} is {str(value)[:_SHOWN]!r}, nothing was expected, as "
            "the settings alone choose programs and where they write; leave it out, or "
            "set it in cryoem.session.stages"
        )
