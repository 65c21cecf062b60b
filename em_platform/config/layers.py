"""Read one layer of settings: YAML, `.env`, environment, or command line.

A layer is a flat table: the path of a setting -> its value, not yet checked. A key
that no setting has is an error here, so that its sentence can name the layer.
"""

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from em_platform.config import fields
from em_platform.config.fields import FIELDS, PREFIX
from em_platform.config.reading import parse_yaml, read_regular
from em_platform.config.settings import ALIASES, OTHER_NAMES
from em_platform.errors import ConfigError
from em_platform.model.sentences import nearest

Layer = dict[fields.KeyPath, Any]

SET_BY_COMMAND_LINE = "EM_COMMAND_LINE"
"""Names those EM_ variables that `em-platform --set` wrote for itself and children."""

_REFERENCE = re.compile(
    r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}"
)


def read_yaml(path: Path, environment: Mapping[str, str]) -> Layer:
    """Settings of a YAML file, `${VAR:default}` replaced from `environment`."""
    who = f"YAML {path}"
    return of_tree(load_yaml(path, who), who, environment)


def load_yaml(path: Path, who: str) -> dict[str, Any]:
    """The sections of a YAML file, not yet looked at; `who` reads, for the errors."""
    try:
        loaded = parse_yaml(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{who}: cannot be read ({error.strerror}); name an existing file"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{who}: not valid YAML ({error}); correct it") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{who}: found a {type(loaded).__name__}, expected sections; "
            "start it with a section such as 'storage:'"
        )
    return loaded


def of_tree(tree: Mapping[str, Any], who: str, environment: Mapping[str, str]) -> Layer:
    """Settings of nested sections, `${VAR:default}` replaced from `environment`."""
    layer: Layer = {}
    _flatten(dict(tree), (), layer, who, environment)
    return layer


def read_env_file(path: Path | None) -> dict[str, str]:
    """The variables of `path`, or of `.env` where it exists."""
    if path is not None and not path.is_file():
        raise ConfigError(
            f".env: no file {path}; name an existing file or leave it out"
        )
    path = path or Path(".env")
    if not path.exists():
        return {}
    try:
        # As a text: dotenv waits for who writes into a pipe.
        text = read_regular(path).decode("utf-8")
        if "\0" in text:  # no variable of the environment can have it
            raise ValueError("it has the character NUL")
        found = dotenv_values(stream=io.StringIO(text))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f".env: {path} cannot be read ({error}); correct or remove it"
        ) from error
    return {name: value for name, value in found.items() if value is not None}


def of_variables(values: Mapping[str, str], layer_name: str) -> Layer:
    """Settings among environment variables: `EM_SECTION__FIELD` and the aliases."""
    layer: Layer = {}
    for name, text in sorted(values.items()):
        # An alias sorts apart from our own name, which wins where both are set.
        path = ALIASES.get(name) or _path_of(name)
        if path is None:
            continue
        if path not in FIELDS:
            raise ConfigError(_unknown_variable(name, path, layer_name))
        if name not in ALIASES or path not in layer:
            layer[path] = _parse(text, path)
    return layer


def of_overrides(overrides: Mapping[str, str], layer_name: str) -> Layer:
    """Settings given as `section.field` -> text."""
    layer: Layer = {}
    for dotted, text in overrides.items():
        path = tuple(dotted.split("."))
        if path not in FIELDS:
            raise ConfigError(_unknown(path, layer_name))
        layer[path] = _parse(text, path)
    return layer


def export(overrides: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that give a child process these overrides."""
    of_overrides(overrides, "command line")
    # Marked, so that `config` in a child still says that the command line set them.
    names = {FIELDS[tuple(d.split("."))].environment_name: d for d in overrides}
    before = os.environ.get(SET_BY_COMMAND_LINE, "").split()
    variables = {name: overrides[dotted] for name, dotted in names.items()}
    return {**variables, SET_BY_COMMAND_LINE: " ".join([*before, *names])}


def _path_of(name: str) -> fields.KeyPath | None:
    if not name.startswith(PREFIX) or name in OTHER_NAMES:
        return None
    return tuple(name.removeprefix(PREFIX).lower().split("__"))


def _flatten(
    value: object,
    path: fields.KeyPath,
    layer: Layer,
    who: str,
    environment: Mapping[str, str],
) -> None:
    if path in FIELDS:
        layer[path] = _substitute(value, environment, who, path)
        return
    model = fields.section(path)
    if model is None:
        raise ConfigError(_unknown(path, who))
    if isinstance(value, dict):
        for key, below in value.items():
            _flatten(below, (*path, str(key)), layer, who, environment)
    # A section with nothing below it changes nothing.
    elif value is not None:
        raise ConfigError(
            f"{who}: section {'.'.join(path)} is {value!r}, expected settings "
            f"({', '.join(model.model_fields)}); write them below it"
        )


def _substitute(
    value: object, environment: Mapping[str, str], who: str, path: fields.KeyPath
) -> object:
    if isinstance(value, list):
        return [_substitute(item, environment, who, path) for item in value]
    if not isinstance(value, str) or not _REFERENCE.search(value):
        return value

    def found(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if name in environment:
            return environment[name]
        if default is None:
            raise ConfigError(
                f"{who}: {'.'.join(path)}: ${{{name}}} has no value and no default; "
                f"set {name} or write ${{{name}:default}}"
            )
        return default

    # Read after it is replaced: `${N:4}` is a number where one is wanted.
    return _parse(_REFERENCE.sub(found, value), path)


def _parse(text: str, path: fields.KeyPath) -> object:
    """The text itself for a text setting, else what YAML reads in it."""
    # Of an empty text YAML would make null, which takes a setting away.
    if FIELDS[path].is_text or not text.strip():
        return text
    try:
        return parse_yaml(text)
    except ValueError:
        return text  # the check of the value says better what is wrong


def _unknown(path: fields.KeyPath, who: str) -> str:
    dotted = ".".join(path)
    groups = {".".join(p[:end]) for p in FIELDS for end in range(1, len(p) + 1)}
    return (
        f"{who}: unknown setting {dotted}{nearest(dotted, sorted(groups))}; "
        "'em-platform config' lists those that exist"
    )


def _unknown_variable(name: str, path: fields.KeyPath, who: str) -> str:
    known = [*(field.environment_name for field in FIELDS.values()), *ALIASES]
    return (
        f"{who}: {name} is an unknown setting {'.'.join(path)}"
        f"{nearest(name, known)}; 'em-platform config' lists those that exist"
    )
